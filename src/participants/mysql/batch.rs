//! Batches: everything in one message, from `XA START` to `XA PREPARE`; or held between the two.
//!
//! # One message
//! The protocol binds values of one statement a message, so in a batch they stand in the SQL as
//! literals: numbers, and texts as hexadecimal digits, so that no value can become SQL
//! (`values::literal`). An operation for many takes its members as a table of such literals. It is
//! not `JSON_TABLE`: that cuts a text which is too long for its column, and puts `?` for letters
//! that the database's default character set lacks, without an error, and then means another row.
//!
//! # Who declines
//! There is no `UPDATE … RETURNING`. So `batch_check` first finds and locks what passes, a variable
//! of the session keeps who that is, and `batch_sql` gets only these. It must meet as many rows:
//! fewer mean that two members met one, by a collation say, and the batch fails as a whole.
//!
//! # Waiting for locks
//! `innodb_lock_wait_timeout` counts whole seconds, at least one. MariaDB ends a statement that
//! takes longer than the batch may wait, whatever for; MySQL 8 has no such limit, so there a lock
//! is waited for up to the next whole second.

use std::collections::HashMap;

use mysql_async::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::batch_message::{Message, Sent, Step};
use super::branch::{ending, exhausted, not_ended, undo};
use super::errors::{self, DUPLICATE_XID, Failure, READ_ONLY_TRANSACTION, ROLLED_BACK};
use super::errors::{failure, text};
use super::sessions::Session;
use super::xid::Xid;
use super::{Claimed, Inner, Owned, connection, unavailable};
use crate::participants::batch::{Batch, Batches, Key, Then, Worked};
use crate::participants::{Ack, BoxFuture, sql, whole};
use crate::txn::{Declined, Gid, Operation, Vote};

/// A branch that is kept open.
pub(super) enum Holding {
    /// Its work is under way.
    Working,
    /// The same, and whoever works must take it back.
    Abandoned,
    /// It only looked: nothing is open.
    Looked,
    /// It can be prepared.
    Open(Owned),
}

/// By branch.
pub(super) type Holdings = std::sync::Mutex<HashMap<Gid, Holding>>;

/// What a batch's work left behind.
enum Kept {
    Nothing,
    Looked,
    /// A branch, open or prepared.
    Branch(Owned),
}

impl Batches for super::Mysql {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        let found = sql::find(&self.0.statements, &operation.operation);
        found.is_ok_and(|statement| {
            super::batch_message::takes(statement) && sql::keys(statement, operation, keys)
        })
    }

    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked> {
        let inner = self.0.clone();
        whole(async move { inner.work(batch).await }, Worked::Unknown)
    }

    fn prepare_held(&self, gid: Gid) -> BoxFuture<'_, Vote> {
        let inner = self.0.clone();
        whole(async move { inner.prepare_held(gid).await }, Vote::Unknown)
    }
}

