//! Settles what an earlier run left, and orphans, by the engine that carries live transactions.
//!
//! Each on its own: one that cannot be settled never stops the rest.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::Inner;
use super::answer::{Answer, Timings};
use super::driver::at;
use super::operator::{Held, reason_of};
use super::recovery::branches_to_commit;
use super::trace::{Subject, Trace};
use crate::decision_log::{DecisionRecord, Given, Intent, RecordedBranch};
use crate::mutation::{Mutation, on};
use crate::participants::{Ack, BoxFuture, Inquiry};
use crate::protocol::two_phase::{Action, Input, TwoPhase};
use crate::txn::{
    BranchIndex, Decision, FailureClass, Gid, Outcome, Protocol, Reason, ReasonCode, Timestamp,
    TxnId,
};

/// One execution being settled.
pub(super) struct Settling {
    inner: Arc<Inner>,
    trace: Arc<Trace>,
    /// What an operator stated of a one-phase commit.
    forced: Option<Reason>,
}

type Calls = FuturesUnordered<BoxFuture<'static, Input>>;

impl Settling {
    /// Carries a decision out everywhere but where an operator has ended a branch.
    pub(super) fn decided(inner: &Arc<Inner>, record: DecisionRecord) -> Self {
        let age = inner.age_of(record.at);
        let execution = (record.epoch, record.physical);
        let trace = Trace::new(execution, Subject::Decided(record), Instant::now(), age);
        Self::begin(inner, trace)
    }

    /// Finds out what became of a one-phase commit.
    pub(super) fn intended(inner: &Arc<Inner>, intent: Intent) -> Self {
        let age = inner.age_of(intent.row.timestamp);
        let execution = (intent.epoch, intent.physical);
        let subject = Subject::Intended(Box::new(intent));
        Self::begin(inner, Trace::new(execution, subject, Instant::now(), age))
    }

    /// Aborts a branch that nobody decided; `None` if that is being done.
    pub(super) fn orphan(inner: &Arc<Inner>, gid: Gid, branch: RecordedBranch) -> Option<Self> {
        let subject = Subject::Orphan(gid, branch);
        let execution = (gid.epoch, gid.physical);
        let trace = Trace::new(execution, subject, Instant::now(), Duration::ZERO);
        let known =
            inner.recoveries.lock().expect("no panic while held").contains_key(&trace.key());
        (!known).then(|| Self::begin(inner, trace))
    }

    fn begin(inner: &Arc<Inner>, trace: Arc<Trace>) -> Self {
        let mut recoveries = inner.recoveries.lock().expect("no panic while held");
        recoveries.insert(trace.key(), trace.clone());
        drop(recoveries);
        Self { inner: inner.clone(), trace, forced: None }
    }

    /// Runs it to its end: every branch told, or the log broken. Whether nothing of it is left: an
    /// open decision needs its markers.
    pub(super) async fn carry_out(mut self) -> bool {
        let (mut engine, first) = self.engine();
        let mut calls: Calls = FuturesUnordered::new();
        let mut actions = Vec::new();
        let began = self.trace.began;
        let mut forgotten = true;
        self.trace.step(&mut engine, began.elapsed(), first, &mut actions);
        loop {
            for action in std::mem::take(&mut actions) {
                forgotten &= self.act(action, &mut calls).await;
            }
            if engine.is_over() {
                break;
            }
            let deadline = engine.deadline().map(|after| began + after);
            let input = tokio::select! {
                biased;
                Some(input) = calls.next(), if !calls.is_empty() => input,
                () = at(deadline) => Input::Tick,
                order = self.trace.next_order() => {
                    let held = Held { answers: Vec::new(), forced: &mut self.forced };
                    match self.inner.obey(order, &self.trace, &engine, held).await {
                        Some(input) => input,
                        None => continue,
                    }
                }
            };
            if let Input::Acked(index, Ack::Unknown(detail))
            | Input::Inquired(index, Inquiry::Unknown(detail)) = &input
            {
                let gid = self.trace.gid(self.inner.log.log_id(), *index);
                let attempt = engine.branch(*index).attempts + 1;
                tracing::warn!(%gid, attempt, detail, "will be asked again");
            }
            self.trace.step(&mut engine, began.elapsed(), input, &mut actions);
        }
        self.trace.close();
        if engine.is_done() {
            let mut recoveries = self.inner.recoveries.lock().expect("no panic while held");
            recoveries.remove(&self.trace.key());
        }
        forgotten && engine.is_done()
    }

