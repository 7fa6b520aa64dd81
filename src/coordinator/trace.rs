//! Where each transaction stands, for operators to look at, and what they order it to do.
//!
//! The task that carries a transaction owns its engine; after each step it notes here what the
//! engine shows, and between steps it takes orders. Nothing is decided here. An undisturbed
//! transaction pays one allocation for its branches and a lock that nobody else holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Branch;
use super::operator::{ResolveError, Statement};
use crate::decision_log::{DecisionRecord, Intent, RecordedBranch, ResolutionRecord};
use crate::protocol::two_phase::{Action, BranchView, Input, Stage, TwoPhase};
use crate::txn::{
    Ack, BranchIndex, Epoch, Gid, Inquiry, LogId, ParticipantName, PhysicalId, TxnId, Vote,
};

/// Most orders that wait for one transaction; more are refused.
const ORDERS_MAX: usize = 64;
/// Most of a participant's words that are kept.
const ERROR_CHARS_MAX: usize = 400;

/// What an operator wants of a transaction.
pub(super) enum Order {
    /// Ask this branch at once, if it waits for that.
    RetryNow(BranchIndex),
    /// Take it that this branch has ended so.
    Resolve(BranchIndex, Statement, oneshot::Sender<Result<ResolutionRecord, ResolveError>>),
}

/// Whose transaction it is.
pub(super) enum Subject {
    /// One that runs, or a batch of them.
    Live { ids: Vec<TxnId>, branches: Arc<[Branch]> },
    /// A commit that an earlier run decided.
    Decided(DecisionRecord),
    /// A one-phase commit of an earlier run whose end nobody knows.
    Intended(Box<Intent>),
    /// A prepared branch that nobody decided.
    Orphan(Gid, RecordedBranch),
}

/// One transaction on its way.
pub(super) struct Trace {
    pub(super) epoch: Epoch,
    pub(super) physical: PhysicalId,
    pub(super) subject: Subject,
    /// When its task began: the zero of its engine's times.
    pub(super) began: Instant,
    /// How old it was then.
    age_before: Duration,
    seen: Mutex<Seen>,
    ordered: Notify,
}

/// What its engine showed last.
pub(super) struct Seen {
    pub(super) stage: Stage,
    /// Since when, counted from `began`.
    pub(super) stage_since: Duration,
    /// Empty until the first step.
    pub(super) branches: Vec<BranchSeen>,
    orders: VecDeque<Order>,
    /// Whether its task is over, and takes no orders.
    closed: bool,
    alerted: bool,
}

/// What was seen of one branch.
pub(super) struct BranchSeen {
    pub(super) view: BranchView,
    /// The participant's last words that were no answer.
    pub(super) error: Option<String>,
}

/// Tells the traces of earlier runs and of orphans apart.
pub(super) type TraceKey = (Epoch, PhysicalId, u16, Option<ParticipantName>);

/// What recovery and the scan work on.
pub(super) type Recoveries = Mutex<BTreeMap<TraceKey, Arc<Trace>>>;

impl Trace {
    pub(super) fn new(
        (epoch, physical): (Epoch, PhysicalId),
        subject: Subject,
        began: Instant,
        age_before: Duration,
    ) -> Arc<Self> {
        let seen = Seen {
            stage: Stage::Working,
            stage_since: Duration::ZERO,
            branches: Vec::new(),
            orders: VecDeque::new(),
            closed: false,
            alerted: false,
        };
        Arc::new(Self {
            epoch,
            physical,
            subject,
            began,
            age_before,
            seen: Mutex::new(seen),
            ordered: Notify::new(),
        })
    }

    pub(super) fn key(&self) -> TraceKey {
        match &self.subject {
            Subject::Orphan(gid, branch) => {
                (self.epoch, self.physical, gid.branch.0, Some(branch.participant.clone()))
            }
            _ => (self.epoch, self.physical, 0, None),
        }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while held")
    }

    pub(super) fn age(&self) -> Duration {
        self.age_before + self.began.elapsed()
    }

    pub(super) fn members(&self) -> &[TxnId] {
        match &self.subject {
            Subject::Live { ids, .. } => ids,
            Subject::Decided(record) => &record.members,
            Subject::Intended(intent) => std::slice::from_ref(&intent.row.txn_id),
            Subject::Orphan(..) => &[],
        }
    }

