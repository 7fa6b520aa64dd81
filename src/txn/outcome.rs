//! Votes, decisions, outcomes and the reasons given for them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::payment::text_enum;

/// Why a participant votes no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum Declined {
    /// The participant's own rules say no: funds, limits, unknown account. A retry changes nothing.
    Business {
        /// A short code, such as `insufficient_funds`.
        code: String,
        /// One sentence for a person.
        detail: String,
    },
    /// Something broke; the branch is certainly not prepared. A retry may succeed.
    Technical {
        /// A short code, such as `participant_unavailable`.
        code: String,
        /// One sentence for a person.
        detail: String,
    },
}

/// A participant's answer to prepare. A lost or ambiguous answer is `Unknown`, never a guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vote {
    /// Prepared, durably, and it will obey the decision.
    Yes,
    /// Nothing to do in phase two.
    ReadOnly,
    /// Certainly not prepared.
    No(Declined),
    /// Prepared or not, nobody knows yet: to be inquired.
    Unknown(String),
}

/// A participant's answer to commit or abort of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ack {
    /// Carried out, durably; also for a repeated call.
    Done,
    /// It ended the other way, or it never heard of a branch it had prepared: for the operator.
    Heuristic(String),
    /// No usable answer: try again.
    Unknown(String),
}

/// What a participant knows of a one-phase commit whose reply was lost. Asking places a tombstone,
/// so that the answer stays true: whoever came first is the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inquiry {
    /// The branch was committed.
    Committed,
    /// It was not, and can no longer be.
    Aborted,
    /// No usable answer: ask again.
    Unknown(String),
}

/// The coordinator's decision: never changes once durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// All branches commit.
    Commit,
    /// All branches roll back.
    Abort,
}

text_enum!(
    /// What an operator states of a branch that cannot be asked any more.
    Claim, "claim", {
        /// The decision was carried out there by hand.
        Done => "done",
        /// The branch is lost with its server: nothing can carry the decision out there.
        Gone => "gone",
        /// A one-phase commit whose answer was lost did commit.
        Committed => "committed",
        /// A one-phase commit whose answer was lost did not commit.
        Aborted => "aborted",
    }
);

text_enum!(
    /// What happened to a transaction, as answered to its client.
    Outcome, "outcome", {
        /// Applied everywhere.
        Committed => "committed",
        /// Started and undone everywhere.
        Aborted => "aborted",
        /// Never started.
        Rejected => "rejected",
        /// Not known until recovery has finished it.
        InDoubt => "in_doubt",
        /// A participant decided alone, against the decision, or an operator forced the end.
        Heuristic => "heuristic",
    }
);

text_enum!(
    /// The fixed catalogue of reasons for an outcome or a plan.
    ReasonCode, "reason code", {
        /// Predicted fraud above the threshold.
        FraudPredicted => "fraud_predicted",
        /// Predicted success below the threshold.
        SuccessUnlikely => "success_unlikely",
        /// Would have been rejected, but the cap on the rejected share was reached.
        RejectedShareCapped => "rejected_share_capped",
        /// Would have been rejected in mode `enforce`.
        Observed => "observed",
        /// A participant declined for its own reasons.
        BusinessDecline => "business_decline",
        /// A participant failed.
        TechnicalFailure => "technical_failure",
        /// A participant did not vote before its deadline.
        PrepareTimeout => "prepare_timeout",
        /// The client's or the operator's wish.
        Cancelled => "cancelled",
        /// A model was away; rules served.
        ModelFallback => "model_fallback",
        /// The decision could not be made durable.
        DecisionUnknown => "decision_unknown",
        /// A participant answered phase two against the decision.
        HeuristicDecision => "heuristic_decision",
        /// An operator stated how a branch ended that could not be asked any more.
        OperatorResolved => "operator_resolved",
    }
);

/// One reason, with what a person needs to understand it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// From the catalogue.
    pub code: ReasonCode,
    /// The value and the limit, or the participant's own words.
    pub detail: String,
}

impl Reason {
    /// A reason with its detail.
    pub fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
