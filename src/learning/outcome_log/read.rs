//! Reading the outcome log back, by its manifest.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use polars::prelude::{DataFrame, ParquetReader, SerReader};
use serde::{Deserialize, Serialize};

use super::{Error, files};
use crate::decision_log::{SealedFile, SealedRange};
use crate::txn::LogId;

const MANIFEST: &str = "manifest.json";
/// Version of manifest and columns.
const FORMAT: u32 = 1;
/// A manifest is some 200 bytes a range.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// What is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the manifest and of the files' columns.
    pub format: u32,
    /// Whose outcomes these are.
    pub log_id: LogId,
    /// Every range, in order of sequence.
    pub ranges: Vec<SealedRange>,
}

/// Replaces the manifest in one step.
pub(super) fn write_manifest(
    dir: &Path,
    log_id: LogId,
    ranges: Vec<SealedRange>,
) -> Result<(), Error> {
    let manifest = Manifest { format: FORMAT, log_id, ranges };
    let text = serde_json::to_vec(&manifest).expect("plain data has a JSON form");
    files::write(dir, MANIFEST, &text, &|_| Ok(()))
}

/// The manifest of an outcome folder.
pub fn manifest(dir: &Path) -> Result<Manifest, Error> {
    let path = dir.join(MANIFEST);
    let damaged = |detail: String| Error::Damaged { path: path.clone(), detail };
    let io = |source| Error::Io { path: path.clone(), what: "read", source };
    let bytes = fs::metadata(&path).map_err(io)?.len();
    if bytes > MANIFEST_BYTES_MAX {
        return Err(damaged(format!("{bytes} bytes, at most {MANIFEST_BYTES_MAX} are read")));
    }
    let text = fs::read(&path).map_err(io)?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if manifest.format > FORMAT {
        return Err(damaged(format!("format {}, up to {FORMAT} is understood", manifest.format)));
    }
    Ok(manifest)
}

/// One file of a sealed range, checked against the manifest.
pub fn read_file(dir: &Path, file: &SealedFile) -> Result<DataFrame, Error> {
    let path = dir.join(&file.path);
    let damaged = |detail: String| Error::Damaged { path: path.clone(), detail };
    let input = File::open(&path);
    let input = input.map_err(|source| Error::Io { path: path.clone(), what: "read", source })?;
    // The reader panics on some damaged files.
    let read = catch_unwind(AssertUnwindSafe(|| ParquetReader::new(input).finish()));
    let frame = match read {
        Ok(frame) => frame.map_err(|error| damaged(error.to_string()))?,
        Err(_) => return Err(damaged("the reader gave up".to_owned())),
    };
    if frame.height() as u64 != file.rows {
        return Err(damaged(format!("{} rows, the manifest says {}", frame.height(), file.rows)));
    }
    Ok(frame)
}

/// Every sealed row, a frame a file, in order of sequence within each.
pub fn read_all(dir: &Path) -> Result<Vec<DataFrame>, Error> {
    let ranges = manifest(dir)?.ranges;
    ranges.iter().flat_map(|range| &range.files).map(|file| read_file(dir, file)).collect()
}

/// The id of every sealed transaction.
pub fn txn_ids(dir: &Path) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for frame in read_all(dir)? {
        let damaged = |error: polars::error::PolarsError| Error::Damaged {
            path: dir.to_owned(),
            detail: error.to_string(),
        };
        let column = frame.column("txn_id").map_err(damaged)?;
        let texts = column.str().map_err(damaged)?;
        ids.extend(texts.iter().flatten().map(str::to_owned));
    }
    Ok(ids)
}