impl Inner {
    fn holdings(&self) -> std::sync::MutexGuard<'_, HashMap<Gid, Holding>> {
        self.holdings.lock().expect("no panic while held")
    }

    async fn work(&self, batch: Batch) -> Worked {
        let claimed = match self.claimed() {
            Ok(claimed) => claimed,
            Err(detail) => return failed(unavailable(detail)),
        };
        if batch.then == Then::Hold {
            self.holdings().insert(batch.gid, Holding::Working);
        }
        let (worked, kept) = self.carry_out(&claimed, &batch).await;
        match (batch.then, kept) {
            (Then::Hold, kept) => self.hold(&claimed.xid(batch.gid), worked, kept).await,
            (Then::Prepare, Kept::Branch(owned)) => {
                self.owners.lock().expect("no panic while held").insert(batch.gid, owned);
                worked
            }
            (Then::Prepare, _) => worked,
        }
    }

    /// Keeps a branch open, unless it was aborted meanwhile.
    async fn hold(&self, xid: &Xid, worked: Worked, kept: Kept) -> Worked {
        let holding = match kept {
            Kept::Nothing => {
                self.holdings().remove(&xid.gid);
                return worked;
            }
            Kept::Looked => Holding::Looked,
            Kept::Branch(owned) => Holding::Open(owned),
        };
        let abandoned = {
            let mut holdings = self.holdings();
            match holdings.remove(&xid.gid) {
                Some(Holding::Working) => {
                    holdings.insert(xid.gid, holding);
                    None
                }
                _ => Some(holding),
            }
        };
        let Some(holding) = abandoned else { return worked };
        release(holding, xid).await;
        let detail = "it was aborted while it worked".to_owned();
        failed(Declined::Technical { code: "aborted_before".to_owned(), detail })
    }

    async fn carry_out(&self, claimed: &Claimed, batch: &Batch) -> (Worked, Kept) {
        let message = match Message::new(self, claimed, batch) {
            Ok(message) => message,
            Err(worked) => return (worked, Kept::Nothing),
        };
        let Some(permit) = claimed.sessions.work_permit().await else {
            return (failed(exhausted()), Kept::Nothing);
        };
        let mut session = match claimed.sessions.take().await {
            Ok(session) => session,
            Err(detail) => return (failed(unavailable(detail)), Kept::Nothing),
        };
        if message.reads
            && let Some(looked) = self.look(&mut session, batch, &message).await
        {
            session.give_back();
            return looked;
        }
        self.change(session, permit, &claimed.xid(batch.gid), batch, &message).await
    }

    /// Carries out a batch that only reads, in a transaction in which the server refuses everything
    /// else; `None` if it is not such a batch.
    async fn look(
        &self,
        session: &mut Session,
        batch: &Batch,
        message: &Message,
    ) -> Option<(Worked, Kept)> {
        let begin = (Step::Begin, "START TRANSACTION READ ONLY".to_owned());
        let sent = message.send(session, begin, vec![]).await;
        let end = format!("COMMIT; {}", connection::usual_limits(&self.options));
        tidy(session, &end).await;
        let verdict = sent.verdict(batch, message);
        let declined = match (verdict, sent.error) {
            (_, Some(e)) if errors::code(&e) == Some(READ_ONLY_TRANSACTION) => return None,
            (Ok(verdict), Some(error)) => {
                let why = refusal(&error);
                return Some((verdict.failed(batch, sent.step.member(), why), Kept::Nothing));
            }
            (Ok(verdict), None) => verdict.declined(batch),
            (Err(worked), _) => Err(worked),
        };
        Some(match (declined, batch.then) {
            (Err(worked), _) => (worked, Kept::Nothing),
            (Ok(declined), Then::Hold) => (Worked::Done { declined, vote: None }, Kept::Looked),
            (Ok(declined), Then::Prepare) => {
                let vote = declined.is_empty().then_some(Vote::ReadOnly);
                (Worked::Done { declined, vote }, Kept::Nothing)
            }
        })
    }

    async fn change(
        &self,
        mut session: Session,
        permit: OwnedSemaphorePermit,
        xid: &Xid,
        batch: &Batch,
        message: &Message,
    ) -> (Worked, Kept) {
        let usual = connection::usual_limits(&self.options);
        let begin = (Step::Begin, format!("XA START {xid}"));
        let mut end = vec![(Step::Ours, usual)];
        if batch.then == Then::Prepare {
            end.push((Step::End, ending(xid, "XA PREPARE")));
        }
        let sent = message.send(&mut session, begin, end).await;
        let verdict = sent.verdict(batch, message);
        if sent.error.is_some() {
            let stopped = self.stopped(&mut session, xid, batch.then, &sent).await;
            session.give_back();
            let worked = match (stopped, verdict) {
                (Err(worked), _) | (Ok(_), Err(worked)) => worked,
                (Ok(why), Ok(verdict)) => verdict.failed(batch, sent.step.member(), why),
            };
            return (worked, Kept::Nothing);
        }
        let declined = verdict.and_then(|verdict| verdict.declined(batch));
        let worked = match (declined, batch.then) {
            (Ok(declined), Then::Hold) => Ok(Worked::Done { declined, vote: None }),
            (Ok(declined), Then::Prepare) if declined.is_empty() => {
                Ok(Worked::Done { declined, vote: Some(Vote::Yes) })
            }
            (Ok(declined), Then::Prepare) => Err(Worked::Done { declined, vote: None }),
            (Err(worked), _) => Err(worked),
        };
        match worked {
            Ok(worked) => (worked, Kept::Branch(Owned { session, _permit: permit })),
            Err(worked) => {
                let left = match batch.then {
                    // It was prepared for a moment.
                    Then::Prepare => taken_back(&mut session, xid).await,
                    Then::Hold => {
                        undo(&mut session, xid).await;
                        Ok(())
                    }
                };
                session.give_back();
                (left.err().map_or(worked, Worked::Unknown), Kept::Nothing)
            }
        }
    }

    /// What became of a branch one of whose statements failed, and why it did: nothing of it is
    /// left, or `Err`.
    async fn stopped(
        &self,
        session: &mut Session,
        xid: &Xid,
        then: Then,
        sent: &Sent,
    ) -> Result<Declined, Worked> {
        let error = sent.error.as_ref().expect("it failed");
        let why = match failure(error) {
            Failure::Refused(why) => why,
            Failure::Unknown(detail) if then == Then::Prepare => {
                return Err(Worked::Unknown(detail));
            }
            // Nothing was asked to be prepared, and the session has ended.
            Failure::Unknown(detail) => return Err(failed(unavailable(detail))),
        };
        let usual = connection::usual_limits(&self.options);
        match sent.step {
            Step::End => match not_ended(session, xid, error).await {
                Vote::Unknown(detail) => Err(Worked::Unknown(detail)),
                Vote::No(why) => Err(failed(why)),
                Vote::Yes | Vote::ReadOnly => Err(failed(why)),
            },
            Step::Begin if errors::code(error) == Some(DUPLICATE_XID) => {
                // Not to be undone: a branch of this id is somebody else's.
                tidy(session, &usual).await;
                Err(failed(why))
            }
            _ => {
                undo(session, xid).await;
                tidy(session, &usual).await;
                Ok(why)
            }
        }
    }

    async fn prepare_held(&self, gid: Gid) -> Vote {
        let held = self.holdings().remove(&gid);
        let mut owned = match held {
            Some(Holding::Open(owned)) => owned,
            Some(Holding::Looked) => return Vote::ReadOnly,
            Some(under_way @ (Holding::Working | Holding::Abandoned)) => {
                self.holdings().insert(gid, under_way);
                return Vote::No(unavailable("its work is under way".to_owned()));
            }
            None => return Vote::No(unavailable("the branch is not held".to_owned())),
        };
        let claimed = match self.claimed() {
            Ok(claimed) => claimed,
            Err(detail) => return Vote::No(unavailable(detail)),
        };
        let xid = claimed.xid(gid);
        match owned.session.run(&ending(&xid, "XA PREPARE")).await {
            Ok(()) => {
                self.owners.lock().expect("no panic while held").insert(gid, owned);
                Vote::Yes
            }
            Err(error) => {
                let vote = not_ended(&mut owned.session, &xid, &error).await;
                owned.session.give_back();
                vote
            }
        }
    }

    /// Ends a branch that is held; `None` if it is not.
    pub(super) async fn let_go(&self, xid: &Xid) -> Option<Ack> {
        let holding = {
            let mut holdings = self.holdings();
            match holdings.remove(&xid.gid)? {
                Holding::Working | Holding::Abandoned => {
                    holdings.insert(xid.gid, Holding::Abandoned);
                    return Some(Ack::Unknown("its work is under way".to_owned()));
                }
                holding => holding,
            }
        };
        release(holding, xid).await;
        Some(Ack::Done)
    }
}

