//! What can go wrong with a store, each kind with what to do about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a store did not open, write or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Stop the other process, or give this one another folder.
    #[error("store {} is in use by another process", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// Give another folder.
    #[error("{} is not empty and not a store of ours: {detail}", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Give the folder that belongs here.
    #[error("store {} is a {found}, not a {expected}", folder.display())]
    WrongKind {
        /// The folder.
        folder: PathBuf,
        /// What it says it is.
        found: String,
        /// What was to be opened.
        expected: &'static str,
    },
    /// Upgrade this program.
    #[error("store {} has format {found}, this program knows up to {supported}", folder.display())]
    TooNew {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
        /// The highest that is understood.
        supported: u32,
    },
    /// Call the operator: restore the folder; nothing was repaired.
    #[error("store {} is corrupt: {detail}", folder.display())]
    Corrupt {
        /// The folder.
        folder: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// Call the operator: one record cannot be understood, the others can.
    #[error("record {key} in keyspace {keyspace} of store {} is unreadable: {detail}", folder.display())]
    Record {
        /// The folder.
        folder: PathBuf,
        /// The keyspace.
        keyspace: String,
        /// The key, as text or hexadecimal.
        key: String,
        /// Why.
        detail: String,
    },
    /// Look at the disk and its permissions, then open again.
    #[error("store {}: cannot {what}: {source}", folder.display())]
    Io {
        /// The folder or file.
        folder: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: Arc<std::io::Error>,
    },
    /// A write failed before: stop, look at the cause, start again. Whether that write is durable
    /// is known then.
    #[error("the store refuses writes until it is opened again, because one failed: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// Nothing was written: try again later.
    #[error("{queued} writes are waiting, the limit is {limit}")]
    Full {
        /// How many wait: batches, or bytes if that limit was met.
        queued: usize,
        /// How many may.
        limit: usize,
    },
    /// The store was closed; nothing was written.
    #[error("the store is closed")]
    Closed,
}

pub(super) fn io(folder: &Path, what: &'static str, source: std::io::Error) -> Error {
    Error::Io { folder: folder.to_owned(), what, source: Arc::new(source) }
}

/// Sorts the database's errors into ours. A file that is missing or ends early is damage.
pub(super) fn from_fjall(folder: &Path, what: &'static str, error: fjall::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    let damaged = |e: &std::io::Error| matches!(e.kind(), InvalidData | NotFound | UnexpectedEof);
    match error {
        fjall::Error::Locked => Error::Locked { folder: folder.to_owned() },
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) if !damaged(&e) => {
            io(folder, what, e)
        }
        fjall::Error::Poisoned => Error::Poisoned { cause: "a background write failed".into() },
        other => Error::Corrupt { folder: folder.to_owned(), detail: format!("{what}: {other}") },
    }
}
