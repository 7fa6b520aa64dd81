//! Carries one transaction: turns the engine's actions into calls and their answers into inputs.
//!
//! A transaction runs in its own task, so that a client that goes away stops nothing. This file
//! decides nothing: what may be sent when is the engine's business.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer::{Answer, SubmitError, Wait};
use super::operator::Held;
use super::record::{Draft, LegTrace, explain, timings};
use super::trace::{Subject, Trace};
use super::{Branch, Inner, Places};
use crate::decision_log::{
    self, Announced, DecisionRecord, Given, Intent, OutcomeLeg, OutcomeRow, RecordedBranch,
};
use crate::features::Event;
use crate::mutation::{Mutation, on};
use crate::participants::BoxFuture;
use crate::policy::VoteTiming;
use crate::protocol::two_phase::{Action, BranchState, Input, TwoPhase};
use crate::txn::{
    Ack, BranchIndex, Decision, Declined, Gid, HistoryOutcome, LegVote, Outcome, PhysicalId,
    Reason, ReasonCode, Vote,
};

/// Where the client waits.
pub(super) type Reply = oneshot::Sender<Result<Answer, SubmitError>>;

/// One transaction on its way.
pub(super) struct Run {
    pub(super) inner: Arc<Inner>,
    pub(super) draft: Draft,
    pub(super) branches: Arc<[Branch]>,
    pub(super) legs: Vec<LegTrace>,
    pub(super) request_hash: String,
    pub(super) wait: Wait,
    pub(super) started: Instant,
    pub(super) predicted: Duration,
    pub(super) reply: Option<Reply>,
    pub(super) places: Places,
    /// To the decision log.
    pub(super) announced: Option<Announced>,
    /// To the participants, by branch.
    pub(super) branches_announced: Vec<Option<Announced>>,
    /// What an operator stated of a one-phase commit.
    pub(super) forced: Option<Reason>,
    /// The log forgets the decision.
    pub(super) forgotten: Option<Forgotten>,
    /// The answer waits until every branch has obeyed.
    pub(super) answers_when_applied: bool,
}

/// Resolves when a decision is forgotten, durably.
type Forgotten = BoxFuture<'static, Result<(), decision_log::Error>>;

/// What was made durable, waiting to be told.
struct Outcomes {
    answer: Answer,
    row: OutcomeRow,
}

type Calls = FuturesUnordered<BoxFuture<'static, Input>>;

impl Run {
    /// Runs it to its end: every branch told, or the log broken.
    pub(super) async fn carry_out(mut self) {
        let trace = self.begin_trace();
        let physical = trace.physical;
        let timeouts: Vec<_> = self.draft.plan.branches.iter().map(|b| b.prepare_timeout).collect();
        let backoff = self.inner.options.backoff();
        let mut engine = TwoPhase::new(&timeouts, backoff, physical.0);
        let mut calls: Calls = FuturesUnordered::new();
        let mut actions = Vec::new();
        let mut outcomes: Option<Outcomes> = None;
        let mut prepared_at = Duration::ZERO;
        let inner = self.inner.clone();
        let mut cancelled = false;
        trace.step(&mut engine, self.started.elapsed(), Input::Start, &mut actions);
        loop {
            for action in std::mem::take(&mut actions) {
                if let Action::PersistDecision(decision) = action {
                    prepared_at = self.started.elapsed();
                    let made = self.outcomes(&engine, decision, prepared_at);
                    calls.push(self.persist(&engine, decision, physical, &made));
                    outcomes = Some(made);
                    if on(Mutation::AnswerBeforeDurable) {
                        self.answer(outcomes.as_mut(), prepared_at);
                    }
                } else {
                    self.act(action, physical, prepared_at, &mut outcomes, &mut calls).await;
                }
            }
            if engine.is_over() {
                break;
            }
            let deadline = engine.deadline().map(|d| self.started + d);
            let input = tokio::select! {
                biased;
                Some(input) = calls.next(), if !calls.is_empty() => input,
                () = at(deadline) => Input::Tick,
                order = trace.next_order() => {
                    let answer = outcomes.as_mut().map(|made| &mut made.answer);
                    let held = Held {
                        answer: answer.map(|answer| (answer, self.request_hash.as_str())),
                        forced: &mut self.forced,
                    };
                    match inner.obey(order, &trace, &engine, held).await {
                        Some(input) => input,
                        None => continue,
                    }
                }
                () = inner.stop.until(|stop| *stop), if !cancelled => {
                    cancelled = true;
                    Input::Cancel
                }
            };
            let elapsed = self.started.elapsed();
            self.observe(&input, elapsed);
            trace.step(&mut engine, elapsed, input, &mut actions);
        }
        trace.close();
        if self.answers_when_applied && engine.is_done() {
            self.answer(outcomes.as_mut(), prepared_at);
        }
        if let (Wait::Applied, Some(reply), Some(made)) = (self.wait, self.reply.take(), outcomes) {
            // The client may have gone; the answer is durable for when it asks again.
            let _ = reply.send(Ok(made.answer));
        }
        inner.unfinished.fetch_sub(1, Ordering::Relaxed);
        let forgotten = self.forgotten.take();
        drop(self);
        // One in doubt runs on, as far as a scan is concerned: recovery settles it. So does one whose
        // decision may come back: its markers must stay.
        if engine.is_done() && is_forgotten(forgotten, physical).await {
            inner.running.lock().expect("no panic while held").end(physical);
        }
    }

