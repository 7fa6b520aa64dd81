#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

use super::world::DEFAULT_WORLD;
use super::*;
use crate::learning::history::{self, HistoryWriter, LegsWriter};
use crate::txn::{HistoryOutcome, LegVote};

fn options(seed: u64, rows: u64) -> Options {
    Options { seed, rows, ..Options::default() }
}

fn generator(options: Options) -> Generator {
    Generator::new(World::shipped(), options).unwrap()
}

fn hash(seed: u64) -> Vec<u8> {
    let mut transactions = HistoryWriter::new(Vec::new()).unwrap();
    let mut legs = LegsWriter::new(Vec::new()).unwrap();
    let mut truths = String::new();
    for of in generator(options(seed, 3_000)) {
        transactions.write(&of.row).unwrap();
        legs.write(&of.row).unwrap();
        write!(truths, "{:?}", of.truth).unwrap();
    }
    let bytes = [transactions.finish().unwrap(), legs.finish().unwrap(), truths.into_bytes()];
    Sha256::digest(bytes.concat()).to_vec()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

#[test]
fn base_rates_of_the_shipped_world_lie_in_their_bands_for_every_seed() {
    for seed in [1, 2, 3, 4, 5] {
        let mut summary = Summary::default();
        for of in generator(options(seed, 200_000)) {
            summary.count(&of);
        }
        let share = |count: u64| count as f64 / summary.rows as f64;
        let check = |what: &str, value: f64, [low, high]: [f64; 2]| {
            assert!((low..=high).contains(&value), "seed {seed}: {what} {value} {summary:?}");
        };
        assert_eq!(summary.rows, 200_000);
        check("committed", share(summary.committed), [0.94, 0.955]);
        check("business", share(summary.business_failures), [0.042, 0.058]);
        check("technical", share(summary.technical_failures), [0.001, 0.0099]);
        check("success below 0.30", share(summary.success_below_30), [0.005, 0.04]);
        check("fraud", share(summary.fraud.values().sum()), [0.0065, 0.0095]);
        assert_eq!(summary.fraud.len(), Typology::ALL.len(), "seed {seed}: {summary:?}");
        for (typology, count) in &summary.fraud {
            check(typology, share(*count), [0.0003, 0.003]);
        }
        let [first, last] = summary.span.unwrap();
        let days = last.since(first).as_secs_f64() / 86_400.0;
        check("days", days, [89.0, 91.0]);
    }
}

#[test]
fn true_probabilities_are_calibrated() {
    for seed in [1, 2] {
        let mut bins = [(0u32, 0.0, 0u32, 0.0, 0u32); 10];
        for of in generator(options(seed, 200_000)) {
            let bin = &mut bins[((of.truth.success * 10.0) as usize).min(9)];
            bin.0 += 1;
            bin.1 += of.truth.success;
            bin.2 += u32::from(of.row.outcome == Some(HistoryOutcome::Committed));
            bin.3 += of.truth.fraud;
            bin.4 += u32::from(of.truth.typology.is_some());
        }
        for (count, success, committed, fraud, frauds) in bins {
            let slack = |expected: f64| 5.0 * expected.max(4.0).sqrt();
            let n = f64::from(count);
            assert!((success - f64::from(committed)).abs() <= slack(n * 0.25), "{bins:?}");
            assert!((fraud - f64::from(frauds)).abs() <= slack(fraud), "{bins:?}");
        }
    }
}

#[test]
fn instants_increase_strictly_and_rows_make_sense() {
    let mut last = None;
    let mut attempts: HashMap<String, u32> = HashMap::new();
    for Generated { row, truth } in generator(options(4, 30_000)) {
        assert!(last < Some(row.timestamp), "{row:?}");
        last = Some(row.timestamp);
        assert!(row.payment.amount.minor > 0 && row.payment.customer.since <= last, "{row:?}");
        let participants: Vec<_> = row.legs.iter().map(|leg| leg.participant.clone()).collect();
        assert_eq!(participants, row.payment.participants);
        assert!((2..=3).contains(&participants.len()));
        let all_yes = row.legs.iter().all(|leg| leg.vote == LegVote::Yes);
        assert_eq!(all_yes, row.succeeded().unwrap(), "{row:?}");
        assert_eq!(all_yes, row.failure_class.is_none());
        assert!((0.0..=1.0).contains(&truth.success) && (0.0..=1.0).contains(&truth.fraud));
        assert_eq!(row.fraud.is_some(), row.labelled_at.is_some());
        if let Some(fraud) = row.fraud {
            assert_eq!(fraud, truth.typology.is_some());
            assert!(row.labelled_at > last);
        }
        let attempt = attempts.entry(row.payment_id).or_default();
        assert_eq!(row.payment.attempt, *attempt + 1);
        *attempt += 1;
    }
    assert!(attempts.values().any(|attempt| *attempt > 1));
}

#[test]
fn most_fraud_is_known_within_a_week_and_the_rest_later() {
    let (mut soon, mut late) = (0, 0);
    for Generated { row, .. } in generator(options(5, 100_000)) {
        if row.fraud == Some(true) {
            let days = row.labelled_at.unwrap().since(row.timestamp).as_secs_f64() / 86_400.0;
            *(if days < 7.0 { &mut soon } else { &mut late }) += 1;
        }
    }
    assert!(soon > 8 * late && late > 0, "{soon} {late}");
}

#[test]
fn tiny_and_dense_histories_are_generated_too() {
    for (rows, days, customers) in [(1, 1, 1), (500, 1, 1), (2_000, 400, 3), (20_000, 1, 50)] {
        let options = Options { seed: 9, rows, days, customers, ..Options::default() };
        assert_eq!(generator(options).count() as u64, rows);
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let bad = [
        ("rows", Options { rows: 0, ..Options::default() }),
        ("days", Options { days: 0, ..Options::default() }),
        ("customers", Options { customers: 2_000_000, ..Options::default() }),
        ("start", Options { start: "0001-01-01".parse().unwrap(), ..Options::default() }),
    ];
    for (name, options) in bad {
        let error = Generator::new(World::shipped(), options).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

fn check_refused(from: &str, to: &str, wanted: &[&str]) {
    assert!(DEFAULT_WORLD.contains(from), "{from} is gone from the shipped world");
    let error = World::parse(&DEFAULT_WORLD.replacen(from, to, 1), "w.toml").unwrap_err();
    let error = error.to_string();
    assert!(wanted.iter().all(|text| error.contains(text)), "{error}");
}

#[test]
fn worlds_out_of_range_are_refused_with_key_value_and_limit() {
    let sharpness = ["funds.sharpness", "-1", "between 0"];
    check_refused("sharpness = 1.8", "sharpness = -1.0", &sharpness);
    check_refused("sharpness = 1.8", "sharpness = nan", &["funds.sharpness", "NaN"]);
    check_refused("format = 1", "format = 2", &["format is 2", "must be 1"]);
    check_refused("tail_ratio = 0.010", "tail_ratio = 1.5", &["participants.core.tail_ratio"]);
    check_refused("lat = 19.076", "lat = 119.076", &["Mumbai", "lat is 119.076"]);
    check_refused("rows = [12, 40]", "rows = [40, 12]", &["compromised_counterparty.rows"]);
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_their_place() {
    check_refused("format = 1", "format = 1\nsharpnes = 2", &["w.toml", "sharpnes", "line"]);
    check_refused("sharpness = 1.8", "sharpness = 'x'", &["w.toml", "sharpness", "line"]);
    check_refused("[kinds.UPI]", "[kinds.CASH]", &["CASH", "UPI"]);
}

#[test]
fn names_that_lead_nowhere_are_refused() {
    let unknown = ["kinds.INTERNAL.participants is vault", "[participants] or [routes]"];
    check_refused("[\"core\", \"savings\"]", "[\"core\", \"vault\"]", &unknown);
    let twice = ["kinds.INTERNAL.participants is core", "once"];
    check_refused("[\"core\", \"savings\"]", "[\"core\", \"core\"]", &twice);
    check_refused("rail-a = 0.6, rail-b", "rail-x = 0.6, rail-b", &["routes.settlement", "rail-x"]);
}

#[test]
fn a_missing_world_file_is_an_error_with_its_name() {
    let error = World::read(std::path::Path::new("no/such/world.toml")).unwrap_err();
    assert!(error.to_string().contains("no/such/world.toml"), "{error}");
}

#[test]
fn every_law_of_another_world_is_obeyed() {
    let text = DEFAULT_WORLD
        .replace("sharpness = 1.8", "sharpness = 0.0")
        .replace("utc_offset_minutes = 330", "utc_offset_minutes = -300")
        .replace("currency = \"INR\"", "currency = \"EUR\"");
    let world = World::parse(&text, "w").unwrap();
    let rows: Vec<_> = Generator::new(world, options(1, 5_000)).unwrap().collect();
    let declined = rows.iter().filter(|of| of.truth.success < 0.6).count();
    // Without sharpness funds decide by the toss of a coin.
    assert!(declined > 4_900, "{declined}");
    assert!(rows.iter().all(|of| of.row.payment.amount.currency.as_str() == "EUR"));
}

#[test]
fn latency_follows_load_and_outage() {
    let world = World::shipped();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut mean_log = |load: f64, outage: bool| {
        let draw = |_| world.latency_ms("rail-a", load, outage, &mut rng).unwrap().ln();
        (0..2_000).map(draw).sum::<f64>() / 2_000.0
    };
    let (idle, busy, out) = (mean_log(0.2, false), mean_log(1.2, false), mean_log(0.2, true));
    assert!(idle < busy && busy < out, "{idle} {busy} {out}");
    assert!(world.latency_ms("nobody", 0.2, false, &mut rng).is_none());
}

#[test]
fn a_history_that_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output {
        transactions: folder.path().join("h.csv"),
        legs: Some(folder.path().join("none/l.csv")),
        truth: None,
    };
    let error = files::write(generator(options(1, 10)), &output, |_| {}).unwrap_err();
    assert!(error.to_string().contains("l.csv"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn files_hold_one_line_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let output =
        Output { transactions: at("h.csv"), legs: Some(at("l.csv")), truth: Some(at("t.csv")) };
    let summary = files::write(generator(options(1, 100)), &output, |_| {}).unwrap();
    assert_eq!(summary.rows, 100);
    let lines = |name: &str| std::fs::read_to_string(at(name)).unwrap().lines().count();
    assert_eq!((lines("h.csv"), lines("t.csv")), (101, 101));
    assert!(lines("l.csv") > 200);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_generated_history_reads_back_as_it_was() {
    let rows: Vec<_> = generator(options(1, 5_000)).map(|of| of.row).collect();
    let folder = tempfile::tempdir().unwrap();
    let (path, legs) = (folder.path().join("h.csv"), folder.path().join("l.csv"));
    history::write(&path, Some(&legs), &rows).unwrap();
    let history = history::read(&path, Some(&legs), &history::ReadOptions::default()).unwrap();
    assert!(history.report.notes().is_empty(), "{:?}", history.report.notes());
    assert!(history.rows == rows);
}
