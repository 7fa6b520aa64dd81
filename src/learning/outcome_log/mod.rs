//! The outcome log: what happened, sealed from the decision log into Parquet for learning.
//!
//! Outcome rows are durable in the decision log before any answer. This moves them on, a range of
//! consecutive rows at a time: announce the range durably; write one file a day of submission
//! under a temporary name, sync, rename, sync the folder; note the files durably, from when on the
//! rows count as sealed; rewrite the manifest; delete the rows. After a crash at any step the very
//! same range is written again under the same names, so each answered transaction is in it
//! exactly once.
//!
//! ```text
//! <folder>/manifest.json                          what is sealed, for readers outside
//! <folder>/day=2026-01-31/<first>-<last>.parquet  see `frame` for the columns
//! ```
//! A reader that wants only whole ranges goes by the manifest; one that takes every `*.parquet`
//! may, for an instant, also see the days of a range that is just being sealed.

mod files;
mod frame;
mod history;
mod read;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::decision_log::{
    self, DecisionLog, Decisions as _, OutcomeRow, SealRange, SealedFile, SealedRange,
};
use crate::features;
use crate::txn::Timestamp;

pub use history::{Recent, recent};
pub use read::{Manifest, manifest, read_all, read_file, txn_ids};

/// The most days of one range, a file each: submissions may claim old dates.
const DAYS_MAX: usize = 32;

/// When and where outcomes are sealed.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of manifest and files; made if it is missing.
    pub dir: PathBuf,
    /// The most rows of a range, which are in memory while it is sealed: some 3 KB each.
    pub rows_max: usize,
    /// The longest a row waits; a full range does not wait.
    pub age_max: Duration,
    /// Names of the features in served rows, in order. Rows of another width keep their values
    /// in the column `features_json`.
    pub feature_names: Vec<String>,
}

impl Options {
    /// Defaults: 50,000 rows, five minutes, this program's features.
    pub fn new(dir: PathBuf) -> Self {
        let names = features::txn_features().iter().map(|feature| feature.name.to_owned());
        Self {
            dir,
            rows_max: 50_000,
            age_max: Duration::from_mins(5),
            feature_names: names.collect(),
        }
    }
}

/// Why outcomes are not sealed or not read. Nothing is lost: the rows stay where they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decision log failed.
    #[error("outcome log: {0}")]
    Log(#[from] decision_log::Error),
    /// Look at the disk and its permissions.
    #[error("outcome log: cannot {what} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what the manifest says, or cannot be understood.
    #[error("outcome log: {} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// The announced range is not in the decision log any more: call the operator.
    #[error("outcome log: rows {first} to {last} are to be sealed, {found} of them are there")]
    RowsMissing {
        /// First of the range.
        first: u64,
        /// Last of the range.
        last: u64,
        /// How many were found.
        found: usize,
    },
    /// The step could not be run to its end.
    #[error("outcome log: sealing was interrupted: {0}")]
    Interrupted(String),
}

/// A point between two steps of sealing, where a crash is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Announced,
    Written,
    Renamed,
    Noted,
    Published,
}

type Hook = Arc<dyn Fn(Step) -> Result<(), Error> + Send + Sync>;

/// Seals the outcome rows of one decision log.
pub struct OutcomeLog {
    log: DecisionLog,
    options: Options,
    /// One range at a time.
    sealing: tokio::sync::Mutex<()>,
    /// The oldest unsealed row, and when it was first seen.
    oldest: Mutex<Option<(u64, Timestamp)>>,
    hook: Hook,
}

impl OutcomeLog {
    /// Takes up where the last run stopped: finishes an open range, deletes sealed rows, and
    /// brings the manifest up to date.
    pub async fn open(log: DecisionLog, options: Options) -> Result<Self, Error> {
        assert!(options.rows_max > 0, "a range of no rows");
        let this = Self {
            log,
            options,
            sealing: tokio::sync::Mutex::default(),
            oldest: Mutex::default(),
            hook: Arc::new(|_| Ok(())),
        };
        this.resume().await?;
        Ok(this)
    }

    /// Seals one range if a full one is there or the oldest row has waited long enough. Call it
    /// every second or so.
    pub async fn seal_if_due(&self, now: Timestamp) -> Result<Option<SealedRange>, Error> {
        if self.is_due(now)? { self.seal().await } else { Ok(None) }
    }

