#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::txn::{
    Admission, Answer, Decision, LegVote, Mode, Outcome, Plan, Protocol, Timestamp, Timings,
};

mod batches;
mod formats;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn open(path: &Path) -> (DecisionLog, Recovered) {
    let options = Options { lazy_flush_after: Duration::ZERO, ..Options::default() };
    DecisionLog::open(path, options).unwrap()
}

fn id(n: u64) -> TxnId {
    TxnId::new(&format!("txn-{n}")).unwrap()
}

fn answer(n: u64, outcome: &str) -> AnswerRecord {
    let answer = Answer {
        id: id(n),
        outcome: outcome.parse().unwrap(),
        reasons: vec![],
        protocol: Some(Protocol::TwoPhase),
        participants: vec!["core".parse().unwrap()],
        insights: None,
        timings_ms: Timings::default(),
    };
    AnswerRecord {
        answer,
        request_hash: "00".repeat(32),
        at: Timestamp::from_micros(i64::try_from(n).unwrap() * 1_000_000),
    }
}

pub(crate) fn row(n: u64) -> OutcomeRow {
    let leg = OutcomeLeg {
        participant: "core".parse().unwrap(),
        vote: Some(LegVote::Yes),
        prepare_ms: Some(1.5),
        timeout_ms: 1_000.0,
        late_ms: None,
        in_flight: 3,
        health: 1.0,
    };
    OutcomeRow {
        txn_id: id(n),
        timestamp: Timestamp::from_micros(1_764_000_000_000_000),
        kind: "UPI".into(),
        customer_id: "c1".into(),
        customer_type: "RETAIL".into(),
        customer_since: None,
        counterparty_id: Some("m1".into()),
        amount_minor: 12_500,
        currency: "INR".into(),
        cross_border: false,
        requires_consistency: true,
        lat: Some(19.07),
        lon: None,
        attempt: 1,
        system_load_ratio: None,
        outcome: Outcome::Committed,
        failure_class: None,
        reasons: vec![],
        total_us: 1_234,
        features: vec![0.5, f32::NAN, -3.25],
        prediction: None,
        plan: Plan {
            admission: Admission::Admit,
            protocol: Protocol::TwoPhase,
            branches: vec![],
            reasons: vec![],
            mode: Mode::Enforce,
        },
        legs: vec![leg],
    }
}

fn decision(log: &DecisionLog, n: u64) -> DecisionRecord {
    let branch =
        RecordedBranch { participant: "core".parse().unwrap(), identity: "ledger:1".into() };
    DecisionRecord {
        epoch: log.epoch(),
        physical: log.next_physical(),
        branches: vec![branch],
        read_only: vec![],
        members: vec![id(n)],
        decision: Decision::Commit,
        at: Timestamp::from_micros(0),
    }
}

fn intent(log: &DecisionLog, n: u64) -> Intent {
    Intent {
        epoch: log.epoch(),
        physical: log.next_physical(),
        branch: RecordedBranch { participant: "core".parse().unwrap(), identity: "l".into() },
        request_hash: "00".repeat(32),
        row: row(n),
    }
}

#[test]
fn each_opening_is_a_later_epoch_of_the_same_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let log_id = log.log_id();
    assert_eq!(
        (log.epoch(), log.next_physical(), log.next_physical()),
        (Epoch(1), PhysicalId(1), PhysicalId(2))
    );
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!((log.log_id(), log.epoch(), log.next_physical()), (log_id, Epoch(2), PhysicalId(1)));
}

#[test]
fn a_log_that_was_overtaken_is_never_opened_again_and_says_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    run(log.overtaken("participant a knows epoch 5")).unwrap();
    drop(log);
    for _ in 0..6 {
        let refused = DecisionLog::open(dir.path(), Options::default());
        let error = refused.map(drop).unwrap_err().to_string();
        assert!(error.contains("old copy") && error.contains("knows epoch 5"), "{error}");
    }
}

