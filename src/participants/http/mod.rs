//! A service over HTTP as a participant: a small protocol that the service's author implements.
//!
//! `openapi.json` beside this file is its exact form (`presume participants openapi` prints it),
//! `examples/wallet` a service that speaks it, `presume participants conform URL` a check of
//! anybody's.
//!
//! # The protocol, version 1
//! Paths are below a base URL; bodies are JSON. `GID` is `presume:<log>:<epoch>:<physical>:<branch>`.
//!
//! | request | what for |
//! |---|---|
//! | `GET /v1/service` | who it is: identity, protocol, retention, capabilities, operations |
//! | `POST /v1/claims` | a coordinator starts: older epochs of its log are over |
//! | `POST /v1/branches/GID/prepare` | do the work, promise to obey; vote |
//! | `POST /v1/branches/GID/prepare-batch` | the same for many transactions (capability `batch`) |
//! | `POST /v1/branches/GID/commit-one-phase` | do the work and commit it (capability `one_phase`) |
//! | `POST /v1/branches/GID/commit`, `…/abort` | the decision |
//! | `POST /v1/branches/GID/inquire` | how did it end? (with `one_phase`) |
//! | `GET /v1/branches` | what stands prepared, of every log, in pages |
//! | `POST /v1/prunes` | what may be forgotten |
//!
//! `POST /v1/branches/GID/pre-commit` is reserved for three-phase commit. A service that lacks a
//! capability is used without it; one that is unknown here is ignored, and what changes in a way
//! that is not compatible gets another name. What a service holds to:
//!
//! 1. **Durable first.** Whatever it answers is on its disk before.
//! 2. **A yes never expires.** Only a commit or an abort ends a prepared branch.
//! 3. **A branch ends once.** Commit and abort answer how it has ended, `committed` or `aborted`,
//!    however often they come. A prepare that is repeated hears the same vote; one with other
//!    operations is refused with 422.
//! 4. **Tombstones.** An abort or an inquiry of a branch never heard of ends it as aborted: its
//!    prepare, should it come later, hears no. A business no is such an end, too.
//! 5. **404 is a confession.** A commit of a branch it does not know is answered with 404 and the
//!    code `unknown_branch`, never with `committed`. We report it as a heuristic end.
//! 6. **Fences.** Every change carries the epoch of the caller, and is refused with 409 unless that
//!    is the epoch last claimed for the log (`stale_epoch`, `unclaimed_epoch`); work needs a branch
//!    of that very epoch. So the copy of a coordinator that wakes later can do nothing. One epoch
//!    is claimed by one process. A change also names the identity that it is for
//!    (`wrong_service`).
//! 7. **Retention.** Outcomes are kept for `outcome_retention_s`, at least [`RETENTION_S_MIN`],
//!    unless a prune lets them go. Work of executions below a prune is refused (`ended`), so that
//!    tombstones may go, too. What is prepared always stays.
//! 8. **Batches** (with `batch`). Members are carried out in their order, each as if those before it
//!    were committed; one that declines has done nothing. With `drop_declined` the rest is prepared,
//!    else nothing is when somebody declines. The answer names who did, each once and by its place
//!    from 0, and is the same when the request is repeated. Only a member's own rules (class
//!    `business`) make it decline; what else fails, fails the batch: the vote is a technical no.
//!    Commit and abort are of the branch, and so of all.
//! 9. **Refusals** are 4xx with a `code` and a `detail`, and mean that nothing was done: 400, 401,
//!    403, 409, 413, 415, 429. Everything else (other 4xx, 5xx, a body that breaks off) means that
//!    nobody knows.
//!
//! # Signatures
//! `presume-timestamp` holds seconds since 1970, `presume-signature` is `v1=` and the hexadecimal
//! HMAC-SHA256 of `v1`, method, path with query, timestamp, each with a line feed, and the body. A
//! service refuses (401) what is unsigned, wrongly signed or more than [`CLOCK_TOLERANCE_S`] off
//! its clock. Within that time a repeated request does nothing new: every change carries its key
//! (`idempotency-key`: the gid; of claims and prunes `<log>:<epoch>`). Answers are not signed: TLS
//! vouches for them. Without TLS only a service on this machine is asked, unless allowed by name.
//! No proxy in between may repeat a POST on its own.
//!
//! Calls run in tasks of their own, within a time limit; no call is repeated here.

mod answers;
mod batch;
mod check;
pub mod conform;
mod messages;
mod signature;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use uuid::Uuid;

use super::sql::{self, LockName};
use super::{
    Ack, Batches, BoxFuture, ClaimError, ConfigurationError, EndedBelow, Inquiry, Participant,
    Prepared, unavailable, whole,
};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, OperationName, Vote};
use messages::{Description, Message, PruneRequest, VerdictRequest, WorkRequest};
use wire::{Endpoint, Lane, Request, Wire};

