//! The rules of the protocol over a durable store.
//!
//! One change at a time, each one batch that is on the disk before the lock is given back. So
//! whatever a call reads is durable, and whatever it answers, too.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `accounts` | account | balance and what is held |
//! | `branches` | gid, in order | state, postings, and what was asked |
//! | `prepared` | gid, in order | nothing: the index of what is in doubt |
//! | `logs` | log id | epoch, process, prune |
//! | `service` | `identity` | made with the folder |

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::accounts::{self, Account, Accounts, Posting};
use crate::api::Refusal;

/// The most branches that are prepared at a time.
const PREPARED_MAX: usize = 10_000;
/// The most branches that one prune looks at.
const PRUNED_MAX: usize = 10_000;

/// `presume:<log>:<epoch>:<physical>:<branch>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gid {
    pub log: u128,
    pub epoch: u64,
    physical: u64,
    branch: u16,
}

impl Gid {
    /// Reads the only form that is right.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("presume:")?.split(':');
        let log = parse_log(parts.next()?)?;
        let (epoch, physical) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let gid = Self { log, epoch, physical, branch: parts.next()?.parse().ok()? };
        (gid.to_string() == text).then_some(gid)
    }

    /// Orders branches by log, epoch, execution.
    fn key(self) -> Vec<u8> {
        let mut key = place(self.log, self.epoch, self.physical);
        key.extend(self.branch.to_be_bytes());
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        Some(Self {
            log: u128::from_be_bytes(key.get(..16)?.try_into().ok()?),
            epoch: u64::from_be_bytes(key.get(16..24)?.try_into().ok()?),
            physical: u64::from_be_bytes(key.get(24..32)?.try_into().ok()?),
            branch: u16::from_be_bytes(key.get(32..)?.try_into().ok()?),
        })
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, epoch, physical, branch } = self;
        write!(f, "presume:{log:032x}:{epoch}:{physical}:{branch}")
    }
}

fn place(log: u128, epoch: u64, physical: u64) -> Vec<u8> {
    let numbers = [epoch.to_be_bytes(), physical.to_be_bytes()].concat();
    [log.to_be_bytes().to_vec(), numbers].concat()
}

/// The id of a log: 32 hexadecimal digits.
pub fn parse_log(text: &str) -> Option<u128> {
    let log = u128::from_str_radix(text, 16).ok()?;
    (format!("{log:032x}") == text).then_some(log)
}

/// Why a branch is not prepared. A business decline is remembered, a technical one is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declined {
    pub class: String,
    pub code: String,
    pub detail: String,
}

impl Declined {
    pub fn business(code: &str, detail: String) -> Self {
        Self { class: "business".to_owned(), code: code.to_owned(), detail }
    }

    fn technical(code: &str, detail: &str) -> Self {
        let (class, code) = ("technical".to_owned(), code.to_owned());
        Self { class, code, detail: detail.to_owned() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "vote", rename_all = "snake_case")]
pub enum Vote {
    Yes,
    ReadOnly,
    No(Declined),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Prepared,
    Committed,
    Aborted,
}

/// What is stored of a branch.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Branch {
    state: State,
    postings: Vec<Posting>,
    /// What was asked; `None` of a tombstone, which came before its work. Books of before batches
    /// call it `operations`.
    #[serde(alias = "operations")]
    asked: Option<Asked>,
    declined: Option<Declined>,
    /// Who of a batch declined.
    #[serde(default)]
    members_declined: Vec<DeclinedMember>,
    /// When it ended, in seconds since 1970.
    at_s: u64,
}

/// An operation of a branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    pub operation: String,
    pub params: Map<String, Value>,
}

/// What a branch is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    Alone(Vec<Work>),
    Batch { members: Vec<Vec<Work>>, drop_declined: bool },
}

/// A member of a batch that declined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclinedMember {
    pub member: usize,
    #[serde(flatten)]
    pub why: Declined,
}

/// A vote, and who of a batch declined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Voted {
    #[serde(flatten)]
    pub vote: Vote,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub declined: Vec<DeclinedMember>,
}

impl From<Vote> for Voted {
    fn from(vote: Vote) -> Self {
        Self { vote, declined: Vec::new() }
    }
}

/// What is stored of a coordinator's log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Log {
    epoch: u64,
    process: String,
    /// Executions before this one (epoch, physical) have ended everywhere.
    ended_before: (u64, u64),
}

/// Prepare, or commit at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phases {
    Two,
    One,
}

/// Which verdict a branch hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Commit,
    Abort,
    /// An abort that spares what is prepared.
    Inquire,
}

