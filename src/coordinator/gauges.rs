//! Live counters of each participant: what features and operators look at, and since when it is
//! known that nobody has overtaken us there.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::features::LegContext;
use crate::participants::LEASE;

/// Weight of the newest call in the health average: about the last twenty calls count.
const HEALTH_STEP: f64 = 0.05;

/// One participant's branches in flight and the share of recent calls that it answered.
#[derive(Debug)]
pub(super) struct Gauge {
    in_flight: AtomicU32,
    unfinished: AtomicUsize,
    health: Mutex<f64>,
    /// When the newest vote that was a promise was asked for.
    vouched: Mutex<Option<Instant>>,
}

/// A branch in flight.
#[derive(Debug)]
pub(super) struct Entered(Arc<Gauge>);

/// A transaction that has a branch there and has not ended.
#[derive(Debug)]
pub(super) struct Unfinished(Arc<Gauge>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            unfinished: AtomicUsize::new(0),
            health: Mutex::new(1.0),
            vouched: Mutex::default(),
        }
    }
}

impl Gauge {
    pub(super) fn context(&self) -> LegContext {
        LegContext {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            health: *self.health.lock().expect("no panic while held"),
        }
    }

    /// Counts a branch as in flight until the guard is dropped, also when its call is given up.
    pub(super) fn enter(self: &Arc<Self>) -> Entered {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Entered(self.clone())
    }

    /// Counts a transaction as unfinished until the guard is dropped; answers how many there were.
    pub(super) fn begin(self: &Arc<Self>) -> (usize, Unfinished) {
        (self.unfinished.fetch_add(1, Ordering::Relaxed), Unfinished(self.clone()))
    }

    /// Told once a branch: whether a usable vote came in time.
    pub(super) fn observe(&self, answered: bool) {
        let mut health = self.health.lock().expect("no panic while held");
        let target = if answered { 1.0 } else { 0.0 };
        *health += HEALTH_STEP * (target - *health);
    }

    /// Told of each vote that promises something: it was asked for at `asked`.
    pub(super) fn vouch(&self, asked: Instant) {
        let mut vouched = self.vouched.lock().expect("no panic while held");
        *vouched = (*vouched).max(Some(asked));
    }

    /// Whether a vote still vouches for us.
    pub(super) fn is_vouched_for(&self) -> bool {
        let vouched = *self.vouched.lock().expect("no panic while held");
        vouched.is_some_and(|asked| asked.elapsed() <= LEASE)
    }
}
