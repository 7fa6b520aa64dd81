//! Checks of batches, of a service that offers them.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::super::batch::Room;
use super::super::messages::{State, VoteAnswer};
use super::super::wire::{Endpoint, Request};
use super::session::{Caller, Session, is_no, is_yes};
use super::{Step, Stop, Verdict};
use crate::txn::Gid;

/// How often a request is sent at once.
const AT_ONCE: usize = 4;

/// Operations by member.
pub(super) type Members<'a> = &'a [&'a [&'a Step]];

pub(super) async fn serial_order(s: &Session) -> Verdict {
    offered(s)?;
    let (give, take) = (&s.sample.give, &s.sample.take);
    let gid = s.gid(s.own);
    // The account is empty: who takes before it is given declines. The fifth declines by its last
    // operation and has given nothing; the sixth takes what the fourth gave.
    let members: Members<'_> = &[
        &[take],
        &[give],
        &[give, take, take],
        &[give],
        &[give, take, take, take],
        &[take],
        &[give],
    ];
    s.votes_yes(gid, members, &[0, 4]).await?;
    if !s.is_listed(gid).await? {
        return Err("a prepared batch is not listed".to_owned().into());
    }
    is_no("take of what is only prepared", &s.prepare(s.gid(s.own), take).await?)?;
    s.commit(gid, State::Committed).await?;
    s.effects(1).await?;
    let gid = s.gid(s.own);
    s.votes_yes(gid, &[&[give], &[take], &[take], &[give, give]], &[2]).await?;
    s.commit(gid, State::Committed).await?;
    s.effects(2).await?;
    let gid = s.gid(s.own);
    s.votes_yes(gid, &[&[give], &[give]], &[]).await?;
    s.abort(gid, State::Aborted).await?;
    Ok(s.effects(0).await?)
}

pub(super) async fn all_or_nothing(s: &Session) -> Verdict {
    offered(s)?;
    let (give, take) = (&s.sample.give, &s.sample.take);
    let gid = s.gid(s.own);
    for _ in 0..2 {
        let members: Members<'_> = &[&[give], &[take], &[take], &[give]];
        let (vote, declined) = s.batch(gid, false, members).await?;
        is_no("a batch in which one declines", &vote)?;
        if declined != [2] {
            return Err(format!("members {declined:?} are said to decline, not 2").into());
        }
    }
    if s.is_listed(gid).await? {
        return Err("a batch in which one declines is listed as prepared".to_owned().into());
    }
    s.commit(gid, State::Aborted).await?;
    let whole = s.gid(s.own);
    let (vote, declined) = s.batch(whole, false, &[&[give], &[give]]).await?;
    is_yes("a batch in which nobody declines", &vote)?;
    if !declined.is_empty() {
        return Err(format!("members {declined:?} are said to decline").into());
    }
    s.commit(whole, State::Committed).await?;
    s.effects(2).await?;
    // Nobody is left: nothing may be promised.
    let none = s.gid(s.own);
    let (vote, declined) = s.batch(none, true, &[&[take], &[take]]).await?;
    if vote == VoteAnswer::Yes && s.is_listed(none).await? {
        s.abort(none, State::Aborted).await?;
    }
    if declined != [0, 1] {
        return Err(format!("members {declined:?} are said to decline, not both").into());
    }
    Ok(s.effects(0).await?)
}

pub(super) async fn repeatable(s: &Session) -> Verdict {
    offered(s)?;
    let (give, take) = (&s.sample.give, &s.sample.take);
    let gid = s.gid(s.own);
    let members: Members<'_> = &[&[take], &[give]];
    let at_once = join_all((0..AT_ONCE).map(|_| s.votes_yes(gid, members, &[0]))).await;
    at_once.into_iter().collect::<Result<Vec<()>, String>>()?;
    let other = s.batch_request(s.own, gid, true, &[&[take], &[give], &[give]]);
    s.refused(other, 422, None).await?;
    s.commit(gid, State::Committed).await?;
    s.votes_yes(gid, members, &[0]).await?;
    s.effects(1).await?;
    let late = s.gid(s.own);
    s.abort(late, State::Aborted).await?;
    is_no("a batch after its abort", &s.batch(late, true, &[&[give]]).await?.0)?;
    Ok(s.effects(0).await?)
}

pub(super) async fn limited(s: &Session) -> Verdict {
    offered(s)?;
    let gid = s.gid(s.own);
    let give = &s.sample.give;
    let good = s.batch_request(s.own, gid, true, &[&[give]]);
    let with = |members: Value| {
        let body = json!({
            "service": s.service.identity, "epoch": s.own.epoch.0,
            "drop_declined": true, "members": members,
        });
        Request { body: body.to_string().into_bytes(), ..good.clone() }
    };
    for members in [json!([]), json!([[]]), json!([[give], []]), json!([give]), json!(null)] {
        s.refused(with(members), 400, None).await?;
    }
    let most = Room::at(&s.service).members();
    let request = with(vec![json!([give]); most + 1].into());
    // Whichever limit it meets first.
    let status = if request.body.len() > s.service.body_bytes_max { 413 } else { 400 };
    s.refused(request, status, None).await?;
    if s.is_listed(gid).await? {
        return Err("a refused batch has prepared".to_owned().into());
    }
    Ok(s.effects(0).await?)
}

pub(super) async fn fenced(s: &Session) -> Verdict {
    offered(s)?;
    let (old, members): (_, Members<'_>) = (Caller::new(), &[&[&s.sample.give]]);
    s.claim(old).await?;
    let new = old.at(2);
    let request = |caller, gid| s.batch_request(caller, gid, true, members);
    s.refused(request(new, s.gid(new)), 409, Some("unclaimed_epoch")).await?;
    s.claim(new).await?;
    // Of the old epoch; and of the new one, for a branch of the old.
    for caller in [old, new] {
        s.refused(request(caller, s.gid(old)), 409, Some("stale_epoch")).await?;
    }
    let body = json!({
        "service": "another", "epoch": s.own.epoch.0,
        "drop_declined": true, "members": [[s.sample.give]],
    });
    let gid = s.gid(s.own);
    let another = Request::branch(Endpoint::PrepareBatch, gid, body.to_string().into_bytes());
    s.refused(another, 409, Some("wrong_service")).await?;
    if s.is_listed(gid).await? {
        return Err("a refused batch has prepared".to_owned().into());
    }
    Ok(s.effects(0).await?)
}

impl Session {
    /// Prepares what those who decline are dropped from.
    async fn votes_yes(
        &self,
        gid: Gid,
        members: Members<'_>,
        declines: &[usize],
    ) -> Result<(), String> {
        let (vote, declined) = self.batch(gid, true, members).await?;
        is_yes("a batch without those who decline", &vote)?;
        if declined == declines {
            return Ok(());
        }
        Err(format!("members {declined:?} are said to decline, not {declines:?}"))
    }
}

fn offered(s: &Session) -> Verdict {
    if s.service.takes_batches() {
        return Ok(());
    }
    Err(Stop::Skipped("the service does not offer batch".to_owned()))
}
