//! Who waits, who travels, and which keys they have: pure.
//!
//! # Order
//! One queue over all participant sets, first come first served. A member may travel when none of
//! its keys is held by another journey, nor wanted by a member that came before it and still waits:
//! so on each key members go in the order in which they came, and the oldest member of all waits
//! for nobody but those who travel. Nobody overtakes on a key, whatever set it is of; on different
//! keys everybody may.
//!
//! Members of one journey may share keys: participants carry them out in their order. Who came back
//! to travel in smaller parties travels with none but those who came back to the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::participants::batch::{Key, KeyMap, KeySet};
use crate::policy::coalescing::Room;

/// Names a member, from its arrival to its end: 1, 2, ….
pub(super) type Ticket = u64;
/// Names a journey, of one batch or of one member alone.
pub(in crate::coordinator) type Journey = u64;

/// A member that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Waiting {
    pub(in crate::coordinator) ticket: Ticket,
    /// Its participant set.
    pub(super) set: usize,
    /// What it touches, at every participant.
    pub(super) keys: Arc<[Key]>,
    /// The most members of a batch that it is part of: with 1 it travels alone.
    pub(super) party_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    journey: Journey,
    members: usize,
}

/// Those who wait, in order, and the keys of those who travel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    held: KeyMap<Held>,
    /// How many wait of each set.
    counts: HashMap<usize, usize>,
}

impl Queue {
    /// How many of a set wait.
    pub(super) fn count(&self, set: usize) -> usize {
        self.counts.get(&set).copied().unwrap_or_default()
    }

    /// Takes in a member at the end.
    pub(super) fn arrive(&mut self, member: Waiting) {
        *self.counts.entry(member.set).or_default() += 1;
        self.waiting.push_back(member);
    }

    /// Takes back members that have travelled in vain, before everybody else and in their order.
    /// Their keys are free again.
    pub(super) fn come_back(&mut self, members: Vec<Waiting>) {
        for member in members.into_iter().rev() {
            self.release(&member.keys);
            *self.counts.entry(member.set).or_default() += 1;
            let place = self.waiting.partition_point(|other| other.ticket < member.ticket);
            self.waiting.insert(place, member);
        }
    }

    /// Takes out those who travel next, in order; they hold their keys from now on. Empty if nobody
    /// of the set may go.
    pub(super) fn depart(&mut self, set: usize, journey: Journey, room: Room) -> Vec<Waiting> {
        let mut taken: Vec<Waiting> = Vec::new();
        let mut wanted = KeySet::default();
        let (mut at, mut members_max) = (0, room.members_max);
        while at < self.waiting.len() && taken.len() < members_max {
            let member = &self.waiting[at];
            let free = |key: &Key| {
                let shared = self.held.get(key);
                let shared = shared
                    .is_none_or(|held| held.journey == journey && held.members < room.chain_max);
                shared && !wanted.contains(key)
            };
            let alike = taken.first().is_none_or(|first| first.party_max == member.party_max);
            let mine = member.set == set && alike;
            if !mine || !member.keys.iter().all(free) {
                wanted.extend(member.keys.iter().copied());
                at += 1;
                continue;
            }
            for key in member.keys.iter() {
                let held = self.held.entry(*key).or_insert(Held { journey, members: 0 });
                held.members += 1;
            }
            let member = self.waiting.remove(at).expect("within the queue");
            members_max = members_max.min(member.party_max);
            taken.push(member);
        }
        if let Some(count) = self.counts.get_mut(&set) {
            *count -= taken.len();
        }
        taken
    }

    /// Gives up what a departed member held: it has ended.
    pub(super) fn release(&mut self, keys: &[Key]) {
        for key in keys {
            let Some(held) = self.held.get_mut(key) else { continue };
            held.members -= 1;
            if held.members == 0 {
                self.held.remove(key);
            }
        }
    }

