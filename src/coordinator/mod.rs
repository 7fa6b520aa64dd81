//! The coordinator: from a checked request to a durable, atomic outcome.
//!
//! `in_flight` and `recovery` decide and are pure; `driver` carries a transaction; this file joins
//! them to the log, the participants, the features and the models. Predictions are made before the
//! engine starts and never asked again: from the first prepare on, only votes count.

mod answer;
mod clock;
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

use crate::decision_log::{AnswerRecord, Decisions, ResolutionRecord};
use crate::features::{self, Event, LegContext};
use crate::models::serving::Serving;
use crate::mutation::{Mutation, on};
use crate::participants::Participant;
use crate::policy::Policy;
use crate::txn::{
    Admission, BranchIndex, Epoch, Mode, Operation, Outcome, ParticipantName, Payment, PhysicalId,
    Plan, Prediction, Timestamp, Transaction, TxnId,
};
use driver::{Reply, Run};
use gauges::{Gauge, Unfinished};
use in_flight::{Conflict, InFlight};
use members::{Member, Running, Standing};
use record::{Draft, LegTrace, insights, timings};
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
}

/// The places that a transaction takes at its participants, by branch, until each has ended.
type Places = Vec<Option<Unfinished>>;

/// A participant's part in one transaction.
struct Branch {
    name: ParticipantName,
    participant: Arc<dyn Participant>,
    gauge: Arc<Gauge>,
    identity: Arc<str>,
    operations: Vec<Operation>,
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
        let run = inner.clone();
        tokio::spawn(async move { run.start_one(submission, (branches, places), reply).await });
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
        Ok(self.inner.stored(id)?.map(|(answer, _)| answer))
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
    /// Groups the operations by participant, in order of first mention, and checks each.
    fn bind(&self, transaction: &mut Transaction) -> Result<(Arc<[Branch]>, Places), SubmitError> {
        let (mut branches, mut places) = (Vec::<Branch>::new(), Vec::new());
        for operation in &transaction.operations {
            let name = &operation.participant;
            let Some(member) = self.participants.get(name) else {
                let known: Vec<_> = self.participants.keys().map(ToString::to_string).collect();
                return Err(SubmitError::UnknownParticipant {
                    name: name.to_string(),
                    known: known.join(", "),
                });
            };
            member.participant.validate(operation).map_err(|detail| SubmitError::BadOperation {
                participant: name.to_string(),
                operation: operation.operation.to_string(),
                detail,
            })?;
            if let Some(branch) = branches.iter_mut().find(|b| &b.name == name) {
                branch.operations.push(operation.clone());
                continue;
            }
            let (identity, unfinished) = self.available(name, member)?;
            branches.push(Branch {
                name: name.clone(),
                participant: member.participant.clone(),
                gauge: member.gauge.clone(),
                identity,
                operations: vec![operation.clone()],
            });
            places.push(Some(unfinished));
        }
        transaction.payment.participants = branches.iter().map(|b| b.name.clone()).collect();
        Ok((branches.into(), places))
    }

    /// The identity of a participant that takes transactions now, and this one's place there.
    fn available(
        &self,
        name: &ParticipantName,
        member: &Member,
    ) -> Result<(Arc<str>, Unfinished), SubmitError> {
        let away = |detail| SubmitError::ParticipantAway { name: name.clone(), detail };
        if member.drained() {
            return Err(away("it is drained".to_owned()));
        }
        let identity = match member.standing() {
            Standing::Ready { identity } => identity,
            Standing::Away { detail } => return Err(away(detail)),
        };
        let (before, unfinished) = member.gauge.begin();
        let limit = self.options.unfinished_per_participant_max;
        if before >= limit {
            return Err(away(format!(
                "{before} transactions have not ended there, the limit is {limit}"
            )));
        }
        Ok((identity, unfinished))
    }

    fn foreign(&self) -> Vec<String> {
        let of = |(name, member): (&ParticipantName, &Member)| {
            let name = name.clone();
            member.foreign().into_iter().map(move |gid| format!("{name} {gid}"))
        };
        self.participants.iter().flat_map(of).collect()
    }

