//! The `PostgreSQL` participant against a real server: votes, decisions, doubts, fences.

use std::collections::BTreeMap;
use std::time::Duration;

use presume::participants::postgres::{Options, Postgres};
use presume::participants::{Ack, ClaimError, Inquiry, OperationSql, Participant};
use presume::txn::{BranchIndex, Declined, Epoch, Gid, LogId, Operation, PhysicalId, Vote};
use serde_json::json;
use uuid::Uuid;

use crate::postgres_server::PostgresServer;

pub fn log() -> LogId {
    LogId(Uuid::from_u128(7))
}

pub fn gid(physical: u64) -> Gid {
    Gid { log: log(), epoch: Epoch(1), physical: PhysicalId(physical), branch: BranchIndex(0) }
}

fn operations() -> BTreeMap<presume::txn::OperationName, OperationSql> {
    let one = |name: &str, sql: &str, expect_rows| {
        (name.parse().unwrap(), OperationSql { sql: sql.to_owned(), expect_rows })
    };
    BTreeMap::from([
        one(
            "debit",
            "UPDATE accounts SET balance = balance - $amount \
             WHERE id = $account AND balance >= $amount",
            Some(1),
        ),
        one(
            "credit",
            "UPDATE accounts SET balance = balance + $amount WHERE id = $account",
            Some(1),
        ),
        one("open", "INSERT INTO accounts (id, balance) VALUES ($account, $amount)", None),
        one("look", "SELECT balance FROM accounts WHERE id = $account", Some(1)),
        one("note", "UPDATE accounts SET note = $note WHERE id = $account", None),
    ])
}

pub fn operation(name: &str, params: serde_json::Value) -> Operation {
    Operation {
        participant: "bank".parse().unwrap(),
        operation: name.parse().unwrap(),
        params: serde_json::from_value(params).unwrap(),
    }
}

pub fn debit(account: &str, amount: i64) -> Operation {
    operation("debit", json!({"account": account, "amount": amount}))
}

pub fn credit(account: &str, amount: i64) -> Operation {
    operation("credit", json!({"account": account, "amount": amount}))
}

pub struct Bank {
    pub server: PostgresServer,
    pub postgres: Postgres,
}

impl Bank {
    /// Accounts `a` and `b` with 100 each, claimed at epoch 1; `None` without a server.
    pub async fn open() -> Option<Self> {
        let server = PostgresServer::start(8, &["bank"])?;
        server.sql(
            "bank",
            "CREATE TABLE accounts (id text PRIMARY KEY, \
             balance bigint NOT NULL CHECK (balance < 1000000), note jsonb); \
             INSERT INTO accounts VALUES ('a', 100), ('b', 100)",
        );
        let postgres = Self::client(&server, |_| {});
        postgres.init().await.unwrap();
        postgres.claim_epoch(log(), Epoch(1)).await.unwrap();
        Some(Self { server, postgres })
    }

    pub fn client(server: &PostgresServer, change: impl FnOnce(&mut Options)) -> Postgres {
        let mut options = Options::new(server.url("bank"), operations());
        options.connect_timeout = Duration::from_secs(3);
        options.listening_horizon = Duration::from_secs(2);
        change(&mut options);
        Postgres::new(options).unwrap()
    }

    pub async fn prepare(&self, physical: u64, operations: &[Operation]) -> Vote {
        self.postgres.prepare(gid(physical), operations).await
    }

    pub fn balance(&self, account: &str) -> i64 {
        let sql = format!("SELECT balance FROM accounts WHERE id = '{account}'");
        self.server.sql("bank", &sql).parse().unwrap()
    }

    fn markers(&self) -> String {
        let sql = "SELECT coalesce(string_agg(physical || ' ' || committed, ', ' ORDER BY physical), '') \
                   FROM presume.marker";
        self.server.sql("bank", sql)
    }

    pub async fn assert_nothing_prepared(&self) {
        assert_eq!(self.postgres.list_prepared().await.unwrap().branches, []);
    }
}

