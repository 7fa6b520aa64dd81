//! MariaDB, 10.5 or later, and MySQL, 8.0.29 or later, as a participant: XA behind named operations.
//!
//! # A branch
//! `XA START`, each operation and then marker row, `XA END` and `XA PREPARE` in one message: two
//! round trips and one an operation (the protocol binds values of one statement a message). Row
//! counts are judged as they come, so a branch that declines was never prepared. It needs
//! found-rows semantics: an update that finds its row and changes nothing has met it.
//!
//! A branch of one participant commits in one phase, behind the same marker and as an XA branch,
//! too: within it the server refuses statements that commit by themselves. A branch of `SELECT`s
//! runs in a transaction that only reads and leaves with a read-only vote; if the server finds
//! that it does more, it is carried out as any other.
//!
//! Batches (`batch`) are branches of many transactions, with one marker, whose work and `XA PREPARE`
//! are one message; or held between the two.
//!
//! # Who holds a branch
//! The session that prepared a branch can do nothing else until the branch has ended, and while it
//! lives every other session is told that there is no such branch (1397). So the participant keeps
//! a prepared branch together with its session, commits there, and only then returns the session.
//! A branch whose session is gone, with its process or its connection, can be ended on any other;
//! 1397 is believed only when `XA RECOVER` does not list the branch (`settle`). Sessions are
//! bounded and so are prepared branches; some sessions are reserved for ending them (`sessions`).
//!
//! # What settles doubt
//! The marker (`schema`): a commit that finds no prepared branch but the marker is done; with
//! neither it is heuristic. A lost reply to a one-phase commit is settled by a tombstone under the
//! marker's key: whoever came first is the truth. An abort that finds nothing leaves a tombstone,
//! too, so that a prepare that comes later fails.
//!
//! # Fencing
//! A claim stores the epoch, ends the sessions of older ones and waits until they are gone. A
//! branch of another epoch gets no marker and is rolled back. Two processes cannot claim one epoch.
//!
//! Calls run in tasks of their own: a caller that gives up leaves no session in the middle of
//! something. This module decides nothing about transactions, and retries nothing.

mod batch;
mod batch_message;
mod branch;
mod check;
mod claim;
mod connection;
mod errors;
mod schema;
mod sessions;
mod settle;
mod values;
mod xid;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mysql_async::{Opts, Value};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::sql::{self, OperationSql, Placeholders, Statement, Statements};
use super::{
    Ack, Batches, BoxFuture, ClaimError, ConfigurationError, EndedBelow, Inquiry, Participant,
    Prepared, unavailable, whole,
};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, OperationName, PhysicalId, Vote};
use sessions::{PLACES, Session, Sessions};
use xid::Xid;

/// How to reach a database, and its limits.
#[derive(Clone)]
pub struct Options {
    /// `mysql://user:password@host:port/database?require_ssl=…`; if that is unset, TLS is used beyond
    /// this machine.
    pub url: String,
    /// Certificates that the server's must lead to; the system's if unset. TLS is used if this is
    /// set.
    pub tls_ca: Option<PathBuf>,
    /// Most sessions, and so, less the reserve, most prepared branches.
    pub connections_max: usize,
    /// Sessions that no branch gets, of `connections_max`: commits, aborts and inquiries have them.
    pub connections_reserve: usize,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// The longest that a statement or a wait for a lock may take at the server.
    pub listening_horizon: Duration,
    /// Server settings that may be unsafe all the same, such as `sync_binlog`.
    pub allow_unsafe: Vec<String>,
    /// The operations.
    pub operations: BTreeMap<OperationName, OperationSql>,
}

impl Options {
    /// The defaults around a URL and operations.
    pub fn new(url: impl Into<String>, operations: BTreeMap<OperationName, OperationSql>) -> Self {
        Self {
            url: url.into(),
            tls_ca: None,
            connections_max: 32,
            connections_reserve: 4,
            connect_timeout: Duration::from_secs(5),
            listening_horizon: Duration::from_mins(1),
            allow_unsafe: Vec::new(),
            operations,
        }
    }
}

/// A MySQL or MariaDB database; clones share it.
#[derive(Clone)]
pub struct Mysql(Arc<Inner>);

struct Inner {
    options: Options,
    opts: Opts,
    statements: Statements,
    /// Tells this process from a copy of its folder.
    process: Uuid,
    /// What a claim brought.
    claimed: ArcSwapOption<Claimed>,
    /// Prepared branches, each with the session that it occupies.
    owners: Mutex<HashMap<Gid, Owned>>,
    /// Branches of batches between their work and their XA PREPARE.
    holdings: batch::Holdings,
}

