//! Checks of a branch's life: votes, verdicts, tombstones, inquiries, duplicates.

use futures_util::future::join_all;

use super::super::messages::{State, VoteAnswer};
use super::super::wire::Endpoint;
use super::session::{Session, is_no, is_yes};
use super::{Step, Stop, Verdict};
use crate::txn::Declined;

/// How often a request is sent at once.
const AT_ONCE: usize = 8;

pub(super) async fn declines(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    let first = s.prepare(gid, &s.sample.take).await?;
    if !matches!(first, VoteAnswer::No(Declined::Business { .. })) {
        return Err(format!("a take from the empty account: {first:?}, not a business no").into());
    }
    let second = s.prepare(gid, &s.sample.take).await?;
    if first != second {
        return Err(format!("repeated: {second:?}, after {first:?}").into());
    }
    if s.is_listed(gid).await? {
        return Err("a declined branch is listed as prepared".to_owned().into());
    }
    Ok(s.abort(gid, State::Aborted).await?)
}

pub(super) async fn unknown_operation(s: &Session) -> Verdict {
    let operation = "no-such-operation".parse().expect("a plain name");
    let step = Step { operation, params: s.sample.give.params.clone() };
    let vote = s.prepare(s.gid(s.own), &step).await?;
    Ok(is_no("prepare of an unknown operation", &vote)?)
}

pub(super) async fn prepare_twice(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    for _ in 0..2 {
        s.prepared(gid, &s.sample.give).await?;
    }
    if !s.is_listed(gid).await? {
        return Err("a prepared branch is not listed".to_owned().into());
    }
    s.commit(gid, State::Committed).await?;
    if s.is_listed(gid).await? {
        return Err("a committed branch is listed as prepared".to_owned().into());
    }
    Ok(s.effects(1).await?)
}

pub(super) async fn commit_twice(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    s.prepared(gid, &s.sample.give).await?;
    for _ in 0..3 {
        s.commit(gid, State::Committed).await?;
    }
    s.abort(gid, State::Committed).await?;
    s.prepared(gid, &s.sample.give).await?;
    if s.is_listed(gid).await? {
        return Err("a prepare after the commit has prepared again".to_owned().into());
    }
    Ok(s.effects(1).await?)
}

pub(super) async fn abort_undoes(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    s.prepared(gid, &s.sample.give).await?;
    for _ in 0..2 {
        s.abort(gid, State::Aborted).await?;
    }
    s.commit(gid, State::Aborted).await?;
    is_no("prepare after the abort", &s.prepare(gid, &s.sample.give).await?)?;
    Ok(s.effects(0).await?)
}

pub(super) async fn held(s: &Session) -> Verdict {
    let (given, first) = (s.gid(s.own), s.gid(s.own));
    s.prepared(given, &s.sample.give).await?;
    // What is given is not there before it is committed.
    is_no("take of what is only prepared", &s.prepare(s.gid(s.own), &s.sample.take).await?)?;
    s.commit(given, State::Committed).await?;
    s.prepared(first, &s.sample.take).await?;
    is_no("take of what is held", &s.prepare(s.gid(s.own), &s.sample.take).await?)?;
    s.abort(first, State::Aborted).await?;
    Ok(s.effects(1).await?)
}

pub(super) async fn tombstone(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    for _ in 0..2 {
        s.abort(gid, State::Aborted).await?;
    }
    is_no("prepare after the abort", &s.prepare(gid, &s.sample.give).await?)?;
    if s.service.commits_in_one_phase() {
        let vote = s.vote(Endpoint::CommitOnePhase, s.own, gid, &s.sample.give).await?;
        is_no("one-phase commit after the abort", &vote)?;
    }
    if s.is_listed(gid).await? {
        return Err("a tombstone is listed as prepared".to_owned().into());
    }
    Ok(s.effects(0).await?)
}

pub(super) async fn unknown_commit(s: &Session) -> Verdict {
    let request = s.verdict_request(Endpoint::Commit, s.own, s.gid(s.own));
    Ok(s.refused(request, 404, Some("unknown_branch")).await?)
}

pub(super) async fn one_phase(s: &Session) -> Verdict {
    needs_one_phase(s)?;
    let at_once = Endpoint::CommitOnePhase;
    let gid = s.gid(s.own);
    for _ in 0..2 {
        is_yes("one-phase commit", &s.vote(at_once, s.own, gid, &s.sample.give).await?)?;
    }
    s.abort(gid, State::Committed).await?;
    s.commit(gid, State::Committed).await?;
    s.effects(1).await?;
    let vote = s.vote(at_once, s.own, s.gid(s.own), &s.sample.take).await?;
    Ok(is_no("one-phase take from the empty account", &vote)?)
}