pub fn code(vote: &Vote) -> String {
    match vote {
        Vote::Yes => "yes".to_owned(),
        Vote::ReadOnly => "read-only".to_owned(),
        Vote::No(Declined::Business { code, .. }) => format!("business {code}"),
        Vote::No(Declined::Technical { code, .. }) => format!("technical {code}"),
        Vote::Unknown(detail) => format!("unknown {detail}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_decisions_and_repeated_calls() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 30), credit("b", 30)]).await, Vote::Yes);
    assert_eq!((bank.balance("a"), bank.markers().as_str()), (100, ""));
    assert_eq!(bank.postgres.list_prepared().await.unwrap().branches, [gid(1)]);
    for _ in 0..2 {
        assert_eq!(bank.postgres.commit(gid(1)).await, Ack::Done);
    }
    assert_eq!((bank.balance("a"), bank.balance("b")), (70, 130));
    assert!(matches!(bank.postgres.abort(gid(1)).await, Ack::Heuristic(_)));

    assert_eq!(bank.prepare(2, &[debit("a", 30)]).await, Vote::Yes);
    for _ in 0..2 {
        assert_eq!(bank.postgres.abort(gid(2)).await, Ack::Done);
    }
    assert!(matches!(bank.postgres.commit(gid(2)).await, Ack::Heuristic(_)));
    assert_eq!(bank.balance("a"), 70);

    // A commit of what the server never heard of is no success.
    let Ack::Heuristic(why) = bank.postgres.commit(gid(3)).await else { panic!() };
    assert!(why.contains("neither"), "{why}");
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_says_whose_rule_it_was_and_leaves_nothing_behind() {
    let Some(bank) = Bank::open().await else { return };
    let open = |account| operation("open", json!({"account": account, "amount": 1}));
    let look = || operation("look", json!({"account": "a"}));
    let note = operation("note", json!({"account": "a", "note": {"x": [1, null]}}));
    for (number, operations, expected) in [
        (1, vec![debit("a", 101)], "business debit"),
        (2, vec![debit("nobody", 1)], "business debit"),
        (3, vec![credit("a", 2_000_000)], "business check_violation"),
        (4, vec![credit("b", 1), open("a")], "business unique_violation"),
        (5, vec![credit("a", i64::MAX)], "business bad_value"),
        (6, vec![look()], "read-only"),
        (7, vec![look(), credit("a", 1)], "yes"),
        (8, vec![note], "technical lock_timeout"),
        (9, vec![operation("credit", json!({"account": "a"}))], "business bad_parameter"),
    ] {
        assert_eq!(code(&bank.prepare(number, &operations).await), expected, "{number}");
        if number == 7 {
            continue;
        }
        let left = bank.postgres.list_prepared().await.unwrap().branches;
        assert!(!left.contains(&gid(number)), "{number}");
    }
    assert_eq!(bank.postgres.commit(gid(7)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (101, 100));
    bank.assert_nothing_prepared().await;
    // Every session is as it was: nothing is left in a failed transaction.
    let idle = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name LIKE 'presume:%' AND state <> 'idle'";
    assert_eq!(bank.server.sql("bank", idle), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first() {
    let Some(bank) = Bank::open().await else { return };
    let commit = |n: u64, operation: Operation| {
        let postgres = bank.postgres.clone();
        async move { postgres.commit_one_phase(gid(n), &[operation]).await }
    };
    assert_eq!(commit(1, debit("a", 10)).await, Vote::Yes);
    assert_eq!(code(&commit(2, debit("a", 1_000)).await), "business debit");
    let look = operation("look", json!({"account": "a"}));
    assert_eq!(commit(3, look).await, Vote::ReadOnly);
    assert_eq!(bank.postgres.inquire(gid(1)).await, Inquiry::Committed);
    assert_eq!(bank.postgres.inquire(gid(2)).await, Inquiry::Aborted);
    // The inquiry of 4 comes before its commit, which then cannot be.
    assert_eq!(bank.postgres.inquire(gid(4)).await, Inquiry::Aborted);
    assert_eq!(code(&commit(4, debit("a", 10)).await), "technical aborted_before");
    assert_eq!(bank.postgres.inquire(gid(4)).await, Inquiry::Aborted);
    assert_eq!(bank.balance("a"), 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_before_its_prepare_refuses_the_prepare() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.postgres.abort(gid(1)).await, Ack::Done);
    assert_eq!(code(&bank.prepare(1, &[debit("a", 1)]).await), "technical aborted_before");
    assert_eq!(bank.balance("a"), 100);
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_epoch_fences_the_sessions_and_branches_of_an_older_one() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 1)]).await, Vote::Yes);
    let next = Bank::client(&bank.server, |_| {});
    let identity = next.claim_epoch(log(), Epoch(2)).await.unwrap();
    assert!(identity.starts_with("postgres:"), "{identity}");
    // Its first call may meet a session that has just been ended; none gets through.
    for physical in 2..6 {
        let vote = code(&bank.prepare(physical, &[debit("b", 1)]).await);
        let refused = ["technical fenced", "technical participant_unavailable"];
        assert!(refused.contains(&vote.as_str()) || vote.starts_with("unknown"), "{vote}");
    }
    // Nor does it commit or roll back what it had prepared: that is the newer one's.
    for _ in 0..3 {
        assert!(matches!(bank.postgres.commit(gid(1)).await, Ack::Unknown(_)));
        assert!(matches!(bank.postgres.abort(gid(1)).await, Ack::Unknown(_)));
    }
    assert_eq!(next.list_prepared().await.unwrap().branches, [gid(1)]);
    assert_eq!(next.abort(gid(1)).await, Ack::Done);
    let stale = bank.postgres.claim_epoch(log(), Epoch(1)).await;
    let expected = ClaimError::Stale { participant: identity.clone(), known: 2, claimed: 1 };
    assert_eq!(stale, Err(expected));
    // The same epoch again is another process's, unless it is the one that has it.
    assert!(next.claim_epoch(log(), Epoch(2)).await.is_ok());
    let copy = Bank::client(&bank.server, |_| {});
    assert!(matches!(copy.claim_epoch(log(), Epoch(2)).await, Err(ClaimError::Stale { .. })));
    // Another log is nobody's rival.
    let other = Bank::client(&bank.server, |_| {});
    assert_eq!(other.claim_epoch(LogId(Uuid::from_u128(8)), Epoch(1)).await, Ok(identity));
    assert_eq!(bank.balance("a"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_lacks_is_said_with_the_statement_that_mends_it() {
    let Some(mut server) = PostgresServer::start(0, &["bank"]) else { return };
    let postgres = Bank::client(&server, |_| {});
    let unfit = |claim: Result<String, ClaimError>| claim.unwrap_err().to_string();
    let error = unfit(postgres.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("ALTER SYSTEM SET max_prepared_transactions"), "{error}");
    server.restart_with("max_prepared_transactions=4");
    let error = unfit(postgres.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("presume participants init"), "{error}");
    for _ in 0..2 {
        postgres.init().await.unwrap();
    }
    let error = unfit(postgres.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("operation credit") && error.contains("42P01"), "{error}");
    let findings = postgres.check().await.unwrap();
    assert!(findings.iter().any(|f| !f.ok && f.what == "operation"), "{findings:?}");
    server.sql("bank", "CREATE TABLE accounts (id text, balance bigint, note jsonb)");
    server.restart_with("fsync=off");
    let error = unfit(postgres.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("ALTER SYSTEM SET fsync = on"), "{error}");
    let allowed = Bank::client(&server, |options| options.allow_unsafe = vec!["fsync".into()]);
    allowed.claim_epoch(log(), Epoch(1)).await.unwrap();
    assert!(allowed.check().await.unwrap().iter().all(|finding| finding.ok));
    server.stop();
    let error = unfit(postgres.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("cannot be reached"), "{error}");
    let wrong = Bank::client(&server, |o| o.url = "postgres://u:secret@127.0.0.1:1/x".into());
    let error = unfit(wrong.claim_epoch(log(), Epoch(1)).await);
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_keeps_what_is_prepared_and_the_session_after_it_works() {
    let Some(mut bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 10)]).await, Vote::Yes);
    assert_eq!(bank.prepare(2, &[debit("b", 10)]).await, Vote::Yes);
    bank.server.stop();
    assert!(matches!(bank.postgres.commit(gid(1)).await, Ack::Unknown(_)));
    let vote = code(&bank.prepare(3, &[credit("b", 10)]).await);
    assert_eq!(vote, "technical participant_unavailable");
    bank.server.run();
    assert_eq!(bank.postgres.commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.postgres.abort(gid(2)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (90, 100));
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_leaves_no_session_in_a_transaction() {
    let Some(bank) = Bank::open().await else { return };
    for physical in 1..40 {
        let operations = [debit("a", 1)];
        let call = bank.prepare(physical, &operations);
        let _given_up = tokio::time::timeout(Duration::from_micros(300), call).await;
        while bank.postgres.abort(gid(physical)).await != Ack::Done {}
    }
    bank.assert_nothing_prepared().await;
    assert_eq!(bank.balance("a"), 100);
    assert_eq!(bank.prepare(100, &[debit("a", 1)]).await, Vote::Yes);
    assert_eq!(bank.postgres.commit(gid(100)).await, Ack::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_slots_decline_and_a_foreign_branch_is_listed_and_left_alone() {
    let Some(bank) = Bank::open().await else { return };
    let foreign = "BEGIN; INSERT INTO accounts VALUES ('f', 1); PREPARE TRANSACTION 'somebody'";
    bank.server.sql("bank", foreign);
    assert_eq!(bank.postgres.list_prepared().await.unwrap().others, ["somebody"]);
    let open = |n: u64| operation("open", json!({"account": format!("n{n}"), "amount": 1}));
    // Eight slots, two in reserve, one of these taken by somebody.
    for physical in 1..=6 {
        assert_eq!(bank.prepare(physical, &[open(physical)]).await, Vote::Yes, "{physical}");
    }
    let vote = code(&bank.prepare(7, &[open(7)]).await);
    assert_eq!(vote, "technical prepared_slots_exhausted");
    // One that is aborted while it waits for its slot does not keep it.
    let waits = [open(8)];
    let (vote, ()) = tokio::join!(bank.prepare(8, &waits), async {
        assert_eq!(bank.postgres.abort(gid(8)).await, Ack::Done);
        assert_eq!(bank.postgres.commit(gid(1)).await, Ack::Done);
    });
    assert_eq!(code(&vote), "technical aborted_before");
    assert_eq!(bank.prepare(9, &[open(9)]).await, Vote::Yes);
    for physical in [2, 3, 4, 5, 6, 9] {
        assert_eq!(bank.postgres.commit(gid(physical)).await, Ack::Done);
    }
    assert_eq!(bank.prepare(10, &[open(10)]).await, Vote::Yes);
    assert_eq!(bank.postgres.commit(gid(10)).await, Ack::Done);
    assert_eq!(bank.postgres.list_prepared().await.unwrap().others, ["somebody"]);
}