    async fn act(
        &mut self,
        action: Action,
        physical: PhysicalId,
        prepared_at: Duration,
        outcomes: &mut Option<Outcomes>,
        calls: &mut Calls,
    ) {
        match action {
            Action::PersistIntent => calls.push(self.persist_intent(physical)),
            Action::SendPrepare(index) | Action::SendOnePhase(index) => {
                let leg = &mut self.legs[usize::from(index.0)];
                leg.sent_at = Some(self.started.elapsed());
                self.send(action, index, physical, calls).await;
                drop(self.branches_announced[usize::from(index.0)].take());
            }
            // Sent before the answer goes out, so that a client that reads after it hears of the
            // commit sees it.
            Action::SendCommit(index) => {
                self.send(action, index, physical, calls).await;
                drop(self.branches_announced[usize::from(index.0)].take());
            }
            Action::SendAbort(index) | Action::SendInquiry(index) => {
                self.branches_announced[usize::from(index.0)] = None;
                calls.push(self.call(action, index, physical));
            }
            Action::Answer(Decision::Commit) if self.may_be_overtaken() => {
                self.answers_when_applied = true;
            }
            Action::Answer(_) => self.answer(outcomes.as_mut(), prepared_at),
            Action::AnswerInDoubt => self.answer_in_doubt(),
            Action::ReportHeuristic(index) => self.report_heuristic(index, outcomes).await,
            Action::Forget => {
                let log = &self.inner.log;
                // No answer waits for it: if it is lost, recovery repeats phase two and forgets.
                self.forgotten = Some(log.finish(log.epoch(), physical));
            }
            Action::PersistDecision(_) => unreachable!("handled by the caller"),
        }
    }

    /// Starts a call at once, not when it is next waited for.
    async fn send(
        &mut self,
        action: Action,
        index: BranchIndex,
        physical: PhysicalId,
        calls: &mut Calls,
    ) {
        let mut call = self.call(action, index, physical);
        match futures_util::poll!(&mut call) {
            std::task::Poll::Ready(input) => calls.push(Box::pin(async { input })),
            std::task::Poll::Pending => calls.push(call),
        }
    }

