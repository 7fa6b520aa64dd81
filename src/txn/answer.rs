//! What a client hears of its transaction, now and when it asks again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Outcome, ParticipantName, Probability, Protocol, Reason, TxnId};

/// The answer to a submission, durable before it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The transaction.
    pub id: TxnId,
    /// What happened.
    pub outcome: Outcome,
    /// Why.
    pub reasons: Vec<Reason>,
    /// The protocol that carried it; `None` if it was rejected.
    pub protocol: Option<Protocol>,
    /// The participants, in branch order.
    pub participants: Vec<ParticipantName>,
    /// What was predicted; `None` in mode off.
    pub insights: Option<Insights>,
    /// How long it took.
    pub timings_ms: Timings,
}

/// The predictions behind an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Insights {
    /// Probability that every vote is yes.
    pub success_probability: Probability,
    /// Probability of fraud.
    pub fraud_probability: Probability,
    /// The longest prepare timeout among the branches, in milliseconds.
    pub timeout_ms: f64,
    /// How sure the success model is: the distance of its probability from a coin toss, 0 to 1.
    pub confidence: f64,
    /// Each participant's predicted median prepare, in milliseconds.
    pub latency_ms: BTreeMap<String, f64>,
    /// Which model served each target.
    pub models: BTreeMap<String, String>,
}

/// Milliseconds a transaction spent where.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Features, predictions and plan.
    pub predict: f64,
    /// Until the last vote.
    pub prepare: f64,
    /// Until the outcome was durable.
    pub commit: f64,
    /// From submission to answer.
    pub total: f64,
}
