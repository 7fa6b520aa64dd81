//! The few probability laws that a world is made of.
//!
//! Draws come from `ChaCha8`, whose stream is specified. `exp` and `ln` are the platform's, so
//! everything that is written out is rounded far above their last bit.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

/// Independent streams of one seed, so that a change to one law leaves the draws of others alone.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(super) enum Stream {
    Population = 1,
    Traffic = 2,
    Payments = 3,
    Outcomes = 4,
    Participants = 5,
    Fraud = 6,
    Labels = 7,
}

/// The generator of one stream.
pub(super) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64);
    rng
}

/// A log-normal law: `median * exp(log_sigma * N(0, 1))`, in the unit of its median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogNormalLaw {
    /// Half of the draws lie below.
    pub median: f64,
    /// Standard deviation of the natural logarithm.
    pub log_sigma: f64,
}

impl LogNormalLaw {
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        self.median * (self.log_sigma * normal(rng)).exp()
    }
}

pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

/// Uniform in `[0, 1)`.
pub(super) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    rng.random()
}

pub(super) fn happens(rng: &mut ChaCha8Rng, probability: f64) -> bool {
    uniform(rng) < probability
}

/// Exponential with the given mean; never infinite.
pub(super) fn exponential(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    -mean * (1.0 - uniform(rng)).ln()
}

/// Uniform among the integers `from..=to`.
pub(super) fn between(rng: &mut ChaCha8Rng, range: [u32; 2]) -> u32 {
    rng.random_range(range[0]..=range[1])
}

/// One of `count` equally likely indices.
pub(super) fn one_of(rng: &mut ChaCha8Rng, count: usize) -> usize {
    rng.random_range(0..count as u64) as usize
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn round_to(x: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (x * scale).round() / scale
}

/// P(N(0, 1) > z), to 1e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17.
pub(super) fn normal_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_tail(-z);
    }
    if z > 8.0 {
        return 0.0;
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() * series
}

/// Draws an index in proportion to its weight.
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    cumulative: Vec<f64>,
}

impl Weighted {
    /// At least one weight must be positive; the world is checked for that.
    pub(super) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let cumulative: Vec<f64> = weights
            .into_iter()
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        assert!(sum > 0.0, "weights of a checked world are positive");
        Self { cumulative }
    }

    /// Zipf's law over ranks: weight of rank r (from 0) is `(r + 1)^-exponent`.
    pub(super) fn zipf(count: usize, exponent: f64) -> Self {
        Self::new((0..count).map(|rank| ((rank + 1) as f64).powf(-exponent)))
    }

    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        self.draw_below(rng, self.cumulative.len())
    }

    /// Draws among the first `count` only.
    pub(super) fn draw_below(&self, rng: &mut ChaCha8Rng, count: usize) -> usize {
        let prefix = &self.cumulative[..count];
        let target = uniform(rng) * prefix[count - 1];
        prefix.partition_point(|sum| *sum <= target).min(count - 1)
    }
}

/// A hidden quantity that wanders around zero: an Ornstein-Uhlenbeck process, stepped lazily.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wander {
    value: f64,
    micros: i64,
}

/// How a [`Wander`] moves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanderLaw {
    /// Standard deviation in the long run.
    pub sd: f64,
    /// After this many hours half of a deviation is left.
    pub half_life_hours: f64,
}

pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(super) const MICROS_PER_HOUR: i64 = 3_600 * MICROS_PER_SECOND;
pub(super) const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

impl Wander {
    /// Starts in the long run's law.
    pub(super) fn start(law: &WanderLaw, now: i64, rng: &mut ChaCha8Rng) -> Self {
        Self { value: law.sd * normal(rng), micros: now }
    }

    /// Moves on to `now`, and returns the value there.
    pub(super) fn step(&mut self, law: &WanderLaw, now: i64, rng: &mut ChaCha8Rng) -> f64 {
        let hours = (now - self.micros).max(0) as f64 / MICROS_PER_HOUR as f64;
        let kept = (-std::f64::consts::LN_2 * hours / law.half_life_hours).exp();
        let spread = law.sd * (1.0 - kept * kept).max(0.0).sqrt();
        self.value = self.value * kept + spread * normal(rng);
        self.micros = self.micros.max(now);
        self.value
    }

    pub(super) fn value(&self) -> f64 {
        self.value
    }

    pub(super) fn push(&mut self, by: f64) {
        self.value += by;
    }
}
