//! The MySQL participant against a real `MariaDB`: votes, decisions, doubts, fences.
//!
//! What XA has of traps stands in `mysql_traps`.

use std::collections::BTreeMap;
use std::time::Duration;

use presume::participants::mysql::{Mysql, Options};
use presume::participants::{
    Ack, ClaimError, ConfigurationError, EndedBelow, Inquiry, OperationSql, Participant,
};
use presume::txn::{Epoch, LogId, OperationName, PhysicalId, Vote};
use serde_json::json;
use uuid::Uuid;

use crate::branches::{at, code, credit, debit, gid, log, operation};
use crate::contract::{self, AnyBank};
use crate::mysql_server::MysqlServer;

fn operations() -> BTreeMap<OperationName, OperationSql> {
    contract::operations(&[
        ("hold", "SELECT balance FROM accounts WHERE id = $account FOR UPDATE", Some(1)),
        // Has its row for a while before it goes on.
        ("linger", "UPDATE accounts SET note = 0 WHERE id = $account AND SLEEP(0.4) = 0", Some(1)),
        ("stay", "UPDATE accounts SET note = 0 WHERE id = $account AND SLEEP(9) = 0", Some(1)),
        // Would commit by itself.
        ("shape", "CREATE TABLE shape (id int)", None),
    ])
}

pub struct Bank {
    pub server: MysqlServer,
    pub mysql: Mysql,
    pub identity: String,
}

impl Bank {
    /// Accounts `a` and `b` with 100 each, claimed at epoch 1; `None` without a server.
    pub async fn open() -> Option<Self> {
        Self::open_with(|_| {}).await
    }

    pub async fn open_with(change: impl FnOnce(&mut Options)) -> Option<Self> {
        let server = MysqlServer::start()?;
        server.sql(
            "CREATE TABLE accounts (id VARCHAR(32) PRIMARY KEY, \
             balance BIGINT NOT NULL CHECK (balance < 1000000), note JSON, title TEXT) \
             CHARACTER SET utf8mb4; \
             INSERT INTO accounts (id, balance) VALUES ('a', 100), ('b', 100)",
        );
        let mysql = Self::client(&server, change);
        mysql.init().await.unwrap();
        let identity = mysql.claim_epoch(log(), Epoch(1)).await.unwrap();
        Some(Self { server, mysql, identity })
    }

    pub fn client(server: &MysqlServer, change: impl FnOnce(&mut Options)) -> Mysql {
        let mut options = Options::new(server.url(), operations());
        options.connect_timeout = Duration::from_secs(3);
        options.listening_horizon = Duration::from_secs(2);
        change(&mut options);
        Mysql::new(options).unwrap()
    }

    /// Ids of our sessions at the server.
    pub fn sessions(&self) -> Vec<String> {
        let sql = "SELECT id FROM information_schema.processlist WHERE user = 'presume'";
        self.server.sql(sql).lines().map(str::to_owned).collect()
    }
}

impl AnyBank for Bank {
    type Database = Mysql;

    fn database(&self) -> &Mysql {
        &self.mysql
    }

    fn another(&self) -> Mysql {
        Self::client(&self.server, |_| {})
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql(sql)
    }

    fn markers(&self) -> String {
        let sql = "SELECT COALESCE(GROUP_CONCAT(physical, ' ', ended ORDER BY physical), '') \
                   FROM presume_marker";
        self.server.sql(sql)
    }

