//! PostgreSQL, 14 or later, as a participant: `PREPARE TRANSACTION` behind named operations.
//!
//! # A branch
//! `BEGIN`, the operations, the marker row and `PREPARE TRANSACTION` travel in one round trip; the
//! last operation that changes rows leaves the marker itself where it can (`schema::marking`);
//! `COMMIT PREPARED` or `ROLLBACK PREPARED` in another, on any session. In a failed transaction the
//! server answers `PREPARE TRANSACTION` with the tag `ROLLBACK` and no error, a silent false yes:
//! so a yes needs a good answer to every statement before it, the marker's last of all. Row counts
//! are judged after the round trip: a branch that must decline was prepared for a moment and is
//! rolled back before it votes.
//!
//! A branch of one participant commits in one phase, in two round trips, behind the same marker. A
//! branch that changed nothing leaves with a read-only vote.
//!
//! Batches (`batch`) are branches of many transactions, with one marker; they are prepared in the
//! same round trip, or held between the two.
//!
//! # What settles doubt
//! The marker (`schema`): a commit that finds no prepared transaction but the marker is done; with
//! neither it is heuristic. A lost reply to a one-phase commit is settled by a tombstone under the
//! marker's key: whoever came first is the truth. An abort that finds nothing leaves a tombstone,
//! too, so that a prepare that comes later fails.
//!
//! # Fencing
//! A claim stores the epoch, ends the sessions of older ones (their application name carries log id
//! and epoch) and waits until they are gone. A branch of another epoch gets no marker and is rolled
//! back. Two processes cannot claim one epoch.
//!
//! Calls run in tasks of their own: a caller that gives up leaves no session in the middle of
//! something. No caller waits for ever: an answer that does not come while its connection lives is
//! unknown after a bound, and its session stays with the call until the connection ends. This
//! module decides nothing about transactions, and retries nothing.

mod batch;
mod branch;
mod check;
mod claim;
mod connection;
mod errors;
mod schema;
mod settle;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use deadpool_postgres::Pool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::sql::{self, OperationSql, Placeholders, Statement, Statements};
use super::{
    Ack, Batches, BoxFuture, ClaimError, ConfigurationError, EndedBelow, Inquiry, Participant,
    Prepared, unavailable, whole,
};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, OperationName, PhysicalId, Vote};

pub use super::Finding;

/// How to reach a database, and its limits.
#[derive(Clone)]
pub struct Options {
    /// `postgres://user:password@host:port/database?sslmode=…`: `require` or `verify-full` (both
    /// check certificate and name) or `disable`; if unset, TLS is used beyond this machine.
    pub url: String,
    /// Certificates that the server's must lead to; the system's if unset. TLS is used if this is
    /// set.
    pub tls_ca: Option<PathBuf>,
    /// Most sessions.
    pub connections_max: usize,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// The longest that a statement or a wait for a lock may take at the server.
    pub listening_horizon: Duration,
    /// Prepared transactions left to others, of `max_prepared_transactions`.
    pub prepared_reserve: u32,
    /// Server settings that may be unsafe all the same, such as `fsync`.
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
            connections_max: 16,
            connect_timeout: Duration::from_secs(5),
            listening_horizon: Duration::from_mins(1),
            prepared_reserve: 2,
            allow_unsafe: Vec::new(),
            operations,
        }
    }
}

/// A `PostgreSQL` database; clones share it.
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    options: Options,
    route: connection::Route,
    statements: Statements,
    /// Tells this process from a copy of its folder.
    process: Uuid,
    /// What a claim brought.
    claimed: ArcSwapOption<Claimed>,
    /// Permits of branches that are prepared, or may be.
    slots_held: Mutex<HashMap<Gid, Option<OwnedSemaphorePermit>>>,
    /// Branches of batches between their work and their PREPARE.
    holdings: batch::Holdings,
}

/// What is known of the server since our epoch was claimed.
struct Claimed {
    pool: Pool,
    operations: BTreeMap<OperationName, Understood>,
    /// Prepared transactions that we may have at a time.
    slots: Arc<Semaphore>,
}

/// An operation as the server understood it.
struct Understood {
    types: Vec<Type>,
    /// The same statement, leaving the marker as well; `None` if it cannot.
    marking: Option<Arc<str>>,
}

/// An operation ready to be sent.
struct Bound {
    statement: Arc<Statement>,
    marking: Option<Arc<str>>,
    parameters: Vec<values::Parameter>,
}

impl Postgres {
    /// Reads URL, certificates and operations; connects to nothing yet.
    pub fn new(options: Options) -> Result<Self, ConfigurationError> {
        let route = connection::route(&options)?;
        let statements = sql::parse_all(&options.operations, Placeholders::Numbered)?;
        Ok(Self(Arc::new(Inner {
            options,
            route,
            statements,
            process: Uuid::new_v4(),
            claimed: ArcSwapOption::empty(),
            slots_held: Mutex::default(),
            holdings: Mutex::default(),
        })))
    }
}

