//! Carries one execution: turns the engine's actions into calls and their answers into inputs.
//!
//! An execution has one member, or those of a batch: one PREPARE a participant, one decision, one
//! COMMIT for all of them. It runs in its own task, so that a client that goes away stops nothing.
//! This file decides nothing: what may be sent when is the engine's business.
//!
//! A batch that aborts ends nobody but those who declined: nothing of its abort is stored (presumed
//! abort), and its members are given back when every branch has acknowledged.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::answer::Wait;
use super::coalescer::{Journey, Waiting};
use super::operator::Held;
use super::record::explain;
use super::submitted::{Ending, Made, Submitted};
use super::trace::{Subject, Trace};
use super::watched::Watched;
use super::{Branch, Inner};
use crate::decision_log::{
    self, Announced, DecisionRecord, Given, Intent, OutcomeRow, RecordedBranch,
};
use crate::mutation::{Mutation, on};
use crate::participants::BoxFuture;
use crate::participants::batch::{Batch, Batches, Member, Style, Then, Worked};
use crate::policy::VoteTiming;
use crate::protocol::two_phase::{AbortCause, Action, BranchState, Input, TwoPhase};
use crate::txn::{
    Ack, BranchIndex, Decision, Declined, Gid, LegVote, Outcome, PhysicalId, Reason, ReasonCode,
    TxnId, Vote,
};

/// One execution on its way.
pub(super) struct Run {
    pub(super) inner: Arc<Inner>,
    pub(super) trace: Arc<Trace>,
    /// Those who commit together; a place in a batch is a position here.
    pub(super) members: Vec<Submitted>,
    /// Those who have declined already, and hold nothing: they are told with the others.
    pub(super) declined: Vec<(Submitted, Ending)>,
    pub(super) branches: Arc<[Branch]>,
    /// What a batch carries; `None` for one transaction alone.
    pub(super) cargo: Option<Cargo>,
    /// Which journey it is part of, while its keys are held.
    pub(super) journey: Option<Journey>,
    /// When each branch was asked for its vote.
    pub(super) asked: Vec<Option<Instant>>,
    /// To the decision log.
    pub(super) announced: Option<Announced>,
    /// To the participants, by branch.
    pub(super) branches_announced: Vec<Option<Announced>>,
    /// What was made durable, or is about to be, by member; those who declined stand last.
    pub(super) made: Vec<Made>,
    pub(super) voted: Instant,
    /// What an operator stated of a one-phase commit.
    pub(super) forced: Option<Reason>,
    /// The log forgets the decision.
    pub(super) forgotten: Option<Forgotten>,
    /// The answer waits until every branch has obeyed.
    pub(super) answers_when_applied: bool,
    /// Some branch did not obey at once: whoever waits for the others waits no longer.
    pub(super) stuck: bool,
    /// Keys of members that were told before their branches had ended.
    pub(super) owed: Vec<Waiting>,
}

/// What a batch carries to each branch.
pub(super) struct Cargo {
    pub(super) loads: Vec<Arc<[Member]>>,
    pub(super) style: Style,
    pub(super) keys_shared: bool,
    pub(super) lock_wait_max: Duration,
    /// How long each branch may take to vote.
    pub(super) timeout: Duration,
    /// The branch that has done its work already.
    pub(super) held: Option<BranchIndex>,
    pub(super) findings: Arc<Mutex<Findings>>,
    /// Whether each branch has answered for its vote.
    pub(super) voted: Vec<Arc<Watched<bool>>>,
}

/// What participants said of a batch's members.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Who declined where, and why.
    pub(super) declined: Vec<(usize, BranchIndex, Declined)>,
    /// Whose statement failed.
    pub(super) culprit: Option<usize>,
}

/// A batch that was taken back everywhere.
pub(super) struct Aftermath {
    pub(super) members: Vec<Submitted>,
    pub(super) declined: Vec<(Submitted, Ending)>,
    pub(super) findings: Findings,
    pub(super) cause: Option<AbortCause>,
}

/// Resolves when a decision is forgotten, durably.
type Forgotten = BoxFuture<'static, Result<(), decision_log::Error>>;

type Calls = FuturesUnordered<BoxFuture<'static, Input>>;

