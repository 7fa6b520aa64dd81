//! Fitting latency: a ridge line of log latency and a conformal upper bound.

use std::collections::BTreeMap;

use super::{Fitted, Recipe, thinned};
use crate::features::{LEG_WIDTH, leg_features};
use crate::learning::dataset::Dataset;
use crate::models::Predictor;
use crate::models::basis::Basis;
use crate::models::calibration::Calibration;
use crate::models::conformal::Conformal;
use crate::models::manifest::TargetManifest;
use crate::models::onnx_export::encode;
use crate::models::ridge::Ridge;
use crate::models::rules::{LatencyRule, position};

/// Legs below which nothing is learned.
const LEGS_MIN: usize = 100;

/// Fits latency and measures the multiplier of the moving average, or says why not.
pub(super) fn fit(
    dataset: &Dataset,
    recipe: &Recipe,
    untuned: &LatencyRule,
) -> Result<(Fitted, LatencyRule), String> {
    if dataset.leg_ms.is_empty() {
        return Err("the history has no legs with a known latency".to_owned());
    }
    let warm = (dataset.leg_ms.len() as f64 * recipe.warm_up_ratio) as usize;
    let count = dataset.leg_ms.len() - warm;
    let newest = warm + (count as f64 * (1.0 - recipe.calibration_ratio)).round() as usize;
    if newest - warm < LEGS_MIN || newest == dataset.leg_ms.len() {
        return Err(format!("only {count} legs with a known latency, too few to fit on"));
    }
    let kept: Vec<usize> =
        thinned(newest - warm, recipe.legs_max).into_iter().map(|i| warm + i).collect();
    let rows: Vec<f32> = kept.iter().flat_map(|leg| dataset.leg(*leg)).copied().collect();
    let latencies: Vec<f64> = kept.iter().map(|leg| dataset.leg_ms[*leg]).collect();
    let basis = Basis::fit(&rows, LEG_WIDTH, &recipe.latency.quantiles);
    if basis.columns().is_empty() {
        return Err("no feature varies".to_owned());
    }
    let (basis, inputs) = basis.compact();
    let columns = basis.matrix(&gathered(&rows, &inputs), true);
    let model = Ridge::fit(basis, columns.view(), &latencies, recipe.latency.l2)
        .map_err(|error| error.to_string())?;
    drop(columns);

    let actual = &dataset.leg_ms[newest..];
    let newest_rows = &dataset.legs[newest * LEG_WIDTH..];
    let mut predicted = vec![f64::NAN; actual.len()];
    model
        .predict(&gathered(newest_rows, &inputs), &mut predicted)
        .map_err(|error| error.to_string())?;
    let alpha = recipe.latency.alpha;
    let conformal = measure(actual, &predicted, alpha)
        .ok_or_else(|| "the model predicts no finite latency".to_owned())?;
    let average = position(leg_features(), &untuned.feature).expect("checked when bound");
    let averages: Vec<f64> =
        newest_rows.chunks_exact(LEG_WIDTH).map(|row| f64::from(row[average]).exp()).collect();
    let of_average = measure(actual, &averages, alpha);
    let rule = LatencyRule {
        multiplier: of_average.map_or(untuned.multiplier, |conformal| conformal.multiplier),
        ..untuned.clone()
    };
    let manifest = TargetManifest {
        model: "ridge".to_owned(),
        l2: recipe.latency.l2,
        rows_fit: kept.len() as u64,
        rows_calibration: actual.len() as u64,
        calibration_from: dataset.leg_times[newest],
        calibration: Calibration::Identity,
        conformal: Some(conformal),
        metrics: metrics(actual, &predicted, &averages, alpha),
        features: Vec::new(),
    };
    let fitted = Fitted {
        manifest,
        inputs,
        graph: encode(&model.linear())?,
        form: serde_json::to_vec(&model).map_err(|error| error.to_string())?,
        predictor: Box::new(model),
        candidates: (newest..dataset.leg_ms.len()).collect(),
    };
    Ok((fitted, rule))
}

fn gathered(rows: &[f32], inputs: &[usize]) -> Vec<f32> {
    rows.chunks_exact(LEG_WIDTH).flat_map(|row| inputs.iter().map(|i| row[*i])).collect()
}

fn measure(actual: &[f64], predicted: &[f64], alpha: f64) -> Option<Conformal> {
    Conformal::measure(actual.iter().zip(predicted).map(|(a, p)| a / p), alpha)
}

/// What the manifest says. Coverage on the newer half comes from the older half's multiplier.
fn metrics(
    actual: &[f64],
    predicted: &[f64],
    averages: &[f64],
    alpha: f64,
) -> BTreeMap<String, f64> {
    let half = actual.len() / 2;
    let coverage = measure(&actual[..half], &predicted[..half], alpha).map(|conformal| {
        let within = actual[half..].iter().zip(&predicted[half..]);
        let covered = within.filter(|(a, p)| **a <= **p * conformal.multiplier).count();
        covered as f64 / (actual.len() - half).max(1) as f64
    });
    [
        ("error_of_log", error_of_log(actual, predicted)),
        ("error_of_log_moving_average", error_of_log(actual, averages)),
        ("coverage_newer_half", coverage),
        ("multiplier_moving_average", measure(actual, averages, alpha).map(|c| c.multiplier)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value.filter(|x| x.is_finite())?)))
    .collect()
}

/// Root mean squared error of ln(latency), over legs with a prediction.
fn error_of_log(actual: &[f64], predicted: &[f64]) -> Option<f64> {
    let errors = actual.iter().zip(predicted).map(|(a, p)| (a / p).ln().powi(2));
    let (count, sum) =
        errors.filter(|x| x.is_finite()).fold((0_u64, 0.0), |(n, sum), x| (n + 1, sum + x));
    (count > 0).then(|| (sum / count as f64).sqrt())
}
