//! One branch alone: it commits in one phase, and a lost reply is inquired.

use std::time::Duration;

use super::{AbortCause, Action, BranchState, Phase, TwoPhase};
use crate::mutation::{Mutation, on};
use crate::txn::{BranchIndex, Decision, Inquiry, Vote};

impl TwoPhase {
    pub(super) fn send_one_phase(&mut self, elapsed: Duration, actions: &mut Vec<Action>) {
        let branch = &mut self.branches[0];
        branch.state = BranchState::Preparing;
        branch.vote_by = Some(elapsed.saturating_add(branch.timeout));
        self.phase = Phase::OnePhaseSent;
        actions.push(Action::SendOnePhase(BranchIndex(0)));
    }

    pub(super) fn one_phase_answer(&mut self, vote: Vote, actions: &mut Vec<Action>) {
        match vote {
            Vote::Yes | Vote::ReadOnly => {
                // Committed already: nothing is left to be told.
                self.branches[0].state = BranchState::ReadOnly;
                self.decide(Decision::Commit, actions);
            }
            Vote::No(declined) => {
                self.branches[0].state = BranchState::Declined;
                self.abort(AbortCause::Declined(BranchIndex(0), declined), actions);
            }
            Vote::Unknown(detail) => {
                if on(Mutation::OnePhaseUnknownIsNo) {
                    self.branches[0].state = BranchState::Declined;
                    return self.abort(AbortCause::VoteUnknown(BranchIndex(0), detail), actions);
                }
                self.cause = Some(AbortCause::VoteUnknown(BranchIndex(0), detail));
                self.inquire(actions);
            }
        }
    }

    pub(super) fn inquire(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Inquiring;
        self.branches[0].state = BranchState::Unclear;
        self.branches[0].retry_at = None;
        actions.push(Action::SendInquiry(BranchIndex(0)));
    }

    pub(super) fn inquired(
        &mut self,
        elapsed: Duration,
        inquiry: Inquiry,
        actions: &mut Vec<Action>,
    ) {
        self.branches[0].retry_at = None;
        match inquiry {
            Inquiry::Committed => {
                self.cause = None;
                self.branches[0].state = BranchState::ReadOnly;
                self.decide(Decision::Commit, actions);
            }
            Inquiry::Aborted => {
                self.branches[0].state = BranchState::Declined;
                let cause = self.cause.take().unwrap_or(AbortCause::Timeout(BranchIndex(0)));
                self.abort(cause, actions);
            }
            Inquiry::Unknown(_) => self.retry_later(elapsed, 0),
        }
    }
}
