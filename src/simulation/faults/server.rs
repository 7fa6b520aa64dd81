//! A simulated participant: answers requests as the real ones do, crashes, pauses, loses syncs.
//!
//! Its answers follow `participants`: nothing is answered before it is durable; a prepare of another
//! epoch than the claimed one is refused, and so is one that finds a tombstone; a commit that finds
//! neither branch nor marker is heuristic; an abort or an inquiry of the unknown leaves a tombstone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::books::{Books, Change, Ended, Key, Work, gid, key};
use super::disk::{Disk, Durable};
use super::world::World;
use crate::mutation::{Mutation, on};
use crate::participants::batch::Worked;
use crate::participants::{Ack, ClaimError, EndedBelow, Inquiry};
use crate::txn::{Declined, Epoch, Gid, LogId, Vote};

/// How long a session may do nothing while it holds a batch.
const HELD_MAX: Duration = Duration::from_secs(3);

/// A message to a participant.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Claim {
        log: LogId,
        epoch: Epoch,
        process: u64,
    },
    Prepare(Gid, Work),
    OnePhase(Gid, Work),
    /// Work of a batch, which is prepared at once or held.
    Work {
        gid: Gid,
        members: Arc<[(usize, Work)]>,
        one_by_one: bool,
        holds: bool,
    },
    PrepareHeld(Gid),
    Commit(Gid),
    Abort(Gid),
    Inquire(Gid),
    List,
    Prune(EndedBelow),
}

/// Its answer.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Claimed(Result<String, ClaimError>),
    Voted(Vote),
    Worked(Worked),
    Acked(Ack),
    Inquired(Inquiry),
    Listed(Vec<Gid>),
    Pruned(u64),
}

/// A participant's server, over all its crashes.
pub(super) struct Server {
    pub(super) name: String,
    world: Arc<World>,
    disk: Arc<Disk<Books>>,
    state: Mutex<State>,
}

struct State {
    books: Books,
    /// Branches that were refused, so that a repeated request hears the same.
    refused: BTreeMap<Key, Declined>,
    /// What batches came to, for the same; and until when each is held.
    worked: BTreeMap<Key, Worked>,
    held_until: BTreeMap<Key, Instant>,
    /// How often it has started.
    boot: u64,
    up: bool,
    paused_until: Option<Instant>,
}

/// An execution's branch without the log, which is the same nearly everywhere.
fn short(gid: &Gid) -> String {
    format!("{}:{}:{}", gid.epoch.0, gid.physical.0, gid.branch.0)
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim { epoch, .. } => write!(f, "claim epoch {}", epoch.0),
            Self::Prepare(gid, work) => write!(f, "prepare {} for {}", short(gid), work.note()),
            Self::OnePhase(gid, work) => {
                write!(f, "commit {} in one phase for {}", short(gid), work.note())
            }
            Self::Work { gid, members, one_by_one, holds } => {
                let notes: Vec<_> = members.iter().map(|(_, work)| work.note()).collect();
                let what = if *holds { "hold" } else { "prepare" };
                let how = if *one_by_one { ", one by one" } else { "" };
                write!(f, "{what} {} for {}{how}", short(gid), notes.join(", "))
            }
            Self::PrepareHeld(gid) => write!(f, "prepare the held {}", short(gid)),
            Self::Commit(gid) => write!(f, "commit {}", short(gid)),
            Self::Abort(gid) => write!(f, "abort {}", short(gid)),
            Self::Inquire(gid) => write!(f, "inquire {}", short(gid)),
            Self::List => f.write_str("list"),
            Self::Prune(ended) => {
                write!(f, "prune below {}:{}", ended.epoch.0, ended.physical.0)
            }
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed(answer) => write!(f, "{answer:?}"),
            Self::Voted(vote) => write!(f, "{vote:?}"),
            Self::Worked(worked) => write!(f, "{worked:?}"),
            Self::Acked(ack) => write!(f, "{ack:?}"),
            Self::Inquired(inquiry) => write!(f, "{inquiry:?}"),
            Self::Listed(gids) => {
                let gids: Vec<_> = gids.iter().map(short).collect();
                write!(f, "[{}]", gids.join(", "))
            }
            Self::Pruned(_) => f.write_str("done"),
        }
    }
}

