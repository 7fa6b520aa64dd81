//! Capped exponential backoff with jitter that is a function of a seed: no randomness inside.

use std::time::Duration;

/// Waits between retries: doubling from `first` to at most `max`, each shortened by up to half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait, before jitter.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after failed attempt number `attempt` (from 1); between half and all of the
    /// doubled wait, spread by `seed` so that retries of many transactions do not march in step.
    pub fn wait(&self, attempt: u32, seed: u64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let hash = splitmix(seed ^ (u64::from(attempt) << 32));
        let spread = (hash >> 11) as f64 / (1u64 << 53) as f64;
        full.mul_f64(0.5 + spread / 2.0)
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014): a cheap well-mixed hash of one word.
fn splitmix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_jitter_stays_within_half() {
        let backoff = Backoff::default();
        for attempt in 1..100 {
            let full = backoff.first.saturating_mul(1 << (attempt - 1).min(30)).min(backoff.max);
            for seed in 0..50 {
                let wait = backoff.wait(attempt, seed);
                assert!(wait >= full.mul_f64(0.499) && wait <= full, "{attempt} {seed} {wait:?}");
            }
        }
    }
}
