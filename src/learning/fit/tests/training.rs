use std::collections::BTreeMap;

use tempfile::TempDir;

use super::super::{Progress, Recipe, Stage, TrainError, TrainOptions, Trained, train};
use super::*;
use crate::features::{LEG_WIDTH, TXN_WIDTH};
use crate::learning::metrics::{auc_roc, log_loss};
use crate::models::logistic::Logistic;
use crate::models::onnx::Onnx;
use crate::models::ridge::Ridge;
use crate::models::rules::BUILT_IN;
use crate::models::{Bundle, Predictor, Registry, RulesFile, Target};

fn options(until: f64) -> TrainOptions {
    TrainOptions {
        name: "payments".to_owned(),
        until: at(until),
        label_delay: 3 * DAY,
        seed: 5,
        created: at(20.0),
        parent: None,
        rejects: 0,
        recipe: Recipe::default(),
        rules: None,
        features: features::Options::default(),
    }
}

fn trained(rows: &[HistoryRow], until: f64) -> Trained {
    train(rows, &options(until), &|_| {}).unwrap()
}

fn loaded(trained: &Trained) -> Bundle {
    let dir = TempDir::new().unwrap();
    let registry = Registry::open(dir.path());
    let version = registry.write(&trained.draft).unwrap();
    registry.load("payments", version, &features::Calendar::default()).unwrap()
}

#[test]
fn a_trained_bundle_loads_and_beats_majority_and_rules_on_what_came_later() {
    let rows = history(8_000, 1);
    let bundle = loaded(&trained(&rows, 14.0));
    let later = dataset(&rows, window(30.0, 0.0));
    let from = later.times.partition_point(|time| *time < at(17.0));
    let features = &later.txn[from * TXN_WIDTH..];
    for (target, labels) in [(Target::Success, &later.success), (Target::Fraud, &later.fraud)] {
        let labels: Vec<bool> = labels[from..].iter().map(|label| label.unwrap()).collect();
        let mut p = vec![f64::NAN; labels.len()];
        bundle.predict_rows(target, features, &mut p).unwrap();
        let majority = bundle.manifest().targets[&target].metrics["base_rate"];
        let by_rules: Vec<f64> = features
            .chunks_exact(TXN_WIDTH)
            .map(|row| bundle.rules().list(target).unwrap().probability(row))
            .collect();
        let loss = log_loss(&p, &labels).unwrap();
        assert!(loss < 0.9 * log_loss(&vec![majority; p.len()], &labels).unwrap(), "{target}");
        assert!(loss < log_loss(&by_rules, &labels).unwrap(), "{target}");
        assert!(auc_roc(&p, &labels).unwrap() > 0.7, "{target}");
    }
    let legs = later.leg_times.partition_point(|time| *time < at(14.0));
    let mut medians = vec![f64::NAN; later.leg_ms.len() - legs];
    let leg_rows = &later.legs[legs * LEG_WIDTH..];
    bundle.predict_rows(Target::Latency, leg_rows, &mut medians).unwrap();
    let multiplier = bundle.conformal_multiplier();
    let actual = &later.leg_ms[legs..];
    let covered = actual.iter().zip(&medians).filter(|(a, m)| **a <= **m * multiplier).count();
    let coverage = covered as f64 / actual.len() as f64;
    assert!((coverage - 0.999).abs() < 0.005, "{coverage}");
}

#[test]
fn linfa_and_onnx_forms_agree_within_one_millionth_on_random_rows() {
    let trained = trained(&history(4_000, 2), 20.0);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let files = &trained.draft.files;
    for (target, description) in &trained.draft.manifest.targets {
        let form = &files[&format!("{target}.json")];
        let linfa: Box<dyn Predictor> = if *target == Target::Latency {
            Box::new(serde_json::from_slice::<Ridge>(form).unwrap())
        } else {
            Box::new(serde_json::from_slice::<Logistic>(form).unwrap())
        };
        let width = description.features.len();
        let onnx = Onnx::load(&files[&format!("{target}.onnx")], width).unwrap();
        let rows: Vec<f32> = (0..500 * width)
            .map(|_| match rng.random_range(0..20) {
                0 => f32::NAN,
                1 => rng.random_range(-1e6..1e6),
                _ => rng.random_range(-15.0..15.0),
            })
            .collect();
        let (mut a, mut b) = (vec![f64::NAN; 500], vec![f64::NAN; 500]);
        linfa.predict(&rows, &mut a).unwrap();
        onnx.predict(&rows, &mut b).unwrap();
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= 1e-6 * a.abs().max(1.0), "{target}: {a} {b}");
        }
    }
}

