//! Histories as files: the canonical CSV, its legs, Parquet, and what is wrong with a row.
//!
//! [`read`] sets bad rows aside, located, and stops above a limit; [`write`] gives the canonical
//! form, which reads back as the same rows. Nothing is silently dropped: what was ignored,
//! sorted, assumed or set aside is told in [`Report`].
//!
//! # What a file must have
//! `timestamp`, `customer_id`, `amount_minor` and `kind`; a legs file `txn_id`, `participant`,
//! `vote` and `prepare_ms`. Any other column may be missing, or empty in a row:
//!
//! | column | then |
//! |---|---|
//! | `txn_id` | `row-<line>`; no legs can be joined. Empty in a present column: a bad row |
//! | `payment_id`, `attempt` | the `txn_id`, 1 |
//! | `customer_type`, `currency` | `RETAIL`, `INR` |
//! | `cross_border`, `requires_consistency` | false, true |
//! | `in_flight`, `health` of a leg | 0, 1 |
//! | `labelled_at` | a fraud label of unknown time is dropped and counted: it could leak |
//! | everything else | unknown |
//!
//! Rows out of order are sorted and counted, not refused. Columns of other names are ignored and
//! named. A Parquet file (`.parquet`) has the same columns, in any type that shows as the same
//! text; instants without a zone are UTC, and a row's number stands for its line. A CSV file may be
//! packed (`.gz`). A file of another form is read by a [`Mapping`].

mod cells;
mod columns;
mod csv_source;
mod error;
mod legs;
mod mapping;
mod parquet;
mod read;
mod record;
mod rejects;
mod source;
mod transactions;
mod translate;
mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::txn::{HistoryRow, Timestamp};

pub use error::HistoryError;
pub use mapping::{Mapping, MappingError};
pub use write::{HistoryWriter, LegsWriter, write};

/// The columns of the transactions file, in canonical order.
pub const COLUMNS: [&str; 22] = [
    "txn_id",
    "payment_id",
    "attempt",
    "timestamp",
    "kind",
    "customer_id",
    "customer_type",
    "customer_since",
    "counterparty_id",
    "amount_minor",
    "currency",
    "cross_border",
    "requires_consistency",
    "lat",
    "lon",
    "route",
    "system_load_ratio",
    "outcome",
    "failure_class",
    "total_ms",
    "fraud",
    "labelled_at",
];

/// The columns of the legs file, in canonical order: a row a participant.
pub const LEG_COLUMNS: [&str; 8] =
    ["txn_id", "participant", "vote", "prepare_ms", "timeout_ms", "late_ms", "in_flight", "health"];

/// Columns that a transactions file must have.
pub const REQUIRED_COLUMNS: [&str; 4] = ["timestamp", "customer_id", "amount_minor", "kind"];
/// Columns that a legs file must have.
pub const REQUIRED_LEG_COLUMNS: [&str; 4] = ["txn_id", "participant", "vote", "prepare_ms"];

/// So many bad rows of a file are always tolerated, unless the limit is 0: in a tiny file one bad
/// row is already above any ratio.
pub const BAD_ROWS_FLOOR: u64 = 3;
/// Rejects kept in memory; further ones are counted, and written to the rejects file.
pub const REJECTS_KEPT_MAX: usize = 1_000;
/// Longest record; more is an unclosed quote or no CSV at all, and stops the run.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Longest field; a row with a longer one is set aside.
pub const FIELD_BYTES_MAX: usize = 64 << 10;
/// Most rows of one file.
pub const ROWS_MAX: usize = 100_000_000;

/// How a history is read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Greatest share of bad rows in a file, 0 to 1; 0 tolerates none. Default 0.01.
    pub bad_rows_max_ratio: f64,
    /// Where to write bad rows: `file,line,column,value,reason`.
    pub rejects: Option<PathBuf>,
    /// Rows after this instant are bad: they lie in the future.
    pub future_after: Option<Timestamp>,
    /// How the transactions file says what a history says, if it is of another form.
    pub mapping: Option<Mapping>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { bad_rows_max_ratio: 0.01, rejects: None, future_after: None, mapping: None }
    }
}

