//! What a client submits and what it hears: the shapes shared by server, tools and tests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::txn::{
    Outcome, ParticipantName, Plan, Probability, Protocol, Reason, Timestamp, Transaction, TxnId,
};

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Until the decision is durable.
    #[default]
    Decision,
    /// Until every participant has carried it out.
    Applied,
}

/// A checked request on its way into the coordinator.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The transaction.
    pub transaction: Transaction,
    /// SHA-256 of the canonical request, lower-case hex: the same key with another is refused.
    pub request_hash: String,
    /// When the payment happened, if the client may say so; the coordinator's clock otherwise.
    pub event_time: Option<Timestamp>,
    /// How long to wait.
    pub wait: Wait,
}

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

/// The answer of a prediction without execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// What was predicted; `None` in mode off.
    pub insights: Option<Insights>,
    /// What policy would do.
    pub plan: Plan,
}

/// Why a submission was not taken. Nothing has happened, except for `Unavailable`.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The key was used for another request. Fix the request.
    #[error("transaction {id} was submitted before with another body")]
    KeyReused {
        /// The key.
        id: TxnId,
    },
    /// The same transaction is running. Wait and ask again.
    #[error("transaction {id} is in flight")]
    InFlight {
        /// The key.
        id: TxnId,
    },
    /// The configuration has no such participant. Fix the request.
    #[error("participant {name:?} is not configured; configured are {known}")]
    UnknownParticipant {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A participant does not know the operation, or refuses its parameters. Fix the request.
    #[error("operation {operation:?} at {participant}: {detail}")]
    BadOperation {
        /// Where.
        participant: String,
        /// Which.
        operation: String,
        /// Why.
        detail: String,
    },
    /// Too much is running. Retry later.
    #[error("{in_flight} transactions are in flight, the limit is {limit}")]
    Overloaded {
        /// How many there are.
        in_flight: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A participant cannot be asked now. Retry later.
    #[error("participant {name} takes no transactions now: {detail}")]
    ParticipantAway {
        /// Which one.
        name: ParticipantName,
        /// Why.
        detail: String,
    },
    /// The coordinator is stopping. Retry elsewhere or later.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
    /// The decision log has failed: the outcome is unknown until restart. Ask again then.
    #[error("the decision log is unavailable, the outcome of {id} is unknown: {detail}")]
    Unavailable {
        /// The key.
        id: TxnId,
        /// What failed.
        detail: String,
    },
}
