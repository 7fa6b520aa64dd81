//! Reads a ledger again from its store and checks that everything fits together.

use std::collections::HashMap;

use super::book::{Account, EQUITY, SETTLEMENT};
use super::records::{
    ACCOUNTS, AccountRecord, CARRIED, PENDING, PostingsRecord, TRANSFERS, decode, text_key,
};
use super::{Error, Ledger};
use crate::store::{Keyspace, Snapshot};

/// Problems told in full; the rest are counted.
const PROBLEMS_TOLD_MAX: usize = 100;

/// What a ledger holds, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// How many accounts, `settlement` and `equity` included.
    pub accounts: usize,
    /// The sum over all balances; zero in a sound ledger.
    pub sum_minor: i128,
    /// Branches that are prepared.
    pub pending: usize,
    /// Transfers in the journal, openings included.
    pub transfers: usize,
    /// What other ledgers owe this one, negative if it owes.
    pub settlement_minor: i64,
    /// Opening balances, negative.
    pub equity_minor: i64,
    /// How many problems there are; zero in a sound ledger.
    pub problems_count: usize,
    /// The first hundred of them, one sentence each.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems_count == 0
    }

    fn problem(&mut self, text: String) {
        self.problems_count += 1;
        if self.problems.len() < PROBLEMS_TOLD_MAX {
            self.problems.push(text);
        }
    }
}

#[derive(Default)]
struct Recomputed {
    posted: i128,
    pending_debit: i128,
    pending_credit: i128,
}

impl Ledger {
    /// Checks store against memory, as of one instant, while the ledger goes on: every balance is
    /// recomputed from its postings, every hold from the prepared branches.
    pub async fn verify(&self) -> Result<Report, Error> {
        let (snapshot, accounts) = {
            let state = self.state();
            (self.0.store.snapshot(), state.book.accounts().to_vec())
        };
        self.check(&snapshot.await?, &accounts)
    }

    fn check(&self, snapshot: &Snapshot, accounts: &[Account]) -> Result<Report, Error> {
        let mut report = Report {
            accounts: 0,
            sum_minor: 0,
            pending: 0,
            transfers: 0,
            settlement_minor: 0,
            equity_minor: 0,
            problems_count: 0,
            problems: Vec::new(),
        };
        let recomputed = self.recompute(snapshot, &mut report)?;
        let in_memory: HashMap<&str, &Account> =
            accounts.iter().map(|account| (&*account.id, account)).collect();
        for entry in snapshot.entries(ACCOUNTS) {
            let (key, value) = entry?;
            let record: AccountRecord = decode(&self.0.store, ACCOUNTS, &key, &value)?;
            let id = text_key(&self.0.store, ACCOUNTS, &key)?;
            report.accounts += 1;
            report.sum_minor += i128::from(record.balance_minor);
            match id {
                SETTLEMENT => report.settlement_minor = record.balance_minor,
                EQUITY => report.equity_minor = record.balance_minor,
                _ => {}
            }
            let expected = recomputed.get(id);
            compare(&mut report, id, &record, expected, in_memory.get(id).copied());
        }
        if report.accounts != accounts.len() {
            let (stored, known) = (report.accounts, accounts.len());
            report.problem(format!("{stored} accounts are stored, {known} are in memory"));
        }
        if report.sum_minor != 0 {
            let sum = report.sum_minor;
            report.problem(format!("the sum over all accounts is {sum}, not 0"));
        }
        Ok(report)
    }

    fn recompute(
        &self,
        snapshot: &Snapshot,
        report: &mut Report,
    ) -> Result<HashMap<String, Recomputed>, Error> {
        let store = &self.0.store;
        let mut all: HashMap<String, Recomputed> = HashMap::new();
        for entry in snapshot.entries(CARRIED) {
            let (key, value) = entry?;
            let amount: i128 = decode(store, CARRIED, &key, &value)?;
            let id = text_key(store, CARRIED, &key)?;
            all.entry(id.to_owned()).or_default().posted += amount;
        }
        for (keyspace, held) in [(TRANSFERS, false), (PENDING, true)] {
            for entry in snapshot.entries(keyspace) {
                let (key, value) = entry?;
                let record: PostingsRecord = decode(store, keyspace, &key, &value)?;
                let mut sum = 0;
                for (id, amount) in record.postings {
                    let amount = i128::from(amount);
                    sum += amount;
                    let account = all.entry(id).or_default();
                    match (held, amount < 0) {
                        (false, _) => account.posted += amount,
                        (true, true) => account.pending_debit -= amount,
                        (true, false) => account.pending_credit += amount,
                    }
                }
                if sum != 0 {
                    let located = store.record_error(keyspace, &key, format!("sums to {sum}"));
                    report.problem(located.to_string());
                }
                count(report, keyspace);
            }
        }
        Ok(all)
    }
}

fn count(report: &mut Report, keyspace: Keyspace) {
    if keyspace == PENDING {
        report.pending += 1;
    } else {
        report.transfers += 1;
    }
}

fn compare(
    report: &mut Report,
    id: &str,
    record: &AccountRecord,
    expected: Option<&Recomputed>,
    in_memory: Option<&Account>,
) {
    let none = Recomputed::default();
    let expected = expected.unwrap_or(&none);
    let balance = i128::from(record.balance_minor);
    if balance != expected.posted {
        let posted = expected.posted;
        report.problem(format!("account {id}: balance {balance}, its postings sum to {posted}"));
    }
    if !record.overdraft && balance < expected.pending_debit {
        let held = expected.pending_debit;
        report.problem(format!("account {id}: balance {balance} is less than the {held} held"));
    }
    let Some(account) = in_memory else {
        return report.problem(format!("account {id} is stored and not in memory"));
    };
    let stored = (balance, expected.pending_debit, expected.pending_credit);
    let known = (
        i128::from(account.balance),
        i128::from(account.pending_debit),
        i128::from(account.pending_credit),
    );
    if stored != known {
        report.problem(format!(
            "account {id}: stored balance, held debits and credits are {stored:?}, in memory \
             {known:?}"
        ));
    }
}