impl Run {
    /// One transaction alone.
    pub(super) fn alone(inner: Arc<Inner>, submitted: Submitted, journey: Option<Journey>) -> Self {
        let branches = submitted.branches.clone();
        let branches_announced: Vec<_> =
            branches.iter().map(|b| b.participant.announce()).collect();
        let in_step = branches_announced.iter().all(Option::is_some);
        // Only embedded participants keep transactions in step; where votes come when they come,
        // others would wait in vain.
        let announced = in_step.then(|| inner.log.announce()).flatten();
        let trace =
            inner.begin_trace(vec![submitted.id().clone()], branches.clone(), submitted.started);
        Self {
            announced,
            branches_announced,
            ..Self::over(inner, trace, vec![submitted], branches, journey)
        }
    }

    pub(super) fn over(
        inner: Arc<Inner>,
        trace: Arc<Trace>,
        members: Vec<Submitted>,
        branches: Arc<[Branch]>,
        journey: Option<Journey>,
    ) -> Self {
        Self {
            asked: vec![None; branches.len()],
            branches_announced: branches.iter().map(|_| None).collect(),
            inner,
            trace,
            members,
            declined: Vec::new(),
            branches,
            cargo: None,
            journey,
            announced: None,
            made: Vec::new(),
            voted: Instant::now(),
            forced: None,
            forgotten: None,
            answers_when_applied: false,
            stuck: false,
            owed: Vec::new(),
        }
    }

    /// Runs it to its end: every branch told, or the log broken. Gives back a batch that aborted.
    pub(super) async fn carry_out(mut self) -> Option<Aftermath> {
        let (inner, trace) = (self.inner.clone(), self.trace.clone());
        let timeouts = self.timeouts();
        let mut engine = TwoPhase::new(&timeouts, inner.options.backoff(), trace.physical.0);
        let mut calls: Calls = FuturesUnordered::new();
        let mut actions = Vec::new();
        let mut cancelled = false;
        let mut give_up_at = None;
        trace.step(&mut engine, trace.began.elapsed(), Input::Start, &mut actions);
        loop {
            for action in std::mem::take(&mut actions) {
                match action {
                    // Nothing of it is stored: no record of a decision means abort.
                    Action::PersistDecision(Decision::Abort) if self.cargo.is_some() => {
                        give_up_at = timeouts.iter().max().map(|longest| Instant::now() + *longest);
                        calls.push(Box::pin(std::future::ready(Input::Persisted)));
                    }
                    Action::PersistDecision(decision) => {
                        self.voted = Instant::now();
                        self.make(&engine, decision);
                        calls.push(self.persist(&engine, decision));
                        if on(Mutation::AnswerBeforeDurable) {
                            self.answer();
                        }
                    }
                    action => self.act(action, &mut calls).await,
                }
            }
            if engine.is_over() {
                break;
            }
            let deadline = engine.deadline().map(|after| trace.began + after);
            let input = tokio::select! {
                biased;
                Some(input) = calls.next(), if !calls.is_empty() => input,
                () = at(deadline) => Input::Tick,
                order = trace.next_order() => {
                    let hashes = self.members.iter().map(|member| member.request_hash.as_str());
                    let answers = self.made.iter_mut().map(|made| Arc::make_mut(&mut made.answer));
                    let answers = answers.zip(hashes).collect();
                    let held = Held { answers, forced: &mut self.forced };
                    match inner.obey(order, &trace, &engine, held).await {
                        Some(input) => input,
                        None => continue,
                    }
                }
                () = inner.stop.until(|stop| *stop), if !cancelled => {
                    cancelled = true;
                    Input::Cancel
                }
                () = at(give_up_at) => {
                    give_up_at = None;
                    self.give_up(engine.cause()).await;
                    continue;
                }
            };
            self.observe(&input, &timeouts);
            trace.step(&mut engine, trace.began.elapsed(), input, &mut actions);
        }
        self.end(&engine).await
    }

