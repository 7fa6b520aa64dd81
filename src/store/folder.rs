//! The folder of a store: whose it is, who has it, and whether it was ever completed.
//!
//! `presume-store.json` is written first, in state `creating`, and rewritten as `ready` when the
//! database stands; until then nothing was acknowledged, so an interrupted creation starts over.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use super::error::io;

const IDENTITY: &str = "presume-store.json";
const IDENTITY_NEW: &str = "presume-store.json.new";
const LOCK: &str = "presume-store.lock";
const DATA: &str = "data";
/// Version of this layout; the records have their own.
const LAYOUT: u32 = 1;
/// An identity file is a few hundred bytes; more is not ours.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    layout: u32,
    kind: String,
    version: u32,
    id: Uuid,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Creating,
    Ready,
    Corrupt(String),
}

/// A locked folder; the lock is released when this is dropped or the process dies.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl Folder {
    /// Locks and checks the folder, making it if it is missing or empty.
    pub fn open(path: &Path, kind: &'static str, version: u32) -> Result<(Self, Uuid), Error> {
        fs::create_dir_all(path).map_err(|e| io(path, "create the folder", e))?;
        if !path.join(IDENTITY).exists() {
            refuse_foreign(path)?;
        }
        let lock = lock(path)?;
        let identity = match read_identity(path)? {
            Some(identity) => identity,
            None => create(path, kind, version)?,
        };
        check(path, &identity, kind, version)?;
        let folder = Self { path: path.to_owned(), identity, _lock: lock };
        folder.prepare_data()?;
        let id = folder.identity.id;
        Ok((folder, id))
    }

    /// Whether somebody has made a store there.
    pub fn exists(path: &Path) -> bool {
        path.join(IDENTITY).is_file()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Notes that the database stands, in the format of this program: an older one, which would
    /// not understand what is written from now on, refuses it.
    pub fn mark_ready(&self, version: u32) -> Result<(), Error> {
        if self.identity.state == State::Ready && self.identity.version == version {
            return Ok(());
        }
        let identity = Identity { state: State::Ready, version, ..self.identity.clone() };
        write_identity(&self.path, &identity)
    }

    /// Keeps refusing the folder: the database cuts a damaged journal when it opens it, so the
    /// next open would find no trace.
    pub fn mark_corrupt(&self, detail: &str) -> Result<(), Error> {
        let state = State::Corrupt(detail.to_owned());
        write_identity(&self.path, &Identity { state, ..self.identity.clone() })
    }

    fn prepare_data(&self) -> Result<(), Error> {
        let data = self.data();
        let exists = data.exists();
        if self.identity.state == State::Creating && exists {
            return fs::remove_dir_all(&data).map_err(|e| io(&data, "start over", e));
        }
        if self.identity.state == State::Ready && !exists {
            let detail = format!("its folder {DATA} is missing");
            return Err(Error::Corrupt { folder: self.path.clone(), detail });
        }
        Ok(())
    }
}

fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(path).map_err(|e| io(path, "list the folder", e))?;
    for entry in entries {
        let name = entry.map_err(|e| io(path, "list the folder", e))?.file_name();
        if name != LOCK && name != IDENTITY_NEW {
            let detail = format!("it holds {} and no {IDENTITY}", name.display());
            return Err(Error::Foreign { folder: path.to_owned(), detail });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Error> {
    let open = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
    let file = open.map_err(|e| io(path, "open the lock file", e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { folder: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(io(path, "lock", e)),
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, Error> {
    let file = path.join(IDENTITY);
    let length = match fs::metadata(&file) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&file, "read", e)),
    };
    let corrupt = |detail: String| Error::Corrupt { folder: path.to_owned(), detail };
    if length > IDENTITY_BYTES_MAX {
        return Err(corrupt(format!("{IDENTITY} has {length} bytes")));
    }
    let text = fs::read(&file).map_err(|e| io(&file, "read", e))?;
    let identity = serde_json::from_slice(&text);
    identity.map(Some).map_err(|e| corrupt(format!("{IDENTITY}: {e}")))
}

fn check(path: &Path, identity: &Identity, kind: &'static str, version: u32) -> Result<(), Error> {
    let folder = path.to_owned();
    if identity.layout > LAYOUT {
        return Err(Error::TooNew { folder, found: identity.layout, supported: LAYOUT });
    }
    if identity.kind != kind {
        return Err(Error::WrongKind { folder, found: identity.kind.clone(), expected: kind });
    }
    if identity.version > version {
        return Err(Error::TooNew { folder, found: identity.version, supported: version });
    }
    if let State::Corrupt(detail) = &identity.state {
        return Err(Error::Corrupt { folder, detail: format!("found earlier: {detail}") });
    }
    Ok(())
}

fn create(path: &Path, kind: &str, version: u32) -> Result<Identity, Error> {
    let identity = Identity {
        layout: LAYOUT,
        kind: kind.to_owned(),
        version,
        id: Uuid::new_v4(),
        state: State::Creating,
    };
    write_identity(path, &identity)?;
    Ok(identity)
}

fn write_identity(path: &Path, identity: &Identity) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(identity).expect("plain data has a JSON form");
    let (new, file) = (path.join(IDENTITY_NEW), path.join(IDENTITY));
    let write = || {
        let mut out = File::create(&new)?;
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(path)?.sync_all()
    };
    write().map_err(|e| io(&file, "write", e))
}
