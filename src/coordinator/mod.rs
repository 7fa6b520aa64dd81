//! The coordinator: from a checked request to a durable, atomic outcome.
//!
//! `in_flight` and `recovery` decide and are pure; `driver` carries a transaction; this file joins
//! them to the log, the participants, the features and the models. Predictions are made before the
//! engine starts and never asked again: from the first prepare on, only votes count.

mod answer;
mod clock;
mod coalescer;
mod driver;
mod gauges;
mod in_flight;
mod members;
mod operator;
mod options;
mod record;
mod recovery;
mod scan;
mod settle;
mod startup;
mod status;
mod stopped;
mod submit;
mod submitted;
mod trace;
mod unresolved;
mod watched;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub use answer::{Answer, Insights, Predicted, Submission, SubmitError, Timings, Wait};
pub use clock::{Clock, SystemClock};
pub use coalescer::Travelled;
pub use members::ParticipantStatus;
pub use operator::{ResolveError, RetryScope, Statement, Woken};
pub use options::Options;
pub use recovery::RecoveryError;
pub use startup::StartError;
pub use status::Status;
pub use stopped::Stopped;
pub use unresolved::{
    BranchProgress, Doubts, LeftAlone, Origin, Page, Progress, Query, Unresolved, UnresolvedBranch,
    Wanted,
};

use crate::decision_log::{Decisions, ResolutionRecord};
use crate::features;
use crate::models::serving::Serving;
use crate::participants::Participant;
use crate::policy::Policy;
use crate::policy::coalescing::Coalescing;
use crate::txn::{BranchIndex, Epoch, Mode, Operation, ParticipantName, PhysicalId, TxnId};
use coalescer::Coalescer;
use gauges::{Gauge, Unfinished};
use in_flight::InFlight;
use members::{Member, Running};
use record::insights;
use status::Counters;
use trace::Recoveries;
use watched::Watched;

/// What a coordinator is made of.
pub struct Parts {
    /// The durable truth.
    pub log: Arc<dyn Decisions>,
    /// Who takes part, by configured name.
    pub participants: BTreeMap<ParticipantName, Arc<dyn Participant>>,
    /// The models.
    pub serving: Arc<Serving>,
    /// The feature state, warmed up or empty.
    pub features: features::State,
    /// Predictions to plans.
    pub policy: Policy,
    /// Which transactions travel together.
    pub coalescing: Coalescing,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// Runs transactions. Cheap to share behind an `Arc`; its tasks outlive a dropped client.
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    log: Arc<dyn Decisions>,
    participants: BTreeMap<ParticipantName, Member>,
    serving: Arc<Serving>,
    features: Mutex<features::State>,
    policy: Mutex<Policy>,
    clock: Arc<dyn Clock>,
    options: Options,
    in_flight: Mutex<InFlight>,
    running: Mutex<Running>,
    unfinished: AtomicUsize,
    /// Commits that an earlier run decided, and this one carries out: never orphans, not even in a
    /// list that was made before they ended and is read after.
    recovered: HashSet<(Epoch, PhysicalId)>,
    /// The newest execution of earlier runs that this log knows to have committed.
    newest: Option<(Epoch, PhysicalId)>,
    /// What recovery and the scan are at, and what operators ever stated of a branch: few, since a
    /// person makes each.
    recoveries: Recoveries,
    resolutions: Mutex<BTreeMap<(Epoch, PhysicalId, BranchIndex), ResolutionRecord>>,
    /// What an earlier run left and recovery has not settled yet.
    unsettled: AtomicUsize,
    counters: Counters,
    recovering: AtomicBool,
    draining: AtomicBool,
    stop: Watched<bool>,
    coalescer: Coalescer,
}

/// The places that a transaction takes at its participants, by branch, until each has ended.
type Places = Vec<Option<Unfinished>>;

/// A participant's part in one transaction.
struct Branch {
    name: ParticipantName,
    participant: Arc<dyn Participant>,
    gauge: Arc<Gauge>,
    identity: Arc<str>,
    operations: Arc<[Operation]>,
}

