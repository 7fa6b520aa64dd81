//! Notices a journal that was cut in its middle.
//!
//! When the database meets a damaged entry in its journal, it takes it for the torn end of an
//! interrupted write and cuts the file there, silently dropping what follows. That is right for
//! the last flush, which nobody was told about, and loss for every earlier one. So each flush
//! ends with a marker that is found by its bytes alone: before opening, the markers are surveyed;
//! after, at most the last flush of the newest journal may be gone.
//!
//! Damage *within* the last flush cannot be told from a torn write and goes unnoticed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Error;
use super::error::io;

/// Random bytes that nothing else writes.
const MAGIC: [u8; 16] = *b"\x9e\x01presume\xf3\x0aflsh\x1c";
const MARKER_BYTES: usize = 32;
const CHUNK_BYTES: usize = 1 << 20;

/// The value that ends each flush: magic, number, its complement.
pub(super) fn marker(flush: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(MARKER_BYTES);
    value.extend(MAGIC);
    value.extend(flush.to_be_bytes());
    value.extend((!flush).to_be_bytes());
    value
}

/// One journal file before opening.
#[derive(Debug)]
pub(super) struct Surveyed {
    file: PathBuf,
    number: u64,
    /// Where its last two markers end, in bytes from the start.
    pub last_end: u64,
    earlier_end: u64,
}

/// Finds the markers in every journal file, oldest journal first.
pub(super) fn survey(data: &Path) -> Result<Vec<Surveyed>, Error> {
    let mut journals = Vec::new();
    if !data.exists() {
        return Ok(journals);
    }
    for entry in fs::read_dir(data).map_err(|e| io(data, "list the folder", e))? {
        let file = entry.map_err(|e| io(data, "list the folder", e))?.path();
        let Some(number) = journal_number(&file) else { continue };
        let scanned = File::open(&file).and_then(scan);
        let (earlier_end, last_end) = scanned.map_err(|e| io(&file, "read", e))?;
        journals.push(Surveyed { file, number, last_end, earlier_end });
    }
    journals.sort_by_key(|journal| journal.number);
    Ok(journals)
}

/// What opening cut off that it must not.
pub(super) fn compare(data: &Path, before: &[Surveyed]) -> Result<(), String> {
    let newest = before.last().map(|journal| journal.number);
    for journal in before {
        // A journal whose contents are in tables may have been removed.
        let Ok(metadata) = fs::metadata(data.join(&journal.file)) else { continue };
        let active = Some(journal.number) == newest;
        let required = if active { journal.earlier_end } else { journal.last_end };
        if metadata.len() < required {
            return Err(format!(
                "journal {} is damaged after byte {}, durable writes reached to byte {required}",
                journal.file.display(),
                metadata.len(),
            ));
        }
    }
    Ok(())
}

fn journal_number(file: &Path) -> Option<u64> {
    let extension = file.extension()?;
    if extension != "jnl" {
        return None;
    }
    file.file_stem()?.to_str()?.parse().ok()
}

/// Ends of the last marker but one and of the last marker, zero where there is none.
fn scan(mut input: impl Read) -> std::io::Result<(u64, u64)> {
    let (mut earlier, mut last) = (0, 0);
    let mut buffer = Vec::with_capacity(CHUNK_BYTES + MARKER_BYTES);
    let mut buffer_start = 0_u64;
    loop {
        let read = input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok((earlier, last));
        }
        let mut at = 0;
        while let Some(found) = find(&buffer[at..]) {
            at += found + MARKER_BYTES;
            (earlier, last) = (last, buffer_start + at as u64);
        }
        let keep_from = buffer.len().saturating_sub(MARKER_BYTES - 1).max(at);
        buffer.drain(..keep_from);
        buffer_start += keep_from as u64;
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at + MARKER_BYTES <= bytes.len() {
        let end = bytes.len() - MARKER_BYTES + 1;
        at += bytes[at..end].iter().position(|byte| *byte == MAGIC[0])?;
        if is_marker(&bytes[at..at + MARKER_BYTES]) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn is_marker(bytes: &[u8]) -> bool {
    let (magic, rest) = bytes.split_at(MAGIC.len());
    let (number, complement) = rest.split_at(8);
    magic == MAGIC && number.iter().zip(complement).all(|(a, b)| *a == !*b)
}
