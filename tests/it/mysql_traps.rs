//! What XA has of traps, each met on a real `MariaDB`: who owns a branch, and what codes mean.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use presume::participants::{Ack, Participant};
use presume::txn::Vote;

use crate::branches::{at, code, credit, debit, gid, log, operation};
use crate::contract::AnyBank;
use crate::mysql::Bank;

/// The id of branch `gid(physical)` as XA has it.
fn xid(bank: &Bank, physical: u64) -> String {
    let database = bank.identity.strip_prefix("mysql:").unwrap();
    format!("'{}{:016x}{:016x}','presume:0:{database}',1347568979", log(), 1, physical)
}

/// Statements that prepare that branch around `work`, as a session of ours would.
fn prepared(bank: &Bank, physical: u64, work: &str) -> String {
    let xid = xid(bank, physical);
    format!("XA START {xid}; {work}; XA END {xid}; XA PREPARE {xid}")
}

fn mark(physical: u64) -> String {
    format!(
        "INSERT INTO presume_marker (log_id, epoch, physical, branch, ended, claimed_by) \
         SELECT log_id, epoch, {physical}, 0, 'committed', claimed_by FROM presume_epoch"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_xid_is_not_done_while_the_branch_is_listed() {
    let Some(bank) = Bank::open().await else { return };
    let work = format!("UPDATE accounts SET balance = 1 WHERE id = 'a'; {}", mark(1));
    let owner = bank.server.other_session(&prepared(&bank, 1, &work));
    // The server answers 1397 to both, since the owner lives.
    for _ in 0..2 {
        let Ack::Unknown(why) = bank.mysql.commit(gid(1)).await else { panic!() };
        assert!(why.contains("still owns"), "{why}");
        let Ack::Unknown(why) = bank.mysql.abort(gid(1)).await else { panic!() };
        assert!(why.contains("still owns"), "{why}");
    }
    drop(owner);
    // It is none of ours, so nobody waits until the server has let go of it.
    let attached = "SELECT trx_id FROM information_schema.innodb_trx WHERE trx_mysql_thread_id > 0";
    while !bank.server.sql(attached).is_empty() {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.markers().as_str()), (1, "1 committed"));
}

/// Prepares branches and ends them from another session while theirs is ending, until the server
/// answers OK to one that it does not end.
async fn ended_in_vain(bank: &Bank) -> Option<u64> {
    const TRIES_MAX: u64 = 20_000;
    let opts = Opts::from_url(&bank.server.url()).unwrap();
    let mut other = Conn::new(opts.clone()).await.unwrap();
    for physical in 1..TRIES_MAX {
        let mut owner = Conn::new(opts.clone()).await.unwrap();
        let work =
            format!("UPDATE accounts SET note = {physical} WHERE id = 'a'; {}", mark(physical));
        owner.query_drop(prepared(bank, physical, &work)).await.unwrap();
        let ending = tokio::spawn(owner.disconnect());
        let commit = format!("XA COMMIT {}", xid(bank, physical));
        while other.query_drop(&commit).await.is_err() {}
        ending.await.unwrap().unwrap();
        let marker = format!("SELECT 1 FROM presume_marker WHERE physical = {physical}");
        if other.query_first::<i64, _>(&marker).await.unwrap().is_none() {
            println!("in vain at try {physical}");
            return Some(physical);
        }
    }
    println!("this server ends what it says it ends, in {TRIES_MAX} tries");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ok_that_ended_nothing_is_not_believed() {
    let Some(mut bank) = Bank::open().await else { return };
    let Some(physical) = ended_in_vain(&bank).await else { return };
    let lost = gid(physical);
    assert_eq!(bank.mysql.list_prepared().await.unwrap().branches, [], "it is not even listed");
    for _ in 0..2 {
        let Ack::Unknown(why) = bank.mysql.commit(lost).await else { panic!() };
        assert!(why.contains("once the server is restarted"), "{why}");
        assert!(matches!(bank.mysql.abort(lost).await, Ack::Unknown(_)));
    }
    bank.server.stop();
    bank.server.run();
    let mut ack = bank.mysql.commit(lost).await;
    while matches!(ack, Ack::Unknown(_)) {
        ack = bank.mysql.commit(lost).await;
    }
    assert_eq!(ack, Ack::Done);
    let note = bank.server.sql("SELECT note FROM accounts WHERE id = 'a'");
    assert_eq!(note, physical.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dying_session_leaves_is_not_ended_in_vain() {
    const ROUNDS: u64 = 20;
    const BRANCHES: u64 = 16;
    let Some(bank) = Bank::open().await else { return };
    let number = |round, n| round * BRANCHES + n + 1;
    for round in 0..ROUNDS {
        for n in 0..BRANCHES {
            let account = format!("{round}-{n}");
            let open = operation("open", serde_json::json!({"account": account, "amount": 1}));
            assert_eq!(bank.prepare(number(round, n), &[open]).await, Vote::Yes);
        }
        for session in bank.sessions() {
            bank.server.try_sql(&format!("KILL {session}"));
        }
        let ends = (0..BRANCHES).map(|n| {
            let (mysql, gid) = (bank.mysql.clone(), gid(number(round, n)));
            async move { if n % 2 == 0 { mysql.commit(gid).await } else { mysql.abort(gid).await } }
        });
        for ack in futures_util::future::join_all(ends).await {
            assert_eq!(ack, Ack::Done);
        }
    }
    let ended = bank.server.sql("SELECT ended, COUNT(*) FROM presume_marker GROUP BY ended");
    let half = ROUNDS * BRANCHES / 2;
    assert_eq!(ended, format!("committed\t{half}\naborted\t{half}"));
    let opened = bank.server.sql("SELECT COUNT(*) FROM accounts");
    assert_eq!(opened, (half + 2).to_string());
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_session_was_lost_is_ended_on_another() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 10)]).await, Vote::Yes);
    assert_eq!(bank.prepare(2, &[debit("b", 10)]).await, Vote::Yes);
    for session in bank.sessions() {
        bank.server.sql(&format!("KILL {session}"));
    }
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.mysql.abort(gid(2)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (90, 100));
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_branch_outlives_the_idle_limit_of_its_session() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 10)]).await, Vote::Yes);
    let before = bank.sessions().len();
    while bank.sessions().len() == before {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bank.mysql.list_prepared().await.unwrap().branches, [gid(1)]);
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.balance("a"), 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_met_no_row_has_its_marker_and_survives_its_session() {
    let Some(bank) = Bank::open().await else { return };
    let note = operation("note", serde_json::json!({"account": "nobody", "note": 1}));
    assert_eq!(bank.prepare(1, &[note]).await, Vote::Yes);
    for session in bank.sessions() {
        bank.server.sql(&format!("KILL {session}"));
    }
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.markers(), "1 committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_rolled_back_by_its_server_is_no_success() {
    let Some(bank) = Bank::open().await else { return };
    // Changed nothing, not even a marker: it goes with its session, and answers 1402 once.
    for physical in [1, 2] {
        let nothing = "UPDATE accounts SET balance = 1 WHERE id = 'nobody'";
        drop(bank.server.other_session(&prepared(&bank, physical, nothing)));
    }
    let mut ack = bank.mysql.commit(gid(1)).await;
    while matches!(ack, Ack::Unknown(_)) {
        ack = bank.mysql.commit(gid(1)).await;
    }
    let Ack::Heuristic(why) = ack else { panic!("{ack:?}") };
    assert!(why.contains("neither"), "{why}");
    while bank.mysql.abort(gid(2)).await != Ack::Done {}
    bank.assert_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_id_is_never_a_yes_and_leaves_the_first_alone() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[debit("a", 10)]).await, Vote::Yes);
    // With its owner there, and then without.
    for _ in 0..2 {
        let vote = bank.prepare(1, &[debit("b", 10)]).await;
        assert_eq!(code(&vote), "technical duplicate_gid");
        // ONE PHASE is never sent for a prepared id (1398).
        let vote = bank.mysql.commit_one_phase(gid(1), &[debit("b", 10)]).await;
        assert_eq!(code(&vote), "technical duplicate_gid");
        assert_eq!(bank.mysql.list_prepared().await.unwrap().branches, [gid(1)]);
        // Those that idle are lost, too; the look that meets them gets new ones.
        for session in bank.sessions() {
            bank.server.sql(&format!("KILL {session}"));
        }
        while bank.mysql.list_prepared().await.is_err() {}
    }
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (90, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_technical_and_its_session_is_clean_again() {
    let Some(bank) = Bank::open().await else { return };
    let branch = |physical: u64, first: &str, second: &str| {
        let (mysql, operations) = (bank.mysql.clone(), [at("linger", first), credit(second, 1)]);
        tokio::spawn(async move { mysql.prepare(gid(physical), &operations).await })
    };
    let (one, two) = (branch(1, "a", "b"), branch(2, "b", "a"));
    let mut votes = [code(&one.await.unwrap()), code(&two.await.unwrap())];
    let winner = if votes[0] == "yes" { 1 } else { 2 };
    votes.sort();
    assert_eq!(votes, ["technical deadlock", "yes"]);
    let before = bank.sessions();
    assert_eq!(bank.mysql.commit(gid(winner)).await, Ack::Done);
    bank.assert_nothing_prepared().await;
    assert_eq!(bank.prepare(3, &[credit("a", 1)]).await, Vote::Yes);
    assert_eq!(bank.mysql.commit(gid(3)).await, Ack::Done);
    assert_eq!(bank.sessions(), before, "a clean session is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_has_met_its_row() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[credit("a", 0)]).await, Vote::Yes);
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_select_that_locks_is_no_read_only_vote() {
    let Some(bank) = Bank::open().await else { return };
    assert_eq!(bank.prepare(1, &[at("hold", "a")]).await, Vote::Yes);
    let vote = code(&bank.prepare(2, &[credit("a", 1)]).await);
    assert_eq!(vote, "technical lock_timeout");
    assert_eq!(bank.mysql.commit(gid(1)).await, Ack::Done);
    assert_eq!(bank.prepare(3, &[credit("a", 1)]).await, Vote::Yes);
    assert_eq!(bank.mysql.commit(gid(3)).await, Ack::Done);
    // What only looks sees what is committed by then, in the same session.
    assert_eq!(bank.prepare(4, &[at("look", "a")]).await, Vote::ReadOnly);
    bank.assert_nothing_prepared().await;
}
