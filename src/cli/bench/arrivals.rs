//! When transactions of an open loop are meant to start, whatever became of those before them.

use std::time::Duration;

use super::workload::uniform;

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Spacing {
    /// At random, independent of each other, as those of many clients are.
    Poisson,
    /// All equally far apart.
    Fixed,
}

/// Instants since the start, without end, the same in every run.
#[derive(Debug, Clone)]
pub(super) struct Arrivals {
    rate: f64,
    spacing: Spacing,
    count: u64,
    seconds: f64,
}

impl Arrivals {
    /// `rate` a second, more than zero.
    pub(super) fn new(rate: f64, spacing: Spacing) -> Self {
        Self { rate, spacing, count: 0, seconds: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.seconds = match self.spacing {
            // Not summed up: that would drift.
            Spacing::Fixed => self.count as f64 / self.rate,
            // A gap of an exponential law, by its inverse; a share is below 1.
            Spacing::Poisson => self.seconds - (1.0 - uniform(self.count, 6)).ln() / self.rate,
        };
        self.count += 1;
        Some(Duration::from_secs_f64(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(spacing: Spacing) -> Vec<f64> {
        let all: Vec<_> = Arrivals::new(250.0, spacing).take(40_001).collect();
        assert!(all.is_sorted());
        all.windows(2).map(|pair| pair[1].as_secs_f64() - pair[0].as_secs_f64()).collect()
    }

    #[test]
    fn fixed_arrivals_are_equally_far_apart_and_do_not_drift() {
        assert!(gaps(Spacing::Fixed).iter().all(|gap| (gap - 0.004).abs() < 1e-8));
        let last = Arrivals::new(3.0, Spacing::Fixed).nth(3_000_000);
        assert_eq!(last, Some(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_their_law() {
        let gaps = gaps(Spacing::Poisson);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.97..1.03).contains(&(mean / 0.004)), "{mean}");
        // Mean and deviation of an exponential law are equal.
        assert!((0.95..1.05).contains(&(variance.sqrt() / mean)), "{variance}");
    }
}
