//! Accounts and what may be done with them. Holds make sure that a commit cannot fail.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::books::Declined;

/// The most that an account may hold: no sum overflows.
pub const BALANCE_MAX: u64 = 1 << 60;

/// An account, in minor units.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub balance: u64,
    /// Debits that are prepared: nobody else gets them.
    pub held: u64,
    /// Credits that are prepared: not there yet.
    pub incoming: u64,
}

/// A change of a balance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Posting {
    account: String,
    /// Whether it takes.
    debit: bool,
    amount: u64,
}

/// Accounts by name as a branch sees them; all that were looked at, to be stored again.
pub type Accounts = BTreeMap<String, Option<Account>>;

/// The operations as a service describes them.
pub fn described() -> Value {
    let account = json!({"name": "account", "type": "string"});
    let amount = json!({"name": "amount", "type": "integer"});
    json!([
        {"name": "debit", "parameters": [account, amount]},
        {"name": "credit", "parameters": [account, amount]},
        {"name": "balance", "parameters": [account]},
    ])
}

/// Reads an operation: the account, and the posting unless it only reads.
pub fn parse(
    operation: &str,
    params: &Map<String, Value>,
) -> Result<(String, Option<Posting>), Declined> {
    let bad = |detail: String| Declined::business("bad_parameter", detail);
    let known: &[&str] = match operation {
        "debit" | "credit" => &["account", "amount"],
        "balance" => &["account"],
        other => {
            let detail = format!("there is no operation {other:?}");
            return Err(Declined::business("unknown_operation", detail));
        }
    };
    if let Some(unknown) = params.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(bad(format!("parameter {unknown:?} is unknown")));
    }
    let account = params.get("account").and_then(Value::as_str).filter(|a| is_name(a));
    let account =
        account.ok_or_else(|| bad("`account` must have 1 to 64 characters".to_owned()))?;
    if operation == "balance" {
        return Ok((account.to_owned(), None));
    }
    let amount =
        params.get("amount").and_then(Value::as_u64).filter(|a| (1..=BALANCE_MAX).contains(a));
    let amount = amount.ok_or_else(|| bad(format!("`amount` must be 1 to {BALANCE_MAX}")))?;
    let posting = Posting { account: account.to_owned(), debit: operation == "debit", amount };
    Ok((account.to_owned(), Some(posting)))
}

/// What a batch comes to that has tried its members on: one posting an account.
pub fn postings(before: &Accounts, after: &Accounts) -> Vec<Posting> {
    let one = |(name, after): (&String, &Option<Account>)| {
        let (before, after) = (before.get(name)?.as_ref(), after.as_ref()?);
        let was = before.map_or(0, |account| account.balance);
        let (debit, amount) = (after.balance < was, after.balance.abs_diff(was));
        // An account that was opened stays open, whatever is left there.
        let changed = amount > 0 || before.is_none();
        changed.then(|| Posting { account: name.clone(), debit, amount })
    };
    after.iter().filter_map(one).collect()
}

pub fn is_name(account: &str) -> bool {
    (1..=64).contains(&account.len()) && !account.chars().any(char::is_control)
}

impl Posting {
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Carries it out at once, for those who come after it in its batch.
    pub fn try_on(&self, accounts: &mut Accounts) -> Result<(), Declined> {
        self.hold(accounts)?;
        self.apply(accounts);
        Ok(())
    }

    /// Holds what it needs; a credit opens its account.
    pub fn hold(&self, accounts: &mut Accounts) -> Result<(), Declined> {
        let declined = |code: &str, detail: String| Err(Declined::business(code, detail));
        let name = &self.account;
        let found = accounts.entry(name.clone()).or_default();
        if self.debit {
            let Some(account) = found else {
                return declined("unknown_account", format!("there is no account {name:?}"));
            };
            let available = account.balance - account.held;
            if available < self.amount {
                let detail = format!("{available} available, {} needed", self.amount);
                return declined("insufficient_funds", detail);
            }
            account.held += self.amount;
        } else {
            let account = found.get_or_insert_default();
            let after = account.balance + account.incoming + self.amount;
            if after > BALANCE_MAX {
                return declined("balance_limit", format!("an account may hold {BALANCE_MAX}"));
            }
            account.incoming += self.amount;
        }
        Ok(())
    }

    /// Carries out what is held.
    pub fn apply(&self, accounts: &mut Accounts) {
        self.release(accounts);
        let account = accounts.entry(self.account.clone()).or_default().get_or_insert_default();
        if self.debit {
            account.balance -= self.amount;
        } else {
            account.balance += self.amount;
        }
    }

    /// Gives back what is held.
    pub fn release(&self, accounts: &mut Accounts) {
        let account = accounts.entry(self.account.clone()).or_default().get_or_insert_default();
        if self.debit {
            account.held -= self.amount;
        } else {
            account.incoming -= self.amount;
        }
    }
}
