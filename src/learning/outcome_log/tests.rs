#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use polars::prelude::{DataType, ParquetReader, SerReader, TimeUnit};

use super::*;
use crate::decision_log::{Decisions as _, Given, OutcomeLeg};
use crate::store::testing::SmallDisk;
use crate::txn::{
    Admission, Answer, LatencyPrediction, LegVote, Mode, Outcome, Plan, Prediction, Probability,
    Protocol, Reason, ReasonCode, ServedBy, Timings, TxnId,
};

const DAY_MICROS: i64 = 86_400_000_000;
/// 2026-01-31T00:00:00Z.
const START_MICROS: i64 = 1_769_817_600_000_000;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn decision_log(path: &Path) -> DecisionLog {
    let options = decision_log::Options {
        lazy_flush_after: Duration::ZERO,
        ..decision_log::Options::default()
    };
    DecisionLog::open(&path.join("log"), options).unwrap().0
}

fn options(path: &Path) -> Options {
    Options {
        rows_max: 10,
        feature_names: vec!["one".into(), "two".into()],
        ..Options::new(path.join("outcomes"))
    }
}

fn row(n: u64, micros: i64) -> OutcomeRow {
    let leg = OutcomeLeg {
        participant: "core".parse().unwrap(),
        vote: Some(LegVote::Timeout),
        prepare_ms: Some(1.5),
        timeout_ms: 1_000.0,
        late_ms: Some(1_200.0),
        in_flight: 3,
        health: 1.0,
    };
    let latency = LatencyPrediction {
        participant: "core".parse().unwrap(),
        median_ms: 20.0,
        upper_ms: 80.0,
        served_by: ServedBy::Model,
    };
    let prediction = Prediction {
        success: Probability::new(0.9).unwrap(),
        success_by: ServedBy::Model,
        fraud: Probability::new(0.01).unwrap(),
        fraud_by: ServedBy::Rules,
        latency: vec![latency],
        model_version: "payments/1".into(),
    };
    OutcomeRow {
        txn_id: TxnId::new(&format!("txn-{n}")).unwrap(),
        timestamp: Timestamp::from_micros(micros),
        kind: "UPI".into(),
        customer_id: "c1".into(),
        customer_type: "RETAIL".into(),
        customer_since: Some(Timestamp::from_micros(START_MICROS)),
        counterparty_id: None,
        amount_minor: 12_500,
        currency: "INR".into(),
        cross_border: false,
        requires_consistency: true,
        lat: Some(19.07),
        lon: None,
        attempt: 1,
        system_load_ratio: None,
        outcome: Outcome::Aborted,
        failure_class: Some("technical".into()),
        reasons: vec!["prepare_timeout".into(), "technical_failure".into()],
        total_us: 1_234,
        features: vec![0.5, f32::NAN],
        prediction: (n % 2 == 1).then_some(prediction),
        plan: Plan {
            admission: Admission::Admit,
            protocol: Protocol::TwoPhase,
            branches: vec![],
            reasons: vec![Reason::new(ReasonCode::Observed, "would have been rejected")],
            mode: Mode::Observe,
        },
        legs: vec![leg],
    }
}

fn record_row(log: &DecisionLog, row: &OutcomeRow) {
    let answer = Answer {
        id: row.txn_id.clone(),
        outcome: row.outcome,
        reasons: vec![],
        protocol: None,
        participants: vec![],
        insights: None,
        timings_ms: Timings::default(),
    };
    let given = Given { answer: &answer, request_hash: "", at: row.timestamp };
    run(log.record_outcomes(None, &[(given, row)], None)).unwrap();
}

/// Records transactions, one every six hours.
fn record(log: &DecisionLog, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        record_row(log, &row(n, START_MICROS + i64::try_from(n).unwrap() * DAY_MICROS / 4));
    }
}

fn seal_all(outcomes: &OutcomeLog) {
    while run(outcomes.seal()).unwrap().is_some() {}
}

fn assert_sealed_exactly_once(path: &Path, count: u64) {
    let mut seen: HashMap<String, u64> = HashMap::new();
    for id in txn_ids(&path.join("outcomes")).unwrap() {
        *seen.entry(id).or_default() += 1;
    }
    for n in 1..=count {
        assert_eq!(seen.remove(&format!("txn-{n}")), Some(1), "txn-{n}");
    }
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(parquet_rows(&path.join("outcomes")), count, "rows of all files, without manifest");
}

