//! Live counters of each participant: what features and operators look at.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::features::LegContext;

/// Weight of the newest call in the health average: about the last twenty calls count.
const HEALTH_STEP: f64 = 0.05;

/// One participant's branches in flight and the share of recent calls that it answered.
#[derive(Debug)]
pub(super) struct Gauge {
    in_flight: AtomicU32,
    health: Mutex<f64>,
}

impl Default for Gauge {
    fn default() -> Self {
        Self { in_flight: AtomicU32::new(0), health: Mutex::new(1.0) }
    }
}

impl Gauge {
    pub(super) fn context(&self) -> LegContext {
        LegContext {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            health: *self.health.lock().expect("no panic while held"),
        }
    }

    pub(super) fn sent(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn returned(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Told once a branch: whether a usable vote came in time.
    pub(super) fn observe(&self, answered: bool) {
        let mut health = self.health.lock().expect("no panic while held");
        let target = if answered { 1.0 } else { 0.0 };
        *health += HEALTH_STEP * (target - *health);
    }
}
