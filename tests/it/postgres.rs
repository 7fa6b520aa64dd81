//! The `PostgreSQL` participant against a real server: votes, decisions, doubts, fences.

use std::time::Duration;

use presume::participants::postgres::{Options, Postgres};
use presume::participants::{Ack, ClaimError, EndedBelow, Participant};
use presume::txn::{Epoch, LogId, PhysicalId, Vote};
use serde_json::json;
use uuid::Uuid;

use crate::branches::{code, credit, debit, gid, log, operation};
use crate::contract::{self, AnyBank};
use crate::postgres_server::PostgresServer;

pub struct Bank {
    pub server: PostgresServer,
    pub postgres: Postgres,
}

impl Bank {
    /// Accounts `a` and `b` with 100 each, claimed at epoch 1; `None` without a server.
    pub async fn open() -> Option<Self> {
        Self::open_with(|_| {}).await
    }

    pub async fn open_with(change: impl FnOnce(&mut Options)) -> Option<Self> {
        let server = PostgresServer::start(8, &["bank"])?;
        server.sql(
            "bank",
            "CREATE TABLE accounts (id text PRIMARY KEY, \
             balance bigint NOT NULL CHECK (balance < 1000000), note jsonb, title text); \
             INSERT INTO accounts VALUES ('a', 100), ('b', 100)",
        );
        let postgres = Self::client(&server, change);
        postgres.init().await.unwrap();
        postgres.claim_epoch(log(), Epoch(1)).await.unwrap();
        Some(Self { server, postgres })
    }

    pub fn client(server: &PostgresServer, change: impl FnOnce(&mut Options)) -> Postgres {
        let mut options = Options::new(server.url("bank"), contract::operations(&[]));
        options.connect_timeout = Duration::from_secs(3);
        options.listening_horizon = Duration::from_secs(2);
        change(&mut options);
        Postgres::new(options).unwrap()
    }
}

impl AnyBank for Bank {
    type Database = Postgres;

    fn database(&self) -> &Postgres {
        &self.postgres
    }

    fn another(&self) -> Postgres {
        Self::client(&self.server, |_| {})
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql("bank", sql)
    }

    fn markers(&self) -> String {
        let ended = "physical || CASE WHEN committed THEN ' committed' ELSE ' aborted' END";
        self.sql(&format!(
            "SELECT coalesce(string_agg({ended}, ',' ORDER BY physical), '') FROM presume.marker"
        ))
    }

    async fn assert_nothing_prepared(&self) {
        assert_eq!(self.postgres.list_prepared().await.unwrap().branches, []);
    }

    fn stop(&mut self) {
        self.server.stop();
    }

    fn run(&mut self) {
        self.server.run();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_decisions_and_repeated_calls() {
    let Some(bank) = Bank::open().await else { return };
    contract::votes_decisions_and_repeated_calls(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_says_whose_rule_it_was_and_leaves_nothing_behind() {
    let Some(bank) = Bank::open().await else { return };
    contract::a_no_says_whose_rule_it_was_and_leaves_nothing_behind(&bank, vec![]).await;
    // Every session is as it was: nothing is left in a failed transaction.
    let idle = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name LIKE 'presume:%' AND state <> 'idle'";
    assert_eq!(bank.sql(idle), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first() {
    let Some(bank) = Bank::open().await else { return };
    contract::one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_before_its_prepare_refuses_the_prepare() {
    let Some(bank) = Bank::open().await else { return };
    contract::an_abort_before_its_prepare_refuses_the_prepare(&bank).await;
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
    contract::an_epoch_belongs_to_one_process(&bank, &next, &identity).await;
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
    contract::a_kill_keeps_what_is_prepared_and_the_session_after_it_works(&mut bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_leaves_no_session_in_a_transaction() {
    let Some(bank) = Bank::open().await else { return };
    contract::a_caller_that_gives_up_leaves_no_session_in_a_transaction(&bank).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_commit_is_known_and_a_tombstone_is_none() {
    let Some(bank) = Bank::open().await else { return };
    contract::the_newest_commit_is_known_and_a_tombstone_is_none(&bank).await;
    bank.server.sql("bank", "DROP TABLE presume.marker");
    assert_eq!(bank.postgres.newest_commit(log(), Epoch(2)).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_are_pruned_once_they_are_old_but_for_that_of_the_newest_commit() {
    let Some(bank) = Bank::open().await else { return };
    for physical in 1..=3 {
        assert_eq!(bank.prepare(physical, &[credit("a", 1)]).await, Vote::Yes);
        assert_eq!(bank.postgres.commit(gid(physical)).await, Ack::Done);
    }
    assert_eq!(bank.postgres.abort(gid(4)).await, Ack::Done);
    let ended = EndedBelow { log: log(), epoch: Epoch(1), physical: PhysicalId(5) };
    assert_eq!(bank.postgres.prune(ended).await, Ok(0));
    bank.server.sql("bank", "UPDATE presume.marker SET at = at - interval '1 day'");
    let other = EndedBelow { log: LogId(Uuid::from_u128(8)), ..ended };
    assert_eq!(bank.postgres.prune(other).await, Ok(0));
    let earlier = EndedBelow { physical: PhysicalId(2), ..ended };
    assert_eq!(bank.postgres.prune(earlier).await, Ok(1));
    assert_eq!(bank.postgres.prune(ended).await, Ok(2));
    assert_eq!(bank.markers(), "3 committed");
}