impl Server {
    pub(super) fn new(world: &Arc<World>, index: usize) -> Arc<Self> {
        let name = format!("p{index}");
        let books = Books::default();
        let fails = world.profile.participant_sync_fails;
        let disk = Disk::new(world.clone(), name.clone(), fails, books.clone());
        let refused = BTreeMap::new();
        let state = State {
            books,
            refused,
            worked: BTreeMap::new(),
            held_until: BTreeMap::new(),
            boot: 1,
            up: true,
            paused_until: None,
        };
        Arc::new(Self { name, world: world.clone(), disk, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Which start it is in, while it runs. Messages to an earlier one die with their connection.
    pub(super) fn boot(&self) -> Option<u64> {
        let state = self.state();
        state.up.then_some(state.boot)
    }

    /// A copy of its books, for the checkers.
    pub(super) fn books(&self) -> Books {
        self.state().books.clone()
    }

    pub(super) fn prepared(&self) -> Vec<Gid> {
        self.state().books.prepared.keys().copied().map(gid).collect()
    }

    /// Plants a prepared branch before the run starts.
    pub(super) fn plant(&self, gid: Gid, work: Work) {
        let change = Change::Prepared(key(gid), work);
        self.state().books.change(&change);
        self.disk.write_through(&change);
    }

    /// Stops at once, and starts again after a while with what its disk kept.
    pub(super) fn crash(self: &Arc<Self>, down: Duration) {
        self.disk.stop();
        {
            let mut state = self.state();
            state.books = self.disk.read(Books::clone);
            state.refused.clear();
            state.worked.clear();
            state.held_until.clear();
            state.boot += 1;
            state.up = false;
        }
        self.world.count(|counts| counts.participant_crashes += 1);
        self.world.trace(|| format!("{}: stops for {down:?}", self.name));
        let server = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(down).await;
            server.state().up = true;
        });
    }

    pub(super) fn pause(&self, duration: Duration) {
        self.state().paused_until = Some(Instant::now() + duration);
    }

    /// Takes a request that was sent to the start `boot`; `None` if it will never be answered.
    pub(super) async fn receive(self: &Arc<Self>, boot: u64, request: Request) -> Option<Reply> {
        loop {
            let paused_until = self.state().paused_until;
            match paused_until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => break,
            }
        }
        if self.boot() != Some(boot) {
            return None;
        }
        let (reply, durable) = self.answer(&request);
        self.world.trace(|| format!("{}: {request}: {reply}", self.name));
        if on(Mutation::VoteBeforeFlush) {
            return Some(reply);
        }
        match durable.await {
            Ok(Ok(())) => Some(reply),
            // A database that cannot sync stops at once; an operator starts it again.
            Ok(Err(_)) if self.boot() == Some(boot) => {
                self.crash(self.world.milliseconds(50, 1_000));
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn answer(&self, request: &Request) -> (Reply, Durable) {
        let now = self.world.now();
        let mut state = self.state();
        state.end_idle();
        let (reply, change) = match request {
            Request::Claim { log, epoch, process } => {
                let (answer, change) = self.claim(&state, *log, *epoch, *process);
                (Reply::Claimed(answer), change)
            }
            Request::Prepare(gid, work) => {
                let (vote, change) = self.prepare(&mut state, *gid, work);
                (Reply::Voted(vote), change)
            }
            Request::OnePhase(gid, work) => {
                let (vote, change) = self.one_phase(&mut state, *gid, work, now);
                (Reply::Voted(vote), change)
            }
            Request::Work { gid, members, one_by_one, holds } => {
                let (worked, change) = self.work(&mut state, *gid, members, (*one_by_one, *holds));
                (Reply::Worked(worked), change)
            }
            Request::PrepareHeld(gid) => {
                let (vote, change) = prepare_held(&mut state, *gid);
                (Reply::Voted(vote), change)
            }
            Request::Commit(gid) => {
                let (ack, change) = commit(&state.books, *gid, now);
                (Reply::Acked(ack), change)
            }
            Request::Abort(gid) => {
                state.books.held.remove(&key(*gid));
                let (ack, change) = abort(&state.books, *gid, now);
                (Reply::Acked(ack), change)
            }
            Request::Inquire(gid) => {
                let (inquiry, change) = inquire(&state.books, *gid, now);
                (Reply::Inquired(inquiry), change)
            }
            Request::List => {
                (Reply::Listed(state.books.prepared.keys().copied().map(gid).collect()), None)
            }
            Request::Prune(ended) => (Reply::Pruned(0), Some(Change::Pruned(*ended, now))),
        };
        if let Some(change) = &change {
            state.books.change(change);
        }
        (reply, self.disk.write(change))
    }

    fn claim(
        &self,
        state: &State,
        log: LogId,
        epoch: Epoch,
        process: u64,
    ) -> (Result<String, ClaimError>, Option<Change>) {
        let known = state.books.epochs.get(&log.0).copied().unwrap_or_default();
        if known.0 > epoch.0 || (known.0 == epoch.0 && known.1 != process) {
            let participant = self.name.clone();
            let error = ClaimError::Stale { participant, known: known.0, claimed: epoch.0 };
            return (Err(error), None);
        }
        (Ok(self.name.clone()), Some(Change::Claimed { log, epoch, process }))
    }

    fn prepare(&self, state: &mut State, gid: Gid, work: &Work) -> (Vote, Option<Change>) {
        if let Some(prepared) = state.books.prepared.get(&key(gid)) {
            let mut work = prepared.clone();
            let twice = on(Mutation::DuplicateHoldsTwice);
            return (
                Vote::Yes,
                twice.then(|| {
                    work.postings.extend(prepared.postings.clone());
                    Change::Prepared(key(gid), work)
                }),
            );
        }
        if let Some(vote) = self.refuses(state, gid, work) {
            return (vote, None);
        }
        if work.postings.is_empty() {
            return (Vote::ReadOnly, None);
        }
        (Vote::Yes, Some(Change::Prepared(key(gid), work.clone())))
    }

    fn one_phase(
        &self,
        state: &mut State,
        gid: Gid,
        work: &Work,
        now: Duration,
    ) -> (Vote, Option<Change>) {
        if let Some(vote) = self.refuses(state, gid, work) {
            return (vote, None);
        }
        if work.postings.is_empty() {
            return (Vote::ReadOnly, None);
        }
        (Vote::Yes, Some(Change::Booked(key(gid), work.clone(), now)))
    }

    /// Carries members out one after the other.
    fn work(
        &self,
        state: &mut State,
        gid: Gid,
        members: &[(usize, Work)],
        (one_by_one, holds): (bool, bool),
    ) -> (Worked, Option<Change>) {
        if let Some(worked) = state.worked.get(&key(gid)) {
            return (worked.clone(), None);
        }
        let mut all = Work::nothing();
        let mut declined = Vec::new();
        let failed = |why, culprit| (Worked::Failed { why, culprit }, None);
        // Of an epoch that is over, say, or of a branch that was aborted.
        match self.refuses(state, gid, &all) {
            Some(Vote::No(why)) => {
                // Every other time it cannot say whose it was.
                let says = one_by_one && gid.physical.0.is_multiple_of(2);
                let culprit = members.first().map(|(place, _)| *place);
                return failed(why, culprit.filter(|_| says));
            }
            Some(_) => return (Worked::Unknown(format!("{gid} has ended")), None),
            None => {}
        }
        for (place, work) in members {
            match state.books.refusal(work, &all) {
                Some(detail) => {
                    let code = "insufficient_funds".to_owned();
                    declined.push((*place, Declined::Business { code, detail }));
                }
                None => all.add(work),
            }
        }
        let vote = if all.postings.is_empty() { Vote::ReadOnly } else { Vote::Yes };
        let (vote, change) = if holds {
            state.books.held.insert(key(gid), all);
            state.held_until.insert(key(gid), Instant::now() + HELD_MAX);
            (None, None)
        } else if declined.is_empty() {
            (Some(vote), (!all.postings.is_empty()).then(|| Change::Prepared(key(gid), all)))
        } else {
            (None, None)
        };
        let worked = Worked::Done { declined, vote };
        state.worked.insert(key(gid), worked.clone());
        (worked, change)
    }

    /// The vote that is due before any work is done.
    fn refuses(&self, state: &mut State, gid: Gid, work: &Work) -> Option<Vote> {
        let technical = |code: &str, detail: String| {
            Vote::No(Declined::Technical { code: code.to_owned(), detail })
        };
        match state.books.markers.get(&key(gid)) {
            Some((Ended::Committed, _)) if on(Mutation::DuplicateBooksTwice) => {}
            Some((Ended::Committed, _)) => return Some(Vote::Yes),
            Some((Ended::Aborted, _)) => {
                return Some(technical("already_aborted", format!("{gid} was aborted before")));
            }
            None => {}
        }
        let known = state.books.epochs.get(&gid.log.0).copied().unwrap_or_default().0;
        if known != gid.epoch.0 && !on(Mutation::EpochNotChecked) {
            return Some(technical("fenced", format!("epoch {known} is claimed")));
        }
        if let Some(declined) = state.refused.get(&key(gid)) {
            return Some(Vote::No(declined.clone()));
        }
        let declined = if self.world.fault(self.world.profile.refused) {
            let detail = "a deadlock was found".to_owned();
            Declined::Technical { code: "deadlock".to_owned(), detail }
        } else {
            let detail = state.books.refusal(work, &Work::nothing())?;
            Declined::Business { code: "insufficient_funds".to_owned(), detail }
        };
        state.refused.insert(key(gid), declined.clone());
        Some(Vote::No(declined))
    }
}

impl State {
    /// Ends sessions that have done nothing for too long.
    fn end_idle(&mut self) {
        let now = Instant::now();
        let books = &mut self.books;
        self.held_until.retain(|key, until| {
            if *until <= now {
                books.held.remove(key);
            }
            *until > now
        });
    }
}

fn prepare_held(state: &mut State, gid: Gid) -> (Vote, Option<Change>) {
    if state.books.prepared.contains_key(&key(gid)) {
        return (Vote::Yes, None);
    }
    match state.books.held.remove(&key(gid)) {
        Some(work) if work.postings.is_empty() => (Vote::ReadOnly, None),
        Some(work) => (Vote::Yes, Some(Change::Prepared(key(gid), work))),
        None => {
            let (code, detail) = ("not_held".to_owned(), "its session has ended".to_owned());
            (Vote::No(Declined::Technical { code, detail }), None)
        }
    }
}

fn commit(books: &Books, gid: Gid, now: Duration) -> (Ack, Option<Change>) {
    if books.prepared.contains_key(&key(gid)) {
        return (Ack::Done, Some(Change::Committed(key(gid), now)));
    }
    let ack = match books.markers.get(&key(gid)) {
        Some((Ended::Committed, _)) => Ack::Done,
        Some((Ended::Aborted, _)) => Ack::Heuristic(format!("{gid} was rolled back")),
        None => Ack::Heuristic(format!("there is neither {gid} nor its marker")),
    };
    (ack, None)
}

fn abort(books: &Books, gid: Gid, now: Duration) -> (Ack, Option<Change>) {
    match books.markers.get(&key(gid)) {
        Some((Ended::Committed, _)) => (Ack::Heuristic(format!("{gid} was committed")), None),
        Some((Ended::Aborted, _)) => (Ack::Done, None),
        None => (Ack::Done, Some(Change::Buried(key(gid), now))),
    }
}

fn inquire(books: &Books, gid: Gid, now: Duration) -> (Inquiry, Option<Change>) {
    if books.prepared.contains_key(&key(gid)) {
        return (Inquiry::Unknown(format!("{gid} is prepared")), None);
    }
    match books.markers.get(&key(gid)) {
        Some((Ended::Committed, _)) => (Inquiry::Committed, None),
        Some((Ended::Aborted, _)) => (Inquiry::Aborted, None),
        None if on(Mutation::InquiryLeavesNoTombstone) => (Inquiry::Aborted, None),
        None => (Inquiry::Aborted, Some(Change::Buried(key(gid), now))),
    }
}
