//! Accounts and holds in memory: pure, without store and clock.
//!
//! # Invariants
//! - `balance - pending_debit` of an account without overdraft is never negative, but for debits that
//!   rest on credits held by the same branch: they end together.
//! - `balance + pending_credit` and `balance - pending_debit` fit an `i64`, so that carrying out
//!   any of the holds, in any order, cannot overflow.
//! - The sum over all balances is zero: postings come in pairs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::txn::Declined;

/// Where debits go and credits come from, within one ledger.
pub const SETTLEMENT: &str = "settlement";
/// Where opening balances come from.
pub const EQUITY: &str = "equity";

/// Whether an account may go below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdraft {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// An account's amounts, in minor units.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Posted.
    pub balance_minor: i64,
    /// Held for debits that are prepared.
    pub pending_debit_minor: i64,
    /// Announced by credits that are prepared; not spendable.
    pub pending_credit_minor: i64,
    /// What a debit may take: the balance less what is held.
    pub available_minor: i64,
}

/// About 130 bytes with its id of 16 and its entry in the index.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub id: Arc<str>,
    pub balance: i64,
    pub pending_debit: i64,
    pub pending_credit: i64,
    pub overdraft: Overdraft,
}

impl Account {
    pub fn balance(&self) -> Balance {
        Balance {
            balance_minor: self.balance,
            pending_debit_minor: self.pending_debit,
            pending_credit_minor: self.pending_credit,
            available_minor: self.balance - self.pending_debit,
        }
    }
}

/// A change of one account; negative takes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting {
    pub account: u32,
    pub amount: i64,
}

/// What accounts were credited by earlier members of a batch.
#[derive(Debug, Default)]
pub(super) struct Credits(HashMap<u32, i64>);

impl Credits {
    pub fn add(&mut self, posting: Posting) {
        if posting.amount > 0 {
            let sum = self.0.entry(posting.account).or_default();
            *sum = sum.saturating_add(posting.amount);
        }
    }

    pub fn of(&self, account: u32) -> i64 {
        self.0.get(&account).copied().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    accounts: Vec<Account>,
    index: HashMap<Arc<str>, u32>,
}

impl Book {
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    pub fn find(&self, id: &str) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub fn account(&self, position: u32) -> &Account {
        &self.accounts[position as usize]
    }

    /// Adds an account that is not there yet.
    pub fn add(&mut self, id: &str, balance: i64, overdraft: Overdraft) -> u32 {
        let id: Arc<str> = Arc::from(id);
        let position = u32::try_from(self.accounts.len()).expect("limited by accounts_max");
        let previous = self.index.insert(Arc::clone(&id), position);
        assert!(previous.is_none(), "account {id} is there already");
        let account = Account { id, balance, pending_debit: 0, pending_credit: 0, overdraft };
        self.accounts.push(account);
        position
    }

    /// Changes a balance by an amount that was checked to fit.
    pub fn adjust(&mut self, position: u32, amount: i64) {
        self.accounts[position as usize].balance += amount;
    }

    /// Holds all postings or none; debits may spend `credits` as well.
    pub fn hold(&mut self, postings: &[Posting], credits: &Credits) -> Result<(), Declined> {
        for (held, posting) in postings.iter().enumerate() {
            if let Err(declined) = self.hold_one(*posting, credits.of(posting.account)) {
                self.release(&postings[..held]);
                return Err(declined);
            }
        }
        Ok(())
    }

    /// Gives held postings back.
    pub fn release(&mut self, postings: &[Posting]) {
        for posting in postings {
            let account = &mut self.accounts[posting.account as usize];
            if posting.amount < 0 {
                account.pending_debit += posting.amount;
            } else {
                account.pending_credit -= posting.amount;
            }
        }
    }

    /// Carries held postings out.
    pub fn settle(&mut self, postings: &[Posting]) {
        self.release(postings);
        for posting in postings {
            self.accounts[posting.account as usize].balance += posting.amount;
        }
    }

    /// Takes settled postings back and holds them again: for a write that was refused.
    pub fn unsettle(&mut self, postings: &[Posting]) {
        for posting in postings {
            let account = &mut self.accounts[posting.account as usize];
            account.balance -= posting.amount;
            if posting.amount < 0 {
                account.pending_debit -= posting.amount;
            } else {
                account.pending_credit += posting.amount;
            }
        }
    }

    fn hold_one(&mut self, posting: Posting, credited: i64) -> Result<(), Declined> {
        let account = &mut self.accounts[posting.account as usize];
        let amount = posting.amount;
        if amount < 0 {
            let available = account.balance - account.pending_debit;
            let Some(left) = available.checked_add(amount) else {
                return Err(overflow(account, amount));
            };
            if account.overdraft == Overdraft::Refused && left.saturating_add(credited) < 0 {
                return Err(declined(
                    "insufficient_funds",
                    format!(
                        "account {} has {} available, {amount} asked",
                        account.id,
                        available.saturating_add(credited)
                    ),
                ));
            }
            account.pending_debit = account.pending_debit.checked_sub(amount).ok_or_else(|| {
                declined("overflow", format!("account {} holds too much", account.id))
            })?;
        } else {
            let most = account.balance.checked_add(account.pending_credit);
            if most.and_then(|most| most.checked_add(amount)).is_none() {
                return Err(overflow(account, amount));
            }
            account.pending_credit += amount;
        }
        Ok(())
    }
}

pub(super) fn declined(code: &str, detail: String) -> Declined {
    Declined::Business { code: code.to_owned(), detail }
}

fn overflow(account: &Account, amount: i64) -> Declined {
    declined("overflow", format!("account {} cannot hold {amount} more", account.id))
}
