//! The offline path: a history through the same state, each fact applied when it became known.
//!
//! Events are ordered by (instant, kind, row): arrivals before outcomes before votes before labels.
//! So an event at exactly *t* is visible at *t* only if it is an arrival of an earlier row.
//! Outcomes and votes become known at `timestamp + total_ms`, a late vote at `timestamp +
//! late_ms`, a label at `labelled_at` (not before the payment itself). What has no such instant
//! never becomes known.
//!
//! Memory: a row waits here until its outcome and votes have passed; of a label, which comes weeks
//! later, only 56 bytes wait.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::state::Who;
use super::{Error, Event, Features, LegContext, State};
use crate::txn::{HistoryRow, LegRow, LegVote, ParticipantName, Timestamp};

/// Most events that may wait for their time: weeks of labels at a hundred payments a second.
const PENDING_MAX: usize = 100_000_000;

/// Replays a history in timestamp order.
#[derive(Debug, Clone)]
pub struct Replay {
    state: State,
    pending: BinaryHeap<Reverse<Pending>>,
    labels: BinaryHeap<Reverse<PendingLabel>>,
    waiting: Waiting,
    /// Of the row at hand; kept for its memory.
    contexts: Vec<LegContext>,
    rows: u64,
    now: Timestamp,
}

/// An outcome or vote not known yet. The derived order is the order of application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pending {
    at: Timestamp,
    what: What,
    row: u64,
    leg: u32,
    place: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Finished,
    Leg,
    LateLeg,
}

/// A label not known yet, after all outcomes and votes of its instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PendingLabel {
    at: Timestamp,
    row: u64,
    who: Who,
    fraud: bool,
}

impl Replay {
    /// Starts from `state`.
    pub fn new(state: State) -> Self {
        Self {
            state,
            pending: BinaryHeap::new(),
            labels: BinaryHeap::new(),
            waiting: Waiting::default(),
            contexts: Vec::new(),
            rows: 0,
            now: Timestamp::EARLIEST,
        }
    }

    /// Computes a row's features as of its timestamp, before its own arrival, then takes it in.
    pub fn step(&mut self, row: HistoryRow) -> Result<Features, Error> {
        self.rows += 1;
        let now = row.timestamp;
        if now < self.now {
            let (row_number, previous) = (self.rows, self.now);
            return Err(Error::OutOfOrder {
                row: row_number,
                txn_id: row.txn_id,
                timestamp: now,
                previous,
            });
        }
        let events = self.pending.len() + self.labels.len() + 2 * row.legs.len() + 2;
        if events > PENDING_MAX {
            return Err(Error::TooManyPending {
                row: self.rows,
                txn_id: row.txn_id,
                max: PENDING_MAX,
            });
        }
        self.advance_to(now);
        self.contexts.clear();
        self.contexts.extend(contexts(&row));
        let features = self.state.extract(&row.payment, &self.contexts, now);
        self.state.apply(&Event::Arrived { at: now, payment: &row.payment });
        self.enqueue(row);
        Ok(features)
    }

    /// Applies what became known before `now`. Rows before `now` are refused from then on.
    pub fn advance_to(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        loop {
            let next = self.pending.peek().map_or(Timestamp::LATEST, |Reverse(next)| next.at);
            let label = self.labels.peek().map_or(Timestamp::LATEST, |Reverse(label)| label.at);
            if next.min(label) >= now {
                return;
            }
            if next <= label {
                let Reverse(next) = self.pending.pop().expect("it was looked at");
                self.apply(next);
            } else {
                let Reverse(label) = self.labels.pop().expect("it was looked at");
                self.state.labelled(label.at, label.who, label.fraud);
            }
        }
    }

    /// The state as it replays.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state as of the last instant; what was not known by then is forgotten.
    pub fn into_state(self) -> State {
        self.state
    }

