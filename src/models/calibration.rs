//! Calibration: from a score that ranks well to a probability that can be believed.
//!
//! Fitted on the newest mature slice, which the model did not see. Platt's two numbers only;
//! whether they help is judged on the newer half of the slice with numbers from the older half.

use serde::{Deserialize, Serialize};

/// Probabilities are kept this far from 0 and 1 in logits and losses.
pub const PROBABILITY_MARGIN: f64 = 1e-12;

/// Rows below which no slope is worth fitting.
const ROWS_MIN: usize = 200;

/// Newton steps at most; two parameters of a convex loss need about six.
const STEPS_MAX: usize = 50;

/// What is done to a probability.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Calibration {
    /// Nothing.
    #[default]
    Identity,
    /// The logit becomes `slope` × logit + `intercept` (Platt 1999).
    Platt {
        /// Below 1: the model was too sure.
        slope: f64,
        /// The shift in log odds.
        intercept: f64,
    },
}

impl Calibration {
    /// The calibrated probability.
    pub fn apply(&self, probability: f64) -> f64 {
        match self {
            Self::Identity => probability,
            Self::Platt { slope, intercept } => sigmoid(slope * logit(probability) + intercept),
        }
    }

    /// Slope and intercept on the logit.
    pub fn as_line(&self) -> (f64, f64) {
        match self {
            Self::Identity => (1.0, 0.0),
            Self::Platt { slope, intercept } => (*slope, *intercept),
        }
    }

    /// Chooses between nothing and Platt by log loss: fitted on the older half, judged on the
    /// newer; the winner is fitted on all. Rows are in time order.
    pub fn choose(probabilities: &[f64], labels: &[bool]) -> Self {
        assert_eq!(probabilities.len(), labels.len(), "one label a probability");
        let half = labels.len() / 2;
        if labels.len() < ROWS_MIN {
            return Self::Identity;
        }
        let Some(trial) = Self::platt(&probabilities[..half], &labels[..half]) else {
            return Self::Identity;
        };
        let newer: Vec<f64> = probabilities[half..].iter().map(|p| trial.apply(*p)).collect();
        let before = log_loss(&probabilities[half..], &labels[half..]);
        if log_loss(&newer, &labels[half..]) >= before {
            return Self::Identity;
        }
        Self::platt(probabilities, labels).unwrap_or_default()
    }

    /// Platt's slope and intercept by Newton's method; `None` where there is no sensible answer
    /// (one class, or a slope that is not above 0).
    pub fn platt(probabilities: &[f64], labels: &[bool]) -> Option<Self> {
        if labels.iter().all(|label| *label) || labels.iter().all(|label| !*label) {
            return None;
        }
        let logits: Vec<f64> = probabilities.iter().map(|p| logit(*p)).collect();
        let (mut slope, mut intercept) = (1.0_f64, 0.0_f64);
        let loss = |slope: f64, intercept: f64| {
            let rows = logits.iter().zip(labels);
            rows.map(|(z, label)| softplus(slope * z + intercept, *label)).sum::<f64>()
        };
        let mut least = loss(slope, intercept);
        for _ in 0..STEPS_MAX {
            let step = newton_step(&logits, labels, slope, intercept)?;
            // A full step can overshoot where the model is far too sure: halve it until it helps.
            let mut size = 1.0;
            let mut reached = loss(slope - step.0, intercept - step.1);
            while worse(reached, least) && size > 1e-9 {
                size /= 2.0;
                reached = loss(slope - size * step.0, intercept - size * step.1);
            }
            if worse(reached, least) {
                break;
            }
            slope -= size * step.0;
            intercept -= size * step.1;
            least = reached;
            if size * (step.0.abs() + step.1.abs()) < 1e-10 {
                break;
            }
        }
        let sensible = slope > 0.0 && slope < 100.0 && intercept.abs() < 100.0;
        sensible.then_some(Self::Platt { slope, intercept })
    }
}

/// Gradient over curvature of the summed log loss; `None` where they are not finite.
fn newton_step(logits: &[f64], labels: &[bool], slope: f64, intercept: f64) -> Option<(f64, f64)> {
    let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
    for (z, label) in logits.iter().zip(labels) {
        let p = sigmoid(slope * z + intercept);
        let error = p - f64::from(u8::from(*label));
        let weight = p * (1.0 - p);
        ga += error * z;
        gb += error;
        haa += weight * z * z;
        hab += weight * z;
        hbb += weight;
    }
    let determinant = haa * hbb - hab * hab;
    let step = ((hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant);
    (step.0.is_finite() && step.1.is_finite()).then_some(step)
}

/// Also for NaN.
fn worse(reached: f64, least: f64) -> bool {
    reached.is_nan() || reached > least
}

/// Log loss of a logit, exact far from 0 as well.
fn softplus(z: f64, label: bool) -> f64 {
    let z = if label { -z } else { z };
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// ln(p / (1 − p)), p kept off 0 and 1.
pub fn logit(probability: f64) -> f64 {
    let p = probability.clamp(PROBABILITY_MARGIN, 1.0 - PROBABILITY_MARGIN);
    (p / (1.0 - p)).ln()
}

/// 1 / (1 + exp(−z)).
pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// Mean log loss in nats; NaN for no rows.
pub fn log_loss(probabilities: &[f64], labels: &[bool]) -> f64 {
    let one = |(p, label): (&f64, &bool)| {
        let p = p.clamp(PROBABILITY_MARGIN, 1.0 - PROBABILITY_MARGIN);
        if *label { -p.ln() } else { -(1.0 - p).ln() }
    };
    probabilities.iter().zip(labels).map(one).sum::<f64>() / labels.len() as f64
}
