//! Opening a ledger and its accounts, reading balances, pruning markers.

use std::collections::{HashMap, HashSet};

use super::book::{Balance, Book, Credits, EQUITY, Overdraft, Posting, SETTLEMENT};
use super::records::{
    ACCOUNTS, AccountRecord, CARRIED, EPOCHS, PENDING, PostingsRecord, TOMBSTONES, TRANSFERS,
    TombstoneRecord, decode, encode, gid_of_key, gid_of_transfer, opening_key, text_key,
};
use super::{Error, Ledger, Options, Pending, State};
use crate::store::{self, Batch, Store, Urgency};
use crate::txn::{Epoch, Gid, LogId, PhysicalId, Timestamp};

/// Longest account id in bytes, as for every text id.
const ACCOUNT_ID_BYTES_MAX: usize = 128;
/// Markers removed in one batch.
const PRUNE_COUNT_MAX: usize = 1_000;

/// An account to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// Its id: 1 to 128 bytes, no control characters.
    pub id: String,
    /// What it starts with, from `equity`; zero or more minor units.
    pub opening_minor: i64,
    /// Whether it may go below zero.
    pub overdraft: Overdraft,
}

impl Ledger {
    /// Opens one account, durably.
    pub async fn open_account(
        &self,
        id: &str,
        opening_minor: i64,
        overdraft: Overdraft,
    ) -> Result<(), Error> {
        self.open_accounts(&[NewAccount { id: id.to_owned(), opening_minor, overdraft }]).await
    }

    /// Opens accounts in one durable batch, all or none.
    pub async fn open_accounts(&self, accounts: &[NewAccount]) -> Result<(), Error> {
        let write = {
            let mut state = self.state();
            let opening = check_new(&state.book, accounts, self.0.options.accounts_max)?;
            let batch = self.opening_batch(&state.book, accounts, opening);
            let write = self.0.store.submit(batch, Urgency::Urgent)?;
            add_new(&mut state.book, accounts, opening);
            write
        };
        write.await?;
        Ok(())
    }

    /// An account's amounts, `None` if there is no such account.
    pub fn balance(&self, id: &str) -> Option<Balance> {
        let state = self.state();
        state.book.find(id).map(|position| state.book.account(position).balance())
    }

