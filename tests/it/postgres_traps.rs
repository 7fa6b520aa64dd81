//! What prepared transactions of `PostgreSQL` have of traps, each met on a real server.

use std::time::Duration;

use presume::participants::postgres::Postgres;
use presume::participants::{Ack, Participant};
use presume::txn::{Epoch, Vote};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::branches::{code, credit, debit, gid, gid_of, log, operation};
use crate::contract::AnyBank;
use crate::pair::eventually;
use crate::postgres::Bank;
use crate::postgres_server::PostgresServer;
use crate::proxy::{Outage, Proxy};

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_in_a_failed_transaction_answers_without_an_error_and_is_never_a_yes() {
    let Some(bank) = Bank::open().await else { return };
    let raw = connect(&bank.server.url("bank")).await;
    raw.batch_execute("BEGIN").await.unwrap();
    raw.batch_execute("SELECT 1 / 0").await.unwrap_err();
    // The trap: no error, and nothing is prepared.
    let answer = raw.simple_query("PREPARE TRANSACTION 'trap'").await.unwrap();
    assert!(matches!(answer.last(), Some(SimpleQueryMessage::CommandComplete(_))));
    assert_eq!(bank.server.sql("bank", "SELECT count(*) FROM pg_prepared_xacts"), "0");

    // Whatever fails, and wherever it stands: first, between, last.
    let breaks = || credit("b", 2_000_000);
    for (physical, operations) in [
        (1, vec![breaks(), debit("a", 1)]),
        (2, vec![debit("a", 1), breaks(), credit("b", 1)]),
        (3, vec![debit("a", 1), breaks()]),
    ] {
        let vote = bank.prepare(physical, &operations).await;
        assert_eq!(code(&vote), "business check_violation", "{physical}");
    }
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_client_died_while_it_waited_for_a_lock_is_not_prepared_later() {
    let Some(bank) = Bank::open().await else { return };
    let proxy = Proxy::before(bank.server.port()).await;
    let own = format!(":{}/", bank.server.port());
    let url = bank.server.url("bank").replace(&own, &format!(":{}/", proxy.port()));
    let through = Bank::client(&bank.server, |options| {
        options.url = url;
        options.listening_horizon = Duration::from_mins(1);
    });
    through.claim_epoch(log(), Epoch(2)).await.unwrap();
    let holder = connect(&bank.server.url("bank")).await;
    holder.batch_execute("BEGIN; UPDATE accounts SET balance = 1 WHERE id = 'a'").await.unwrap();

    let late = gid_of(2, 1);
    let waiting = {
        let through = through.clone();
        tokio::spawn(async move { through.prepare(late, &[debit("a", 1)]).await })
    };
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    eventually("the branch waits", || bank.server.sql("bank", waits) == "1").await;
    proxy.cut(Outage::UntilHealed);
    let vote = waiting.await.unwrap();
    assert!(matches!(vote, Vote::Unknown(_)), "{vote:?}");
    // The server looks for its client while it waits; without that it would go on once the lock
    // is free, and leave what nobody ends.
    eventually("the session ends", || bank.server.sql("bank", waits) == "0").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    proxy.heal();
    assert_eq!(through.abort(late).await, Ack::Done);
    assert_eq!(through.list_prepared().await.unwrap().branches, []);
    assert_eq!(bank.balance("a"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_belongs_to_its_database_and_its_id_to_the_whole_server() {
    let Some(server) = PostgresServer::start(8, &["bank", "other"]) else { return };
    for database in ["bank", "other"] {
        server.sql(
            database,
            "CREATE TABLE accounts (id text PRIMARY KEY, balance bigint NOT NULL, note jsonb); \
             INSERT INTO accounts VALUES ('a', 100)",
        );
        server.sql(database, Postgres::init_statements());
    }
    let bank = Bank::client(&server, |_| {});
    let url = server.url("other");
    let other = Bank::client(&server, |options| options.url = url);
    for participant in [&bank, &other] {
        participant.claim_epoch(log(), Epoch(1)).await.unwrap();
    }
    assert_eq!(bank.prepare(gid(1), &[debit("a", 1)]).await, Vote::Yes);
    // Of another database: neither its to list, nor its id to have again, nor its to end.
    assert_eq!(other.list_prepared().await.unwrap().branches, []);
    let vote = other.prepare(gid(1), &[debit("a", 1)]).await;
    assert_eq!(code(&vote), "technical sqlstate_42710");
    assert!(!matches!(other.commit(gid(1)).await, Ack::Done));
    assert_eq!(bank.list_prepared().await.unwrap().branches, [gid(1)]);
    assert_eq!(bank.commit(gid(1)).await, Ack::Done);
    let balance = |database: &str| server.sql(database, "SELECT balance FROM accounts");
    assert_eq!((balance("bank").as_str(), balance("other").as_str()), ("99", "100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_prepared_is_a_no_and_leaves_its_session_clean() {
    let Some(bank) = Bank::open().await else { return };
    bank.server.sql(
        "bank",
        "CREATE FUNCTION listens(t text) RETURNS boolean LANGUAGE plpgsql AS \
         $$BEGIN EXECUTE 'NOTIFY presume_test'; RETURN true; END$$",
    );
    let sql = "UPDATE accounts SET balance = balance - 1 WHERE id = $account AND listens(id)";
    let notify = presume::participants::OperationSql::new(sql, Some(1));
    let with_notify = Bank::client(&bank.server, |options| {
        options.operations.insert("notify".parse().unwrap(), notify);
    });
    with_notify.claim_epoch(log(), Epoch(1)).await.unwrap_err();
    with_notify.claim_epoch(log(), Epoch(2)).await.unwrap();
    for physical in 1..10 {
        let operation = operation("notify", serde_json::json!({"account": "a"}));
        let vote = with_notify.prepare(gid_of(2, physical), &[operation]).await;
        assert_eq!(code(&vote), "technical not_preparable", "{physical}");
    }
    assert_eq!(with_notify.prepare(gid_of(2, 20), &[debit("a", 1)]).await, Vote::Yes);
    assert_eq!(with_notify.commit(gid_of(2, 20)).await, Ack::Done);
    assert_eq!(bank.balance("a"), 99);
}
