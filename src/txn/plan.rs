//! Predictions and the plan that policy makes of them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Text;
use super::payment::text_enum;
use super::{ParticipantName, Reason};

/// A number between 0 and 1, never NaN.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

impl Probability {
    /// `None` for NaN and for anything outside 0 to 1.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Probability {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        Self::new(value).ok_or_else(|| format!("probability {value} is not between 0 and 1"))
    }
}

impl From<Probability> for f64 {
    fn from(probability: Probability) -> Self {
        probability.0
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}

text_enum!(
    /// Whether policy acts on predictions.
    Mode, "mode", {
        /// No prediction is asked for.
        Off => "off",
        /// Predictions are made and logged, and change nothing.
        Observe => "observe",
        /// Predictions reject and set timeouts.
        Enforce => "enforce",
    }
);

text_enum!(
    /// The protocol that carries a transaction.
    Protocol, "protocol", {
        /// Two-phase commit, presumed abort.
        TwoPhase => "2pc",
    }
);

text_enum!(
    /// What made a prediction.
    ServedBy, "served by", {
        /// The trained model.
        Model => "model",
        /// The rules, because the model was missing, failed, was slow or gave nonsense.
        Rules => "rules",
    }
);

/// How long one participant will take to vote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyPrediction {
    /// Which participant.
    pub participant: ParticipantName,
    /// Predicted median of its prepare, in milliseconds.
    pub median_ms: f64,
    /// The calibrated upper bound, in milliseconds: median times the conformal multiplier.
    pub upper_ms: f64,
    /// What made it.
    pub served_by: ServedBy,
}

/// Everything that models say of one transaction before it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Probability that every vote will be yes.
    pub success: Probability,
    /// What made `success`.
    pub success_by: ServedBy,
    /// Probability of fraud.
    pub fraud: Probability,
    /// What made `fraud`.
    pub fraud_by: ServedBy,
    /// One entry a participant, in branch order.
    pub latency: Vec<LatencyPrediction>,
    /// `name/version` of the bundle that served, or `rules`.
    pub model_version: Text,
}

/// Whether a transaction is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// It is started.
    Admit,
    /// It is never started.
    Reject,
}

/// How one branch is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchPlan {
    /// At which participant.
    pub participant: ParticipantName,
    /// How long its vote is waited for.
    pub prepare_timeout: Duration,
}

/// Policy's answer: finished before the protocol engine sees the transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Started or not.
    pub admission: Admission,
    /// The protocol.
    pub protocol: Protocol,
    /// One entry a participant, in branch order.
    pub branches: Vec<BranchPlan>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// The mode that it was made in.
    pub mode: Mode,
}
