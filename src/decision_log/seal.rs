//! Moving outcome rows out of the log: a range is announced, written elsewhere, then dropped.
//!
//! At most one range is open. It stays open over a crash, so that whoever writes it elsewhere does
//! the very same range again. Once the note of what became of it is durable its rows are gone for
//! every reader; they are deleted after that, a few at a time, so that no commit waits for it.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::{DecisionLog, Error, OUTCOMES, OutcomeRow, SEALS, decode, encode, read, rows};
use crate::store::{Batch, Store};

const OPEN_KEY: &[u8] = b"open";
const SEALED_PREFIX: &[u8] = b"sealed/";
/// Values deleted in one batch.
const DELETE_COUNT_MAX: usize = 1_000;

/// Consecutive outcome rows, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealRange {
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
}

/// One file of a sealed range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    /// Its path, relative to the outcome folder.
    pub path: String,
    /// How many rows it holds.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
}

/// What became of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRange {
    /// The range.
    #[serde(flatten)]
    pub range: SealRange,
    /// Its files, one a day of submission.
    pub files: Vec<SealedFile>,
}

impl DecisionLog {
    /// Unsealed rows from a sequence on, in sequence order.
    pub fn outcome_rows(
        &self,
        from: u64,
        count_max: usize,
    ) -> Result<Vec<(u64, OutcomeRow)>, Error> {
        let store = self.store();
        let from = from.max(self.sealed_to() + 1);
        let first = self.value_of(from)?.map_or(from, |(first, _)| first);
        let mut found = Vec::new();
        for entry in store.from(OUTCOMES, &first.to_be_bytes()) {
            if found.len() >= count_max {
                break;
            }
            let (key, value) = entry?;
            let first = sequence_of(store, &key)?;
            let rows = rows::decode(&value);
            let rows = rows.map_err(|error| store.record_error(OUTCOMES, &key, error))?;
            let numbered = (first..).zip(rows).filter(|(sequence, _)| *sequence >= from);
            found.extend(numbered.take(count_max - found.len()));
        }
        Ok(found)
    }

    /// Whether the outcome row of this sequence is durable and unsealed.
    pub fn has_outcome(&self, sequence: u64) -> Result<bool, Error> {
        Ok(sequence > self.sealed_to() && self.value_of(sequence)?.is_some())
    }

    /// The value that holds the row of a sequence: its first sequence, and how many rows it has.
    fn value_of(&self, sequence: u64) -> Result<Option<(u64, u64)>, Error> {
        let store = self.store();
        let lowest = sequence.saturating_sub(rows::RUN_MAX as u64 - 1);
        let (low, high) = (lowest.to_be_bytes(), sequence.to_be_bytes());
        let Some((key, value)) = store.last_within(OUTCOMES, &low, &high)? else {
            return Ok(None);
        };
        let first = sequence_of(store, &key)?;
        let count = rows::count(&value);
        let count = count.map_err(|error| store.record_error(OUTCOMES, &key, error))?;
        Ok((sequence - first < count).then_some((first, count)))
    }

    /// The last sequence that was sealed; 0 if none was.
    pub fn sealed_to(&self) -> u64 {
        self.0.sealed_to.load(Ordering::Acquire)
    }

    /// The range that was being sealed when the log was last open.
    pub fn seal_in_progress(&self) -> Result<Option<SealRange>, Error> {
        read(self.store(), SEALS, OPEN_KEY)
    }

    /// Announces, durably, that a range will be written elsewhere. The same range may be opened
    /// again, another one not before it is closed.
    pub async fn open_seal(&self, range: SealRange) -> Result<(), Error> {
        if let Some(open) = self.seal_in_progress()?
            && open != range
        {
            return Err(Error::SealOpen { first: open.first, last: open.last });
        }
        let mut batch = Batch::new();
        batch.put(SEALS, OPEN_KEY.to_vec(), encode(&range));
        self.write(batch).await
    }

    /// Notes, durably, what became of a range: from now on its rows are sealed.
    pub async fn close_seal(&self, sealed: &SealedRange) -> Result<(), Error> {
        let mut batch = Batch::new();
        let key = [SEALED_PREFIX, &sealed.range.last.to_be_bytes()].concat();
        batch.put(SEALS, key, encode(sealed));
        batch.delete(SEALS, OPEN_KEY.to_vec());
        self.write(batch).await?;
        self.0.sealed_to.fetch_max(sealed.range.last, Ordering::AcqRel);
        Ok(())
    }

    /// Deletes the rows of sealed ranges and gives their number. Rows that share a value with an
    /// unsealed one stay with it; no reader sees them.
    pub async fn drop_sealed_rows(&self) -> Result<u64, Error> {
        let store = self.store();
        let (mut batch, mut dropped) = (Batch::new(), 0);
        for entry in store.prefix(OUTCOMES, b"") {
            let (key, value) = entry?;
            let first = sequence_of(store, &key)?;
            if first > self.sealed_to() {
                break;
            }
            let count = rows::count(&value);
            let count = count.map_err(|error| store.record_error(OUTCOMES, &key, error))?;
            if first.saturating_add(count - 1) > self.sealed_to() {
                break;
            }
            batch.delete(OUTCOMES, key);
            dropped += count;
            if batch.len() >= DELETE_COUNT_MAX {
                store.write_lazy(std::mem::take(&mut batch)).await?;
            }
        }
        store.write_lazy(batch).await?;
        Ok(dropped)
    }

    /// Every sealed range, in order.
    pub fn sealed(&self) -> Result<Vec<SealedRange>, Error> {
        let entries = self.store().prefix(SEALS, SEALED_PREFIX);
        entries
            .map(|entry| {
                let (key, value) = entry?;
                decode(self.store(), SEALS, &key, &value)
            })
            .collect()
    }
}

pub(super) fn last_sealed(store: &Store) -> Result<u64, Error> {
    let mut last = 0;
    for entry in store.prefix(SEALS, SEALED_PREFIX) {
        let (key, value) = entry?;
        let sealed: SealedRange = decode(store, SEALS, &key, &value)?;
        last = last.max(sealed.range.last);
    }
    Ok(last)
}

fn sequence_of(store: &Store, key: &[u8]) -> Result<u64, Error> {
    let sequence = <[u8; 8]>::try_from(key);
    let sequence = sequence.map_err(|_| store.record_error(OUTCOMES, key, "not a sequence"))?;
    Ok(u64::from_be_bytes(sequence))
}
