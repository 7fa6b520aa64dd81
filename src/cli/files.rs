//! Files that several commands are given.

use std::path::Path;

use anyhow::{Context, bail};
use presume::learning::history::Mapping;

/// Largest recipe, mapping or rules file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A small text file.
pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    let at = || path.display().to_string();
    let bytes = std::fs::metadata(path).with_context(at)?.len();
    if bytes > FILE_BYTES_MAX {
        bail!("{} has {bytes} bytes, the limit is {FILE_BYTES_MAX}", path.display());
    }
    std::fs::read_to_string(path).with_context(at)
}

/// How a file of another form is read, if one is given.
pub(super) fn read_mapping(path: Option<&Path>) -> anyhow::Result<Option<Mapping>> {
    let Some(path) = path else { return Ok(None) };
    let mapping = Mapping::parse(&read_text(path)?);
    Ok(Some(mapping.with_context(|| path.display().to_string())?))
}
