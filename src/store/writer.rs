//! The one thread that writes: drain, one durable batch, wake all.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::{Database, OwnedWriteBatch, PersistMode};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::batch::Operation;
use super::error::io;
use super::gather::Gather;
use super::queue::{Reply, Request, Shared, State};
use super::reader::Reader;
use super::{Batch, Error, Keyspace, Options, Urgency, journal};

pub(super) fn spawn(
    options: &Options,
    database: Database,
    reader: &Reader,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, Error> {
    let own = reader.writer_keyspace();
    let mut next_sequences = Vec::with_capacity(options.keyspaces.len());
    for position in 0..options.keyspaces.len() {
        next_sequences.push(read_number(reader, own, &sequence_key(position))?.unwrap_or(1));
    }
    let writer = Writer {
        database,
        reader: reader.clone(),
        shared,
        own,
        next_sequences,
        flush: read_number(reader, own, FLUSH_COUNT_KEY)?.unwrap_or(0),
        lazy_flush_after: options.lazy_flush_after,
        flush_count_max: options.flush_count_max,
        gather: Gather::default(),
        seed: RandomState::new().hash_one(()),
    };
    std::thread::Builder::new()
        .name(format!("presume-{}", options.kind))
        .spawn(move || {
            // Nobody may wait for a thread that is gone.
            let shared = Arc::clone(&writer.shared);
            let run = std::panic::AssertUnwindSafe(|| writer.run());
            if std::panic::catch_unwind(run).is_err() {
                shared.set_poison("the writer thread panicked");
            }
            let error = shared.gone();
            fail(drain_all(&mut shared.lock()), &error);
        })
        .map_err(|e| io(std::path::Path::new(options.kind), "start the writer thread", e))
}

const FLUSH_COUNT_KEY: &[u8] = b"flushes";
const MARKER_KEY: &[u8] = b"marker";
/// Records of the writer's own in a flush: next sequences, count, marker. A hint.
const OWN_COUNT_MAX: usize = 4;

fn sequence_key(position: usize) -> Vec<u8> {
    format!("sequence/{position}").into_bytes()
}

fn read_number(reader: &Reader, own: Keyspace, key: &[u8]) -> Result<Option<u64>, Error> {
    let Some(value) = reader.get(own, key)? else { return Ok(None) };
    let bytes = <[u8; 8]>::try_from(value.as_slice());
    let number = bytes.map_err(|_| reader.record_error(own, key, "not a number of 8 bytes"))?;
    Ok(Some(u64::from_be_bytes(number)))
}

struct Writer {
    database: Database,
    reader: Reader,
    shared: Arc<Shared>,
    own: Keyspace,
    next_sequences: Vec<u64>,
    flush: u64,
    lazy_flush_after: Duration,
    flush_count_max: usize,
    gather: Gather,
    /// Of the hash of keys, which clients choose.
    seed: u64,
}

/// Writes of one flush; of two to the same key the later wins, because the database gives all
/// writes of a batch the same age.
struct Merged {
    writes: Vec<(Keyspace, Vec<u8>, Option<Vec<u8>>)>,
    /// Positions in `writes` by key, of those that another may be meant to replace.
    positions: HashTable<usize>,
    /// Keyspaces that got appended values, a bit each.
    appended: u32,
    seed: u64,
}

impl Merged {
    fn with_capacity(count: usize, seed: u64) -> Self {
        let positions = HashTable::with_capacity(count);
        Self { writes: Vec::with_capacity(count), positions, appended: 0, seed }
    }

    fn set(&mut self, keyspace: Keyspace, key: Vec<u8>, value: Option<Vec<u8>>) {
        let writes = &self.writes;
        let same = |at: &usize| writes[*at].0 == keyspace && writes[*at].1 == key;
        let seed = self.seed;
        let hash = |at: &usize| hash_of(seed, writes[*at].0, &writes[*at].1);
        match self.positions.entry(hash_of(seed, keyspace, &key), same, hash) {
            Entry::Occupied(at) => self.writes[*at.get()].2 = value,
            Entry::Vacant(place) => {
                place.insert(writes.len());
                self.writes.push((keyspace, key, value));
            }
        }
    }

    /// Sets a key that was never there.
    fn add(&mut self, keyspace: Keyspace, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push((keyspace, key, Some(value)));
    }
}

fn hash_of(seed: u64, keyspace: Keyspace, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed ^ u64::from(keyspace.0))
}

impl Writer {
    fn run(mut self) {
        while let Some(requests) = self.next() {
            self.serve(requests);
        }
    }