pub(super) async fn inquiry(s: &Session) -> Verdict {
    needs_one_phase(s)?;
    let ask = Endpoint::Inquire;
    let (committed, declined, prepared) = (s.gid(s.own), s.gid(s.own), s.gid(s.own));
    s.prepared(prepared, &s.sample.give).await?;
    s.state(ask, s.own, prepared, State::Prepared).await?;
    s.abort(prepared, State::Aborted).await?;
    s.state(ask, s.own, prepared, State::Aborted).await?;
    let at_once = Endpoint::CommitOnePhase;
    is_no("one-phase take", &s.vote(at_once, s.own, declined, &s.sample.take).await?)?;
    s.state(ask, s.own, declined, State::Aborted).await?;
    is_yes("one-phase commit", &s.vote(at_once, s.own, committed, &s.sample.give).await?)?;
    s.state(ask, s.own, committed, State::Committed).await?;
    Ok(s.effects(1).await?)
}

pub(super) async fn inquiry_tombstone(s: &Session) -> Verdict {
    needs_one_phase(s)?;
    let gid = s.gid(s.own);
    for _ in 0..2 {
        s.state(Endpoint::Inquire, s.own, gid, State::Aborted).await?;
    }
    for late in [Endpoint::CommitOnePhase, Endpoint::Prepare] {
        let vote = s.vote(late, s.own, gid, &s.sample.give).await?;
        is_no("work after the inquiry", &vote)?;
    }
    Ok(s.effects(0).await?)
}

pub(super) async fn reads_only(s: &Session) -> Verdict {
    let Some(read) = &s.sample.read else {
        return Err(Stop::Skipped("no operation that only reads was named".to_owned()));
    };
    let gid = s.gid(s.own);
    let vote = s.prepare(gid, read).await?;
    if vote != VoteAnswer::ReadOnly {
        return Err(format!("{}: {vote:?}, not read_only", read.operation).into());
    }
    if s.is_listed(gid).await? {
        return Err("a read-only branch is listed as prepared".to_owned().into());
    }
    Ok(())
}

pub(super) async fn yes_stays(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    s.prepared(gid, &s.sample.give).await?;
    // Nothing can be waited for here: it is time that must change nothing.
    tokio::time::sleep(s.pause).await;
    let pause = s.pause;
    if !s.is_listed(gid).await? {
        return Err(format!("after {pause:?} the prepared branch is not listed any more").into());
    }
    let ended = s.commit(gid, State::Committed).await;
    ended.map_err(|why| format!("after {pause:?}: {why}"))?;
    Ok(s.effects(1).await?)
}

pub(super) async fn duplicates(s: &Session) -> Verdict {
    let gid = s.gid(s.own);
    let prepares = join_all((0..AT_ONCE).map(|_| s.prepared(gid, &s.sample.give))).await;
    prepares.into_iter().collect::<Result<Vec<()>, String>>()?;
    let commits = join_all((0..AT_ONCE).map(|_| s.commit(gid, State::Committed))).await;
    commits.into_iter().collect::<Result<Vec<()>, String>>()?;
    s.effects(1).await?;
    if s.service.commits_in_one_phase() {
        let gid = s.gid(s.own);
        let one = || s.vote(Endpoint::CommitOnePhase, s.own, gid, &s.sample.give);
        for vote in join_all((0..AT_ONCE).map(|_| one())).await {
            is_yes("one-phase commit", &vote?)?;
        }
        s.effects(1).await?;
    }
    Ok(())
}

pub(super) async fn other_operations(s: &Session) -> Verdict {
    let (gid, give) = (s.gid(s.own), &s.sample.give);
    s.prepared(gid, give).await?;
    let other = s.work_request(Endpoint::Prepare, s.own, gid, &[give, give]);
    s.refused(other, 422, None).await?;
    s.commit(gid, State::Committed).await?;
    Ok(s.effects(1).await?)
}

pub(super) async fn leaves_nothing(s: &Session) -> Verdict {
    let ours = format!("presume:{}:", s.own.log);
    let left = s.list(1_000).await?.into_iter().find(|gid| gid.starts_with(&ours));
    if let Some(left) = left {
        return Err(format!("{left} is still prepared").into());
    }
    Ok(s.effects(0).await?)
}

fn needs_one_phase(s: &Session) -> Verdict {
    if s.service.commits_in_one_phase() {
        return Ok(());
    }
    Err(Stop::Skipped("the service does not offer one_phase".to_owned()))
}
