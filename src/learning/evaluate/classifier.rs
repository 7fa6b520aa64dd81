//! A classifier's figures, with intervals: pure, from probabilities and labels.

use std::collections::BTreeMap;

use super::result::{
    ClassifierDetails, ClassifierRow, Cost, Curves, Slice, Threshold, Verdict, Versus,
};
use crate::learning::metrics::bootstrap::{Clusters, Dependence, Interval, weighted};
use crate::learning::metrics::{
    ECE_BINS, Ranking, calibration_line, ece, log_loss_of, reliability, skill, squared_error,
};
use crate::txn::Currency;

/// With fewer rows of a class than this there are no intervals.
pub(super) const CLASS_ROWS_MIN: usize = 10;

/// Points of a curve in a report.
const CURVE_POINTS_MAX: usize = 300;

/// How intervals are drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resampling {
    pub seed: u64,
    /// Draws for ratios of sums, which cost one pass over the clusters each.
    pub means: usize,
    /// Draws for ranking measures, which cost one pass over the rows each.
    pub rankings: usize,
}

/// The labelled rows of one target, in parallel columns.
pub(super) struct Rows {
    pub labels: Vec<bool>,
    pub kind: Vec<&'static str>,
    pub customer_type: Vec<&'static str>,
    pub amount_minor: Vec<i64>,
    pub currency: Vec<Currency>,
    pub total_ms: Vec<f64>,
    pub dependence: Dependence,
    /// The training window's base rate.
    pub majority: f64,
    /// Probabilities by model, `champion` and the baselines.
    pub models: BTreeMap<String, Vec<f64>>,
}

/// Which rows a threshold of the policy rejects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rejects {
    /// Those with a probability above it, which should be positive.
    Above(f64),
    /// Those with a probability below it, which should be negative.
    Below(f64),
}

/// The figures of every model.
pub(super) fn rows(rows: &Rows, how: Resampling) -> BTreeMap<String, ClassifierRow> {
    let champion = &rows.models["champion"];
    let majority = vec![rows.majority; rows.labels.len()];
    let one = |(name, p): (&String, &Vec<f64>)| {
        let mut row = figures(p, &rows.labels, &majority, &rows.dependence, how);
        if name != "champion" {
            row.vs_champion = versus(champion, p, &rows.labels, &rows.dependence, how);
        }
        (name.clone(), row)
    };
    rows.models.iter().map(one).collect()
}

fn figures(
    p: &[f64],
    labels: &[bool],
    majority: &[f64],
    dependence: &Dependence,
    how: Resampling,
) -> ClassifierRow {
    let n = labels.len();
    let positives = labels.iter().filter(|y| **y).count();
    let mut row = ClassifierRow { n, positives, ..ClassifierRow::default() };
    if n == 0 {
        return row;
    }
    let per_row = |i: usize| sums_of(p[i], majority[i], labels[i]);
    let total = (0..n).map(per_row).fold([0.0; 7], |a, b| std::array::from_fn(|k| a[k] + b[k]));
    [row.base_rate, row.accuracy, row.log_loss, row.log_loss_skill, row.brier, row.brier_skill] =
        ratios(total);
    let ranking = Ranking::new(p, labels);
    let negated: Vec<f64> = p.iter().map(|p| -p).collect();
    let flipped: Vec<bool> = labels.iter().map(|y| !y).collect();
    let reversed = Ranking::new(&negated, &flipped);
    row.auc_roc = ranking.auc_roc(|_| 1.0);
    row.average_precision = ranking.average_precision(|_| 1.0);
    row.average_precision_negative = reversed.average_precision(|_| 1.0);
    row.ece = ece(p, labels);
    let line = calibration_line(p, labels);
    row.calibration_slope = line.map(|line| line.slope);
    row.calibration_intercept = line.map(|line| line.intercept);
    if positives < CLASS_ROWS_MIN || n - positives < CLASS_ROWS_MIN {
        return row;
    }
    [
        row.base_rate_ci,
        row.accuracy_ci,
        row.log_loss_ci,
        row.log_loss_skill_ci,
        row.brier_ci,
        row.brier_skill_ci,
    ] = dependence.intervals(how.means, how.seed, |clusters| {
        let sums = clusters.sums(per_row);
        move |weights: &[f64]| ratios(weighted(&sums, weights))
    });
    row.calibration_slope_ci =
        line.and_then(|line| dependence.slope_interval(how.means, how.seed, line, p, labels));
    if p.iter().any(|other| *other != p[0]) {
        [row.auc_roc_ci, row.average_precision_ci, row.average_precision_negative_ci] =
            ranking_intervals(dependence, how, &ranking, &reversed);
    }
    // A constant probability has no skill over the majority to be uncertain about.
    if p == majority {
        (row.log_loss_skill_ci, row.brier_skill_ci) = (None, None);
    }
    row
}

