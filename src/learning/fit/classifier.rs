//! Fitting success or fraud: slices, penalty, calibration, metrics.

use std::collections::BTreeMap;

use super::{Fitted, Recipe, thinned, tune};
use crate::features::TXN_WIDTH;
use crate::learning::dataset::Dataset;
use crate::learning::metrics::{
    auc_roc, average_precision, base_rate, brier, ece, log_loss, skill,
};
use crate::models::basis::Basis;
use crate::models::calibration::Calibration;
use crate::models::logistic::{FitError, Logistic, Sample};
use crate::models::manifest::TargetManifest;
use crate::models::onnx_export::encode;
use crate::models::rules::List;
use crate::models::{Predictor, Rules, RulesFile, Target};

/// Rows of the rarer class in the fit slice below which nothing is learned.
const EVENTS_MIN: usize = 10;

/// Probabilities and labels of the newest slice.
struct Scores {
    model: Vec<f64>,
    /// By the rules, tuned on what the model was fitted on.
    rules: Vec<f64>,
    /// The base rate of what the model was fitted on.
    majority: f64,
    labels: Vec<bool>,
}

/// Rows of one slice: positions in the data set, and their labels.
struct Slice {
    rows: Vec<usize>,
    labels: Vec<bool>,
}

impl Slice {
    fn features(&self, dataset: &Dataset) -> Vec<f32> {
        self.rows.iter().flat_map(|row| dataset.row(*row)).copied().collect()
    }

    fn split(mut self, newest_ratio: f64) -> (Self, Self) {
        let newest = (self.rows.len() as f64 * newest_ratio).round() as usize;
        let cut = self.rows.len() - newest;
        let (rows, labels) = (self.rows.split_off(cut), self.labels.split_off(cut));
        (self, Self { rows, labels })
    }

    fn rarer(&self) -> usize {
        let events = self.labels.iter().filter(|label| **label).count();
        events.min(self.labels.len() - events)
    }
}

/// Fits a target and tunes its rules, or says why not.
pub(super) fn fit(
    dataset: &Dataset,
    target: Target,
    recipe: &Recipe,
    untuned: &RulesFile,
) -> Result<(Fitted, List), String> {
    let labelled = labelled(dataset, target, recipe);
    check_labels(&labelled)?;
    let untuned_list = untuned.list(target).expect("success and fraud have lists");
    let shipped_list =
        tune(untuned_list, &labelled.features(dataset), &labelled.labels, recipe.rules);
    let all = labelled.rows.len();
    let (older, newest) = labelled.split(recipe.calibration_ratio);
    if older.rarer() < EVENTS_MIN {
        return Err(format!(
            "only {} rows of the rarer class among the {} to fit on, at least {EVENTS_MIN} are \
             needed",
            older.rarer(),
            older.rows.len()
        ));
    }
    let rows = older.features(dataset);
    let compared_list = tune(untuned_list, &rows, &older.labels, recipe.rules);
    let basis = Basis::fit(&rows, TXN_WIDTH, &recipe.classifier.quantiles);
    if basis.columns().is_empty() {
        return Err("no feature varies".to_owned());
    }
    let (basis, inputs) = basis.compact();
    let rows = gathered(&rows, &inputs);
    let model = fit_best(&basis, &rows, &older.labels, recipe).map_err(|e| e.to_string())?;
    drop(rows);

    let newest_rows = gathered(&newest.features(dataset), &inputs);
    let uncalibrated = predict(&model, &newest_rows);
    let calibration = Calibration::choose(&uncalibrated, &newest.labels);
    let model = model.calibrated(calibration);
    let scores = Scores {
        model: predict(&model, &newest_rows),
        rules: rule_probabilities(untuned, target, &compared_list, &newest.features(dataset)),
        majority: base_rate(&older.labels).unwrap_or(0.5),
        labels: newest.labels.clone(),
    };
    let mut metrics = metrics(&scores);
    metrics.extend(log_loss(&uncalibrated, &newest.labels).map(|x| named("log_loss_raw", x)));
    let manifest = TargetManifest {
        model: "logistic".to_owned(),
        l2: model.l2(),
        rows_fit: older.rows.len() as u64,
        rows_calibration: (all - older.rows.len()) as u64,
        calibration_from: dataset.times[newest.rows[0]],
        calibration,
        conformal: None,
        metrics,
        features: Vec::new(),
    };
    let fitted = Fitted {
        manifest,
        inputs,
        graph: encode(&model.linear())?,
        form: serde_json::to_vec(&model).map_err(|error| error.to_string())?,
        predictor: Box::new(model),
        candidates: newest.rows,
    };
    Ok((fitted, shipped_list))
}

