//! One durable key-value store behind one writer thread: group commit.
//!
//! A store is a folder: `presume-store.json` (what it is), `presume-store.lock` (who has it) and
//! `data/` (a fjall database). Callers from any thread queue a [`Batch`]; the writer drains
//! everything queued into *one* fjall batch, syncs once, and wakes all. A batch is atomic, across
//! keyspaces too.
//!
//! # Invariants
//! - Batches become durable in the order in which [`Store::submit`] was called; a batch queued
//!   later is never durable without the earlier ones.
//! - A future resolves with `Ok` only after the sync; reads see only what is durable.
//! - Sequences given to appended values follow that order, without gaps, and are never reused.
//! - A failed write or sync poisons the store: every waiter and every later write is refused, and
//!   nothing is retried. What the failed batch became is known after the next open.
//!
//! # Group commit
//! A *lazy* batch waits for the next urgent one, at most [`Options::lazy_flush_after`]. A caller
//! that will write soon may [announce](Store::announce) itself. A flush waits for those announced,
//! and for as many writers as the last flushes had, so that callers in step share flushes: those
//! of a closed loop of *n* transactions soon share all of them. It stops waiting when nobody came
//! for three flushes' time, or after six (2 to 100 ms); whoever lets four flushes pass is not
//! waited for, and where waiting was in vain it is tried ever more rarely. A single client is
//! never delayed.
//!
//! It deliberately has no transactions, no conditional writes and no retries: whoever needs to
//! decide on what is stored keeps that state in memory, under a lock, and submits inside it.

mod batch;
mod error;
mod folder;
mod gather;
mod journal;
mod queue;
mod reader;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::config::PartitioningPolicy;
use fjall::{Database, KeyspaceCreateOptions};

pub use batch::{Batch, Keyspace};
pub use error::Error;
pub use queue::{Announced, Urgency, Write};
pub use reader::{Entries, LastEntry, Snapshot};

use folder::Folder;
use queue::{Reply, Shared};
use reader::Reader;

/// What a keyspace gathers in memory before it becomes a file. The database's default, 64 MiB, is for
/// one keyspace; a coordinator has dozens.
const MEMTABLE_BYTES_MAX: u64 = 8 << 20;
/// The keyspace of the writer's own records: next sequences and flush markers.
const WRITER_KEYSPACE: &str = "writer";

/// What a store is for and what it may use. Checked by [`Store::open`].
#[derive(Debug, Clone)]
pub struct Options {
    /// What is stored, written into the folder: a folder of another kind is refused.
    pub kind: &'static str,
    /// Version of the records: a folder with a higher one is refused.
    pub version: u32,
    /// Names of the keyspaces; [`Keyspace::at`] is a position in this list.
    pub keyspaces: &'static [&'static str],
    /// Those of them that grow to many times the cache: their filters and indexes are read in
    /// parts. A whole filter is a megabyte for each million keys, which no read should load.
    pub large: &'static [Keyspace],
    /// The longest a lazy batch waits for an urgent one.
    pub lazy_flush_after: Duration,
    /// The most batches waiting; more are refused with [`Error::Full`].
    pub queue_count_max: usize,
    /// The most bytes waiting.
    pub queue_bytes_max: usize,
    /// The most batches in one flush.
    pub flush_count_max: usize,
    /// Cache for reads, in bytes.
    pub cache_bytes: u64,
}

impl Options {
    /// Defaults: 100 ms, 65,536 batches or 64 MiB waiting, 8,192 batches a flush, 8 MiB of cache.
    pub fn new(kind: &'static str, version: u32, keyspaces: &'static [&'static str]) -> Self {
        Self {
            kind,
            version,
            keyspaces,
            large: &[],
            lazy_flush_after: Duration::from_millis(100),
            queue_count_max: 65_536,
            queue_bytes_max: 64 << 20,
            flush_count_max: 8_192,
            cache_bytes: 8 << 20,
        }
    }

    fn check(&self) {
        assert!(!self.keyspaces.is_empty() && self.keyspaces.len() < 32, "1 to 31 keyspaces");
        assert!(!self.keyspaces.contains(&WRITER_KEYSPACE), "`writer` is the store's own");
        let count = self.keyspaces.len();
        assert!(self.large.iter().all(|large| usize::from(large.0) < count), "no such keyspace");
        assert!(self.queue_count_max > 0 && self.queue_bytes_max > 0, "an empty queue");
        assert!(self.flush_count_max > 0, "an empty flush");
    }
}

/// An open store; clones share it. Dropping the last one flushes what is queued.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    reader: Reader,
    writer: Mutex<Option<JoinHandle<()>>>,
    id: uuid::Uuid,
    path: PathBuf,
}

impl Store {
    /// Whether somebody has made a store in a folder.
    pub fn exists(path: &Path) -> bool {
        Folder::exists(path)
    }

