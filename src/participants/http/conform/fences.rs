//! Checks of who may act: identity, epochs, processes, lists and prunes.

use serde_json::json;

use super::super::messages::State;
use super::super::wire::{Endpoint, Request};
use super::super::{PROTOCOL, RETENTION_S_MIN};
use super::Verdict;
use super::session::{Caller, Session, is_no, is_yes};
use crate::txn::Gid;

pub(super) async fn describes_itself(s: &Session) -> Verdict {
    let service = &s.service;
    if !service.speaks_ours() {
        return Err(format!("its protocol is {:?}, not {PROTOCOL:?}", service.protocol).into());
    }
    if !service.has_identity() {
        return Err("its identity is not 1 to 100 visible ASCII characters".to_owned().into());
    }
    if service.outcome_retention_s < RETENTION_S_MIN {
        let kept = service.outcome_retention_s;
        return Err(format!("it keeps outcomes for {kept} s, less than {RETENTION_S_MIN}").into());
    }
    let again = Session::describe(&s.wire).await?;
    if again.identity != service.identity {
        return Err(format!("it was {}, and is {} now", service.identity, again.identity).into());
    }
    Ok(())
}

pub(super) async fn claims_an_epoch(s: &Session) -> Verdict {
    for _ in 0..2 {
        s.claim(s.own).await?;
    }
    Ok(())
}

pub(super) async fn lists_all(s: &Session) -> Verdict {
    let other = Caller::new();
    s.claim(other).await?;
    let mut prepared: Vec<(Caller, Gid)> = Vec::new();
    for caller in [s.own, s.own, other, s.own, other] {
        let gid = s.gid(caller);
        let vote = s.vote(Endpoint::Prepare, caller, gid, &s.sample.give).await?;
        is_yes("prepare", &vote)?;
        prepared.push((caller, gid));
    }
    for limit in [1_000, 2, 1] {
        let listed = s.list(limit).await?;
        for (_, gid) in &prepared {
            let count = listed.iter().filter(|listed| **listed == gid.to_string()).count();
            if count != 1 {
                return Err(format!("by pages of {limit} {gid} is listed {count} times").into());
            }
        }
    }
    for (caller, gid) in prepared {
        s.state(Endpoint::Abort, caller, gid, State::Aborted).await?;
    }
    Ok(())
}

pub(super) async fn older_epochs(s: &Session) -> Verdict {
    let old = Caller::new();
    s.claim(old).await?;
    let (kept, gone, give) = (s.gid(old), s.gid(old), &s.sample.give);
    for gid in [kept, gone] {
        is_yes("prepare", &s.vote(Endpoint::Prepare, old, gid, give).await?)?;
    }
    let new = old.at(2);
    s.claim(new).await?;
    let stale = Some("stale_epoch");
    s.refused(Session::claim_request(old), 409, stale).await?;
    // Of the old epoch; and of the new one, for a branch of the old.
    for caller in [old, new] {
        let request = s.work_request(Endpoint::Prepare, caller, s.gid(old), &[give]);
        s.refused(request, 409, stale).await?;
    }
    let mut verdicts = vec![Endpoint::Commit, Endpoint::Abort];
    if s.service.commits_in_one_phase() {
        verdicts.push(Endpoint::Inquire);
        let request = s.work_request(Endpoint::CommitOnePhase, old, s.gid(old), &[give]);
        s.refused(request, 409, stale).await?;
    }
    for endpoint in verdicts {
        s.refused(s.verdict_request(endpoint, old, kept), 409, stale).await?;
    }
    if !s.is_listed(kept).await? {
        return Err("a claim, or a refused verdict, has ended a prepared branch".to_owned().into());
    }
    // The new epoch decides what the old one has prepared.
    s.state(Endpoint::Commit, new, kept, State::Committed).await?;
    s.state(Endpoint::Abort, new, gone, State::Aborted).await?;
    Ok(s.effects(1).await?)
}

pub(super) async fn unclaimed(s: &Session) -> Verdict {
    let caller = Caller::new();
    let unclaimed = Some("unclaimed_epoch");
    let request =
        |caller| s.work_request(Endpoint::Prepare, caller, s.gid(caller), &[&s.sample.give]);
    s.refused(request(caller), 409, unclaimed).await?;
    s.claim(caller).await?;
    let later = caller.at(2);
    s.refused(request(later), 409, unclaimed).await?;
    let verdict = s.verdict_request(Endpoint::Abort, later, s.gid(caller));
    Ok(s.refused(verdict, 409, unclaimed).await?)
}

pub(super) async fn one_process(s: &Session) -> Verdict {
    let copy = Caller { process: Caller::new().process, ..s.own };
    s.refused(Session::claim_request(copy), 409, Some("stale_epoch")).await?;
    // The first is none the worse for it.
    let gid = s.gid(s.own);
    s.prepared(gid, &s.sample.give).await?;
    Ok(s.abort(gid, State::Aborted).await?)
}

pub(super) async fn another_service(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    s.prepared(gid, &s.sample.give).await?;
    let for_another = |endpoint| {
        let body = json!({
            "service": "another", "epoch": s.own.epoch.0, "operations": [s.sample.give],
        });
        Request::branch(endpoint, gid, body.to_string().into_bytes())
    };
    for endpoint in [Endpoint::Prepare, Endpoint::Commit, Endpoint::Abort] {
        s.refused(for_another(endpoint), 409, Some("wrong_service")).await?;
    }
    Ok(s.abort(gid, State::Aborted).await?)
}

pub(super) async fn prunes(s: &Session) -> Verdict {
    let caller = Caller::new();
    s.claim(caller).await?;
    let (ended, kept, late) = (s.gid(caller), s.gid(caller), s.gid(caller));
    for gid in [ended, kept] {
        let vote = s.vote(Endpoint::Prepare, caller, gid, &s.sample.give).await?;
        is_yes("prepare", &vote)?;
    }
    s.state(Endpoint::Commit, caller, ended, State::Committed).await?;
    let prune = |caller: Caller| {
        let body = json!({
            "service": s.service.identity, "log": caller.log.to_string(),
            "epoch": caller.epoch.0, "physical": late.physical.0 + 1, "older_than_s": 0,
        });
        let bytes = body.to_string().into_bytes();
        Request::of_log(Endpoint::Prune, caller.log, caller.epoch, bytes)
    };
    s.refused(prune(caller.at(2)), 409, Some("unclaimed_epoch")).await?;
    let reply = s.send(prune(caller)).await?;
    if reply.status != 200 {
        return Err(format!("a prune is answered with {}", reply.status).into());
    }
    let vote = s.vote(Endpoint::Prepare, caller, late, &s.sample.give).await?;
    is_no("prepare of an execution that was pruned", &vote)?;
    if s.service.commits_in_one_phase() {
        let vote = s.vote(Endpoint::CommitOnePhase, caller, late, &s.sample.give).await?;
        is_no("one-phase commit of an execution that was pruned", &vote)?;
    }
    if !s.is_listed(kept).await? {
        return Err("a prune has removed a prepared branch".to_owned().into());
    }
    s.state(Endpoint::Commit, caller, kept, State::Committed).await?;
    Ok(s.effects(2).await?)
}
