//! The second phase, and what settles doubt: `XA COMMIT`, `XA ROLLBACK`, markers and tombstones.
//!
//! While the session that prepared a branch is there, the server tells every other one that it
//! knows no such branch (1397). So the owner is asked, if it is one of ours; and 1397 means
//! something only once `XA RECOVER` does not list the branch either.
//!
//! While that session is ending, worse is possible (MariaDB 10.11, in 2 to 4 of 1,000 tries): the
//! server takes the branch over first and its engine lets go of it later. `XA COMMIT` or `XA
//! ROLLBACK` in between answers OK and does nothing; from then on the branch is neither listed nor
//! can it be ended, and keeps its locks, until the server is restarted, which lists it again. So
//! nobody else is told to end a branch until the session has been gone for a while, and an OK is
//! believed only if the marker, or the tombstone in its place, is there.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Error;

use super::errors::{self, ROLLED_BACK, UNKNOWN_XID, text};
use super::sessions::Session;
use super::xid::{Listed, Xid};
use super::{Claimed, Inner, connection, schema};
use crate::participants::{Ack, EndedBelow, Inquiry, Prepared};
use crate::txn::Gid;

/// How long a tombstone waits for a branch that has its marker but has not ended, in seconds.
/// Short: it is tried again, and by then the branch is prepared or gone.
const ENTOMB_LOCK_TIMEOUT_S: u64 = 1;
/// How often it is looked whether a session that was told to end is gone, and how many times.
const GONE_INTERVAL: Duration = Duration::from_millis(20);
const GONE_LOOKS_MAX: u32 = 50;
/// The most messages of one pruning; what is left goes with the next.
const PRUNE_MESSAGES_MAX: u32 = 10;

/// What the server did when it answered OK and the branch has not ended.
const UNLISTED: &str = "the server holds the prepared transaction and lists it no longer: it can \
                        be ended once the server is restarted";

/// How a branch ended, by its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Committed,
    Aborted,
}

/// What became of the statement that was to end a branch.
enum Finished {
    /// It ended the branch.
    Now,
    /// No such branch is prepared.
    Absent,
}

#[derive(Clone, Copy)]
enum Verb {
    Commit,
    Rollback,
}

impl Verb {
    fn of(self, xid: &Xid) -> String {
        match self {
            Self::Commit => format!("XA COMMIT {xid}"),
            Self::Rollback => format!("XA ROLLBACK {xid}"),
        }
    }
}

pub(super) async fn commit(inner: Arc<Inner>, gid: Gid) -> Ack {
    let settled = async {
        let claimed = inner.claimed()?;
        if inner.finish_as_owner(Verb::Commit, &claimed.xid(gid)).await {
            return Ok(Ack::Done);
        }
        let mut session = claimed.sessions.take().await?;
        let told = inner.commit_on(&mut session, &claimed, gid).await;
        session.give_back();
        told
    };
    settled.await.unwrap_or_else(Ack::Unknown)
}

pub(super) async fn abort(inner: Arc<Inner>, gid: Gid) -> Ack {
    let settled = async {
        let claimed = inner.claimed()?;
        if let Some(ack) = inner.let_go(&claimed.xid(gid)).await {
            return Ok(ack);
        }
        if inner.finish_as_owner(Verb::Rollback, &claimed.xid(gid)).await {
            return Ok(Ack::Done);
        }
        let mut session = claimed.sessions.take().await?;
        let told = match finish(&mut session, &claimed, Verb::Rollback, gid).await {
            Ok(finished) => inner
                .entomb(&mut session, gid)
                .await
                .map(|ended| match ended {
                    Ended::Aborted => Ack::Done,
                    Ended::Committed => Ack::Heuristic("the branch was committed".to_owned()),
                })
                .map_err(|detail| match finished {
                    Finished::Now => format!("{UNLISTED} ({detail})"),
                    Finished::Absent => detail,
                }),
            Err(detail) => Err(detail),
        };
        session.give_back();
        told
    };
    settled.await.unwrap_or_else(Ack::Unknown)
}

pub(super) async fn inquire(inner: Arc<Inner>, gid: Gid) -> Inquiry {
    let settled = async {
        let claimed = inner.claimed()?;
        let mut session = claimed.sessions.take().await?;
        let told = inner.entomb(&mut session, gid).await;
        session.give_back();
        told
    };
    match settled.await {
        Ok(Ended::Committed) => Inquiry::Committed,
        Ok(Ended::Aborted) => Inquiry::Aborted,
        Err(detail) => Inquiry::Unknown(detail),
    }
}

/// Ends a branch on a session that does not own it.
async fn finish(
    session: &mut Session,
    claimed: &Claimed,
    verb: Verb,
    gid: Gid,
) -> Result<Finished, String> {
    let failed = |error: Error| text(&error);
    // Those that we have lost and the server has not, or of an older epoch.
    let mut looks = 0;
    while claimed.sessions.end_others(session).await.map_err(failed)? > 0 {
        looks += 1;
        if looks == GONE_LOOKS_MAX {
            return Err("the session that may own the prepared branch does not end".to_owned());
        }
        tokio::time::sleep(GONE_INTERVAL).await;
    }
    claimed.sessions.detached().await;
    let error = match session.run(&verb.of(&claimed.xid(gid))).await {
        Ok(()) => return Ok(Finished::Now),
        Err(error) => error,
    };
    match errors::code(&error) {
        Some(UNKNOWN_XID) => {}
        // It had changed nothing, and went when its session did.
        Some(ROLLED_BACK) => return Ok(Finished::Absent),
        _ => return Err(text(&error)),
    }
    if listed(session).await.map_err(failed)?.contains(&Listed::Branch(claimed.xid(gid))) {
        return Err("another session still owns the prepared branch".to_owned());
    }
    Ok(Finished::Absent)
}

