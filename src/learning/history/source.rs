//! Rows of a file as records of bytes, whatever the file's form; never more than one record and
//! one buffer in memory.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use csv::ByteRecord;

use super::parquet::ParquetSource;
use super::{HistoryError, RECORD_BYTES_MAX};

const BUFFER_BYTES: usize = 1 << 18;

/// A file being read.
pub(super) struct Source {
    pub path: String,
    pub bytes_total: u64,
    form: Form,
}

enum Form {
    Csv { reader: csv::Reader<Counted>, counts: Rc<Counts> },
    Parquet(Box<ParquetSource>),
}

impl Source {
    /// Opens a file; `.parquet` is Parquet, everything else CSV.
    pub(super) fn open(path: &Path) -> Result<Self, HistoryError> {
        let name = path.display().to_string();
        let failed = |error: io::Error| file_error(&name, &error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(file_error(&name, &"is a folder, not a file"));
        }
        let is_parquet = path.extension().is_some_and(|of| of.eq_ignore_ascii_case("parquet"));
        let form = if is_parquet {
            Form::Parquet(Box::new(ParquetSource::open(&name, path)?))
        } else {
            let counts = Rc::new(Counts::default());
            let counted = Counted { file, counts: Rc::clone(&counts) };
            let reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .buffer_capacity(BUFFER_BYTES)
                .from_reader(counted);
            Form::Csv { reader, counts }
        };
        Ok(Self { path: name, bytes_total: metadata.len(), form })
    }

    /// The next record, the header first, and the line on which it begins.
    pub(super) fn next(&mut self, record: &mut ByteRecord) -> Result<Option<u64>, HistoryError> {
        match &mut self.form {
            Form::Parquet(source) => source.next(record),
            Form::Csv { reader, counts } => {
                counts.since_record.set(0);
                let begins = reader.position().line();
                match reader.read_byte_record(record) {
                    Ok(true) => Ok(Some(record.position().map_or(begins, csv::Position::line))),
                    Ok(false) => Ok(None),
                    Err(_) if counts.since_record.get() > RECORD_BYTES_MAX => {
                        Err(HistoryError::RecordTooLong {
                            path: self.path.clone(),
                            line: begins,
                            limit: RECORD_BYTES_MAX,
                        })
                    }
                    Err(error) => Err(file_error(&self.path, &error)),
                }
            }
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        match &self.form {
            Form::Csv { counts, .. } => counts.total.get(),
            Form::Parquet(source) => (self.bytes_total as f64 * source.progress()) as u64,
        }
    }

    /// Whether the last line lacks its end; of use when all is read.
    pub(super) fn is_unfinished(&self) -> bool {
        match &self.form {
            Form::Csv { counts, .. } => !matches!(counts.last.get(), b'\n' | b'\r'),
            Form::Parquet(_) => false,
        }
    }
}

pub(super) fn file_error(path: &str, detail: &dyn std::fmt::Display) -> HistoryError {
    HistoryError::File { path: path.to_owned(), detail: detail.to_string() }
}

/// What has been read of a file.
#[derive(Debug, Default)]
struct Counts {
    total: Cell<u64>,
    since_record: Cell<u64>,
    last: Cell<u8>,
}

/// A file that counts, and fails where a single record takes too much.
struct Counted {
    file: File,
    counts: Rc<Counts>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let counts = &self.counts;
        if counts.since_record.get() > RECORD_BYTES_MAX {
            return Err(io::Error::other("record too long"));
        }
        let count = self.file.read(buffer)?;
        if let Some(last) = buffer[..count].last() {
            counts.last.set(*last);
        }
        counts.since_record.set(counts.since_record.get() + count as u64);
        counts.total.set(counts.total.get() + count as u64);
        Ok(count)
    }
}
