//! Checks of batches, of a service that offers them.

use super::super::messages::State;
use super::session::{Session, is_no, is_yes};
use super::{Step, Stop, Verdict};
use crate::txn::Gid;

pub(super) async fn serial_order(s: &Session) -> Verdict {
    offered(s)?;
    let (give, take) = (&s.sample.give, &s.sample.take);
    let gid = s.gid(s.own);
    // The account is empty: who takes before it is given, or once it is gone, declines.
    s.votes_yes(gid, &[take, give, give, take, take, take, give], &[0, 5]).await?;
    if !s.is_listed(gid).await? {
        return Err("a prepared batch is not listed".to_owned().into());
    }
    is_no("take of what is only prepared", &s.prepare(s.gid(s.own), take).await?)?;
    s.commit(gid, State::Committed).await?;
    s.effects(1).await?;
    let gid = s.gid(s.own);
    s.votes_yes(gid, &[give, give, take], &[]).await?;
    s.abort(gid, State::Aborted).await?;
    Ok(s.effects(0).await?)
}

pub(super) async fn all_or_nothing(s: &Session) -> Verdict {
    offered(s)?;
    let (give, take) = (&s.sample.give, &s.sample.take);
    let gid = s.gid(s.own);
    let steps = [give, take, take, give];
    for _ in 0..2 {
        let (vote, declined) = s.batch(gid, false, &steps).await?;
        is_no("a batch in which one declines", &vote)?;
        if declined != [2] {
            return Err(format!("members {declined:?} are said to decline, not 2").into());
        }
    }
    if s.is_listed(gid).await? {
        return Err("a batch in which one declined is listed as prepared".to_owned().into());
    }
    s.commit(gid, State::Aborted).await?;
    let whole = s.gid(s.own);
    let (vote, declined) = s.batch(whole, false, &[give, give]).await?;
    is_yes("a batch in which nobody declines", &vote)?;
    if !declined.is_empty() {
        return Err(format!("members {declined:?} are said to decline").into());
    }
    s.commit(whole, State::Committed).await?;
    Ok(s.effects(2).await?)
}

pub(super) async fn repeatable(s: &Session) -> Verdict {
    offered(s)?;
    let (give, take) = (&s.sample.give, &s.sample.take);
    let gid = s.gid(s.own);
    for _ in 0..2 {
        s.votes_yes(gid, &[take, give], &[0]).await?;
    }
    s.refused(s.batch_request(gid, true, &[take, give, give]), 422, None).await?;
    s.commit(gid, State::Committed).await?;
    s.votes_yes(gid, &[take, give], &[0]).await?;
    s.effects(1).await?;
    let late = s.gid(s.own);
    s.abort(late, State::Aborted).await?;
    is_no("a batch after its abort", &s.batch(late, true, &[give]).await?.0)?;
    Ok(s.effects(0).await?)
}

impl Session {
    /// Prepares what those who decline are dropped from.
    async fn votes_yes(&self, gid: Gid, steps: &[&Step], declines: &[usize]) -> Result<(), String> {
        let (vote, declined) = self.batch(gid, true, steps).await?;
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
