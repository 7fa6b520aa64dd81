//! From a submission to its way: bound to participants, begun once a key, predicted, planned.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::answer::{Answer, Submission, SubmitError};
use super::gauges::Unfinished;
use super::in_flight::Conflict;
use super::members::{Member, Standing};
use super::record::{Draft, LegTrace};
use super::submitted::{Ending, Reply, Submitted};
use super::{Branch, Inner, Places};
use crate::decision_log::AnswerRecord;
use crate::features::{self, Event, LegContext};
use crate::mutation::{Mutation, on};
use crate::txn::{
    Admission, Mode, Operation, ParticipantName, Payment, Plan, Prediction, Timestamp, Transaction,
    TxnId,
};

/// A participant's part, while operations are gathered.
struct Bound<'a> {
    name: ParticipantName,
    member: &'a Member,
    identity: Arc<str>,
    operations: Vec<Operation>,
}

impl Inner {
    /// Groups the operations by participant, in order of first mention, and checks each.
    pub(super) fn bind(
        &self,
        transaction: &mut Transaction,
    ) -> Result<(Arc<[Branch]>, Places), SubmitError> {
        let (mut branches, mut places) = (Vec::<Bound<'_>>::new(), Vec::new());
        for operation in std::mem::take(&mut transaction.operations) {
            // The configured one, of which all transactions have copies.
            let Some((name, member)) = self.participants.get_key_value(&operation.participant)
            else {
                let name = &operation.participant;
                let known: Vec<_> = self.participants.keys().map(ToString::to_string).collect();
                return Err(SubmitError::UnknownParticipant {
                    name: name.to_string(),
                    known: known.join(", "),
                });
            };
            member.participant.validate(&operation).map_err(|detail| {
                SubmitError::BadOperation {
                    participant: name.to_string(),
                    operation: operation.operation.to_string(),
                    detail,
                }
            })?;
            if let Some(branch) = branches.iter_mut().find(|b| b.name == *name) {
                branch.operations.push(operation);
                continue;
            }
            let (identity, unfinished) = self.available(name, member)?;
            let name = name.clone();
            branches.push(Bound { name, member, identity, operations: vec![operation] });
            places.push(Some(unfinished));
        }
        transaction.payment.participants = branches.iter().map(|b| b.name.clone()).collect();
        let branch = |bound: Bound<'_>| Branch {
            name: bound.name,
            participant: bound.member.participant.clone(),
            gauge: bound.member.gauge.clone(),
            identity: bound.identity,
            operations: bound.operations.into(),
        };
        Ok((branches.into_iter().map(branch).collect(), places))
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

    pub(super) fn begin(&self, submission: &Submission) -> Result<(), SubmitError> {
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

    pub(super) fn release(&self, id: &TxnId) {
        self.in_flight.lock().expect("no panic while held").end(id);
    }

    pub(super) fn stored(&self, id: &TxnId) -> Result<Option<AnswerRecord>, SubmitError> {
        let unavailable = |detail: String| SubmitError::Unavailable { id: id.clone(), detail };
        self.log.answer(id).map_err(|e| unavailable(e.to_string()))
    }

    pub(super) fn contexts(&self, participants: &[ParticipantName]) -> Vec<LegContext> {
        let gauge = |name| self.participants.get(name).map(|m| m.gauge.context());
        participants.iter().map(|p| gauge(p).expect("bound before")).collect()
    }

    /// The load of this coordinator, unless the client was allowed to state it: transactions
    /// without an answer as a share of their limit.
    pub(super) fn measure_load(&self, payment: &mut Payment) {
        let running = self.in_flight.lock().expect("no panic while held").len();
        let load = running as f64 / self.options.in_flight_max as f64;
        payment.system_load_ratio.get_or_insert(load);
    }

    pub(super) fn predict(
        &self,
        features: &features::Features,
        participants: &[ParticipantName],
    ) -> Option<Prediction> {
        let mode = self.policy.lock().expect("no panic while held").mode();
        (mode != Mode::Off).then(|| self.serving.predict(features, participants))
    }

    /// Predicts and plans, then lets it travel, alone or with others. Waits for nothing.
    pub(super) fn start_one(
        self: &Arc<Self>,
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
                let _ = reply.send(known.map(|a| Arc::new(a.expect("the empty case is above"))));
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
        let draft =
            Draft { transaction: submission.transaction, timestamp, features, prediction, plan };
        let submitted = Submitted {
            legs: contexts.into_iter().map(trace).collect(),
            draft,
            branches,
            request_hash: submission.request_hash,
            wait: submission.wait,
            started,
            predicted,
            reply: Some(reply),
            places,
            waiting: None,
        };
        match submitted.draft.plan.admission {
            Admission::Admit => self.set_out(submitted),
            Admission::Reject => {
                let inner = self.clone();
                let rejected = vec![(submitted, Ending::Rejected)];
                tokio::spawn(async move { inner.conclude(rejected).await });
            }
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
            Some(record)
                if record.request_hash != submission.request_hash
                    && !on(Mutation::KeyTakesOtherBody) =>
            {
                Err(SubmitError::KeyReused { id: id.clone() })
            }
            Some(record) => Ok(Some(record.answer)),
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
