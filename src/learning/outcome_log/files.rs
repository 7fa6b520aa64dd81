//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Error, Step};
use crate::decision_log::SealedFile;
use crate::txn::Timestamp;

/// The folder of a day, in UTC: `day=2026-01-31`.
pub(super) fn day(timestamp: Timestamp) -> String {
    let date = timestamp.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).date();
    format!("day={date}")
}

/// Writes under a temporary name, syncs, renames, syncs the folders. What stood there before,
/// from an earlier attempt, is replaced.
pub(super) fn write(
    dir: &Path,
    name: &str,
    bytes: &[u8],
    hook: &dyn Fn(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = dir.join(name);
    let io = |source| Error::Io { path: path.clone(), what: "write", source };
    let folder = path.parent().unwrap_or(dir);
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{file_name}.new"));
    fs::create_dir_all(folder).map_err(io)?;
    let mut file = File::create(&temporary).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)?;
    hook(Step::Written)?;
    fs::rename(&temporary, &path).map_err(io)?;
    sync_folder(folder).map_err(io)?;
    sync_folder(dir).map_err(io)?;
    hook(Step::Renamed)
}

pub(super) fn describe(path: String, rows: usize, bytes: &[u8]) -> SealedFile {
    SealedFile { path, rows: rows as u64, bytes: bytes.len() as u64, sha256: sha256(bytes) }
}

/// Lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
