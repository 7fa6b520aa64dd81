//! 95 % intervals by resampling whole clusters of rows.
//!
//! Payments of one day share outages and load, payments of one customer share habits and fraud
//! rings; rows are therefore never resampled one by one. [`Dependence`] resamples days and, apart
//! from that, customers, and reports the *wider* envelope of the two intervals.
//!
//! Each interval is Hesterberg's expanded percentile interval (*What teachers should know about
//! the bootstrap*, 2015): the percentiles are moved out as far as Student's t with `clusters - 1`
//! degrees of freedom lies beyond the normal, because a plain percentile interval of a dozen days
//! is too narrow. Same seed, same interval.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::calibration::{Line, Score, logit};

/// A 95 % interval: lower and upper end.
pub type Interval = [f64; 2];

/// With fewer clusters than this there is no interval.
pub const CLUSTERS_MIN: usize = 5;

/// The share of resamples in which a measure may be undefined before its interval is.
const UNDEFINED_MAX_RATIO: f64 = 0.05;

/// Which cluster every row belongs to.
#[derive(Debug, Clone, Default)]
pub struct Clusters {
    ids: Vec<u32>,
    count: usize,
}

impl Clusters {
    /// Numbers the distinct keys in order of appearance.
    pub fn new<K: std::hash::Hash + Eq>(keys: impl IntoIterator<Item = K>) -> Self {
        let mut numbers = std::collections::HashMap::new();
        let ids = keys
            .into_iter()
            .map(|key| {
                let next = numbers.len() as u32;
                *numbers.entry(key).or_insert(next)
            })
            .collect();
        Self { ids, count: numbers.len() }
    }

    /// How many distinct clusters.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The cluster of each row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Sums a per-row vector of measures by cluster.
    pub fn sums<const K: usize>(&self, row: impl Fn(usize) -> [f64; K]) -> Vec<[f64; K]> {
        let mut sums = vec![[0.0; K]; self.count];
        for (i, id) in self.ids.iter().enumerate() {
            for (sum, value) in sums[*id as usize].iter_mut().zip(row(i)) {
                *sum += value;
            }
        }
        sums
    }

    /// Per-cluster sums of the calibration line's score.
    fn scores(&self, line: Line, probabilities: &[f64], labels: &[bool]) -> Vec<Score> {
        let mut sums = vec![Score::default(); self.count];
        for (i, id) in self.ids.iter().enumerate() {
            sums[*id as usize].add(&Score::of(line, logit(probabilities[i]), labels[i]));
        }
        sums
    }

    /// Intervals of `K` measures from `resamples` draws of clusters with replacement.
    ///
    /// `measure` sees how often each cluster was drawn.
    pub fn intervals<const K: usize>(
        &self,
        resamples: usize,
        seed: u64,
        mut measure: impl FnMut(&[f64]) -> [Option<f64>; K],
    ) -> [Option<Interval>; K] {
        if self.count < CLUSTERS_MIN {
            return [None; K];
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn: [Vec<f64>; K] = std::array::from_fn(|_| Vec::with_capacity(resamples));
        let mut weights = vec![0.0; self.count];
        for _ in 0..resamples {
            weights.fill(0.0);
            for _ in 0..self.count {
                weights[random.random_range(0..self.count)] += 1.0;
            }
            for (values, value) in drawn.iter_mut().zip(measure(&weights)) {
                values.extend(value.filter(|x| x.is_finite()));
            }
        }
        let tail = expanded_tail(self.count);
        let needed = (resamples as f64 * (1.0 - UNDEFINED_MAX_RATIO)).ceil() as usize;
        drawn.map(|mut values| {
            if values.len() < needed.max(2) {
                return None;
            }
            values.sort_by(f64::total_cmp);
            Some([quantile(&values, tail), quantile(&values, 1.0 - tail)])
        })
    }
}

/// The two ways in which rows of a test window depend on each other.
#[derive(Debug, Clone, Default)]
pub struct Dependence {
    /// By calendar day.
    pub days: Clusters,
    /// By customer.
    pub customers: Clusters,
}

impl Dependence {
    /// The wider envelope of the day and the customer interval of each measure; with too few days
    /// or too few customers, of the other alone.
    ///
    /// `prepare` sees the clusters once and returns the measure of a draw.
    pub fn intervals<const K: usize, M>(
        &self,
        resamples: usize,
        seed: u64,
        prepare: impl Fn(&Clusters) -> M,
    ) -> [Option<Interval>; K]
    where
        M: FnMut(&[f64]) -> [Option<f64>; K],
    {
        let of = |clusters: &Clusters| clusters.intervals(resamples, seed, prepare(clusters));
        let (days, customers) = (of(&self.days), of(&self.customers));
        std::array::from_fn(|k| match (days[k], customers[k]) {
            (Some(a), Some(b)) => Some([a[0].min(b[0]), a[1].max(b[1])]),
            (a, b) => a.or(b),
        })
    }

    /// The interval of a calibration slope by one-step resampling: each draw moves the fitted line
    /// by one Newton step, so a draw costs one pass over the clusters and none over the rows.
    pub fn slope_interval(
        &self,
        resamples: usize,
        seed: u64,
        line: Line,
        probabilities: &[f64],
        labels: &[bool],
    ) -> Option<Interval> {
        let [interval] = self.intervals(resamples, seed, |clusters| {
            let scores = clusters.scores(line, probabilities, labels);
            move |weights: &[f64]| {
                let mut total = Score::default();
                for (score, weight) in scores.iter().zip(weights) {
                    total.add_scaled(score, *weight);
                }
                [total.newton_step().map(|step| line.slope + step.slope)]
            }
        });
        interval
    }
}

/// Weighted total of per-cluster sums: the building block of measures that are ratios of sums.
pub fn weighted<const K: usize>(sums: &[[f64; K]], weights: &[f64]) -> [f64; K] {
    let mut total = [0.0; K];
    for (sum, weight) in sums.iter().zip(weights) {
        if *weight > 0.0 {
            for (t, s) in total.iter_mut().zip(sum) {
                *t += weight * s;
            }
        }
    }
    total
}

/// The lower tail at which percentiles are read, for a 95 % interval from so many clusters.
fn expanded_tail(clusters: usize) -> f64 {
    let n = clusters as f64;
    normal_cdf(-(n / (n - 1.0)).sqrt() * student_t_975(n - 1.0))
}

/// The 97.5 % quantile of Student's t, by the Cornish-Fisher series (Abramowitz and Stegun
/// 26.7.5); within 0.01 from four degrees of freedom up.
fn student_t_975(freedom: f64) -> f64 {
    let z: f64 = 1.959_963_985;
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    z + (z3 + z) / (4.0 * freedom)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * freedom.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * freedom.powi(3))
}

/// The standard normal distribution function, within 1e-7 (Abramowitz and Stegun 26.2.17).
fn normal_cdf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let upper = density * series;
    if x >= 0.0 { 1.0 - upper } else { upper }
}

/// Linear interpolation between sorted values.
fn quantile(sorted: &[f64], level: f64) -> f64 {
    let position = level.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}