    async fn end(mut self, engine: &TwoPhase) -> Option<Aftermath> {
        let (inner, physical) = (self.inner.clone(), self.trace.physical);
        self.trace.close();
        if self.answers_when_applied && engine.is_done() {
            self.answer();
        }
        if engine.is_done() {
            inner.coalescer.release(&self.owed);
        }
        if !self.made.is_empty() && engine.is_done() {
            self.arrive();
        }
        let taken_back = self.made.is_empty() && self.cargo.is_some() && engine.is_done();
        let aftermath = taken_back.then(|| Aftermath {
            members: std::mem::take(&mut self.members),
            declined: std::mem::take(&mut self.declined),
            findings: self.cargo.as_ref().map(Cargo::take_findings).unwrap_or_default(),
            cause: engine.cause().cloned(),
        });
        let declined = self.declined.iter_mut().map(|(submitted, _)| submitted);
        let mut all: Vec<_> = self.members.iter_mut().chain(declined).collect();
        inner.unfinished.fetch_sub(all.len(), Ordering::Relaxed);
        for (submitted, made) in all.iter_mut().zip(std::mem::take(&mut self.made)) {
            if submitted.wait == Wait::Applied {
                submitted.reply(Ok(made.answer));
            }
        }
        let forgotten = self.forgotten.take();
        drop(self);
        // One in doubt runs on, as far as a scan is concerned: recovery settles it. So does one whose
        // decision may come back: its markers must stay.
        if engine.is_done() && is_forgotten(forgotten, physical).await {
            inner.running.lock().expect("no panic while held").end(physical);
        }
        aftermath
    }

    /// How long each branch may take to vote.
    fn timeouts(&self) -> Vec<Duration> {
        match &self.cargo {
            Some(cargo) => vec![cargo.timeout; self.branches.len()],
            None => {
                let plans = &self.members[0].draft.plan.branches;
                plans.iter().map(|branch| branch.prepare_timeout).collect()
            }
        }
    }

    async fn act(&mut self, action: Action, calls: &mut Calls) {
        match action {
            Action::PersistIntent => calls.push(self.persist_intent()),
            Action::SendPrepare(index) | Action::SendOnePhase(index) => {
                self.ask(index);
                self.send(action, index, calls).await;
                drop(self.branches_announced[usize::from(index.0)].take());
            }
            // Sent before the answer goes out, so that a client that reads after it hears of the
            // commit sees it.
            Action::SendCommit(index) => {
                self.send(action, index, calls).await;
                drop(self.branches_announced[usize::from(index.0)].take());
            }
            Action::SendAbort(index) | Action::SendInquiry(index) => {
                self.branches_announced[usize::from(index.0)] = None;
                calls.push(self.call(action, index));
            }
            Action::Answer(Decision::Commit) if self.may_be_overtaken() => {
                self.answers_when_applied = true;
            }
            // A batch that is taken back ends nobody.
            Action::Answer(Decision::Abort) if self.cargo.is_some() => {}
            Action::Answer(_) => {
                self.answer();
                let mut batches = self.branches.iter().filter_map(|b| b.participant.batches());
                if batches.all(Batches::applies_at_once) {
                    self.arrive();
                } else if let Some(journey) = self.journey {
                    self.inner.decided(journey);
                }
            }
            Action::AnswerInDoubt => {
                let declined = self.declined.iter_mut().map(|(submitted, _)| submitted);
                for (at, submitted) in self.members.iter_mut().chain(declined).enumerate() {
                    submitted.reply_in_doubt(self.made.get(at), &self.inner);
                }
            }
            Action::ReportHeuristic(index) => self.report_heuristic(index).await,
            Action::Forget => {
                let log = &self.inner.log;
                // No answer waits for it: if it is lost, recovery repeats phase two and forgets.
                self.forgotten = Some(log.finish(log.epoch(), self.trace.physical));
            }
            Action::PersistDecision(_) => unreachable!("handled by the caller"),
        }
    }

    /// Notes that a branch is asked for its vote now.
    fn ask(&mut self, index: BranchIndex) {
        let now = Instant::now();
        self.asked[usize::from(index.0)].get_or_insert(now);
        let name = &self.branches[usize::from(index.0)].name;
        for member in &mut self.members {
            let (position, sent) = (member.position(name), now.duration_since(member.started));
            member.legs[position].sent_at = Some(sent);
        }
    }

