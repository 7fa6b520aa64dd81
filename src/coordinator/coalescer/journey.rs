//! One journey: a batch from its departure until every member has ended or goes again.
//!
//! Each attempt is an execution of its own. Where the batch *works first*, one participant carries
//! its part out before the others hear of it, and who declines there is dropped at no cost: it has
//! no effect anywhere. Then the engine carries the rest. If the batch has to be taken back, nothing
//! of it was stored, and those who are left are tried again:
//! - A member that declined ends so, unless it shares a key there with another of the batch: what
//!   that one did was taken back, so it is tried again, where it declined working first.
//! - A batch that failed as a whole (somebody else's lock, a deadlock) is nobody's decline. It is
//!   tried again with a statement an operation, which shows whose it was; that one goes alone. Where
//!   it does not show, the batch comes back to the queue in parts, down to those who go alone.
//! - Where a participant failed, or an answer was lost, it is tried once more, then all end so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::driver::{Aftermath, Cargo, Findings, Run};
use super::super::record::{declined_at, explain};
use super::super::submitted::{Ending, Submitted};
use super::super::trace::Trace;
use super::super::{Branch, Inner};
use super::Departure;
use super::queue::{Ticket, Waiting};
use super::shared::{are_distinct, keys_of, shared_keys};
use crate::mutation::{Mutation, on};
use crate::participants::Participant;
use crate::participants::batch::{KeySet, Member, Style, Then, Worked};
use crate::policy::coalescing::{Attempt, Shape};
use crate::protocol::Backoff;
use crate::protocol::two_phase::AbortCause;
use crate::txn::{Ack, BranchIndex, Declined, Gid, ParticipantName};

/// How often a batch is tried before those who are left go alone.
const ATTEMPTS_MAX: u32 = 8;
/// How often it is tried again after a participant failed or an answer was lost.
const FAILURES_MAX: u32 = 1;
/// Into how many parts a batch is split in which nobody was found out. One culprit is found in as
/// many attempts as by halves, but in half as many rounds, each of which may wait for a lock.
const PARTS: usize = 4;
/// How often a participant is told to end what it holds open; then its session ends it.
const ABANDON_ATTEMPTS_MAX: u32 = 5;

/// A batch between two attempts.
struct Party {
    inner: Arc<Inner>,
    journey: super::Journey,
    names: Arc<[ParticipantName]>,
    /// In the order in which they came.
    members: Vec<Submitted>,
    /// Those who go again from the queue, in smaller parties.
    back: Vec<Submitted>,
    style: Style,
    /// Which participant works first in the next attempt, whatever the rule says.
    first: Option<usize>,
    failures: u32,
    /// What its members voted was learnt from.
    voted: bool,
    /// The last attempt failed statement by statement, and nobody was found out.
    unexplained: bool,
}

/// What became of the first part of an attempt.
enum First {
    /// Those who are left travel on; with the branch that has worked.
    Goes(Vec<(usize, Declined)>, Option<BranchIndex>),
    /// It failed; nothing is left of it.
    Failed(Findings, AbortCause),
}

impl Inner {
    /// Carries a departure to its end.
    pub(super) async fn travel(self: Arc<Self>, departure: Departure) {
        let Departure { journey, names, mut members } = departure;
        if members.len() == 1 {
            let submitted = members.pop().expect("there is one");
            Run::alone(self, submitted, Some(journey)).carry_out().await;
            return;
        }
        let whole = party_max(&members[0]) == usize::MAX;
        let party = Party {
            inner: self.clone(),
            journey,
            names,
            members,
            back: Vec::new(),
            style: if whole { Style::Together } else { Style::OneByOne },
            first: None,
            failures: 0,
            voted: false,
            unexplained: false,
        };
        let back = party.travel().await;
        self.arrived(journey, Vec::new(), back);
    }
}

fn ticket(submitted: &Submitted) -> Ticket {
    submitted.waiting.as_ref().expect("it travels").ticket
}

