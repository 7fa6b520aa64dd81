//! Batches: `prepare-batch`, of a service that offers it.
//!
//! The protocol has nothing between work and promise: what is to be held is prepared at once,
//! without those who declined, and its vote is kept here until it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::answers::{self, Told};
use super::messages::{BatchRequest, Description, Message, VoteAnswer};
use super::wire::{Endpoint, Lane, Request};
use super::{Claimed, Http, Inner, unavailable};
use crate::participants::batch::{Batch, Batches, Key, Then, Worked};
use crate::participants::{BoxFuture, sql, whole};
use crate::txn::{Declined, Gid, Operation, Vote};

/// The most members of a batch, whatever a service offers.
pub(super) const MEMBERS_MAX: usize = 4_096;

/// Votes of branches that are held; `None` while their work is under way.
pub(super) type Holdings = std::sync::Mutex<HashMap<Gid, Option<Vote>>>;

/// How many members the next batch may have.
///
/// A body has a limit, too, and members differ: after a batch that was too large the next are as
/// small as that one should have been, and every one that is full and fits lets the next grow by a
/// member. Where batches race for this, one of them wins; all that is lost is a batch that is
/// tried again.
#[derive(Debug)]
pub(super) struct Room {
    /// Zero: no batches.
    members: AtomicUsize,
    /// What the service takes.
    members_max: usize,
}

impl Room {
    pub(super) fn at(service: &Description) -> Self {
        let members_max = if service.takes_batches() {
            service.batch_members_max.unwrap_or(MEMBERS_MAX).min(MEMBERS_MAX)
        } else {
            0
        };
        Self { members: AtomicUsize::new(members_max), members_max }
    }

    pub(super) fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// The service does not know the request any more, an older one in its place: no batches until
    /// it is claimed again. Answers whether that is new.
    fn close(&self) -> bool {
        self.members.swap(0, Ordering::Relaxed) > 0
    }

    /// A batch of so many members was larger than the most that is taken, both in bytes.
    pub(super) fn too_large(&self, members: usize, bytes: usize, bytes_max: usize) {
        let fitting = members.saturating_mul(bytes_max) / bytes.max(1);
        // Two at least: it could never grow again from one.
        self.set(|_| fitting.min(members.saturating_sub(1)).max(2));
    }

    pub(super) fn fitted(&self, members: usize) {
        self.set(|now| if members >= now { now + 1 } else { now });
    }

    /// Never opens what is closed.
    fn set(&self, to: impl Fn(usize) -> usize) {
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let change = |now| (now > 0).then(|| to(now).min(self.members_max));
        // `Err` is the closed one, left as it is.
        let _ = self.members.fetch_update(set, fetch, change);
    }
}

impl Batches for Http {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        let offered = self.0.claimed.load().as_ref().is_some_and(|known| known.room.members() > 0);
        let Some(locks) = self.0.locks.get(&operation.operation).filter(|_| offered) else {
            return false;
        };
        keys.extend(locks.iter().map(|lock| lock.key(operation)));
        true
    }

    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked> {
        if batch.then == Then::Hold {
            // Before the call: whoever aborts it from now on is noticed.
            self.0.holdings().insert(batch.gid, None);
        }
        let inner = self.0.clone();
        whole(async move { inner.work_batch(&batch).await }, Worked::Unknown)
    }

    fn members_max(&self) -> usize {
        self.0.claimed.load().as_ref().map_or(1, |known| known.room.members()).max(1)
    }

    fn prepare_held(&self, gid: Gid) -> BoxFuture<'_, Vote> {
        let held = self.0.holdings().remove(&gid).flatten();
        let not_held = || Vote::No(unavailable("the branch is not held".to_owned()));
        Box::pin(std::future::ready(held.unwrap_or_else(not_held)))
    }
}