    fn enqueue(&mut self, row: HistoryRow) {
        let number = self.rows;
        let place = self.waiting.insert(row);
        let (row, events) = self.waiting.entry(place);
        let mut push = |at, what, leg| {
            self.pending.push(Reverse(Pending { at, what, row: number, leg, place }));
            *events += 1;
        };
        if let Some(finished) = row.finished_at() {
            push(finished, What::Finished, 0);
            for (index, leg) in (0..).zip(&row.legs) {
                push(finished, What::Leg, index);
                if let Some(late) = late_at(leg, row.timestamp) {
                    push(late.max(finished), What::LateLeg, index);
                }
            }
        }
        if let (Some(fraud), Some(known)) = (row.fraud, row.labelled_at) {
            let (at, who) = (known.max(row.timestamp), Who::of(&row.payment));
            self.labels.push(Reverse(PendingLabel { at, row: number, who, fraud }));
        }
        self.waiting.release(place, 0);
    }

    fn apply(&mut self, next: Pending) {
        let row = self.waiting.row(next.place);
        let (at, payment) = (next.at, &row.payment);
        match next.what {
            What::Finished => {
                if let Some(outcome) = row.outcome {
                    let failure_class = row.failure_class;
                    self.state.apply(&Event::Finished { at, payment, outcome, failure_class });
                }
            }
            What::Leg => {
                let leg = &row.legs[next.leg as usize];
                if is_late(leg) {
                    // When it was given up nobody knew that a vote would come.
                    let given_up = LegRow { late_ms: None, ..leg.clone() };
                    self.state.apply(&Event::Leg { at, leg: &given_up });
                } else {
                    self.state.apply(&Event::Leg { at, leg });
                }
            }
            What::LateLeg => {
                self.state.apply(&Event::Leg { at, leg: &row.legs[next.leg as usize] });
            }
        }
        self.waiting.release(next.place, 1);
    }
}

/// The circumstances recorded for each of the payment's participants.
fn contexts(row: &HistoryRow) -> impl Iterator<Item = LegContext> {
    // Branch order is that of the participants, so the first look nearly always finds it.
    let find = move |(index, name): (usize, &ParticipantName)| {
        let same_place = row.legs.get(index).filter(|leg| leg.participant == *name);
        same_place.or_else(|| row.legs.iter().find(|leg| leg.participant == *name))
    };
    let context = |leg: Option<&LegRow>| {
        leg.map_or_else(LegContext::default, |leg| LegContext {
            in_flight: leg.in_flight,
            health: leg.health,
        })
    };
    row.payment.participants.iter().enumerate().map(find).map(context)
}

fn is_late(leg: &LegRow) -> bool {
    leg.vote == LegVote::Timeout && leg.late_ms.is_some()
}

fn late_at(leg: &LegRow, sent: Timestamp) -> Option<Timestamp> {
    let ms = leg.late_ms.filter(|_| leg.vote == LegVote::Timeout)?;
    let late = Duration::try_from_secs_f64(ms / 1e3).ok()?;
    Some(sent.after(late))
}

/// Rows whose last event has not passed, each with the number of its events.
#[derive(Debug, Clone, Default)]
struct Waiting {
    rows: Vec<Option<(HistoryRow, u32)>>,
    free: Vec<u32>,
}

impl Waiting {
    fn insert(&mut self, row: HistoryRow) -> u32 {
        let entry = Some((row, 0));
        if let Some(place) = self.free.pop() {
            self.rows[place as usize] = entry;
            return place;
        }
        self.rows.push(entry);
        (self.rows.len() - 1) as u32
    }

    fn row(&self, place: u32) -> &HistoryRow {
        let entry = self.rows[place as usize].as_ref();
        &entry.expect("kept until its last event").0
    }

    fn entry(&mut self, place: u32) -> (&HistoryRow, &mut u32) {
        let entry = self.rows[place as usize].as_mut();
        let (row, events) = entry.expect("kept until its last event");
        (row, events)
    }

    /// Takes off `passed` events and drops the row if none is left.
    fn release(&mut self, place: u32, passed: u32) {
        let (_, events) = self.entry(place);
        *events -= passed;
        if *events == 0 {
            self.rows[place as usize] = None;
            self.free.push(place);
        }
    }
}
