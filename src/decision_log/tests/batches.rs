//! Rows and answers of many members in one value.

use super::*;

/// Records members as one batch.
fn record(log: &DecisionLog, numbers: std::ops::Range<u64>) {
    let members: Vec<_> = numbers.map(|n| (answer(n, "committed"), row(n))).collect();
    let recorded: Vec<_> = members.iter().map(|(answer, row)| (answer.given(), row)).collect();
    run(log.record_outcomes(None, &recorded, None)).unwrap();
}

fn sequences(log: &DecisionLog, from: u64, count_max: usize) -> Vec<u64> {
    log.outcome_rows(from, count_max).unwrap().into_iter().map(|(sequence, _)| sequence).collect()
}

#[test]
fn rows_of_large_batches_are_read_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let last = rows::RUN_MAX as u64 * 2 + 10;
    record(&log, 1..last - 4);
    record(&log, last - 4..last - 3);
    record(&log, last - 3..last + 1);
    let all = log.outcome_rows(0, usize::MAX).unwrap();
    assert!(all.iter().map(|(sequence, _)| *sequence).eq(1..=last));
    assert!(all.iter().all(|(sequence, row)| row.txn_id == id(*sequence)));
    let run = rows::RUN_MAX as u64;
    for from in [0, 1, 2, run - 1, run, run + 1, run + 2, 2 * run + 1, last - 4, last - 3, last] {
        for count_max in [1, 3, 2_000] {
            let expected: Vec<_> = (from.max(1)..=last).take(count_max).collect();
            assert_eq!(sequences(&log, from, count_max), expected, "{count_max} from {from}");
        }
        assert!(log.has_outcome(from.max(1)).unwrap());
    }
    assert!(sequences(&log, last + 1, 5).is_empty() && sequences(&log, 1, 0).is_empty());
    assert!(!log.has_outcome(last + 1).unwrap() && !log.has_outcome(0).unwrap());
    for n in [1, 2, run, run + 1, last - 4, last] {
        assert_eq!(log.answer(&id(n)).unwrap(), Some(answer(n, "committed")), "{n}");
    }
}

#[test]
fn a_range_may_end_within_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    record(&log, 1..6);
    record(&log, 6..8);
    let seal = |log: &DecisionLog, first, last| {
        let range = SealRange { first, last };
        run(log.open_seal(range)).unwrap();
        run(log.close_seal(&SealedRange { range, files: vec![] })).unwrap();
    };
    seal(&log, 1, 3);
    assert!(!log.has_outcome(3).unwrap() && log.has_outcome(4).unwrap());
    assert_eq!(sequences(&log, 0, 10), [4, 5, 6, 7]);
    drop(log);
    let (log, _) = open(dir.path());
    assert_eq!(run(log.drop_sealed_rows()).unwrap(), 0, "two of its rows are not sealed");
    assert_eq!(sequences(&log, 2, 3), [4, 5, 6]);
    seal(&log, 4, 6);
    assert_eq!(run(log.drop_sealed_rows()).unwrap(), 5);
    assert_eq!(sequences(&log, 0, 10), [7]);
    drop(log);
    let (log, _) = open(dir.path());
    record(&log, 8..10);
    assert_eq!(sequences(&log, 0, 10), [7, 8, 9], "sequences go on without a gap");
}

#[test]
fn a_batch_of_answers_stays_for_those_in_doubt_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        answer_retention: Duration::from_secs(100),
        lazy_flush_after: Duration::ZERO,
        ..Options::default()
    };
    let (log, _) = DecisionLog::open(dir.path(), options).unwrap();
    let members: Vec<_> =
        (0..5).map(|n| (answer(n, if n == 3 { "in_doubt" } else { "aborted" }), row(n))).collect();
    let recorded: Vec<_> = members.iter().map(|(answer, row)| (answer.given(), row)).collect();
    run(log.record_outcomes(None, &recorded, None)).unwrap();
    run(log.update_answer(answer(4, "heuristic").given())).unwrap();
    let now = Timestamp::from_micros(104_000_000);
    assert_eq!(run(log.prune_answers(now)).unwrap(), 0, "one of them is young");
    let now = Timestamp::from_micros(200_000_000);
    assert_eq!(run(log.prune_answers(now)).unwrap(), 4);
    for gone in [0, 1, 2, 4] {
        assert_eq!(log.answer(&id(gone)).unwrap(), None, "{gone}");
    }
    assert_eq!(log.answer(&id(3)).unwrap(), Some(answer(3, "in_doubt")));
    run(log.update_answer(answer(3, "aborted").given())).unwrap();
    assert_eq!(log.answer(&id(3)).unwrap(), Some(answer(3, "aborted")));
    assert_eq!(run(log.prune_answers(now)).unwrap(), 1);
    assert_eq!(log.store().prefix(ANSWER_BATCHES, b"").count(), 0);
    assert_eq!(log.store().prefix(ANSWER_IDS, b"").count(), 0);
    // Numbers begin again where nothing leads to the old ones.
    record(&log, 3..4);
    assert_eq!(log.answer(&id(3)).unwrap(), Some(answer(3, "committed")));
}

#[test]
fn numbers_of_answers_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..4 {
        let (log, _) = open(dir.path());
        record(&log, 2 * n..2 * n + 1);
        record(&log, 2 * n + 1..2 * n + 2);
        for earlier in 0..2 * n + 2 {
            let found = log.answer(&id(earlier)).unwrap();
            assert_eq!(found, Some(answer(earlier, "committed")), "{earlier}");
        }
    }
}

#[test]
fn who_has_no_answer_is_told_without_reading_once_all_ids_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    record(&log, 0..100);
    drop(log);
    let (log, _) = open(dir.path());
    assert!(log.0.seen.is_complete());
    record(&log, 100..200);
    let perhaps = |n| log.0.seen.perhaps(&answers::key_of(&id(n)));
    assert!((0..200).all(perhaps));
    assert!((200..1_200).filter(|n| perhaps(*n)).count() < 10);
}
