//! Seeded bugs, to prove that the fault simulator would find them.
//!
//! Only tests can switch one on: elsewhere [`on`] is `false` at compile time, and nothing of a bug
//! is left in the binary. Each bug stands where a person could have made it, behind one question.

/// A bug that somebody could have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    // Of the engine.
    CommitBeforeDurable,
    ForgetNoVote,
    UnknownVoteIsYes,
    LateVoteIsYes,
    OnePhaseUnknownIsNo,
    OnePhaseTimeoutIsNo,
    OnePhaseWithoutIntent,
    FinishAfterFirstAck,
    LostAckIsDone,
    // Of the coordinator.
    AnswerBeforeDurable,
    FailedWriteIsDurable,
    ReadOnlyNotRecorded,
    RecoveryDropsBranch,
    RecoveryIgnoresDecisions,
    RecoveryIgnoresIntents,
    RecoveryFreesKeys,
    RecoveryGuessesInquiry,
    RecoveredIntentAborts,
    ScanAbortsDecided,
    ScanAbortsRunning,
    ScanForgetsOrphans,
    KeyRunsTwice,
    KeyTakesOtherBody,
    PhysicalIdReused,
    // Of the coalescer.
    SpoilerStays,
    DeclinerTravels,
    DeclineOnTakenBack,
    // Of the decision log.
    LogAnswersBeforeFlush,
    LogLosesAnswers,
    LogTearsBatches,
    LogKeepsEpoch,
    // Of a disk, and of a participant.
    FailedSyncIsIgnored,
    VoteBeforeFlush,
    EpochNotChecked,
    InquiryLeavesNoTombstone,
    CommitLeavesNoMarker,
    DuplicateHoldsTwice,
    DuplicateBooksTwice,
    DebitNotGuarded,
}

#[cfg(test)]
impl Mutation {
    /// Every bug.
    pub(crate) const ALL: &[Self] = &[
        Self::CommitBeforeDurable,
        Self::ForgetNoVote,
        Self::UnknownVoteIsYes,
        Self::LateVoteIsYes,
        Self::OnePhaseUnknownIsNo,
        Self::OnePhaseTimeoutIsNo,
        Self::OnePhaseWithoutIntent,
        Self::FinishAfterFirstAck,
        Self::LostAckIsDone,
        Self::AnswerBeforeDurable,
        Self::FailedWriteIsDurable,
        Self::ReadOnlyNotRecorded,
        Self::RecoveryDropsBranch,
        Self::RecoveryIgnoresDecisions,
        Self::RecoveryIgnoresIntents,
        Self::RecoveryFreesKeys,
        Self::RecoveryGuessesInquiry,
        Self::RecoveredIntentAborts,
        Self::ScanAbortsDecided,
        Self::ScanAbortsRunning,
        Self::ScanForgetsOrphans,
        Self::KeyRunsTwice,
        Self::KeyTakesOtherBody,
        Self::PhysicalIdReused,
        Self::SpoilerStays,
        Self::DeclinerTravels,
        Self::LogAnswersBeforeFlush,
        Self::LogLosesAnswers,
        Self::LogTearsBatches,
        Self::LogKeepsEpoch,
        Self::FailedSyncIsIgnored,
        Self::VoteBeforeFlush,
        Self::EpochNotChecked,
        Self::InquiryLeavesNoTombstone,
        Self::CommitLeavesNoMarker,
        Self::DuplicateHoldsTwice,
        Self::DuplicateBooksTwice,
        Self::DebitNotGuarded,
    ];
}

#[cfg(test)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is switched on, in this thread.
#[cfg(test)]
pub(crate) fn on(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}

/// Never, outside tests.
#[cfg(not(test))]
pub(crate) const fn on(_mutation: Mutation) -> bool {
    false
}

/// Runs with a bug switched on in this thread.
#[cfg(test)]
pub(crate) fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
    ACTIVE.set(Some(mutation));
    let result = run();
    ACTIVE.set(None);
    result
}
