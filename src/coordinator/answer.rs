//! What a client submits and what it hears: the shapes shared by server, tools and tests.

use serde::{Deserialize, Serialize};

pub use crate::txn::{Answer, Insights, Timings};
use crate::txn::{ParticipantName, Plan, Timestamp, Transaction, TxnId};

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
