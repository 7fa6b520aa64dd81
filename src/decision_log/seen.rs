//! Which transactions may have an answer: most submissions ask, and most have none.
//!
//! A blocked Bloom filter in memory, of a fixed size. It knows every id whose answer is recorded
//! while it runs, before that is durable, and learns the earlier ones from the store in the
//! background; until then it knows nothing and says *perhaps*. Among a million answers it is wrong
//! for one id in a thousand, which then costs a read; it is never wrong the other way. Ids that are
//! pruned stay in it until the next start.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::ANSWER_IDS;
use crate::store::{Error, Store};

/// Words of a block, which is a line of a processor's cache.
const BLOCK_WORDS: usize = 8;
/// 4 MiB in all: ten bits an answer for three million.
const BLOCKS: usize = 1 << 16;
/// Bits of an id, all in one block.
const BITS: u32 = 5;
/// Chooses one bit of a block.
const BIT_OF_BLOCK_BITS: u32 = 9;

/// The filter, and the thread that fills it.
pub(super) struct Seen {
    filter: Arc<Filter>,
    filling: Option<JoinHandle<()>>,
}

struct Filter {
    words: Box<[AtomicU64]>,
    /// Every id of the store is in it.
    complete: AtomicBool,
    stopped: AtomicBool,
    /// Of the hash of ids, which clients choose.
    seed: u64,
}

impl Seen {
    /// Starts to learn what is in the store.
    pub fn of(store: &Store) -> Self {
        let words = (0..BLOCKS * BLOCK_WORDS).map(|_| AtomicU64::new(0)).collect();
        let filter = Arc::new(Filter {
            words,
            complete: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            seed: RandomState::new().hash_one(()),
        });
        let (store, fills) = (store.clone(), filter.clone());
        let fill = move || {
            // What cannot be read here is found when somebody asks for it.
            let _incomplete = fills.fill(&store);
        };
        let filling = std::thread::Builder::new().name("presume-answer-ids".to_owned()).spawn(fill);
        Self { filter, filling: filling.ok() }
    }

    /// Notes a packed id, before its answer is queued.
    pub fn add(&self, id: &[u8]) {
        self.filter.add(id);
    }

    /// Whether a packed id may have an answer.
    pub fn perhaps(&self, id: &[u8]) -> bool {
        !self.filter.complete.load(Ordering::Acquire) || self.filter.has(id)
    }

    /// Waits until everything in the store is known.
    #[cfg(test)]
    pub fn is_complete(&self) -> bool {
        while self.filling.as_ref().is_some_and(|filling| !filling.is_finished()) {
            std::thread::yield_now();
        }
        self.filter.complete.load(Ordering::Acquire)
    }
}

impl Drop for Seen {
    /// Lets go of the store.
    fn drop(&mut self) {
        self.filter.stopped.store(true, Ordering::Relaxed);
        if let Some(filling) = self.filling.take() {
            let _panicked = filling.join();
        }
    }
}

impl Filter {
    fn fill(&self, store: &Store) -> Result<(), Error> {
        for entry in store.prefix(ANSWER_IDS, b"") {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.add(&entry?.0);
        }
        self.complete.store(true, Ordering::Release);
        Ok(())
    }

    fn add(&self, id: &[u8]) {
        for (word, bit) in self.bits(id) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn has(&self, id: &[u8]) -> bool {
        self.bits(id).all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn bits(&self, id: &[u8]) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let hash = xxh3_64_with_seed(id, self.seed);
        // The lowest bits choose the block, the ones above bits of it.
        let block = (hash as usize % BLOCKS) * BLOCK_WORDS;
        let words = &self.words[block..block + BLOCK_WORDS];
        (0..BITS).map(move |n| {
            let bit = hash >> (16 + n * BIT_OF_BLOCK_BITS);
            (&words[(bit >> 6) as usize % BLOCK_WORDS], 1 << (bit & 63))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        Filter {
            words: (0..BLOCKS * BLOCK_WORDS).map(|_| AtomicU64::new(0)).collect(),
            complete: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            seed: 7,
        }
    }

    #[test]
    fn what_was_added_is_there_and_little_else() {
        let filter = filter();
        let id = |n: u64| n.to_be_bytes();
        (0..1_000_000).for_each(|n| filter.add(&id(n)));
        assert!((0..1_000_000).all(|n| filter.has(&id(n))));
        let wrong = (1_000_000..1_100_000).filter(|n| filter.has(&id(*n))).count();
        assert!(wrong < 300, "{wrong} of 100,000");
    }
}
