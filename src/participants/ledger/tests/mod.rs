#![allow(clippy::unwrap_used)]

mod interleavings;

use std::collections::HashSet;
use std::path::Path;
use std::task::Poll;

use serde_json::json;

use super::*;
use crate::store::testing::copy;
use crate::txn::{BranchIndex, PhysicalId};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Polls a call to its first wait and gives up on it, as a caller that dies does.
fn begin<T>(future: impl Future<Output = T>) {
    run(async {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            let _ = future.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
    });
}

fn gid_at(epoch: u64, physical: u64) -> Gid {
    Gid {
        log: LogId(uuid::Uuid::from_u128(7)),
        epoch: Epoch(epoch),
        physical: PhysicalId(physical),
        branch: BranchIndex(0),
    }
}

fn gid(physical: u64) -> Gid {
    gid_at(1, physical)
}

fn operation(name: &str, params: serde_json::Value) -> Operation {
    Operation {
        participant: "ledger".parse().unwrap(),
        operation: name.parse().unwrap(),
        params: serde_json::from_value(params).unwrap(),
    }
}

fn debit(account: &str, amount: i64) -> Operation {
    operation("debit", json!({"account": account, "amount": amount}))
}

fn credit(account: &str, amount: i64) -> Operation {
    operation("credit", json!({"account": account, "amount": amount}))
}

fn transfer(from: &str, to: &str, amount: i64) -> Operation {
    operation("transfer", json!({"from": from, "to": to, "amount": amount}))
}

fn quick() -> Options {
    Options { lazy_flush_after: Duration::ZERO, ..Options::default() }
}

fn never_lazily() -> Options {
    Options { lazy_flush_after: Duration::from_hours(1), ..Options::default() }
}

/// A ledger with accounts `a` and `b` of 100 each.
fn ledger(path: &Path) -> Ledger {
    let ledger = Ledger::open(path, quick()).unwrap();
    for id in ["a", "b"] {
        run(ledger.open_account(id, 100, Overdraft::Refused)).unwrap();
    }
    ledger
}

fn code(vote: &Vote) -> &str {
    match vote {
        Vote::No(Declined::Business { code, .. } | Declined::Technical { code, .. }) => code,
        Vote::Yes => "yes",
        Vote::ReadOnly => "read_only",
        Vote::Unknown(_) => "unknown",
    }
}

fn prepare(ledger: &Ledger, gid: Gid, operations: &[Operation]) -> String {
    code(&run(ledger.prepare(gid, operations))).to_owned()
}

fn available(ledger: &Ledger, account: &str) -> i64 {
    ledger.balance(account).unwrap().available_minor
}

fn assert_sound(ledger: &Ledger) -> Report {
    let report = run(ledger.verify()).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!(report.sum_minor, 0);
    report
}

#[test]
fn prepared_funds_are_held_and_committed_ones_are_moved() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    assert_eq!(prepare(&ledger, gid(1), &[debit("a", 60)]), "yes");
    assert_eq!(available(&ledger, "a"), 40);
    assert_eq!(ledger.balance("a").unwrap().balance_minor, 100);
    assert_eq!(prepare(&ledger, gid(2), &[debit("a", 41)]), "insufficient_funds");
    assert_eq!(run(ledger.commit(gid(1))), Ack::Done);
    assert_eq!(ledger.balance("a").unwrap().balance_minor, 40);
    assert_eq!(assert_sound(&ledger).settlement_minor, 60);
}

#[test]
fn pending_credits_are_not_spendable() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    assert_eq!(prepare(&ledger, gid(1), &[credit("a", 50)]), "yes");
    assert_eq!(prepare(&ledger, gid(2), &[debit("a", 101)]), "insufficient_funds");
    assert_eq!(prepare(&ledger, gid(3), &[credit("b", 50), debit("b", 101)]), "insufficient_funds");
    assert_eq!(ledger.balance("b").unwrap().pending_credit_minor, 0);
}

