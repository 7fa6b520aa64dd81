//! Lets transactions travel together: those over the same participants that wait while others are
//! on their way go with the next batch.
//!
//! A batch equals some serial order of its committed members, the order in which they came:
//! - Members touch what their operations declare. Who has operations without declared keys, or one
//!   participant only, travels alone and holds none; databases keep these apart by their own locks.
//! - A key is held by one journey at a time, over all sets of participants, until phase two is
//!   acknowledged; in [`queue`] nobody overtakes on a key.
//! - Who declines is told so only if nothing that it may have seen was taken back; see [`journey`].
//!
//! There are no timers: where nobody travels, a transaction goes at once. Whoever waits in vain for
//! longer than `wait_ms_max` is aborted.

mod journey;
mod queue;
mod shared;

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;

use super::answer::SubmitError;
use super::driver::Run;
use super::submitted::{Ending, Submitted};
use super::{Branch, Inner};
use crate::participants::Participant;
use crate::participants::batch::{Batches, Key};
use crate::policy::coalescing::{Coalescing, Load};
use crate::txn::{FailureClass, ParticipantName, Reason, ReasonCode};
use queue::{Queue, Ticket};

pub(super) use queue::{Journey, Waiting};

/// Sets of participants that are kept apart; members of further ones travel alone.
const ROADS_MAX: usize = 4_096;
/// How often it is looked who has waited for too long, while anybody waits.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(100);
/// The same, while nobody does: whether there is a coordinator still.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Who waits and who travels.
pub(super) struct Coalescer {
    state: Mutex<State>,
    /// Somebody waits, where nobody did.
    waits: Arc<Notify>,
}

struct State {
    rule: Coalescing,
    queue: Queue,
    /// Boxed: a tree moves its values about.
    waiting: BTreeMap<Ticket, Box<Submitted>>,
    roads: Vec<Road>,
    known: HashMap<Vec<(ParticipantName, Arc<str>)>, usize>,
    /// That of the last transaction, which the next one mostly takes, too.
    last_road: usize,
    journeys: HashMap<Journey, Underway>,
    last_ticket: Ticket,
    last_journey: Journey,
    counts: Travelled,
}

/// What travelled together since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Travelled {
    /// Batches that set out.
    pub batches: u64,
    /// Their members.
    pub members: u64,
    /// Batches that were taken back and tried again.
    pub retried: u64,
    /// Transactions that wait now.
    pub waiting: usize,
}

/// The way to one set of participants.
struct Road {
    /// In the order of their names.
    names: Arc<[ParticipantName]>,
    /// Of their servers, in the same order.
    identities: Vec<Arc<str>>,
    participants: Vec<Arc<dyn Participant>>,
    load: Load,
    /// Journeys that are decided, and left out of `load`.
    decided: usize,
}

impl Road {
    /// Whether it is the way of a transaction with these branches.
    fn is_of(&self, branches: &[Branch]) -> bool {
        let ends = || self.names.iter().zip(&self.identities);
        let known = |branch: &Branch| {
            ends().any(|(name, identity)| {
                *name == branch.name && Arc::ptr_eq(identity, &branch.identity)
            })
        };
        branches.len() == self.names.len() && branches.iter().all(known)
    }

    /// The most members that every participant takes.
    fn members_max(&self) -> usize {
        let batches = self.participants.iter().filter_map(|participant| participant.batches());
        batches.map(Batches::members_max).min().unwrap_or(usize::MAX)
    }
}

/// A journey that still counts on its road.
struct Underway {
    road: usize,
    members: usize,
    /// Left out of its road's load.
    decided: bool,
}

/// Members that set out together.
struct Departure {
    journey: Journey,
    names: Arc<[ParticipantName]>,
    members: Vec<Submitted>,
}

impl Coalescer {
    pub(super) fn new(rule: Coalescing) -> Self {
        let state = State {
            rule,
            queue: Queue::default(),
            waiting: BTreeMap::new(),
            roads: Vec::new(),
            known: HashMap::new(),
            last_road: 0,
            journeys: HashMap::new(),
            last_ticket: 0,
            last_journey: 0,
            counts: Travelled::default(),
        };
        Self { state: Mutex::new(state), waits: Arc::default() }
    }

    /// Keys of members that have ended before their journey.
    pub(super) fn release(&self, ended: &[Waiting]) {
        let mut state = self.state();
        for member in ended {
            state.queue.release(&member.keys);
        }
    }