pub use signature::{SECRET_BYTES_MIN, sign};

/// The protocol as an OpenAPI 3.1 document.
pub const OPENAPI: &str = include_str!("openapi.json");
/// What a service calls this protocol.
pub const PROTOCOL: &str = "presume-participant/1";
/// The shortest time for which a service keeps outcomes: a day.
pub const RETENTION_S_MIN: u64 = 86_400;
/// How far a request's timestamp may be off.
pub const CLOCK_TOLERANCE_S: i64 = 300;
/// The most operations in one branch.
const OPERATIONS_MAX: usize = 256;
/// Outcomes are let go this long after they came, at the earliest: a decision may be repeated by a
/// coordinator that crashed right after it.
const PRUNE_AGE_S: u64 = 600;
/// The most pages of prepared branches that are read.
const PAGES_MAX: usize = 100;
/// Branches asked for at a time.
const PAGE_BRANCHES: usize = 1_000;

/// How to reach a service, and its limits.
#[derive(Clone)]
pub struct Options {
    /// `https://host:port/base`; `http` for a service on this machine.
    pub url: String,
    /// Certificates that the service's must lead to; the system's if unset.
    pub tls_ca: Option<PathBuf>,
    /// What requests are signed with.
    pub secret: Option<String>,
    /// Most requests at a time, each on a connection of its own.
    pub connections_max: usize,
    /// The longest that connecting may take.
    pub connect_timeout: Duration,
    /// The longest that a call may take, waiting for a connection included.
    pub listening_horizon: Duration,
    /// `plain_http` and `unsigned`: what is accepted beyond this machine all the same.
    pub allow_unsafe: Vec<String>,
    /// What operations touch, such as `account/$account`: those are carried out in batches, if the
    /// service offers them.
    pub locks: BTreeMap<OperationName, Vec<String>>,
}

impl Options {
    /// The defaults around a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls_ca: None,
            secret: None,
            connections_max: 32,
            connect_timeout: Duration::from_secs(5),
            listening_horizon: Duration::from_mins(1),
            allow_unsafe: Vec::new(),
            locks: BTreeMap::new(),
        }
    }
}

/// A service over HTTP; clones share it.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    wire: Wire,
    /// Tells this process from a copy of its folder.
    process: Uuid,
    /// What a claim brought.
    claimed: ArcSwapOption<Claimed>,
    locks: BTreeMap<OperationName, Vec<LockName>>,
    /// Branches of batches that nobody has asked to prepare yet.
    holdings: batch::Holdings,
}

/// What is known of the service since our epoch was claimed.
struct Claimed {
    epoch: Epoch,
    service: Description,
    room: batch::Room,
}

impl Http {
    /// Reads URL, secret and certificates; connects to nothing yet.
    pub fn new(options: &Options) -> Result<Self, ConfigurationError> {
        let wire = Wire::new(options)?;
        let named = |(operation, names): (&OperationName, &Vec<String>)| {
            let refused =
                |detail| ConfigurationError::Operation { operation: operation.clone(), detail };
            Ok((operation.clone(), sql::parse_locks(names, None).map_err(refused)?))
        };
        Ok(Self(Arc::new(Inner {
            wire,
            process: Uuid::new_v4(),
            claimed: ArcSwapOption::empty(),
            locks: options.locks.iter().map(named).collect::<Result<_, _>>()?,
            holdings: batch::Holdings::default(),
        })))
    }
}

impl Inner {
    fn claimed(&self) -> Result<Arc<Claimed>, String> {
        self.claimed.load_full().ok_or_else(|| "the service was not claimed yet".to_owned())
    }

    /// The request of a branch's work, or why it does not begin.
    fn work(&self, gid: Gid, operations: &[Operation]) -> Result<(Arc<Claimed>, Vec<u8>), Vote> {
        let business =
            |code: &str, detail| Vote::No(Declined::Business { code: code.to_owned(), detail });
        let claimed = self.claimed().map_err(|detail| Vote::No(unavailable(detail)))?;
        if gid.epoch != claimed.epoch {
            let detail =
                format!("epoch {} is not the one claimed, {}", gid.epoch.0, claimed.epoch.0);
            return Err(Vote::No(Declined::Technical { code: "fenced".to_owned(), detail }));
        }
        if operations.len() > OPERATIONS_MAX {
            let detail = format!("{} operations, at most {OPERATIONS_MAX}", operations.len());
            return Err(business("too_many_operations", detail));
        }
        for operation in operations {
            let checked = claimed.service.validate(operation);
            checked.map_err(|detail| business("bad_parameter", detail))?;
        }
        let body = WorkRequest::new(&claimed.service.identity, claimed.epoch, operations).bytes();
        let most = claimed.service.body_bytes_max;
        if body.len() > most {
            let detail = format!("the request has {} bytes, the service takes {most}", body.len());
            return Err(business("too_large", detail));
        }
        Ok((claimed, body))
    }

