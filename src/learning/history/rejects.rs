//! Bad rows: kept, written to a file, counted, and limited.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use super::cells::BadCell;
use super::error::SHOWN_MAX;
use super::source::file_error;
use super::{BAD_ROWS_FLOOR, HistoryError, REJECTS_KEPT_MAX, ReadOptions, Reject};

/// From so many rows on, a file that is mostly bad is given up early.
const EARLY_ROWS_MIN: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Rejects {
    pub kept: Vec<Reject>,
    max_ratio: f64,
    file: Option<(String, csv::Writer<File>)>,
    /// Ids of rows that were set aside, so that their legs are not blamed.
    ids: HashSet<Box<[u8]>>,
}

/// Rows and bad rows of one file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub rows: u64,
    pub rejected: u64,
}

impl Rejects {
    pub(super) fn new(options: &ReadOptions, inputs: &[&Path]) -> Result<Self, HistoryError> {
        let max_ratio = options.bad_rows_max_ratio;
        if !(0.0..=1.0).contains(&max_ratio) {
            return Err(HistoryError::Option {
                option: "bad_rows_max_ratio",
                value: max_ratio.to_string(),
                limit: "between 0 and 1",
            });
        }
        let file = options.rejects.as_deref().map(|path| create(path, inputs)).transpose()?;
        Ok(Self { kept: Vec::new(), max_ratio, file, ids: HashSet::new() })
    }

    /// Sets a row aside.
    pub(super) fn add(&mut self, path: &str, line: u64, cell: BadCell) -> Result<(), HistoryError> {
        let BadCell { column, value, reason } = cell;
        let (file, column) = (path.to_owned(), column.to_owned());
        let reject = Reject { file, line, column, value, reason };
        if let Some((name, writer)) = &mut self.file {
            let line = reject.line.to_string();
            let fields = [&reject.file, &line, &reject.column, &reject.value, &reject.reason];
            writer.write_record(fields).map_err(|error| file_error(name, &error))?;
        }
        if self.kept.len() < REJECTS_KEPT_MAX {
            self.kept.push(reject);
        }
        Ok(())
    }

    pub(super) fn remember_id(&mut self, id: &[u8]) {
        self.ids.insert(id.into());
    }

    pub(super) fn knows_id(&self, id: &[u8]) -> bool {
        self.ids.contains(id)
    }

    /// Gives up early on a file that is mostly bad.
    pub(super) fn check_early(&self, path: &str, tally: Tally) -> Result<(), HistoryError> {
        let mostly = tally.rows >= EARLY_ROWS_MIN && tally.rejected * 2 > tally.rows;
        if mostly { self.check(path, tally) } else { Ok(()) }
    }

    /// Checks a file against the limit.
    pub(super) fn check(&self, path: &str, tally: Tally) -> Result<(), HistoryError> {
        let floor = if self.max_ratio == 0.0 { 0 } else { BAD_ROWS_FLOOR };
        let allowed = ((tally.rows as f64 * self.max_ratio) as u64).max(floor);
        if tally.rejected <= allowed {
            return Ok(());
        }
        Err(HistoryError::TooManyRejects {
            path: path.to_owned(),
            rejected: tally.rejected,
            rows: tally.rows,
            max_ratio: self.max_ratio,
            first: self.first_of(path),
        })
    }

    pub(super) fn first_of(&self, path: &str) -> Vec<Reject> {
        self.kept.iter().filter(|reject| reject.file == path).take(SHOWN_MAX).cloned().collect()
    }

    /// Completes the rejects file.
    pub(super) fn finish(&mut self) -> Result<(), HistoryError> {
        match &mut self.file {
            Some((name, writer)) => writer.flush().map_err(|error| file_error(name, &error)),
            None => Ok(()),
        }
    }
}

fn create(path: &Path, inputs: &[&Path]) -> Result<(String, csv::Writer<File>), HistoryError> {
    let name = path.display().to_string();
    let same = |input: &&Path| match (path.canonicalize(), input.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if inputs.iter().any(same) {
        return Err(file_error(&name, &"the rejects file is one of the inputs"));
    }
    let file = File::create(path).map_err(|error| file_error(&name, &error))?;
    let mut writer = csv::Writer::from_writer(file);
    writer
        .write_record(["file", "line", "column", "value", "reason"])
        .map_err(|error| file_error(&name, &error))?;
    Ok((name, writer))
}