impl Inner {
    fn claimed(&self) -> Result<Arc<Claimed>, String> {
        self.claimed.load_full().ok_or_else(|| "the database was not claimed yet".to_owned())
    }

    fn statement(&self, operation: &Operation) -> Result<&Arc<Statement>, String> {
        let statement = sql::find(&self.statements, &operation.operation)?;
        statement.check_names(operation)?;
        Ok(statement)
    }

    fn bind_one(&self, claimed: &Claimed, operation: &Operation) -> Result<Bound, String> {
        let statement = self.statement(operation)?;
        let understood = sql::find(&claimed.operations, &operation.operation)?;
        let parameters = parameters(&understood.types, statement, operation)?;
        let marking = understood.marking.clone();
        Ok(Bound { statement: statement.clone(), marking, parameters })
    }

    fn validate(&self, operation: &Operation) -> Result<(), String> {
        // Types are the server's to know; before it was asked only the shape is checked.
        match self.claimed.load().as_ref() {
            Some(claimed) => {
                let statement = self.statement(operation)?;
                let understood = sql::find(&claimed.operations, &operation.operation)?;
                each_parameter(&understood.types, statement, operation, values::check)
                    .try_for_each(|checked| checked)
            }
            None => self.statement(operation).map(drop),
        }
    }

    /// What a branch needs, or why it does not begin.
    fn ready(&self, operations: &[Operation]) -> Result<(Arc<Claimed>, Vec<Bound>), Declined> {
        let claimed = self.claimed().map_err(unavailable)?;
        let bound = sql::bind_all(operations, |operation| self.bind_one(&claimed, operation))?;
        Ok((claimed, bound))
    }
}

fn parameters(
    types: &[Type],
    statement: &Statement,
    operation: &Operation,
) -> Result<Vec<values::Parameter>, String> {
    each_parameter(types, statement, operation, values::Parameter::new).collect()
}

/// What `of` makes of each parameter, in the order of the statement.
fn each_parameter<'a, T>(
    types: &'a [Type],
    statement: &'a Statement,
    operation: &'a Operation,
    of: impl Fn(&serde_json::Value, &Type) -> Result<T, String> + 'a,
) -> impl Iterator<Item = Result<T, String>> + 'a {
    let one = move |(name, r#type): (&String, &Type)| {
        let value = operation.params.get(name).unwrap_or(&serde_json::Value::Null);
        of(value, r#type).map_err(|why| format!("parameter {name:?} {why}"))
    };
    statement.parameters.iter().zip(types).map(one)
}

impl Inner {
    /// Runs a call to its end, whatever becomes of its caller, who hears that it is lost if it
    /// takes longer than any that the server carries out and answers.
    fn whole<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
        lost: fn(String) -> T,
    ) -> BoxFuture<'static, T> {
        // Once each for a place and for a session, once each for a lock and for the rest.
        let bound = (self.options.connect_timeout + self.options.listening_horizon) * 2;
        let ended = whole(call, lost);
        Box::pin(async move {
            let ended = tokio::time::timeout(bound, ended).await;
            ended.unwrap_or_else(|_| lost(format!("no answer within {bound:?}")))
        })
    }
}

impl Participant for Postgres {
    fn validate(&self, operation: &Operation) -> Result<(), String> {
        self.0.validate(operation)
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
                self.0.whole(branch::prepare(self.0.clone(), claimed, gid, bound), Vote::Unknown)
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
                self.0.whole(branch::commit_one_phase(claimed, gid, bound), Vote::Unknown)
            }
            Err(declined) => Box::pin(async { Vote::No(declined) }),
        }
    }

    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        self.0.whole(settle::commit(self.0.clone(), gid), Ack::Unknown)
    }

    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        self.0.whole(settle::abort(self.0.clone(), gid), Ack::Unknown)
    }

    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        self.0.whole(settle::inquire(self.0.clone(), gid), Inquiry::Unknown)
    }

    fn prune(&self, ended: EndedBelow) -> BoxFuture<'_, Result<u64, String>> {
        let inner = self.0.clone();
        self.0.whole(async move { inner.prune(ended).await }, Err)
    }

    fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>> {
        let inner = self.0.clone();
        self.0.whole(async move { inner.list_prepared().await }, Err)
    }

    fn batches(&self) -> Option<&dyn Batches> {
        Some(self)
    }

    fn inspection(&self, gid: Gid) -> Option<String> {
        Some(format!("SELECT * FROM pg_prepared_xacts WHERE gid = '{gid}'"))
    }
}