fn party_max(submitted: &Submitted) -> usize {
    submitted.waiting.as_ref().expect("it travels").party_max
}

impl Party {
    /// Answers who goes again, and in how large parties.
    async fn travel(mut self) -> Vec<Submitted> {
        for _ in 0..ATTEMPTS_MAX {
            if self.members.len() < 2 {
                break;
            }
            self.attempt().await;
        }
        let left = std::mem::take(&mut self.members);
        self.send_back(left, 1);
        self.back.sort_by_key(ticket);
        self.back
    }

    fn send_back(&mut self, members: impl IntoIterator<Item = Submitted>, party_max: usize) {
        self.back.extend(members.into_iter().map(|mut member| {
            member.waiting.as_mut().expect("it travels").party_max = party_max;
            member
        }));
    }

    async fn attempt(&mut self) {
        let mut submitted = std::mem::take(&mut self.members);
        for leg in submitted.iter_mut().flat_map(|member| &mut member.legs) {
            (leg.sent_at, leg.vote, leg.prepare) = (None, None, None);
        }
        let branches = self.branches(&submitted[0]);
        let ids = submitted.iter().map(|member| member.id().clone()).collect();
        let began = Instant::now();
        let trace = self.inner.begin_trace(ids, branches.clone(), began);
        let odds: Vec<Option<f64>> = submitted.iter().map(Submitted::success).collect();
        let (lock_wait_max, timeout, shape) = {
            let state = self.inner.coalescer.state();
            let by_rule = state.rule.shape(&odds, &self.names);
            let shape = self.first.map_or(by_rule, Shape::WorkFirst);
            let longest = submitted.iter().map(Submitted::timeout).max().unwrap_or_default();
            (state.rule.lock_wait_max(), state.rule.timeout(longest), shape)
        };
        let mut cargo = Cargo {
            loads: loads(&submitted, &branches),
            style: self.style,
            keys_shared: !are_distinct(submitted.iter().flat_map(keys_of)),
            lock_wait_max,
            timeout,
            held: None,
            findings: Arc::default(),
            voted: branches.iter().map(|_| Arc::default()).collect(),
        };
        let first = match shape {
            Shape::OneTrip => First::Goes(Vec::new(), None),
            Shape::WorkFirst(at) => {
                let attempt = (&*trace, &*branches);
                self.work_first(attempt, &cargo, &mut submitted, at).await
            }
        };
        let held = if let First::Goes(_, held) = &first { *held } else { None };
        let mut early = None;
        let aftermath = match first {
            First::Failed(findings, cause) => {
                trace.close();
                self.inner.running.lock().expect("no panic while held").end(trace.physical);
                let (members, declined) = (submitted, Vec::new());
                Some(Aftermath { members, declined, findings, cause: Some(cause) })
            }
            First::Goes(declined, held) => {
                let held_at = held.map_or(0, |index| usize::from(index.0));
                early = held.map(|index| (index, declined.len()));
                let (left, gone) = split(submitted, &declined, &branches[held_at].name);
                if left.is_empty() {
                    self.learn_votes(&odds, early, &Findings::default());
                    self.let_go((&trace, &branches), held).await;
                    return self.conclude(gone).await;
                }
                if !declined.is_empty() && !on(Mutation::DeclinerTravels) {
                    cargo.loads = loads(&left, &branches);
                }
                cargo.held = held;
                let journey = Some(self.journey);
                let run = Run::over(self.inner.clone(), trace, left, branches, journey);
                Run { declined: gone, cargo: Some(cargo), ..run }.carry_out().await
            }
        };
        let nobody = Findings::default();
        let findings = aftermath.as_ref().map_or(&nobody, |aftermath| &aftermath.findings);
        let spoilt = !findings.declined.is_empty();
        // Failures are nobody's vote.
        if spoilt || aftermath.is_none() {
            self.learn_votes(&odds, early, findings);
            self.learn_cost(shape, spoilt, odds.len(), began.elapsed());
        }
        if let Some(aftermath) = aftermath {
            self.inner.coalescer.state().counts.retried += 1;
            self.sort_out(aftermath, held).await;
        }
    }

