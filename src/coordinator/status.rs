//! What the coordinator is doing, for `/readyz`, `/metrics` and the live summary.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::Coordinator;
use super::coalescer::Travelled;
use super::members::ParticipantStatus;
use crate::txn::{Mode, Outcome, Reason};

/// A snapshot of the coordinator's counters since start.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Whether the decision log takes writes.
    pub healthy: bool,
    /// Whether start-up still waits for recovery.
    pub recovering: bool,
    /// Transactions of earlier runs that are not settled yet: they wait for a participant.
    pub unsettled: usize,
    /// Whether new transactions are refused because it is stopping.
    pub draining: bool,
    /// Transactions without an answer.
    pub in_flight: usize,
    /// Transactions whose phase two is not acknowledged, those in flight included.
    pub unfinished: usize,
    /// Answers by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Reasons given in answers, by code.
    pub reasons: BTreeMap<String, u64>,
    /// Prepared branches of other decision logs found by the last look, as `participant gid`.
    pub foreign_branches: Vec<String>,
    /// The participants.
    pub participants: Vec<ParticipantStatus>,
    /// Policy's mode.
    pub mode: Mode,
    /// Flushes of the decision log since start.
    pub flushes: u64,
    /// What travelled together since start.
    pub travelled: Travelled,
}

/// What every submission asks: three flags, where a whole [`Status`] copies maps and texts.
impl Coordinator {
    /// Whether the decision log takes writes.
    pub fn is_healthy(&self) -> bool {
        self.inner.log.healthy()
    }

    /// Whether start-up still waits for recovery.
    pub fn is_recovering(&self) -> bool {
        self.inner.recovering.load(Ordering::Relaxed)
    }

    /// Whether new transactions are refused because it is stopping.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: Mutex<Counts>,
    resolved: AtomicU64,
    age_alerts: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    outcomes: BTreeMap<Outcome, u64>,
    reasons: BTreeMap<String, u64>,
}

impl Counters {
    pub(super) fn count(&self, outcome: Outcome, reasons: &[Reason]) {
        let mut counts = self.counts.lock().expect("no panic while held");
        *counts.outcomes.entry(outcome).or_default() += 1;
        for reason in reasons {
            // Bounded by the catalogue of codes.
            let code = reason.code.as_str();
            match counts.reasons.get_mut(code) {
                Some(count) => *count += 1,
                None => {
                    counts.reasons.insert(code.to_owned(), 1);
                }
            }
        }
    }

    /// Counts a branch that an operator has ended.
    pub(super) fn resolved(&self) {
        self.resolved.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn resolved_count(&self) -> u64 {
        self.resolved.load(Ordering::Relaxed)
    }

    /// Counts a transaction of which it was told that it is old.
    pub(super) fn age_alert(&self) {
        self.age_alerts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn age_alerts(&self) -> u64 {
        self.age_alerts.load(Ordering::Relaxed)
    }

    pub(super) fn outcomes(&self) -> BTreeMap<Outcome, u64> {
        self.counts.lock().expect("no panic while held").outcomes.clone()
    }

    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        self.counts.lock().expect("no panic while held").reasons.clone()
    }
}