#[test]
fn the_newest_execution_that_may_have_committed_is_known_when_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.newest, None);
    // As they end, not as they began; one that was aborted may be newer.
    let decided: Vec<_> = (1..=3).map(|n| decision(&log, n)).collect();
    for (n, decided) in [(3, &decided[2]), (2, &decided[1])] {
        run(log.record_outcomes(Some(decided), &[(answer(n, "committed").given(), &row(n))], None))
            .unwrap();
        run(log.finish(decided.epoch, decided.physical)).unwrap();
    }
    run(log.record_outcomes(None, &[(answer(9, "aborted").given(), &row(9))], None)).unwrap();
    drop(log);
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.newest, Some((Epoch(1), PhysicalId(3))));
    drop(log);
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.newest, Some((Epoch(1), PhysicalId(3))), "nothing new in between");
    run(log.record_intent(&intent(&log, 1))).unwrap();
    drop(log);
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.newest, Some((Epoch(3), PhysicalId(1))));
}

#[test]
fn an_outcome_is_one_write_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let before = log.flushes();
    let decided = decision(&log, 1);
    run(log.record_outcomes(Some(&decided), &[(answer(1, "committed").given(), &row(1))], None))
        .unwrap();
    assert_eq!(log.flushes(), before + 1);
    drop(log);
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.decisions, std::slice::from_ref(&decided));
    assert_eq!(log.answer(&id(1)).unwrap(), Some(answer(1, "committed")));
    assert!(log.answer(&id(2)).unwrap().is_none());
    assert_eq!(log.decision(decided.epoch, decided.physical).unwrap(), Some(decided.clone()));
    let rows = log.outcome_rows(0, 10).unwrap();
    assert_eq!((rows.len(), rows[0].0, &rows[0].1.txn_id), (1, 1, &id(1)));
    run(log.finish(decided.epoch, decided.physical)).unwrap();
    drop(log);
    assert!(open(dir.path()).1.decisions.is_empty());
}

#[test]
fn missing_features_survive_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    run(log.record_outcomes(None, &[(answer(1, "rejected").given(), &row(1))], None)).unwrap();
    let features = log.outcome_rows(1, 1).unwrap()[0].1.features.clone();
    assert_eq!((features[0], features[2]), (0.5, -3.25));
    assert!(features[1].is_nan());
}

#[test]
fn an_intent_is_recovered_until_its_outcome_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let open_intent = intent(&log, 1);
    run(log.record_intent(&open_intent)).unwrap();
    drop(log);
    let (log, recovered) = open(dir.path());
    assert_eq!(recovered.intents.len(), 1);
    let done = Some((open_intent.epoch, open_intent.physical));
    run(log.record_outcomes(None, &[(answer(1, "committed").given(), &row(1))], done)).unwrap();
    drop(log);
    assert!(open(dir.path()).1.intents.is_empty());
}

#[test]
fn rows_are_numbered_without_gaps_under_concurrency() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let log = log.clone();
                tokio::spawn(async move {
                    log.record_outcomes(None, &[(answer(n, "aborted").given(), &row(n))], None)
                        .await
                        .unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let rows = log.outcome_rows(1, 1_000).unwrap();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    let ids: HashSet<_> = rows.iter().map(|row| row.1.txn_id.clone()).collect();
    assert_eq!(ids.len(), 200);
}

#[test]
fn old_answers_are_pruned_but_never_unresolved_ones() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        answer_retention: Duration::from_secs(100),
        lazy_flush_after: Duration::ZERO,
        ..Options::default()
    };
    let (log, _) = DecisionLog::open(dir.path(), options).unwrap();
    let decided = decision(&log, 2);
    let open_intent = intent(&log, 3);
    run(log.record_intent(&open_intent)).unwrap();
    run(log.record_outcomes(None, &[(answer(0, "aborted").given(), &row(0))], None)).unwrap();
    run(log.record_outcomes(None, &[(answer(1, "in_doubt").given(), &row(1))], None)).unwrap();
    run(log.record_outcomes(Some(&decided), &[(answer(2, "committed").given(), &row(2))], None))
        .unwrap();
    run(log.record_outcomes(None, &[(answer(3, "in_doubt").given(), &row(3))], None)).unwrap();
    run(log.record_outcomes(None, &[(answer(50, "aborted").given(), &row(50))], None)).unwrap();
    let now = Timestamp::from_micros(149_000_000);
    assert_eq!(run(log.prune_answers(now)).unwrap(), 1);
    assert!(log.answer(&id(0)).unwrap().is_none());
    for kept in [1, 2, 3, 50] {
        assert!(log.answer(&id(kept)).unwrap().is_some(), "{kept}");
    }
    run(log.update_answer(answer(1, "aborted").given())).unwrap();
    run(log.finish(decided.epoch, decided.physical)).unwrap();
    // What was replaced waits behind those recorded before that.
    assert_eq!(run(log.prune_answers(now)).unwrap(), 1);
    assert_eq!(log.answer(&id(1)).unwrap(), Some(answer(1, "aborted")));
    let later = Timestamp::from_micros(200_000_000);
    assert_eq!(run(log.prune_answers(later)).unwrap(), 2);
    assert!(log.answer(&id(3)).unwrap().is_some(), "its intent is open");
    let left = log.store().prefix(ANSWER_BATCHES, b"").count();
    assert_eq!(left, 1, "batches without an answer leave");
}

