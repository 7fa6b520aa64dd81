//! Exponentially fading counters and moments, evaluated lazily.
//!
//! An event of age *a* counts `exp(-a / window)`; in steady traffic such a count equals that of a
//! plain window of the same length, without storing events. Reading never writes. Time that runs
//! backwards counts as no time. No clock here, no wall time: instants are arguments.

use crate::txn::Timestamp;

/// Length of a fading window in seconds (the time constant of its exponential).
#[derive(Debug, Clone, Copy)]
pub(super) struct Window(f64);

impl Window {
    pub(super) const MINUTES_10: Self = Self(600.0);
    pub(super) const HOUR: Self = Self(3_600.0);
    pub(super) const DAY: Self = Self(86_400.0);
    pub(super) const DAYS_3: Self = Self(3.0 * 86_400.0);
    pub(super) const DAYS_7: Self = Self(7.0 * 86_400.0);
    pub(super) const DAYS_30: Self = Self(30.0 * 86_400.0);
    pub(super) const DAYS_90: Self = Self(90.0 * 86_400.0);

    /// What is left, 0 to 1, of a weight of 1 after `seconds`.
    #[inline]
    fn fade(self, seconds: f64) -> f64 {
        if seconds > 0.0 { (-seconds / self.0).exp() } else { 1.0 }
    }
}

/// Seconds from `earlier` to `later`, zero if `later` is not later.
#[inline]
pub(super) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.micros_since(earlier) as f64 / 1e6
}

/// `N` fading sums that share the instant of their last change, one window each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters<const N: usize> {
    at: Timestamp,
    sums: [f64; N],
}

impl<const N: usize> Counters<N> {
    /// All zero.
    pub(super) const fn new(at: Timestamp) -> Self {
        Self { at, sums: [0.0; N] }
    }

    /// The sums as of `now`.
    #[inline]
    pub(super) fn read(&self, now: Timestamp, windows: &[Window; N]) -> [f64; N] {
        let seconds = seconds_between(self.at, now);
        let mut sums = self.sums;
        if seconds == 0.0 {
            return sums;
        }
        // Equal windows stand side by side, and exponentials are what costs. A plain loop, since
        // iterator adapters are not always inlined and this is the innermost one.
        let (mut last, mut fade) = (f64::NAN, 1.0);
        let mut index = 0;
        while index < N {
            let window = windows[index];
            if last.to_bits() != window.0.to_bits() {
                (last, fade) = (window.0, window.fade(seconds));
            }
            sums[index] *= fade;
            index += 1;
        }
        sums
    }

    /// Adds to each sum at `now`, or at the last change if `now` is earlier.
    #[inline]
    pub(super) fn add(&mut self, now: Timestamp, windows: &[Window; N], values: [f64; N]) {
        self.sums = self.read(now, windows);
        for (sum, value) in self.sums.iter_mut().zip(values) {
            *sum += value;
        }
        self.at = self.at.max(now);
    }
}

/// Fading weight, mean and sum of squared deviations of one quantity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    at: Timestamp,
    weight: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Nothing seen.
    pub(super) const fn new(at: Timestamp) -> Self {
        Self { at, weight: 0.0, mean: 0.0, squares: 0.0 }
    }

    /// Adds a finite value at `now` (West's incremental update, with fading weights).
    #[inline]
    pub(super) fn add(&mut self, now: Timestamp, window: Window, value: f64) {
        let fade = window.fade(seconds_between(self.at, now));
        self.weight = self.weight * fade + 1.0;
        self.squares *= fade;
        let deviation = value - self.mean;
        self.mean += deviation / self.weight;
        self.squares += deviation * (value - self.mean);
        self.at = self.at.max(now);
    }

    /// The weight of what was seen, as of `now`.
    #[inline]
    pub(super) fn weight(&self, now: Timestamp, window: Window) -> f64 {
        if self.weight == 0.0 {
            return 0.0;
        }
        self.weight * window.fade(seconds_between(self.at, now))
    }

    /// The mean; fading changes no mean. `None` if nothing was ever seen.
    #[inline]
    pub(super) fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then_some(self.mean)
    }

    /// The variance around the mean. `None` if nothing was ever seen.
    #[inline]
    pub(super) fn variance(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| (self.squares / self.weight).max(0.0))
    }
}

/// A share, drawn towards `prior` as if `prior_count` earlier cases had shown it.
#[inline]
pub(super) fn smoothed(hits: f64, count: f64, prior: f64, prior_count: f64) -> f64 {
    (hits + prior * prior_count) / (count + prior_count)
}

/// Log-odds, finite: the share is kept within 0.0001 and 0.9999.
#[inline]
pub(super) fn log_odds(share: f64) -> f64 {
    let share = share.clamp(1e-4, 1.0 - 1e-4);
    (share / (1.0 - share)).ln()
}
