//! The operations of a ledger, from their names and parameters to what they do.

use serde_json::Value;

use super::book::{Book, Credits, EQUITY, Posting, SETTLEMENT, declined};
use crate::txn::{Declined, Operation};

/// The most operations in one branch.
const OPERATIONS_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parsed<'a> {
    Transfer { from: &'a str, to: &'a str, amount: i64 },
    AssertBalance { account: &'a str, at_least: i64 },
    ReadBalance { account: &'a str },
}

/// What a branch asks for, against the accounts there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Empty if it only reads.
    pub postings: Vec<Posting>,
    /// Accounts and the least that must be available.
    pub checks: Vec<(u32, i64)>,
}

/// Checks name and parameters alone; `Err` is one sentence.
pub(super) fn validate(operation: &Operation) -> Result<(), String> {
    parse(operation).map(drop).map_err(|refused| refused.detail)
}

/// Turns operations into postings, in their order.
pub(super) fn resolve(book: &Book, operations: &[Operation]) -> Result<Work, Declined> {
    if operations.len() > OPERATIONS_MAX {
        let detail = format!("{} operations, at most {OPERATIONS_MAX}", operations.len());
        return Err(declined("too_many_operations", detail));
    }
    let mut work = Work::default();
    for operation in operations {
        let find = |id: &str| {
            let unknown = || declined("unknown_account", format!("there is no account {id:?}"));
            book.find(id).ok_or_else(unknown)
        };
        match parse(operation).map_err(Refused::into_declined)? {
            Parsed::Transfer { from, to, amount } => {
                work.postings.push(Posting { account: find(from)?, amount: -amount });
                work.postings.push(Posting { account: find(to)?, amount });
            }
            Parsed::AssertBalance { account, at_least } => {
                work.checks.push((find(account)?, at_least));
            }
            Parsed::ReadBalance { account } => work.checks.push((find(account)?, i64::MIN)),
        }
    }
    Ok(work)
}

/// Looks whether what must be available is, together with `credits`.
pub(super) fn check(book: &Book, work: &Work, credits: &Credits) -> Result<(), Declined> {
    for (position, at_least) in &work.checks {
        let account = book.account(*position);
        let available = account.balance - account.pending_debit;
        let available = available.saturating_add(credits.of(*position));
        if available < *at_least {
            let id = &account.id;
            let detail = format!("account {id} has {available} available, {at_least} is asserted");
            return Err(declined("insufficient_funds", detail));
        }
    }
    Ok(())
}

/// Names the accounts that an operation touches, but for the ledger's own; `false` if it cannot be
/// read.
pub(super) fn accounts(operation: &Operation, mut touch: impl FnMut(&str)) -> bool {
    match parse(operation) {
        Ok(Parsed::Transfer { from, to, .. }) => {
            [from, to].into_iter().filter(|id| *id != SETTLEMENT).for_each(touch);
        }
        Ok(Parsed::AssertBalance { account, .. } | Parsed::ReadBalance { account }) => {
            touch(account);
        }
        Err(_) => return false,
    }
    true
}

struct Refused {
    code: &'static str,
    detail: String,
}

impl Refused {
    fn into_declined(self) -> Declined {
        declined(self.code, self.detail)
    }
}

fn parse(operation: &Operation) -> Result<Parsed<'_>, Refused> {
    match operation.operation.as_str() {
        "debit" => {
            let from = client_account(operation, "account")?;
            let amount = amount(operation)?;
            only(operation, &["account", "amount"])?;
            Ok(Parsed::Transfer { from, to: SETTLEMENT, amount })
        }
        "credit" => {
            let to = client_account(operation, "account")?;
            let amount = amount(operation)?;
            only(operation, &["account", "amount"])?;
            Ok(Parsed::Transfer { from: SETTLEMENT, to, amount })
        }
        "transfer" => {
            let (from, to) = (client_account(operation, "from")?, client_account(operation, "to")?);
            let amount = amount(operation)?;
            only(operation, &["from", "to", "amount"])?;
            Ok(Parsed::Transfer { from, to, amount })
        }
        "balance" => {
            only(operation, &["account"])?;
            Ok(Parsed::ReadBalance { account: account(operation, "account")? })
        }
        "assert_balance" => {
            only(operation, &["account", "at_least"])?;
            let at_least = integer(operation, "at_least")?;
            Ok(Parsed::AssertBalance { account: account(operation, "account")?, at_least })
        }
        other => Err(Refused {
            code: "unknown_operation",
            detail: format!(
                "operation {other:?} is not one of debit, credit, transfer, balance, assert_balance"
            ),
        }),
    }
}

fn parameter<'a>(operation: &'a Operation, name: &str) -> Result<&'a Value, Refused> {
    operation.params.get(name).ok_or_else(|| bad(format!("parameter {name:?} is missing")))
}

fn account<'a>(operation: &'a Operation, name: &str) -> Result<&'a str, Refused> {
    let value = parameter(operation, name)?;
    value.as_str().ok_or_else(|| bad(format!("parameter {name:?} is {value}, not a text")))
}

/// An account that clients may move money from or to.
fn client_account<'a>(operation: &'a Operation, name: &str) -> Result<&'a str, Refused> {
    let id = account(operation, name)?;
    if id == SETTLEMENT || id == EQUITY {
        let detail = format!("account {id:?} is the ledger's own");
        return Err(Refused { code: "reserved_account", detail });
    }
    Ok(id)
}

fn integer(operation: &Operation, name: &str) -> Result<i64, Refused> {
    let value = parameter(operation, name)?;
    value.as_i64().ok_or_else(|| Refused {
        code: if value.is_number() { "amount_out_of_range" } else { "bad_parameter" },
        detail: format!("parameter {name:?} is {value}, not an integer of 64 bits"),
    })
}

fn amount(operation: &Operation) -> Result<i64, Refused> {
    let amount = integer(operation, "amount")?;
    if amount < 1 {
        let detail = format!("parameter \"amount\" is {amount}, at least 1 is needed");
        return Err(Refused { code: "amount_out_of_range", detail });
    }
    Ok(amount)
}

fn only(operation: &Operation, known: &[&str]) -> Result<(), Refused> {
    match operation.params.keys().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => {
            Err(bad(format!("parameter {name:?} is unknown; known are {}", known.join(", "))))
        }
    }
}

fn bad(detail: String) -> Refused {
    Refused { code: "bad_parameter", detail }
}