/// A history in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Sorted by timestamp; equal instants in the order of the file.
    pub rows: Vec<HistoryRow>,
    /// The first [`REJECTS_KEPT_MAX`] bad rows; [`Report`] has their number.
    pub rejects: Vec<Reject>,
    /// What there is to learn from.
    pub targets: Targets,
    /// What else is to be said.
    pub report: Report,
}

/// A bad row: where it is, and why it was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The file.
    pub file: String,
    /// The line on which the row begins, from 1; in Parquet the row's number.
    pub line: u64,
    /// The offending column; empty where the row as a whole is bad.
    pub column: String,
    /// What stands there, shortened.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.column.is_empty() {
            write!(f, "{} {:?}: ", self.column, self.value)?;
        }
        f.write_str(&self.reason)
    }
}

/// What a history has to learn from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Targets {
    /// Rows that committed or aborted.
    pub success: Labels,
    /// Rows with a fraud label.
    pub fraud: Labels,
    /// Legs with a known latency.
    pub latency: Labels,
}

/// The labels of one target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    /// How many rows (or legs) have one.
    pub count: u64,
    /// Why there is none, if there is none.
    pub absent: Option<String>,
}

/// What is to be said of a history beside its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Rows in the transactions file, without the header.
    pub rows_read: u64,
    /// Rows in the legs file, without the header.
    pub legs_read: u64,
    /// Bad rows of the transactions file.
    pub rows_rejected: u64,
    /// Bad rows of the legs file, without those of bad transactions.
    pub legs_rejected: u64,
    /// Legs set aside with their transaction.
    pub legs_of_rejected_rows: u64,
    /// Rows earlier than one before them in the file; they were sorted.
    pub rows_out_of_order: u64,
    /// Rows for which the legs file, where there is one, has no leg.
    pub rows_without_legs: u64,
    /// Fraud labels dropped because nothing says when they became known.
    pub labels_without_time: u64,
    /// Known columns that the transactions file has not.
    pub columns_missing: Vec<&'static str>,
    /// Columns of either file that are not known, and were ignored.
    pub columns_ignored: Vec<String>,
    /// Files whose last line has no end: it may be cut off.
    pub unfinished_files: Vec<String>,
}

/// How far reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows of the current file so far.
    pub rows: u64,
    /// Bytes of the current file so far; in Parquet, in proportion to its rows.
    pub bytes: u64,
    /// Size of the current file in bytes.
    pub bytes_total: u64,
}

/// Reads a history, with its legs where a legs file is given.
pub fn read(
    path: &Path,
    legs: Option<&Path>,
    options: &ReadOptions,
) -> Result<History, HistoryError> {
    read_with(path, legs, options, &mut |_| {})
}

/// Reads a history and says every few thousand rows how far it is.
pub fn read_with(
    path: &Path,
    legs: Option<&Path>,
    options: &ReadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<History, HistoryError> {
    read::read(path, legs, options, progress)
}

impl Report {
    /// One sentence for everything that a reader should know; none for a clean history.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        };
        say(self.rows_rejected, "bad rows were set aside");
        say(self.legs_rejected, "bad legs were set aside");
        say(self.legs_of_rejected_rows, "legs were set aside with their bad rows");
        say(self.rows_out_of_order, "rows were out of order and have been sorted");
        say(self.rows_without_legs, "rows have no legs");
        say(self.labels_without_time, "fraud labels without labelled_at were dropped");
        if !self.columns_missing.is_empty() {
            let names = self.columns_missing.join(", ");
            notes.push(format!("columns missing, their features with them: {names}"));
        }
        if !self.columns_ignored.is_empty() {
            notes.push(format!("unknown columns ignored: {}", self.columns_ignored.join(", ")));
        }
        for file in &self.unfinished_files {
            notes.push(format!("{file} does not end with a line end: it may be cut off"));
        }
        notes
    }
}
