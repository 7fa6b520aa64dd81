//! What is remembered of one customer, one counterparty, one participant.
//!
//! Plain data and its updates; formulas of features are in `extract.rs`.

use super::window::{Counters, Moments, Window};
use crate::txn::{Location, Timestamp};

/// Before every event.
pub(super) const NEVER: Timestamp = Timestamp::EARLIEST;

/// Payments, payments, amount, large payments, payments, payments, amount.
pub(super) const ARRIVAL_WINDOWS: [Window; 7] = [
    Window::HOUR,
    Window::DAY,
    Window::DAY,
    Window::DAYS_3,
    Window::DAYS_7,
    Window::DAYS_30,
    Window::DAYS_30,
];
/// Failures, failures, finished, succeeded.
pub(super) const CUSTOMER_FINISHED_WINDOWS: [Window; 4] =
    [Window::HOUR, Window::DAY, Window::DAYS_30, Window::DAYS_30];
/// Fraud labels.
pub(super) const CUSTOMER_LABEL_WINDOWS: [Window; 1] = [Window::DAYS_30];
/// A customer's normal amounts fade in this window.
pub(super) const CUSTOMER_AMOUNT_WINDOW: Window = Window::DAYS_90;
/// Arrivals.
pub(super) const COUNTERPARTY_ARRIVAL_WINDOWS: [Window; 1] = [Window::DAYS_7];
/// Finished, failed.
pub(super) const COUNTERPARTY_FINISHED_WINDOWS: [Window; 2] = [Window::DAYS_3; 2];
/// Labelled, fraud, fraud.
pub(super) const COUNTERPARTY_LABEL_WINDOWS: [Window; 3] =
    [Window::DAYS_30, Window::DAYS_30, Window::DAYS_7];
/// Seen and hit, lately; seen and hit, over a day. Outages last minutes to hours.
pub(super) const OUTAGE_WINDOWS: [Window; 4] =
    [Window::MINUTES_10, Window::MINUTES_10, Window::DAY, Window::DAY];
/// Count and sum of latencies in milliseconds.
pub(super) const LATENCY_MS_WINDOWS: [Window; 2] = [Window::DAY; 2];

/// What is remembered of a customer.
#[derive(Debug, Clone)]
pub(super) struct Customer {
    pub arrivals: Counters<7>,
    pub last_arrival: Option<Timestamp>,
    /// Of ln(amount) less the mean of its kind; outliers are pulled in before they are added.
    pub amounts: Moments,
    pub finished: Counters<4>,
    pub last_failure: Option<Timestamp>,
    /// Amount in minor units and instant of the last decline.
    pub last_decline: Option<(i64, Timestamp)>,
    pub labels: Counters<1>,
    pub last_place: Option<(Location, Timestamp)>,
    pub payees: Payees,
}

impl Customer {
    pub(super) fn new() -> Self {
        Self {
            arrivals: Counters::new(NEVER),
            last_arrival: None,
            amounts: Moments::new(NEVER),
            finished: Counters::new(NEVER),
            last_failure: None,
            last_decline: None,
            labels: Counters::new(NEVER),
            last_place: None,
            payees: Payees::new(),
        }
    }
}

/// Counterparties remembered per customer: the latest ones, so habits stay and strangers go.
pub(super) const PAYEES_MAX: usize = 24;

/// The counterparties that a customer paid last, latest first, each once, by a 32-bit tag: two of
/// one customer's look alike with a probability of 6e-9 each.
///
/// A payment counts when it arrives and no more once it is rejected or aborted: else a refused
/// attempt would make the next one look familiar.
#[derive(Debug, Clone)]
pub(super) struct Payees {
    /// Tag and hour of the last payment.
    entries: [(u32, i32); PAYEES_MAX],
    /// Payments not refused, saturating.
    counts: [u8; PAYEES_MAX],
    len: u8,
}

impl Payees {
    const fn new() -> Self {
        Self { entries: [(0, 0); PAYEES_MAX], counts: [0; PAYEES_MAX], len: 0 }
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.place_of(key).is_some()
    }

