//! What goes into the engine and what comes out of it.

use std::time::Duration;

use crate::txn::{Ack, BranchIndex, Claim, Decision, Declined, Inquiry, Vote};

/// What happens to a transaction. Times are since the transaction started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin.
    Start,
    /// What was asked to be persisted is durable.
    Persisted,
    /// It is not known to be durable.
    PersistFailed,
    /// A participant voted, or answered a one-phase commit.
    Voted(BranchIndex, Vote),
    /// A participant answered commit or abort.
    Acked(BranchIndex, Ack),
    /// A participant answered an inquiry.
    Inquired(BranchIndex, Inquiry),
    /// Time has passed: at or after [`TwoPhase::deadline`](super::TwoPhase::deadline).
    Tick,
    /// Stop if nothing is decided yet.
    Cancel,
    /// Do not wait any longer before this branch is asked again. The backoff goes on as it was.
    RetryNow(BranchIndex),
    /// An operator states, durably, how this branch ended: it is asked no more.
    Resolved(BranchIndex, Claim),
}

/// What the driver must do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the intent of a one-phase commit durable, then say `Persisted`.
    PersistIntent,
    /// Make decision, answer and outcome row durable in one batch, then say `Persisted`.
    PersistDecision(Decision),
    /// Ask for a vote.
    SendPrepare(BranchIndex),
    /// Execute and commit in one step.
    SendOnePhase(BranchIndex),
    /// Tell the decision.
    SendCommit(BranchIndex),
    /// Roll back.
    SendAbort(BranchIndex),
    /// Ask what became of a one-phase commit.
    SendInquiry(BranchIndex),
    /// Tell the client: the decision is durable.
    Answer(Decision),
    /// Tell the client that the outcome is not known; recovery will finish it.
    AnswerInDoubt,
    /// Report that a participant ended against the decision.
    ReportHeuristic(BranchIndex),
    /// Every branch has acknowledged: the decision record may go.
    Forget,
}

/// Why a transaction aborts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbortCause {
    /// A participant voted no.
    Declined(BranchIndex, Declined),
    /// A participant's vote was lost or ambiguous.
    VoteUnknown(BranchIndex, String),
    /// A participant did not vote in time.
    Timeout(BranchIndex),
    /// Cancelled before the decision.
    Cancelled,
}

/// What the driver can see of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchState {
    /// Not asked yet.
    Idle,
    /// Asked for its vote.
    Preparing,
    /// Voted yes: prepared.
    Prepared,
    /// Voted read-only: it has left.
    ReadOnly,
    /// Voted no: certainly nothing there.
    Declined,
    /// Its vote was late, lost or ambiguous: perhaps prepared.
    Unclear,
    /// Acknowledged the decision.
    Acked,
    /// Ended against the decision.
    Heuristic,
}

/// Where a transaction stands, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In its first phase: nothing is decided, and it may still be cancelled.
    Working,
    /// A one-phase commit whose reply was lost or late is inquired about.
    Inquiring,
    /// The decision is being made durable.
    Deciding(Decision),
    /// The decision is durable; branches are told.
    Completing(Decision),
    /// Every branch was told.
    Done,
    /// The decision may be durable or not: left to recovery.
    InDoubt,
}

/// How far a branch is, and when it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchView {
    /// Its state.
    pub state: BranchState,
    /// Calls of phase two, or inquiries, that got no usable answer.
    pub attempts: u32,
    /// When it is asked again, since the start; `None` if an answer is awaited or none is needed.
    pub retry_at: Option<Duration>,
}
