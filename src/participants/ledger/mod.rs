//! The embedded double-entry ledger: a participant that needs no server.
//!
//! Each ledger is its own store folder. Every movement is a pair of postings, so the sum over all
//! its accounts is zero: `debit` moves from an account to the ledger's own `settlement`, `credit`
//! the other way, `transfer` between two accounts; opening balances come from `equity`. Only these
//! two and accounts opened with overdraft may go below zero.
//!
//! # Two phases
//! Prepare *holds*: held debits are no longer available, held credits are not yet spendable, not
//! even by a later operation of the same branch. Commit posts the holds, abort returns them.
//! `Yes` and `Done` are durable. Effects are visible in memory as soon as they are queued; the
//! store keeps their order, so nothing durable ever rests on something that is not.
//!
//! # What is stored
//! | keyspace | key | value |
//! |---|---|---|
//! | `accounts` | account id | balance, overdraft |
//! | `pending` | gid | postings that are held |
//! | `transfers` | gid, or opened account | postings carried out; also the marker *committed* |
//! | `tombstones` | gid | aborted, also before any prepare arrived |
//! | `carried` | account id | sum of the postings that were pruned |
//! | `epochs` | log id | highest epoch; older ones are refused |
//!
//! All accounts and holds are in memory too: about 130 bytes an account, bounded by
//! [`Options::accounts_max`]. A check of a read-only operation is not held: it is true when the
//! vote is given.
//!
//! # Pruning
//! Markers (`transfers`, `tombstones`) answer repeated calls. [`Ledger::prune`] removes those older
//! than an instant, except of executions that the caller names as open: a coordinator repeats
//! commits only of decisions in its log, and asks only about its open intents.

mod accounts;
mod batches;
mod book;
mod branches;
mod operation;
mod records;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::{self, Announced, Store};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, Timestamp, Vote};

use super::{Ack, Batches, BoxFuture, ClaimError, Inquiry, Participant, Prepared};

pub use accounts::NewAccount;
pub use book::{Balance, EQUITY, Overdraft, SETTLEMENT};
pub use verify::Report;

use book::{Book, Posting};
use records::KEYSPACES;

/// Version of the records.
const VERSION: u32 = 1;
/// How many declined gids are remembered, so that a repeated prepare hears the same.
const DECLINED_MAX: usize = 16_384;

/// Limits of a ledger.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most accounts, at about 130 bytes of memory each.
    pub accounts_max: usize,
    /// The most branches prepared at a time.
    pub pending_max: usize,
    /// The most writes waiting; more are declined.
    pub queue_count_max: usize,
    /// The longest that a commit or abort waits for another write to share its flush.
    pub lazy_flush_after: Duration,
    /// What dates the markers.
    pub clock: fn() -> Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        let store = store::Options::new("ledger", VERSION, KEYSPACES);
        Self {
            accounts_max: 4_000_000,
            pending_max: 65_536,
            queue_count_max: store.queue_count_max,
            lazy_flush_after: store.lazy_flush_after,
            clock: system_clock,
        }
    }
}

/// Why a ledger did not open, or an account not.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store below failed; see [`store::Error`] for what to do about each kind.
    #[error("ledger: {0}")]
    Store(#[from] store::Error),
    /// Give another name.
    #[error("ledger name {name:?} may only hold letters, digits, '-', '_' and inner dots")]
    Name {
        /// What was given.
        name: String,
    },
    /// Give another id.
    #[error("account {id:?}: {detail}")]
    Account {
        /// The account.
        id: String,
        /// Why not.
        detail: String,
    },
    /// Raise the limit or open fewer.
    #[error("the ledger would have {count} accounts, the limit is {limit}")]
    TooManyAccounts {
        /// How many there would be.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// The folder of a named ledger within a data folder.
pub fn folder(data: &Path, name: &str) -> Result<PathBuf, Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(Error::Name { name: name.to_owned() });
    }
    Ok(data.join("ledgers").join(name))
}

/// An open ledger; clones share it.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    store: Store,
    options: Options,
    state: Mutex<State>,
    /// Two prunes at once would carry postings twice.
    pruning: tokio::sync::Mutex<()>,
}

/// Everything that decisions rest on. Batches are queued while it is locked, so that the order in
/// the store is the order in memory.
#[derive(Default)]
struct State {
    book: Book,
    pending: HashMap<Gid, Pending>,
    /// Batches that have worked and are not prepared.
    held: HashMap<Gid, Vec<Posting>>,
    epochs: HashMap<LogId, Epoch>,
    /// How branches ended whose marker is not readable yet.
    ended: HashMap<Gid, Ended>,
    /// The same in order of their tickets.
    ended_order: VecDeque<(u64, Gid)>,
    declined: HashMap<Gid, Declined>,
    declined_order: VecDeque<Gid>,
}

struct Pending {
    postings: Vec<Posting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Committed,
    Aborted,
}

impl Ledger {
    /// Opens or makes the ledger in a folder, with everything it holds.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let store_options = store::Options {
            queue_count_max: options.queue_count_max,
            lazy_flush_after: options.lazy_flush_after,
            ..store::Options::new("ledger", VERSION, KEYSPACES)
        };
        let store = Store::open(path, &store_options)?;
        let state = accounts::load(&store, &options)?;
        let state = Mutex::new(state);
        let pruning = tokio::sync::Mutex::default();
        Ok(Self(Arc::new(Inner { store, options, state, pruning })))
    }

    /// Its own identity, made with its folder.
    pub fn identity(&self) -> String {
        format!("ledger:{}", self.0.store.id().simple())
    }

    /// How often its store has synced since it was opened.
    pub fn flushes(&self) -> u64 {
        self.0.store.flushes()
    }

    /// How many writes became durable since it was opened.
    pub fn writes(&self) -> u64 {
        self.0.store.writes()
    }

    /// Whether it takes writes.
    pub fn healthy(&self) -> bool {
        self.0.store.healthy()
    }

    /// Flushes what is queued and refuses everything after. Blocks for that flush.
    pub fn close(&self) -> Result<(), Error> {
        Ok(self.0.store.close()?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        (self.0.options.clock)()
    }
}

impl Participant for Ledger {
    fn validate(&self, operation: &Operation) -> Result<(), String> {
        operation::validate(operation)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>> {
        Box::pin(async move {
            self.claim(log, epoch).await?;
            Ok(self.identity())
        })
    }

    fn announce(&self) -> Option<Announced> {
        Some(self.0.store.announce())
    }

    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        Box::pin(self.prepare_branch(gid, operations))
    }

    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        Box::pin(self.commit_at_once(gid, operations))
    }

    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        Box::pin(self.commit_branch(gid))
    }

    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        Box::pin(self.abort_branch(gid))
    }

    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        Box::pin(self.inquire_branch(gid))
    }

    fn batches(&self) -> Option<&dyn Batches> {
        Some(self)
    }

    fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>> {
        let branches = self.state().pending.keys().copied().collect();
        Box::pin(std::future::ready(Ok(Prepared { branches, others: Vec::new() })))
    }
}

#[allow(clippy::disallowed_methods, reason = "dates markers; decisions never look at it")]
fn system_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    Timestamp::from_micros(micros)
}
