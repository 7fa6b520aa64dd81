//! What the demo has seen so far: outcomes, latencies, and predictions against the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::Table;
use hdrhistogram::Histogram;
use presume::coordinator::Answer;
use presume::learning::metrics;
use presume::simulation::Generated;
use presume::txn::Outcome;
use serde::Serialize;

/// Predictions kept for the comparison; later ones replace none and are only counted.
const PAIRS_MAX: usize = 1_000_000;

pub struct Summary {
    outcomes: BTreeMap<Outcome, u64>,
    reasons: BTreeMap<String, u64>,
    answer_us: Histogram<u64>,
    success: Pairs,
    fraud: Pairs,
    errors: u64,
    last_error: Option<String>,
    rejected_that_would_have_failed: u64,
    rejected_frauds: u64,
    rejected: u64,
}

#[derive(Default)]
struct Pairs {
    probabilities: Vec<f64>,
    labels: Vec<bool>,
}

impl Pairs {
    fn push(&mut self, probability: f64, label: bool) {
        if self.labels.len() < PAIRS_MAX {
            self.probabilities.push(probability);
            self.labels.push(label);
        }
    }
}

/// The summary as figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    transactions: u64,
    per_second: f64,
    outcomes: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    answer_ms_p50: f64,
    answer_ms_p99: f64,
    errors: u64,
    last_error: Option<String>,
    rejected_would_have_failed: u64,
    rejected_were_fraud: u64,
    predictions: BTreeMap<&'static str, Prediction>,
}

/// One target's predictions against what happened.
#[derive(Debug, Serialize)]
struct Prediction {
    n: usize,
    base_rate: Option<f64>,
    predicted_mean: Option<f64>,
    auc_roc: Option<f64>,
    log_loss: Option<f64>,
    log_loss_of_base_rate: Option<f64>,
}

impl Summary {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            outcomes: BTreeMap::new(),
            reasons: BTreeMap::new(),
            answer_us: Histogram::new_with_bounds(1, 600_000_000, 3)?,
            success: Pairs::default(),
            fraud: Pairs::default(),
            errors: 0,
            last_error: None,
            rejected_that_would_have_failed: 0,
            rejected_frauds: 0,
            rejected: 0,
        })
    }

    pub fn record(&mut self, generated: &Generated, answer: &Answer, took: Duration) {
        *self.outcomes.entry(answer.outcome).or_default() += 1;
        for reason in &answer.reasons {
            *self.reasons.entry(reason.code.to_string()).or_default() += 1;
        }
        self.answer_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let fraud = generated.truth.typology.is_some();
        // The world knows what a rejected payment would have met.
        let would_succeed = generated.row.succeeded().unwrap_or(false);
        if answer.outcome == Outcome::Rejected {
            self.rejected += 1;
            self.rejected_frauds += u64::from(fraud);
            self.rejected_that_would_have_failed += u64::from(!would_succeed);
        }
        let Some(insights) = &answer.insights else { return };
        self.fraud.push(insights.fraud_probability.get(), fraud);
        let succeeded = match answer.outcome {
            Outcome::Committed => true,
            Outcome::Aborted => false,
            _ => would_succeed,
        };
        self.success.push(insights.success_probability.get(), succeeded);
    }

    pub fn error(&mut self, error: String) {
        self.errors += 1;
        self.last_error = Some(error);
    }

    pub fn errors(&self) -> u64 {
        self.errors
    }

    pub fn last_error(&self) -> &str {
        self.last_error.as_deref().unwrap_or_default()
    }

    pub fn count(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// One line for the terminal while it runs.
    pub fn line(&self, elapsed: Duration) -> String {
        let of = |outcome| self.outcomes.get(&outcome).copied().unwrap_or(0);
        format!(
            "{} answered, {:.0}/s | committed {} aborted {} rejected {} | p50 {:.0} ms p99 {:.0} ms",
            self.count(),
            self.count() as f64 / elapsed.as_secs_f64().max(1e-9),
            of(Outcome::Committed),
            of(Outcome::Aborted),
            of(Outcome::Rejected),
            self.quantile_ms(0.5),
            self.quantile_ms(0.99),
        )
    }

    fn quantile_ms(&self, q: f64) -> f64 {
        self.answer_us.value_at_quantile(q) as f64 / 1e3
    }

    pub fn figures(&self, elapsed: Duration) -> Figures {
        let text = |map: &BTreeMap<Outcome, u64>| {
            map.iter().map(|(outcome, count)| (outcome.to_string(), *count)).collect()
        };
        Figures {
            transactions: self.count(),
            per_second: self.count() as f64 / elapsed.as_secs_f64().max(1e-9),
            outcomes: text(&self.outcomes),
            reasons: self.reasons.clone(),
            answer_ms_p50: self.quantile_ms(0.5),
            answer_ms_p99: self.quantile_ms(0.99),
            errors: self.errors,
            last_error: self.last_error.clone(),
            rejected_would_have_failed: self.rejected_that_would_have_failed,
            rejected_were_fraud: self.rejected_frauds,
            predictions: BTreeMap::from([
                ("success", prediction(&self.success)),
                ("fraud", prediction(&self.fraud)),
            ]),
        }
    }

    pub fn table(&self, elapsed: Duration) -> String {
        let figures = self.figures(elapsed);
        let mut outcomes = Table::new();
        outcomes.set_header(["outcome", "transactions", "share"]);
        for (outcome, count) in &figures.outcomes {
            let share = 100.0 * *count as f64 / figures.transactions.max(1) as f64;
            outcomes.add_row([outcome.clone(), count.to_string(), format!("{share:.2} %")]);
        }
        let mut reasons = Table::new();
        reasons.set_header(["reason", "transactions"]);
        for (reason, count) in &figures.reasons {
            reasons.add_row([reason.clone(), count.to_string()]);
        }
        let mut predictions = Table::new();
        predictions.set_header([
            "prediction",
            "happened",
            "predicted mean",
            "AUC",
            "log loss",
            "of the base rate",
        ]);
        for (target, p) in &figures.predictions {
            let show = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.4}"));
            predictions.add_row([
                (*target).to_owned(),
                show(p.base_rate),
                show(p.predicted_mean),
                show(p.auc_roc),
                show(p.log_loss),
                show(p.log_loss_of_base_rate),
            ]);
        }
        format!(
            "{outcomes}\n{reasons}\n{predictions}\n{} rejected: {} would have failed, {} were \
             fraud\nanswers: p50 {:.1} ms, p99 {:.1} ms, {:.0} a second\n",
            self.rejected,
            self.rejected_that_would_have_failed,
            self.rejected_frauds,
            figures.answer_ms_p50,
            figures.answer_ms_p99,
            figures.per_second,
        )
    }
}

fn prediction(pairs: &Pairs) -> Prediction {
    let n = pairs.labels.len();
    let base_rate = metrics::base_rate(&pairs.labels);
    let constant = base_rate.map(|rate| vec![rate; n]);
    Prediction {
        n,
        base_rate,
        predicted_mean: (n > 0).then(|| pairs.probabilities.iter().sum::<f64>() / n as f64),
        auc_roc: metrics::auc_roc(&pairs.probabilities, &pairs.labels),
        log_loss: metrics::log_loss(&pairs.probabilities, &pairs.labels),
        log_loss_of_base_rate: constant.and_then(|c| metrics::log_loss(&c, &pairs.labels)),
    }
}
