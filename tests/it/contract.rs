//! What every database keeps to as a participant: the claims that `mysql` and `postgres` make in
//! the same words, each of its own server.

use std::collections::BTreeMap;
use std::time::Duration;

use presume::participants::{Ack, ClaimError, Inquiry, OperationSql, Participant};
use presume::txn::{Epoch, LogId, Operation, OperationName, PhysicalId, Vote};
use serde_json::json;
use uuid::Uuid;

use crate::branches::{at, code, credit, debit, gid, log, operation};

/// A database with accounts `a` and `b` of 100 each, of at most 1,000,000, claimed at epoch 1.
pub trait AnyBank {
    type Database: Participant + Clone + 'static;

    fn database(&self) -> &Self::Database;

    /// The same database for another process, which has claimed nothing yet.
    fn another(&self) -> Self::Database;

    /// Runs SQL in the database as an administrator.
    fn sql(&self, sql: &str) -> String;

    /// Executions that have a marker and how they ended, as `1 committed,2 aborted`.
    fn markers(&self) -> String;

    /// Nothing stands prepared.
    async fn assert_nothing_prepared(&self);

    /// Kills the server.
    fn stop(&mut self);

    /// Runs it again.
    fn run(&mut self);

    async fn prepare(&self, physical: u64, operations: &[Operation]) -> Vote {
        self.database().prepare(gid(physical), operations).await
    }

    fn balance(&self, account: &str) -> i64 {
        let sql = format!("SELECT balance FROM accounts WHERE id = '{account}'");
        self.sql(&sql).parse().unwrap()
    }
}

/// The operations that the claims below need, and more.
pub fn operations(more: &[(&str, &str, Option<u64>)]) -> BTreeMap<OperationName, OperationSql> {
    let debit = "UPDATE accounts SET balance = balance - $amount \
                 WHERE id = $account AND balance >= $amount";
    let credit = "UPDATE accounts SET balance = balance + $amount WHERE id = $account";
    let open = "INSERT INTO accounts (id, balance) VALUES ($account, $amount)";
    let common = [
        ("debit", debit, Some(1)),
        ("credit", credit, Some(1)),
        ("open", open, None),
        ("look", "SELECT balance FROM accounts WHERE id = $account", Some(1)),
        ("note", "UPDATE accounts SET note = $note WHERE id = $account", None),
    ];
    let one = |(name, sql, expect_rows): &(&str, &str, Option<u64>)| {
        let operation = OperationSql::new(*sql, *expect_rows);
        (name.parse().unwrap(), operation)
    };
    common.iter().chain(more).map(one).collect()
}

pub async fn votes_decisions_and_repeated_calls(bank: &impl AnyBank) {
    let database = bank.database();
    assert_eq!(bank.prepare(1, &[debit("a", 30), credit("b", 30)]).await, Vote::Yes);
    assert_eq!((bank.balance("a"), bank.markers().as_str()), (100, ""));
    assert_eq!(database.list_prepared().await.unwrap().branches, [gid(1)]);
    for _ in 0..2 {
        assert_eq!(database.commit(gid(1)).await, Ack::Done);
    }
    assert_eq!((bank.balance("a"), bank.balance("b")), (70, 130));
    assert!(matches!(database.abort(gid(1)).await, Ack::Heuristic(_)));

    assert_eq!(bank.prepare(2, &[debit("a", 30)]).await, Vote::Yes);
    for _ in 0..2 {
        assert_eq!(database.abort(gid(2)).await, Ack::Done);
    }
    assert!(matches!(database.commit(gid(2)).await, Ack::Heuristic(_)));
    assert_eq!(bank.balance("a"), 70);

    // A commit of what the server never heard of is no success.
    let Ack::Heuristic(why) = database.commit(gid(3)).await else { panic!() };
    assert!(why.contains("neither"), "{why}");
    bank.assert_nothing_prepared().await;
}