    /// The branches of the batch, in the order of the participants' names.
    fn branches(&self, first: &Submitted) -> Arc<[Branch]> {
        let of = |name: &ParticipantName| {
            let branch = &first.branches[first.position(name)];
            Branch {
                name: branch.name.clone(),
                participant: branch.participant.clone(),
                gauge: branch.gauge.clone(),
                identity: branch.identity.clone(),
                operations: Arc::default(),
            }
        };
        self.names.iter().map(of).collect()
    }

    /// One participant works before the others hear of the batch, and is waited for as long as its
    /// votes are.
    async fn work_first(
        &self,
        (trace, branches): (&Trace, &[Branch]),
        cargo: &Cargo,
        members: &mut [Submitted],
        at_branch: usize,
    ) -> First {
        let index = BranchIndex(u16::try_from(at_branch).expect("an engine's limit"));
        let (branch, gid) = (&branches[at_branch], self.inner.gid(trace.physical, index));
        let asked = Instant::now();
        for member in members.iter_mut() {
            let (position, sent) = (member.position(&branch.name), asked - member.started);
            member.legs[position].sent_at = Some(sent);
        }
        let batches = branch.participant.batches().expect("asked before it was batched");
        let worked = {
            let _entered = branch.gauge.enter();
            tokio::time::timeout(cargo.timeout, batches.work(cargo.batch(gid, Then::Hold))).await
        };
        let failed = |findings, cause| First::Failed(findings, cause);
        match worked {
            Ok(Worked::Done { declined, .. }) => {
                for (place, _) in &declined {
                    let member = &mut members[*place];
                    let position = member.position(&branch.name);
                    member.legs[position].vote = Some(crate::txn::LegVote::No);
                    member.legs[position].prepare = Some(asked.elapsed());
                }
                First::Goes(declined, Some(index))
            }
            Ok(Worked::Failed { why, culprit }) => {
                let findings = Findings { culprit, ..Findings::default() };
                failed(findings, AbortCause::Declined(index, why))
            }
            Ok(Worked::Unknown(detail)) => {
                self.let_go((trace, branches), Some(index)).await;
                failed(Findings::default(), AbortCause::VoteUnknown(index, detail))
            }
            Err(_) => {
                self.let_go((trace, branches), Some(index)).await;
                failed(Findings::default(), AbortCause::Timeout(index))
            }
        }
    }

    /// Ends a branch that nobody needs. It was never prepared: if this fails it ends with its
    /// session, and the scan knows it as ended.
    async fn let_go(&self, (trace, branches): (&Trace, &[Branch]), held: Option<BranchIndex>) {
        if let Some(index) = held {
            let gid = self.inner.gid(trace.physical, index);
            let participant = branches[usize::from(index.0)].participant.clone();
            abandon(participant, gid, self.inner.options.backoff()).await;
        }
        trace.close();
        self.inner.running.lock().expect("no panic while held").end(trace.physical);
    }

    /// Hands on how a batch voted, the first time that it did: by those who worked first, and by
    /// all others.
    fn learn_votes(
        &mut self,
        odds: &[Option<f64>],
        first: Option<(BranchIndex, usize)>,
        rest: &Findings,
    ) {
        if std::mem::replace(&mut self.voted, true) {
            return;
        }
        let mut state = self.inner.coalescer.state();
        let mut sum = 0;
        for (place, name) in self.names.iter().enumerate() {
            let there = |branch: &BranchIndex| usize::from(branch.0) == place;
            let early = first.filter(|(branch, _)| there(branch)).map_or(0, |(_, count)| count);
            let late = rest.declined.iter().filter(|(_, branch, _)| there(branch)).count();
            state.rule.observe(name, odds.len(), early + late);
            sum += early + late;
        }
        state.rule.observe_batch(odds, sum.min(odds.len()));
    }