#[test]
fn operations_of_a_branch_are_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let operations = [debit("a", 10), transfer("b", "a", 100), debit("b", 1)];
    assert_eq!(prepare(&ledger, gid(1), &operations), "insufficient_funds");
    assert_eq!((available(&ledger, "a"), available(&ledger, "b")), (100, 100));
    assert_eq!(prepare(&ledger, gid(2), &operations[..2]), "yes");
    assert_eq!(run(ledger.commit(gid(2))), Ack::Done);
    assert_eq!((available(&ledger, "a"), available(&ledger, "b")), (190, 0));
    assert_sound(&ledger);
}

#[test]
fn votes_name_the_business_reason() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let cases = [
        (debit("nobody", 1), "unknown_account"),
        (debit("a", 0), "amount_out_of_range"),
        (debit("a", -5), "amount_out_of_range"),
        (operation("debit", json!({"account": "a", "amount": 1e30})), "amount_out_of_range"),
        (operation("debit", json!({"account": "a", "amount": 1.5})), "amount_out_of_range"),
        (credit("a", i64::MAX), "overflow"),
        (debit("settlement", 1), "reserved_account"),
        (operation("mint", json!({})), "unknown_operation"),
        (operation("debit", json!({"account": "a"})), "bad_parameter"),
        (operation("debit", json!({"account": 7, "amount": 1})), "bad_parameter"),
        (operation("debit", json!({"account": "a", "amount": 1, "x": 1})), "bad_parameter"),
        (
            operation("assert_balance", json!({"account": "a", "at_least": 101})),
            "insufficient_funds",
        ),
        (operation("assert_balance", json!({"account": "a", "at_least": 100})), "read_only"),
        (operation("balance", json!({"account": "a"})), "read_only"),
    ];
    for (n, (operation, expected)) in (1..).zip(cases) {
        let text = format!("{operation:?}");
        assert_eq!(prepare(&ledger, gid(n), &[operation]), expected, "{text}");
    }
    assert_eq!(run(ledger.list_prepared()).unwrap().branches, []);
    assert_sound(&ledger);
}

#[test]
fn validation_needs_no_data_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    assert_eq!(ledger.validate(&debit("nobody", 1)), Ok(()));
    let refused = ledger.validate(&debit("a", -5)).unwrap_err();
    assert!(refused.contains("-5"), "{refused}");
    let refused = ledger.validate(&operation("mint", json!({}))).unwrap_err();
    assert!(refused.contains("mint") && refused.contains("transfer"), "{refused}");
}

#[test]
fn every_call_may_be_repeated_and_answers_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    for _ in 0..2 {
        assert_eq!(prepare(&ledger, gid(1), &[debit("a", 60)]), "yes");
        assert_eq!(prepare(&ledger, gid(2), &[debit("a", 60)]), "insufficient_funds");
    }
    for _ in 0..2 {
        assert_eq!(run(ledger.commit(gid(1))), Ack::Done);
        assert_eq!(run(ledger.abort(gid(2))), Ack::Done);
    }
    for _ in 0..2 {
        assert_eq!(code(&run(ledger.commit_one_phase(gid(3), &[debit("a", 40)]))), "yes");
    }
    assert_eq!(available(&ledger, "a"), 0);
    assert_sound(&ledger);
}

#[test]
fn a_declined_branch_stays_declined_when_funds_come_later() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    assert_eq!(prepare(&ledger, gid(1), &[debit("a", 101)]), "insufficient_funds");
    run(ledger.commit_one_phase(gid(2), &[credit("a", 50)]));
    assert_eq!(prepare(&ledger, gid(1), &[debit("a", 101)]), "insufficient_funds");
}

#[test]
fn what_ended_one_way_is_heuristic_the_other_way() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    prepare(&ledger, gid(1), &[debit("a", 1)]);
    run(ledger.commit(gid(1)));
    prepare(&ledger, gid(2), &[debit("a", 1)]);
    run(ledger.abort(gid(2)));
    for _ in 0..2 {
        assert!(matches!(run(ledger.abort(gid(1))), Ack::Heuristic(_)));
        assert!(matches!(run(ledger.commit(gid(2))), Ack::Heuristic(_)));
        assert!(matches!(run(ledger.commit(gid(3))), Ack::Heuristic(_)));
        drop(ledger.clone());
    }
    assert_eq!(available(&ledger, "a"), 99);
}