async fn listed(session: &mut Session) -> Result<Vec<Listed>, Error> {
    let rows = session.rows("XA RECOVER").await?;
    let read = |row: mysql_async::Row| {
        let (format, gtrid_length, _, data): (i64, usize, usize, Vec<u8>) =
            mysql_async::from_row(row);
        Listed::read(format, gtrid_length, &data)
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn ended(session: &mut Session, gid: Gid) -> Result<Option<Ended>, Error> {
    let rows = session.rows(&schema::ended(gid)).await?;
    Ok(rows.first().and_then(|row| row.get::<String, _>(0)).map(|ended| match ended.as_str() {
        "committed" => Ended::Committed,
        _ => Ended::Aborted,
    }))
}

async fn prune_on(session: &mut Session, ended: EndedBelow, age_s: u64) -> Result<u64, Error> {
    let mut removed = 0;
    for _ in 0..PRUNE_MESSAGES_MAX {
        let rows = session.rows(&schema::old(ended, age_s)).await?;
        let keys: Vec<(u64, u64, u16)> = rows.into_iter().map(mysql_async::from_row).collect();
        if keys.is_empty() {
            break;
        }
        session.run(&schema::remove(ended.log, &keys)).await?;
        removed += keys.len() as u64;
        if keys.len() < schema::REMOVED_MAX {
            break;
        }
    }
    Ok(removed)
}

impl Inner {
    async fn commit_on(
        &self,
        session: &mut Session,
        claimed: &Claimed,
        gid: Gid,
    ) -> Result<Ack, String> {
        if let Finished::Now = finish(session, claimed, Verb::Commit, gid).await? {
            return match ended(session, gid).await.map_err(|error| text(&error))? {
                Some(Ended::Committed) => Ok(Ack::Done),
                _ => Err(UNLISTED.to_owned()),
            };
        }
        // If it is there, its marker's place is taken.
        match self.entomb(session, gid).await {
            Ok(Ended::Committed) => Ok(Ack::Done),
            Ok(Ended::Aborted) => Ok(Ack::Heuristic(
                "the database has neither the prepared transaction nor its marker, or has rolled \
                 it back"
                    .to_owned(),
            )),
            Err(detail) => Err(format!("{UNLISTED}, or another failure ({detail})")),
        }
    }

    /// Ends a branch on the session that prepared it. If that fails, the session is closed, which
    /// leaves the branch to any other.
    async fn finish_as_owner(&self, verb: Verb, xid: &Xid) -> bool {
        let owned = self.owners.lock().expect("no panic while held").remove(&xid.gid);
        let Some(mut owned) = owned else { return false };
        match owned.session.run(&verb.of(xid)).await {
            Ok(()) => {
                owned.session.give_back();
                true
            }
            Err(error) => {
                tracing::debug!(gid = %xid.gid, error = %text(&error), "an owner was lost");
                false
            }
        }
    }

    /// Leaves a tombstone unless the branch has ended, and answers how it did.
    async fn entomb(&self, session: &mut Session, gid: Gid) -> Result<Ended, String> {
        let wait = |seconds: u64| format!("SET SESSION innodb_lock_wait_timeout = {seconds}");
        let (short, usual) = (ENTOMB_LOCK_TIMEOUT_S, connection::lock_wait_s(&self.options));
        let told = async {
            let insert = schema::entomb(gid, self.process);
            let entombed = session.run(&format!("{}; {insert}", wait(short))).await;
            session.run(&wait(usual)).await?;
            entombed?;
            ended(session, gid).await
        };
        match told.await {
            Ok(Some(ended)) => Ok(ended),
            Ok(None) => Err("the tombstone is gone".to_owned()),
            Err(error) => Err(text(&error)),
        }
    }

    /// Removes markers and tombstones of what has ended, some time after: a prepare that comes
    /// late still finds its tombstone.
    pub(super) async fn prune(&self, ended: EndedBelow) -> Result<u64, String> {
        // Longer than any statement of ours may take.
        let age_s = self.options.listening_horizon.as_secs() * 10;
        let mut session = self.claimed()?.sessions.take().await?;
        let removed = prune_on(&mut session, ended, age_s).await;
        if removed.is_err() {
            // It may be in the middle of its transaction.
            session.distrust();
        }
        session.give_back();
        removed.map_err(|error| text(&error))
    }

    /// Branches of other databases of the server are left out: their participants list them.
    pub(super) async fn list_prepared(&self) -> Result<Prepared, String> {
        let claimed = self.claimed()?;
        let mut session = claimed.sessions.take().await?;
        let listed = listed(&mut session).await;
        session.give_back();
        let mut prepared = Prepared::default();
        for listed in listed.map_err(|error| text(&error))? {
            match listed {
                Listed::Branch(xid) if xid.database == claimed.database => {
                    prepared.branches.push(xid.gid);
                }
                Listed::Branch(_) => {}
                Listed::Other(other) => prepared.others.push(other),
            }
        }
        Ok(prepared)
    }
}