    /// What the next flush holds; `None` when the store is closed and all is flushed.
    fn next(&mut self) -> Option<Vec<Request>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if state.urgent > 0 || (state.closed && !state.requests.is_empty()) {
                break;
            }
            if state.closed {
                return None;
            }
            state.idle = true;
            if let Some(since) = state.lazy_since {
                let left = self.lazy_flush_after.saturating_sub(elapsed(since));
                if left.is_zero() {
                    break;
                }
                let waited = shared.ready.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.idle = false;
        let mut state = self.gather.wait(&shared, state);
        let urgent = state.urgent;
        state.expected.flush_begins(urgent);
        Some(drain(&mut state, self.flush_count_max))
    }

    fn serve(&mut self, requests: Vec<Request>) {
        if let Some(error) = self.shared.poison() {
            return fail(requests, &error);
        }
        let count = requests.len() as u64;
        let operations: usize = requests.iter().map(|request| request.batch.operations.len()).sum();
        let mut merged = Merged::with_capacity(operations + OWN_COUNT_MAX, self.seed);
        let mut replies = Vec::with_capacity(requests.len());
        let mut ticket = 0;
        for request in requests {
            ticket = request.ticket;
            let sequences = self.merge(&mut merged, request.batch);
            replies.push((request.reply, sequences));
        }
        let started = now();
        if !merged.writes.is_empty() {
            if let Err(cause) = self.commit(merged) {
                self.shared.set_poison(&cause);
                let error = self.shared.gone();
                for (reply, _) in replies {
                    reply.fail(error.clone());
                }
                return;
            }
            self.gather.flush_took(elapsed(started));
            self.shared.flushes.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.writes.fetch_add(count, Ordering::Relaxed);
        self.shared.durable.store(ticket, Ordering::Release);
        for (reply, sequences) in replies {
            match reply {
                Reply::Write(sender) => drop(sender.send(Ok(sequences))),
                Reply::Snapshot(sender) => drop(sender.send(Ok(self.reader.snapshot()))),
            }
        }
    }

    fn merge(&mut self, merged: &mut Merged, batch: Batch) -> Vec<u64> {
        let mut sequences = Vec::new();
        for operation in batch.operations {
            match operation {
                Operation::Put(keyspace, key, value) => merged.set(keyspace, key, Some(value)),
                Operation::Delete(keyspace, key) => merged.set(keyspace, key, None),
                Operation::Append(keyspace, count, value) => {
                    let position = usize::from(keyspace.0);
                    let sequence = self.next_sequences[position];
                    self.next_sequences[position] = sequence + u64::from(count);
                    merged.add(keyspace, sequence.to_be_bytes().to_vec(), value);
                    merged.appended |= 1 << position;
                    sequences.push(sequence);
                }
            }
        }
        sequences
    }

    fn commit(&mut self, mut merged: Merged) -> Result<(), String> {
        self.flush += 1;
        for (position, next) in self.next_sequences.iter().enumerate() {
            if merged.appended & (1 << position) != 0 {
                let next = next.to_be_bytes().to_vec();
                merged.set(self.own, sequence_key(position), Some(next));
            }
        }
        merged.set(self.own, FLUSH_COUNT_KEY.to_vec(), Some(self.flush.to_be_bytes().to_vec()));
        merged.set(self.own, MARKER_KEY.to_vec(), Some(journal::marker(self.flush)));
        let batch = OwnedWriteBatch::with_capacity(self.database.clone(), merged.writes.len());
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        for (keyspace, key, value) in merged.writes {
            let keyspace = self.reader.keyspace(keyspace);
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        let commit = std::panic::AssertUnwindSafe(|| batch.commit());
        match std::panic::catch_unwind(commit) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fjall::Error::Io(error))) => Err(error.to_string()),
            Ok(Err(fjall::Error::Poisoned)) => Err("a background write failed".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the database panicked".to_owned()),
        }
    }
}

/// Takes requests in order, up to the limit and up to a snapshot, which must see no later ones.
fn drain(state: &mut State, count_max: usize) -> Vec<Request> {
    let mut requests = Vec::with_capacity(state.requests.len().min(count_max));
    while requests.len() < count_max
        && let Some(request) = state.requests.pop_front()
    {
        state.bytes -= request.batch.bytes;
        if request.urgency == Urgency::Urgent {
            state.urgent -= 1;
        }
        let ends = matches!(request.reply, Reply::Snapshot(_));
        requests.push(request);
        if ends {
            break;
        }
    }
    if state.requests.is_empty() {
        state.lazy_since = None;
    }
    requests
}

fn drain_all(state: &mut State) -> Vec<Request> {
    state.closed = true;
    (state.bytes, state.urgent) = (0, 0);
    state.requests.drain(..).collect()
}

fn fail(requests: Vec<Request>, error: &Error) {
    for request in requests {
        request.reply.fail(error.clone());
    }
}

#[allow(clippy::disallowed_methods, reason = "measures flushes and bounds waiting")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn elapsed(since: Instant) -> Duration {
    now().saturating_duration_since(since)
}