    /// The engine, and what it hears first.
    fn engine(&mut self) -> (TwoPhase, Input) {
        let (backoff, seed) = (self.inner.options.backoff(), self.trace.physical.0);
        match &self.trace.subject {
            Subject::Decided(record) => {
                let mut told = vec![false; record.branches.len()];
                for (_, gid) in branches_to_commit(self.inner.log.log_id(), record) {
                    told[usize::from(gid.branch.0)] = !self.inner.is_resolved(gid);
                }
                (TwoPhase::recovered(&told, backoff, seed), Input::Persisted)
            }
            Subject::Intended(intent) => {
                let engine = TwoPhase::inquiring(backoff, seed);
                let key = (intent.epoch, intent.physical, BranchIndex(0));
                let resolved = self.inner.resolutions.lock().expect("no panic while held");
                let Some(resolution) = resolved.get(&key) else { return (engine, Input::Tick) };
                self.forced = Some(reason_of(resolution));
                (engine, Input::Resolved(BranchIndex(0), resolution.claim))
            }
            Subject::Orphan(..) | Subject::Live { .. } => {
                (TwoPhase::orphan(backoff, seed), Input::Tick)
            }
        }
    }

    /// Whether the log did what it was told at once.
    async fn act(&self, action: Action, calls: &mut Calls) -> bool {
        match action {
            Action::SendCommit(index) | Action::SendAbort(index) | Action::SendInquiry(index) => {
                calls.push(self.call(action, index));
            }
            Action::ReportHeuristic(index) => self.report_heuristic(index).await,
            Action::PersistDecision(decision) => calls.push(self.persist(decision)),
            Action::Answer(_) => {
                if let Subject::Intended(intent) = &self.trace.subject {
                    self.inner.release(&intent.row.txn_id);
                }
            }
            // The key stays in flight; the log is broken and restart settles it.
            Action::AnswerInDoubt => {
                let id = self.trace.members().first();
                tracing::error!(txn = ?id, "a recovered outcome was not recorded");
            }
            Action::Forget if matches!(self.trace.subject, Subject::Decided(_)) => {
                let finished = self.inner.log.finish(self.trace.epoch, self.trace.physical).await;
                if let Err(error) = &finished {
                    tracing::error!(%error, "a recovered decision was not removed");
                }
                return finished.is_ok();
            }
            Action::Forget => {}
            Action::PersistIntent | Action::SendPrepare(_) | Action::SendOnePhase(_) => {
                unreachable!("what is taken up is past its first phase")
            }
        }
        true
    }

