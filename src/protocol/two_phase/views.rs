//! What may be asked of an engine; nothing here changes it.

use std::time::Duration;

use super::{AbortCause, Branch, BranchState, BranchView, Phase, Stage, TwoPhase};
use crate::txn::{BranchIndex, Decision};

impl TwoPhase {
    /// When to say `Tick` next, since the start; `None` if nothing is waited for.
    pub fn deadline(&self) -> Option<Duration> {
        let votes = self.branches.iter().filter_map(|b| match (self.phase, b.state) {
            (Phase::Preparing | Phase::OnePhaseSent, BranchState::Preparing) => b.vote_by,
            _ => None,
        });
        votes.chain(self.branches.iter().filter_map(|b| b.retry_at)).min()
    }

    /// Whether nothing more will be asked of the driver.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::InDoubt)
    }

    /// Whether it ended with every branch told, rather than left to recovery.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// What was decided, durable or about to be.
    pub fn decision(&self) -> Option<Decision> {
        match self.phase {
            Phase::Deciding(decision) | Phase::Completing(decision) => Some(decision),
            _ => None,
        }
    }

    /// Why it aborts.
    pub fn cause(&self) -> Option<&AbortCause> {
        self.cause.as_ref()
    }

    /// The state of a branch.
    pub fn branch_state(&self, branch: BranchIndex) -> BranchState {
        self.branches[usize::from(branch.0)].state
    }

    /// How far a branch is.
    pub fn branch(&self, branch: BranchIndex) -> BranchView {
        self.branches[usize::from(branch.0)].view()
    }

    /// How far every branch is, in order.
    pub fn views(&self) -> impl Iterator<Item = BranchView> {
        self.branches.iter().map(Branch::view)
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        match self.phase {
            Phase::Ready | Phase::Intending | Phase::OnePhaseSent | Phase::Preparing => {
                Stage::Working
            }
            Phase::Inquiring => Stage::Inquiring,
            Phase::Deciding(decision) => Stage::Deciding(decision),
            Phase::Completing(decision) => Stage::Completing(decision),
            Phase::Done => Stage::Done,
            Phase::InDoubt => Stage::InDoubt,
        }
    }

    /// Branches whose yes arrived after the abort was decided.
    pub fn late_votes(&self) -> &[BranchIndex] {
        &self.late_votes
    }
}

impl Branch {
    fn view(&self) -> BranchView {
        BranchView { state: self.state, attempts: self.attempts, retry_at: self.retry_at }
    }
}