impl Coordinator {
    /// Executes a transaction and answers when its outcome is durable. Dropping the future stops
    /// nothing: the same key asks again.
    pub async fn submit(&self, mut submission: Submission) -> Result<Answer, SubmitError> {
        let inner = &self.inner;
        let (branches, places) = inner.bind(&mut submission.transaction)?;
        inner.begin(&submission)?;
        let id = submission.transaction.id.clone();
        let (reply, answer) = oneshot::channel();
        inner.start_one(submission, (branches, places), reply);
        answer.await.unwrap_or_else(|_| {
            Err(SubmitError::Unavailable { id, detail: "the transaction's task ended".into() })
        })
    }

    /// Answers what would be predicted and planned, without executing or remembering anything.
    pub fn predict(&self, submission: &Submission) -> Result<Predicted, SubmitError> {
        let mut transaction = submission.transaction.clone();
        self.inner.bind(&mut transaction)?;
        self.inner.measure_load(&mut transaction.payment);
        let now = submission.event_time.unwrap_or_else(|| self.inner.clock.now());
        let contexts = self.inner.contexts(&transaction.payment.participants);
        let features = {
            let state = self.inner.features.lock().expect("no panic while held");
            state.extract(&transaction.payment, &contexts, now)
        };
        let prediction = self.inner.predict(&features, &transaction.payment.participants);
        let mut policy = self.inner.policy.lock().expect("no panic while held");
        let plan = policy.preview(&transaction.payment.participants, prediction.as_ref());
        let insights = prediction.map(|p| insights(&p, &plan));
        Ok(Predicted { insights, plan })
    }

    /// The durable answer of a transaction; `None` if it was never finished, or not far enough to
    /// be answered.
    pub fn answer(&self, id: &TxnId) -> Result<Option<Answer>, SubmitError> {
        if self.is_in_flight(id) {
            return Ok(None);
        }
        Ok(self.inner.stored(id)?.map(|record| record.answer))
    }

    /// Whether a transaction runs and has no answer yet.
    pub fn is_in_flight(&self, id: &TxnId) -> bool {
        self.inner.in_flight.lock().expect("no panic while held").contains(id)
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        Status {
            healthy: self.is_healthy(),
            recovering: self.is_recovering(),
            draining: self.is_draining(),
            in_flight: inner.in_flight.lock().expect("no panic while held").len(),
            unfinished: inner.unfinished.load(Ordering::Relaxed),
            unsettled: inner.unsettled.load(Ordering::Relaxed),
            outcomes: inner.counters.outcomes(),
            reasons: inner.counters.reasons(),
            foreign_branches: inner.foreign(),
            participants: inner.participants.iter().map(|(n, m)| m.status(n)).collect(),
            mode: inner.policy.lock().expect("no panic while held").mode(),
            flushes: inner.log.flushes(),
            travelled: inner.coalescer.travelled(),
        }
    }

    /// The models that serve.
    pub fn serving(&self) -> &Arc<Serving> {
        &self.inner.serving
    }

    /// The configured participants.
    pub fn participant_names(&self) -> Vec<ParticipantName> {
        self.inner.participants.keys().cloned().collect()
    }

    /// Keeps new transactions from a participant, or lets them come again; those under way go on.
    /// Answers whether there is such a participant.
    pub fn drain(&self, name: &ParticipantName, drained: bool) -> bool {
        let member = self.inner.participants.get(name);
        member.inspect(|member| member.drain(drained)).is_some()
    }

    /// Switches policy between off, observe and enforce.
    pub fn set_mode(&self, mode: Mode) {
        self.inner.policy.lock().expect("no panic while held").set_mode(mode);
    }

    /// Stops: refuses new transactions, lets those in flight decide for half of `bound`, aborts
    /// what is still undecided, and leaves an unacknowledged phase two to recovery at the end of
    /// `bound`. Answers how many were left.
    pub async fn shutdown(&self, bound: Duration) -> usize {
        let inner = &self.inner;
        inner.draining.store(true, Ordering::SeqCst);
        let started = Instant::now();
        let idle = || inner.unfinished.load(Ordering::SeqCst) == 0;
        while !idle() && started.elapsed() < bound {
            if started.elapsed() * 2 >= bound {
                inner.stop.set(true);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        inner.unfinished.load(Ordering::SeqCst)
    }
}

impl Inner {
    fn foreign(&self) -> Vec<String> {
        let of = |(name, member): (&ParticipantName, &Member)| {
            let name = name.clone();
            member.foreign().into_iter().map(move |gid| format!("{name} {gid}"))
        };
        self.participants.iter().flat_map(of).collect()
    }
}
