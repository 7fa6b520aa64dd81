//! Batches: many transactions in one branch, with one record.
//!
//! A member may spend what an earlier one of its batch is credited, as if that had committed
//! before: both end together. What is held open is known in memory only.

use std::collections::HashMap;

use super::book::{Credits, Posting, SETTLEMENT};
use super::branches::{Step, finish};
use super::operation;
use super::{Ended, Ledger, State};
use crate::participants::BoxFuture;
use crate::participants::batch::{Batch, Batches, Key, Then, Worked};
use crate::txn::{Declined, Gid, Operation, Vote};

impl Batches for Ledger {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        operation::accounts(operation, |account| keys.push(Key::new(account)))
    }

    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked> {
        let step = self.start_work(&mut self.state(), &batch);
        Box::pin(finish(step, |error| Worked::Unknown(error.to_string())))
    }

    fn applies_at_once(&self) -> bool {
        true
    }

    fn prepare_held(&self, gid: Gid) -> BoxFuture<'_, Vote> {
        let step = {
            let mut state = self.state();
            match state.held.remove(&gid) {
                Some(postings) => self.prepare_postings(&mut state, gid, postings),
                None => {
                    let detail = format!("{gid} is not held");
                    let code = "not_held".to_owned();
                    Step::Now(Vote::No(Declined::Technical { code, detail }))
                }
            }
        };
        Box::pin(finish(step, |error| Vote::Unknown(error.to_string())))
    }
}

impl Ledger {
    fn start_work(&self, state: &mut State, batch: &Batch) -> Step<Worked> {
        let gid = batch.gid;
        let failed = |code: &str, detail| {
            let why = Declined::Technical { code: code.to_owned(), detail };
            Step::Now(Worked::Failed { why, culprit: None })
        };
        match self.ended(state, gid) {
            Ok(None) => {}
            Ok(Some(Ended::Aborted)) => {
                return failed("already_aborted", format!("{gid} was aborted before"));
            }
            Ok(Some(Ended::Committed)) => {
                return Step::Now(Worked::Unknown(format!("{gid} was committed before")));
            }
            Err(error) => return Step::Now(Worked::Unknown(error.to_string())),
        }
        let known = state.epochs.get(&gid.log).copied().unwrap_or_default();
        if gid.epoch < known {
            let detail = format!("epoch {} is over, {} is the latest", gid.epoch.0, known.0);
            return failed("stale_epoch", detail);
        }
        if state.pending.contains_key(&gid) || state.held.contains_key(&gid) {
            return Step::Now(Worked::Unknown(format!("{gid} is prepared or held already")));
        }
        let open = state.pending.len() + state.held.len();
        if open >= self.0.options.pending_max {
            return failed("too_many_prepared", format!("{open} branches are prepared, the limit"));
        }
        let (postings, declined) = hold(state, batch);
        match batch.then {
            Then::Hold => {
                state.held.insert(gid, postings);
                Step::Now(Worked::Done { declined, vote: None })
            }
            Then::Prepare if !declined.is_empty() => {
                state.book.release(&postings);
                Step::Now(Worked::Done { declined, vote: None })
            }
            Then::Prepare => {
                let voted = |vote| match vote {
                    Vote::Unknown(detail) => Worked::Unknown(detail),
                    vote => Worked::Done { declined: Vec::new(), vote: Some(vote) },
                };
                match self.prepare_postings(state, gid, postings) {
                    Step::Now(vote) => Step::Now(voted(vote)),
                    Step::Once(write, vote) => Step::Once(write, voted(vote)),
                }
            }
        }
    }
}

/// Holds what every member asks for, one after the other; answers who declined.
fn hold(state: &mut State, batch: &Batch) -> (Vec<Posting>, Vec<(usize, Declined)>) {
    let (mut postings, mut declined) = (Vec::new(), Vec::new());
    let mut credits = Credits::default();
    for member in batch.members.iter() {
        let held = operation::resolve(&state.book, &member.operations).and_then(|work| {
            operation::check(&state.book, &work, &credits)?;
            state.book.hold(&work.postings, &credits)?;
            Ok(work.postings)
        });
        match held {
            Ok(held) => {
                for posting in &held {
                    credits.add(*posting);
                }
                postings.extend(held);
            }
            Err(why) => declined.push((member.place, why)),
        }
    }
    net(state, &mut postings);
    (postings, declined)
}

/// One posting of each sign for the ledger's own account instead of one a member: the sums, and so
/// the holds, are the same.
fn net(state: &State, postings: &mut Vec<Posting>) {
    let own = state.book.find(SETTLEMENT).expect("made with the ledger");
    let mut sums: HashMap<bool, i64> = HashMap::new();
    postings.retain(|posting| {
        let sum = sums.entry(posting.amount < 0).or_default();
        let added = sum.checked_add(posting.amount).filter(|_| posting.account == own);
        *sum = added.unwrap_or(*sum);
        added.is_none()
    });
    let amounts = sums.into_values().filter(|amount| *amount != 0);
    postings.extend(amounts.map(|amount| Posting { account: own, amount }));
}