impl Inner {
    fn holdings(&self) -> std::sync::MutexGuard<'_, HashMap<Gid, Option<Vote>>> {
        self.holdings.lock().expect("no panic while held")
    }

    /// Of a branch that is about to be aborted: from now on it is not held.
    pub(super) fn let_go(&self, gid: Gid) {
        self.holdings().remove(&gid);
    }

    async fn work_batch(&self, batch: &Batch) -> Worked {
        let (worked, vote) = match self.batch_request(batch) {
            Ok((claimed, body)) => {
                let request = Request::branch(Endpoint::PrepareBatch, batch.gid, body);
                let told = self.wire.call(Lane::Work, request).await;
                heed(&claimed, batch, &told);
                judge(batch, answers::batch(told))
            }
            Err(worked) => (worked, None),
        };
        if batch.then == Then::Prepare {
            return worked;
        }
        let mut holdings = self.holdings();
        match (holdings.remove(&batch.gid), vote) {
            (Some(_), Some(vote)) => {
                holdings.insert(batch.gid, Some(vote));
                worked
            }
            // Its abort is on its way, and ends what was prepared.
            (None, Some(_)) => Worked::Unknown("it was aborted while it worked".to_owned()),
            (_, None) => worked,
        }
    }

    /// `Err` is what the batch comes to.
    fn batch_request(&self, batch: &Batch) -> Result<(std::sync::Arc<Claimed>, Vec<u8>), Worked> {
        sql::limit(batch)?;
        let technical =
            |code: &str, detail| Err(failed(Declined::Technical { code: code.to_owned(), detail }));
        let claimed = self.claimed().map_err(|detail| failed(unavailable(detail)))?;
        if batch.gid.epoch != claimed.epoch {
            let (own, known) = (batch.gid.epoch.0, claimed.epoch.0);
            return technical("fenced", format!("epoch {own} is not the one claimed, {known}"));
        }
        let (members, most) = (batch.members.len(), claimed.room.members_max);
        if claimed.room.members() == 0 {
            return technical("no_batches", "the service takes no batches".to_owned());
        }
        if members > most {
            let detail = format!("{members} members in a batch, the service takes {most}");
            return technical("batch_too_large", detail);
        }
        for member in batch.members.iter() {
            for operation in member.operations.iter() {
                claimed.service.validate(operation).map_err(|detail| Worked::Failed {
                    why: Declined::Business { code: "bad_parameter".to_owned(), detail },
                    culprit: Some(member.place),
                })?;
            }
        }
        let body = BatchRequest::new(&claimed.service.identity, claimed.epoch, batch).bytes();
        let (bytes, most) = (body.len(), claimed.service.body_bytes_max);
        if bytes > most {
            claimed.room.too_large(members, bytes, most);
            let detail = format!("the request has {bytes} bytes, the service takes {most}");
            return technical("batch_too_large", detail);
        }
        Ok((claimed, body))
    }
}

/// Learns from an answer what the next batch may be.
fn heed(claimed: &Claimed, batch: &Batch, told: &Told) {
    let Ok(reply) = told else { return };
    match reply.status {
        404 | 405 | 501 if claimed.room.close() => {
            tracing::warn!(
                service = claimed.service.identity,
                status = reply.status,
                "the service takes no batches any more: transactions with it travel alone \
                 until it is claimed again"
            );
        }
        200 => claimed.room.fitted(batch.members.len()),
        _ => {}
    }
}

/// What an answer comes to, and the vote that is held.
///
/// An answer that contradicts the request or itself tells nothing, so it is unknown: nobody is
/// declined for it, and the branch is aborted.
pub(super) fn judge(
    batch: &Batch,
    answer: Result<(VoteAnswer, Vec<(usize, Declined)>), Vote>,
) -> (Worked, Option<Vote>) {
    let unknown = |detail: String| (Worked::Unknown(detail), None);
    let (vote, named) = match answer {
        Ok(answer) => answer,
        Err(Vote::No(why)) => return (failed(why), None),
        Err(Vote::Unknown(detail)) => return unknown(detail),
        Err(Vote::Yes | Vote::ReadOnly) => return unknown("it has no vote".to_owned()),
    };
    let declined = match declined(batch, named) {
        Ok(declined) => declined,
        Err(detail) => return unknown(format!("its answer to a batch is wrong: {detail}")),
    };
    let done = |declined, vote| Worked::Done { declined, vote };
    let vote = match vote {
        VoteAnswer::Yes => Vote::Yes,
        VoteAnswer::ReadOnly => Vote::ReadOnly,
        // Nothing is prepared: those who declined are why, if the rest was not to go without them.
        VoteAnswer::No(_)
            if declined.len() == batch.members.len()
                || (batch.then == Then::Prepare && !declined.is_empty()) =>
        {
            return (done(declined, None), None);
        }
        VoteAnswer::No(why) => return (failed(why), None),
    };
    match batch.then {
        Then::Hold => (done(declined, None), Some(vote)),
        Then::Prepare if declined.is_empty() => (done(declined, Some(vote)), None),
        Then::Prepare => unknown(format!(
            "its answer to a batch is wrong: it votes yes although {} of {} members declined",
            declined.len(),
            batch.members.len()
        )),
    }
}

/// Places of those who declined, in order; `Err` is what is wrong.
fn declined(
    batch: &Batch,
    named: Vec<(usize, Declined)>,
) -> Result<Vec<(usize, Declined)>, String> {
    let members = batch.members.len();
    let mut declined = BTreeMap::new();
    for (index, why) in named {
        let Some(member) = batch.members.get(index) else {
            return Err(format!("it names member {index} of {members}, counted from 0"));
        };
        if let Declined::Technical { code, .. } = &why {
            return Err(format!(
                "member {index} declined by class technical ({code}): that fails a batch as a whole"
            ));
        }
        if declined.insert(member.place, why).is_some() {
            return Err(format!("it names member {index} twice"));
        }
    }
    Ok(declined.into_iter().collect())
}

fn failed(why: Declined) -> Worked {
    Worked::Failed { why, culprit: None }
}
