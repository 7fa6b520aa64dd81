//! A branch's life: prepared, committed or aborted, asked about.
//!
//! Each call decides under the lock, queues its batch there, and waits outside.

use std::collections::BTreeSet;

use super::book::{Credits, Posting};
use super::operation::{self, Work};
use super::records::{
    ACCOUNTS, AccountRecord, EPOCHS, PENDING, PostingsRecord, TOMBSTONES, TRANSFERS,
    TombstoneRecord, encode, gid_key, transfer_key,
};
use super::{DECLINED_MAX, Ended, Ledger, Overdraft, Pending, State};
use crate::participants::{Ack, ClaimError, Inquiry};
use crate::store::{self, Batch, Urgency, Write};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, Vote};

/// What a call decided: an answer at once, or one that counts when a write is durable.
pub(super) enum Step<T> {
    Now(T),
    Once(Write, T),
}

impl Ledger {
    pub(super) async fn prepare_branch(&self, gid: Gid, operations: &[Operation]) -> Vote {
        let step = self.start_prepare(&mut self.state(), gid, operations);
        finish(step, |error| Vote::Unknown(error.to_string())).await
    }

    pub(super) async fn commit_at_once(&self, gid: Gid, operations: &[Operation]) -> Vote {
        let step = self.start_commit_at_once(&mut self.state(), gid, operations);
        finish(step, |error| Vote::Unknown(error.to_string())).await
    }

    pub(super) async fn commit_branch(&self, gid: Gid) -> Ack {
        let step = self.start_commit(&mut self.state(), gid);
        finish(step, |error| Ack::Unknown(error.to_string())).await
    }

    pub(super) async fn abort_branch(&self, gid: Gid) -> Ack {
        let step = self.start_abort(&mut self.state(), gid);
        finish(step, |error| Ack::Unknown(error.to_string())).await
    }

    pub(super) async fn inquire_branch(&self, gid: Gid) -> Inquiry {
        let step = self.start_inquiry(&mut self.state(), gid);
        finish(step, |error| Inquiry::Unknown(error.to_string())).await
    }

    pub(super) async fn claim(&self, log: LogId, epoch: Epoch) -> Result<(), ClaimError> {
        let unreachable =
            |error: store::Error| ClaimError::Unreachable { detail: error.to_string() };
        let write = {
            let mut state = self.state();
            let known = state.epochs.get(&log).copied().unwrap_or_default();
            if known > epoch {
                let participant = self.identity();
                return Err(ClaimError::Stale { participant, known: known.0, claimed: epoch.0 });
            }
            let mut batch = Batch::new();
            let key = log.0.as_bytes().to_vec();
            batch.put(EPOCHS, key, epoch.0.to_be_bytes().to_vec());
            let write = self.0.store.submit(batch, Urgency::Urgent).map_err(unreachable)?;
            state.epochs.insert(log, epoch);
            write
        };
        write.await.map(drop).map_err(unreachable)
    }

    fn start_prepare(&self, state: &mut State, gid: Gid, operations: &[Operation]) -> Step<Vote> {
        if state.pending.contains_key(&gid) {
            return self.when_durable(Urgency::Urgent, Vote::Yes, Vote::Unknown);
        }
        let work = match self.admit(state, gid, operations) {
            Ok(work) => work,
            Err(step) => return step,
        };
        if work.postings.is_empty() {
            return Step::Now(Vote::ReadOnly);
        }
        let open = state.pending.len() + state.held.len();
        if open >= self.0.options.pending_max {
            let detail = format!("{open} branches are prepared, the limit");
            return Step::Now(technical("too_many_prepared", detail));
        }
        if let Err(declined) = state.book.hold(&work.postings, &Credits::default()) {
            return Step::Now(state.decline(gid, declined));
        }
        self.prepare_postings(state, gid, work.postings)
    }

    /// Makes what is held in memory durable.
    pub(super) fn prepare_postings(
        &self,
        state: &mut State,
        gid: Gid,
        postings: Vec<Posting>,
    ) -> Step<Vote> {
        if postings.is_empty() {
            return Step::Now(Vote::ReadOnly);
        }
        let mut batch = Batch::new();
        let record = PostingsRecord::new(&state.book, &postings, self.now());
        batch.put(PENDING, gid_key(gid), encode(&record));
        match self.0.store.submit(batch, Urgency::Urgent) {
            Ok(write) => {
                state.pending.insert(gid, Pending { postings });
                Step::Once(write, Vote::Yes)
            }
            Err(error) => {
                state.book.release(&postings);
                Step::Now(technical("ledger_unavailable", error.to_string()))
            }
        }
    }

