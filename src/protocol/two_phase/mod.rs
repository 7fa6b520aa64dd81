//! Two-phase commit with presumed abort, as a state machine.
//!
//! # Guarantees, given that `Persisted` is only said of what is durable
//! - No `SendCommit` before the commit decision is durable; no answer before it is durable.
//! - One no, unknown or late vote aborts; a decision never changes.
//! - Every branch that may be prepared is told, again and again, until it acknowledges.
//! - A read-only branch leaves after phase one; one branch alone commits in one phase, behind a
//!   durable intent, and a lost reply is inquired, never guessed.
//!
//! # What it does not do
//! It blocks while its coordinator is away: prepared branches wait for recovery. It takes no locks
//! and knows nothing of predictions: the plan's timeouts are all it is given.
//!
//! # Transitions
//! ```text
//! Ready ─Start─► Preparing ─all yes─► Deciding(Commit) ─Persisted─► Completing ─all acked─► Done
//!   │               └─no│unknown│late│Cancel─► Deciding(Abort) ─Persisted─► Completing
//!   └─one branch─► Intending ─Persisted─► OnePhase ─yes│no─► Deciding ─► Completing
//!                                            └─unknown│late─► Inquiring ─► Deciding
//! Deciding ─PersistFailed─► InDoubt (left to recovery, nothing is sent)
//! Inquiring ─Resolved(committed│aborted)─► Deciding
//! Completing ─Resolved(done│gone)─► Completing, with one branch fewer to be told
//! ```
//! An operator's `Resolved` is durable before it comes; anywhere else it was overtaken and changes
//! nothing. `RetryNow` ends a wait and nothing else.

use std::time::Duration;

use super::Backoff;
use crate::mutation::{Mutation, on};
use crate::txn::{Ack, BranchIndex, Claim, Decision, Inquiry, Vote};

mod one_phase;
mod signals;
mod views;

#[cfg(test)]
mod tests;

pub use signals::{AbortCause, Action, BranchState, BranchView, Input, Stage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    Intending,
    OnePhaseSent,
    Inquiring,
    Preparing,
    Deciding(Decision),
    Completing(Decision),
    Done,
    InDoubt,
}

#[derive(Debug, Clone)]
struct Branch {
    state: BranchState,
    timeout: Duration,
    vote_by: Option<Duration>,
    attempts: u32,
    retry_at: Option<Duration>,
}

/// The engine of one transaction.
#[derive(Debug, Clone)]
pub struct TwoPhase {
    branches: Vec<Branch>,
    phase: Phase,
    cause: Option<AbortCause>,
    backoff: Backoff,
    seed: u64,
    late_votes: Vec<BranchIndex>,
}

impl TwoPhase {
    /// An engine for one branch an entry of `prepare_timeouts`; `seed` spreads the retries.
    ///
    /// # Panics
    /// If there is no branch, or more than `u16` can index: the request was checked before.
    pub fn new(prepare_timeouts: &[Duration], backoff: Backoff, seed: u64) -> Self {
        assert!(!prepare_timeouts.is_empty(), "a transaction has at least one branch");
        assert!(u16::try_from(prepare_timeouts.len()).is_ok(), "branches are indexed by u16");
        let branches = prepare_timeouts
            .iter()
            .map(|&timeout| Branch {
                state: BranchState::Idle,
                timeout,
                vote_by: None,
                attempts: 0,
                retry_at: None,
            })
            .collect();
        Self { branches, phase: Phase::Ready, cause: None, backoff, seed, late_votes: Vec::new() }
    }

    /// Takes up a transaction whose commit decision was found in the log: `prepared` says which
    /// branches were to be committed.
    pub fn recovered(prepared: &[bool], backoff: Backoff, seed: u64) -> Self {
        let mut engine = Self::new(&vec![Duration::ZERO; prepared.len()], backoff, seed);
        for (branch, &prepared) in engine.branches.iter_mut().zip(prepared) {
            branch.state = if prepared { BranchState::Prepared } else { BranchState::ReadOnly };
        }
        engine.phase = Phase::Deciding(Decision::Commit);
        engine
    }

