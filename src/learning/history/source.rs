//! Rows of a file as records of bytes, whatever the file's form.

use std::fs::File;
use std::io;
use std::path::Path;

use super::csv_source::{CsvError, CsvSource, Input};
use super::parquet::ParquetSource;
use super::record::Record;
use super::{HistoryError, RECORD_BYTES_MAX};

/// A file being read.
pub(super) struct Source {
    pub path: String,
    pub bytes_total: u64,
    form: Form,
}

enum Form {
    Csv(Box<CsvSource>),
    Parquet(Box<ParquetSource>),
}

impl Source {
    /// Opens a file; `.parquet` is Parquet, everything else CSV, and `.gz` packed CSV.
    pub(super) fn open(path: &Path, delimiter: u8) -> Result<Self, HistoryError> {
        let name = path.display().to_string();
        let failed = |error: io::Error| file_error(&name, &error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(file_error(&name, &"is a folder, not a file"));
        }
        let is = |kind: &str| path.extension().is_some_and(|of| of.eq_ignore_ascii_case(kind));
        let form = if is("parquet") {
            Form::Parquet(Box::new(ParquetSource::open(&name, path)?))
        } else {
            Form::Csv(Box::new(CsvSource::new(Input::new(file, is("gz")), delimiter)))
        };
        Ok(Self { path: name, bytes_total: metadata.len(), form })
    }

    /// The next record, the header first, and the line on which it begins.
    pub(super) fn next(&mut self, record: &mut Record) -> Result<Option<u64>, HistoryError> {
        match &mut self.form {
            Form::Parquet(source) => source.next(record),
            Form::Csv(source) => source.next(record).map_err(|error| match error {
                CsvError::File(error) => file_error(&self.path, &error),
                CsvError::TooLong { line } => HistoryError::RecordTooLong {
                    path: self.path.clone(),
                    line,
                    limit: RECORD_BYTES_MAX,
                },
            }),
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        match &self.form {
            Form::Csv(source) => source.bytes(),
            Form::Parquet(source) => (self.bytes_total as f64 * source.progress()) as u64,
        }
    }

    /// Whether the last line lacks its end; of use when all is read.
    pub(super) fn is_unfinished(&self) -> bool {
        match &self.form {
            Form::Csv(source) => source.is_unfinished(),
            Form::Parquet(_) => false,
        }
    }
}

pub(super) fn file_error(path: &str, detail: &dyn std::fmt::Display) -> HistoryError {
    HistoryError::File { path: path.to_owned(), detail: detail.to_string() }
}
