//! Evaluation of a champion on a part of a history that it has not seen, beside simple baselines.
//!
//! One history is cut by time. The online state is warmed up on everything before `from`; then each
//! row is predicted from what was known at its submission. An outcome becomes visible at
//! `timestamp + total`, a fraud label at `labelled_at`; an empty label is unknown. The baselines'
//! constants come from the training window and its label cut-off, nothing is chosen on the test
//! window, and every look at it can be recorded ([`Look`]).
//!
//! Success labels: committed or aborted; a rejected row has none. Fraud labels count only for rows
//! older than the label delay when the file ends: frauds are reported sooner than their absence is
//! certain. Late votes count with their own latency, votes that never came only as dead wait.
//!
//! Nothing here reads or writes files but [`Look::record`]; `learning::report` renders the result.

mod classifier;
mod latency;
mod looks;
mod moving_average;
mod result;
mod timeouts;
mod verdict;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use classifier::{CLASS_ROWS_MIN, Rejects, Resampling, Rows};
use window::Collected;

use crate::features;
use crate::models::bundle::Bundle;
use crate::txn::{HistoryRow, Timestamp};

pub use looks::{LOOKS_FILE, Look};
pub use result::{
    ClassifierDetails, ClassifierRow, Cost, Counts, Curves, Details, Evaluation, LatencyRow,
    LatencyVersus, ParticipantCoverage, Slice, Targets, Threshold, Tuned, Verdict, Versus, Window,
};

/// Fraud probability above which policy rejects by default.
pub const FRAUD_REJECTS_ABOVE: f64 = 0.85;
/// Success probability below which policy rejects by default.
pub const SUCCESS_REJECTS_BELOW: f64 = 0.30;

/// What to evaluate on, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// First test instant; the champion's label cut-off plus the label delay if `None`.
    pub from: Option<Timestamp>,
    /// Fraud labels count from this age; the champion's own if `None`.
    pub label_delay: Option<Duration>,
    /// Seed of the intervals.
    pub seed: u64,
    /// Resamples behind an interval of a mean.
    pub resamples_means: usize,
    /// Resamples behind an interval of a ranking measure.
    pub resamples_rankings: usize,
    /// The feature state, with the calendar that the champion was loaded with.
    pub features: features::Options,
    /// Rows of the history that could not be read.
    pub rejects: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            from: None,
            label_delay: None,
            seed: 1,
            resamples_means: 1_000,
            resamples_rankings: 300,
            features: features::Options::default(),
            rejects: 0,
        }
    }
}

/// Why there is nothing to evaluate. Give another history or another `from`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The history has no rows.
    #[error("the history holds no usable row")]
    Empty,
    /// The test window starts after the last row.
    #[error(
        "no row to test on: the window starts at {from} and the history ends at {last} (the \
         champion's label cut-off is {trained_until}, the label delay {label_delay_h} h); give an \
         earlier start or a longer history"
    )]
    NothingToTest {
        /// First test instant.
        from: Timestamp,
        /// Last row.
        last: Timestamp,
        /// The champion's label cut-off.
        trained_until: Timestamp,
        /// Label delay in hours.
        label_delay_h: u64,
    },
    /// Nothing comes before the test window.
    #[error(
        "no row before {from}: there is nothing to warm the online state up on and to set the \
         baselines with; give a later start"
    )]
    NothingBefore {
        /// First test instant.
        from: Timestamp,
    },
    /// The history cannot be replayed.
    #[error(transparent)]
    Replay(#[from] features::Error),
}

