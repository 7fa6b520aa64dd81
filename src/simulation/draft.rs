//! Payments before their instant has come, and the agenda on which they wait.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::fraud::Typology;
use super::population::Whereabouts;

/// Most entries of an agenda; beyond, no retry or campaign payment is planned.
const AGENDA_MAX: usize = 1_000_000;

/// Where a drafted payment is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Wherever the customer is then.
    Own,
    /// In a place of the world.
    At(usize),
    /// Drawn already.
    Known(Whereabouts),
}

/// Whether a drafted payment is fraud, and how likely that was.
#[derive(Debug, Clone, Copy)]
pub(super) struct FraudDraw {
    pub typology: Option<Typology>,
    pub probability: f64,
    /// Extra declines by the other side's controls.
    pub decline_ratio: f64,
    /// Whether a campaign added it to the genuine payments.
    pub is_campaign: bool,
}

/// A payment before its instant has come; what is `None` is drawn then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft {
    pub customer: usize,
    pub counterparty: usize,
    pub kind: Option<usize>,
    /// Amount over the customer's normal for the kind, logarithm.
    pub log_stretch: f64,
    pub minor: Option<i64>,
    pub round_minor: Option<i64>,
    pub place: Place,
    pub cross_border: Option<bool>,
    pub fraud: FraudDraw,
    /// Payment number and attempt, for a retry.
    pub retry_of: Option<(u64, u32)>,
}

impl Draft {
    pub(super) fn new(customer: usize, counterparty: usize, fraud: FraudDraw) -> Self {
        Self {
            customer,
            counterparty,
            kind: None,
            log_stretch: 0.0,
            minor: None,
            round_minor: None,
            place: Place::Own,
            cross_border: None,
            fraud,
            retry_of: None,
        }
    }
}

/// What waits on the agenda.
#[derive(Debug)]
pub(super) enum What {
    Payment(Box<Draft>),
    Campaign(Typology),
}

/// Planned payments and campaigns by instant, then by the order of planning.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: i64, what: What) {
        // Campaign starts plan their successors: dropping one would end fraud for good.
        if self.heap.len() < AGENDA_MAX || matches!(what, What::Campaign(_)) {
            self.sequence += 1;
            self.heap.push(Reverse(Entry { at, sequence: self.sequence, what }));
        }
    }

    /// Takes the first entry, if its instant is not after `until`.
    pub(super) fn pop_until(&mut self, until: i64) -> Option<(i64, What)> {
        if self.heap.peek()?.0.at > until {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }
}

#[derive(Debug)]
struct Entry {
    at: i64,
    sequence: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
