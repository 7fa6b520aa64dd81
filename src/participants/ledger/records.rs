//! What a ledger stores, and under which keys.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use super::book::{Book, Overdraft, Posting};
use crate::store::{Keyspace, Store};
use crate::txn::{BranchIndex, Epoch, Gid, LogId, PhysicalId, Timestamp};

pub(super) const KEYSPACES: &[&str] =
    &["accounts", "pending", "transfers", "tombstones", "carried", "epochs"];
pub(super) const ACCOUNTS: Keyspace = Keyspace::at(0);
pub(super) const PENDING: Keyspace = Keyspace::at(1);
pub(super) const TRANSFERS: Keyspace = Keyspace::at(2);
pub(super) const TOMBSTONES: Keyspace = Keyspace::at(3);
pub(super) const CARRIED: Keyspace = Keyspace::at(4);
pub(super) const EPOCHS: Keyspace = Keyspace::at(5);

/// An account under its id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub balance_minor: i64,
    pub overdraft: bool,
}

impl AccountRecord {
    pub fn overdraft(&self) -> Overdraft {
        if self.overdraft { Overdraft::Allowed } else { Overdraft::Refused }
    }
}

/// Postings under a gid: prepared, or carried out. Account ids beside signed amounts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PostingsRecord {
    pub at: Timestamp,
    pub postings: Vec<(String, i64)>,
}

impl PostingsRecord {
    pub fn new(book: &Book, postings: &[Posting], at: Timestamp) -> Self {
        let named = |p: &Posting| (book.account(p.account).id.to_string(), p.amount);
        Self { at, postings: postings.iter().map(named).collect() }
    }
}

/// An aborted gid.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TombstoneRecord {
    pub at: Timestamp,
}

/// `Gid` in 34 bytes that sort by log, epoch, execution, branch.
pub(super) fn gid_key(gid: Gid) -> Vec<u8> {
    let mut key = Vec::with_capacity(34);
    key.extend(gid.log.0.as_bytes());
    key.extend(gid.epoch.0.to_be_bytes());
    key.extend(gid.physical.0.to_be_bytes());
    key.extend(gid.branch.0.to_be_bytes());
    key
}

pub(super) fn gid_of_key(key: &[u8]) -> Option<Gid> {
    let key = <[u8; 34]>::try_from(key).ok()?;
    let number = |at: usize| key[at..at + 8].iter().fold(0, |n: u64, b| n << 8 | u64::from(*b));
    Some(Gid {
        log: LogId(Uuid::from_slice(&key[..16]).ok()?),
        epoch: Epoch(number(16)),
        physical: PhysicalId(number(24)),
        branch: BranchIndex(u16::from_be_bytes([key[32], key[33]])),
    })
}

/// The transfer that opened an account; `o` keeps these apart from the 35 bytes of the others.
pub(super) fn opening_key(account: &str) -> Vec<u8> {
    [b"o", account.as_bytes()].concat()
}

pub(super) fn transfer_key(gid: Gid) -> Vec<u8> {
    [b"t".as_slice(), &gid_key(gid)].concat()
}

/// The gid of a transfer; `None` for an opening.
pub(super) fn gid_of_transfer(key: &[u8]) -> Option<Gid> {
    gid_of_key(key.strip_prefix(b"t")?)
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have text keys only")
}

pub(super) fn decode<T: DeserializeOwned>(
    store: &Store,
    keyspace: Keyspace,
    key: &[u8],
    value: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|e| store.record_error(keyspace, key, e).into())
}

pub(super) fn text_key<'a>(
    store: &Store,
    keyspace: Keyspace,
    key: &'a [u8],
) -> Result<&'a str, Error> {
    std::str::from_utf8(key).map_err(|e| store.record_error(keyspace, key, e).into())
}