    /// Takes up a one-phase commit whose intent was found in the log: the first `Tick` inquires.
    pub fn inquiring(backoff: Backoff, seed: u64) -> Self {
        Self::unclear(Phase::Inquiring, backoff, seed)
    }

    /// Takes up a prepared branch that nobody decided: the first `Tick` aborts it.
    pub fn orphan(backoff: Backoff, seed: u64) -> Self {
        Self::unclear(Phase::Completing(Decision::Abort), backoff, seed)
    }

    fn unclear(phase: Phase, backoff: Backoff, seed: u64) -> Self {
        let mut engine = Self::new(&[Duration::ZERO], backoff, seed);
        engine.phase = phase;
        engine.branches[0].state = BranchState::Unclear;
        engine.branches[0].retry_at = Some(Duration::ZERO);
        engine
    }

    /// Feeds one input at `elapsed` since the start; what to do is appended to `actions`.
    ///
    /// # Panics
    /// On an input that the driver can only give by mistake, such as `Persisted` when nothing
    /// was to be persisted. Nothing that a participant says can make it panic.
    pub fn step(&mut self, elapsed: Duration, input: Input, actions: &mut Vec<Action>) {
        match (self.phase, input) {
            (Phase::Ready, Input::Start) => self.start(elapsed, actions),
            (Phase::Intending, Input::Persisted) => self.send_one_phase(elapsed, actions),
            (Phase::Intending, Input::PersistFailed) => self.give_up(actions),
            (Phase::Preparing, Input::Voted(branch, vote)) => {
                self.voted(branch, vote, actions);
            }
            (Phase::OnePhaseSent, Input::Voted(_, vote)) => self.one_phase_answer(vote, actions),
            (Phase::OnePhaseSent | Phase::Inquiring, Input::Inquired(_, inquiry)) => {
                self.inquired(elapsed, inquiry, actions);
            }
            (Phase::Deciding(decision), Input::Persisted) => {
                self.complete(decision, actions);
            }
            (Phase::Deciding(_), Input::PersistFailed) => self.give_up(actions),
            (
                Phase::Deciding(Decision::Abort) | Phase::Completing(_),
                Input::Acked(branch, ack),
            ) => {
                self.acked(elapsed, branch, ack, actions);
            }
            (
                Phase::Deciding(Decision::Abort) | Phase::Completing(Decision::Abort),
                Input::Voted(branch, vote),
            ) => self.voted_late(branch, &vote, actions),
            (Phase::Preparing, Input::Cancel) => {
                self.abort(AbortCause::Cancelled, actions);
            }
            (_, Input::Tick) => self.tick(elapsed, actions),
            (_, Input::RetryNow(branch)) => self.retry(usize::from(branch.0), actions),
            (Phase::Completing(_), Input::Resolved(branch, claim)) => {
                self.resolved(branch, claim, actions);
            }
            (Phase::Inquiring, Input::Resolved(_, Claim::Committed)) => {
                self.inquired(elapsed, Inquiry::Committed, actions);
            }
            (Phase::Inquiring, Input::Resolved(_, Claim::Aborted)) => {
                self.inquired(elapsed, Inquiry::Aborted, actions);
            }
            // Repeated and overtaken answers are normal on a network.
            (_, Input::Voted(..) | Input::Acked(..) | Input::Inquired(..) | Input::Cancel) => {}
            (_, Input::Resolved(..)) => {}
            (phase, input @ (Input::Start | Input::Persisted | Input::PersistFailed)) => {
                panic!("illegal transition: {input:?} in {phase:?}")
            }
        }
    }

