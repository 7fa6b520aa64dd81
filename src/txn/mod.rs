//! The values that cross module boundaries: ids, time, money, payments, votes, outcomes, plans.
//!
//! Plain data with its validation and its text forms; no I/O, no clock, no randomness. Everything
//! else in the crate speaks in these words, one word one meaning (see the glossary in `README.md`).

mod answer;
mod history;
mod ids;
mod money;
mod outcome;
mod payment;
mod plan;
mod text;
mod time;

#[cfg(test)]
mod tests;

pub use answer::{Answer, Insights, Timings};
pub use history::{FailureClass, HistoryOutcome, HistoryRow, LegRow, LegVote};
pub use ids::{
    BranchIndex, CounterpartyId, CustomerId, Epoch, Gid, IdError, LogId, OperationName,
    ParticipantName, PhysicalId, TxnId,
};
pub use money::{Currency, Money};
pub use outcome::{Ack, Claim, Decision, Declined, Inquiry, Outcome, Reason, ReasonCode, Vote};
pub(crate) use payment::text_enum;
pub use payment::{
    Customer, CustomerType, Kind, Location, Operation, Params, Payment, ProtocolRequest,
    Transaction, ValueError,
};
pub use plan::{
    Admission, BranchPlan, LatencyPrediction, Mode, Plan, Prediction, Probability, Protocol,
    ServedBy,
};
pub use text::{ByName, Text};
pub use time::{Timestamp, TimestampError, span};