pub struct Books {
    pub identity: String,
    database: Database,
    accounts: Keyspace,
    branches: Keyspace,
    prepared: Keyspace,
    logs: Keyspace,
    /// How many branches are prepared. Held during every change.
    writing: Mutex<usize>,
}

type Batch = fjall::OwnedWriteBatch;
/// What a branch has to hold, or why it is not prepared.
type Held = Result<Vec<Posting>, Declined>;

impl Books {
    /// Opens the folder, or makes it with an identity of its own.
    pub fn open(folder: &Path) -> Result<Self, fjall::Error> {
        let database = Database::builder(folder).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let service = keyspace("service")?;
        let identity = match service.get("identity")? {
            Some(identity) => String::from_utf8_lossy(&identity).into_owned(),
            None => {
                let identity = format!("wallet:{}", uuid::Uuid::new_v4().simple());
                service.insert("identity", identity.as_bytes())?;
                database.persist(PersistMode::SyncAll)?;
                identity
            }
        };
        let prepared = keyspace("prepared")?;
        let writing = Mutex::new(prepared.iter().count());
        let (accounts, branches, logs) =
            (keyspace("accounts")?, keyspace("branches")?, keyspace("logs")?);
        Ok(Self { identity, database, accounts, branches, prepared, logs, writing })
    }

    pub fn open_account(&self, account: &str, balance: u64) -> Result<(), Refusal> {
        let _writing = self.lock();
        if self.account(account)?.is_some() {
            return Ok(());
        }
        let mut batch = self.database.batch();
        let opened = Account { balance, ..Account::default() };
        batch.insert(&self.accounts, account, json(&opened));
        write(batch)
    }

    pub fn account(&self, account: &str) -> Result<Option<Account>, Refusal> {
        read(&self.accounts, account.as_bytes())
    }

    /// Fences every older epoch of a log, and every other process with this one.
    pub fn claim(&self, log: u128, epoch: u64, process: String) -> Result<(), Refusal> {
        let _writing = self.lock();
        let known = self.log(log)?;
        if known.epoch > epoch || (known.epoch == epoch && known.process != process) {
            return Err(Refusal::stale(known.epoch));
        }
        self.put_log(log, &Log { epoch, process, ..known })
    }

    /// Does the work of a branch, up to the promise or to the end.
    pub fn work(
        &self,
        gid: Gid,
        epoch: u64,
        asked: Asked,
        phases: Phases,
    ) -> Result<Voted, Refusal> {
        let mut prepared = self.lock();
        let log = self.fence(gid.log, epoch)?;
        if gid.epoch != epoch {
            return Err(Refusal::stale(log.epoch));
        }
        if let Some(branch) = self.branch(gid)? {
            return known_vote(branch, &asked, phases);
        }
        if (gid.epoch, gid.physical) < log.ended_before {
            let detail = "its execution has ended everywhere";
            return Ok(Vote::No(Declined::technical("ended", detail)).into());
        }
        if *prepared >= PREPARED_MAX {
            let detail = format!("{PREPARED_MAX} branches are prepared, the limit");
            return Ok(Vote::No(Declined::technical("too_many_prepared", &detail)).into());
        }
        let mut touched = Accounts::new();
        let (held, members_declined) = match &asked {
            Asked::Alone(operations) => (self.hold(operations, &mut touched)?, Vec::new()),
            Asked::Batch { members, drop_declined } => {
                self.hold_batch(members, *drop_declined, &mut touched)?
            }
        };
        let (vote, state, postings) = match held {
            Ok(postings) if postings.is_empty() => {
                return Ok(Voted { vote: Vote::ReadOnly, declined: members_declined });
            }
            Ok(postings) if phases == Phases::Two => (Vote::Yes, State::Prepared, postings),
            Ok(postings) => {
                for posting in &postings {
                    posting.apply(&mut touched);
                }
                (Vote::Yes, State::Committed, postings)
            }
            Err(declined) => {
                touched.clear();
                (Vote::No(declined), State::Aborted, Vec::new())
            }
        };
        let declined = if let Vote::No(declined) = &vote { Some(declined.clone()) } else { None };
        let (asked, at_s) = (Some(asked), now_s());
        let branch = Branch { state, postings, asked, declined, members_declined, at_s };
        self.store(gid, &branch, &touched)?;
        *prepared += usize::from(state == State::Prepared);
        Ok(Voted { vote, declined: branch.members_declined })
    }