/// With `more` operations that are declined, from number 10 on.
pub async fn a_no_says_whose_rule_it_was_and_leaves_nothing_behind(
    bank: &impl AnyBank,
    more: Vec<(Vec<Operation>, &str)>,
) {
    let open = |account| operation("open", json!({"account": account, "amount": 1}));
    let note = operation("note", json!({"account": "a", "note": {"x": [1, null]}}));
    let common = vec![
        (vec![debit("a", 101)], "business debit"),
        (vec![debit("nobody", 1)], "business debit"),
        (vec![credit("a", 2_000_000)], "business check_violation"),
        (vec![credit("b", 1), open("a")], "business unique_violation"),
        (vec![credit("a", i64::MAX)], "business bad_value"),
        (vec![at("look", "a")], "read-only"),
        (vec![at("look", "a"), credit("a", 1)], "yes"),
        (vec![note], "technical lock_timeout"),
        (vec![at("credit", "a")], "business bad_parameter"),
    ];
    for (number, (operations, expected)) in (1..).zip(common.into_iter().chain(more)) {
        assert_eq!(code(&bank.prepare(number, &operations).await), expected, "{number}");
        if number == 7 {
            continue;
        }
        let left = bank.database().list_prepared().await.unwrap().branches;
        assert_eq!(left.contains(&gid(7)), number > 7, "{number}");
        assert!(!left.contains(&gid(number)), "{number}");
    }
    assert_eq!(bank.database().commit(gid(7)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (101, 100));
    assert_eq!(bank.markers(), "7 committed");
    bank.assert_nothing_prepared().await;
}

pub async fn one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first(bank: &impl AnyBank) {
    let database = bank.database();
    let commit = async |n: u64, operation| database.commit_one_phase(gid(n), &[operation]).await;
    assert_eq!(commit(1, debit("a", 10)).await, Vote::Yes);
    assert_eq!(code(&commit(2, debit("a", 1_000)).await), "business debit");
    assert_eq!(commit(3, at("look", "a")).await, Vote::ReadOnly);
    assert_eq!(database.inquire(gid(1)).await, Inquiry::Committed);
    assert_eq!(database.inquire(gid(2)).await, Inquiry::Aborted);
    // The inquiry of 4 comes before its commit, which then cannot be.
    assert_eq!(database.inquire(gid(4)).await, Inquiry::Aborted);
    assert_eq!(code(&commit(4, debit("a", 10)).await), "technical aborted_before");
    assert_eq!(database.inquire(gid(4)).await, Inquiry::Aborted);
    assert_eq!(bank.balance("a"), 90);
    bank.assert_nothing_prepared().await;
}

pub async fn an_abort_before_its_prepare_refuses_the_prepare(bank: &impl AnyBank) {
    assert_eq!(bank.database().abort(gid(1)).await, Ack::Done);
    assert_eq!(code(&bank.prepare(1, &[debit("a", 1)]).await), "technical aborted_before");
    assert_eq!(bank.balance("a"), 100);
    bank.assert_nothing_prepared().await;
}

/// `next` has claimed epoch 2 and heard this identity.
pub async fn an_epoch_belongs_to_one_process<B: AnyBank>(
    bank: &B,
    next: &B::Database,
    identity: &str,
) {
    let stale = bank.database().claim_epoch(log(), Epoch(1)).await;
    let expected = ClaimError::Stale { participant: identity.to_owned(), known: 2, claimed: 1 };
    assert_eq!(stale, Err(expected));
    // The same epoch again is another process's, unless it is the one that has it.
    assert!(next.claim_epoch(log(), Epoch(2)).await.is_ok());
    let copy = bank.another().claim_epoch(log(), Epoch(2)).await;
    assert!(matches!(copy, Err(ClaimError::Stale { .. })));
    // Another log is nobody's rival.
    let other = bank.another().claim_epoch(LogId(Uuid::from_u128(8)), Epoch(1)).await;
    assert_eq!(other.as_deref(), Ok(identity));
}

pub async fn a_kill_keeps_what_is_prepared_and_the_session_after_it_works(bank: &mut impl AnyBank) {
    assert_eq!(bank.prepare(1, &[debit("a", 10)]).await, Vote::Yes);
    assert_eq!(bank.prepare(2, &[debit("b", 10)]).await, Vote::Yes);
    bank.stop();
    assert!(matches!(bank.database().commit(gid(1)).await, Ack::Unknown(_)));
    let vote = code(&bank.prepare(3, &[credit("b", 10)]).await);
    assert_eq!(vote, "technical participant_unavailable");
    bank.run();
    assert_eq!(bank.database().list_prepared().await.unwrap().branches.len(), 2);
    assert_eq!(bank.database().commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.database().abort(gid(2)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (90, 100));
    bank.assert_nothing_prepared().await;
}

pub async fn a_caller_that_gives_up_leaves_no_session_in_a_transaction(bank: &impl AnyBank) {
    for physical in 1..40 {
        let operations = [debit("a", 1)];
        let call = bank.prepare(physical, &operations);
        let _given_up = tokio::time::timeout(Duration::from_micros(300), call).await;
        while bank.database().abort(gid(physical)).await != Ack::Done {}
    }
    assert_eq!(bank.balance("a"), 100);
    // The last of them may still be at work, and leave when it finds its tombstone.
    assert_eq!(bank.prepare(100, &[debit("a", 1)]).await, Vote::Yes);
    assert_eq!(bank.database().commit(gid(100)).await, Ack::Done);
    bank.assert_nothing_prepared().await;
}

pub async fn the_newest_commit_is_known_and_a_tombstone_is_none(bank: &impl AnyBank) {
    let newest = async |before| bank.database().newest_commit(log(), Epoch(before)).await;
    assert_eq!(newest(2).await, Ok(None));
    for physical in [3, 1] {
        assert_eq!(bank.prepare(physical, &[credit("a", 1)]).await, Vote::Yes);
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
    }
    assert_eq!(bank.database().abort(gid(7)).await, Ack::Done);
    // As a restored log would ask, in another process, before it claims anything.
    let known = bank.another().newest_commit(log(), Epoch(2)).await;
    assert_eq!(known, Ok(Some((Epoch(1), PhysicalId(3)))));
    assert_eq!(newest(1).await, Ok(None), "of the epoch that asks");
    assert_eq!(bank.another().newest_commit(LogId(Uuid::from_u128(8)), Epoch(2)).await, Ok(None));
}