fn ranking_intervals(
    dependence: &Dependence,
    how: Resampling,
    ranking: &Ranking,
    reversed: &Ranking,
) -> [Option<Interval>; 3] {
    dependence.intervals(how.rankings, how.seed, |clusters: &Clusters| {
        let ids = clusters.ids().to_vec();
        move |weights: &[f64]| {
            let weight = |row: usize| weights[ids[row] as usize];
            [
                ranking.auc_roc(weight),
                ranking.average_precision(weight),
                reversed.average_precision(weight),
            ]
        }
    })
}

/// What the ratios below are made of: count, positives, hits, both losses, both of the majority.
fn sums_of(p: f64, majority: f64, label: bool) -> [f64; 7] {
    let one = |is: bool| f64::from(u8::from(is));
    [
        1.0,
        one(label),
        one((p >= 0.5) == label),
        log_loss_of(p, label),
        squared_error(p, label),
        log_loss_of(majority, label),
        squared_error(majority, label),
    ]
}

/// Base rate, accuracy, log loss, its skill, Brier score, its skill.
fn ratios([n, y, hit, loss, error, majority_loss, majority_error]: [f64; 7]) -> [Option<f64>; 6] {
    let mean = |sum: f64| (n > 0.0).then(|| sum / n);
    [
        mean(y),
        mean(hit),
        mean(loss),
        skill(loss, majority_loss),
        mean(error),
        skill(error, majority_error),
    ]
}

/// The paired comparison of the champion with a baseline on the same rows.
fn versus(
    champion: &[f64],
    baseline: &[f64],
    labels: &[bool],
    dependence: &Dependence,
    how: Resampling,
) -> Option<Versus> {
    let n = labels.len();
    if n == 0 {
        return None;
    }
    let differences = |i: usize| {
        let y = labels[i];
        [
            1.0,
            log_loss_of(champion[i], y) - log_loss_of(baseline[i], y),
            squared_error(champion[i], y) - squared_error(baseline[i], y),
        ]
    };
    let total = (0..n).map(differences).fold([0.0; 3], |a, b| std::array::from_fn(|k| a[k] + b[k]));
    let positives = labels.iter().filter(|y| **y).count();
    let [loss_ci, error_ci] = if positives.min(n - positives) < CLASS_ROWS_MIN {
        [None, None]
    } else {
        dependence.intervals(how.means, how.seed, |clusters| {
            let sums = clusters.sums(differences);
            move |weights: &[f64]| {
                let [n, loss, error] = weighted(&sums, weights);
                [loss, error].map(|sum| (n > 0.0).then(|| sum / n))
            }
        })
    };
    Some(Versus {
        log_loss_difference: total[1] / n as f64,
        log_loss_difference_ci: loss_ci,
        brier_difference: total[2] / n as f64,
        brier_difference_ci: error_ci,
        verdict: verdict(loss_ci, error_ci),
    })
}

fn verdict(loss: Option<Interval>, error: Option<Interval>) -> Verdict {
    let better = |ci: Option<Interval>| ci.is_some_and(|[_, high]| high < 0.0);
    let worse = |ci: Option<Interval>| ci.is_some_and(|[low, _]| low > 0.0);
    if worse(loss) || worse(error) {
        Verdict::Worse
    } else if better(loss) && better(error) {
        Verdict::Better
    } else if better(loss) || better(error) {
        Verdict::BetterInOne
    } else {
        Verdict::Unclear
    }
}

/// Curves, slices and thresholds; `None` without rows.
pub(super) fn details(
    rows: &Rows,
    figures: &BTreeMap<String, ClassifierRow>,
    how: Resampling,
    rule: (&str, Rejects),
) -> Option<ClassifierDetails> {
    let loss = |row: &ClassifierRow| row.log_loss.unwrap_or(f64::INFINITY);
    let best_baseline = figures
        .iter()
        .filter(|(name, _)| *name != "champion")
        .min_by(|a, b| loss(a.1).total_cmp(&loss(b.1)))?
        .0
        .clone();
    let rare_is_negative = matches!(rule.1, Rejects::Below(_));
    let varying = rows.models.iter().filter(|(_, p)| p.iter().any(|other| *other != p[0]));
    let curves = varying
        .map(|(name, p)| (name.clone(), curves(p, &rows.labels, rare_is_negative)))
        .collect();
    let mut slices = Vec::new();
    for (by, values) in [("kind", &rows.kind), ("customer_type", &rows.customer_type)] {
        slices.extend(sliced(rows, &best_baseline, by, values, how));
    }
    let thresholds = ["champion", "rules"]
        .into_iter()
        .filter_map(|model| Some(threshold(rows, model, rows.models.get(model)?, rule)))
        .collect();
    Some(ClassifierDetails { curves, best_baseline, slices, thresholds })
}