    /// Ends a branch as it is told, unless it has ended; answers how it stands.
    pub fn verdict(&self, gid: Gid, epoch: u64, verdict: Verdict) -> Result<State, Refusal> {
        let mut prepared = self.lock();
        let log = self.fence(gid.log, epoch)?;
        let Some(mut branch) = self.branch(gid)? else {
            if verdict == Verdict::Commit {
                let detail = "neither prepared nor ended here";
                return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_branch", detail));
            }
            // Work of pruned executions is refused anyway.
            if (gid.epoch, gid.physical) >= log.ended_before {
                let tombstone = Branch {
                    state: State::Aborted,
                    postings: Vec::new(),
                    asked: None,
                    declined: None,
                    members_declined: Vec::new(),
                    at_s: now_s(),
                };
                self.store(gid, &tombstone, &Accounts::new())?;
            }
            return Ok(State::Aborted);
        };
        if branch.state != State::Prepared || verdict == Verdict::Inquire {
            return Ok(branch.state);
        }
        let mut touched = Accounts::new();
        for posting in &branch.postings {
            self.touch(posting.account(), &mut touched)?;
            match verdict {
                Verdict::Commit => posting.apply(&mut touched),
                _ => posting.release(&mut touched),
            }
        }
        branch.state = if verdict == Verdict::Commit { State::Committed } else { State::Aborted };
        branch.at_s = now_s();
        self.store(gid, &branch, &touched)?;
        *prepared -= 1;
        Ok(branch.state)
    }

    /// A page of what is prepared, and where the next begins.
    pub fn prepared(
        &self,
        after: Option<Gid>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<String>), Refusal> {
        let mut gids = Vec::new();
        let from = after.map(Gid::key).unwrap_or_default();
        for entry in self.prepared.range(from.clone()..) {
            let key = entry.key().map_err(broken)?;
            if after.is_some() && *key == *from {
                continue;
            }
            if gids.len() == limit {
                let next = gids.last().cloned();
                return Ok((gids, next));
            }
            gids.extend(Gid::from_key(&key).map(|gid| gid.to_string()));
        }
        Ok((gids, None))
    }