/// Rows of every file that a reader would find who ignores the manifest.
fn parquet_rows(dir: &Path) -> u64 {
    let mut rows = 0;
    for day in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if !day.is_dir() {
            continue;
        }
        for file in fs::read_dir(day).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "parquet") {
                let name = file.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                let input = fs::File::open(dir.join(name)).unwrap();
                rows += ParquetReader::new(input).finish().unwrap().height() as u64;
            }
        }
    }
    rows
}

#[test]
fn every_row_is_sealed_once_into_its_day() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    let outcomes = run(OutcomeLog::open(log.clone(), options(dir.path()))).unwrap();
    assert!(run(outcomes.seal()).unwrap().is_none());
    record(&log, 1..=25);
    let sealed = run(outcomes.seal()).unwrap().unwrap();
    assert_eq!(sealed.range, SealRange { first: 1, last: 10 });
    let names: Vec<_> = sealed.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names[0], "day=2026-01-31/000000000001-000000000010.parquet");
    assert_eq!(names.len(), 3);
    seal_all(&outcomes);
    assert_sealed_exactly_once(dir.path(), 25);
    assert!(log.outcome_rows(0, 10).unwrap().is_empty());
}

#[test]
fn after_a_crash_at_any_step_each_transaction_is_in_it_exactly_once() {
    let steps = [Step::Announced, Step::Written, Step::Renamed, Step::Noted, Step::Published];
    // Each step comes once a range or once a file; three files a range here.
    for (step, nth) in steps.into_iter().flat_map(|step| (1..=4).map(move |nth| (step, nth))) {
        let dir = tempfile::tempdir().unwrap();
        {
            let log = decision_log(dir.path());
            record(&log, 1..=13);
            let mut outcomes = run(OutcomeLog::open(log, options(dir.path()))).unwrap();
            let left = Mutex::new(nth);
            outcomes.hook = Arc::new(move |at| {
                let mut left = left.lock().unwrap();
                if at != step {
                    return Ok(());
                }
                *left -= 1;
                if *left > 0 { Ok(()) } else { Err(Error::Interrupted("crash".into())) }
            });
            let crashed = (0..2).any(|_| run(outcomes.seal()).is_err());
            let per_file = matches!(step, Step::Written | Step::Renamed);
            assert!(crashed || (nth > 2 && !per_file), "{step:?} {nth}");
        }
        let log = decision_log(dir.path());
        record(&log, 14..=16);
        // Another limit must not change what an announced range is.
        let options = Options { rows_max: 7, ..options(dir.path()) };
        let outcomes = run(OutcomeLog::open(log, options)).unwrap();
        seal_all(&outcomes);
        assert_sealed_exactly_once(dir.path(), 16);
    }
}

#[test]
fn a_torn_temporary_file_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    record(&log, 1..=1);
    let day = dir.path().join("outcomes/day=2026-01-31");
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join(".000000000001-000000000001.parquet.new"), "PAR1 torn").unwrap();
    let outcomes = run(OutcomeLog::open(log, options(dir.path()))).unwrap();
    seal_all(&outcomes);
    assert_sealed_exactly_once(dir.path(), 1);
    assert_eq!(fs::read_dir(day).unwrap().count(), 1);
}