    fn call(
        &self,
        action: Action,
        index: BranchIndex,
        physical: PhysicalId,
    ) -> BoxFuture<'static, Input> {
        let gid = self.inner.gid(physical, index);
        let branches = self.branches.clone();
        Box::pin(async move {
            let branch = &branches[usize::from(index.0)];
            let participant = &branch.participant;
            match action {
                Action::SendPrepare(_) => {
                    let _entered = branch.gauge.enter();
                    let vote = participant.prepare(gid, &branch.operations).await;
                    Input::Voted(index, vote)
                }
                Action::SendOnePhase(_) => {
                    let _entered = branch.gauge.enter();
                    let vote = participant.commit_one_phase(gid, &branch.operations).await;
                    Input::Voted(index, vote)
                }
                Action::SendCommit(_) => Input::Acked(index, participant.commit(gid).await),
                Action::SendAbort(_) => Input::Acked(index, participant.abort(gid).await),
                Action::SendInquiry(_) => Input::Inquired(index, participant.inquire(gid).await),
                _ => unreachable!("only sends are calls"),
            }
        })
    }

    fn persist_intent(&self, physical: PhysicalId) -> BoxFuture<'static, Input> {
        let row = self.draft.row(Outcome::InDoubt, None, &[], &self.legs, Duration::ZERO);
        let intent = Intent {
            epoch: self.inner.log.epoch(),
            physical,
            branch: self.recorded(0),
            request_hash: self.request_hash.clone(),
            row,
        };
        let write = self.inner.log.record_intent(&intent);
        Box::pin(async move {
            match write.await {
                Ok(()) => Input::Persisted,
                Err(_) => Input::PersistFailed,
            }
        })
    }

    fn outcomes(&self, engine: &TwoPhase, decision: Decision, at: Duration) -> Outcomes {
        let participants = &self.draft.transaction.payment.participants;
        let mut reasons = self.draft.plan.reasons.clone();
        let (outcome, failure) = match decision {
            Decision::Commit => (Outcome::Committed, None),
            Decision::Abort => {
                let (reason, failure) = explain(engine.cause(), participants);
                reasons.push(reason);
                (Outcome::Aborted, Some(failure))
            }
        };
        let row = self.draft.row(outcome, failure, &reasons, &self.legs, at);
        reasons.extend(self.forced.clone());
        let answer = Answer {
            id: self.draft.transaction.id.clone(),
            outcome: if self.forced.is_some() { Outcome::Heuristic } else { outcome },
            reasons,
            protocol: Some(self.draft.plan.protocol),
            participants: participants.clone(),
            insights: self.draft.insights(),
            timings_ms: timings(self.predicted, at, at, at),
        };
        Outcomes { answer, row }
    }

    fn persist(
        &mut self,
        engine: &TwoPhase,
        decision: Decision,
        physical: PhysicalId,
        made: &Outcomes,
    ) -> BoxFuture<'static, Input> {
        let epoch = self.inner.log.epoch();
        let at = self.inner.clock.now();
        let count = u16::try_from(self.branches.len()).expect("checked by the engine");
        let state = |i: &u16| engine.branch_state(BranchIndex(*i));
        let one_phase = count == 1;
        let record = (decision == Decision::Commit && !one_phase).then(|| DecisionRecord {
            epoch,
            physical,
            branches: (0..self.branches.len()).map(|i| self.recorded(i)).collect(),
            read_only: (0..count)
                .filter(|i| state(i) == BranchState::ReadOnly && !on(Mutation::ReadOnlyNotRecorded))
                .collect(),
            members: vec![self.draft.transaction.id.clone()],
            decision,
            at,
        });
        let given = Given { answer: &made.answer, request_hash: &self.request_hash, at };
        let log = &self.inner.log;
        let intent = one_phase.then_some((epoch, physical));
        let write = log.record_outcomes(record.as_ref(), &[(given, &made.row)], intent);
        drop(self.announced.take());
        Box::pin(async move {
            match write.await {
                Ok(()) => Input::Persisted,
                Err(_) if on(Mutation::FailedWriteIsDurable) => Input::Persisted,
                Err(_) => Input::PersistFailed,
            }
        })
    }

    fn recorded(&self, index: usize) -> RecordedBranch {
        let branch = &self.branches[index];
        RecordedBranch { participant: branch.name.clone(), identity: branch.identity.to_string() }
    }

    /// Whether somebody with a copy of our log may have aborted what we decided: we were stopped,
    /// or slow, since the participants last promised us something. What is in the log is no proof
    /// then, only that they obey.
    fn may_be_overtaken(&self) -> bool {
        let unsure = |b: &Branch| b.participant.is_shared() && !b.gauge.is_vouched_for();
        self.branches.len() > 1 && self.branches.iter().any(unsure)
    }

    /// The outcome is durable: tell the feature state, the counters and the client.
    fn answer(&mut self, outcomes: Option<&mut Outcomes>, prepared_at: Duration) {
        let made = outcomes.expect("an answer follows its persisted outcome");
        let total = self.started.elapsed();
        made.answer.timings_ms = timings(self.predicted, prepared_at, total, total);
        self.inner.learn(&self.draft, &made.row);
        self.inner.counters.count(made.answer.outcome, &made.answer.reasons);
        self.inner.release(&self.draft.transaction.id);
        if self.wait == Wait::Decision
            && let Some(reply) = self.reply.take()
        {
            // The client may have gone; the answer is durable for when it asks again.
            let _ = reply.send(Ok(made.answer.clone()));
        }
    }

    fn answer_in_doubt(&mut self) {
        let id = self.draft.transaction.id.clone();
        let detail = "the decision log failed; restart settles it";
        let answer = Answer {
            id: id.clone(),
            outcome: Outcome::InDoubt,
            reasons: vec![Reason::new(ReasonCode::DecisionUnknown, detail)],
            protocol: Some(self.draft.plan.protocol),
            participants: self.draft.transaction.payment.participants.clone(),
            insights: self.draft.insights(),
            timings_ms: timings(
                self.predicted,
                self.started.elapsed(),
                self.started.elapsed(),
                self.started.elapsed(),
            ),
        };
        self.inner.counters.count(answer.outcome, &answer.reasons);
        // The key stays in flight: until restart nobody knows, so nobody may run it again.
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(answer));
        }
    }

    async fn report_heuristic(&mut self, index: BranchIndex, outcomes: &mut Option<Outcomes>) {
        let name = &self.branches[usize::from(index.0)].name;
        let detail = format!("{name} ended against the decision");
        tracing::error!(txn = %self.draft.transaction.id, participant = %name, "{detail}");
        let made = outcomes.as_mut().expect("a decision precedes its acknowledgements");
        made.answer.outcome = Outcome::Heuristic;
        made.answer.reasons.push(Reason::new(ReasonCode::HeuristicDecision, detail));
        if !self.answers_when_applied {
            self.inner.counters.count(Outcome::Heuristic, &made.answer.reasons);
        }
        let at = self.inner.clock.now();
        let given = Given { answer: &made.answer, request_hash: &self.request_hash, at };
        if let Err(error) = self.inner.log.update_answer(given).await {
            tracing::error!(txn = %made.answer.id, %error, "a heuristic outcome was not recorded");
        }
    }

    /// Notes when a vote came or a branch ended, before the engine hears of it.
    fn observe(&mut self, input: &Input, elapsed: Duration) {
        match input {
            Input::Voted(index, vote) => {
                let index = usize::from(index.0);
                let (leg, branch) = (&mut self.legs[index], &self.branches[index]);
                if leg.vote.is_some() {
                    return;
                }
                leg.vote = match vote {
                    Vote::Yes => Some(LegVote::Yes),
                    Vote::ReadOnly => Some(LegVote::ReadOnly),
                    Vote::No(_) => Some(LegVote::No),
                    Vote::Unknown(_) => Some(LegVote::Timeout),
                };
                leg.prepare = leg.sent_at.map(|sent| elapsed.saturating_sub(sent));
                let failed =
                    matches!(vote, Vote::Unknown(_) | Vote::No(Declined::Technical { .. }));
                branch.gauge.observe(!failed);
                if let (Vote::Yes | Vote::ReadOnly, Some(sent)) = (vote, leg.sent_at) {
                    branch.gauge.vouch(self.started + sent);
                }
                self.inner.observe_vote(&branch.name, VoteTiming::InTime);
                if matches!(vote, Vote::Yes) && self.branches.len() > 1 {
                    self.branches_announced[index] = branch.participant.announce();
                }
            }
            Input::Acked(index, Ack::Done | Ack::Heuristic(_)) => {
                self.places[usize::from(index.0)] = None;
            }
            Input::Tick => {
                for (index, leg) in self.legs.iter_mut().enumerate() {
                    let Some(sent) = leg.sent_at else { continue };
                    let waited = elapsed.saturating_sub(sent);
                    let timeout = self.draft.plan.branches[index].prepare_timeout;
                    if leg.vote.is_none() && waited >= timeout {
                        leg.vote = Some(LegVote::Timeout);
                        leg.prepare = Some(waited);
                        let branch = &self.branches[index];
                        branch.gauge.observe(false);
                        self.inner.observe_vote(&branch.name, VoteTiming::Late);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Run {
    /// The next execution, known to run before anything of it can be seen.
    fn begin_trace(&self) -> Arc<Trace> {
        let inner = &self.inner;
        let id = self.draft.transaction.id.clone();
        let subject = Subject::Live { id, branches: self.branches.clone() };
        let mut running = inner.running.lock().expect("no panic while held");
        let execution = (inner.log.epoch(), inner.log.next_physical());
        let trace = Trace::new(execution, subject, self.started, Duration::ZERO);
        running.begin(trace.clone());
        trace
    }
}

impl Inner {
    fn gid(&self, physical: PhysicalId, branch: BranchIndex) -> Gid {
        Gid { log: self.log.log_id(), epoch: self.log.epoch(), physical, branch }
    }

    /// Lets the feature state hear what happened, exactly as a replay of the row would.
    pub(super) fn learn(&self, draft: &Draft, row: &OutcomeRow) {
        let at = row.timestamp.after(Duration::from_micros(row.total_us));
        let outcome = match row.outcome {
            Outcome::Committed => HistoryOutcome::Committed,
            Outcome::Rejected => HistoryOutcome::Rejected,
            _ => HistoryOutcome::Aborted,
        };
        let failure_class = row.failure_class.as_deref().and_then(|class| class.parse().ok());
        let payment = &draft.transaction.payment;
        let mut features = self.features.lock().expect("no panic while held");
        features.apply(&Event::Finished { at, payment, outcome, failure_class });
        for leg in row.legs.iter().filter_map(OutcomeLeg::history) {
            features.apply(&Event::Leg { at, leg: &leg });
        }
    }

    fn observe_vote(&self, participant: &crate::txn::ParticipantName, timing: VoteTiming) {
        let mut policy = self.policy.lock().expect("no panic while held");
        policy.observe_vote(participant, timing);
    }
}

/// Whether nothing of an execution is left in the log.
async fn is_forgotten(forgotten: Option<Forgotten>, physical: PhysicalId) -> bool {
    let Some(forgotten) = forgotten else { return true };
    let forgotten = forgotten.await;
    if let Err(error) = &forgotten {
        tracing::error!(physical = physical.0, %error, "a decision that is done was not removed");
    }
    forgotten.is_ok()
}

pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