    /// What travelled together so far.
    pub(super) fn travelled(&self) -> Travelled {
        let state = self.state();
        Travelled { waiting: state.waiting.len(), ..state.counts }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

impl State {
    /// The road of a transaction; `None` if there are too many.
    fn road(&mut self, submitted: &Submitted) -> Option<usize> {
        if self.roads.get(self.last_road).is_some_and(|road| road.is_of(&submitted.branches)) {
            return Some(self.last_road);
        }
        let mut ends: Vec<_> =
            submitted.branches.iter().map(|b| (b.name.clone(), b.identity.clone())).collect();
        ends.sort_unstable();
        if let Some(road) = self.known.get(&ends) {
            self.last_road = *road;
            return Some(*road);
        }
        if self.roads.len() >= ROADS_MAX {
            return None;
        }
        let (names, identities) = ends.iter().cloned().unzip::<_, _, Vec<_>, Vec<_>>();
        let names = names.into();
        let participants = submitted.branches.iter().map(|b| b.participant.clone()).collect();
        self.roads.push(Road {
            names,
            identities,
            participants,
            load: Load::default(),
            decided: 0,
        });
        self.known.insert(ends, self.roads.len() - 1);
        Some(self.roads.len() - 1)
    }

    /// Everybody who can set out now.
    fn departures(&mut self) -> Vec<Departure> {
        let mut departures = Vec::new();
        for road in 0..self.roads.len() {
            while let Some(departure) = self.depart(road) {
                departures.push(departure);
            }
        }
        departures
    }

    fn depart(&mut self, road: usize) -> Option<Departure> {
        let waiting = self.queue.count(road);
        let load = Load { waiting, ..self.roads[road].load };
        let room = self.rule.room(load, self.roads[road].members_max())?;
        let journey = self.last_journey + 1;
        let gone = self.queue.depart(road, journey, room);
        if gone.is_empty() {
            return None;
        }
        self.last_journey = journey;
        self.journeys.insert(journey, Underway { road, members: gone.len(), decided: false });
        if gone.len() > 1 {
            self.counts.batches += 1;
            self.counts.members += gone.len() as u64;
        }
        let load = &mut self.roads[road].load;
        (load.journeys, load.travelling) = (load.journeys + 1, load.travelling + gone.len());
        let of = |member: Waiting| {
            let submitted = self.waiting.remove(&member.ticket).expect("in both or in none");
            Submitted { waiting: Some(member), ..*submitted }
        };
        let members = gone.into_iter().map(of).collect();
        Some(Departure { journey, names: self.roads[road].names.clone(), members })
    }

    /// A journey no longer counts on its road.
    fn pass(&mut self, journey: Journey) {
        let Some(underway) = self.journeys.remove(&journey) else { return };
        if underway.decided {
            self.roads[underway.road].decided -= 1;
        } else {
            self.leave_load(&underway);
        }
    }

    fn leave_load(&mut self, Underway { road, members, .. }: &Underway) {
        let load = &mut self.roads[*road].load;
        (load.journeys, load.travelling) = (load.journeys - 1, load.travelling - members);
    }

    /// A journey has only to be carried out: others may set out beside it, unless as many are at
    /// that already.
    fn decided(&mut self, journey: Journey) {
        let Some(mut underway) = self.journeys.remove(&journey) else { return };
        let decided = &mut self.roads[underway.road].decided;
        if !underway.decided && *decided < self.rule.journeys_max() {
            *decided += 1;
            underway.decided = true;
            self.leave_load(&underway);
        }
        self.journeys.insert(journey, underway);
    }
}

impl Inner {
    /// Sends an admitted transaction on its way.
    pub(super) fn set_out(self: &Arc<Self>, submitted: Submitted) {
        let keys = keys(&submitted);
        let mut state = self.coalescer.state();
        let road = keys.is_some().then(|| state.road(&submitted)).flatten();
        let (Some(keys), Some(set), true) = (keys, road, state.rule.is_on()) else {
            drop(state);
            tokio::spawn(Run::alone(self.clone(), submitted, None).carry_out());
            return;
        };
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        let first = state.waiting.is_empty();
        state.waiting.insert(ticket, Box::new(submitted));
        let party_max = usize::MAX;
        state.queue.arrive(Waiting { ticket, set, keys, party_max });
        let departure = state.depart(set);
        if first && !state.waiting.is_empty() {
            self.coalescer.waits.notify_one();
        }
        drop(state);
        self.send_off(departure);
    }

    fn send_off(self: &Arc<Self>, departures: impl IntoIterator<Item = Departure>) {
        for departure in departures {
            tokio::spawn(self.clone().travel(departure));
        }
    }

    /// A journey was decided, and its members have heard; its keys are held on.
    pub(super) fn decided(self: &Arc<Self>, journey: Journey) {
        let departures = {
            let mut state = self.coalescer.state();
            state.decided(journey);
            state.departures()
        };
        self.send_off(departures);
    }

    /// A journey has come to rest somewhere and blocks its road no longer.
    pub(super) fn pass(self: &Arc<Self>, journey: Journey) {
        let departures = {
            let mut state = self.coalescer.state();
            state.pass(journey);
            state.departures()
        };
        self.send_off(departures);
    }

    /// A journey is over: `ended` give up what they held, `back` go again, before everybody else, in
    /// parties as large as they say.
    pub(super) fn arrived(
        self: &Arc<Self>,
        journey: Journey,
        ended: Vec<Waiting>,
        back: Vec<Submitted>,
    ) {
        let departures = {
            let mut state = self.coalescer.state();
            state.pass(journey);
            for member in ended {
                state.queue.release(&member.keys);
            }
            let of = |mut submitted: Submitted| {
                let member = submitted.waiting.take().expect("it has travelled");
                state.waiting.insert(member.ticket, Box::new(submitted));
                member
            };
            let back: Vec<_> = back.into_iter().map(of).collect();
            state.queue.come_back(back);
            state.departures()
        };
        self.send_off(departures);
    }

    /// Those who have waited for too long, or all of them.
    fn give_up_waiting(&self, all: bool) -> Vec<Submitted> {
        let mut state = self.coalescer.state();
        let wait_max = state.rule.wait_max();
        let late = |submitted: &Submitted| all || submitted.started.elapsed() > wait_max;
        let late: Vec<Ticket> = state
            .waiting
            .iter()
            .filter(|(_, submitted)| late(submitted))
            .map(|(ticket, _)| *ticket)
            .collect();
        let leave = |ticket| {
            state.queue.leave(ticket).expect("in both or in none");
            *state.waiting.remove(&ticket).expect("just found")
        };
        late.into_iter().map(leave).collect()
    }

    async fn expire_waiting(self: &Arc<Self>) {
        let ended = |submitted: Submitted| {
            let detail = format!(
                "it waited {} ms for others that touch the same",
                submitted.started.elapsed().as_millis()
            );
            let reason = Reason::new(ReasonCode::PrepareTimeout, detail);
            (submitted, Ending::Aborted(reason, FailureClass::Technical))
        };
        self.conclude(self.give_up_waiting(false).into_iter().map(ended).collect()).await;
    }

    /// Nothing of those who wait has begun: their keys are free.
    fn turn_away_waiting(&self) {
        for mut submitted in self.give_up_waiting(true) {
            self.release(submitted.id());
            self.unfinished.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            submitted.reply(Err(SubmitError::ShuttingDown));
        }
    }
}

/// What a transaction touches everywhere; `None` if it travels alone.
fn keys(submitted: &Submitted) -> Option<Arc<[Key]>> {
    if submitted.branches.len() < 2 {
        return None;
    }
    let mut keys = Vec::with_capacity(submitted.branches.len());
    let declared = submitted.branches.iter().all(|branch| branch_keys(branch, &mut keys));
    declared.then(|| keys.into())
}

/// Adds what a branch touches; `false` if that is not declared.
fn branch_keys(branch: &Branch, keys: &mut Vec<Key>) -> bool {
    let Some(batches) = branch.participant.batches() else { return false };
    let from = keys.len();
    let declared = branch.operations.iter().all(|operation| batches.keys(operation, keys));
    for key in &mut keys[from..] {
        *key = key.at(&branch.identity);
    }
    declared
}

/// Ends those who wait for too long, as long as the coordinator lives.
pub(super) async fn expire(inner: Weak<Inner>) {
    loop {
        let Some(coordinator) = inner.upgrade() else { return };
        if coordinator.stop.get() {
            coordinator.turn_away_waiting();
        }
        coordinator.expire_waiting().await;
        let idle = coordinator.coalescer.state().waiting.is_empty();
        let waits = coordinator.coalescer.waits.clone();
        drop(coordinator);
        if !idle {
            tokio::time::sleep(EXPIRY_INTERVAL).await;
            continue;
        }
        // Woken from time to time to see whether the coordinator is gone.
        let _ = tokio::time::timeout(IDLE_INTERVAL, waits.notified()).await;
    }
}