    /// How many were paid in the seven days before `now`, to the hour.
    pub(super) fn paid_in_7_days(&self, now: Timestamp) -> usize {
        let since = hour_of(now) - 7 * 24;
        self.held().iter().filter(|(_, hour)| *hour >= since).count()
    }

    pub(super) fn add(&mut self, key: u64, now: Timestamp) {
        let known = self.place_of(key);
        let (place, count) = known.map_or_else(
            || (usize::from(self.len).min(PAYEES_MAX - 1), 1),
            |place| (place, self.counts[place].saturating_add(1)),
        );
        if known.is_none() {
            self.len = (self.len + 1).min(PAYEES_MAX as u8);
        }
        self.entries.copy_within(..place, 1);
        self.counts.copy_within(..place, 1);
        self.entries[0] = (key as u32, hour_of(now));
        self.counts[0] = count;
    }

    /// Takes a refused payment back.
    pub(super) fn refuse(&mut self, key: u64) {
        let Some(place) = self.place_of(key) else { return };
        if self.counts[place] > 1 {
            self.counts[place] -= 1;
            return;
        }
        self.entries.copy_within(place + 1.., place);
        self.counts.copy_within(place + 1.., place);
        self.len -= 1;
    }

    fn place_of(&self, key: u64) -> Option<usize> {
        self.held().iter().position(|(tag, _)| *tag == key as u32)
    }

    fn held(&self) -> &[(u32, i32)] {
        &self.entries[..usize::from(self.len)]
    }
}

/// Whole hours since 1970; four-digit years fit.
fn hour_of(now: Timestamp) -> i32 {
    now.micros().div_euclid(3_600_000_000) as i32
}

/// What is remembered of a counterparty.
#[derive(Debug, Clone)]
pub(super) struct Counterparty {
    pub arrivals: Counters<1>,
    pub finished: Counters<2>,
    pub labels: Counters<3>,
}

impl Counterparty {
    pub(super) fn new() -> Self {
        Self {
            arrivals: Counters::new(NEVER),
            finished: Counters::new(NEVER),
            labels: Counters::new(NEVER),
        }
    }
}

/// What is remembered of a participant.
#[derive(Debug, Clone)]
pub(super) struct ParticipantHistory {
    /// Of ln(ms): lately and over a day.
    pub latency_recent: Moments,
    pub latency_day: Moments,
    pub latency_ms: Counters<2>,
    pub latency_samples: u64,
    /// Votes, and those that were no or never came.
    pub refusals: Counters<4>,
    /// Finished payments in which it took part, and those that failed technically.
    pub technical: Counters<4>,
    /// Of ln(1 + in flight) when it was asked.
    pub in_flight: Moments,
}

impl ParticipantHistory {
    pub(super) fn new() -> Self {
        Self {
            latency_recent: Moments::new(NEVER),
            latency_day: Moments::new(NEVER),
            latency_ms: Counters::new(NEVER),
            latency_samples: 0,
            refusals: Counters::new(NEVER),
            technical: Counters::new(NEVER),
            in_flight: Moments::new(NEVER),
        }
    }

    /// Takes in a latency; what is no time at all is left out.
    pub(super) fn add_latency(&mut self, now: Timestamp, ms: f64) {
        if !(0.0..=MS_MAX).contains(&ms) {
            return;
        }
        let log = ms.max(MS_MIN).ln();
        self.latency_recent.add(now, Window::MINUTES_10, log);
        self.latency_day.add(now, Window::DAY, log);
        self.latency_ms.add(now, &LATENCY_MS_WINDOWS, [1.0, ms]);
        self.latency_samples += 1;
    }
}

/// Latencies are taken as at least a microsecond and believed up to about a month.
const MS_MIN: f64 = 1e-3;
const MS_MAX: f64 = 30.0 * 86_400_000.0;

/// Adds one case, and a hit if it was one, to counters over [`OUTAGE_WINDOWS`].
pub(super) fn add_case(counters: &mut Counters<4>, now: Timestamp, hit: bool) {
    let hit = f64::from(u8::from(hit));
    counters.add(now, &OUTAGE_WINDOWS, [1.0, hit, 1.0, hit]);
}
