//! Which members of a batch touch the same.

use super::super::submitted::Submitted;
use super::queue::Ticket;
use crate::participants::batch::{Key, KeyMap, KeySet};

/// What a member that travels touches, everywhere.
pub(super) fn keys_of(submitted: &Submitted) -> &[Key] {
    &submitted.waiting.as_ref().expect("it travels").keys
}

/// Whether no key is there twice.
pub(super) fn are_distinct<'a>(mut keys: impl Iterator<Item = &'a Key>) -> bool {
    let mut seen = KeySet::default();
    keys.all(|key| seen.insert(*key))
}

/// Keys that more than one of them touches.
pub(super) fn shared_keys<'a>(members: impl Iterator<Item = &'a Submitted>) -> KeySet {
    let mut owner: KeyMap<Ticket> = KeyMap::default();
    let mut shared = KeySet::default();
    for member in members {
        let waiting = member.waiting.as_ref().expect("it travels");
        for key in waiting.keys.iter() {
            if *owner.entry(*key).or_insert(waiting.ticket) != waiting.ticket {
                shared.insert(*key);
            }
        }
    }
    shared
}