    /// Seals one range of what is there, `None` if nothing is.
    pub async fn seal(&self) -> Result<Option<SealedRange>, Error> {
        let _alone = self.sealing.lock().await;
        let rows = match self.log.seal_in_progress()? {
            Some(range) => self.announced_rows(range)?,
            None => {
                let rows = self.next_rows()?;
                let Some(range) = range_of(&rows) else { return Ok(None) };
                self.log.open_seal(range).await?;
                rows
            }
        };
        (self.hook)(Step::Announced)?;
        let range = range_of(&rows).expect("an announced range has rows");
        let files = self.write_files(range, rows).await?;
        let sealed = SealedRange { range, files };
        self.log.close_seal(&sealed).await?;
        (self.hook)(Step::Noted)?;
        self.publish()?;
        (self.hook)(Step::Published)?;
        self.log.drop_sealed_rows().await?;
        Ok(Some(sealed))
    }

    async fn resume(&self) -> Result<(), Error> {
        if self.log.seal_in_progress()?.is_some() {
            self.seal().await?;
        }
        self.publish()?;
        self.log.drop_sealed_rows().await?;
        Ok(())
    }

    fn is_due(&self, now: Timestamp) -> Result<bool, Error> {
        let first = self.log.sealed_to() + 1;
        if !self.log.has_outcome(first)? {
            return Ok(false);
        }
        let mut oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = match *oldest {
            Some((sequence, seen)) if sequence == first => seen,
            _ => oldest.insert((first, now)).1,
        };
        let full = self.log.has_outcome(first + self.options.rows_max as u64 - 1)?;
        Ok(full || now.since(seen) >= self.options.age_max)
    }

    /// The rows of the next range: as many as allowed, of not too many days.
    fn next_rows(&self) -> Result<Vec<(u64, OutcomeRow)>, Error> {
        let mut rows = self.log.outcome_rows(0, self.options.rows_max)?;
        let mut days = BTreeSet::new();
        let mut fits = |(_, row): &(u64, OutcomeRow)| {
            days.insert(files::day(row.timestamp));
            days.len() <= DAYS_MAX
        };
        let count = rows.iter().take_while(|row| fits(row)).count();
        rows.truncate(count);
        Ok(rows)
    }

    fn announced_rows(&self, range: SealRange) -> Result<Vec<(u64, OutcomeRow)>, Error> {
        let count = (range.last + 1).saturating_sub(range.first);
        let rows = self.log.outcome_rows(range.first, usize::try_from(count).unwrap_or(0))?;
        if range_of(&rows) == Some(range) {
            return Ok(rows);
        }
        Err(Error::RowsMissing { first: range.first, last: range.last, found: rows.len() })
    }

    /// Writes a range, a file a day, on a thread that may block.
    async fn write_files(
        &self,
        range: SealRange,
        rows: Vec<(u64, OutcomeRow)>,
    ) -> Result<Vec<SealedFile>, Error> {
        let (dir, names) = (self.options.dir.clone(), self.options.feature_names.clone());
        let hook = Arc::clone(&self.hook);
        let work = move || {
            let mut days: BTreeMap<String, Vec<(u64, OutcomeRow)>> = BTreeMap::new();
            for row in rows {
                days.entry(files::day(row.1.timestamp)).or_default().push(row);
            }
            let write = |(day, rows): (String, Vec<(u64, OutcomeRow)>)| {
                let name = format!("{day}/{:012}-{:012}.parquet", range.first, range.last);
                let bytes = frame::encode(&rows, &names)
                    .map_err(|detail| Error::Damaged { path: dir.join(&name), detail })?;
                files::write(&dir, &name, &bytes, &*hook)?;
                Ok(files::describe(name, rows.len(), &bytes))
            };
            days.into_iter().map(write).collect()
        };
        let written = tokio::task::spawn_blocking(work).await;
        written.unwrap_or_else(|error| Err(Error::Interrupted(error.to_string())))
    }

    fn publish(&self) -> Result<(), Error> {
        let sealed = self.log.sealed()?;
        read::write_manifest(&self.options.dir, self.log.log_id(), sealed)
    }
}

/// The range of consecutive rows; `None` without rows, or if one is missing between them.
fn range_of(rows: &[(u64, OutcomeRow)]) -> Option<SealRange> {
    let (first, last) = (rows.first()?.0, rows.last()?.0);
    (last - first + 1 == rows.len() as u64).then_some(SealRange { first, last })
}
