//! The durable truth: what was decided, what was answered, what happened.
//!
//! # What is stored
//! One embedded store, nine keyspaces, one writer thread:
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `identity` | name | the epoch; why the folder is an old copy, if it is; log id and format version stand in the folder's own file |
//! | `decisions` | epoch, physical id | [`DecisionRecord`], until phase two is done everywhere |
//! | `intents` | epoch, physical id | [`Intent`] of a one-phase commit, until its outcome is known |
//! | `answers` | transaction id | answers of folders made in format 1, one by one, until they are pruned |
//! | `outcomes` | first sequence | [`OutcomeRow`]s of one batch, until sealed into Parquet |
//! | `seals` | `open`, or last sequence | the range being sealed, or what a sealed range became |
//! | `resolutions` | epoch, physical id, branch | [`ResolutionRecord`]: what an operator stated, kept for ever |
//! | `answer_ids` | transaction id, packed | which batch of answers has its answer, and where |
//! | `answer_batches` | number | [`AnswerRecord`]s of one batch: request hashes and the answers as given |
//!
//! Decisions, outcome rows and answers are packed: `packed` says how, `decisions`, `rows` and
//! `answers` what; one that starts with `{` is JSON, of format 1. Everything else is JSON. A value of `outcomes` stands for
//! as many sequences as it has rows; it leaves when the last of them is sealed. Whoever wants to
//! look: `presume txn rows` prints rows and answers of a stopped coordinator as JSON.
//!
//! # Invariants
//! - No record of a decision means abort (presumed abort).
//! - Answer, idempotency key, outcome row and commit decision go in one durable batch, before the
//!   client hears anything.
//! - Outcome rows are numbered in the order of their durability, without gaps.
//! - What an operator states of a branch is durable before it takes effect.
//! - A failed write poisons the log: it refuses everything until the process starts again.
//!
//! What a coordinator asks of it is the trait [`Decisions`]; [`DecisionLog`] is the embedded log.

mod answers;
mod decisions;
mod packed;
mod records;
mod resolutions;
mod rows;
mod seal;
mod seen;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::store::Announced;
use crate::store::{self, Batch, Keyspace, Store, Urgency};
use crate::txn::{Epoch, LogId, PhysicalId, TxnId};

pub use records::{
    AnswerRecord, DecisionRecord, Given, Intent, OutcomeLeg, OutcomeRow, RecordedBranch, Recovered,
};
pub use resolutions::ResolutionRecord;
pub use seal::{SealRange, SealedFile, SealedRange};

use seen::Seen;

// A store made before the last one was added gets it when it is opened.
const KEYSPACES: &[&str] = &[
    "identity",
    "decisions",
    "intents",
    "answers",
    "outcomes",
    "seals",
    "resolutions",
    "answer_ids",
    "answer_batches",
];
const IDENTITY: Keyspace = Keyspace::at(0);
const DECISIONS: Keyspace = Keyspace::at(1);
const INTENTS: Keyspace = Keyspace::at(2);
const ANSWERS: Keyspace = Keyspace::at(3);
const OUTCOMES: Keyspace = Keyspace::at(4);
const SEALS: Keyspace = Keyspace::at(5);
const RESOLUTIONS: Keyspace = Keyspace::at(6);
const ANSWER_IDS: Keyspace = Keyspace::at(7);
const ANSWER_BATCHES: Keyspace = Keyspace::at(8);

/// Their number grows with the answers, whose ids may come in any order.
const LARGE: &[Keyspace] = &[ANSWER_IDS];

const EPOCH_KEY: &[u8] = b"epoch";
const OVERTAKEN_KEY: &[u8] = b"overtaken";
const NEWEST_KEY: &[u8] = b"newest";
/// Version of the records below. Of 1 were answers and rows one by one, as JSON; they are read.
const VERSION: u32 = 2;
/// Answers removed in one batch, and those of one value more.
const PRUNE_COUNT_MAX: usize = 1_000;

/// Why the decision log did not do it. See [`store::Error`] for what to do about each kind.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store below failed.
    #[error("decision log: {0}")]
    Store(#[from] store::Error),
    /// Another range is being sealed: finish it first.
    #[error("outcome rows {first} to {last} are being sealed already")]
    SealOpen {
        /// Its first sequence.
        first: u64,
        /// Its last sequence.
        last: u64,
    },
    /// A participant has once known a later epoch: another copy of this log went on, and decided
    /// what this one does not know.
    #[error("the folder is an old copy, found at an earlier start, start the newer one: {detail}")]
    Overtaken {
        /// Which participant knew what.
        detail: String,
    },
    /// Give the folder of a coordinator that has run.
    #[error("{} holds no decision log", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
}