    async fn assert_nothing_prepared(&self) {
        assert_eq!(self.mysql.list_prepared().await.unwrap().branches, []);
        // Every session is as it was: nothing is left in a transaction.
        assert_eq!(self.server.sql("SELECT trx_id FROM information_schema.innodb_trx"), "");
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
    let broken = operation("note", json!({"account": "b", "note": "{"}));
    let zero = operation("credit", json!({"account": 0, "amount": 1}));
    let more = vec![
        (vec![at("look", "nobody")], "business look"),
        (vec![credit("b", 1), at("shape", "b")], "business bad_parameter"),
        (vec![credit("b", 1), operation("shape", json!({}))], "technical not_preparable"),
        (vec![at("stay", "b")], "technical statement_timeout"),
        (vec![broken], "business check_violation"),
        // A number is not taken for every text that does not begin with one.
        (vec![zero], "business bad_value"),
    ];
    contract::a_no_says_whose_rule_it_was_and_leaves_nothing_behind(&bank, more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first() {
    let Some(bank) = Bank::open().await else { return };
    contract::one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first(&bank).await;
    // What would commit by itself, before the marker, is refused here as well.
    let vote = bank.mysql.commit_one_phase(gid(5), &[operation("shape", json!({}))]).await;
    assert_eq!(code(&vote), "technical not_preparable");
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_about_a_branch_that_has_not_ended_knows_nothing() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 1)]).await, Vote::Yes);
    assert!(matches!(bank.mysql.inquire(gid(1)).await, Inquiry::Unknown(_)));
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.mysql.inquire(gid(1)).await, Inquiry::Committed);
    bank.assert_nothing_prepared().await;
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
    assert_eq!(identity, bank.identity);
    assert!(identity.starts_with("mysql:"), "{identity}");
    // Its first call may meet a session that has just been ended; none gets through.
    for physical in 2..6 {
        let vote = code(&bank.prepare(physical, &[debit("b", 1)]).await);
        assert_eq!(vote, "technical participant_unavailable");
    }
    // The owner of the branch was ended, so the next epoch can.
    assert_eq!(next.list_prepared().await.unwrap().branches, [gid(1)]);
    assert_eq!(next.abort(gid(1)).await, Ack::Done);
    contract::an_epoch_belongs_to_one_process(&bank, &next, &identity).await;
    assert_eq!((bank.balance("a"), bank.balance("b")), (100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_at_work_while_its_epoch_is_overtaken_gets_no_marker() {
    let Some(bank) = Bank::open().await else { return };
    let (mysql, operations) = (bank.mysql.clone(), [at("linger", "a")]);
    let working = tokio::spawn(async move { mysql.prepare(gid(1), &operations).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    // A claim without the end of older sessions: the marker alone is to refuse.
    bank.server.sql("UPDATE presume_epoch SET epoch = 2");
    assert_eq!(code(&working.await.unwrap()), "technical fenced");
    assert_eq!(bank.markers(), "");
    bank.server.sql("UPDATE presume_epoch SET epoch = 1");
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_lacks_is_said_with_the_statement_that_mends_it() {
    let Some(mut server) = MysqlServer::start() else { return };
    let mysql = Bank::client(&server, |_| {});
    let unfit = |claim: Result<String, ClaimError>| claim.unwrap_err().to_string();
    let error = unfit(mysql.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("presume participants init"), "{error}");
    for _ in 0..2 {
        mysql.init().await.unwrap();
    }
    let error = unfit(mysql.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("operation credit") && error.contains("1146"), "{error}");
    let findings = mysql.check().await.unwrap();
    assert!(findings.iter().any(|f| !f.ok && f.what == "operation"), "{findings:?}");
    server.sql("CREATE TABLE accounts (id text, balance bigint, note json) ENGINE = MyISAM");
    let error = unfit(mysql.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("ALTER TABLE accounts ENGINE = InnoDB"), "{error}");
    server.sql("ALTER TABLE accounts ENGINE = InnoDB");
    server.restart_with("--innodb-flush-log-at-trx-commit=2");
    let error = unfit(mysql.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("SET GLOBAL innodb_flush_log_at_trx_commit = 1"), "{error}");
    server.restart_with("--innodb-flush-log-at-trx-commit=1");
    server.restart_with("--log-bin=bin");
    let error = unfit(mysql.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("SET GLOBAL sync_binlog = 1"), "{error}");
    let allow = |options: &mut Options| options.allow_unsafe = vec!["sync_binlog".into()];
    let allowed = Bank::client(&server, allow);
    allowed.claim_epoch(log(), Epoch(1)).await.unwrap();
    assert!(allowed.check().await.unwrap().iter().all(|finding| finding.ok));
    server.stop();
    let error = unfit(mysql.claim_epoch(log(), Epoch(1)).await);
    assert!(error.contains("cannot be reached"), "{error}");
    let wrong = Bank::client(&server, |o| o.url = "mysql://u:secret@127.0.0.1:1/x".into());
    let error = unfit(wrong.claim_epoch(log(), Epoch(1)).await);
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_found_before_anything_begins() {
    let Some(bank) = Bank::open().await else { return };
    bank.server.sql(
        "CREATE USER clerk@'127.0.0.1' IDENTIFIED BY 'secret'; \
         GRANT SELECT ON bank.* TO clerk@'127.0.0.1'",
    );
    let url = bank.server.url().replace("presume:", "clerk:");
    let clerk = Bank::client(&bank.server, |options| options.url = url);
    let error = clerk.claim_epoch(log(), Epoch(2)).await.unwrap_err().to_string();
    assert!(error.contains("GRANT SELECT, INSERT, UPDATE, DELETE"), "{error}");
    assert_eq!(bank.prepare(1, &[debit("a", 1)]).await, Vote::Yes);
    assert_eq!(bank.mysql.abort(gid(1)).await, Ack::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_keeps_what_is_prepared_and_the_session_after_it_works() {
    let Some(mut bank) = Bank::open().await else { return };
    contract::a_kill_keeps_what_is_prepared_and_the_session_after_it_works(&mut bank).await;
    // The tombstone proves that the rollback was one.
    assert_eq!(bank.markers(), "1 committed,2 aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_branch_leaves_nothing_of_it() {
    let Some(mut bank) = Bank::open().await else { return };
    let (mysql, operations) = (bank.mysql.clone(), [credit("b", 1), at("stay", "a")]);
    let working = tokio::spawn(async move { mysql.prepare(gid(1), &operations).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    bank.server.stop();
    // XA PREPARE was never sent: a certain no.
    assert_eq!(code(&working.await.unwrap()), "technical participant_unavailable");
    bank.server.run();
    assert_eq!(bank.mysql.abort(gid(1)).await, Ack::Done);
    assert_eq!(bank.balance("b"), 100);
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_leaves_no_session_in_a_transaction() {
    let Some(bank) = Bank::open().await else { return };
    contract::a_caller_that_gives_up_leaves_no_session_in_a_transaction(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_sessions_decline_work_and_never_an_end_of_a_branch() {
    let few = |options: &mut Options| {
        (options.connections_max, options.connections_reserve) = (4, 2);
        options.connect_timeout = Duration::from_millis(500);
    };
    let Some(bank) = Bank::open_with(few).await else { return };
    let open = |n: u64| operation("open", json!({"account": format!("n{n}"), "amount": 1}));
    for physical in 1..=2 {
        assert_eq!(bank.prepare(physical, &[open(physical)]).await, Vote::Yes, "{physical}");
    }
    for _ in 0..3 {
        let vote = code(&bank.prepare(3, &[open(3)]).await);
        assert_eq!(vote, "technical prepared_slots_exhausted");
        let vote = bank.mysql.commit_one_phase(gid(4), &[open(4)]).await;
        assert_eq!(code(&vote), "technical prepared_slots_exhausted");
    }
    assert_eq!(bank.mysql.list_prepared().await.unwrap().branches.len(), 2);
    assert_eq!(bank.mysql.abort(gid(5)).await, Ack::Done);
    assert_eq!(bank.mysql.inquire(gid(6)).await, Inquiry::Aborted);
    // A repeated claim does not end the sessions of its own branches.
    assert_eq!(bank.mysql.claim_epoch(log(), Epoch(1)).await, Ok(bank.identity.clone()));
    for physical in 1..=2 {
        assert_eq!(bank.mysql.commit(gid(physical)).await, Ack::Done);
    }
    let many = (10..60).map(|physical| {
        let (mysql, operations) = (bank.mysql.clone(), [open(physical)]);
        tokio::spawn(async move {
            let vote = mysql.prepare(gid(physical), &operations).await;
            (mysql.commit(gid(physical)).await, vote)
        })
    });
    for one in many.collect::<Vec<_>>() {
        let (ack, vote) = one.await.unwrap();
        match vote {
            Vote::Yes => assert_eq!(ack, Ack::Done),
            other => assert_eq!(code(&other), "technical prepared_slots_exhausted"),
        }
    }
    assert!(bank.sessions().len() <= 4, "{:?}", bank.sessions());
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_prepared_is_listed_and_left_alone() {
    let Some(bank) = Bank::open().await else { return };
    let prepared = |id: &str, account: &str| {
        bank.server.sql(&format!(
            "XA START {id}; INSERT INTO accounts (id, balance) VALUES ('{account}', 1); \
             XA END {id}; XA PREPARE {id}"
        ));
    };
    prepared("'somebody'", "f");
    // Of Presume, in another database of this server: its own participant's to list.
    let elsewhere = format!("'{}{:016x}{:016x}','presume:0:{}',1347568979", log(), 1, 9, log());
    prepared(&elsewhere, "g");
    let listed = bank.mysql.list_prepared().await.unwrap();
    assert_eq!((listed.branches, listed.others), (vec![], vec!["'somebody','',1".to_owned()]));
    assert_eq!(bank.mysql.abort(gid(9)).await, Ack::Done);
    assert_eq!(bank.server.sql("XA RECOVER").lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_are_pruned_beside_a_prepared_branch_once_they_are_old() {
    let Some(bank) = Bank::open().await else { return };
    for physical in 1..=3 {
        assert_eq!(bank.prepare(physical, &[credit("a", 1)]).await, Vote::Yes);
        assert_eq!(bank.mysql.commit(gid(physical)).await, Ack::Done);
    }
    let ended = EndedBelow { log: log(), epoch: Epoch(1), physical: PhysicalId(3) };
    assert_eq!(bank.mysql.prune(ended).await, Ok(0));
    bank.server.sql("UPDATE presume_marker SET ended_at = ended_at - INTERVAL 1 DAY");
    // A row that nobody may lock, beside the last that goes.
    assert_eq!(bank.prepare(4, &[credit("a", 1)]).await, Vote::Yes);
    let other = EndedBelow { log: LogId(Uuid::from_u128(8)), ..ended };
    assert_eq!(bank.mysql.prune(other).await, Ok(0));
    assert_eq!(bank.mysql.prune(ended).await, Ok(2));
    // The newest commit stays: a log that was restored does not know of it.
    let ended = EndedBelow { physical: PhysicalId(4), ..ended };
    assert_eq!(bank.mysql.prune(ended).await, Ok(0));
    assert_eq!(bank.mysql.commit(gid(4)).await, Ack::Done);
    assert_eq!(bank.mysql.prune(ended).await, Ok(1));
    assert_eq!(bank.markers(), "4 committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_commit_is_known_and_a_tombstone_is_none() {
    let Some(bank) = Bank::open().await else { return };
    contract::the_newest_commit_is_known_and_a_tombstone_is_none(&bank).await;
    bank.server.sql("DROP TABLE presume_marker");
    assert_eq!(bank.mysql.newest_commit(log(), Epoch(2)).await, Ok(None));
}

#[test]
fn a_configuration_that_cannot_work_is_refused_without_its_password() {
    let new = |url: &str, max: usize, reserve: usize| {
        let mut options = Options::new(url, operations());
        (options.connections_max, options.connections_reserve) = (max, reserve);
        Mysql::new(options).map(drop)
    };
    let url = "mysql://u:secret@localhost/bank";
    assert_eq!(new(url, 2, 1), Ok(()));
    for (max, reserve) in [(2, 2), (2, 0), (1000, 2)] {
        assert!(
            matches!(new(url, max, reserve), Err(ConfigurationError::Connections { .. })),
            "{max}"
        );
    }
    for url in ["postgres://u:secret@h/x", "mysql://u:secret@h", "mysql://u:secret@h/x?y=z", "x"] {
        let error = new(url, 2, 1).unwrap_err();
        assert!(matches!(error, ConfigurationError::Url { .. }), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