fn labelled(dataset: &Dataset, target: Target, recipe: &Recipe) -> Slice {
    let labels = if target == Target::Fraud { &dataset.fraud } else { &dataset.success };
    let warm = (dataset.len() as f64 * recipe.warm_up_ratio) as usize;
    let known = (warm..dataset.len()).filter_map(|row| labels[row].map(|label| (row, label)));
    let (rows, labels) = known.unzip();
    Slice { rows, labels }
}

fn check_labels(labelled: &Slice) -> Result<(), String> {
    if labelled.rows.is_empty() {
        return Err("no labelled rows".to_owned());
    }
    if labelled.rarer() == 0 {
        let all = labelled.labels[0];
        return Err(format!("all {} labels are {all}: nothing to tell apart", labelled.rows.len()));
    }
    Ok(())
}

/// Fits with the penalty that had the least log loss on the newest part; the strongest where that
/// part cannot tell. Each fit starts where the one before ended, strong penalties first.
fn fit_best(
    basis: &Basis,
    rows: &[f32],
    labels: &[bool],
    recipe: &Recipe,
) -> Result<Logistic, FitError> {
    let mut penalties = recipe.classifier.l2.clone();
    penalties.sort_by(|a, b| b.total_cmp(a));
    let newest = (labels.len() as f64 * recipe.validation_ratio).round() as usize;
    let cut = labels.len() - newest;
    let kept = thinned(cut, recipe.trial_rows_max);
    let width = basis.width();
    let trial_rows: Vec<f32> =
        kept.iter().flat_map(|row| &rows[row * width..(row + 1) * width]).copied().collect();
    let trial_labels: Vec<bool> = kept.iter().map(|row| labels[*row]).collect();
    let mut best: Option<(f64, Logistic)> = None;
    if penalties.len() > 1 && both(&trial_labels) && both(&labels[cut..]) {
        let columns = basis.matrix(&trial_rows, true);
        let sample = Sample { columns: columns.view(), labels: &trial_labels };
        let judge = basis.matrix(&rows[cut * width..], false);
        let mut before: Option<Logistic> = None;
        for l2 in &penalties {
            let model = Logistic::fit(basis.clone(), sample, *l2, before.as_ref())?;
            let loss = log_loss(&model.probabilities(judge.view()), &labels[cut..]);
            let loss = loss.unwrap_or(f64::INFINITY);
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, model.clone()));
            }
            before = Some(model);
        }
    }
    let start = best.map(|(_, model)| model);
    let l2 = start.as_ref().map_or(penalties[0], Logistic::l2);
    let columns = basis.matrix(rows, true);
    let sample = Sample { columns: columns.view(), labels };
    Logistic::fit(basis.clone(), sample, l2, start.as_ref())
}

fn both(labels: &[bool]) -> bool {
    labels.contains(&true) && labels.contains(&false)
}

/// The chosen inputs of schema rows.
fn gathered(rows: &[f32], inputs: &[usize]) -> Vec<f32> {
    rows.chunks_exact(TXN_WIDTH).flat_map(|row| inputs.iter().map(|i| row[*i])).collect()
}

fn predict(model: &Logistic, rows: &[f32]) -> Vec<f64> {
    let mut out = vec![f64::NAN; rows.len() / model.width()];
    model.predict(rows, &mut out).expect("rows of the model's width");
    out
}

fn rule_probabilities(untuned: &RulesFile, target: Target, list: &List, rows: &[f32]) -> Vec<f64> {
    let mut file = untuned.clone();
    match target {
        Target::Fraud => file.fraud = list.clone(),
        _ => file.success = list.clone(),
    }
    let rules = Rules::bind(file).expect("tuning keeps names and gives probabilities");
    let list = rules.list(target).expect("success and fraud have lists");
    rows.chunks_exact(TXN_WIDTH).map(|row| list.probability(row)).collect()
}

fn named(name: &str, value: f64) -> (String, f64) {
    (name.to_owned(), value)
}

/// What the manifest says; what the slice does not define is absent.
fn metrics(scores: &Scores) -> BTreeMap<String, f64> {
    let (model, labels) = (&scores.model, &scores.labels);
    let loss = log_loss(model, labels);
    let majority = log_loss(&vec![scores.majority; labels.len()], labels);
    let rules = log_loss(&scores.rules, labels);
    let over = |reference: Option<f64>| skill(loss?, reference?);
    [
        ("base_rate", base_rate(labels)),
        ("log_loss", loss),
        ("log_loss_majority", majority),
        ("log_loss_rules", rules),
        ("skill_over_majority", over(majority)),
        ("skill_over_rules", over(rules)),
        ("auc_roc", auc_roc(model, labels)),
        ("auc_roc_rules", auc_roc(&scores.rules, labels)),
        ("average_precision", average_precision(model, labels)),
        ("brier", brier(model, labels)),
        ("ece", ece(model, labels)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(named(name, value.filter(|x| x.is_finite())?)))
    .collect()
}