#[test]
fn an_abort_before_its_prepare_refuses_the_prepare() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    assert_eq!(run(ledger.abort(gid(1))), Ack::Done);
    assert_eq!(prepare(&ledger, gid(1), &[debit("a", 1)]), "already_aborted");
    drop(ledger);
    let ledger = Ledger::open(dir.path(), quick()).unwrap();
    assert_eq!(prepare(&ledger, gid(1), &[debit("a", 1)]), "already_aborted");
}

#[test]
fn asking_after_a_one_phase_commit_settles_it_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    run(ledger.commit_one_phase(gid(1), &[debit("a", 1)]));
    assert_eq!(run(ledger.inquire(gid(1))), Inquiry::Committed);
    assert_eq!(run(ledger.inquire(gid(2))), Inquiry::Aborted);
    let late = run(ledger.commit_one_phase(gid(2), &[debit("a", 1)]));
    assert_eq!(code(&late), "already_aborted");
    prepare(&ledger, gid(3), &[debit("a", 1)]);
    assert!(matches!(run(ledger.inquire(gid(3))), Inquiry::Unknown(_)));
}

#[test]
fn older_epochs_are_fenced_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let log = gid(1).log;
    run(ledger.claim_epoch(log, Epoch(5))).unwrap();
    drop(ledger);
    let ledger = Ledger::open(dir.path(), quick()).unwrap();
    run(ledger.claim_epoch(log, Epoch(5))).unwrap();
    let stale = run(ledger.claim_epoch(log, Epoch(4))).unwrap_err();
    assert!(matches!(stale, ClaimError::Stale { known: 5, claimed: 4, .. }), "{stale}");
    assert_eq!(prepare(&ledger, gid_at(4, 1), &[debit("a", 1)]), "stale_epoch");
    assert_eq!(prepare(&ledger, gid_at(5, 1), &[debit("a", 1)]), "yes");
    let other = Gid { log: LogId(uuid::Uuid::from_u128(8)), ..gid(1) };
    assert_eq!(prepare(&ledger, other, &[debit("a", 1)]), "yes");
}

#[test]
fn prepared_branches_survive_reopening_with_their_holds() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    prepare(&ledger, gid(1), &[debit("a", 60)]);
    let identity = ledger.identity();
    drop(ledger);
    let ledger = Ledger::open(dir.path(), quick()).unwrap();
    assert_eq!(ledger.identity(), identity);
    assert_eq!(run(ledger.list_prepared()).unwrap().branches, [gid(1)]);
    assert_eq!(available(&ledger, "a"), 40);
    assert_eq!(assert_sound(&ledger).pending, 1);
    assert_eq!(run(ledger.abort(gid(1))), Ack::Done);
    assert_eq!(available(&ledger, "a"), 100);
}

#[test]
fn accounts_are_opened_once_from_equity_with_checked_amounts() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), Options { accounts_max: 4, ..quick() }).unwrap();
    let open = |id: &str, amount| run(ledger.open_account(id, amount, Overdraft::Refused));
    open("a", 100).unwrap();
    for (id, amount, expected) in [
        ("a", 1, "exists already"),
        ("settlement", 1, "exists already"),
        ("b", -1, "less than nothing"),
        ("", 1, "1 to 128 bytes"),
        ("x\ny", 1, "control characters"),
    ] {
        let text = open(id, amount).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    open("b", i64::MAX - 100).unwrap();
    assert!(open("c", 1).unwrap_err().to_string().contains("the limit is 4"));
    assert_eq!(assert_sound(&ledger).equity_minor, -i64::MAX);
}

