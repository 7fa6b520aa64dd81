//! Participants: what holds the money, behind one small trait.
//!
//! Every call ends in a typed answer. An answer that was lost or that could mean two things is
//! *unknown*, which is inquired later and never guessed.

pub mod batch;
mod finding;
pub mod http;
pub mod ledger;
pub mod mysql;
pub mod postgres;
mod remote;
mod sql;
mod tls;

use std::time::Duration;

pub use futures_util::future::BoxFuture;

pub use crate::store::Announced;
pub use crate::txn::{Ack, Inquiry};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, OperationName, PhysicalId, Vote};
pub use batch::Batches;
pub use finding::Finding;
pub use remote::Remote;
pub use sql::OperationSql;

/// How long a vote vouches, from when it was asked for, that its coordinator had not been overtaken
/// by another with a copy of its log: a commit that is answered within this time reaches the
/// participant before that other one decides anything there (see [`GRACE`]).
pub const LEASE: Duration = Duration::from_secs(1);
/// How long a claim waits, once it is stored, before it ends what sessions of older epochs are
/// there: [`LEASE`], and the time in which a commit that was sent by then arrives.
pub(crate) const GRACE: Duration = Duration::from_millis(1_500);

/// Why a participant cannot be made: the configuration is to be mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// The URL cannot be used.
    #[error("url: {detail}")]
    Url {
        /// Why not, without the URL: it may hold a password.
        detail: String,
    },
    /// Certificates cannot be had.
    #[error("tls: {detail}")]
    Tls {
        /// Why not.
        detail: String,
    },
    /// The secret is missing or too short.
    #[error("secret: {detail}")]
    Secret {
        /// Why it cannot be used, without it.
        detail: String,
    },
    /// An operation is not one statement with named parameters.
    #[error("operation {operation}: {detail}")]
    Operation {
        /// Which.
        operation: OperationName,
        /// Why not.
        detail: String,
    },
    /// There are too few connections to work with, or too many.
    #[error("connections: {detail}")]
    Connections {
        /// How many there are, and how many there may be.
        detail: String,
    },
    /// The pool of connections cannot be made.
    #[error("pool: {detail}")]
    Pool {
        /// Why not.
        detail: String,
    },
}

/// Why a participant refuses a coordinator at start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It has seen a later epoch of this decision log: an old copy of the folder was started.
    #[error(
        "participant {participant} knows epoch {known} of this decision log, which is at epoch \
         {claimed}: the data folder is an old copy, start the newer one"
    )]
    Stale {
        /// The participant's identity.
        participant: String,
        /// The highest epoch it knows.
        known: u64,
        /// The epoch that was claimed.
        claimed: u64,
    },
    /// It has committed what this log does not know: the folder was restored from a backup.
    #[error(
        "it has committed execution {known_epoch}:{known_physical} of this decision log, which ends \
         at {epoch}:{physical}: the data folder was restored from a backup, start the newer one; if \
         that is lost, start with a new folder, and what is in doubt is listed and left to you"
    )]
    Behind {
        /// The epoch of what was committed there.
        known_epoch: u64,
        /// Its execution within that epoch.
        known_physical: u64,
        /// The epoch of the last that the log knows of.
        epoch: u64,
        /// Its execution within that epoch.
        physical: u64,
    },
    /// It could not be asked. It is asked again.
    #[error("it cannot be reached: {detail}")]
    Unreachable {
        /// Why.
        detail: String,
    },
    /// It answers, and lacks what two-phase commit needs. It is asked again.
    #[error("it cannot take part: {detail}")]
    Unfit {
        /// What is missing, and the statement that mends it.
        detail: String,
    },
}

/// What stands prepared at a participant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Branches of Presume, also those of other decision logs.
    pub branches: Vec<Gid>,
    /// Ids of another form, as they are: somebody else's, listed and never touched.
    pub others: Vec<String>,
}

/// Executions of one decision log that have ended everywhere, durably: all of older epochs, and of
/// `epoch` those below `physical`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedBelow {
    /// Whose.
    pub log: LogId,
    /// The epoch that runs.
    pub epoch: Epoch,
    /// The lowest execution that may not have ended.
    pub physical: PhysicalId,
}

/// One resource that takes part in transactions.
///
/// Implementations are safe to call from any task at any time; each call may be repeated.
pub trait Participant: Send + Sync {
    /// Checks an operation's name and parameters without touching data; `Err` is one sentence.
    fn validate(&self, operation: &Operation) -> Result<(), String>;

    /// Fences every older epoch of `log`: their prepares are refused from now on. Answers the
    /// server's own identity, made with its data: names change, this does not.
    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>>;

    /// Whether another process could claim a later epoch of our log here while we run. A store of
    /// our own is locked, and a copy of our folder has a copy of it.
    fn is_shared(&self) -> bool {
        true
    }

    /// The newest execution of `log` that has committed here in an epoch before `before`, if this
    /// keeps such things, whatever it forgets otherwise. Changes nothing.
    fn newest_commit(
        &self,
        _log: LogId,
        _before: Epoch,
    ) -> BoxFuture<'_, Result<Option<(Epoch, PhysicalId)>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Tells it that a call for a branch is about to come, until the guard is dropped after that
    /// call: a participant that groups its flushes waits for it.
    fn announce(&self) -> Option<Announced> {
        None
    }

    /// Executes the operations and makes them ready to commit. `Yes` is durable.
    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote>;

    /// Executes and commits in one step. `Yes` means committed, durably.
    fn commit_one_phase<'a>(&'a self, gid: Gid, operations: &'a [Operation])
    -> BoxFuture<'a, Vote>;

    /// Commits a prepared branch. The effect is visible when the future is first polled to its
    /// first wait; `Done` is durable.
    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack>;

    /// Rolls a branch back. Of a branch never heard of, it leaves a tombstone that refuses a
    /// prepare arriving later.
    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack>;

    /// Settles the doubt about a one-phase commit.
    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry>;

    /// Removes what is kept only to settle doubts about executions that have ended everywhere.
    /// Answers how many records went.
    fn prune(&self, _ended: EndedBelow) -> BoxFuture<'_, Result<u64, String>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    /// The statement by which a person looks there at a branch that may be prepared, if it
    /// understands statements.
    fn inspection(&self, _gid: Gid) -> Option<String> {
        None
    }

    /// The same participant as one that takes batches, if it does.
    fn batches(&self) -> Option<&dyn Batches> {
        None
    }

    /// Every prepared branch, also those of other coordinators.
    fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>>;
}

/// Runs a call to its end, whatever becomes of its caller.
fn whole<T: Send + 'static>(
    call: impl Future<Output = T> + Send + 'static,
    lost: fn(String) -> T,
) -> BoxFuture<'static, T> {
    let task = tokio::spawn(call);
    Box::pin(async move { task.await.unwrap_or_else(|error| lost(error.to_string())) })
}

/// Nothing was sent, so nothing is prepared or committed.
fn unavailable(detail: String) -> Declined {
    Declined::Technical { code: "participant_unavailable".to_owned(), detail }
}