    fn learn_cost(&self, shape: Shape, spoilt: bool, members: usize, took: Duration) {
        let attempt = match (shape, spoilt) {
            (Shape::OneTrip, false) => Attempt::OneTripHeld,
            (Shape::OneTrip, true) => Attempt::OneTripSpoilt,
            (Shape::WorkFirst(_), false) => Attempt::WorkedFirst,
            // It costs as much as a spoilt trip, and no shape but going alone avoids it.
            (Shape::WorkFirst(_), true) => return,
        };
        self.inner.coalescer.state().rule.observe_cost(attempt, members, took);
    }

    /// Who has ended, who goes alone, and who is tried again.
    async fn sort_out(&mut self, aftermath: Aftermath, held: Option<BranchIndex>) {
        let Aftermath { members, declined, findings, cause } = aftermath;
        if members.is_empty() && declined.is_empty() {
            return;
        }
        let shared = shared_keys(members.iter().chain(declined.iter().map(|(member, _)| member)));
        let shares = |member: &Submitted, name: &ParticipantName| {
            let branch = &member.branches[member.position(name)];
            let mut keys = Vec::new();
            super::branch_keys(branch, &mut keys);
            keys.iter().any(|key| shared.contains(key)) && !on(Mutation::DeclineOnTakenBack)
        };
        let worked_first = self.first.take();
        let wait_max = self.inner.coalescer.state().rule.wait_max();
        let over = self.is_over(&findings, cause.as_ref());
        let explained = explain(cause.as_ref(), &self.names);
        let (mut ended, mut again) = (Vec::new(), Vec::new());
        for (member, ending) in declined {
            let at = held.map_or(0, |index| usize::from(index.0));
            match (shares(&member, &self.names[at]), over) {
                (false, _) => ended.push((member, ending)),
                (true, false) => {
                    again.push(member);
                    self.first = Some(at);
                }
                // What it declined on was taken back, and it is not tried again.
                (true, true) => {
                    let (reason, class) = explained.clone();
                    ended.push((member, Ending::Aborted(reason, class)));
                }
            }
        }
        for (place, member) in members.into_iter().enumerate() {
            let spoilt = findings.declined.iter().find(|(at, ..)| *at == place);
            let late = member.started.elapsed() > member.timeout().max(wait_max);
            let name = |branch: &BranchIndex| &self.names[usize::from(branch.0)];
            let rests = |branch: &BranchIndex| shares(&member, name(branch));
            if let Some((_, branch, why)) = spoilt.filter(|(_, branch, _)| !rests(branch)) {
                let name = name(branch);
                let (reason, class) = declined_at(name, why);
                ended.push((member, Ending::Aborted(reason, class)));
            } else if over || late {
                let (reason, class) = explained.clone();
                ended.push((member, Ending::Aborted(reason, class)));
            } else if let Some((_, branch, _)) = spoilt {
                let at = usize::from(branch.0);
                if *self.first.get_or_insert(at) == at && worked_first != Some(at) {
                    again.push(member);
                } else {
                    self.send_back([member], 1);
                }
            } else if findings.culprit == Some(place) {
                self.send_back([member], 1);
            } else {
                again.push(member);
            }
        }
        self.conclude(ended).await;
        let mut again = self.keep_order(again);
        if std::mem::take(&mut self.unexplained) {
            // They go in parts, at last alone.
            let part = again.len().div_ceil(PARTS);
            self.send_back(again.drain(..), part);
        }
        self.members = again;
    }