/// What a log keeps and how much may wait.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long answers are kept, by [`AnswerRecord::at`]; unresolved ones stay for ever.
    pub answer_retention: Duration,
    /// The most writes waiting; more are refused.
    pub queue_count_max: usize,
    /// The longest that [`Decisions::finish`] waits for another write to share its flush.
    pub lazy_flush_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let store = store::Options::new("decision log", VERSION, KEYSPACES);
        Self {
            answer_retention: Duration::from_hours(7 * 24),
            queue_count_max: store.queue_count_max,
            lazy_flush_after: store.lazy_flush_after,
        }
    }
}

/// How one transaction ended: what its client is told, and what learning will read.
pub type Recorded<'a> = (Given<'a>, &'a OutcomeRow);

/// What a coordinator asks of its decision log, wherever that stands. Writes are queued by the
/// call itself, in its order; their futures resolve when they are durable.
pub trait Decisions: Send + Sync {
    /// The random identity made with the log.
    fn log_id(&self) -> LogId;

    /// How often it has been opened.
    fn epoch(&self) -> Epoch;

    /// 1, 2, … within this epoch.
    fn next_physical(&self) -> PhysicalId;

    /// Tells the log that an outcome is about to be recorded: transactions in step then share
    /// flushes (see [`store`](crate::store)). Drop the guard after the call that records it.
    fn announce(&self) -> Option<Announced> {
        None
    }

    /// Makes the intent of a one-phase commit durable, before it is sent.
    fn record_intent(&self, intent: &Intent) -> BoxFuture<'static, Result<(), Error>>;

