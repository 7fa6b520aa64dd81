//! A map bounded by CLOCK eviction, keyed by the 64-bit hash of an id.
//!
//! The hash is XXH3 with its fixed default seed, so that state is the same in every process. Two
//! ids with the same hash share one entry: among a million ids that happens with a probability of
//! 3e-8, and it blurs two histories without endangering any outcome. XXH3 is not keyed: whoever
//! may choose ids freely can make two of them collide.
//!
//! Only writing marks an entry as used, so what is evicted depends on events alone and never on
//! what was read.

use hashbrown::HashTable;

/// The 64-bit key of an id.
#[inline]
pub(super) fn key_of(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}

#[derive(Debug, Clone)]
struct Slot<V> {
    key: u64,
    used: bool,
    value: V,
}

/// Slots of one part: a power of two.
const PART: usize = 1_024;

/// Slots in parts that are never moved: growing copies nothing, however many there are, so that
/// nobody waits for it.
#[derive(Debug, Clone)]
struct Slots<V>(Vec<Vec<Slot<V>>>);

impl<V> Slots<V> {
    fn len(&self) -> usize {
        let last = self.0.last().map_or(0, Vec::len);
        self.0.len().saturating_sub(1) * PART + last
    }

    #[inline]
    fn at(&self, place: usize) -> &Slot<V> {
        &self.0[place / PART][place % PART]
    }

    #[inline]
    fn at_mut(&mut self, place: usize) -> &mut Slot<V> {
        &mut self.0[place / PART][place % PART]
    }

    fn push(&mut self, slot: Slot<V>) {
        match self.0.last_mut() {
            Some(part) if part.len() < PART => part.push(slot),
            _ => {
                // What holds little stays small: the parts of a few participants, say.
                let mut part = Vec::with_capacity(if self.0.is_empty() { 0 } else { PART });
                part.push(slot);
                self.0.push(part);
            }
        }
    }
}

/// At most `max` entries; a new one beyond that takes the place of one not used lately.
#[derive(Debug, Clone)]
pub(super) struct Bounded<V> {
    max: usize,
    /// Where in `slots` a key is; a key is a hash already. Places alone, since a small index stays
    /// in the processor's cache.
    places: HashTable<u32>,
    slots: Slots<V>,
    hand: usize,
    evicted: u64,
}

impl<V> Bounded<V> {
    /// Empty; `max` lies between 1 and `u32::MAX`, as checked by the options.
    pub(super) fn new(max: usize) -> Self {
        assert!(max >= 1 && u32::try_from(max).is_ok(), "{max} entries were checked");
        Self { max, places: HashTable::new(), slots: Slots(Vec::new()), hand: 0, evicted: 0 }
    }

    /// Reads an entry without marking it.
    #[inline]
    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.place_of(key).map(|place| &self.slots.at(place).value)
    }

    /// The entry to write to, made by `fresh` if there is none.
    #[inline]
    pub(super) fn entry(&mut self, key: u64, fresh: impl FnOnce() -> V) -> &mut V {
        let place = match self.place_of(key) {
            Some(place) => place,
            None => self.insert(key, fresh()),
        };
        let slot = self.slots.at_mut(place);
        slot.used = true;
        &mut slot.value
    }

    #[inline]
    fn place_of(&self, key: u64) -> Option<usize> {
        let place = self.places.find(key, |&place| self.slots.at(place as usize).key == key);
        place.map(|&place| place as usize)
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
            let given_up =
                self.places.find_entry(self.slots.at(place).key, |&at| at as usize == place);
            given_up.expect("every slot has its place").remove();
            *self.slots.at_mut(place) = slot;
            self.evicted += 1;
            place
        };
        let slots = &self.slots;
        self.places.insert_unique(key, place as u32, |&place| slots.at(place as usize).key);
        place
    }

    /// The first place not used since the hand passed; two rounds at most.
    fn victim(&mut self) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if !std::mem::replace(&mut self.slots.at_mut(place).used, false) {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_over_many_parts_and_the_oldest_give_way() {
        let max = 2 * PART + 7;
        let mut map = Bounded::new(max);
        for key in 0..max as u64 {
            *map.entry(key, || 0) = key;
        }
        assert_eq!((map.len(), map.evicted()), (max, 0));
        assert!((0..max as u64).all(|key| map.get(key) == Some(&key)));
        for key in 0..10 {
            map.entry(1_000_000 + key, || key);
        }
        assert_eq!((map.len(), map.evicted()), (max, 10));
        assert_eq!((map.get(9), map.get(10), map.get(1_000_009)), (None, Some(&10), Some(&9)));
    }
}
