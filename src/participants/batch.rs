//! Batches: the work of many transactions as one branch of a participant.
//!
//! A batch equals some serial order of its committed members; at every participant that order is
//! the members' order in [`Batch::members`]. What a participant promises:
//! - Members are carried out as if one after the other, each seeing the effects of those before it.
//! - A member that declines has left no trace here, and everybody else's work stands.
//! - An error that cannot be pinned on a member's own rules fails the batch as a whole, and is
//!   nobody's decline.
//! - With [`Then::Prepare`] a yes is durable and promises the work of *all* members: when somebody
//!   declined, the branch is taken back before that is answered.
//!
//! It decides nothing about transactions: who is dropped, and who is tried again, the coordinator
//! says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::BoxFuture;
use crate::txn::{Declined, Gid, Operation, Vote};

/// What an operation touches at its participant: members that share a key are kept in order.
///
/// A hash of the declared name. Two names with one hash wait for each other in vain, once in 2⁶⁴
/// pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

/// What is known of keys.
pub type KeyMap<T> = HashMap<Key, T, BuildHasherDefault<Hashed>>;
/// Some keys.
pub type KeySet = HashSet<Key, BuildHasherDefault<Hashed>>;

/// Leaves a key as it is: it is a hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl Key {
    /// The key of a declared name, such as `account/a1`.
    pub fn new(name: &str) -> Self {
        Self::of(&name)
    }

    /// The same key as it is known beyond its participant.
    #[must_use]
    pub fn at(self, participant: &str) -> Self {
        Self::of(&(participant, self.0))
    }

    fn of(name: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A transaction's part in a batch at one participant.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its place in the batch, the same at every participant; answers name it by this.
    pub place: usize,
    /// What it does here, one operation at least.
    pub operations: Arc<[Operation]>,
}

/// How a batch's statements are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As few statements as the operations allow.
    Together,
    /// One an operation: an error then names its member.
    OneByOne,
}

/// What becomes of the branch when the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is prepared at once.
    Prepare,
    /// It is kept open, until it is prepared or aborted: nothing is promised meanwhile.
    Hold,
}

/// One branch of many transactions.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The branch.
    pub gid: Gid,
    /// Its members, in the order in which they are carried out.
    pub members: Arc<[Member]>,
    /// How their statements are sent.
    pub style: Style,
    /// Whether two of its operations may touch the same: if not, their order does not matter.
    pub keys_shared: bool,
    /// The longest that it may wait for a lock that somebody else has.
    pub lock_wait_max: Duration,
    /// What becomes of it.
    pub then: Then,
}

/// What a batch's work came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worked {
    /// Everybody was carried out, or declined.
    Done {
        /// Places of those who declined, in order, and why.
        declined: Vec<(usize, Declined)>,
        /// With [`Then::Prepare`], and if nobody declined: the vote. A no or an unknown vote is
        /// the batch's, and nobody's decline.
        vote: Option<Vote>,
    },
    /// It failed as a whole; certainly nothing of it is left.
    Failed {
        /// Why.
        why: Declined,
        /// The place of the member whose statement failed, if that is known.
        culprit: Option<usize>,
    },
    /// An answer was lost: perhaps prepared, perhaps not.
    Unknown(String),
}

/// Who declined in a batch, as its statements are judged.
///
/// A member of several operations, or one that changed something all the same, leaves a trace when
/// it declines, and who comes after it may have declined, or failed, because of that. So then the
/// first of those in the members' order answers for the batch, and nobody else: whoever stands
/// before it was carried out, or declined and left nothing.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// By index in the batch.
    clean: BTreeMap<usize, Declined>,
    traced: BTreeMap<usize, Declined>,
}

impl Verdict {
    /// Notes what an operation of the member at `index` came to, which met so many rows.
    pub(super) fn note(
        &mut self,
        members: &[Member],
        index: usize,
        judged: Result<(), Declined>,
        rows: u64,
    ) {
        let Err(why) = judged else { return };
        let traces = rows > 0 || members[index].operations.len() > 1;
        let declines = if traces { &mut self.traced } else { &mut self.clean };
        declines.entry(index).or_insert(why);
    }

    /// Places of those who declined, in order; `Err` is what the batch came to.
    pub(super) fn declined(self, batch: &Batch) -> Result<Vec<(usize, Declined)>, Worked> {
        let place = |index: usize| batch.members[index].place;
        match self.traced.into_iter().next() {
            Some((index, why)) => Err(Worked::Failed { why, culprit: Some(place(index)) }),
            None => Ok(self.clean.into_iter().map(|(index, why)| (place(index), why)).collect()),
        }
    }

    /// What the batch came to when a statement failed, of the member at `index` or of several:
    /// with its culprit only if everything of those before was judged.
    pub(super) fn failed(self, batch: &Batch, index: Option<usize>, why: Declined) -> Worked {
        if batch.style == Style::Together {
            return Worked::Failed { why, culprit: None };
        }
        match self.declined(batch) {
            Err(worked) => worked,
            Ok(_) => Worked::Failed { why, culprit: index.map(|index| batch.members[index].place) },
        }
    }
}

/// A participant that takes batches. `Participant::abort` ends what it holds, too.
pub trait Batches: Send + Sync {
    /// Adds what an operation touches to `keys`; `false` if that is not declared: its transaction
    /// travels alone. The operation was validated.
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool;

    /// The most members that it takes in a batch, as far as is known now; one at least.
    fn members_max(&self) -> usize {
        usize::MAX
    }

    /// Carries a batch out.
    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked>;

    /// Whether a commit's effect is there for whoever comes next as soon as its call was made, long
    /// before that is durable.
    fn applies_at_once(&self) -> bool {
        false
    }

    /// Prepares what is held. `Yes` is durable.
    fn prepare_held(&self, gid: Gid) -> BoxFuture<'_, Vote>;
}
