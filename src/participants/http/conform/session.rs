//! How the checks talk to a service: callers with a log and an epoch, and what they expect.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::answers::{Sorted, shown, sort};
use super::super::messages::{BatchAnswer, Description, State, StateAnswer, VoteAnswer};
use super::super::wire::{Endpoint, Lane, Reply, Request, Trouble, Wire};
use super::batches::Members;
use super::{Options, Sample, Step};
use crate::txn::{BranchIndex, Declined, Epoch, Gid, LogId, PhysicalId};

/// More effects than any check makes.
const EFFECTS_MAX: u64 = 64;

pub(super) struct Session {
    pub(super) wire: Wire,
    pub(super) service: Description,
    pub(super) sample: Sample,
    pub(super) pause: Duration,
    /// Who most checks are.
    pub(super) own: Caller,
    next: AtomicU64,
    /// Branches that work was sent for, each with who sent it.
    begun: Mutex<Vec<(Caller, Gid)>>,
}

/// A coordinator as the service sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) log: LogId,
    pub(super) epoch: Epoch,
    pub(super) process: Uuid,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self { log: LogId(Uuid::new_v4()), epoch: Epoch(1), process: Uuid::new_v4() }
    }

    pub(super) fn at(self, epoch: u64) -> Self {
        Self { epoch: Epoch(epoch), ..self }
    }
}

impl Session {
    pub(super) fn new(wire: Wire, service: Description, options: &Options) -> Self {
        Self {
            wire,
            service,
            sample: options.sample.clone(),
            pause: options.pause,
            own: Caller::new(),
            next: AtomicU64::new(1),
            begun: Mutex::default(),
        }
    }

    pub(super) async fn describe(wire: &Wire) -> Result<Description, String> {
        let reply = wire.call(Lane::Settle, Request::service()).await;
        match sort(&reply.map_err(Trouble::detail)?) {
            Sorted::Answer(service) => Ok(service),
            Sorted::Refused(status, refusal) => {
                Err(format!("it refused with {status} {}: {}", refusal.code, refusal.detail))
            }
            Sorted::Unclear(detail) => Err(detail),
        }
    }

    /// The id of a branch of its own.
    pub(super) fn gid(&self, caller: Caller) -> Gid {
        let physical = PhysicalId(self.next.fetch_add(1, Ordering::Relaxed));
        Gid { log: caller.log, epoch: caller.epoch, physical, branch: BranchIndex(0) }
    }

    pub(super) async fn send(&self, request: Request) -> Result<Reply, String> {
        let what = format!("{} {}", request.method, request.path);
        let reply = self.wire.call(Lane::Settle, request).await;
        reply.map_err(|trouble| format!("{what}: {}", trouble.detail()))
    }

    /// Sends what must be answered with 200.
    async fn answered<T: DeserializeOwned>(&self, request: Request) -> Result<T, String> {
        let what = format!("{} {}", request.method, request.path);
        match sort(&self.send(request).await?) {
            Sorted::Answer(answer) => Ok(answer),
            Sorted::Refused(status, refusal) => {
                Err(format!("{what}: {status} {}: {}", refusal.code, refusal.detail))
            }
            Sorted::Unclear(detail) => Err(format!("{what}: {detail}")),
        }
    }

    /// Sends what must be refused with a status, and with a code if one is given.
    pub(super) async fn refused(
        &self,
        request: Request,
        status: u16,
        code: Option<&str>,
    ) -> Result<(), String> {
        let what = format!("{} {}", request.method, request.path);
        let reply = self.send(request).await?;
        let wanted = code.map_or(status.to_string(), |code| format!("{status} {code}"));
        match sort::<Value>(&reply) {
            Sorted::Refused(found, refusal) => {
                if found == status && code.is_none_or(|code| code == refusal.code) {
                    return Ok(());
                }
                Err(format!("{what}: answered {found} {}, not {wanted}", refusal.code))
            }
            _ => {
                let body = shown(&String::from_utf8_lossy(&reply.body));
                let found = reply.status;
                Err(format!("{what}: answered {found} {body}, not {wanted} with code and detail"))
            }
        }
    }

    pub(super) fn claim_request(caller: Caller) -> Request {
        let body = json!({
            "log": caller.log.to_string(), "epoch": caller.epoch.0,
            "process": caller.process.simple().to_string(),
        });
        let bytes = body.to_string().into_bytes();
        Request::of_log(Endpoint::Claim, caller.log, caller.epoch, bytes)
    }

    pub(super) async fn claim(&self, caller: Caller) -> Result<(), String> {
        let answer: Value = self.answered(Self::claim_request(caller)).await?;
        if answer["identity"] != self.service.identity.as_str() {
            return Err(format!("a claim was answered by {}", shown(&answer.to_string())));
        }
        match answer["epoch"].as_u64() {
            Some(epoch) if epoch == caller.epoch.0 => Ok(()),
            _ => Err(format!("epoch {} was claimed: {answer}", caller.epoch.0)),
        }
    }

    pub(super) fn work_request(
        &self,
        endpoint: Endpoint,
        caller: Caller,
        gid: Gid,
        steps: &[&Step],
    ) -> Request {
        let operations: Vec<Value> = steps.iter().map(|step| json!(step)).collect();
        let body = json!({
            "service": self.service.identity, "epoch": caller.epoch.0, "operations": operations,
        });
        self.begun.lock().expect("no panic while held").push((caller, gid));
        Request::branch(endpoint, gid, body.to_string().into_bytes())
    }