#[test]
fn columns_are_flat_and_typed() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    record(&log, 1..=2);
    let outcomes = run(OutcomeLog::open(log.clone(), options(dir.path()))).unwrap();
    record_row(&log, &OutcomeRow { features: vec![1.0], ..row(3, START_MICROS) });
    seal_all(&outcomes);
    let frame = &read_all(&dir.path().join("outcomes")).unwrap()[0];
    let of = |name: &str| frame.column(name).unwrap();
    let datetime = DataType::Datetime(TimeUnit::Microseconds, None);
    for (name, dtype) in [
        ("sequence", DataType::Int64),
        ("timestamp", datetime.clone()),
        ("customer_since", datetime),
        ("amount_minor", DataType::Int64),
        ("cross_border", DataType::Boolean),
        ("lat", DataType::Float64),
        ("success_probability", DataType::Float64),
        ("f_one", DataType::Float32),
        ("legs", DataType::String),
    ] {
        assert_eq!(of(name).dtype(), &dtype, "{name}");
    }
    assert_eq!(frame.height(), 3);
    assert_eq!(of("f_one").f32().unwrap().get(0), Some(0.5));
    assert!(of("f_two").f32().unwrap().get(0).unwrap().is_nan());
    assert_eq!(of("f_one").f32().unwrap().get(2), None);
    assert_eq!(of("features_json").str().unwrap().get(2), Some("[1.0]"));
    assert_eq!(of("success_probability").f64().unwrap().get(0), Some(0.9));
    assert_eq!(of("success_probability").f64().unwrap().get(1), None);
    assert_eq!(of("reasons").str().unwrap().get(0), Some("prepare_timeout,technical_failure"));
    assert_eq!(of("total_ms").f64().unwrap().get(0), Some(1.234));
    let legs: serde_json::Value =
        serde_json::from_str(of("legs").str().unwrap().get(0).unwrap()).unwrap();
    assert_eq!(legs[0]["late_ms"], 1_200.0);
}

#[test]
fn a_range_is_due_when_full_or_old() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    let outcomes = run(OutcomeLog::open(log.clone(), options(dir.path()))).unwrap();
    let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
    let due =
        |seconds: i64| run(outcomes.seal_if_due(at(seconds))).unwrap().map(|sealed| sealed.range);
    assert_eq!(due(0), None);
    record(&log, 1..=9);
    assert_eq!(due(0), None);
    record(&log, 10..=11);
    assert_eq!(due(1), Some(SealRange { first: 1, last: 10 }));
    assert_eq!(due(2), None);
    assert_eq!(due(301), None);
    assert_eq!(due(302), Some(SealRange { first: 11, last: 11 }));
}

#[test]
fn claimed_dates_cannot_make_a_range_of_many_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    for n in 1..=40 {
        record_row(&log, &row(n, START_MICROS + i64::try_from(n).unwrap() * DAY_MICROS));
    }
    let options = Options { rows_max: 100, ..options(dir.path()) };
    let outcomes = run(OutcomeLog::open(log, options)).unwrap();
    assert_eq!(run(outcomes.seal()).unwrap().unwrap().files.len(), 32);
    seal_all(&outcomes);
    assert_sealed_exactly_once(dir.path(), 40);
}

#[test]
fn a_damaged_file_or_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    record(&log, 1..=1);
    let outcomes = run(OutcomeLog::open(log, options(dir.path()))).unwrap();
    let sealed = run(outcomes.seal()).unwrap().unwrap();
    let folder = dir.path().join("outcomes");
    let file = folder.join(&sealed.files[0].path);
    let whole = fs::read(&file).unwrap();
    for damage in [&whole[..whole.len() / 2], b"".as_slice(), b"no parquet at all"] {
        fs::write(&file, damage).unwrap();
        let text = read_all(&folder).unwrap_err().to_string();
        assert!(text.contains("day=2026-01-31") && text.contains("damaged"), "{text}");
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(read_all(&folder), Err(Error::Io { .. })));
    fs::write(folder.join("manifest.json"), "{").unwrap();
    assert!(read_all(&folder).unwrap_err().to_string().contains("manifest.json is damaged"));
}

#[test]
fn a_folder_that_cannot_be_written_keeps_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    record(&log, 1..=3);
    let outcomes = run(OutcomeLog::open(log.clone(), options(dir.path()))).unwrap();
    fs::write(dir.path().join("outcomes/day=2026-01-31"), "in the way").unwrap();
    assert!(matches!(run(outcomes.seal()), Err(Error::Io { .. })));
    assert_eq!(log.outcome_rows(0, 10).unwrap().len(), 3);
    fs::remove_file(dir.path().join("outcomes/day=2026-01-31")).unwrap();
    seal_all(&outcomes);
    assert_sealed_exactly_once(dir.path(), 3);
}