    /// Makes outcomes durable, all or nothing: the commit decision if there is one, each member's
    /// answer and outcome row, in this order; and removes the intent that they settle.
    ///
    /// After an error the outcome is in doubt until the log is opened again, except for
    /// [`store::Error::Full`] and [`store::Error::Closed`], which wrote nothing.
    fn record_outcomes(
        &self,
        decision: Option<&DecisionRecord>,
        outcomes: &[Recorded<'_>],
        intent_done: Option<(Epoch, PhysicalId)>,
    ) -> BoxFuture<'static, Result<(), Error>>;

    /// Forgets a decision that every participant has acknowledged. Lazy: if it is lost, the
    /// decision is back after a crash and acknowledged again.
    fn finish(&self, epoch: Epoch, physical: PhysicalId) -> BoxFuture<'static, Result<(), Error>>;

    /// Notes, durably, that another copy of this log went on. It is not opened again: each opening
    /// is a later epoch, and one of them would be late enough.
    fn overtaken(&self, _detail: &str) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Replaces an answer: one in doubt that became final, or one found to be heuristic.
    fn update_answer(&self, answer: Given<'_>) -> BoxFuture<'static, Result<(), Error>>;

    /// Makes durable what an operator states of a branch, and in the same batch the answers as
    /// they are from now on.
    fn record_resolution(
        &self,
        resolution: &ResolutionRecord,
        answers: &[AnswerRecord],
    ) -> BoxFuture<'static, Result<(), Error>>;

    /// Everything that operators stated, in the order of executions.
    fn resolutions(&self) -> Result<Vec<ResolutionRecord>, Error>;

    /// What was answered, if anything durable was.
    fn answer(&self, id: &TxnId) -> Result<Option<AnswerRecord>, Error>;

    /// The commit decision of an execution, until it is finished everywhere.
    fn decision(&self, epoch: Epoch, physical: PhysicalId)
    -> Result<Option<DecisionRecord>, Error>;

    /// How often the log has synced since it was opened.
    fn flushes(&self) -> u64;

    /// Whether it takes writes.
    fn healthy(&self) -> bool;
}

/// The durable truth of one coordinator, embedded; clones share it.
#[derive(Clone)]
pub struct DecisionLog(Arc<Inner>);

struct Inner {
    store: Store,
    epoch: Epoch,
    next_physical: AtomicU64,
    /// The newest execution that may have committed anywhere.
    newest: Mutex<Option<(Epoch, PhysicalId)>>,
    /// The last sequence whose row is sealed.
    sealed_to: AtomicU64,
    /// The number of the next batch of answers.
    next_answers: AtomicU64,
    /// Answers of format 1 are left.
    old_answers: AtomicBool,
    seen: Seen,
    answer_retention: Duration,
}

impl DecisionLog {
    /// Opens or makes the log in a folder and starts its next epoch, durably.
    pub fn open(path: &Path, options: Options) -> Result<(Self, Recovered), Error> {
        Self::open_at(path, options, |last| Epoch(last.0 + 1))
    }

    fn open_at(
        path: &Path,
        options: Options,
        epoch: impl FnOnce(Epoch) -> Epoch,
    ) -> Result<(Self, Recovered), Error> {
        let store_options = store::Options {
            queue_count_max: options.queue_count_max,
            lazy_flush_after: options.lazy_flush_after,
            large: LARGE,
            ..store::Options::new("decision log", VERSION, KEYSPACES)
        };
        let store = Store::open(path, &store_options)?;
        if let Some(detail) = store.get(IDENTITY, OVERTAKEN_KEY)? {
            let detail = String::from_utf8_lossy(&detail).into_owned();
            return Err(Error::Overtaken { detail });
        }
        let epoch = epoch(last_epoch(&store)?);
        let sealed_to = seal::last_sealed(&store)?;
        let recovered = Recovered {
            decisions: decisions::read_all(&store)?,
            intents: read_all(&store, INTENTS)?,
            resolutions: read_all(&store, RESOLUTIONS)?,
            newest: newest(&store)?,
        };
        let next_answers = AtomicU64::new(answers::next_number(&store)?);
        let old_answers = AtomicBool::new(answers::any_old(&store)?);
        let seen = Seen::of(&store);
        let mut batch = Batch::new();
        batch.put(IDENTITY, EPOCH_KEY.to_vec(), epoch.0.to_be_bytes().to_vec());
        store.submit(batch, Urgency::Urgent)?.wait()?;
        let log = Self(Arc::new(Inner {
            store,
            epoch,
            next_physical: AtomicU64::new(1),
            newest: Mutex::new(recovered.newest),
            sealed_to: AtomicU64::new(sealed_to),
            next_answers,
            old_answers,
            seen,
            answer_retention: options.answer_retention,
        }));
        Ok((log, recovered))
    }

    /// Executions of this log that may still ask participants how they ended.
    pub fn open_executions(&self) -> Result<HashSet<(LogId, Epoch, PhysicalId)>, Error> {
        let decisions = decisions::read_all(self.store())?;
        let intents: Vec<Intent> = read_all(self.store(), INTENTS)?;
        let decisions = decisions.iter().map(|decision| (decision.epoch, decision.physical));
        let intents = intents.iter().map(|intent| (intent.epoch, intent.physical));
        let log = self.log_id();
        Ok(decisions.chain(intents).map(|(epoch, physical)| (log, epoch, physical)).collect())
    }

    /// How many writes became durable since it was opened.
    pub fn writes(&self) -> u64 {
        self.store().writes()
    }

    /// Flushes what is queued and refuses everything after. Blocks for that flush.
    pub fn close(&self) -> Result<(), Error> {
        Ok(self.store().close()?)
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn write(&self, batch: Batch) -> BoxFuture<'static, Result<(), Error>> {
        let write = self.store().write(batch);
        Box::pin(async move { Ok(write.await.map(drop)?) })
    }

    /// Writes what lets an execution commit somewhere: from then on the log knows that it was.
    fn write_commit(
        &self,
        execution: (Epoch, PhysicalId),
        mut batch: Batch,
    ) -> BoxFuture<'static, Result<(), Error>> {
        // Queued under the lock, so that no lower one follows a higher one.
        let mut newest = self.0.newest.lock().expect("no panic while held");
        let highest = newest.map_or(execution, |newest| newest.max(execution));
        *newest = Some(highest);
        batch.put(IDENTITY, NEWEST_KEY.to_vec(), execution_key(highest.0, highest.1));
        self.write(batch)
    }

    fn unresolved(&self) -> Result<HashSet<TxnId>, Error> {
        let decisions = decisions::read_all(self.store())?;
        let intents: Vec<Intent> = read_all(self.store(), INTENTS)?;
        let members = decisions.into_iter().flat_map(|decision| decision.members);
        Ok(members.chain(intents.into_iter().map(|intent| intent.row.txn_id)).collect())
    }
}

impl Decisions for DecisionLog {
    fn log_id(&self) -> LogId {
        LogId(self.store().id())
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    fn next_physical(&self) -> PhysicalId {
        PhysicalId(self.0.next_physical.fetch_add(1, Ordering::Relaxed))
    }

    fn announce(&self) -> Option<Announced> {
        Some(self.store().announce())
    }

    fn record_intent(&self, intent: &Intent) -> BoxFuture<'static, Result<(), Error>> {
        let mut batch = Batch::new();
        batch.put(INTENTS, execution_key(intent.epoch, intent.physical), encode(intent));
        self.write_commit((intent.epoch, intent.physical), batch)
    }