    /// Participant and identity of each branch, by position.
    pub(super) fn branches(&self) -> Vec<(&ParticipantName, &str)> {
        match &self.subject {
            Subject::Live { branches, .. } => {
                branches.iter().map(|b| (&b.name, &*b.identity)).collect()
            }
            Subject::Decided(record) => record.branches.iter().map(recorded).collect(),
            Subject::Intended(intent) => vec![recorded(&intent.branch)],
            Subject::Orphan(_, branch) => vec![recorded(branch)],
        }
    }

    /// The position of the branch at a participant.
    pub(super) fn position(&self, participant: &ParticipantName) -> Option<BranchIndex> {
        let position = self.branches().iter().position(|(name, _)| *name == participant)?;
        Some(BranchIndex(u16::try_from(position).expect("an engine has at most u16::MAX branches")))
    }

    /// The id of the branch at a position.
    pub(super) fn gid(&self, log: LogId, position: BranchIndex) -> Gid {
        match &self.subject {
            Subject::Orphan(gid, _) => *gid,
            _ => Gid { log, epoch: self.epoch, physical: self.physical, branch: position },
        }
    }

    /// Steps the engine and notes what it shows then.
    pub(super) fn step(
        &self,
        engine: &mut TwoPhase,
        elapsed: Duration,
        input: Input,
        actions: &mut Vec<Action>,
    ) {
        let trouble = trouble(&input);
        engine.step(elapsed, input, actions);
        let mut seen = self.seen();
        if seen.stage != engine.stage() {
            seen.stage = engine.stage();
            seen.stage_since = elapsed;
        }
        if seen.branches.is_empty() {
            let first = |view| BranchSeen { view, error: None };
            seen.branches = engine.views().map(first).collect();
        } else {
            for (branch, view) in seen.branches.iter_mut().zip(engine.views()) {
                branch.view = view;
            }
        }
        if let Some((index, error)) = trouble
            && let Some(branch) = seen.branches.get_mut(usize::from(index.0))
        {
            branch.error = Some(error);
        }
    }

    /// Leaves an order; gives it back if nobody will take it.
    pub(super) fn order(&self, order: Order) -> Result<(), Order> {
        let mut seen = self.seen();
        if seen.closed || seen.orders.len() >= ORDERS_MAX {
            return Err(order);
        }
        seen.orders.push_back(order);
        drop(seen);
        self.ordered.notify_one();
        Ok(())
    }

    /// Waits for the next order. Nothing is lost if the wait is given up.
    pub(super) async fn next_order(&self) -> Order {
        loop {
            let ordered = self.ordered.notified();
            if let Some(order) = self.seen().orders.pop_front() {
                return order;
            }
            ordered.await;
        }
    }

    /// Its task is over: what was ordered and not taken is refused.
    pub(super) fn close(&self) {
        let mut seen = self.seen();
        seen.closed = true;
        seen.orders.clear();
    }

    /// Whether it is past its first phase and not at its end.
    pub(super) fn is_in_doubt(&self) -> bool {
        !matches!(self.seen().stage, Stage::Working | Stage::Done)
    }

    /// Whether every branch has ended. It still runs until the log has forgotten it.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.seen().stage, Stage::Done)
    }

    /// Whether it is older than `age_max` and nobody was told yet.
    pub(super) fn alert_is_due(&self, age_max: Duration) -> bool {
        self.age() > age_max && !std::mem::replace(&mut self.seen().alerted, true)
    }
}

/// What an input says of a participant that gave no usable answer.
fn trouble(input: &Input) -> Option<(BranchIndex, String)> {
    let (Input::Voted(index, Vote::Unknown(detail))
    | Input::Acked(index, Ack::Unknown(detail) | Ack::Heuristic(detail))
    | Input::Inquired(index, Inquiry::Unknown(detail))) = input
    else {
        return None;
    };
    Some((*index, detail.chars().take(ERROR_CHARS_MAX).collect()))
}

fn recorded(branch: &RecordedBranch) -> (&ParticipantName, &str) {
    (&branch.participant, &branch.identity)
}
