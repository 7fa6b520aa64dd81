//! What must be true when a run has been healed and is resolved: pure, over what was left.
//!
//! | invariant | checked |
//! |---|---|
//! | 1 atomicity | here, by the participants' own records; heuristic outcomes in `history` |
//! | 2 decision before commit, for ever | in `history`, at the network's and the disk's boundary |
//! | 3 what clients were told | here by what was booked, in `history` by what was durable |
//! | 4 nothing in doubt for ever | in `run`: resolved within a bound; here: nothing prepared |
//! | 6 money | here |
//! | 8 one key, one result, applied once | here and in `history` |
//! | 9 two coordinators, one decision | in `history` |

use std::collections::BTreeMap;

use super::books::{ACCOUNTS, Books, OPENING};
use super::clients::{Body, Submitted};
use super::history::Told;
use super::log::LOG;
use crate::txn::{Outcome, TxnId};

/// What a run left.
pub(super) struct Evidence<'a> {
    /// By participant.
    pub(super) books: &'a [Books],
    pub(super) submitted: &'a Submitted,
    pub(super) told: &'a BTreeMap<TxnId, Told>,
    /// The prepared branches of another log that stood there from the start, by participant.
    pub(super) foreign: &'a [usize],
}

/// Every breach, as a sentence that begins with the invariant's number.
pub(super) fn check(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, bodies) in evidence.submitted {
        bookings(evidence, id, bodies, &mut violations);
    }
    money(evidence.books, &mut violations);
    prepared(evidence, &mut violations);
    violations
}

/// Invariants 1, 3 and 8 for one key.
fn bookings(evidence: &Evidence<'_>, id: &TxnId, bodies: &[Body], violations: &mut Vec<String>) {
    let told = evidence.told.get(id);
    for body in bodies {
        let count = |books: &Books| books.booked.get(&*body.note).copied().unwrap_or(0);
        let counts: Vec<u32> = evidence.books.iter().map(count).collect();
        let complete = |times: u32| {
            let expected = |at: usize| if body.changes.contains(&at) { times } else { 0 };
            counts.iter().enumerate().all(|(at, count)| *count == expected(at))
        };
        let note = &body.note;
        if counts.iter().any(|count| *count > 1) {
            violations.push(format!("8: {note} was booked more than once: {counts:?}"));
        } else if !complete(0) && !complete(1) {
            let changes = &body.changes;
            violations.push(format!("1: {note} was booked {counts:?}, it changes {changes:?}"));
        }
        let answered = told.filter(|told| told.request_hash == body.request_hash);
        match answered.map(|told| told.outcome) {
            Some(Outcome::Committed) if !complete(1) => {
                violations.push(format!("3: {note} was told committed and is booked {counts:?}"));
            }
            Some(Outcome::Aborted | Outcome::Rejected) | None if !complete(0) => {
                let told = answered.map_or("nothing", |told| told.outcome.as_str());
                violations.push(format!("3: {note} was told {told} and is booked {counts:?}"));
            }
            _ => {}
        }
    }
}

/// Invariant 6: nothing was made or lost, and no guard was passed.
fn money(books: &[Books], violations: &mut Vec<String>) {
    let total: i64 = books.iter().flat_map(|books| &books.balances).sum();
    let expected = OPENING * i64::from(ACCOUNTS) * books.len() as i64;
    if total != expected {
        violations.push(format!("6: the balances sum to {total}, they began with {expected}"));
    }
    for (at, books) in books.iter().enumerate() {
        if let Some(balance) = books.balances.iter().find(|balance| **balance < 0) {
            violations.push(format!("6: an account of p{at} has {balance}"));
        }
    }
}

/// Invariant 4, and that other coordinators' branches are left alone.
fn prepared(evidence: &Evidence<'_>, violations: &mut Vec<String>) {
    for (at, books) in evidence.books.iter().enumerate() {
        let ours = books.prepared.keys().filter(|key| key.0 == LOG.0).count();
        if ours > 0 {
            violations.push(format!("4: {ours} branches stay prepared at p{at}"));
        }
        let others = books.prepared.len() - ours;
        let planted = evidence.foreign.iter().filter(|foreign| **foreign == at).count();
        if others != planted {
            violations.push(format!(
                "1: p{at} has {others} branches of another log, it began with {planted}"
            ));
        }
    }
}