    fn start(&mut self, elapsed: Duration, actions: &mut Vec<Action>) {
        if self.branches.len() == 1 {
            if on(Mutation::OnePhaseWithoutIntent) {
                return self.send_one_phase(elapsed, actions);
            }
            self.phase = Phase::Intending;
            actions.push(Action::PersistIntent);
            return;
        }
        self.phase = Phase::Preparing;
        for (index, branch) in self.branches.iter_mut().enumerate() {
            branch.state = BranchState::Preparing;
            branch.vote_by = Some(elapsed.saturating_add(branch.timeout));
            actions.push(Action::SendPrepare(index_of(index)));
        }
    }

    fn voted(&mut self, index: BranchIndex, vote: Vote, actions: &mut Vec<Action>) {
        let branch = &mut self.branches[usize::from(index.0)];
        if branch.state != BranchState::Preparing {
            return;
        }
        match vote {
            Vote::Yes => branch.state = BranchState::Prepared,
            Vote::ReadOnly => branch.state = BranchState::ReadOnly,
            Vote::No(_) if on(Mutation::ForgetNoVote) => branch.state = BranchState::ReadOnly,
            Vote::Unknown(_) if on(Mutation::UnknownVoteIsYes) => {
                branch.state = BranchState::Prepared;
            }
            Vote::No(declined) => {
                branch.state = BranchState::Declined;
                return self.abort(AbortCause::Declined(index, declined), actions);
            }
            Vote::Unknown(detail) => {
                branch.state = BranchState::Unclear;
                return self.abort(AbortCause::VoteUnknown(index, detail), actions);
            }
        }
        let in_favour =
            |b: &Branch| matches!(b.state, BranchState::Prepared | BranchState::ReadOnly);
        if self.branches.iter().all(in_favour) {
            self.decide(Decision::Commit, actions);
        }
    }

    fn voted_late(&mut self, index: BranchIndex, vote: &Vote, actions: &mut Vec<Action>) {
        let branch = &mut self.branches[usize::from(index.0)];
        match (branch.state, vote) {
            (BranchState::Preparing | BranchState::Unclear, Vote::No(_) | Vote::ReadOnly) => {
                branch.state = BranchState::Declined;
                branch.retry_at = None;
                self.finish_if_complete(actions);
            }
            (BranchState::Preparing | BranchState::Unclear, Vote::Yes) => {
                branch.state = BranchState::Prepared;
                self.late_votes.push(index);
            }
            // The abort was acknowledged, or is on its way.
            _ => {}
        }
    }

    fn abort(&mut self, cause: AbortCause, actions: &mut Vec<Action>) {
        self.cause = Some(cause);
        for (index, branch) in self.branches.iter().enumerate() {
            if must_be_told(branch.state) {
                actions.push(Action::SendAbort(index_of(index)));
            }
        }
        self.decide(Decision::Abort, actions);
    }

    fn decide(&mut self, decision: Decision, actions: &mut Vec<Action>) {
        self.phase = Phase::Deciding(decision);
        if on(Mutation::CommitBeforeDurable) && decision == Decision::Commit {
            actions.extend((0..self.branches.len()).map(|at| Action::SendCommit(index_of(at))));
        }
        actions.push(Action::PersistDecision(decision));
    }

    fn complete(&mut self, decision: Decision, actions: &mut Vec<Action>) {
        self.phase = Phase::Completing(decision);
        if decision == Decision::Commit {
            for (index, branch) in self.branches.iter().enumerate() {
                if branch.state == BranchState::Prepared {
                    actions.push(Action::SendCommit(index_of(index)));
                }
            }
        }
        actions.push(Action::Answer(decision));
        self.finish_if_complete(actions);
    }

    fn acked(
        &mut self,
        elapsed: Duration,
        index: BranchIndex,
        ack: Ack,
        actions: &mut Vec<Action>,
    ) {
        let branch = &mut self.branches[usize::from(index.0)];
        if !must_be_told(branch.state) {
            return;
        }
        match ack {
            Ack::Done => {
                branch.state = BranchState::Acked;
                branch.retry_at = None;
            }
            Ack::Heuristic(_) => {
                branch.state = BranchState::Heuristic;
                branch.retry_at = None;
                actions.push(Action::ReportHeuristic(index));
            }
            Ack::Unknown(_) if on(Mutation::LostAckIsDone) => branch.state = BranchState::Acked,
            Ack::Unknown(_) => self.retry_later(elapsed, usize::from(index.0)),
        }
        self.finish_if_complete(actions);
    }

