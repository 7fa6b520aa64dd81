//! Moving outcome rows out of the log: a range is announced, written elsewhere, then dropped.
//!
//! At most one range is open. It stays open over a crash, so that whoever writes it elsewhere does
//! the very same range again; the rows go in the batch that notes what became of them.

use serde::{Deserialize, Serialize};

use super::{DecisionLog, Error, OUTCOMES, OutcomeRow, SEALS, decode, encode, read};
use crate::store::Batch;

const OPEN_KEY: &[u8] = b"open";
const SEALED_PREFIX: &[u8] = b"sealed/";

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
        let entries = store.from(OUTCOMES, &from.to_be_bytes()).take(count_max);
        entries
            .map(|entry| {
                let (key, value) = entry?;
                let sequence = <[u8; 8]>::try_from(key.as_slice());
                let sequence =
                    sequence.map_err(|_| store.record_error(OUTCOMES, &key, "not a sequence"))?;
                let row = decode(store, OUTCOMES, &key, &value)?;
                Ok((u64::from_be_bytes(sequence), row))
            })
            .collect()
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

    /// Drops the rows of a range and notes its files, in one durable batch.
    pub async fn close_seal(&self, sealed: &SealedRange) -> Result<(), Error> {
        let mut batch = Batch::new();
        for sequence in sealed.range.first..=sealed.range.last {
            batch.delete(OUTCOMES, sequence.to_be_bytes().to_vec());
        }
        let key = [SEALED_PREFIX, &sealed.range.last.to_be_bytes()].concat();
        batch.put(SEALS, key, encode(sealed));
        batch.delete(SEALS, OPEN_KEY.to_vec());
        self.write(batch).await
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
