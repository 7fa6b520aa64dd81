//! What an operator may set, with its bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::txn::Mode;

/// Thresholds, caps and bounds of policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Off, observe or enforce.
    pub mode: Mode,
    /// Reject above this fraud probability.
    pub fraud_reject_above: f64,
    /// Reject below this success probability.
    pub success_reject_below: f64,
    /// Largest share of transactions rejected for each of the two reasons, in the long run.
    pub rejected_share_max: f64,
    /// Shortest prepare timeout, in milliseconds.
    pub prepare_timeout_ms_min: u64,
    /// Longest prepare timeout, in milliseconds.
    pub prepare_timeout_ms_max: u64,
    /// Prepare timeout where nothing is predicted, in milliseconds.
    pub prepare_timeout_ms_default: u64,
    /// Share of votes that may come after their timeout: what the adaptive offset aims at.
    pub false_abort_ratio_target: f64,
    /// Step γ of the adaptive offset, in units of log time for each miss.
    pub timeout_step: f64,
}

impl Default for Options {
    /// Mode observe: a team looks at what would be rejected before it rejects. The reference's
    /// thresholds, 5 s where nothing is predicted, and a 0.1 % false-abort target.
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            fraud_reject_above: 0.85,
            success_reject_below: 0.30,
            rejected_share_max: 0.05,
            prepare_timeout_ms_min: 50,
            prepare_timeout_ms_max: 30_000,
            prepare_timeout_ms_default: 5_000,
            false_abort_ratio_target: 0.001,
            timeout_step: 0.05,
        }
    }
}

/// An option outside its bounds.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("policy.{key} is {value}, it must be {bounds}")]
pub struct OptionsError {
    /// Which key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub bounds: &'static str,
}

impl Options {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), OptionsError> {
        let ratio = |key, value: f64| {
            if (0.0..=1.0).contains(&value) {
                return Ok(());
            }
            Err(OptionsError { key, value: value.to_string(), bounds: "between 0 and 1" })
        };
        ratio("fraud_reject_above", self.fraud_reject_above)?;
        ratio("success_reject_below", self.success_reject_below)?;
        ratio("rejected_share_max", self.rejected_share_max)?;
        if !(self.false_abort_ratio_target > 0.0 && self.false_abort_ratio_target < 0.5) {
            return Err(OptionsError {
                key: "false_abort_ratio_target",
                value: self.false_abort_ratio_target.to_string(),
                bounds: "above 0 and below 0.5",
            });
        }
        if !(0.0..=1.0).contains(&self.timeout_step) {
            return Err(OptionsError {
                key: "timeout_step",
                value: self.timeout_step.to_string(),
                bounds: "between 0 and 1",
            });
        }
        if self.prepare_timeout_ms_min == 0 {
            return Err(OptionsError {
                key: "prepare_timeout_ms_min",
                value: "0".into(),
                bounds: "at least 1",
            });
        }
        if self.prepare_timeout_ms_max < self.prepare_timeout_ms_min {
            return Err(OptionsError {
                key: "prepare_timeout_ms_max",
                value: self.prepare_timeout_ms_max.to_string(),
                bounds: "at least prepare_timeout_ms_min",
            });
        }
        if self.prepare_timeout_ms_max > 3_600_000 {
            return Err(OptionsError {
                key: "prepare_timeout_ms_max",
                value: self.prepare_timeout_ms_max.to_string(),
                bounds: "at most 3600000 (an hour)",
            });
        }
        Ok(())
    }

    /// A predicted bound in milliseconds, or the default, clamped to the configured bounds.
    pub(super) fn clamp_timeout(&self, predicted_ms: Option<f64>) -> Duration {
        let (min, max) = (self.prepare_timeout_ms_min, self.prepare_timeout_ms_max);
        let ms = match predicted_ms {
            Some(ms) => ms.clamp(min as f64, max as f64).ceil() as u64,
            None => self.prepare_timeout_ms_default.clamp(min, max),
        };
        Duration::from_millis(ms)
    }
}
