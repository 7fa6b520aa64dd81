//! Batches: `prepare-batch`, of a service that offers it.
//!
//! The protocol has nothing between work and promise: what is to be held is prepared at once,
//! without those who declined, and its vote is kept here until it is asked for.

use std::collections::{BTreeMap, HashMap};

use super::answers;
use super::messages::{BatchRequest, Message, VoteAnswer};
use super::wire::{Endpoint, Lane, Request};
use super::{Http, Inner, unavailable};
use crate::participants::batch::{Batch, Batches, Key, Then, Worked};
use crate::participants::{BoxFuture, sql, whole};
use crate::txn::{Declined, Gid, Operation, Vote};

/// Votes of branches that are held; `None` while their work is under way.
pub(super) type Holdings = std::sync::Mutex<HashMap<Gid, Option<Vote>>>;

impl Batches for Http {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        let claimed = self.0.claimed.load();
        let offered = claimed.as_ref().is_some_and(|claimed| claimed.service.takes_batches());
        let Some(locks) = self.0.locks.get(&operation.operation).filter(|_| offered) else {
            return false;
        };
        keys.extend(locks.iter().map(|lock| lock.key(operation)));
        true
    }

    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked> {
        let inner = self.0.clone();
        whole(async move { inner.work_batch(batch).await }, Worked::Unknown)
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

    async fn work_batch(&self, batch: Batch) -> Worked {
        let body = match self.batch_request(&batch) {
            Ok(body) => body,
            Err(worked) => return worked,
        };
        if batch.then == Then::Hold {
            self.holdings().insert(batch.gid, None);
        }
        let request = Request::branch(Endpoint::PrepareBatch, batch.gid, body);
        let answer = answers::batch(self.wire.call(Lane::Work, request).await);
        let (worked, held) = judge(&batch, answer);
        if batch.then == Then::Prepare {
            return worked;
        }
        let mut holdings = self.holdings();
        match (holdings.remove(&batch.gid), held) {
            (Some(_), Some(vote)) => {
                holdings.insert(batch.gid, Some(vote));
                worked
            }
            // Its abort is on its way, and ends what was prepared.
            (None, Some(_)) => {
                let detail = "it was aborted while it worked".to_owned();
                failed(Declined::Technical { code: "aborted_before".to_owned(), detail })
            }
            (_, None) => worked,
        }
    }

    /// `Err` is what the batch comes to.
    fn batch_request(&self, batch: &Batch) -> Result<Vec<u8>, Worked> {
        sql::limit(batch)?;
        let technical =
            |code: &str, detail| failed(Declined::Technical { code: code.to_owned(), detail });
        let claimed = self.claimed().map_err(|detail| failed(unavailable(detail)))?;
        if batch.gid.epoch != claimed.epoch {
            let (own, known) = (batch.gid.epoch.0, claimed.epoch.0);
            return Err(technical(
                "fenced",
                format!("epoch {own} is not the one claimed, {known}"),
            ));
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
        let most = claimed.service.body_bytes_max;
        if body.len() > most {
            let detail = format!("the request has {} bytes, the service takes {most}", body.len());
            return Err(technical("batch_too_large", detail));
        }
        Ok(body)
    }
}

/// What an answer comes to, and the vote that is held.
fn judge(
    batch: &Batch,
    answer: Result<(VoteAnswer, Vec<(usize, Declined)>), Vote>,
) -> (Worked, Option<Vote>) {
    let unknown = |detail: &str| (Worked::Unknown(detail.to_owned()), None);
    let (vote, named) = match answer {
        Ok(answer) => answer,
        Err(Vote::No(why)) => return (failed(why), None),
        Err(Vote::Unknown(detail)) => return (Worked::Unknown(detail), None),
        Err(Vote::Yes | Vote::ReadOnly) => return unknown("no answer"),
    };
    let mut declined = BTreeMap::new();
    for (index, why) in named {
        let business = matches!(why, Declined::Business { .. });
        let Some(member) = batch.members.get(index).filter(|_| business) else {
            return unknown("it named a member that was not in the batch, or no rule of its own");
        };
        if declined.insert(member.place, why).is_some() {
            return unknown("it named a member twice");
        }
    }
    let declined: Vec<_> = declined.into_iter().collect();
    let vote = match vote {
        VoteAnswer::Yes => Vote::Yes,
        VoteAnswer::ReadOnly => Vote::ReadOnly,
        VoteAnswer::No(_) if batch.then == Then::Prepare && !declined.is_empty() => {
            return (Worked::Done { declined, vote: None }, None);
        }
        VoteAnswer::No(why) => return (failed(why), None),
    };
    match batch.then {
        Then::Hold => (Worked::Done { declined, vote: None }, Some(vote)),
        Then::Prepare if declined.is_empty() => (Worked::Done { declined, vote: Some(vote) }, None),
        Then::Prepare => unknown("it promised the work of members that declined"),
    }
}

fn failed(why: Declined) -> Worked {
    Worked::Failed { why, culprit: None }
}