    /// Who shares a key with somebody that came before and goes again from the queue goes after it,
    /// from there, too. The rest, in their order.
    fn keep_order(&mut self, mut again: Vec<Submitted>) -> Vec<Submitted> {
        again.sort_by_key(ticket);
        let keys = |member: &Submitted| keys_of(member).to_vec();
        let mut before: Vec<_> = self.back.iter().map(|m| (ticket(m), keys(m))).collect();
        before.sort_unstable_by_key(|(ticket, _)| std::cmp::Reverse(*ticket));
        let mut wanted = KeySet::default();
        let (mut stay, mut follow) = (Vec::with_capacity(again.len()), Vec::new());
        for member in again {
            while before.last().is_some_and(|(earlier, _)| *earlier < ticket(&member)) {
                wanted.extend(before.pop().into_iter().flat_map(|(_, keys)| keys));
            }
            let own = keys(&member);
            if own.iter().any(|key| wanted.contains(key)) {
                wanted.extend(own.iter().copied());
                follow.push(member);
            } else {
                stay.push(member);
            }
        }
        self.back.extend(follow);
        stay
    }

    /// Ends members of which nothing is left anywhere.
    async fn conclude(&self, mut ended: Vec<(Submitted, Ending)>) {
        let held: Vec<Waiting> =
            ended.iter_mut().filter_map(|(member, _)| member.waiting.take()).collect();
        self.inner.conclude(ended).await;
        self.inner.coalescer.release(&held);
    }

    /// Whether nobody is tried again; notes how the next attempt is made.
    fn is_over(&mut self, findings: &Findings, cause: Option<&AbortCause>) -> bool {
        if findings.culprit.is_some() || !findings.declined.is_empty() {
            self.style = Style::Together;
            return false;
        }
        match cause {
            Some(AbortCause::Declined(_, why)) if !is_failure(why) => {
                self.unexplained = self.style == Style::OneByOne;
                self.style = Style::OneByOne;
                false
            }
            Some(AbortCause::Declined(..) | AbortCause::VoteUnknown(..)) => {
                self.failures += 1;
                self.failures > FAILURES_MAX
            }
            Some(AbortCause::Timeout(_) | AbortCause::Cancelled) | None => true,
        }
    }
}

/// Whether a participant as a whole is meant, so that nobody would fare better alone.
fn is_failure(why: &Declined) -> bool {
    let Declined::Technical { code, .. } = why else { return false };
    ["participant_unavailable", "fenced", "stale_epoch", "ledger_unavailable", "aborted_before"]
        .contains(&code.as_str())
}

/// What each branch carries.
fn loads(members: &[Submitted], branches: &[Branch]) -> Vec<Arc<[Member]>> {
    let load = |branch: &Branch| {
        let of = |(place, member): (usize, &Submitted)| {
            let operations = member.branches[member.position(&branch.name)].operations.clone();
            Member { place, operations }
        };
        members.iter().enumerate().map(of).collect()
    };
    branches.iter().map(load).collect()
}

/// Those who travel on, and those who have declined at a participant.
fn split(
    members: Vec<Submitted>,
    declined: &[(usize, Declined)],
    name: &ParticipantName,
) -> (Vec<Submitted>, Vec<(Submitted, Ending)>) {
    let mut declined = declined.iter().peekable();
    let (mut left, mut gone) = (Vec::with_capacity(members.len()), Vec::new());
    for (place, member) in members.into_iter().enumerate() {
        match declined.next_if(|(at, _)| *at == place) {
            Some((_, why)) => {
                let (reason, class) = declined_at(name, why);
                gone.push((member, Ending::Aborted(reason, class)));
            }
            None => left.push(member),
        }
    }
    (left, gone)
}

/// Tells a participant to end a branch until it has heard, within a bound.
async fn abandon(participant: Arc<dyn Participant>, gid: Gid, backoff: Backoff) {
    for attempt in 1..=ABANDON_ATTEMPTS_MAX {
        match participant.abort(gid).await {
            Ack::Unknown(detail) => {
                tracing::debug!(%gid, attempt, detail, "a branch that nobody needs is told again");
                tokio::time::sleep(backoff.wait(attempt, gid.physical.0)).await;
            }
            Ack::Done | Ack::Heuristic(_) => return,
        }
    }
}