    async fn vote(&self, endpoint: Endpoint, gid: Gid, body: Vec<u8>) -> Vote {
        let request = Request::branch(endpoint, gid, body);
        answers::vote(self.wire.call(Lane::Work, request).await)
    }

    /// Commits at once. Where the service cannot, in two phases: nobody else decides meanwhile, and
    /// an inquiry ends it (see [`Inner::inquire`]).
    async fn commit_at_once(&self, claimed: Arc<Claimed>, gid: Gid, body: Vec<u8>) -> Vote {
        if claimed.service.commits_in_one_phase() {
            return self.vote(Endpoint::CommitOnePhase, gid, body).await;
        }
        match self.vote(Endpoint::Prepare, gid, body).await {
            Vote::Yes => match self.verdict(Endpoint::Commit, gid).await {
                Ack::Done => Vote::Yes,
                Ack::Heuristic(detail) | Ack::Unknown(detail) => Vote::Unknown(detail),
            },
            vote => vote,
        }
    }

    async fn verdict(&self, endpoint: Endpoint, gid: Gid) -> Ack {
        let claimed = match self.claimed() {
            Ok(claimed) => claimed,
            Err(detail) => return Ack::Unknown(detail),
        };
        let body = VerdictRequest::new(&claimed.service.identity, claimed.epoch).bytes();
        let told = self.wire.call(Lane::Settle, Request::branch(endpoint, gid, body)).await;
        if endpoint == Endpoint::Commit { answers::commit(told) } else { answers::abort(told) }
    }

    /// Asks how a one-phase commit ended. A service that has none is told to abort, which answers
    /// the same question: whoever came first is the truth.
    async fn inquire(&self, gid: Gid) -> Inquiry {
        let claimed = match self.claimed() {
            Ok(claimed) => claimed,
            Err(detail) => return Inquiry::Unknown(detail),
        };
        let one_phase = claimed.service.commits_in_one_phase();
        let endpoint = if one_phase { Endpoint::Inquire } else { Endpoint::Abort };
        let body = VerdictRequest::new(&claimed.service.identity, claimed.epoch).bytes();
        answers::inquiry(self.wire.call(Lane::Settle, Request::branch(endpoint, gid, body)).await)
    }

    async fn prune(&self, ended: EndedBelow) -> Result<u64, String> {
        let claimed = self.claimed()?;
        let prune = PruneRequest::new(&claimed.service.identity, ended, PRUNE_AGE_S);
        let request = Request::of_log(Endpoint::Prune, ended.log, ended.epoch, prune.bytes());
        answers::pruned(self.wire.call(Lane::Settle, request).await)
    }

    async fn list_prepared(&self) -> Result<Prepared, String> {
        let mut prepared = Prepared::default();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let request = Request::list(after.as_deref(), PAGE_BRANCHES);
            let page = answers::listing(self.wire.call(Lane::Settle, request).await)?;
            for branch in page.branches {
                match branch.parse::<Gid>() {
                    Ok(gid) => prepared.branches.push(gid),
                    Err(_) => prepared.others.push(answers::shown(&branch)),
                }
            }
            match page.next {
                None => return Ok(prepared),
                next if next == after => return Err("a page names itself as its next".to_owned()),
                next => after = next,
            }
        }
        Err(format!("more than {PAGES_MAX} pages of prepared branches"))
    }
}

impl Participant for Http {
    fn validate(&self, operation: &Operation) -> Result<(), String> {
        // What a service offers is its own to say; before it was asked nothing is known.
        match self.0.claimed.load().as_ref() {
            Some(claimed) => claimed.service.validate(operation),
            None => Ok(()),
        }
    }

    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>> {
        Box::pin(self.0.claim(log, epoch))
    }

    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        match self.0.work(gid, operations) {
            Ok((_, body)) => {
                let inner = self.0.clone();
                let call = async move { inner.vote(Endpoint::Prepare, gid, body).await };
                whole(call, Vote::Unknown)
            }
            Err(no) => Box::pin(std::future::ready(no)),
        }
    }

    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        match self.0.work(gid, operations) {
            Ok((claimed, body)) => {
                let inner = self.0.clone();
                let call = async move { inner.commit_at_once(claimed, gid, body).await };
                whole(call, Vote::Unknown)
            }
            Err(no) => Box::pin(std::future::ready(no)),
        }
    }

    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        let inner = self.0.clone();
        whole(async move { inner.verdict(Endpoint::Commit, gid).await }, Ack::Unknown)
    }

    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        self.0.let_go(gid);
        let inner = self.0.clone();
        whole(async move { inner.verdict(Endpoint::Abort, gid).await }, Ack::Unknown)
    }

    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        let inner = self.0.clone();
        whole(async move { inner.inquire(gid).await }, Inquiry::Unknown)
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
}