    fn start_commit_at_once(
        &self,
        state: &mut State,
        gid: Gid,
        operations: &[Operation],
    ) -> Step<Vote> {
        if state.pending.contains_key(&gid) {
            return Step::Now(Vote::Unknown(format!("{gid} is prepared, its decision is due")));
        }
        let work = match self.admit(state, gid, operations) {
            Ok(work) => work,
            Err(step) => return step,
        };
        if work.postings.is_empty() {
            return Step::Now(Vote::ReadOnly);
        }
        if let Err(declined) = state.book.hold(&work.postings, &Credits::default()) {
            return Step::Now(state.decline(gid, declined));
        }
        match self.settle(state, gid, &work.postings, Urgency::Urgent) {
            Ok(write) => Step::Once(write, Vote::Yes),
            Err(error) => {
                state.book.release(&work.postings);
                Step::Now(technical("ledger_unavailable", error.to_string()))
            }
        }
    }

    fn start_commit(&self, state: &mut State, gid: Gid) -> Step<Ack> {
        let Some(pending) = state.pending.remove(&gid) else {
            return match self.ended(state, gid) {
                Ok(Some(Ended::Committed)) => {
                    self.when_durable(Urgency::Lazy, Ack::Done, Ack::Unknown)
                }
                Ok(Some(Ended::Aborted)) => Step::Now(Ack::Heuristic(format!(
                    "{gid} was aborted at {}, its commit cannot be carried out",
                    self.identity()
                ))),
                Ok(None) => Step::Now(Ack::Heuristic(format!(
                    "{} never heard of {gid}, which is to be committed",
                    self.identity()
                ))),
                Err(error) => Step::Now(Ack::Unknown(error.to_string())),
            };
        };
        match self.settle(state, gid, &pending.postings, Urgency::Lazy) {
            Ok(write) => Step::Once(write, Ack::Done),
            Err(error) => {
                state.pending.insert(gid, pending);
                Step::Now(Ack::Unknown(error.to_string()))
            }
        }
    }

    fn start_abort(&self, state: &mut State, gid: Gid) -> Step<Ack> {
        if let Some(postings) = state.held.remove(&gid) {
            state.book.release(&postings);
            return Step::Now(Ack::Done);
        }
        if !state.pending.contains_key(&gid) {
            match self.ended(state, gid) {
                Ok(Some(Ended::Committed)) => {
                    return Step::Now(Ack::Heuristic(format!(
                        "{gid} was committed at {}, its abort cannot be carried out",
                        self.identity()
                    )));
                }
                Ok(Some(Ended::Aborted)) => {
                    return self.when_durable(Urgency::Lazy, Ack::Done, Ack::Unknown);
                }
                Ok(None) => {}
                Err(error) => return Step::Now(Ack::Unknown(error.to_string())),
            }
        }
        match self.bury(state, gid, Urgency::Lazy) {
            Ok(write) => Step::Once(write, Ack::Done),
            Err(error) => Step::Now(Ack::Unknown(error.to_string())),
        }
    }

    fn start_inquiry(&self, state: &mut State, gid: Gid) -> Step<Inquiry> {
        if state.pending.contains_key(&gid) {
            let detail = format!("{gid} is prepared, its decision is due");
            return Step::Now(Inquiry::Unknown(detail));
        }
        match self.ended(state, gid) {
            Ok(Some(Ended::Committed)) => {
                self.when_durable(Urgency::Urgent, Inquiry::Committed, Inquiry::Unknown)
            }
            Ok(Some(Ended::Aborted)) => {
                self.when_durable(Urgency::Urgent, Inquiry::Aborted, Inquiry::Unknown)
            }
            Ok(None) => match self.bury(state, gid, Urgency::Urgent) {
                Ok(write) => Step::Once(write, Inquiry::Aborted),
                Err(error) => Step::Now(Inquiry::Unknown(error.to_string())),
            },
            Err(error) => Step::Now(Inquiry::Unknown(error.to_string())),
        }
    }

    /// What a new branch asks for, or the vote that is due without looking at accounts.
    fn admit(
        &self,
        state: &mut State,
        gid: Gid,
        operations: &[Operation],
    ) -> Result<Work, Step<Vote>> {
        let known = state.epochs.get(&gid.log).copied().unwrap_or_default();
        match self.ended(state, gid) {
            Ok(Some(Ended::Committed)) => {
                return Err(self.when_durable(Urgency::Urgent, Vote::Yes, Vote::Unknown));
            }
            Ok(Some(Ended::Aborted)) => {
                let detail = format!("{gid} was aborted before");
                return Err(Step::Now(technical("already_aborted", detail)));
            }
            Ok(None) => {}
            Err(error) => return Err(Step::Now(Vote::Unknown(error.to_string()))),
        }
        if gid.epoch < known {
            let detail = format!("epoch {} is over, {} is the latest", gid.epoch.0, known.0);
            return Err(Step::Now(technical("stale_epoch", detail)));
        }
        if let Some(declined) = state.declined.get(&gid) {
            return Err(Step::Now(Vote::No(declined.clone())));
        }
        let work = operation::resolve(&state.book, operations);
        let work = work.map_err(|declined| Step::Now(state.decline(gid, declined)))?;
        match operation::check(&state.book, &work, &Credits::default()) {
            Ok(()) => Ok(work),
            Err(declined) => Err(Step::Now(state.decline(gid, declined))),
        }
    }

