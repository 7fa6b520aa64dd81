//! The records of the decision log. What is written for every transaction is stored packed;
//! the others as JSON, so that any tool can read them.

use serde::{Deserialize, Serialize};

use super::ResolutionRecord;
use crate::txn::{
    Answer, Decision, Epoch, LegRow, LegVote, Outcome, ParticipantName, PhysicalId, Plan,
    Prediction, Timestamp, TxnId,
};

/// A branch as recorded: bound to the server's identity, not only to its configured name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedBranch {
    /// The configured name.
    pub participant: ParticipantName,
    /// The server's identity.
    pub identity: String,
}

/// A durable commit decision, kept until every branch has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// The physical execution that it decides.
    pub physical: PhysicalId,
    /// Its branches, in branch order; only those that voted yes are to be committed.
    pub branches: Vec<RecordedBranch>,
    /// Branch positions that voted read-only and left.
    pub read_only: Vec<u16>,
    /// Its members: one, until transactions travel coalesced.
    pub members: Vec<TxnId>,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub at: Timestamp,
}

/// Written before a one-phase commit is sent, so that a crash leaves something to inquire about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// The physical execution.
    pub physical: PhysicalId,
    /// The only branch.
    pub branch: RecordedBranch,
    /// Hash of the request, lower-case hex of SHA-256.
    pub request_hash: String,
    /// The outcome row as far as it is known.
    pub row: OutcomeRow,
}

/// What a client was told, and for which request.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRecord {
    /// The answer, under the transaction's id, which is also the idempotency key.
    pub answer: Answer,
    /// Hash of the request, lower-case hex of SHA-256.
    pub request_hash: String,
    /// When it was made.
    pub at: Timestamp,
}

impl AnswerRecord {
    /// The record as it is written.
    pub fn given(&self) -> Given<'_> {
        Given { answer: &self.answer, request_hash: &self.request_hash, at: self.at }
    }
}

/// An [`AnswerRecord`] on its way into the log.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The answer.
    pub answer: &'a Answer,
    /// Hash of the request.
    pub request_hash: &'a str,
    /// When it was made.
    pub at: Timestamp,
}

impl Given<'_> {
    /// A copy that stays.
    pub fn to_record(&self) -> AnswerRecord {
        let Self { answer, request_hash, at } = *self;
        AnswerRecord { answer: answer.clone(), request_hash: request_hash.to_owned(), at }
    }
}

/// One finished or rejected transaction, as learning will read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// The transaction.
    pub txn_id: TxnId,
    /// When it was submitted, on the coordinator's clock or as allowed by the client.
    pub timestamp: Timestamp,
    /// Kind, customer, counterparty, amount and the rest, as submitted.
    pub kind: String,
    /// Customer id.
    pub customer_id: String,
    /// Customer segment.
    pub customer_type: String,
    /// When the customer's account was opened.
    pub customer_since: Option<Timestamp>,
    /// Counterparty id.
    pub counterparty_id: Option<String>,
    /// Amount in minor units.
    pub amount_minor: i64,
    /// Currency code.
    pub currency: String,
    /// Crosses a border.
    pub cross_border: bool,
    /// All participants must agree at once.
    pub requires_consistency: bool,
    /// Latitude in degrees.
    pub lat: Option<f64>,
    /// Longitude in degrees.
    pub lon: Option<f64>,
    /// Which attempt.
    pub attempt: u32,
    /// System load when submitted.
    pub system_load_ratio: Option<f64>,
    /// What happened.
    pub outcome: Outcome,
    /// `business` or `technical`, for an aborted one.
    pub failure_class: Option<String>,
    /// Reason codes.
    pub reasons: Vec<String>,
    /// From submission to outcome, in microseconds.
    pub total_us: u64,
    /// Transaction features as served, in schema order; a missing one is NaN, stored as null.
    #[serde(with = "nan_as_null")]
    pub features: Vec<f32>,
    /// What models said, `None` in mode off.
    pub prediction: Option<Prediction>,
    /// What policy made of it.
    pub plan: Plan,
    /// One entry a participant.
    pub legs: Vec<OutcomeLeg>,
}

/// One participant's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeLeg {
    /// Which participant.
    pub participant: ParticipantName,
    /// Its vote, `None` if it was never asked.
    pub vote: Option<LegVote>,
    /// From sending prepare to the vote or the timeout, in milliseconds.
    pub prepare_ms: Option<f64>,
    /// The timeout in force, in milliseconds.
    pub timeout_ms: f64,
    /// When a vote arrived after the timeout, in milliseconds from sending prepare.
    pub late_ms: Option<f64>,
    /// Branches in flight there when it was asked.
    pub in_flight: u32,
    /// Share of recent calls answered, 0 to 1.
    pub health: f64,
}

impl OutcomeLeg {
    /// The leg as history, and as the feature state hears of it; `None` if it was never asked.
    pub fn history(&self) -> Option<LegRow> {
        Some(LegRow {
            participant: self.participant.clone(),
            vote: self.vote?,
            prepare_ms: self.prepare_ms?,
            timeout_ms: Some(self.timeout_ms),
            late_ms: self.late_ms,
            in_flight: self.in_flight,
            health: self.health,
        })
    }
}

/// What a log held when it was opened.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Decisions whose phase two was not acknowledged everywhere.
    pub decisions: Vec<DecisionRecord>,
    /// One-phase commits whose outcome is not known.
    pub intents: Vec<Intent>,
    /// Everything that operators ever stated of a branch.
    pub resolutions: Vec<ResolutionRecord>,
    /// The newest execution that may have committed anywhere; `None` if the log has never noted
    /// one.
    pub newest: Option<(Epoch, PhysicalId)>,
}

/// JSON has no NaN. Infinities, which no feature should be, come back as NaN too.
mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| value.is_finite().then_some(*value)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let values = Vec::<Option<f32>>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect())
    }
}
