//! Reads, from any thread: they see what is durable, never what is only queued.

use std::sync::Arc;

use fjall::{Database, Readable};

use super::error::from_fjall;
use super::folder::Folder;
use super::{Error, Keyspace};

/// A key and its value, if any was found.
pub type LastEntry = Result<Option<(Vec<u8>, Vec<u8>)>, Error>;

/// Handles to the keyspaces; the last of them is the writer's.
#[derive(Clone)]
pub(super) struct Reader {
    keyspaces: Arc<[fjall::Keyspace]>,
    database: Database,
    // Last: the folder is unlocked after the database is closed.
    folder: Arc<Folder>,
}

impl Reader {
    pub fn new(keyspaces: Vec<fjall::Keyspace>, database: Database, folder: Arc<Folder>) -> Self {
        Self { keyspaces: keyspaces.into(), database, folder }
    }

    pub fn keyspace(&self, keyspace: Keyspace) -> &fjall::Keyspace {
        &self.keyspaces[usize::from(keyspace.0)]
    }

    /// The writer's own keyspace.
    pub fn writer_keyspace(&self) -> Keyspace {
        Keyspace(u8::try_from(self.keyspaces.len() - 1).expect("checked to be few"))
    }

    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.keyspace(keyspace).get(key).map_err(|e| self.error(e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    pub fn prefix(&self, keyspace: Keyspace, prefix: &[u8]) -> Entries {
        Entries { iter: self.keyspace(keyspace).prefix(prefix), reader: self.clone() }
    }

    pub fn from(&self, keyspace: Keyspace, key: &[u8]) -> Entries {
        Entries { iter: self.keyspace(keyspace).range(key.to_vec()..), reader: self.clone() }
    }

    pub fn last_within(&self, keyspace: Keyspace, low: &[u8], high: &[u8]) -> LastEntry {
        let mut range = self.keyspace(keyspace).range(low.to_vec()..=high.to_vec());
        let Some(entry) = range.next_back() else { return Ok(None) };
        let (key, value) = entry.into_inner().map_err(|e| self.error(e))?;
        Ok(Some((key.to_vec(), value.to_vec())))
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { snapshot: self.database.snapshot(), reader: self.clone() }
    }

    pub fn record_error(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        detail: impl std::fmt::Display,
    ) -> Error {
        Error::Record {
            folder: self.folder.path().to_owned(),
            keyspace: self.keyspace(keyspace).name().to_string(),
            key: key_text(key),
            detail: detail.to_string(),
        }
    }

    fn error(&self, error: fjall::Error) -> Error {
        from_fjall(self.folder.path(), "read", error)
    }
}

/// Entries of a keyspace in key order, as of one instant.
pub struct Entries {
    iter: fjall::Iter,
    reader: Reader,
}

impl Iterator for Entries {
    type Item = Result<(Vec<u8>, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.iter.next()?.into_inner();
        let entry = entry.map(|(key, value)| (key.to_vec(), value.to_vec()));
        Some(entry.map_err(|error| self.reader.error(error)))
    }
}

/// The whole store as of one instant.
pub struct Snapshot {
    snapshot: fjall::Snapshot,
    reader: Reader,
}

impl Snapshot {
    /// Every entry of a keyspace, in key order.
    pub fn entries(&self, keyspace: Keyspace) -> Entries {
        let iter = self.snapshot.iter(self.reader.keyspace(keyspace));
        Entries { iter, reader: self.reader.clone() }
    }
}

/// A key for a person: as text if it is one, else as a number or hexadecimal.
fn key_text(key: &[u8]) -> String {
    if key.iter().all(u8::is_ascii_graphic) {
        return String::from_utf8_lossy(key).into_owned();
    }
    if let Ok(sequence) = <[u8; 8]>::try_from(key) {
        return u64::from_be_bytes(sequence).to_string();
    }
    format!("0x{}", hex::encode(key))
}