#[test]
fn a_full_disk_keeps_the_rows_until_there_is_space() {
    let Some(disk) = SmallDisk::mount("16k") else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    record(&log, 1..=8);
    let filler = disk.path().join("filler");
    let small = Options { dir: disk.path().join("outcomes"), ..options(dir.path()) };
    let outcomes = run(OutcomeLog::open(log.clone(), small.clone())).unwrap();
    let _until_full = fs::write(&filler, vec![0; 64 << 10]);
    let text = run(outcomes.seal()).unwrap_err().to_string();
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(log.outcome_rows(0, 10).unwrap().len(), 8);
    drop(outcomes);
    fs::remove_file(filler).unwrap();
    disk.grow("4m");
    run(OutcomeLog::open(log, small.clone())).unwrap();
    assert_eq!(txn_ids(&small.dir).unwrap().len(), 8);
}

#[test]
fn a_state_rebuilt_from_sealed_and_unsealed_rows_gives_the_features_of_one_that_saw_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    let outcomes = run(OutcomeLog::open(log.clone(), options(dir.path()))).unwrap();
    record(&log, 1..=20);
    seal_all(&outcomes);
    record(&log, 21..=25);
    let outcomes_dir = dir.path().join("outcomes");
    let empty = || features::State::new(features::Options::default()).unwrap();

    let recent = recent(&outcomes_dir, &log, 1_000).unwrap();
    assert_eq!((recent.rows.len(), recent.unreadable, recent.faults.len()), (25, 0, 0));
    let last = recent.rows[24].clone();
    let rebuilt = recent.warm_up(empty()).unwrap();

    // What the coordinator does as it goes along.
    let mut live = empty();
    for n in 1..=25 {
        let row = row(n, START_MICROS + i64::try_from(n).unwrap() * DAY_MICROS / 4);
        let payment = &last.payment;
        live.apply(&features::Event::Arrived { at: row.timestamp, payment });
        let at = row.timestamp.after(Duration::from_micros(row.total_us));
        let (outcome, failure_class) = (crate::txn::HistoryOutcome::Aborted, last.failure_class);
        live.apply(&features::Event::Finished { at, payment, outcome, failure_class });
        let given_up = OutcomeLeg { late_ms: None, ..row.legs[0].clone() };
        live.apply(&features::Event::Leg { at, leg: &given_up.history().unwrap() });
        let late = row.timestamp.after(Duration::from_millis(1_200));
        live.apply(&features::Event::Leg { at: late, leg: &row.legs[0].history().unwrap() });
    }
    let at = last.timestamp.after(Duration::from_hours(1));
    let vector = |state: &features::State| {
        let features = state.extract(&last.payment, &[features::LegContext::default()], at);
        let bits = features.txn.iter().chain(features.legs.iter().flatten());
        bits.map(|value| value.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(vector(&rebuilt), vector(&live));
    assert_ne!(vector(&rebuilt), vector(&empty()));
}

#[test]
fn the_newest_rows_are_taken_and_a_damaged_file_is_told_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = decision_log(dir.path());
    let outcomes = run(OutcomeLog::open(log.clone(), options(dir.path()))).unwrap();
    let outcomes_dir = dir.path().join("outcomes");
    assert!(recent(&dir.path().join("nowhere"), &log, 10).unwrap().rows.is_empty());
    record(&log, 1..=30);
    seal_all(&outcomes);
    let newest = recent(&outcomes_dir, &log, 7).unwrap();
    let ids: Vec<_> = newest.rows.iter().map(|row| row.txn_id.as_str()).collect();
    assert_eq!(ids, ["txn-24", "txn-25", "txn-26", "txn-27", "txn-28", "txn-29", "txn-30"]);
    assert!(recent(&outcomes_dir, &log, 0).unwrap().rows.is_empty());

    let file = manifest(&outcomes_dir).unwrap().ranges[0].files[0].clone();
    fs::remove_file(outcomes_dir.join("manifest.json")).unwrap();
    assert_eq!(recent(&outcomes_dir, &log, 1_000).unwrap().rows.len(), 30);
    fs::write(outcomes_dir.join(&file.path), "PAR1 no more").unwrap();
    let rest = recent(&outcomes_dir, &log, 1_000).unwrap();
    assert_eq!(rest.rows.len() as u64, 30 - file.rows);
    assert!(rest.faults[0].contains(&file.path), "{:?}", rest.faults);
}