/// Rolls a branch back that is held. If its session has ended, so has the branch.
async fn release(holding: Holding, xid: &Xid) {
    if let Holding::Open(mut owned) = holding {
        undo(&mut owned.session, xid).await;
        owned.session.give_back();
    }
}

/// Rolls a branch back that was prepared only to be looked at; `Err` if that is not certain.
async fn taken_back(session: &mut Session, xid: &Xid) -> Result<(), String> {
    match session.run(&format!("XA ROLLBACK {xid}")).await {
        Ok(()) => Ok(()),
        Err(error) if errors::code(&error) == Some(ROLLED_BACK) => Ok(()),
        Err(error) => {
            session.distrust();
            Err(format!("not rolled back: {}", text(&error)))
        }
    }
}

/// Leaves the session as it was found; if it cannot be, nobody gets it again.
async fn tidy(session: &mut Session, sql: &str) {
    if session.run(sql).await.is_err() {
        session.distrust();
    }
}

fn failed(why: Declined) -> Worked {
    Worked::Failed { why, culprit: None }
}

/// Nothing was prepared, whatever went wrong.
fn refusal(error: &Error) -> Declined {
    match failure(error) {
        Failure::Refused(why) => why,
        Failure::Unknown(detail) => unavailable(detail),
    }
}
