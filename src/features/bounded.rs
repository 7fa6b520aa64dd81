//! A map bounded by CLOCK eviction, keyed by the 64-bit hash of an id.
//!
//! The hash is XXH3 with its fixed default seed, so that state is the same in every process. Two
//! ids with the same hash share one entry: among a million ids that happens with a probability of
//! 3e-8, and it blurs two histories without endangering any outcome. XXH3 is not keyed: whoever
//! may choose ids freely can make two of them collide.
//!
//! Only writing marks an entry as used, so what is evicted depends on events alone and never on
//! what was read.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The 64-bit key of an id.
pub(super) fn key_of(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}

/// Takes the key as it is: it is a hash already.
#[derive(Debug, Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
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

#[derive(Debug, Clone)]
struct Slot<V> {
    key: u64,
    used: bool,
    value: V,
}

/// At most `max` entries; a new one beyond that takes the place of one not used lately.
#[derive(Debug, Clone)]
pub(super) struct Bounded<V> {
    max: usize,
    places: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    slots: Vec<Slot<V>>,
    hand: usize,
    evicted: u64,
}

impl<V> Bounded<V> {
    /// Empty; `max` lies between 1 and `u32::MAX`, as checked by the options.
    pub(super) fn new(max: usize) -> Self {
        assert!(max >= 1 && u32::try_from(max).is_ok(), "{max} entries were checked");
        Self { max, places: HashMap::default(), slots: Vec::new(), hand: 0, evicted: 0 }
    }

    /// Reads an entry without marking it.
    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.places.get(&key).map(|&place| &self.slots[place as usize].value)
    }

    /// The entry to write to, made by `fresh` if there is none.
    pub(super) fn entry(&mut self, key: u64, fresh: impl FnOnce() -> V) -> &mut V {
        let place = match self.places.get(&key) {
            Some(&place) => place as usize,
            None => self.insert(key, fresh()),
        };
        let slot = &mut self.slots[place];
        slot.used = true;
        &mut slot.value
    }

    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Entries given up so far.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes an entry takes when the map is full, without the index.
    #[cfg(test)]
    pub(super) const fn bytes_per_entry() -> usize {
        size_of::<Slot<V>>()
    }

    fn insert(&mut self, key: u64, value: V) -> usize {
        let slot = Slot { key, used: true, value };
        let place = if self.slots.len() < self.max {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let place = self.victim();
            self.places.remove(&self.slots[place].key);
            self.slots[place] = slot;
            self.evicted += 1;
            place
        };
        self.places.insert(key, place as u32);
        place
    }

    /// The first place not used since the hand passed; two rounds at most.
    fn victim(&mut self) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if !std::mem::replace(&mut self.slots[place].used, false) {
                return place;
            }
        }
    }
}
