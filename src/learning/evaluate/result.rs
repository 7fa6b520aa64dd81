//! What an evaluation says, in the shape in which it is written as JSON.
//!
//! A measure that the window does not define is `null` and explained in `warnings`; no number here
//! is ever NaN. Every `…_ci` is a 95 % interval (see `metrics::bootstrap`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::learning::metrics::bootstrap::Interval;
use crate::learning::metrics::{Bin, TimeoutScore};
use crate::txn::Timestamp;

/// An evaluation of one champion on one test window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The figures.
    pub targets: Targets,
    /// `name/version` of what was evaluated.
    pub model: String,
    /// Which rows it was evaluated on.
    pub window: Window,
    /// How many of what.
    pub counts: Counts,
    /// Seed of the intervals.
    pub seed: u64,
    /// Resamples behind an interval of a mean, and of a ranking measure.
    pub resamples: [usize; 2],
    /// Votes later than this count as never heard for false aborts, in milliseconds.
    pub listening_horizon_ms: f64,
    /// The quantile that a timeout is judged as.
    pub timeout_level: f64,
    /// How the tuned baselines were set.
    pub tuned: Tuned,
    /// Tables and curves behind the figures.
    pub details: Details,
    /// Targets that could not be evaluated, and why.
    pub not_evaluated: BTreeMap<String, String>,
    /// What a reader must know before believing a figure.
    pub warnings: Vec<String>,
}

/// The figures by target, each by model: `champion` and the baselines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Probability that every vote is yes; baselines `majority`, `rules`, `moving_average`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub success: BTreeMap<String, ClassifierRow>,
    /// Probability of fraud; baselines `majority`, `rules`, `moving_average`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub fraud: BTreeMap<String, ClassifierRow>,
    /// Prepare timeouts; baselines `static_5s`, `reference_rule`, `sliding_p999`, `jacobson`,
    /// `mean_plus_k_sd`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub latency: BTreeMap<String, LatencyRow>,
}

impl Targets {
    /// The classifier targets that were evaluated, by name.
    pub fn classifiers(
        &self,
    ) -> impl Iterator<Item = (&'static str, &BTreeMap<String, ClassifierRow>)> {
        [("success", &self.success), ("fraud", &self.fraud)]
            .into_iter()
            .filter(|(_, rows)| !rows.is_empty())
    }
}

/// The cut by time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// First test instant.
    pub from: Timestamp,
    /// Last test row.
    pub to: Timestamp,
    /// First row of the history: the online state is warmed up from here.
    pub warm_up_from: Timestamp,
    /// First row that the champion was trained on.
    pub trained_from: Timestamp,
    /// The champion's label cut-off: it used nothing that was known only later.
    pub trained_until: Timestamp,
    /// What the baselines' constants come from: rows and labels known by then.
    pub baselines_until: Timestamp,
    /// Fraud labels count from this age, in seconds.
    pub label_delay_s: u64,
    /// What is known was known by this instant: the newest of the file.
    pub labels_until: Timestamp,
}

/// How many of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the history that could be read.
    pub rows: usize,
    /// Rows that could not be read and were set aside.
    pub rejects: usize,
    /// Rows before the test window.
    pub rows_warm_up: usize,
    /// Rows in it.
    pub rows_test: usize,
    /// Test rows without an outcome, or rejected, which have no success label.
    pub success_unlabelled: usize,
    /// Test rows whose fraud label never came.
    pub fraud_unlabelled: usize,
    /// Test rows younger than the label delay when the file ends: their labels would be biased.
    pub fraud_immature: usize,
    /// Legs in the test window.
    pub legs: usize,
    /// Of these, votes that never came.
    pub legs_never_answered: usize,
    /// Predictions that the champion failed to make; the rules' stand in.
    pub champion_failures: usize,
}

/// One model's figures on a classifier target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassifierRow {
    /// Labelled test rows.
    pub n: usize,
    /// Of these, positive.
    pub positives: usize,
    /// Share of positives.
    pub base_rate: Option<f64>,
    /// Its interval.
    pub base_rate_ci: Option<Interval>,
    /// Share of rows on the right side of 0.5.
    pub accuracy: Option<f64>,
    /// Its interval.
    pub accuracy_ci: Option<Interval>,
    /// Area under the ROC curve.
    pub auc_roc: Option<f64>,
    /// Its interval.
    pub auc_roc_ci: Option<Interval>,
    /// Average precision of the positive class.
    pub average_precision: Option<f64>,
    /// Its interval.
    pub average_precision_ci: Option<Interval>,
    /// Average precision of the negative class by `1 - p`: for success, of failures.
    pub average_precision_negative: Option<f64>,
    /// Its interval.
    pub average_precision_negative_ci: Option<Interval>,
    /// Mean log loss in nats, probabilities clipped to [1e-15, 1 - 1e-15].
    pub log_loss: Option<f64>,
    /// Its interval.
    pub log_loss_ci: Option<Interval>,
    /// `1 - log_loss / log_loss of majority`.
    pub log_loss_skill: Option<f64>,
    /// Its interval.
    pub log_loss_skill_ci: Option<Interval>,
    /// Mean squared error of the probability.
    pub brier: Option<f64>,
    /// Its interval.
    pub brier_ci: Option<Interval>,
    /// `1 - brier / brier of majority`.
    pub brier_skill: Option<f64>,
    /// Its interval.
    pub brier_skill_ci: Option<Interval>,
    /// Expected calibration error over 15 bins of equal mass; noise biases it upwards.
    pub ece: Option<f64>,
    /// Slope of the logistic calibration line; 1 is calibrated.
    pub calibration_slope: Option<f64>,
    /// Its interval.
    pub calibration_slope_ci: Option<Interval>,
    /// Intercept of that line; 0 is calibrated.
    pub calibration_intercept: Option<f64>,
    /// The paired comparison, on every row but the champion's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vs_champion: Option<Versus>,
}

