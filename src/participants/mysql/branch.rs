//! The first phase: work, then marker, `XA END` and `XA PREPARE` in one message.

use std::sync::Arc;

use mysql_async::Error;

use super::errors::{
    self, DUPLICATE_KEY, DUPLICATE_XID, Failure, NOT_NULL, READ_ONLY_TRANSACTION, ROLLED_BACK,
    failure, text,
};
use super::sessions::Session;
use super::xid::Xid;
use super::{Bound, Claimed, Inner, Owned, schema, unavailable};
use crate::txn::{Declined, Gid, Vote};

pub(super) async fn prepare(
    inner: Arc<Inner>,
    claimed: Arc<Claimed>,
    gid: Gid,
    bound: Vec<Bound>,
) -> Vote {
    let Some(permit) = claimed.sessions.work_permit().await else { return Vote::No(exhausted()) };
    let mut session = match claimed.sessions.take().await {
        Ok(session) => session,
        Err(detail) => return Vote::No(unavailable(detail)),
    };
    if let Some(vote) = only_look(&mut session, &bound).await {
        session.give_back();
        return vote;
    }
    let xid = claimed.xid(gid);
    if let Err(declined) = work(&mut session, &xid, &bound).await {
        session.give_back();
        return Vote::No(declined);
    }
    match session.run(&ending(&xid, "XA PREPARE")).await {
        Ok(()) => {
            let owned = Owned { session, _permit: permit };
            inner.owners.lock().expect("no panic while held").insert(gid, owned);
            Vote::Yes
        }
        Err(error) => {
            let vote = not_ended(&mut session, &xid, &error).await;
            session.give_back();
            vote
        }
    }
}

/// XA as well, and not a plain transaction: within it the server refuses statements that would
/// commit by themselves, before the marker.
pub(super) async fn commit_one_phase(claimed: Arc<Claimed>, gid: Gid, bound: Vec<Bound>) -> Vote {
    let Some(_permit) = claimed.sessions.work_permit().await else { return Vote::No(exhausted()) };
    let mut session = match claimed.sessions.take().await {
        Ok(session) => session,
        Err(detail) => return Vote::No(unavailable(detail)),
    };
    let vote = match only_look(&mut session, &bound).await {
        Some(vote) => vote,
        None => work_and_commit(&mut session, &claimed.xid(gid), &bound).await,
    };
    session.give_back();
    vote
}

async fn work_and_commit(session: &mut Session, xid: &Xid, bound: &[Bound]) -> Vote {
    if let Err(declined) = work(session, xid, bound).await {
        return Vote::No(declined);
    }
    let last = format!("{} ONE PHASE", ending(xid, "XA COMMIT"));
    match session.run(&last).await {
        Ok(()) => Vote::Yes,
        Err(error) => not_ended(session, xid, &error).await,
    }
}

/// Three statements: the marker, the end of the work, and what becomes of the branch.
pub(super) fn ending(xid: &Xid, verb: &str) -> String {
    format!("{}; XA END {xid}; {verb} {xid}", schema::mark(xid.gid))
}

/// Every session that work may have is with a branch.
pub(super) fn exhausted() -> Declined {
    let detail = "no session became free in time: prepared branches hold them".to_owned();
    Declined::Technical { code: "prepared_slots_exhausted".to_owned(), detail }
}

/// Carries out a branch that only reads, in a transaction in which the server refuses everything
/// else; `None` if it is not such a branch.
async fn only_look(session: &mut Session, bound: &[Bound]) -> Option<Vote> {
    if !bound.iter().all(|bound| bound.reads) {
        return None;
    }
    let looked = match session.run("START TRANSACTION READ ONLY").await {
        Ok(()) => operate(session, bound).await,
        Err(error) => Err(Trouble::Server(error)),
    };
    // Leaves the session as it was found, unless it has ended: then nobody gets it again.
    let _ = session.run("COMMIT").await;
    match looked {
        Ok(()) => Some(Vote::ReadOnly),
        Err(Trouble::Server(e)) if errors::code(&e) == Some(READ_ONLY_TRANSACTION) => None,
        Err(trouble) => Some(Vote::No(trouble.declined())),
    }
}

/// Why an operation does not stand.
enum Trouble {
    Server(Error),
    Expectation(Declined),
}

impl Trouble {
    /// Nothing was prepared or committed yet: certainly a no.
    fn declined(self) -> Declined {
        match self {
            Self::Expectation(declined) => declined,
            Self::Server(error) => match failure(&error) {
                Failure::Refused(declined) => declined,
                Failure::Unknown(detail) => unavailable(detail),
            },
        }
    }
}

/// Begins the branch and executes its operations. If it declines, nothing of it is left.
async fn work(session: &mut Session, xid: &Xid, bound: &[Bound]) -> Result<(), Declined> {
    // Not to be undone when it fails: a branch of this id would be somebody else's.
    if let Err(error) = session.run(&format!("XA START {xid}")).await {
        if errors::code(&error) != Some(DUPLICATE_XID) {
            session.distrust();
        }
        return Err(Trouble::Server(error).declined());
    }
    let Err(trouble) = operate(session, bound).await else { return Ok(()) };
    undo(session, xid).await;
    Err(trouble.declined())
}

async fn operate(session: &mut Session, bound: &[Bound]) -> Result<(), Trouble> {
    for Bound { statement, values, .. } in bound {
        let executed = session.execute(&statement.sql, values.clone()).await;
        let rows = executed.map_err(Trouble::Server)?;
        statement.judge(rows).map_err(Trouble::Expectation)?;
    }
    Ok(())
}

/// How a branch was left that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// Rolled back, by us or before: nothing of it is there.
    Nothing,
    /// Nobody knows.
    Unclear(String),
}

/// Rolls back a branch that this session has begun.
pub(super) async fn undo(session: &mut Session, xid: &Xid) -> Left {
    // Refused when the branch has ended, or a deadlock has left it to be rolled back only.
    let _ = session.run(&format!("XA END {xid}")).await;
    match session.run(&format!("XA ROLLBACK {xid}")).await {
        Ok(()) => Left::Nothing,
        Err(error) if errors::code(&error) == Some(ROLLED_BACK) => Left::Nothing,
        Err(error) => {
            session.distrust();
            Left::Unclear(text(&error))
        }
    }
}

/// What the last message came to that was answered with an error, or not at all.
pub(super) async fn not_ended(session: &mut Session, xid: &Xid, error: &Error) -> Vote {
    let declined = match failure(error) {
        Failure::Unknown(detail) => return Vote::Unknown(detail),
        Failure::Refused(declined) => declined,
    };
    let left = undo(session, xid).await;
    match (errors::code(error), left) {
        // The marker stands first: what it refuses was neither prepared nor committed.
        (Some(DUPLICATE_KEY), _) => {
            let detail = "a tombstone stands in the place of its marker".to_owned();
            Vote::No(Declined::Technical { code: "aborted_before".to_owned(), detail })
        }
        (Some(NOT_NULL), _) => {
            let detail = format!("the database knows no epoch {} of this log", xid.gid.epoch.0);
            Vote::No(Declined::Technical { code: "fenced".to_owned(), detail })
        }
        (Some(ROLLED_BACK), _) | (_, Left::Nothing) => Vote::No(declined),
        (_, Left::Unclear(detail)) => Vote::Unknown(format!("{}; {detail}", text(error))),
    }
}
