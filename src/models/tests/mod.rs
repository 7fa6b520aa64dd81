//! Tests of the models, on small invented data.
#![allow(clippy::unwrap_used)]

mod bundles;
mod linear;
mod registries;
mod rule_lists;
mod serving_falls_back;

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::basis::Basis;
use super::bundle::{Draft, GOLDEN, Golden, RULES};
use super::calibration::Calibration;
use super::conformal::Conformal;
use super::logistic::{Logistic, Sample};
use super::manifest::{BoundFeature, FORMAT, Manifest, TargetManifest};
use super::onnx_export::encode;
use super::ridge::Ridge;
use super::rules::BUILT_IN;
use super::{Predictor, Target};
use crate::features::{Calendar, leg_features, txn_features};
use crate::txn::Timestamp;

const QUANTILES: [f64; 5] = [0.001, 0.3, 0.7, 0.95, 0.999];

/// Rows with skew, steps, missing values and a constant, and an event that depends on them.
fn sample(rows: usize, width: usize, seed: u64) -> (Vec<f32>, Vec<bool>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..rows {
        let row: Vec<f32> = (0..width)
            .map(|input| match input % 5 {
                0 => rng.random_range(-3.0..3.0),
                1 => (rng.random_range(0.0..8.0_f32)).exp(),
                2 => f32::from(u8::from(rng.random_bool(0.1))),
                3 if rng.random_bool(0.2) => f32::NAN,
                3 => rng.random_range(-1e-3..1e-3),
                _ => 7.0,
            })
            .collect();
        let missing = if row[3].is_nan() { 1.5 } else { f64::from(row[3]) * 900.0 };
        let z = f64::from(row[0]) + 2.0 * f64::from(row[2]) + missing
            - f64::from(row[1]).ln() * 0.3
            - 1.0;
        labels.push(rng.random_bool(super::calibration::sigmoid(z)));
        values.extend(row);
    }
    (values, labels)
}

fn logistic(width: usize, seed: u64) -> Logistic {
    let (rows, labels) = sample(3_000, width, seed);
    let basis = Basis::fit(&rows, width, &QUANTILES);
    let columns = basis.matrix(&rows, false);
    let model =
        Logistic::fit(basis, Sample { columns: columns.view(), labels: &labels }, 1.0, None)
            .unwrap();
    model.calibrated(Calibration::Platt { slope: 0.9, intercept: 0.2 })
}

fn ridge(width: usize, seed: u64) -> Ridge {
    let (rows, _) = sample(3_000, width, seed);
    let latencies: Vec<f64> =
        rows.chunks_exact(width).map(|row| (3.0 + f64::from(row[0]) * 0.5).exp()).collect();
    let basis = Basis::fit(&rows, width, &QUANTILES);
    let columns = basis.matrix(&rows, true);
    Ridge::fit(basis, columns.view(), &latencies, 1e-3).unwrap()
}

/// A draft with all three targets, on the first ten features of each schema.
fn draft() -> Draft {
    let width = 10;
    let (success, fraud) = (logistic(width, 1), logistic(width, 2));
    let latency = ridge(width, 3);
    let mut files = BTreeMap::from([(RULES.to_owned(), BUILT_IN.as_bytes().to_vec())]);
    let mut golden = BTreeMap::new();
    let mut targets = BTreeMap::new();
    let mut add = |target: Target, graph: Vec<u8>, form: Vec<u8>, model: &dyn Predictor| {
        files.insert(format!("{target}.onnx"), graph);
        files.insert(format!("{target}.json"), form);
        golden.insert(target, golden_of(model, width));
        let schema: &[_] = if target == Target::Latency { leg_features() } else { txn_features() };
        let features = schema[..width].iter().map(|feature| BoundFeature {
            name: feature.name.to_owned(),
            fingerprint: feature.fingerprint(&Calendar::default()),
        });
        let conformal = Conformal { multiplier: 3.0, alpha: 0.001, rows: 5_000 };
        targets.insert(
            target,
            TargetManifest {
                model: "test".to_owned(),
                l2: 1.0,
                rows_fit: 3_000,
                rows_calibration: 0,
                calibration_from: Timestamp::default(),
                calibration: Calibration::Identity,
                conformal: (target == Target::Latency).then_some(conformal),
                metrics: BTreeMap::from([("log_loss".to_owned(), 0.25)]),
                features: features.collect(),
            },
        );
    };
    let form = |model: &Logistic| serde_json::to_vec(model).unwrap();
    add(Target::Success, encode(&success.linear()).unwrap(), form(&success), &success);
    add(Target::Fraud, encode(&fraud.linear()).unwrap(), form(&fraud), &fraud);
    let ridge_form = serde_json::to_vec(&latency).unwrap();
    add(Target::Latency, encode(&latency.linear()).unwrap(), ridge_form, &latency);
    files.insert(GOLDEN.to_owned(), serde_json::to_vec(&golden).unwrap());
    Draft { manifest: manifest(targets), files }
}

fn manifest(targets: BTreeMap<Target, TargetManifest>) -> Manifest {
    Manifest {
        format: FORMAT,
        name: "payments".to_owned(),
        version: 0,
        created: Timestamp::default(),
        parent: None,
        recipe: "test".to_owned(),
        seed: 1,
        rows: 3_000,
        rejects: 0,
        window_from: Timestamp::default(),
        window_until: Timestamp::default(),
        label_delay_s: 0,
        calendar: Calendar::default(),
        not_trained: BTreeMap::new(),
        targets,
        files: BTreeMap::new(),
    }
}

fn golden_of(model: &dyn Predictor, width: usize) -> Golden {
    let (mut rows, _) = sample(16, width, 99);
    rows[..width].fill(f32::NAN);
    let mut outputs = vec![f64::NAN; 16];
    model.predict(&rows, &mut outputs).unwrap();
    let inputs = rows
        .chunks_exact(width)
        .map(|row| row.iter().map(|x| (!x.is_nan()).then_some(*x)).collect())
        .collect();
    Golden { inputs, outputs }
}