/// Champion minus baseline on the same rows: negative favours the champion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Versus {
    /// Difference of the mean log losses.
    pub log_loss_difference: f64,
    /// Its interval.
    pub log_loss_difference_ci: Option<Interval>,
    /// Difference of the Brier scores.
    pub brier_difference: f64,
    /// Its interval.
    pub brier_difference_ci: Option<Interval>,
    /// What both intervals say together.
    pub verdict: Verdict,
}

/// Whether the champion beats a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// In log loss and in Brier score, both intervals below zero.
    Better,
    /// In one of them, the other's interval holding zero.
    BetterInOne,
    /// Neither, or too few rows for an interval.
    Unclear,
    /// An interval above zero.
    Worse,
}

/// One timeout rule's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyRow {
    /// Coverage, false aborts, pinball loss, dead wait.
    #[serde(flatten)]
    pub score: TimeoutScore,
    /// Interval of the coverage.
    pub coverage_ci: Option<Interval>,
    /// Interval of the false-abort ratio.
    pub false_abort_ratio_ci: Option<Interval>,
    /// Interval of the pinball loss, in milliseconds.
    pub pinball_ci: Option<Interval>,
    /// Interval of the dead wait, in milliseconds.
    pub dead_wait_ms_ci: Option<Interval>,
    /// The participant that is covered least.
    pub worst_participant: Option<ParticipantCoverage>,
    /// Champion minus baseline, pinball loss in milliseconds; on every row but the champion's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vs_champion: Option<LatencyVersus>,
}

/// Champion minus baseline on the same legs: negative favours the champion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyVersus {
    /// Difference of the mean pinball losses, in milliseconds.
    pub pinball_difference: f64,
    /// Its interval.
    pub pinball_difference_ci: Option<Interval>,
}

/// Coverage at one participant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParticipantCoverage {
    /// Which.
    pub participant: String,
    /// Votes that arrived.
    pub arrived: usize,
    /// The share of them within the timeout.
    pub coverage: f64,
    /// Of the votes that could have committed, the share that came after the timeout.
    pub false_abort_ratio: Option<f64>,
}

/// Constants of the baselines, all set on the training window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The constant probability of `majority`, by target.
    pub majority: BTreeMap<String, f64>,
    /// The moving averages by target, in words.
    pub moving_average: BTreeMap<String, String>,
    /// The `k` of `mean_plus_k_sd`.
    pub mean_plus_k_sd: Option<f64>,
}

/// Tables and curves behind the figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// For `success`.
    pub success: Option<ClassifierDetails>,
    /// For `fraud`.
    pub fraud: Option<ClassifierDetails>,
    /// Coverage of the champion's timeouts at each participant.
    pub participants: Vec<ParticipantCoverage>,
}

/// Tables and curves of a classifier target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassifierDetails {
    /// Curves by model, baselines with a constant prediction left out.
    pub curves: BTreeMap<String, Curves>,
    /// The baseline with the least log loss on this window.
    pub best_baseline: String,
    /// The champion against that baseline, by slice.
    pub slices: Vec<Slice>,
    /// What the policy's threshold would have done.
    pub thresholds: Vec<Threshold>,
}

/// Curves of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// False positive rate, true positive rate.
    pub roc: Vec<(f64, f64)>,
    /// Recall, precision; for success of the *failures*, which are the rare class.
    pub precision_recall: Vec<(f64, f64)>,
    /// Reliability bins.
    pub reliability: Vec<Bin>,
}

/// The champion on a part of the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// What it is cut by: `kind` or `customer_type`.
    pub by: String,
    /// Which part.
    pub value: String,
    /// Labelled rows.
    pub n: usize,
    /// Of these, positive.
    pub positives: usize,
    /// Share of positives.
    pub base_rate: f64,
    /// Mean predicted probability.
    pub predicted: f64,
    /// Log loss in nats.
    pub log_loss: f64,
    /// Champion minus the best baseline in log loss.
    pub log_loss_difference: f64,
    /// Its interval; `None` with fewer than ten rows of a class.
    pub log_loss_difference_ci: Option<Interval>,
    /// Area under the ROC curve; `None` for one class.
    pub auc_roc: Option<f64>,
    /// Its interval; `None` with fewer than ten rows of a class.
    pub auc_roc_ci: Option<Interval>,
}

/// Confusion and cost at a threshold of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Whose probabilities.
    pub model: String,
    /// The rule, such as `fraud > 0.85`.
    pub rule: String,
    /// Rejected, and rightly: fraud, or a transaction that failed.
    pub rejected_rightly: usize,
    /// Rejected, and wrongly: genuine, or a transaction that succeeded.
    pub rejected_wrongly: usize,
    /// Admitted, and wrongly.
    pub admitted_wrongly: usize,
    /// Admitted, and rightly.
    pub admitted_rightly: usize,
    /// Of the rejected, the share rightly so.
    pub precision: Option<f64>,
    /// Of the fraudulent or failing, the share rejected.
    pub recall: Option<f64>,
    /// Share of traffic rejected.
    pub rejected_ratio: f64,
    /// What it comes to in the window's commonest currency.
    pub cost: Cost,
}

/// What a threshold saves and costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The currency of the amounts; rows in others are left out of them.
    pub currency: String,
    /// Amount of what was rightly rejected, in minor units.
    pub stopped_minor: i64,
    /// Amount of what was wrongly rejected.
    pub turned_away_minor: i64,
    /// Amount of what was wrongly admitted.
    pub missed_minor: i64,
    /// Milliseconds that the rightly rejected had taken in vain.
    pub saved_ms: f64,
}