/// What is known of the server since our epoch was claimed.
struct Claimed {
    sessions: Arc<Sessions>,
    /// The identity of the database.
    database: Uuid,
    /// Not MySQL.
    mariadb: bool,
}

/// The session of a prepared branch.
struct Owned {
    session: Session,
    _permit: OwnedSemaphorePermit,
}

/// An operation ready to be sent.
struct Bound {
    statement: Arc<Statement>,
    values: Vec<Value>,
    /// It is written as a `SELECT`.
    reads: bool,
}

impl Mysql {
    /// Reads URL, certificates and operations; connects to nothing yet.
    pub fn new(options: Options) -> Result<Self, ConfigurationError> {
        let opts = connection::opts(&options)?;
        let (max, reserve) = (options.connections_max, options.connections_reserve);
        // Half of the names: those of a process that is about to end may still be taken.
        let most = PLACES as usize / 2;
        if reserve == 0 || max <= reserve || max > most {
            let detail = format!(
                "{max} with {reserve} in reserve; at least one more than the reserve of at least 1, \
                 and at most {most}"
            );
            return Err(ConfigurationError::Connections { detail });
        }
        let statements = sql::parse_all(&options.operations, Placeholders::Positional)?;
        Ok(Self(Arc::new(Inner {
            options,
            opts,
            statements,
            process: Uuid::new_v4(),
            claimed: ArcSwapOption::empty(),
            owners: Mutex::default(),
            holdings: Mutex::default(),
        })))
    }
}

impl Claimed {
    fn xid(&self, gid: Gid) -> Xid {
        Xid { gid, database: self.database }
    }
}

impl Inner {
    fn claimed(&self) -> Result<Arc<Claimed>, String> {
        self.claimed.load_full().ok_or_else(|| "the database was not claimed yet".to_owned())
    }

    fn bind_one(&self, operation: &Operation) -> Result<Bound, String> {
        let statement = sql::find(&self.statements, &operation.operation)?;
        statement.check_names(operation)?;
        let one = |name: &String| {
            let value = values::value(&operation.params[name]);
            value.map_err(|why| format!("parameter {name:?} {why}"))
        };
        let values = statement.parameters.iter().map(one).collect::<Result<_, _>>()?;
        let verb = statement.sql.split_whitespace().next().unwrap_or_default();
        let reads = verb.eq_ignore_ascii_case("select");
        Ok(Bound { statement: statement.clone(), values, reads })
    }

    /// What a branch needs, or why it does not begin.
    fn ready(&self, operations: &[Operation]) -> Result<(Arc<Claimed>, Vec<Bound>), Declined> {
        let claimed = self.claimed().map_err(unavailable)?;
        Ok((claimed, sql::bind_all(operations, |operation| self.bind_one(operation))?))
    }
}

impl Participant for Mysql {
    fn validate(&self, operation: &Operation) -> Result<(), String> {
        self.0.bind_one(operation).map(drop)
    }

    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>> {
        Box::pin(self.0.claim(log, epoch))
    }

    fn newest_commit(
        &self,
        log: LogId,
        before: Epoch,
    ) -> BoxFuture<'_, Result<Option<(Epoch, PhysicalId)>, String>> {
        Box::pin(self.newest(log, before))
    }

    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        match self.0.ready(operations) {
            Ok((claimed, bound)) => {
                whole(branch::prepare(self.0.clone(), claimed, gid, bound), Vote::Unknown)
            }
            Err(declined) => Box::pin(async { Vote::No(declined) }),
        }
    }

    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        match self.0.ready(operations) {
            Ok((claimed, bound)) => {
                whole(branch::commit_one_phase(claimed, gid, bound), Vote::Unknown)
            }
            Err(declined) => Box::pin(async { Vote::No(declined) }),
        }
    }

    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        whole(settle::commit(self.0.clone(), gid), Ack::Unknown)
    }

    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        whole(settle::abort(self.0.clone(), gid), Ack::Unknown)
    }

    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        whole(settle::inquire(self.0.clone(), gid), Inquiry::Unknown)
    }

    fn prune(&self, ended: EndedBelow) -> BoxFuture<'_, Result<u64, String>> {
        let inner = self.0.clone();
        whole(async move { inner.prune(ended).await }, Err)
    }

    fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>> {
        let inner = self.0.clone();
        whole(async move { inner.list_prepared().await }, Err)
    }

    fn batches(&self) -> Option<&dyn Batches> {
        Some(self)
    }

    fn inspection(&self, gid: Gid) -> Option<String> {
        Some(format!("XA RECOVER FORMAT='SQL' -- and look for {}", xid::gtrid(gid)))
    }
}