    /// Refuses work of executions before `physical` from now on, and forgets how they ended if that
    /// was some time ago. What is prepared stays.
    pub fn prune(
        &self,
        log: u128,
        epoch: u64,
        physical: u64,
        older_than_s: u64,
    ) -> Result<usize, Refusal> {
        let _writing = self.lock();
        let known = self.fence(log, epoch)?;
        let ended_before = known.ended_before.max((epoch, physical));
        if ended_before != known.ended_before {
            self.put_log(log, &Log { ended_before, ..known })?;
        }
        let (from, to) = (place(log, 0, 0), place(log, ended_before.0, ended_before.1));
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for entry in self.branches.range(from..to).take(PRUNED_MAX) {
            let (key, value) = entry.into_inner().map_err(broken)?;
            let branch: Branch = parse(&value)?;
            if branch.state != State::Prepared
                && branch.at_s.saturating_add(older_than_s) <= now_s()
            {
                batch.remove(&self.branches, key);
            }
        }
        let removed = batch.len();
        if removed > 0 {
            batch.commit().map_err(broken)?;
        }
        Ok(removed)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a caller of this epoch may change anything.
    fn fence(&self, log: u128, epoch: u64) -> Result<Log, Refusal> {
        let known = self.log(log)?;
        if epoch < known.epoch {
            return Err(Refusal::stale(known.epoch));
        }
        if epoch > known.epoch {
            let detail = format!("epoch {epoch} was not claimed here");
            return Err(Refusal::new(StatusCode::CONFLICT, "unclaimed_epoch", detail));
        }
        Ok(known)
    }

    fn hold(&self, operations: &[Work], touched: &mut Accounts) -> Result<Held, Refusal> {
        let mut postings = Vec::new();
        for work in operations {
            let (account, posting) = match accounts::parse(&work.operation, &work.params) {
                Ok(parsed) => parsed,
                Err(declined) => return Ok(Err(declined)),
            };
            self.touch(&account, touched)?;
            match posting {
                Some(posting) => match posting.hold(touched) {
                    Ok(()) => postings.push(posting),
                    Err(declined) => return Ok(Err(declined)),
                },
                None if touched[&account].is_none() => {
                    let detail = format!("there is no account {account:?}");
                    return Ok(Err(Declined::business("unknown_account", detail)));
                }
                None => {}
            }
        }
        Ok(Ok(postings))
    }

    /// Tries the members on, one after the other, and holds what they come to together.
    fn hold_batch(
        &self,
        members: &[Vec<Work>],
        drop_declined: bool,
        touched: &mut Accounts,
    ) -> Result<(Held, Vec<DeclinedMember>), Refusal> {
        let mut after = Accounts::new();
        let mut declined = Vec::new();
        for (member, operations) in members.iter().enumerate() {
            let mut tried = Accounts::new();
            let told = self.try_on(operations, touched, &after, &mut tried)?;
            match told {
                Ok(()) => after.append(&mut tried),
                Err(why) => declined.push(DeclinedMember { member, why }),
            }
        }
        if !declined.is_empty() && !drop_declined {
            let detail = format!("{} members declined", declined.len());
            return Ok((Err(Declined::business("members_declined", detail)), declined));
        }
        let postings = accounts::postings(touched, &after);
        for posting in &postings {
            posting.hold(touched).expect("a batch needs no more than its members");
        }
        Ok((Ok(postings), declined))
    }

    /// Carries a member out on accounts as those before it have left them.
    fn try_on(
        &self,
        operations: &[Work],
        touched: &mut Accounts,
        before: &Accounts,
        tried: &mut Accounts,
    ) -> Result<Result<(), Declined>, Refusal> {
        for work in operations {
            let (account, posting) = match accounts::parse(&work.operation, &work.params) {
                Ok(parsed) => parsed,
                Err(declined) => return Ok(Err(declined)),
            };
            self.touch(&account, touched)?;
            if !tried.contains_key(&account) {
                let now = before.get(&account).unwrap_or(&touched[&account]).clone();
                tried.insert(account.clone(), now);
            }
            match posting {
                Some(posting) => {
                    if let Err(declined) = posting.try_on(tried) {
                        return Ok(Err(declined));
                    }
                }
                None if tried[&account].is_none() => {
                    let detail = format!("there is no account {account:?}");
                    return Ok(Err(Declined::business("unknown_account", detail)));
                }
                None => {}
            }
        }
        Ok(Ok(()))
    }

    fn touch(&self, account: &str, touched: &mut Accounts) -> Result<(), Refusal> {
        if !touched.contains_key(account) {
            touched.insert(account.to_owned(), self.account(account)?);
        }
        Ok(())
    }

    /// Writes a branch with what it changes, in one durable batch.
    fn store(&self, gid: Gid, branch: &Branch, touched: &Accounts) -> Result<(), Refusal> {
        let mut batch = self.database.batch();
        batch.insert(&self.branches, gid.key(), json(branch));
        match branch.state {
            State::Prepared => batch.insert(&self.prepared, gid.key(), ""),
            _ => batch.remove(&self.prepared, gid.key()),
        }
        for (name, account) in touched {
            if let Some(account) = account {
                batch.insert(&self.accounts, name.as_bytes(), json(account));
            }
        }
        write(batch)
    }

    fn put_log(&self, log: u128, record: &Log) -> Result<(), Refusal> {
        let mut batch = self.database.batch();
        batch.insert(&self.logs, log.to_be_bytes(), json(record));
        write(batch)
    }

    fn log(&self, log: u128) -> Result<Log, Refusal> {
        Ok(read(&self.logs, &log.to_be_bytes())?.unwrap_or_default())
    }

    fn branch(&self, gid: Gid) -> Result<Option<Branch>, Refusal> {
        read(&self.branches, &gid.key())
    }
}

/// The vote of a branch that has been voted on, or was ended before its work came.
fn known_vote(branch: Branch, asked: &Asked, phases: Phases) -> Result<Voted, Refusal> {
    let contradiction =
        |detail| Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "contradiction", detail));
    if branch.asked.as_ref().is_some_and(|known| known != asked) {
        return contradiction("the branch is known with other operations");
    }
    let vote = match (branch.state, branch.declined) {
        (State::Prepared, _) if phases == Phases::One => {
            return contradiction("the branch is prepared");
        }
        (State::Prepared | State::Committed, _) => Vote::Yes,
        (State::Aborted, Some(declined)) => Vote::No(declined),
        (State::Aborted, None) => {
            let before = Declined::technical("aborted_before", "its abort came before");
            return Ok(Vote::No(before).into());
        }
    };
    Ok(Voted { vote, declined: branch.members_declined })
}

/// One durable batch. If it fails nobody knows whether it is on the disk: the answer is a 500, and
/// the store takes no more.
fn write(batch: Batch) -> Result<(), Refusal> {
    batch.durability(Some(PersistMode::SyncAll)).commit().map_err(broken)
}

fn read<T: DeserializeOwned>(keyspace: &Keyspace, key: &[u8]) -> Result<Option<T>, Refusal> {
    keyspace.get(key).map_err(broken)?.map(|value| parse(&value)).transpose()
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(value).map_err(broken)
}

fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records always serialise")
}

/// Anything that goes wrong below: a 5xx, which the coordinator takes for *unknown*.
fn broken(error: impl fmt::Display) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", error.to_string())
}

#[allow(clippy::disallowed_methods, reason = "a service has a clock")]
pub fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
