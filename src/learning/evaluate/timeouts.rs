//! The simple timeout rules that the champion is measured against, each from the votes heard so far.
//!
//! | rule | timeout |
//! |---|---|
//! | `static_5s` | 5 s |
//! | `reference_rule` | 2 × running mean, clamped to [1 s, 30 s], then × 3 at peak hours |
//! | `sliding_p999` | the 99.9 % quantile of the participant's last 10,000 latencies |
//! | `jacobson` | smoothed mean (gain 1/8) + 4 × smoothed deviation (gain 1/4), RFC 6298 |
//! | `mean_plus_k_sd` | running mean + k × running standard deviation, k tuned on the training window |
//!
//! Per participant; 5 s before a participant's first vote. Late votes count with their own time,
//! votes that never came do not count. A vote counts from the instant at which it was heard.

use std::collections::{BTreeMap, VecDeque};

/// The rules' names, in the order of [`Heard::timeouts_ms`].
pub(super) const RULES: [&str; 5] =
    ["static_5s", "reference_rule", "sliding_p999", "jacobson", "mean_plus_k_sd"];

pub(super) const STATIC_MS: f64 = 5_000.0;
const REFERENCE_MS: [f64; 2] = [1_000.0, 30_000.0];
const REFERENCE_PEAK_FACTOR: f64 = 3.0;

/// Latencies that the sliding quantile remembers for each participant.
const SLIDING_COUNT_MAX: usize = 10_000;

/// What one participant's votes have shown so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    count: f64,
    mean_ms: f64,
    squares: f64,
    smoothed_ms: f64,
    deviation_ms: f64,
    recent: VecDeque<u64>,
    /// Recent latencies by value: the bits of non-negative floats sort like the floats.
    sorted: BTreeMap<u64, u32>,
}

impl Heard {
    /// Hears a vote that took so long.
    pub fn hear(&mut self, latency_ms: f64) {
        let latency_ms = latency_ms.max(0.0);
        self.count += 1.0;
        let before = latency_ms - self.mean_ms;
        self.mean_ms += before / self.count;
        self.squares += before * (latency_ms - self.mean_ms);
        if self.recent.is_empty() {
            (self.smoothed_ms, self.deviation_ms) = (latency_ms, latency_ms / 2.0);
        } else {
            self.deviation_ms += ((self.smoothed_ms - latency_ms).abs() - self.deviation_ms) / 4.0;
            self.smoothed_ms += (latency_ms - self.smoothed_ms) / 8.0;
        }
        if self.recent.len() == SLIDING_COUNT_MAX {
            let oldest = self.recent.pop_front().expect("the window is full");
            let left = self.sorted.get_mut(&oldest).expect("every recent value is counted");
            *left -= 1;
            if *left == 0 {
                self.sorted.remove(&oldest);
            }
        }
        self.recent.push_back(latency_ms.to_bits());
        *self.sorted.entry(latency_ms.to_bits()).or_default() += 1;
    }

    /// The timeout of every rule in milliseconds, in the order of [`RULES`].
    pub fn timeouts_ms(&self, peak: bool, k: f64) -> [f64; RULES.len()] {
        if self.recent.is_empty() {
            let reference = STATIC_MS * if peak { REFERENCE_PEAK_FACTOR } else { 1.0 };
            return [STATIC_MS, reference, STATIC_MS, STATIC_MS, STATIC_MS];
        }
        let clamped = (2.0 * self.mean_ms).clamp(REFERENCE_MS[0], REFERENCE_MS[1]);
        [
            STATIC_MS,
            clamped * if peak { REFERENCE_PEAK_FACTOR } else { 1.0 },
            self.quantile_ms(0.999),
            self.smoothed_ms + 4.0 * self.deviation_ms,
            self.mean_ms + k * self.deviation(),
        ]
    }

    /// How many standard deviations above the running mean a latency lies; `None` before the
    /// deviation is known.
    pub fn excess(&self, latency_ms: f64) -> Option<f64> {
        let deviation = self.deviation();
        (self.count >= 30.0 && deviation > 0.0).then(|| (latency_ms - self.mean_ms) / deviation)
    }

    fn deviation(&self) -> f64 {
        (self.squares / (self.count - 1.0).max(1.0)).sqrt()
    }

    /// The value with `ceil(level * n)` recent values at or below it.
    fn quantile_ms(&self, level: f64) -> f64 {
        let n = self.recent.len();
        let rank = ((level * n as f64).ceil() as usize).clamp(1, n);
        let mut above = n - rank;
        for (bits, count) in self.sorted.iter().rev() {
            if above < *count as usize {
                return f64::from_bits(*bits);
            }
            above -= *count as usize;
        }
        STATIC_MS
    }
}