    /// Takes out a member that waits no longer; `None` if it has left.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        let place = self.waiting.partition_point(|other| other.ticket < ticket);
        self.waiting.get(place).filter(|member| member.ticket == ticket)?;
        let member = self.waiting.remove(place)?;
        if let Some(count) = self.counts.get_mut(&member.set) {
            *count -= 1;
        }
        Some(member)
    }

    /// The oldest of those who wait.
    #[cfg(test)]
    fn oldest(&self) -> Option<Ticket> {
        self.waiting.front().map(|member| member.ticket)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room { members_max: 4, chain_max: 2 };

    fn member(ticket: Ticket, set: usize, keys: &[&str]) -> Waiting {
        let keys = keys.iter().map(|name| Key::new(name)).collect();
        Waiting { ticket, set, keys, party_max: usize::MAX }
    }

    fn tickets(members: &[Waiting]) -> Vec<Ticket> {
        members.iter().map(|member| member.ticket).collect()
    }

    #[test]
    fn nobody_overtakes_on_a_key_and_everybody_may_on_others() {
        let mut queue = Queue::default();
        for (ticket, keys) in [(1, "x"), (2, "x"), (3, "x"), (4, "y"), (5, "z")] {
            queue.arrive(member(ticket, 0, &[keys]));
        }
        let first = queue.depart(0, 1, ROOM);
        assert_eq!(tickets(&first), [1, 2, 4, 5], "two may share a key, the third waits");
        queue.arrive(member(6, 1, &["x", "w"]));
        queue.arrive(member(7, 1, &["w"]));
        assert!(queue.depart(1, 2, ROOM).is_empty(), "6 waits for 3, and 7 for 6");
        queue.release(&first[0].keys);
        assert!(queue.depart(0, 3, ROOM).is_empty(), "2 has the key still");
        queue.release(&first[1].keys);
        assert_eq!(tickets(&queue.depart(0, 3, ROOM)), [3]);
        assert_eq!(queue.count(1), 2);
    }

    #[test]
    fn who_came_back_goes_first_and_who_goes_alone_goes_alone() {
        let mut queue = Queue::default();
        for ticket in 1..=3 {
            queue.arrive(member(ticket, 0, &["x"]));
        }
        let mut first = queue.depart(0, 1, ROOM);
        assert_eq!(tickets(&first), [1, 2]);
        first[0].party_max = 1;
        queue.come_back(first);
        assert_eq!(tickets(&queue.depart(0, 2, ROOM)), [1]);
        assert!(queue.depart(0, 3, ROOM).is_empty());
        queue.release(&[Key::new("x")]);
        assert_eq!(tickets(&queue.depart(0, 4, ROOM)), [2, 3]);
        assert_eq!(queue.leave(3), None);
    }

    #[test]
    fn who_came_back_in_parts_mixes_with_nobody_and_keeps_its_order() {
        let mut queue = Queue::default();
        for (ticket, keys) in [(1, "x"), (2, "y"), (3, "x"), (4, "z")] {
            queue.arrive(member(ticket, 0, &[keys]));
        }
        let mut first = queue.depart(0, 1, ROOM);
        assert_eq!(tickets(&first), [1, 2, 3, 4]);
        for member in &mut first {
            member.party_max = 2;
        }
        queue.come_back(first);
        queue.arrive(member(5, 0, &["w"]));
        let one = queue.depart(0, 2, ROOM);
        assert_eq!(tickets(&one), [1, 2]);
        assert_eq!(tickets(&queue.depart(0, 3, ROOM)), [4], "3 waits for 1, and 5 is of others");
        assert_eq!(tickets(&queue.depart(0, 4, ROOM)), [5]);
        queue.release(&one[0].keys);
        assert_eq!(tickets(&queue.depart(0, 5, ROOM)), [3]);
    }

    proptest! {
        /// Whatever arrives, ends and comes back: on each key the order of arrival is kept, no key
        /// is held by two journeys, and the oldest goes when nobody travels.
        #[test]
        fn keys_are_served_in_order_and_nobody_starves(
            arrivals in proptest::collection::vec((0_usize..2, proptest::collection::vec(0_u8..5, 1..3)), 1..60),
            choices in proptest::collection::vec(0_u8..8, 1..200),
        ) {
            let mut queue = Queue::default();
            let mut arrivals = arrivals.into_iter().enumerate();
            let mut travelling: Vec<Vec<Waiting>> = Vec::new();
            let (mut journey, mut last) = (0, HashMap::<Key, Ticket>::new());
            let mut ended = 0;
            let mut arrived = 0;
            for choice in choices {
                match choice {
                    0..=2 => if let Some((number, (set, keys))) = arrivals.next() {
                        let mut names: Vec<_> = keys.iter().map(|k| format!("k{k}")).collect();
                        names.dedup();
                        let names: Vec<_> = names.iter().map(String::as_str).collect();
                        queue.arrive(member(number as u64 + 1, set, &names));
                        arrived += 1;
                    },
                    3..=5 => {
                        journey += 1;
                        let gone = queue.depart(usize::from(choice % 2), journey, ROOM);
                        for member in &gone {
                            for key in member.keys.iter() {
                                prop_assert!(last.get(key).is_none_or(|l| *l < member.ticket));
                                prop_assert!(travelling.iter().flatten()
                                    .all(|other| !other.keys.contains(key)));
                                last.insert(*key, member.ticket);
                            }
                        }
                        if !gone.is_empty() { travelling.push(gone); }
                    }
                    6 => if let Some(gone) = travelling.pop() {
                        ended += gone.len();
                        for member in gone { queue.release(&member.keys); }
                    },
                    _ => if let Some(mut gone) = travelling.pop() {
                        let party_max = gone.len().div_ceil(2);
                        for member in &mut gone { member.party_max = party_max; }
                        for key in gone.iter().flat_map(|member| member.keys.iter()) {
                            last.remove(key);
                        }
                        queue.come_back(gone);
                    },
                }
            }
            for member in travelling.drain(..).flatten() {
                ended += 1;
                queue.release(&member.keys);
            }
            while let Some(oldest) = queue.oldest() {
                journey += 1;
                let gone: Vec<_> = (0..2).flat_map(|set| queue.depart(set, journey + set as u64 * 1_000, ROOM)).collect();
                prop_assert!(gone.iter().any(|member| member.ticket == oldest), "{oldest} starves");
                ended += gone.len();
                for member in gone { queue.release(&member.keys); }
            }
            prop_assert_eq!(ended, arrived);
            prop_assert!(queue.held.is_empty());
        }
    }
}