    /// Opens the store in `path`, or makes one if the folder is missing or empty.
    ///
    /// Refused with their own errors: a folder in use, a folder of something else, another kind or
    /// a newer format, damaged files.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        options.check();
        let (folder, id) = Folder::open(path, options.kind, options.version)?;
        let folder = Arc::new(folder);
        let before = journal::survey(&folder.data())?;
        let database = open_database(&folder, options)?;
        if let Err(detail) = journal::compare(&folder.data(), &before) {
            folder.mark_corrupt(&detail)?;
            return Err(Error::Corrupt { folder: path.to_owned(), detail });
        }
        let keyspaces = open_keyspaces(&database, options)?;
        folder.mark_ready(options.version)?;
        let reader = Reader::new(keyspaces, database.clone(), folder);
        let shared = Arc::new(Shared::new(options));
        let writer = writer::spawn(options, database, &reader, Arc::clone(&shared))?;
        Ok(Self(Arc::new(Inner {
            shared,
            reader,
            writer: Mutex::new(Some(writer)),
            id,
            path: path.to_owned(),
        })))
    }

    /// The random identity made with the store.
    pub fn id(&self) -> uuid::Uuid {
        self.0.id
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Queues a batch at once; the returned future resolves when it is durable, with the sequences
    /// of its appended values, in order. Dropping the future changes nothing.
    pub fn submit(&self, batch: Batch, urgency: Urgency) -> Result<Write, Error> {
        self.0.shared.submit(batch, urgency)
    }

    /// Queues a batch for the next flush and waits until it is durable.
    pub fn write(&self, batch: Batch) -> impl Future<Output = Result<Vec<u64>, Error>> + use<> {
        let submitted = self.submit(batch, Urgency::Urgent);
        async move { submitted?.await }
    }

    /// Queues a batch that may wait for an urgent one, and waits until it is durable.
    pub fn write_lazy(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<Vec<u64>, Error>> + use<> {
        let submitted = self.submit(batch, Urgency::Lazy);
        async move { submitted?.await }
    }

    /// A view of exactly what was queued before this call, once that is durable.
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, Error>> + use<> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let queued = self.0.shared.push(Batch::default(), Urgency::Urgent, Reply::Snapshot(sender));
        let shared = Arc::clone(&self.0.shared);
        async move {
            queued?;
            receiver.await.unwrap_or_else(|_| Err(shared.gone()))
        }
    }

    /// [`Store::snapshot`], blocking the thread: for the command line.
    pub fn snapshot_wait(&self) -> Result<Snapshot, Error> {
        queue::block_on(self.snapshot())
    }

    /// Tells the writer that a caller is about to write, until the guard is dropped.
    pub fn announce(&self) -> Announced {
        Shared::announce(&self.0.shared)
    }

    /// Every batch up to this ticket is durable and readable.
    pub fn durable_ticket(&self) -> u64 {
        self.0.shared.durable.load(Ordering::Acquire)
    }

    /// The durable value of a key.
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.0.reader.get(keyspace, key)
    }

    /// Durable entries whose key starts with `prefix`, in key order, as of this call.
    pub fn prefix(&self, keyspace: Keyspace, prefix: &[u8]) -> Entries {
        self.0.reader.prefix(keyspace, prefix)
    }

    /// Durable entries from a key on, in key order, as of this call.
    pub fn from(&self, keyspace: Keyspace, key: &[u8]) -> Entries {
        self.0.reader.from(keyspace, key)
    }

    /// The durable entry with the highest key from `low` to `high`, both included.
    pub fn last_within(&self, keyspace: Keyspace, low: &[u8], high: &[u8]) -> LastEntry {
        self.0.reader.last_within(keyspace, low, high)
    }

    /// How often this store has synced since it was opened.
    pub fn flushes(&self) -> u64 {
        self.0.shared.flushes.load(Ordering::Relaxed)
    }

    /// How many batches became durable since it was opened.
    pub fn writes(&self) -> u64 {
        self.0.shared.writes.load(Ordering::Relaxed)
    }

    /// Whether writes are taken: not poisoned, not closed.
    pub fn healthy(&self) -> bool {
        self.0.shared.refusal().is_none()
    }

    /// An unreadable record of this store, located.
    pub fn record_error(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        detail: impl std::fmt::Display,
    ) -> Error {
        self.0.reader.record_error(keyspace, key, detail)
    }

    /// Flushes what is queued and refuses everything after. Blocks for that flush.
    pub fn close(&self) -> Result<(), Error> {
        self.0.close();
        self.0.shared.poison().map_or(Ok(()), Err)
    }
}

impl Inner {
    fn close(&self) {
        self.shared.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            self.shared.set_poison("the writer thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens the database; a panic inside, met on damaged files, is reported as damage.
fn open_database(folder: &Folder, options: &Options) -> Result<Database, Error> {
    let builder = Database::builder(folder.data())
        .cache_size(options.cache_bytes)
        .manual_journal_persist(true)
        .worker_threads(1);
    let open = std::panic::AssertUnwindSafe(|| builder.open());
    match std::panic::catch_unwind(open) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(error::from_fjall(folder.path(), "open", error)),
        Err(_) => Err(Error::Corrupt {
            folder: folder.path().to_owned(),
            detail: "its files cannot be understood".to_owned(),
        }),
    }
}

fn open_keyspaces(database: &Database, options: &Options) -> Result<Vec<fjall::Keyspace>, Error> {
    let names = options.keyspaces.iter().copied().chain([WRITER_KEYSPACE]);
    (0..)
        .map(Keyspace)
        .zip(names)
        .map(|(position, name)| {
            database
                .keyspace(name, || settings(options.large.contains(&position)))
                .map_err(|error| error::from_fjall(Path::new(name), "open keyspace", error))
        })
        .collect()
}

/// What a keyspace is made with; it keeps that for ever.
fn settings(large: bool) -> KeyspaceCreateOptions {
    let settings = KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX);
    if !large {
        return settings;
    }
    settings
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
}