    /// Every account with its amounts, ordered by id.
    pub fn balances(&self) -> Vec<(String, Balance)> {
        let mut all: Vec<_> = {
            let state = self.state();
            let accounts = state.book.accounts().iter();
            accounts.map(|account| (account.id.to_string(), account.balance())).collect()
        };
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// How many accounts there are, `settlement` and `equity` included.
    pub fn accounts(&self) -> usize {
        self.state().book.len()
    }

    /// Removes markers older than `before`, except of executions in `open`; gives their number.
    ///
    /// The postings of removed transfers go on in `carried`, so that every balance can still be
    /// recomputed.
    pub async fn prune(
        &self,
        before: Timestamp,
        open: &HashSet<(LogId, Epoch, PhysicalId)>,
    ) -> Result<u64, Error> {
        let _alone = self.0.pruning.lock().await;
        let is_open = |gid: Gid| open.contains(&(gid.log, gid.epoch, gid.physical));
        let mut pruned = self.prune_tombstones(before, &is_open).await?;
        while let Some(count) = self.prune_transfers(before, &is_open).await? {
            pruned += count;
        }
        Ok(pruned)
    }

    async fn prune_tombstones(
        &self,
        before: Timestamp,
        is_open: &(dyn Fn(Gid) -> bool + Sync),
    ) -> Result<u64, Error> {
        let store = &self.0.store;
        let (mut batch, mut pruned) = (Batch::new(), 0);
        for entry in store.prefix(TOMBSTONES, b"") {
            let (key, value) = entry?;
            let record: TombstoneRecord = decode(store, TOMBSTONES, &key, &value)?;
            if record.at >= before || gid_of_key(&key).is_some_and(is_open) {
                continue;
            }
            batch.delete(TOMBSTONES, key);
            pruned += 1;
            if pruned % PRUNE_COUNT_MAX as u64 == 0 {
                store.write_lazy(std::mem::take(&mut batch)).await?;
            }
        }
        store.write_lazy(batch).await?;
        Ok(pruned)
    }

    /// One batch of transfers; `None` when nothing is left to prune.
    async fn prune_transfers(
        &self,
        before: Timestamp,
        is_open: &(dyn Fn(Gid) -> bool + Sync),
    ) -> Result<Option<u64>, Error> {
        let store = &self.0.store;
        let (mut batch, mut pruned) = (Batch::new(), 0);
        let mut carried: HashMap<String, i128> = HashMap::new();
        for entry in store.prefix(TRANSFERS, b"") {
            let (key, value) = entry?;
            let record: PostingsRecord = decode(store, TRANSFERS, &key, &value)?;
            if record.at >= before || gid_of_transfer(&key).is_some_and(is_open) {
                continue;
            }
            for (account, amount) in record.postings {
                *carried.entry(account).or_default() += i128::from(amount);
            }
            batch.delete(TRANSFERS, key);
            pruned += 1;
            if pruned == PRUNE_COUNT_MAX as u64 {
                break;
            }
        }
        if pruned == 0 {
            return Ok(None);
        }
        for (account, amount) in carried {
            let key = account.into_bytes();
            let already: i128 = match store.get(CARRIED, &key)? {
                Some(value) => decode(store, CARRIED, &key, &value)?,
                None => 0,
            };
            batch.put(CARRIED, key, encode(&(already + amount)));
        }
        store.write(batch).await?;
        Ok(Some(pruned))
    }

    fn opening_batch(&self, book: &Book, accounts: &[NewAccount], opening: i64) -> Batch {
        let at = self.now();
        let mut batch = Batch::new();
        for account in accounts {
            put_account(&mut batch, &account.id, account.opening_minor, account.overdraft);
            if account.opening_minor > 0 {
                let amount = account.opening_minor;
                let postings = vec![(EQUITY.to_owned(), -amount), (account.id.clone(), amount)];
                let record = PostingsRecord { at, postings };
                batch.put(TRANSFERS, opening_key(&account.id), encode(&record));
            }
        }
        let equity = book.account(book.find(EQUITY).expect("made with the ledger")).balance;
        put_account(&mut batch, EQUITY, equity - opening, Overdraft::Allowed);
        batch
    }
}

/// Reads everything into memory; makes the ledger's own accounts in a new one.
pub(super) fn load(store: &Store, options: &Options) -> Result<State, Error> {
    let mut state = State::default();
    for entry in store.prefix(ACCOUNTS, b"") {
        let (key, value) = entry?;
        let record: AccountRecord = decode(store, ACCOUNTS, &key, &value)?;
        let id = text_key(store, ACCOUNTS, &key)?;
        if state.book.len() >= options.accounts_max {
            let count = state.book.len() + 1;
            return Err(Error::TooManyAccounts { count, limit: options.accounts_max });
        }
        state.book.add(id, record.balance_minor, record.overdraft());
    }
    make_own_accounts(store, &mut state.book)?;
    for entry in store.prefix(PENDING, b"") {
        let (key, value) = entry?;
        let (gid, postings) = read_pending(store, &state.book, &key, &value)?;
        // What a batch credits, its later members may have spent.
        let mut credits = Credits::default();
        for posting in &postings {
            credits.add(*posting);
        }
        state.book.hold(&postings, &credits).map_err(|declined| {
            let detail = format!("its holds do not fit the balances: {declined:?}");
            store.record_error(PENDING, &key, detail)
        })?;
        state.pending.insert(gid, Pending { postings });
    }
    for entry in store.prefix(EPOCHS, b"") {
        let (key, value) = entry?;
        let log = uuid::Uuid::from_slice(&key);
        let log = log.map_err(|e| store.record_error(EPOCHS, &key, e))?;
        let epoch = <[u8; 8]>::try_from(value.as_slice());
        let epoch = epoch.map_err(|_| store.record_error(EPOCHS, &key, "not 8 bytes"))?;
        state.epochs.insert(LogId(log), Epoch(u64::from_be_bytes(epoch)));
    }
    Ok(state)
}

fn read_pending(
    store: &Store,
    book: &Book,
    key: &[u8],
    value: &[u8],
) -> Result<(Gid, Vec<Posting>), Error> {
    let located = |detail: String| store.record_error(PENDING, key, detail);
    let gid = gid_of_key(key).ok_or_else(|| located("its key is not a gid".to_owned()))?;
    let record: PostingsRecord = decode(store, PENDING, key, value)?;
    let mut postings = Vec::with_capacity(record.postings.len());
    for (id, amount) in record.postings {
        let account = book.find(&id);
        let account = account.ok_or_else(|| located(format!("there is no account {id:?}")))?;
        postings.push(Posting { account, amount });
    }
    Ok((gid, postings))
}

fn make_own_accounts(store: &Store, book: &mut Book) -> Result<(), store::Error> {
    let mut batch = Batch::new();
    for id in [SETTLEMENT, EQUITY] {
        if book.find(id).is_none() {
            book.add(id, 0, Overdraft::Allowed);
            put_account(&mut batch, id, 0, Overdraft::Allowed);
        }
    }
    store.submit(batch, Urgency::Urgent)?.wait()?;
    Ok(())
}

fn put_account(batch: &mut Batch, id: &str, balance_minor: i64, overdraft: Overdraft) {
    let record = AccountRecord { balance_minor, overdraft: overdraft == Overdraft::Allowed };
    batch.put(ACCOUNTS, id.as_bytes().to_vec(), encode(&record));
}

/// What all of them start with together, if they can all be opened.
fn check_new(book: &Book, accounts: &[NewAccount], accounts_max: usize) -> Result<i64, Error> {
    let count = book.len() + accounts.len();
    if count > accounts_max {
        return Err(Error::TooManyAccounts { count, limit: accounts_max });
    }
    let equity = book.account(book.find(EQUITY).expect("made with the ledger"));
    let mut left = equity.balance;
    let mut seen = HashSet::new();
    for account in accounts {
        let id = account.id.as_str();
        let refused =
            |detail: &str| Err(Error::Account { id: id.to_owned(), detail: detail.to_owned() });
        if id.is_empty() || id.len() > ACCOUNT_ID_BYTES_MAX || id.chars().any(char::is_control) {
            return refused("an id has 1 to 128 bytes and no control characters");
        }
        if book.find(id).is_some() || !seen.insert(id) {
            return refused("it exists already");
        }
        if account.opening_minor < 0 {
            return refused(&format!("opens with {}, less than nothing", account.opening_minor));
        }
        match left.checked_sub(account.opening_minor) {
            Some(rest) => left = rest,
            None => return refused("opens with more than a ledger can hold"),
        }
    }
    Ok(equity.balance - left)
}

fn add_new(book: &mut Book, accounts: &[NewAccount], opening: i64) {
    for account in accounts {
        book.add(&account.id, account.opening_minor, account.overdraft);
    }
    let equity = book.find(EQUITY).expect("made with the ledger");
    book.adjust(equity, -opening);
}