    /// A call that waits until the very server of the branch can be asked.
    fn call(&self, action: Action, index: BranchIndex) -> BoxFuture<'static, Input> {
        let (inner, trace) = (self.inner.clone(), self.trace.clone());
        let gid = trace.gid(inner.log.log_id(), index);
        Box::pin(async move {
            let branch = match &trace.subject {
                Subject::Decided(record) => &record.branches[usize::from(index.0)],
                Subject::Intended(intent) => &intent.branch,
                Subject::Orphan(_, branch) => branch,
                Subject::Live { .. } => unreachable!("live ones are carried by the driver"),
            };
            let member = inner.participants.get(&branch.participant).expect("checked at start");
            // What stands prepared was listed by the server that is there.
            if !matches!(trace.subject, Subject::Orphan(..)) {
                member.ready_as(branch).await;
            }
            match action {
                Action::SendCommit(_) => Input::Acked(index, member.participant.commit(gid).await),
                Action::SendAbort(_) => Input::Acked(index, member.participant.abort(gid).await),
                _ => match member.participant.inquire(gid).await {
                    Inquiry::Unknown(_) if on(Mutation::RecoveryGuessesInquiry) => {
                        Input::Inquired(index, Inquiry::Aborted)
                    }
                    inquiry => Input::Inquired(index, inquiry),
                },
            }
        })
    }

    async fn report_heuristic(&self, index: BranchIndex) {
        let (name, _) = self.trace.branches()[usize::from(index.0)];
        let error = self.trace.seen().branches[usize::from(index.0)].error.clone();
        let detail = error.unwrap_or_else(|| "it ended against the decision".to_owned());
        let gid = self.trace.gid(self.inner.log.log_id(), index);
        tracing::error!(participant = %name, %gid, detail, "heuristic end");
        for id in self.trace.members() {
            self.inner.mark_heuristic(id, &format!("{name}: {detail}")).await;
        }
    }

    fn persist(&self, decision: Decision) -> BoxFuture<'static, Input> {
        let Subject::Intended(intent) = &self.trace.subject else {
            unreachable!("only of an intent is the end decided here")
        };
        let write = self.inner.settle_intent((**intent).clone(), decision, self.forced.as_ref());
        Box::pin(async move {
            match write.await {
                Ok(()) => Input::Persisted,
                Err(error) => {
                    tracing::error!(%error, "the decision log failed");
                    Input::PersistFailed
                }
            }
        })
    }
}

impl Inner {
    fn age_of(&self, began: Timestamp) -> Duration {
        self.clock.now().since(began)
    }

    async fn mark_heuristic(&self, id: &TxnId, detail: &str) {
        let Ok(Some(mut record)) = self.stored(id) else { return };
        record.answer.outcome = Outcome::Heuristic;
        record.answer.reasons.push(Reason::new(ReasonCode::HeuristicDecision, detail));
        self.counters.count(Outcome::Heuristic, &record.answer.reasons);
        if let Err(error) = self.log.update_answer(record.given()).await {
            tracing::error!(txn = %id, %error, "a heuristic outcome was not recorded");
        }
    }

    fn settle_intent(
        &self,
        intent: Intent,
        decision: Decision,
        forced: Option<&Reason>,
    ) -> BoxFuture<'static, Result<(), crate::decision_log::Error>> {
        let mut row = intent.row;
        let mut reasons = row.plan.reasons.clone();
        if decision == Decision::Commit && !on(Mutation::RecoveredIntentAborts) {
            row.outcome = Outcome::Committed;
        } else {
            row.outcome = Outcome::Aborted;
            row.failure_class = Some(FailureClass::Technical.to_string());
            let detail = "the coordinator stopped before the participant committed";
            reasons.push(Reason::new(ReasonCode::TechnicalFailure, detail));
        }
        reasons.extend(forced.cloned());
        let now = self.clock.now();
        row.total_us = u64::try_from(now.since(row.timestamp).as_micros()).unwrap_or(u64::MAX);
        row.reasons = reasons.iter().map(|r| r.code.to_string()).collect();
        let answer = Answer {
            id: row.txn_id.clone(),
            outcome: if forced.is_some() { Outcome::Heuristic } else { row.outcome },
            reasons,
            protocol: Some(Protocol::TwoPhase),
            participants: row.plan.branches.iter().map(|b| b.participant.clone()).collect(),
            insights: row.prediction.as_ref().map(|p| super::insights(p, &row.plan)),
            timings_ms: Timings { total: row.total_us as f64 / 1e3, ..Timings::default() },
        };
        let given = Given { answer: &answer, request_hash: &intent.request_hash, at: now };
        if forced.is_some() {
            self.counters.count(answer.outcome, &answer.reasons);
        }
        let done = Some((intent.epoch, intent.physical));
        self.log.record_outcomes(None, &[(given, &row)], done)
    }
}