    fn retry_later(&mut self, elapsed: Duration, index: usize) {
        let branch = &mut self.branches[index];
        branch.attempts = branch.attempts.saturating_add(1);
        let wait = self.backoff.wait(branch.attempts, self.seed ^ index as u64);
        branch.retry_at = Some(elapsed.saturating_add(wait));
    }

    fn finish_if_complete(&mut self, actions: &mut Vec<Action>) {
        let Phase::Completing(decision) = self.phase else { return };
        let acked = |b: &Branch| b.state == BranchState::Acked;
        let early = on(Mutation::FinishAfterFirstAck) && self.branches.iter().any(acked);
        if self.branches.iter().any(|b| must_be_told(b.state)) && !early {
            return;
        }
        self.phase = Phase::Done;
        if decision == Decision::Commit {
            actions.push(Action::Forget);
        }
    }

    /// The record may be durable or not: only recovery, which reads the log, may act.
    fn give_up(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::InDoubt;
        actions.push(Action::AnswerInDoubt);
    }

    fn tick(&mut self, elapsed: Duration, actions: &mut Vec<Action>) {
        let late = self.branches.iter().position(|b| {
            b.state == BranchState::Preparing && b.vote_by.is_some_and(|by| by <= elapsed)
        });
        match (self.phase, late) {
            (Phase::Preparing, Some(index)) if on(Mutation::LateVoteIsYes) => {
                return self.voted(index_of(index), Vote::Yes, actions);
            }
            (Phase::Preparing, Some(index)) => {
                self.branches[index].state = BranchState::Unclear;
                return self.abort(AbortCause::Timeout(index_of(index)), actions);
            }
            (Phase::OnePhaseSent, Some(index)) if on(Mutation::OnePhaseTimeoutIsNo) => {
                self.branches[index].state = BranchState::Declined;
                return self.abort(AbortCause::Timeout(index_of(index)), actions);
            }
            (Phase::OnePhaseSent, Some(index)) => {
                self.cause = Some(AbortCause::Timeout(index_of(index)));
                return self.inquire(actions);
            }
            _ => {}
        }
        for index in 0..self.branches.len() {
            if self.branches[index].retry_at.is_some_and(|at| at <= elapsed) {
                self.retry(index, actions);
            }
        }
    }

    /// Asks a branch again that waits for that.
    fn retry(&mut self, index: usize, actions: &mut Vec<Action>) {
        if self.branches[index].retry_at.take().is_none() {
            return;
        }
        let index = index_of(index);
        match self.phase {
            Phase::Inquiring => actions.push(Action::SendInquiry(index)),
            Phase::Completing(Decision::Commit) => actions.push(Action::SendCommit(index)),
            Phase::Deciding(Decision::Abort) | Phase::Completing(Decision::Abort) => {
                actions.push(Action::SendAbort(index));
            }
            _ => {}
        }
    }

    fn resolved(&mut self, index: BranchIndex, claim: Claim, actions: &mut Vec<Action>) {
        let branch = &mut self.branches[usize::from(index.0)];
        let state = match claim {
            Claim::Done => BranchState::Acked,
            Claim::Gone => BranchState::Heuristic,
            // Of a one-phase commit, whose only branch is told nothing.
            Claim::Committed | Claim::Aborted => return,
        };
        if must_be_told(branch.state) {
            branch.state = state;
            branch.retry_at = None;
            self.finish_if_complete(actions);
        }
    }
}

/// Whether a branch may be prepared and has not heard the decision.
fn must_be_told(state: BranchState) -> bool {
    matches!(state, BranchState::Prepared | BranchState::Unclear | BranchState::Preparing)
}

fn index_of(index: usize) -> BranchIndex {
    BranchIndex(u16::try_from(index).expect("checked in new"))
}