/// Evaluates `champion` on `rows`, which are in time order. `progress` hears how many rows were
/// replayed, now and then.
pub fn evaluate(
    rows: &[HistoryRow],
    champion: &Bundle,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation, Error> {
    let mut window = cut(rows, champion, options)?;
    let mut warnings = Vec::new();
    if window.from < window.trained_until && window.to >= window.trained_from {
        warnings.push(format!(
            "The test window starts at {}, before the champion's label cut-off {}: if it was \
             trained on this history, these figures flatter it.",
            window.from, window.trained_until
        ));
    }
    if options.rejects > 0 {
        warnings.push(format!(
            "{} rows of the history could not be read and are left out.",
            options.rejects
        ));
    }
    window.baselines_until = window.baselines_until.min(window.from);
    let collected = window::collect(rows, champion, options, &window, progress)?;
    Ok(judge(collected, champion, options, window, warnings))
}

/// The cut, or why there is none.
fn cut(rows: &[HistoryRow], champion: &Bundle, options: &Options) -> Result<Window, Error> {
    let manifest = champion.manifest();
    let (first, last) = rows.first().zip(rows.last()).ok_or(Error::Empty)?;
    let label_delay = options.label_delay.unwrap_or(Duration::from_secs(manifest.label_delay_s));
    let from = options.from.unwrap_or_else(|| manifest.window_until.after(label_delay));
    if from > last.timestamp {
        return Err(Error::NothingToTest {
            from,
            last: last.timestamp,
            trained_until: manifest.window_until,
            label_delay_h: label_delay.as_secs() / 3_600,
        });
    }
    if first.timestamp >= from {
        return Err(Error::NothingBefore { from });
    }
    let newest = |row: &HistoryRow| {
        let known = [Some(row.timestamp), row.finished_at(), row.labelled_at];
        known.into_iter().flatten().max().unwrap_or(row.timestamp)
    };
    // Another history than the one trained on may lie wholly after the cut-off.
    let until = manifest.window_until;
    let baselines_until = if first.timestamp < until { until } else { from };
    Ok(Window {
        from,
        to: last.timestamp,
        warm_up_from: first.timestamp,
        trained_from: manifest.window_from,
        trained_until: until,
        baselines_until,
        label_delay_s: label_delay.as_secs(),
        labels_until: rows.iter().map(newest).max().unwrap_or(last.timestamp),
    })
}

fn judge(
    collected: Collected,
    champion: &Bundle,
    options: &Options,
    window: Window,
    mut warnings: Vec<String>,
) -> Evaluation {
    let how = Resampling {
        seed: options.seed,
        means: options.resamples_means,
        rankings: options.resamples_rankings,
    };
    let mut targets = Targets::default();
    let mut details = Details::default();
    let mut not_evaluated = collected.not_evaluated;
    let success_rule = format!("success < {SUCCESS_REJECTS_BELOW:.2}");
    let fraud_rule = format!("fraud > {FRAUD_REJECTS_ABOVE:.2}");
    let classifiers = [
        ("success", collected.success, &success_rule, Rejects::Below(SUCCESS_REJECTS_BELOW)),
        ("fraud", collected.fraud, &fraud_rule, Rejects::Above(FRAUD_REJECTS_ABOVE)),
    ];
    for (target, rows, rule, rejects) in classifiers {
        let Some(rows) = rows else { continue };
        if rows.labels.is_empty() {
            not_evaluated.insert(target.to_owned(), "no labelled row in the test window".into());
            continue;
        }
        warn_of_classes(target, &rows, &mut warnings);
        let figures = classifier::rows(&rows, how);
        let fewer = Resampling { means: how.means / 2, rankings: how.rankings / 3, ..how };
        let found = classifier::details(&rows, &figures, fewer, (rule, rejects));
        if target == "success" {
            (targets.success, details.success) = (figures, found);
        } else {
            (targets.fraud, details.fraud) = (figures, found);
        }
    }
    if let Some(legs) = collected.legs {
        targets.latency = latency::rows(&legs, how);
        details.participants = latency::by_participant(&legs, &legs.rules["champion"]);
    }
    warnings.extend(collected.warnings);
    Evaluation {
        targets,
        model: champion.id().to_string(),
        window,
        counts: collected.counts,
        seed: options.seed,
        resamples: [how.means, how.rankings],
        listening_horizon_ms: latency::LISTENING_HORIZON_MS,
        timeout_level: latency::TIMEOUT_LEVEL,
        tuned: collected.tuned,
        details,
        not_evaluated,
        warnings,
    }
}

fn warn_of_classes(target: &str, rows: &Rows, warnings: &mut Vec<String>) {
    let positives = rows.labels.iter().filter(|y| **y).count();
    let rarest = positives.min(rows.labels.len() - positives);
    if rarest == 0 {
        warnings.push(format!(
            "{target}: every labelled test row is of one class, so no order and no calibration \
             line can be measured."
        ));
    } else if rarest < CLASS_ROWS_MIN {
        warnings.push(format!(
            "{target}: only {rarest} labelled test rows are of the rarer class; intervals need \
             {CLASS_ROWS_MIN}."
        ));
    }
    let days = rows.dependence.days.count();
    if days < crate::learning::metrics::bootstrap::CLUSTERS_MIN {
        warnings.push(format!(
            "{target}: the test window has {days} days, too few to resample; intervals come from \
             customers alone and miss what a day's payments share."
        ));
    }
}

/// Models and baselines by name, in the order in which a reader wants them.
pub fn in_order<T>(rows: &BTreeMap<String, T>) -> Vec<(&str, &T)> {
    const ORDER: [&str; 9] = [
        "champion",
        "majority",
        "rules",
        "moving_average",
        "static_5s",
        "reference_rule",
        "sliding_p999",
        "jacobson",
        "mean_plus_k_sd",
    ];
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut sorted: Vec<(&str, &T)> = rows.iter().map(|(name, row)| (name.as_str(), row)).collect();
    sorted.sort_by_key(|(name, _)| place(name));
    sorted
}