    /// Starts a call at once, not when it is next waited for.
    async fn send(&mut self, action: Action, index: BranchIndex, calls: &mut Calls) {
        let mut call = self.call(action, index);
        match futures_util::poll!(&mut call) {
            std::task::Poll::Ready(input) => calls.push(Box::pin(async { input })),
            std::task::Poll::Pending => calls.push(call),
        }
    }

    fn call(&self, action: Action, index: BranchIndex) -> BoxFuture<'static, Input> {
        let gid = self.inner.gid(self.trace.physical, index);
        let branches = self.branches.clone();
        if let (Action::SendPrepare(_), Some(cargo)) = (action, &self.cargo) {
            return cargo.prepare(branches, gid);
        }
        let working = self.cargo.as_ref().map(|cargo| cargo.working(index));
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
                Action::SendAbort(_) => {
                    if let Some(working) = working {
                        working.await;
                    }
                    Input::Acked(index, participant.abort(gid).await)
                }
                Action::SendInquiry(_) => Input::Inquired(index, participant.inquire(gid).await),
                _ => unreachable!("only sends are calls"),
            }
        })
    }

    fn persist_intent(&self) -> BoxFuture<'static, Input> {
        let submitted = &self.members[0];
        let row = submitted.draft.row(Outcome::InDoubt, None, &[], &submitted.legs, Duration::ZERO);
        let intent = Intent {
            epoch: self.inner.log.epoch(),
            physical: self.trace.physical,
            branch: self.recorded(0),
            request_hash: submitted.request_hash.clone(),
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

    /// Makes every member's answer and row.
    fn make(&mut self, engine: &TwoPhase, decision: Decision) {
        let ending = match decision {
            Decision::Commit => Ending::Committed,
            Decision::Abort => {
                let names: Vec<_> = self.branches.iter().map(|b| b.name.clone()).collect();
                let (reason, class) = explain(engine.cause(), &names);
                Ending::Aborted(reason, class)
            }
        };
        let (voted, forced) = (self.voted, self.forced.as_ref());
        let together = self.members.iter_mut();
        let together = together.map(|member| member.made(ending.clone(), voted, forced));
        let declined = self.declined.iter_mut();
        let declined = declined.map(|(member, ending)| member.made(ending.clone(), voted, None));
        self.made = together.chain(declined).collect();
    }

    fn persist(&mut self, engine: &TwoPhase, decision: Decision) -> BoxFuture<'static, Input> {
        let (epoch, physical) = (self.inner.log.epoch(), self.trace.physical);
        let at = self.inner.clock.now();
        let count = u16::try_from(self.branches.len()).expect("checked by the engine");
        let state = |i: &u16| engine.branch_state(BranchIndex(*i));
        let one_phase = count == 1;
        let decision = (decision == Decision::Commit && !one_phase).then(|| DecisionRecord {
            epoch,
            physical,
            branches: (0..self.branches.len()).map(|i| self.recorded(i)).collect(),
            read_only: (0..count)
                .filter(|i| state(i) == BranchState::ReadOnly && !on(Mutation::ReadOnlyNotRecorded))
                .collect(),
            members: self.members.iter().map(|member| member.id().clone()).collect(),
            decision,
            at,
        });
        let declined = self.declined.iter().map(|(submitted, _)| submitted);
        let told = self.members.iter().chain(declined).zip(&self.made);
        let outcomes: Vec<(Given<'_>, &OutcomeRow)> =
            told.map(|(member, made)| (member.given(&made.answer, at), &made.row)).collect();
        let intent = one_phase.then_some((epoch, physical));
        let write = self.inner.log.record_outcomes(decision.as_ref(), &outcomes, intent);
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

    /// The outcome is durable: tell everybody.
    fn answer(&mut self) {
        let declined = self.declined.iter_mut().map(|(submitted, _)| submitted);
        let told = self.members.iter_mut().chain(declined);
        for (submitted, made) in told.zip(&mut self.made) {
            submitted.tell(made, self.voted, &self.inner);
        }
    }

    /// What was decided is there, or was taken back: others may touch the same.
    fn arrive(&mut self) {
        let Some(journey) = self.journey.take() else { return };
        let declined = self.declined.iter_mut().map(|(submitted, _)| submitted);
        let all = self.members.iter_mut().chain(declined);
        let held = all.filter_map(|submitted| submitted.waiting.take()).collect();
        self.inner.arrived(journey, held, Vec::new());
    }

    /// A batch that is taken back has waited for its branches for long enough: its members end here.
    async fn give_up(&mut self, cause: Option<&AbortCause>) {
        let names: Vec<_> = self.branches.iter().map(|b| b.name.clone()).collect();
        let (reason, class) = explain(cause, &names);
        let ended = |member| (member, Ending::Aborted(reason.clone(), class));
        let members = std::mem::take(&mut self.members).into_iter().map(ended);
        let mut ended: Vec<_> = members.chain(std::mem::take(&mut self.declined)).collect();
        self.owed = ended.iter_mut().filter_map(|(member, _)| member.waiting.take()).collect();
        self.inner.conclude(ended).await;
    }

    async fn report_heuristic(&mut self, index: BranchIndex) {
        let name = &self.branches[usize::from(index.0)].name;
        let detail = format!("{name} ended against the decision");
        for (submitted, made) in self.members.iter().zip(&mut self.made) {
            tracing::error!(txn = %submitted.id(), participant = %name, "{detail}");
            let answer = Arc::make_mut(&mut made.answer);
            answer.outcome = Outcome::Heuristic;
            answer.reasons.push(Reason::new(ReasonCode::HeuristicDecision, detail.clone()));
            if !self.answers_when_applied {
                self.inner.counters.count(Outcome::Heuristic, &made.answer.reasons);
            }
            let given = submitted.given(&made.answer, self.inner.clock.now());
            if let Err(error) = self.inner.log.update_answer(given).await {
                tracing::error!(txn = %submitted.id(), %error, "a heuristic outcome was not recorded");
            }
        }
    }

    /// Notes when a vote came or a branch ended, before the engine hears of it.
    fn observe(&mut self, input: &Input, timeouts: &[Duration]) {
        match input {
            Input::Voted(index, vote) => self.observe_vote(*index, vote),
            Input::Acked(index, Ack::Done | Ack::Heuristic(_)) => self.leave(*index),
            Input::Acked(_, Ack::Unknown(_)) if !self.stuck && self.made_commit() => {
                self.stuck = true;
                if let Some(journey) = self.journey {
                    self.inner.pass(journey);
                }
            }
            Input::Tick => {
                for (at, timeout) in timeouts.iter().enumerate() {
                    let branch = &self.branches[at];
                    let Some(asked) = self.asked[at] else { continue };
                    let mut late = false;
                    for member in &mut self.members {
                        let position = member.position(&branch.name);
                        let leg = &mut member.legs[position];
                        if leg.vote.is_none() && asked.elapsed() >= *timeout {
                            leg.vote = Some(LegVote::Timeout);
                            leg.prepare = Some(asked.elapsed());
                            late = true;
                        }
                    }
                    if late {
                        branch.gauge.observe(false);
                        self.inner.observe_vote(&branch.name, VoteTiming::Late);
                    }
                }
            }
            _ => {}
        }
    }

    fn observe_vote(&mut self, index: BranchIndex, vote: &Vote) {
        let at = usize::from(index.0);
        let (branch, asked) = (&self.branches[at], self.asked[at]);
        let heard = match vote {
            Vote::Yes => LegVote::Yes,
            Vote::ReadOnly => LegVote::ReadOnly,
            Vote::No(_) => LegVote::No,
            Vote::Unknown(_) => LegVote::Timeout,
        };
        let took = asked.map(|asked| asked.elapsed());
        let mut first = false;
        for member in &mut self.members {
            let position = member.position(&branch.name);
            let leg = &mut member.legs[position];
            if leg.vote.is_none() {
                (leg.vote, leg.prepare, first) = (Some(heard), took, true);
            }
        }
        if !first {
            return;
        }
        let failed = matches!(vote, Vote::Unknown(_) | Vote::No(Declined::Technical { .. }));
        branch.gauge.observe(!failed);
        if let (Vote::Yes | Vote::ReadOnly, Some(asked)) = (vote, asked) {
            branch.gauge.vouch(asked);
        }
        self.inner.observe_vote(&branch.name, VoteTiming::InTime);
        let in_step = self.cargo.is_none() && self.branches.len() > 1;
        if matches!(vote, Vote::Yes) && in_step {
            self.branches_announced[at] = branch.participant.announce();
        }
    }

    /// Whether a commit is being carried out.
    fn made_commit(&self) -> bool {
        !self.made.is_empty()
    }

    /// A branch has ended: every member gives up its place there.
    fn leave(&mut self, index: BranchIndex) {
        let name = &self.branches[usize::from(index.0)].name;
        for member in &mut self.members {
            let position = member.position(name);
            member.places[position] = None;
        }
    }
}

impl Cargo {
    fn take_findings(&self) -> Findings {
        std::mem::take(&mut self.findings.lock().expect("no panic while held"))
    }

    /// The work of a branch, and its vote: of what is held, only that.
    fn prepare(&self, branches: Arc<[Branch]>, gid: Gid) -> BoxFuture<'static, Input> {
        let index = gid.branch;
        let held = self.held == Some(index);
        let (batch, findings) = (self.batch(gid, Then::Prepare), self.findings.clone());
        let voted = self.voted[usize::from(index.0)].clone();
        Box::pin(async move {
            let branch = &branches[usize::from(index.0)];
            let _entered = branch.gauge.enter();
            let _answers = Answers(voted);
            let batches = branch.participant.batches().expect("asked before it was batched");
            if held {
                return Input::Voted(index, batches.prepare_held(gid).await);
            }
            let worked = batches.work(batch).await;
            let mut findings = findings.lock().expect("no panic while held");
            Input::Voted(index, findings.vote(index, worked))
        })
    }

    /// Resolves when a branch has answered for its vote, or takes too long: rolled back while it
    /// works it would have to be told twice.
    fn working(&self, index: BranchIndex) -> BoxFuture<'static, ()> {
        let (voted, bound) = (self.voted[usize::from(index.0)].clone(), self.lock_wait_max);
        Box::pin(async move {
            // It is told in any case.
            let _ = tokio::time::timeout(bound, voted.until(|voted| *voted)).await;
        })
    }

    /// What is asked of a branch.
    pub(super) fn batch(&self, gid: Gid, then: Then) -> Batch {
        Batch {
            gid,
            members: self.loads[usize::from(gid.branch.0)].clone(),
            style: self.style,
            keys_shared: self.keys_shared,
            lock_wait_max: self.lock_wait_max,
            then,
        }
    }
}