#[test]
fn ledger_names_cannot_leave_the_data_folder() {
    for name in ["", ".", "..", "../x", "a/b", "a\\b", "a\0", ".hidden"] {
        assert!(folder(Path::new("data"), name).is_err(), "{name:?}");
    }
    assert!(folder(Path::new("data"), "rail-a.2").is_ok());
}

#[test]
fn pruning_keeps_balances_recomputable_and_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    for n in 1..=6 {
        prepare(&ledger, gid(n), &[transfer("a", "b", 5)]);
        let _ = if n < 5 { run(ledger.commit(gid(n))) } else { run(ledger.abort(gid(n))) };
    }
    let later = ledger.now().after(Duration::from_secs(1));
    let open = HashSet::from([(gid(1).log, Epoch(1), PhysicalId(1))]);
    // Two openings, three commits, two aborts.
    assert_eq!(run(ledger.prune(later, &open)).unwrap(), 7);
    assert_eq!(run(ledger.prune(later, &open)).unwrap(), 0);
    assert_eq!(assert_sound(&ledger).transfers, 1);
    assert_eq!(run(ledger.commit(gid(1))), Ack::Done);
    drop(ledger);
    let ledger = Ledger::open(dir.path(), quick()).unwrap();
    prepare(&ledger, gid(9), &[transfer("b", "a", 1)]);
    run(ledger.commit(gid(9)));
    assert_sound(&ledger);
    assert_eq!(available(&ledger, "a"), 81);
}

#[test]
fn verify_tells_of_a_balance_that_its_postings_do_not_make() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let mut batch = store::Batch::new();
    let forged = records::AccountRecord { balance_minor: 1_000_000, overdraft: false };
    batch.put(records::ACCOUNTS, b"a".into(), records::encode(&forged));
    run(ledger.0.store.write(batch)).unwrap();
    let report = run(ledger.verify()).unwrap();
    assert_eq!(report.sum_minor, 999_900);
    assert!(!report.is_sound());
    let text = report.problems.join("; ");
    assert!(text.contains("account a: balance 1000000, its postings sum to 100"), "{text}");
}

#[test]
fn an_unreadable_record_is_located_when_the_ledger_opens() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let mut batch = store::Batch::new();
    batch.put(records::ACCOUNTS, b"broken".into(), b"{\"balance".into());
    run(ledger.0.store.write(batch)).unwrap();
    drop(ledger);
    let text = Ledger::open(dir.path(), quick()).err().unwrap().to_string();
    assert!(text.contains("record broken in keyspace accounts"), "{text}");
}

#[test]
fn limits_decline_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    drop(ledger(dir.path()));
    let options = Options { pending_max: 1, ..quick() };
    let ledger = Ledger::open(dir.path(), options).unwrap();
    assert_eq!(prepare(&ledger, gid(1), &[debit("a", 1)]), "yes");
    assert_eq!(prepare(&ledger, gid(2), &[debit("a", 1)]), "too_many_prepared");
    ledger.close().unwrap();
    assert_eq!(prepare(&ledger, gid(3), &[debit("a", 1)]), "too_many_prepared");
    assert!(matches!(run(ledger.commit(gid(1))), Ack::Unknown(_)));
    assert_eq!(available(&ledger, "a"), 99);
}

#[test]
fn concurrent_branches_never_overdraw_and_end_as_they_were_told() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let yes: usize = runtime.block_on(async {
        let tasks: Vec<_> = (0..300)
            .map(|n| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let vote = ledger.prepare(gid(n), &[debit("a", 1)]).await;
                    if n % 3 == 0 {
                        assert_eq!(ledger.abort(gid(n)).await, Ack::Done);
                        return 0;
                    }
                    if vote != Vote::Yes {
                        return 0;
                    }
                    assert_eq!(ledger.commit(gid(n)).await, Ack::Done);
                    1
                })
            })
            .collect();
        let mut yes = 0;
        for task in tasks {
            yes += task.await.unwrap();
        }
        yes
    });
    assert_eq!(available(&ledger, "a"), 100 - i64::try_from(yes).unwrap());
    assert!(yes <= 100);
    assert_eq!(assert_sound(&ledger).pending, 0);
}