#[test]
fn the_same_history_options_and_seed_give_the_same_files() {
    let rows = history(2_000, 3);
    let (a, b) = (trained(&rows, 20.0), trained(&rows, 20.0));
    assert_eq!(a.draft.files, b.draft.files);
    assert_eq!(a.draft.manifest, b.draft.manifest);
    let other = TrainOptions { seed: 6, ..options(20.0) };
    let other = train(&rows, &other, &|_| {}).unwrap();
    assert_eq!(other.draft.files["success.onnx"], a.draft.files["success.onnx"]);
    assert_ne!(other.draft.files["golden.json"], a.draft.files["golden.json"]);
}

#[test]
fn labels_that_come_after_the_cut_off_change_no_file() {
    let rows = history(2_000, 4);
    let mut changed = rows.clone();
    for row in changed.iter_mut().filter(|row| row.labelled_at > Some(at(14.0))) {
        row.fraud = Some(true);
    }
    assert_ne!(changed, rows);
    assert_eq!(trained(&rows, 14.0).draft.files, trained(&changed, 14.0).draft.files);
}

#[test]
fn only_features_that_vary_are_bound() {
    let trained = trained(&history(2_000, 5), 20.0);
    let bound = &trained.draft.manifest.targets[&Target::Success].features;
    assert!(bound.iter().any(|feature| feature.name == "amount_log"));
    assert!(!bound.iter().any(|feature| feature.name == "kind_rtgs"));
    assert!(bound.len() < TXN_WIDTH);
}

/// Trains with some of the history taken away; what was not trained, and why.
fn not_trained(change: impl Fn(&mut HistoryRow)) -> BTreeMap<Target, String> {
    let mut rows = history(1_500, 6);
    rows.iter_mut().for_each(change);
    let trained = trained(&rows, 20.0);
    let manifest = &trained.draft.manifest;
    assert_eq!(manifest.targets.len() + manifest.not_trained.len(), 3);
    loaded(&trained);
    manifest.not_trained.clone()
}

#[test]
fn a_target_that_cannot_be_trained_is_left_out_and_said() {
    let said = not_trained(|row| row.legs.clear());
    assert!(said[&Target::Latency].contains("no legs"), "{said:?}");
    let said = not_trained(|row| row.fraud = None);
    assert!(said[&Target::Fraud].contains("no labelled rows"), "{said:?}");
    let said = not_trained(|row| row.fraud = Some(false));
    assert!(said[&Target::Fraud].contains("are false"), "{said:?}");
    let said = not_trained(|row| row.outcome = Some(HistoryOutcome::Committed));
    assert!(said[&Target::Success].contains("are true"), "{said:?}");
    let said = not_trained(|row| row.fraud = Some(row.txn_id == "t700"));
    assert!(said[&Target::Fraud].contains("only 1 rows of the rarer class"), "{said:?}");
}

#[test]
fn a_target_that_was_not_trained_keeps_the_rules_that_it_had() {
    let mut rows = history(1_500, 7);
    for row in &mut rows {
        row.fraud = None;
    }
    let bundle = loaded(&trained(&rows, 20.0));
    let built_in = RulesFile::parse(BUILT_IN).unwrap();
    assert_eq!(bundle.rules().file().fraud, built_in.fraud);
    assert_ne!(bundle.rules().file().success, built_in.success);
}

#[test]
fn nothing_to_train_on_is_an_error_that_says_why() {
    for rows in [Vec::new(), vec![blank(0, at(1.0))]] {
        let error = train(&rows, &options(20.0), &|_| {}).unwrap_err();
        assert!(matches!(error, TrainError::Nothing(_)), "{error}");
        let text = error.to_string();
        assert!(["success: ", "fraud: ", "latency: "].iter().all(|t| text.contains(t)), "{text}");
    }
    let error = train(&history(100, 1), &options(0.0), &|_| {}).unwrap_err();
    assert!(matches!(error, TrainError::Nothing(_)), "nothing lies before the cut-off");
}

#[test]
fn bad_options_and_histories_out_of_order_are_errors() {
    let mut rows = history(100, 1);
    let error = train(&rows, &TrainOptions { seed: u64::MAX, ..options(20.0) }, &|_| {});
    assert!(matches!(error, Err(TrainError::Seed { .. })));
    rows.swap(3, 50);
    let error = train(&rows, &options(20.0), &|_| {}).unwrap_err();
    assert!(matches!(error, TrainError::Features(_)), "{error}");
}

#[test]
fn a_history_of_a_few_rows_never_panics() {
    for count in [2, 9, 30, 120, 300] {
        let _ = train(&history(count, 8), &options(20.0), &|_| {});
    }
}

#[test]
fn progress_tells_every_stage() {
    let stages = std::sync::Mutex::new(Vec::new());
    let told = |progress: Progress| {
        assert!(progress.done <= progress.total);
        stages.lock().unwrap().push(progress.stage);
    };
    train(&history(1_500, 9), &options(20.0), &told).unwrap();
    let stages = stages.into_inner().unwrap();
    assert!(stages.contains(&Stage::Features) && stages.contains(&Stage::Bundle));
    assert!(Target::ALL.iter().all(|target| stages.contains(&Stage::Fit(*target))));
}