#[test]
fn one_range_is_sealed_at_a_time_and_its_rows_leave_with_the_note() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    for n in 1..=5 {
        run(log.record_outcomes(None, &[(answer(n, "aborted").given(), &row(n))], None)).unwrap();
    }
    let range = SealRange { first: 1, last: 3 };
    run(log.open_seal(range)).unwrap();
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!(log.seal_in_progress().unwrap(), Some(range));
    run(log.open_seal(range)).unwrap();
    let other = run(log.open_seal(SealRange { first: 1, last: 4 })).unwrap_err();
    assert_eq!(other.to_string(), "outcome rows 1 to 3 are being sealed already");
    let sealed = SealedRange { range, files: vec![] };
    run(log.close_seal(&sealed)).unwrap();
    assert_eq!(log.seal_in_progress().unwrap(), None);
    assert_eq!(log.sealed().unwrap(), [sealed]);
    assert!(!log.has_outcome(3).unwrap() && log.has_outcome(4).unwrap());
    // Not deleted yet, and gone all the same, also for the next run.
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!(log.sealed_to(), 3);
    assert_eq!(log.outcome_rows(0, 1).unwrap()[0].0, 4);
    assert_eq!(run(log.drop_sealed_rows()).unwrap(), 3);
    assert_eq!(run(log.drop_sealed_rows()).unwrap(), 0);
    let left: Vec<_> = log.outcome_rows(0, 10).unwrap().into_iter().map(|row| row.0).collect();
    assert_eq!(left, [4, 5]);
}

#[test]
fn unreadable_records_are_located_and_do_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let mut batch = Batch::new();
    let key = |n| [&[5][..], id(n).as_str().as_bytes()].concat();
    batch.put(ANSWER_IDS, key(1), vec![1, 7, 0]);
    batch.put(ANSWER_IDS, key(2), vec![1, 8, 0]);
    batch.put(ANSWER_IDS, key(3), vec![9]);
    batch.put(ANSWER_BATCHES, 7_u64.to_be_bytes().to_vec(), b"{".into());
    batch.put(OUTCOMES, 9_u64.to_be_bytes().to_vec(), b"[]".into());
    batch.put(DECISIONS, execution_key(Epoch(1), PhysicalId(1)), b"null".into());
    run(log.write(batch)).unwrap();
    (1..=3).for_each(|n| log.0.seen.add(&key(n)));
    let text = |n| log.answer(&id(n)).unwrap_err().to_string();
    assert!(text(1).contains("record 7 in keyspace answer_batches"), "{}", text(1));
    assert!(text(2).contains("in keyspace answer_ids") && text(2).contains("answers 8"));
    assert!(text(3).contains("in keyspace answer_ids"), "{}", text(3));
    let text = log.outcome_rows(0, 10).unwrap_err().to_string();
    assert!(text.contains("record 9 in keyspace outcomes"), "{text}");
    drop(log);
    let text = DecisionLog::open(dir.path(), Options::default()).err().unwrap().to_string();
    assert!(text.contains("in keyspace decisions"), "{text}");
}

#[test]
fn a_ledger_is_not_opened_as_a_decision_log_nor_one_log_twice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = crate::store::Options::new("ledger", 1, &["accounts"]);
    drop(Store::open(dir.path(), &ledger).unwrap());
    let text = DecisionLog::open(dir.path(), Options::default()).err().unwrap().to_string();
    assert!(text.contains("is a ledger, not a decision log"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let _log = open(dir.path());
    let text = DecisionLog::open(dir.path(), Options::default()).err().unwrap().to_string();
    assert!(text.contains("in use by another process"), "{text}");
}

#[test]
fn futures_may_move_between_threads() {
    fn is_send(_: impl Send) {}
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    is_send(log.prune_answers(Timestamp::from_micros(0)));
    is_send(log.finish(Epoch(1), PhysicalId(1)));
}
