//! What a simulated participant keeps: accounts, prepared branches, markers, epochs.
//!
//! A change is first decided on memory, then queued for the disk; both apply it through the same
//! function, so that after a crash memory is what the disk kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::disk::Content;
use super::world::World;
use crate::mutation::{Mutation, on};
use crate::participants::EndedBelow;
use crate::txn::{BranchIndex, Epoch, Gid, LogId, PhysicalId};

/// What every account holds at the start, in minor units.
pub(super) const OPENING: i64 = 300;
/// Accounts of each participant.
pub(super) const ACCOUNTS: u32 = 3;

/// How long markers of the running epoch are kept, so that a late or repeated message still finds
/// them: longer than any message can take.
const MARKER_AGE: Duration = Duration::from_secs(30);

/// A gid that can be sorted.
pub(super) type Key = (Uuid, u64, u64, u16);

pub(super) fn key(gid: Gid) -> Key {
    (gid.log.0, gid.epoch.0, gid.physical.0, gid.branch.0)
}

pub(super) fn gid((log, epoch, physical, branch): Key) -> Gid {
    Gid {
        log: LogId(log),
        epoch: Epoch(epoch),
        physical: PhysicalId(physical),
        branch: BranchIndex(branch),
    }
}

/// What a branch asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// Key and body of each request, as the client's own note on the transfer: several in a batch.
    pub(super) notes: Vec<Arc<str>>,
    pub(super) postings: Vec<(u32, i64)>,
    /// Balances that must be there, and are only looked at.
    pub(super) checks: Vec<(u32, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Committed,
    Aborted,
}

/// A participant's state, in memory or on its disk.
#[derive(Debug, Clone)]
pub(super) struct Books {
    /// By log: the highest epoch, and the process that claimed it.
    pub(super) epochs: BTreeMap<Uuid, (u64, u64)>,
    pub(super) balances: Vec<i64>,
    pub(super) prepared: BTreeMap<Key, Work>,
    /// Batches that are held open: of the memory only.
    pub(super) held: BTreeMap<Key, Work>,
    pub(super) markers: BTreeMap<Key, (Ended, Duration)>,
    /// The application's own record of every transfer: how often each note was booked.
    pub(super) booked: BTreeMap<Arc<str>, u32>,
}

/// A change, atomic.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Claimed {
        log: LogId,
        epoch: Epoch,
        process: u64,
    },
    Prepared(Key, Work),
    Committed(Key, Duration),
    /// Executed and committed at once.
    Booked(Key, Work, Duration),
    /// Rolled back, or never to come.
    Buried(Key, Duration),
    Pruned(EndedBelow, Duration),
}

impl Default for Books {
    fn default() -> Self {
        Self {
            epochs: BTreeMap::new(),
            balances: vec![OPENING; ACCOUNTS as usize],
            prepared: BTreeMap::new(),
            held: BTreeMap::new(),
            markers: BTreeMap::new(),
            booked: BTreeMap::new(),
        }
    }
}

impl Work {
    pub(super) fn nothing() -> Self {
        Self { notes: Vec::new(), postings: Vec::new(), checks: Vec::new() }
    }

    /// Takes in what a further member of a batch changes.
    pub(super) fn add(&mut self, work: &Self) {
        if !work.postings.is_empty() {
            self.notes.extend(work.notes.iter().cloned());
            self.postings.extend(work.postings.iter().copied());
        }
    }

    /// Whose it is, for a trace.
    pub(super) fn note(&self) -> String {
        self.notes.join(", ")
    }
}

impl Content for Books {
    type Batch = Change;

    fn apply(&mut self, change: &Change, _world: &World) {
        self.change(change);
    }
}

impl Books {
    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Claimed { log, epoch, process } => {
                self.epochs.insert(log.0, (epoch.0, *process));
                // The sessions of older epochs end.
                self.held.retain(|key, _| key.0 != log.0);
            }
            Change::Prepared(key, work) => {
                self.prepared.insert(*key, work.clone());
            }
            Change::Committed(key, at) => {
                if let Some(work) = self.prepared.remove(key) {
                    self.book(&work);
                    self.mark(*key, *at);
                }
            }
            Change::Booked(key, work, at) => {
                self.book(work);
                self.mark(*key, *at);
            }
            Change::Buried(key, at) => {
                self.prepared.remove(key);
                self.markers.insert(*key, (Ended::Aborted, *at));
            }
            Change::Pruned(ended, now) => self.prune(*ended, *now),
        }
    }

    fn book(&mut self, work: &Work) {
        for (account, amount) in &work.postings {
            self.balances[*account as usize] += amount;
        }
        for note in &work.notes {
            *self.booked.entry(note.clone()).or_default() += 1;
        }
    }

    fn mark(&mut self, key: Key, at: Duration) {
        if !on(Mutation::CommitLeavesNoMarker) {
            self.markers.insert(key, (Ended::Committed, at));
        }
    }

    /// Older epochs are fenced and need no marker once they are settled; in the running one a
    /// message may still be on its way.
    fn prune(&mut self, ended: EndedBelow, now: Duration) {
        self.markers.retain(|(log, epoch, physical, _), (_, at)| {
            let old = now.saturating_sub(*at) > MARKER_AGE;
            let below = *epoch < ended.epoch.0
                || (*epoch == ended.epoch.0 && *physical < ended.physical.0 && old);
            *log != ended.log.0 || !below
        });
    }

    /// What an account has that no prepared debit holds; prepared credits do not count yet.
    pub(super) fn available(&self, account: u32) -> i64 {
        let open = self.prepared.values().chain(self.held.values());
        let postings = open.flat_map(|work| &work.postings);
        let held = postings.filter(|(of, amount)| *of == account && *amount < 0);
        self.balances[account as usize] + held.map(|(_, amount)| amount).sum::<i64>()
    }

    /// Why the work cannot be done, if so, after what `earlier` members of its batch did.
    pub(super) fn refusal(&self, work: &Work, earlier: &Work) -> Option<String> {
        let debits = work.postings.iter().filter(|(_, amount)| *amount < 0);
        let mut needed: BTreeMap<u32, i64> = BTreeMap::new();
        for (account, amount) in debits {
            *needed.entry(*account).or_default() -= amount;
        }
        let needed = needed.into_iter().filter(|_| !on(Mutation::DebitNotGuarded));
        let checked = work.checks.iter().copied();
        let available = |account: u32| {
            let earlier = earlier.postings.iter().filter(|(of, _)| *of == account);
            self.available(account) + earlier.map(|(_, amount)| amount).sum::<i64>()
        };
        let short = needed.chain(checked).find(|(account, sum)| available(*account) < *sum)?;
        Some(format!("account {} has not {} available", short.0, short.1))
    }
}
