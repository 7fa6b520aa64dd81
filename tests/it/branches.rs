//! Branches that tests ask a participant for, and what is read from its votes.

use presume::txn::{BranchIndex, Declined, Epoch, Gid, LogId, Operation, PhysicalId, Vote};
use serde_json::json;
use uuid::Uuid;

/// Whose branches they are.
pub fn log() -> LogId {
    LogId(Uuid::from_u128(7))
}

/// A branch of the first epoch.
pub fn gid(physical: u64) -> Gid {
    gid_of(1, physical)
}

pub fn gid_of(epoch: u64, physical: u64) -> Gid {
    let (epoch, physical) = (Epoch(epoch), PhysicalId(physical));
    Gid { log: log(), epoch, physical, branch: BranchIndex(0) }
}

pub fn operation(name: &str, params: serde_json::Value) -> Operation {
    Operation {
        participant: "bank".parse().unwrap(),
        operation: name.parse().unwrap(),
        params: serde_json::from_value(params).unwrap(),
    }
}

/// One that needs no more than an account.
pub fn at(name: &str, account: &str) -> Operation {
    operation(name, json!({"account": account}))
}

pub fn debit(account: &str, amount: i64) -> Operation {
    operation("debit", json!({"account": account, "amount": amount}))
}

pub fn credit(account: &str, amount: i64) -> Operation {
    operation("credit", json!({"account": account, "amount": amount}))
}

/// The vote in two words: whose rule it was, and its code.
pub fn code(vote: &Vote) -> String {
    match vote {
        Vote::Yes => "yes".to_owned(),
        Vote::ReadOnly => "read-only".to_owned(),
        Vote::No(Declined::Business { code, .. }) => format!("business {code}"),
        Vote::No(Declined::Technical { code, .. }) => format!("technical {code}"),
        Vote::Unknown(detail) => format!("unknown {detail}"),
    }
}