    fn record_outcomes(
        &self,
        decision: Option<&DecisionRecord>,
        outcomes: &[Recorded<'_>],
        intent_done: Option<(Epoch, PhysicalId)>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let mut batch = Batch::new();
        if let Some(decision) = decision {
            let key = execution_key(decision.epoch, decision.physical);
            batch.put(DECISIONS, key, decisions::encode(decision));
        }
        if let Some((epoch, physical)) = intent_done {
            batch.delete(INTENTS, execution_key(epoch, physical));
        }
        self.put_answers(&mut batch, outcomes.iter().map(|(given, _)| *given));
        for run in outcomes.chunks(rows::RUN_MAX) {
            let count = u32::try_from(run.len()).expect("a few");
            let value = rows::encode(run.iter().map(|(_, row)| *row));
            batch.append_run(OUTCOMES, count, value);
        }
        match decision {
            Some(decision) => self.write_commit((decision.epoch, decision.physical), batch),
            None => self.write(batch),
        }
    }

    fn finish(&self, epoch: Epoch, physical: PhysicalId) -> BoxFuture<'static, Result<(), Error>> {
        let mut batch = Batch::new();
        batch.delete(DECISIONS, execution_key(epoch, physical));
        let write = self.store().write_lazy(batch);
        Box::pin(async move { Ok(write.await.map(drop)?) })
    }

    fn overtaken(&self, detail: &str) -> BoxFuture<'static, Result<(), Error>> {
        let mut batch = Batch::new();
        batch.put(IDENTITY, OVERTAKEN_KEY.to_vec(), detail.as_bytes().to_vec());
        self.write(batch)
    }

    fn update_answer(&self, answer: Given<'_>) -> BoxFuture<'static, Result<(), Error>> {
        let mut batch = Batch::new();
        self.put_answers(&mut batch, std::iter::once(answer));
        self.write(batch)
    }

    fn record_resolution(
        &self,
        resolution: &ResolutionRecord,
        answers: &[AnswerRecord],
    ) -> BoxFuture<'static, Result<(), Error>> {
        self.write_resolution(resolution, answers)
    }

    fn resolutions(&self) -> Result<Vec<ResolutionRecord>, Error> {
        self.read_resolutions()
    }

    fn answer(&self, id: &TxnId) -> Result<Option<AnswerRecord>, Error> {
        self.read_answer(id)
    }

    fn decision(
        &self,
        epoch: Epoch,
        physical: PhysicalId,
    ) -> Result<Option<DecisionRecord>, Error> {
        let key = execution_key(epoch, physical);
        let value = self.store().get(DECISIONS, &key)?;
        value.map(|value| decisions::read(self.store(), &key, &value)).transpose()
    }

    fn flushes(&self) -> u64 {
        self.store().flushes()
    }

    fn healthy(&self) -> bool {
        self.store().healthy()
    }
}

fn last_epoch(store: &Store) -> Result<Epoch, Error> {
    let Some(value) = store.get(IDENTITY, EPOCH_KEY)? else { return Ok(Epoch(0)) };
    let bytes = <[u8; 8]>::try_from(value.as_slice());
    let last = bytes.map_err(|_| store.record_error(IDENTITY, EPOCH_KEY, "not 8 bytes"))?;
    Ok(Epoch(u64::from_be_bytes(last)))
}

fn newest(store: &Store) -> Result<Option<(Epoch, PhysicalId)>, Error> {
    let Some(value) = store.get(IDENTITY, NEWEST_KEY)? else { return Ok(None) };
    let bytes = <[u8; 16]>::try_from(value.as_slice());
    let bytes = bytes.map_err(|_| store.record_error(IDENTITY, NEWEST_KEY, "not 16 bytes"))?;
    let number = u128::from_be_bytes(bytes);
    let [epoch, physical] = [number >> 64, number & u128::from(u64::MAX)]
        .map(|half| u64::try_from(half).expect("64 bits"));
    Ok(Some((Epoch(epoch), PhysicalId(physical))))
}

fn execution_key(epoch: Epoch, physical: PhysicalId) -> Vec<u8> {
    [epoch.0.to_be_bytes(), physical.0.to_be_bytes()].concat()
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have text keys only")
}

fn decode<T: DeserializeOwned>(
    store: &Store,
    keyspace: Keyspace,
    key: &[u8],
    value: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|e| store.record_error(keyspace, key, e).into())
}

fn read<T: DeserializeOwned>(
    store: &Store,
    keyspace: Keyspace,
    key: &[u8],
) -> Result<Option<T>, Error> {
    let value = store.get(keyspace, key)?;
    value.map(|value| decode(store, keyspace, key, &value)).transpose()
}

fn read_all<T: DeserializeOwned>(store: &Store, keyspace: Keyspace) -> Result<Vec<T>, Error> {
    let entries = store.prefix(keyspace, b"");
    entries
        .map(|entry| {
            let (key, value) = entry?;
            decode(store, keyspace, &key, &value)
        })
        .collect()
}