/// Says that a branch has answered, however its call ends.
struct Answers(Arc<Watched<bool>>);

impl Drop for Answers {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

impl Findings {
    /// Takes in what a branch's work came to, and answers with its vote. A member that declines
    /// spoils the batch, which has its work elsewhere.
    fn vote(&mut self, index: BranchIndex, worked: Worked) -> Vote {
        match worked {
            Worked::Done { declined, vote } => {
                let spoilt = declined.first().map(|(_, why)| why.clone());
                let spoilt = spoilt.filter(|_| !on(Mutation::SpoilerStays));
                self.declined.extend(declined.into_iter().map(|(at, why)| (at, index, why)));
                match (spoilt, vote) {
                    (Some(why), _) => Vote::No(why),
                    (None, Some(vote)) => vote,
                    (None, None) if on(Mutation::SpoilerStays) => Vote::Yes,
                    (None, None) => Vote::Unknown("the batch has no vote".to_owned()),
                }
            }
            Worked::Failed { why, culprit } => {
                self.culprit = self.culprit.or(culprit);
                Vote::No(why)
            }
            Worked::Unknown(detail) => Vote::Unknown(detail),
        }
    }
}

impl Inner {
    /// The next execution, known to run before anything of it can be seen.
    pub(super) fn begin_trace(
        &self,
        ids: Vec<TxnId>,
        branches: Arc<[Branch]>,
        began: Instant,
    ) -> Arc<Trace> {
        let subject = Subject::Live { ids, branches };
        let mut running = self.running.lock().expect("no panic while held");
        let execution = (self.log.epoch(), self.log.next_physical());
        let trace = Trace::new(execution, subject, began, Duration::ZERO);
        running.begin(trace.clone());
        trace
    }

    pub(super) fn gid(&self, physical: PhysicalId, branch: BranchIndex) -> Gid {
        Gid { log: self.log.log_id(), epoch: self.log.epoch(), physical, branch }
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