    /// Posts held postings and queues what they change; undone if the queue refuses.
    fn settle(
        &self,
        state: &mut State,
        gid: Gid,
        postings: &[Posting],
        urgency: Urgency,
    ) -> Result<Write, store::Error> {
        state.book.settle(postings);
        let mut batch = Batch::new();
        batch.delete(PENDING, gid_key(gid));
        let record = PostingsRecord::new(&state.book, postings, self.now());
        batch.put(TRANSFERS, transfer_key(gid), encode(&record));
        let changed: BTreeSet<u32> = postings.iter().map(|posting| posting.account).collect();
        for position in changed {
            let account = state.book.account(position);
            let record = AccountRecord {
                balance_minor: account.balance,
                overdraft: account.overdraft == Overdraft::Allowed,
            };
            batch.put(ACCOUNTS, account.id.as_bytes().to_vec(), encode(&record));
        }
        match self.0.store.submit(batch, urgency) {
            Ok(write) => {
                state.note_ended(gid, Ended::Committed, write.ticket());
                Ok(write)
            }
            Err(error) => {
                state.book.unsettle(postings);
                Err(error)
            }
        }
    }

    /// Releases a branch if it is prepared, and leaves a tombstone in any case.
    fn bury(&self, state: &mut State, gid: Gid, urgency: Urgency) -> Result<Write, store::Error> {
        let mut batch = Batch::new();
        batch.delete(PENDING, gid_key(gid));
        batch.put(TOMBSTONES, gid_key(gid), encode(&TombstoneRecord { at: self.now() }));
        let write = self.0.store.submit(batch, urgency)?;
        if let Some(pending) = state.pending.remove(&gid) {
            state.book.release(&pending.postings);
        }
        state.note_ended(gid, Ended::Aborted, write.ticket());
        Ok(write)
    }

    /// How a branch ended, as far as this ledger still knows.
    pub(super) fn ended(&self, state: &mut State, gid: Gid) -> Result<Option<Ended>, store::Error> {
        let store = &self.0.store;
        state.forget_readable(store.durable_ticket());
        if let Some(ended) = state.ended.get(&gid) {
            return Ok(Some(*ended));
        }
        if store.get(TRANSFERS, &transfer_key(gid))?.is_some() {
            return Ok(Some(Ended::Committed));
        }
        Ok(store.get(TOMBSTONES, &gid_key(gid))?.map(|_| Ended::Aborted))
    }

    /// An answer that rests on something queued before: it counts once that is durable.
    fn when_durable<T>(
        &self,
        urgency: Urgency,
        answer: T,
        unknown: impl FnOnce(String) -> T,
    ) -> Step<T> {
        match self.0.store.submit(Batch::new(), urgency) {
            Ok(write) => Step::Once(write, answer),
            Err(error) => Step::Now(unknown(error.to_string())),
        }
    }
}

impl State {
    fn decline(&mut self, gid: Gid, declined: Declined) -> Vote {
        if self.declined_order.len() >= DECLINED_MAX
            && let Some(oldest) = self.declined_order.pop_front()
        {
            self.declined.remove(&oldest);
        }
        self.declined_order.push_back(gid);
        self.declined.insert(gid, declined.clone());
        Vote::No(declined)
    }

    fn note_ended(&mut self, gid: Gid, ended: Ended, ticket: u64) {
        self.ended.insert(gid, ended);
        self.ended_order.push_back((ticket, gid));
    }

    fn forget_readable(&mut self, durable_ticket: u64) {
        while let Some((ticket, gid)) = self.ended_order.front()
            && *ticket <= durable_ticket
        {
            self.ended.remove(gid);
            self.ended_order.pop_front();
        }
    }
}

pub(super) async fn finish<T>(step: Step<T>, unknown: impl FnOnce(store::Error) -> T) -> T {
    match step {
        Step::Now(answer) => answer,
        Step::Once(write, answer) => match write.await {
            Ok(_) => answer,
            Err(error) => unknown(error),
        },
    }
}

fn technical(code: &str, detail: String) -> Vote {
    Vote::No(Declined::Technical { code: code.to_owned(), detail })
}