    pub(super) fn batch_request(
        &self,
        caller: Caller,
        gid: Gid,
        drop_declined: bool,
        members: Members<'_>,
    ) -> Request {
        let body = json!({
            "service": self.service.identity, "epoch": caller.epoch.0,
            "drop_declined": drop_declined, "members": members,
        });
        self.begun.lock().expect("no panic while held").push((caller, gid));
        Request::branch(Endpoint::PrepareBatch, gid, body.to_string().into_bytes())
    }

    /// Sends a batch: its vote, and who declined, each by a rule of its own.
    pub(super) async fn batch(
        &self,
        gid: Gid,
        drop_declined: bool,
        members: Members<'_>,
    ) -> Result<(VoteAnswer, Vec<usize>), String> {
        let request = self.batch_request(self.own, gid, drop_declined, members);
        let BatchAnswer { vote, declined } = self.answered(request).await?;
        if let Some(one) = declined.iter().find(|one| !matches!(one.why, Declined::Business { .. }))
        {
            let (member, why) = (one.member, &one.why);
            return Err(format!("member {member} declined by no rule of its own: {why:?}"));
        }
        let mut members: Vec<usize> = declined.iter().map(|one| one.member).collect();
        members.sort_unstable();
        Ok((vote, members))
    }

    pub(super) fn verdict_request(&self, endpoint: Endpoint, caller: Caller, gid: Gid) -> Request {
        let body = json!({"service": self.service.identity, "epoch": caller.epoch.0});
        Request::branch(endpoint, gid, body.to_string().into_bytes())
    }

    pub(super) async fn vote(
        &self,
        endpoint: Endpoint,
        caller: Caller,
        gid: Gid,
        step: &Step,
    ) -> Result<VoteAnswer, String> {
        self.answered(self.work_request(endpoint, caller, gid, &[step])).await
    }

    pub(super) async fn prepare(&self, gid: Gid, step: &Step) -> Result<VoteAnswer, String> {
        self.vote(Endpoint::Prepare, self.own, gid, step).await
    }

    /// Prepares what must be voted yes.
    pub(super) async fn prepared(&self, gid: Gid, step: &Step) -> Result<(), String> {
        is_yes("prepare", &self.prepare(gid, step).await?)
    }

    pub(super) async fn state(
        &self,
        endpoint: Endpoint,
        caller: Caller,
        gid: Gid,
        wanted: State,
    ) -> Result<(), String> {
        let request = self.verdict_request(endpoint, caller, gid);
        let what = format!("{} {}", request.method, request.path);
        let found = self.answered::<StateAnswer>(request).await?.state;
        if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, not {wanted:?}")) }
    }

    pub(super) async fn commit(&self, gid: Gid, wanted: State) -> Result<(), String> {
        self.state(Endpoint::Commit, self.own, gid, wanted).await
    }

    pub(super) async fn abort(&self, gid: Gid, wanted: State) -> Result<(), String> {
        self.state(Endpoint::Abort, self.own, gid, wanted).await
    }

    /// Every prepared branch, by pages of `limit`.
    pub(super) async fn list(&self, limit: usize) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..10_000 {
            let page: super::super::messages::Listing =
                self.answered(Request::list(after.as_deref(), limit)).await?;
            if page.branches.len() > limit {
                let count = page.branches.len();
                return Err(format!("a page of at most {limit} branches holds {count}"));
            }
            all.extend(page.branches);
            match page.next {
                None => return Ok(all),
                next => after = next,
            }
        }
        Err("the list of prepared branches does not end".to_owned())
    }

    pub(super) async fn is_listed(&self, gid: Gid) -> Result<bool, String> {
        Ok(self.list(1_000).await?.contains(&gid.to_string()))
    }

    /// Takes back what was given, and compares how much it was.
    pub(super) async fn effects(&self, wanted: u64) -> Result<(), String> {
        let found = self.take_all().await?;
        if found == wanted {
            return Ok(());
        }
        Err(format!("{found} takes succeeded afterwards, {wanted} expected"))
    }

    async fn take_all(&self) -> Result<u64, String> {
        for taken in 0..EFFECTS_MAX {
            let gid = self.gid(self.own);
            match self.prepare(gid, &self.sample.take).await? {
                VoteAnswer::Yes => self.commit(gid, State::Committed).await?,
                VoteAnswer::No(_) => return Ok(taken),
                VoteAnswer::ReadOnly => return Err("a take votes read_only".to_owned()),
            }
        }
        Err(format!("{EFFECTS_MAX} takes succeeded: the account does not begin empty"))
    }

    /// Undoes what a check has left, so that each begins alike. What fails here fails there.
    pub(super) async fn clear(&self) {
        let begun = std::mem::take(&mut *self.begun.lock().expect("no panic while held"));
        if begun.is_empty() {
            return;
        }
        for (caller, gid) in begun {
            let _ = self.send(self.verdict_request(Endpoint::Abort, caller, gid)).await;
        }
        let _ = self.take_all().await;
        self.begun.lock().expect("no panic while held").clear();
    }
}

pub(super) fn is_yes(what: &str, vote: &VoteAnswer) -> Result<(), String> {
    match vote {
        VoteAnswer::Yes => Ok(()),
        vote => Err(format!("{what} of what must succeed: {vote:?}")),
    }
}

pub(super) fn is_no(what: &str, vote: &VoteAnswer) -> Result<(), String> {
    match vote {
        VoteAnswer::No(_) => Ok(()),
        vote => Err(format!("{what}: {vote:?}, not no")),
    }
}
