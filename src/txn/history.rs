//! One row of a history: a payment that happened, and what came of it.

use std::time::Duration;

use super::payment::text_enum;
use super::{ParticipantName, Payment, Timestamp};

text_enum!(
    /// How a past transaction ended, for training: the label of *success*.
    HistoryOutcome, "outcome", {
        /// Applied everywhere.
        Committed => "committed",
        /// Started and undone.
        Aborted => "aborted",
        /// Never started; it carries no label.
        Rejected => "rejected",
    }
);

text_enum!(
    /// Why a past transaction was not committed.
    FailureClass, "failure class", {
        /// A participant's own rules.
        Business => "business",
        /// Something broke or took too long.
        Technical => "technical",
    }
);

text_enum!(
    /// A past participant's vote.
    LegVote, "vote", {
        /// Prepared.
        Yes => "yes",
        /// Declined or failed.
        No => "no",
        /// Nothing to do.
        ReadOnly => "read_only",
        /// No vote before the timeout.
        Timeout => "timeout",
    }
);

/// A past transaction in canonical form (see the history CSV in `README.md`).
///
/// Its outcome became known at `timestamp + total`, its fraud label at `labelled_at`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRow {
    /// Its id, unique within a history.
    pub txn_id: String,
    /// The payment of which it was an attempt.
    pub payment_id: String,
    /// When it was submitted.
    pub timestamp: Timestamp,
    /// What was known of it then. `payment.participants` comes from the legs.
    pub payment: Payment,
    /// The route that it took, if one was recorded.
    pub route: Option<String>,
    /// How it ended, if recorded.
    pub outcome: Option<HistoryOutcome>,
    /// Why it failed, for an aborted one.
    pub failure_class: Option<FailureClass>,
    /// From submission to outcome.
    pub total: Option<Duration>,
    /// Whether it was fraud; `None` while unlabelled.
    pub fraud: Option<bool>,
    /// When the fraud label became known.
    pub labelled_at: Option<Timestamp>,
    /// One row a participant, in branch order; empty where no legs were recorded.
    pub legs: Vec<LegRow>,
}

/// One participant's part in a past transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct LegRow {
    /// Which participant.
    pub participant: ParticipantName,
    /// Its vote.
    pub vote: LegVote,
    /// From sending prepare to its vote, or to the timeout, in milliseconds.
    pub prepare_ms: f64,
    /// The timeout that was in force, in milliseconds.
    pub timeout_ms: Option<f64>,
    /// When the vote arrived after the timeout: from sending prepare, in milliseconds.
    pub late_ms: Option<f64>,
    /// Branches in flight at the participant when prepare was sent.
    pub in_flight: u32,
    /// The participant's health as known then: share of recent calls answered, 0 to 1.
    pub health: f64,
}

impl LegRow {
    /// The true latency in milliseconds, if it is known: a late vote counts with its own time, a
    /// vote that never came is censored.
    pub fn latency_ms(&self) -> Option<f64> {
        match self.vote {
            LegVote::Timeout => self.late_ms,
            LegVote::Yes | LegVote::No | LegVote::ReadOnly => Some(self.prepare_ms),
        }
    }
}

impl HistoryRow {
    /// When the outcome became known.
    pub fn finished_at(&self) -> Option<Timestamp> {
        self.total.map(|total| self.timestamp.after(total))
    }

    /// The label of *success*; rejected and unrecorded rows have none.
    pub fn succeeded(&self) -> Option<bool> {
        match self.outcome? {
            HistoryOutcome::Committed => Some(true),
            HistoryOutcome::Aborted => Some(false),
            HistoryOutcome::Rejected => None,
        }
    }
}
