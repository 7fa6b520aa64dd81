//! CSV as records, streamed: one buffer of input and one record in memory, whatever the file.
//!
//! The field machine is `csv-core`; lines are counted here, because a bad row is only located when
//! its line is right after blank lines, quoted line ends and Windows line ends too.

use std::fs::File;
use std::io::{self, Read, Seek};

use csv_core::ReadRecordResult;
use flate2::read::MultiGzDecoder;

use super::RECORD_BYTES_MAX;
use super::record::Record;

const BUFFER_BYTES: usize = 1 << 18;
const RECORD_BYTES_START: usize = 1 << 10;
const FIELDS_START: usize = 64;

/// The bytes of a file, unpacked.
pub(super) enum Input {
    Plain { file: File, bytes: u64 },
    Packed(Box<MultiGzDecoder<File>>),
}

impl Input {
    pub(super) fn new(file: File, is_packed: bool) -> Self {
        if is_packed {
            Self::Packed(Box::new(MultiGzDecoder::new(file)))
        } else {
            Self::Plain { file, bytes: 0 }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Packed(file) => file.read(buffer),
            Self::Plain { file, bytes } => {
                file.read(buffer).inspect(|count| *bytes += *count as u64)
            }
        }
    }
}

/// A CSV file being read.
pub(super) struct CsvSource {
    file: Input,
    core: csv_core::Reader,
    buffer: Vec<u8>,
    /// What of the buffer is still to be read.
    pending: std::ops::Range<usize>,
    line: u64,
    last: u8,
}

/// Why there is no next record.
pub(super) enum CsvError {
    File(io::Error),
    TooLong { line: u64 },
}

impl CsvSource {
    pub(super) fn new(file: Input, delimiter: u8) -> Self {
        Self {
            file,
            core: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            buffer: vec![0; BUFFER_BYTES],
            pending: 0..0,
            line: 1,
            last: b'\n',
        }
    }

    /// The next record and the line on which it begins.
    pub(super) fn next(&mut self, record: &mut Record) -> Result<Option<u64>, CsvError> {
        if !self.skip_line_ends()? {
            return Ok(None);
        }
        let begins = self.line;
        record.bytes.resize(record.bytes.capacity().max(RECORD_BYTES_START), 0);
        record.ends.resize(record.ends.capacity().max(FIELDS_START), 0);
        let (mut bytes, mut ends) = (0, 0);
        loop {
            let input = &self.buffer[self.pending.clone()];
            let (result, read, written, ended) =
                self.core.read_record(input, &mut record.bytes[bytes..], &mut record.ends[ends..]);
            #[allow(clippy::naive_bytecount, reason = "no dependency for one count")]
            let lines = input[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.line += lines;
            self.pending.start += read;
            bytes += written;
            ends += ended;
            match result {
                ReadRecordResult::InputEmpty => self.fill()?,
                ReadRecordResult::OutputFull if record.bytes.len() >= RECORD_BYTES_MAX => {
                    return Err(CsvError::TooLong { line: begins });
                }
                ReadRecordResult::OutputFull => record.bytes.resize(2 * record.bytes.len(), 0),
                ReadRecordResult::OutputEndsFull => record.ends.resize(2 * record.ends.len(), 0),
                ReadRecordResult::Record => {
                    record.ends.truncate(ends);
                    return Ok(Some(begins));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// Bytes of the file read so far, packed as it is.
    pub(super) fn bytes(&self) -> u64 {
        match &self.file {
            Input::Plain { bytes, .. } => *bytes,
            Input::Packed(file) => (&mut file.get_ref()).stream_position().unwrap_or_default(),
        }
    }

    /// Whether the last line lacks its end; of use when all is read.
    pub(super) fn is_unfinished(&self) -> bool {
        !matches!(self.last, b'\n' | b'\r')
    }

    /// Skips blank lines and the rest of a Windows line end; false at the end of the file.
    fn skip_line_ends(&mut self) -> Result<bool, CsvError> {
        loop {
            if self.pending.is_empty() {
                self.fill()?;
            }
            match self.buffer[self.pending.clone()].first() {
                None => return Ok(false),
                Some(b'\n') => self.line += 1,
                Some(b'\r') => {}
                Some(_) => return Ok(true),
            }
            self.pending.start += 1;
        }
    }

    /// Reads on; nothing is pending then at the end of the file.
    fn fill(&mut self) -> Result<(), CsvError> {
        let count = loop {
            match self.file.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(CsvError::File)?,
            }
        };
        self.pending = 0..count;
        self.last = self.buffer[..count].last().copied().unwrap_or(self.last);
        Ok(())
    }
}
