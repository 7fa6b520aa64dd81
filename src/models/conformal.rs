//! The conformal multiplier: from a median to an upper bound that holds with a stated probability.
//!
//! Split conformal prediction with the score actual / predicted, pooled over participants: per-cell
//! extreme quantiles rest on too few rows. It assumes that the next legs are like those of the
//! slice; drift is somebody else's business.

use serde::{Deserialize, Serialize};

/// Share of legs allowed above the bound: the false-abort target.
pub const ALPHA: f64 = 0.001;

/// A multiplier and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Conformal {
    /// Upper bound = median × this.
    pub multiplier: f64,
    /// The share allowed above it.
    pub alpha: f64,
    /// Legs that it was measured on; below 1 / alpha − 1 it is their maximum, a bound too low.
    pub rows: u64,
}

impl Conformal {
    /// The (1 − `alpha`) conformal quantile of `ratios` (actual / predicted): the ⌈(n + 1)(1 −
    /// alpha)⌉-th smallest. `None` without a finite ratio.
    pub fn measure(ratios: impl Iterator<Item = f64>, alpha: f64) -> Option<Self> {
        let mut ratios: Vec<f64> = ratios.filter(|x| x.is_finite() && *x > 0.0).collect();
        ratios.sort_by(f64::total_cmp);
        let count = ratios.len();
        let rank = ((count as f64 + 1.0) * (1.0 - alpha)).ceil() as usize;
        let multiplier = *ratios.get(rank.clamp(1, count.max(1)) - 1)?;
        Some(Self { multiplier, alpha, rows: count as u64 })
    }

    /// Whether the slice was large enough for the quantile.
    pub fn has_enough_rows(&self) -> bool {
        (self.rows as f64 + 1.0) * self.alpha >= 1.0
    }
}