    fn begin(&self, submission: &Submission) -> Result<(), SubmitError> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(SubmitError::ShuttingDown);
        }
        let id = &submission.transaction.id;
        let unfinished = self.unfinished.fetch_add(1, Ordering::SeqCst);
        let begun = if unfinished >= self.options.unfinished_max {
            Err(SubmitError::Overloaded {
                in_flight: unfinished,
                limit: self.options.unfinished_max,
            })
        } else {
            let mut table = self.in_flight.lock().expect("no panic while held");
            table.begin(id, &submission.request_hash).map_err(|conflict| match conflict {
                Conflict::Running => SubmitError::InFlight { id: id.clone() },
                Conflict::OtherRequest => SubmitError::KeyReused { id: id.clone() },
                Conflict::Full { in_flight } => {
                    SubmitError::Overloaded { in_flight, limit: self.options.in_flight_max }
                }
            })
        };
        if begun.is_err() {
            self.unfinished.fetch_sub(1, Ordering::SeqCst);
        }
        begun
    }

    fn release(&self, id: &TxnId) {
        self.in_flight.lock().expect("no panic while held").end(id);
    }

    fn stored(&self, id: &TxnId) -> Result<Option<(Answer, AnswerRecord)>, SubmitError> {
        let unavailable = |detail: String| SubmitError::Unavailable { id: id.clone(), detail };
        let Some(record) = self.log.answer(id).map_err(|e| unavailable(e.to_string()))? else {
            return Ok(None);
        };
        let answer = serde_json::from_str(record.body.get())
            .map_err(|e| unavailable(format!("its answer is unreadable: {e}")))?;
        Ok(Some((answer, record)))
    }

    fn contexts(&self, participants: &[ParticipantName]) -> Vec<LegContext> {
        let gauge = |name| self.participants.get(name).map(|m| m.gauge.context());
        participants.iter().map(|p| gauge(p).expect("bound before")).collect()
    }

    /// The load of this coordinator, unless the client was allowed to state it: transactions
    /// without an answer as a share of their limit.
    fn measure_load(&self, payment: &mut Payment) {
        let running = self.in_flight.lock().expect("no panic while held").len();
        let load = running as f64 / self.options.in_flight_max as f64;
        payment.system_load_ratio.get_or_insert(load);
    }

    fn predict(
        &self,
        features: &features::Features,
        participants: &[ParticipantName],
    ) -> Option<Prediction> {
        let mode = self.policy.lock().expect("no panic while held").mode();
        (mode != Mode::Off).then(|| self.serving.predict(features, participants))
    }

    async fn start_one(
        self: Arc<Self>,
        mut submission: Submission,
        (branches, places): (Arc<[Branch]>, Places),
        reply: Reply,
    ) {
        let id = submission.transaction.id.clone();
        match self.replayed(&submission) {
            Ok(None) => {}
            known => {
                self.release(&id);
                self.unfinished.fetch_sub(1, Ordering::SeqCst);
                let _ = reply.send(known.map(|a| a.expect("the empty case is above")));
                return;
            }
        }
        let started = Instant::now();
        let timestamp = submission.event_time.unwrap_or_else(|| self.clock.now());
        self.measure_load(&mut submission.transaction.payment);
        let payment = &submission.transaction.payment;
        let contexts = self.contexts(&payment.participants);
        let features = self.arrive(payment, &contexts, timestamp);
        let prediction = self.predict(&features, &payment.participants);
        let plan: Plan = {
            let mut policy = self.policy.lock().expect("no panic while held");
            policy.plan(&payment.participants, prediction.as_ref())
        };
        let predicted = started.elapsed();
        let trace = |context| LegTrace { context, sent_at: None, vote: None, prepare: None };
        let branches_announced: Vec<_> =
            branches.iter().map(|b| b.participant.announce()).collect();
        let in_step = branches_announced.iter().all(Option::is_some);
        let run = Run {
            legs: contexts.into_iter().map(trace).collect(),
            draft: Draft {
                transaction: submission.transaction,
                timestamp,
                features,
                prediction,
                plan,
            },
            // Only embedded participants keep transactions in step; where votes come when they
            // come, others would wait in vain.
            announced: in_step.then(|| self.log.announce()).flatten(),
            branches_announced,
            branches,
            places,
            request_hash: submission.request_hash,
            wait: submission.wait,
            started,
            predicted,
            reply: Some(reply),
            forced: None,
            forgotten: None,
            answers_when_applied: false,
            inner: self,
        };
        match run.draft.plan.admission {
            Admission::Admit => run.carry_out().await,
            Admission::Reject => run.reject().await,
        }
    }

    /// The answer given before under this key, if any.
    fn replayed(&self, submission: &Submission) -> Result<Option<Answer>, SubmitError> {
        let id = &submission.transaction.id;
        if !self.log.healthy() {
            let detail = "it failed and takes no writes until restart".to_owned();
            return Err(SubmitError::Unavailable { id: id.clone(), detail });
        }
        match self.stored(id)? {
            Some((_, record))
                if record.request_hash != submission.request_hash
                    && !on(Mutation::KeyTakesOtherBody) =>
            {
                Err(SubmitError::KeyReused { id: id.clone() })
            }
            Some((answer, _)) => Ok(Some(answer)),
            None => Ok(None),
        }
    }

    /// Features as of now, then the arrival itself, in one step of the state.
    fn arrive(
        &self,
        payment: &Payment,
        contexts: &[LegContext],
        at: Timestamp,
    ) -> features::Features {
        let mut state = self.features.lock().expect("no panic while held");
        let features = state.extract(payment, contexts, at);
        state.apply(&Event::Arrived { at, payment });
        features
    }
}

impl Run {
    /// Answers a rejection, durably, without having started anything.
    async fn reject(mut self) {
        let reasons = self.draft.plan.reasons.clone();
        let total = self.started.elapsed();
        let row = self.draft.row(Outcome::Rejected, None, &reasons, &self.legs, total);
        let answer = Answer {
            id: self.draft.transaction.id.clone(),
            outcome: Outcome::Rejected,
            reasons,
            protocol: None,
            participants: self.draft.transaction.payment.participants.clone(),
            insights: self.draft.insights(),
            timings_ms: timings(self.predicted, self.predicted, total, total),
        };
        let record = AnswerRecord {
            id: answer.id.clone(),
            request_hash: std::mem::take(&mut self.request_hash),
            body: AnswerRecord::body(&answer),
            at: self.inner.clock.now(),
        };
        let write = self.inner.log.record_outcome(None, &record, &row, None);
        drop(self.announced.take());
        self.branches_announced.clear();
        let durable = write.await;
        let result = match durable {
            Ok(()) => {
                self.inner.learn(&self.draft, &row);
                self.inner.counters.count(answer.outcome, &answer.reasons);
                self.inner.release(&answer.id);
                Ok(answer)
            }
            // The key stays in flight: whether the rejection is durable shows at restart.
            Err(error) => {
                Err(SubmitError::Unavailable { id: answer.id, detail: error.to_string() })
            }
        };
        self.inner.unfinished.fetch_sub(1, Ordering::SeqCst);
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }
}
