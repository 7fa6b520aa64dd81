//! Parquet as records of bytes, so that both forms pass through the same checks.
//!
//! Read slice by slice; a file that makes the reader panic is a bad file, not the end of us. What
//! cannot be caught: bits flipped *within* a page can make it ask for absurd memory, which aborts
//! the process. So nothing that serves reads Parquet from strangers.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use polars::prelude::{AnyValue, Column, DataFrame, ParquetReader, SerReader, TimeUnit};

use super::HistoryError;
use super::record::Record;
use super::source::file_error;
use super::write::instant;
use crate::txn::Timestamp;

/// Rows in memory at once.
const SLICE_ROWS: usize = 65_536;

/// A Parquet file being read.
pub(super) struct ParquetSource {
    name: String,
    path: PathBuf,
    rows: usize,
    next: usize,
    slice: DataFrame,
    slice_start: usize,
    header_given: bool,
}

impl ParquetSource {
    pub(super) fn open(name: &str, path: &Path) -> Result<Self, HistoryError> {
        let (rows, slice) = guarded(name, || {
            let file = File::open(path).map_err(|error| error.to_string())?;
            let rows = ParquetReader::new(file).num_rows().map_err(|error| error.to_string())?;
            Ok((rows, slice(path, 0)?))
        })?;
        let (name, path) = (name.to_owned(), path.to_owned());
        Ok(Self { name, path, rows, next: 0, slice, slice_start: 0, header_given: false })
    }

    pub(super) fn next(&mut self, record: &mut Record) -> Result<Option<u64>, HistoryError> {
        record.clear();
        if !self.header_given {
            self.header_given = true;
            for name in self.slice.get_column_names() {
                record.push(name.as_str().as_bytes());
            }
            return Ok(Some(0));
        }
        if self.next >= self.rows {
            return Ok(None);
        }
        if self.next >= self.slice_start + self.slice.height() {
            let (path, start) = (&self.path, self.next);
            self.slice = guarded(&self.name, || slice(path, start))?;
            self.slice_start = start;
            if self.slice.height() == 0 {
                return Err(file_error(&self.name, &"has fewer rows than it says"));
            }
        }
        let at = self.next - self.slice_start;
        for column in self.slice.columns() {
            let text = guarded(&self.name, || text(column, at))?;
            record.push(text.as_bytes());
        }
        self.next += 1;
        Ok(Some(self.next as u64))
    }

    /// Share of the rows already given.
    pub(super) fn progress(&self) -> f64 {
        self.next as f64 / self.rows.max(1) as f64
    }
}

/// Runs a piece of the Parquet reader. It panics on some damaged files, where an error is due.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, HistoryError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|detail| file_error(name, &detail)),
        Err(_) => Err(file_error(name, &"is damaged: the Parquet reader gave up")),
    }
}

fn slice(path: &Path, start: usize) -> Result<DataFrame, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = ParquetReader::new(file).with_slice(Some((start, SLICE_ROWS)));
    reader.finish().map_err(|error| error.to_string())
}

/// A value as it would stand in the CSV.
fn text(column: &Column, row: usize) -> Result<String, String> {
    let value = column.get(row).map_err(|error| error.to_string())?;
    Ok(match value {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => text.to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        AnyValue::Datetime(ticks, unit, _) => {
            let micros = match unit {
                TimeUnit::Nanoseconds => ticks.div_euclid(1_000),
                TimeUnit::Microseconds => ticks,
                TimeUnit::Milliseconds => ticks.saturating_mul(1_000),
            };
            String::from_utf8_lossy(&instant(Timestamp::from_micros(micros))).into_owned()
        }
        AnyValue::Boolean(_)
        | AnyValue::Int8(_)
        | AnyValue::Int16(_)
        | AnyValue::Int32(_)
        | AnyValue::Int64(_)
        | AnyValue::UInt8(_)
        | AnyValue::UInt16(_)
        | AnyValue::UInt32(_)
        | AnyValue::UInt64(_)
        | AnyValue::Date(_) => value.to_string(),
        AnyValue::Float32(number) => number.to_string(),
        AnyValue::Float64(number) => number.to_string(),
        other => {
            let name = column.name();
            return Err(format!("column {name} has type {}, which no field takes", other.dtype()));
        }
    })
}
