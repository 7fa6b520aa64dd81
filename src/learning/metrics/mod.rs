//! Measures of predictions: pure functions over probabilities, labels and latencies.
//!
//! A measure that its data do not define (one class only, no rows, a constant prediction where a
//! slope is asked for) is `None`, never NaN. Nothing here knows a model, a history or a file.
//! Intervals come from [`bootstrap`], which resamples whole clusters of dependent rows.

pub mod bootstrap;
mod calibration;
mod latency;
mod losses;
mod ranking;

#[cfg(test)]
mod tests;

pub use calibration::{Bin, ECE_BINS, LOGIT_CLIP, Line, calibration_line, ece, reliability};
pub use latency::{Leg, TimeoutScore, pinball, score_timeouts};
pub use losses::{
    LOG_LOSS_CLIP, accuracy, base_rate, brier, log_loss, log_loss_of, skill, squared_error,
};
pub use ranking::{Ranking, auc_roc, average_precision};