fn curves(p: &[f64], labels: &[bool], rare_is_negative: bool) -> Curves {
    let ranking = Ranking::new(p, labels);
    let precision_recall = if rare_is_negative {
        let negated: Vec<f64> = p.iter().map(|p| -p).collect();
        let flipped: Vec<bool> = labels.iter().map(|y| !y).collect();
        Ranking::new(&negated, &flipped).precision_recall_curve(CURVE_POINTS_MAX)
    } else {
        ranking.precision_recall_curve(CURVE_POINTS_MAX)
    };
    Curves {
        roc: ranking.roc_curve(CURVE_POINTS_MAX),
        precision_recall,
        reliability: reliability(p, labels, ECE_BINS),
    }
}

fn sliced(
    rows: &Rows,
    best_baseline: &str,
    by: &str,
    values: &[&'static str],
    how: Resampling,
) -> Vec<Slice> {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, value) in values.iter().enumerate() {
        members.entry(value).or_default().push(row);
    }
    let one = |(value, members): (&str, Vec<usize>)| {
        let pick = |p: &[f64]| members.iter().map(|row| p[*row]).collect::<Vec<_>>();
        let champion = pick(&rows.models["champion"]);
        let baseline = pick(&rows.models[best_baseline]);
        let labels: Vec<bool> = members.iter().map(|row| rows.labels[*row]).collect();
        let part =
            |clusters: &Clusters| Clusters::new(members.iter().map(|row| clusters.ids()[*row]));
        let dependence = Dependence {
            days: part(&rows.dependence.days),
            customers: part(&rows.dependence.customers),
        };
        let own = figures(&champion, &labels, &baseline, &dependence, how);
        let versus = versus(&champion, &baseline, &labels, &dependence, how);
        Slice {
            by: by.to_owned(),
            value: value.to_owned(),
            n: own.n,
            positives: own.positives,
            base_rate: own.base_rate.unwrap_or_default(),
            predicted: champion.iter().sum::<f64>() / champion.len().max(1) as f64,
            log_loss: own.log_loss.unwrap_or_default(),
            log_loss_difference: versus.map(|v| v.log_loss_difference).unwrap_or_default(),
            log_loss_difference_ci: versus.and_then(|v| v.log_loss_difference_ci),
            auc_roc: own.auc_roc,
            auc_roc_ci: own.auc_roc_ci,
        }
    };
    let mut slices: Vec<Slice> = members.into_iter().map(one).collect();
    slices.sort_by_key(|slice| std::cmp::Reverse(slice.n));
    slices
}

fn threshold(rows: &Rows, model: &str, p: &[f64], rule: (&str, Rejects)) -> Threshold {
    let currency = commonest(&rows.currency);
    let [mut right, mut wrong, mut missed, mut admitted] = [0_usize; 4];
    let mut cost = Cost {
        currency: currency.map_or(String::new(), |c| c.as_str().to_owned()),
        stopped_minor: 0,
        turned_away_minor: 0,
        missed_minor: 0,
        saved_ms: 0.0,
    };
    for (row, (p, label)) in p.iter().zip(&rows.labels).enumerate() {
        let (rejected, bad) = match rule.1 {
            Rejects::Above(limit) => (*p > limit, *label),
            Rejects::Below(limit) => (*p < limit, !*label),
        };
        let counted = Some(rows.currency[row]) == currency;
        let amount = if counted { rows.amount_minor[row] } else { 0 };
        let (count, sum) = match (rejected, bad) {
            (true, true) => {
                cost.saved_ms += rows.total_ms[row];
                (&mut right, &mut cost.stopped_minor)
            }
            (true, false) => (&mut wrong, &mut cost.turned_away_minor),
            (false, true) => (&mut missed, &mut cost.missed_minor),
            (false, false) => (&mut admitted, &mut 0),
        };
        *count += 1;
        *sum = sum.saturating_add(amount);
    }
    let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    Threshold {
        model: model.to_owned(),
        rule: rule.0.to_owned(),
        rejected_rightly: right,
        rejected_wrongly: wrong,
        admitted_wrongly: missed,
        admitted_rightly: admitted,
        precision: share(right, right + wrong),
        recall: share(right, right + missed),
        rejected_ratio: share(right + wrong, p.len()).unwrap_or_default(),
        cost,
    }
}

fn commonest(currencies: &[Currency]) -> Option<Currency> {
    let mut counts: BTreeMap<Currency, usize> = BTreeMap::new();
    for currency in currencies {
        *counts.entry(*currency).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(currency, _)| currency)
}
