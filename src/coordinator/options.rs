//! The coordinator's limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits and intervals, checked at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Transactions without an answer yet; more are refused.
    pub in_flight_max: usize,
    /// Transactions whose phase two is not acknowledged yet, answered ones included.
    pub unfinished_max: usize,
    /// The same of those with a branch at one participant: one that hears no decision keeps new
    /// transactions from itself before it keeps them from all others.
    pub unfinished_per_participant_max: usize,
    /// How long start-up works on recovery before it goes on in the background, in milliseconds.
    pub recovery_wait_ms: u64,
    /// How long a participant may take to accept our epoch and to list its prepared branches, in
    /// milliseconds.
    pub claim_timeout_ms: u64,
    /// How often every participant is asked for its prepared branches, in milliseconds.
    pub scan_interval_ms: u64,
    /// How long a branch may stay prepared, or a transaction unresolved, before an operator hears
    /// of it, once, in milliseconds.
    pub prepared_age_alert_ms: u64,
    /// First wait before a call of phase two is repeated, in milliseconds.
    pub retry_ms_first: u64,
    /// Longest wait before a call of phase two is repeated, in milliseconds.
    pub retry_ms_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            in_flight_max: 4096,
            unfinished_max: 65_536,
            unfinished_per_participant_max: 32_768,
            recovery_wait_ms: 10_000,
            claim_timeout_ms: 15_000,
            scan_interval_ms: 10_000,
            prepared_age_alert_ms: 60_000,
            retry_ms_first: 50,
            retry_ms_max: 30_000,
        }
    }
}

impl Options {
    /// Checks every bound; the error names key, value and bound.
    pub fn check(&self) -> Result<(), String> {
        let at_least_one = |key: &str, value: u64| {
            if value > 0 {
                return Ok(());
            }
            Err(format!("coordinator.{key} is 0, it must be at least 1"))
        };
        at_least_one("in_flight_max", self.in_flight_max as u64)?;
        at_least_one("unfinished_per_participant_max", self.unfinished_per_participant_max as u64)?;
        at_least_one("claim_timeout_ms", self.claim_timeout_ms)?;
        at_least_one("scan_interval_ms", self.scan_interval_ms)?;
        at_least_one("retry_ms_first", self.retry_ms_first)?;
        if self.unfinished_max < self.in_flight_max {
            return Err(format!(
                "coordinator.unfinished_max is {}, it must be at least in_flight_max, {}",
                self.unfinished_max, self.in_flight_max
            ));
        }
        if self.retry_ms_max < self.retry_ms_first {
            return Err(format!(
                "coordinator.retry_ms_max is {}, it must be at least retry_ms_first, {}",
                self.retry_ms_max, self.retry_ms_first
            ));
        }
        Ok(())
    }

    pub(super) fn backoff(&self) -> crate::protocol::Backoff {
        crate::protocol::Backoff {
            first: Duration::from_millis(self.retry_ms_first),
            max: Duration::from_millis(self.retry_ms_max),
        }
    }
}
