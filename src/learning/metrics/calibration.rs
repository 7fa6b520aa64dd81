//! Whether probabilities mean what they say.

use super::Ranking;

/// Number of bins of the expected calibration error.
pub const ECE_BINS: usize = 15;

/// Probabilities are clipped to `[1e-6, 1 - 1e-6]` before their logit is taken for the
/// calibration line, so that a few saturated predictions cannot be its only lever.
pub const LOGIT_CLIP: f64 = 1e-6;

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bin {
    /// Rows in it.
    pub n: usize,
    /// Mean predicted probability.
    pub predicted: f64,
    /// Share of positive labels.
    pub observed: f64,
}

/// Bins of about equal mass by predicted probability, ascending. Rows with one probability are
/// never split, so a constant prediction has one bin.
pub fn reliability(probabilities: &[f64], labels: &[bool], bins: usize) -> Vec<Bin> {
    let ranking = Ranking::new(probabilities, labels);
    let assigned = equal_mass(&ranking, bins);
    let count = assigned.iter().max().map_or(0, |last| *last as usize + 1);
    let mut sums = vec![(0_usize, 0.0, 0.0); count];
    for (row, bin) in assigned.iter().enumerate() {
        let sum = &mut sums[*bin as usize];
        sum.0 += 1;
        sum.1 += probabilities[row];
        sum.2 += f64::from(u8::from(labels[row]));
    }
    sums.into_iter()
        .map(|(n, p, y)| Bin { n, predicted: p / n as f64, observed: y / n as f64 })
        .collect()
}

/// Expected calibration error over [`ECE_BINS`] bins of equal mass (ties together): the mean over
/// rows of the distance between a bin's predicted and observed share. `None` without rows.
///
/// It is biased upwards by noise of about `sqrt(p (1 - p) bins / n)`.
pub fn ece(probabilities: &[f64], labels: &[bool]) -> Option<f64> {
    if labels.is_empty() {
        return None;
    }
    let bins = reliability(probabilities, labels, ECE_BINS);
    let sum: f64 = bins.iter().map(|bin| bin.n as f64 * (bin.predicted - bin.observed).abs()).sum();
    Some(sum / labels.len() as f64)
}

/// The bin of every row, bins numbered by ascending probability.
fn equal_mass(ranking: &Ranking, bins: usize) -> Vec<u32> {
    let rows: Vec<(usize, f64)> = ranking.sorted().rev().map(|row| (row.0, row.1)).collect();
    let mut assigned = vec![0; rows.len()];
    let mut bin = 0_u32;
    for (i, (row, score)) in rows.iter().enumerate() {
        let due = i * bins / rows.len() > bin as usize;
        if due && i > 0 && rows[i - 1].1 < *score {
            bin += 1;
        }
        assigned[*row] = bin;
    }
    assigned
}

/// A logistic calibration line: `logit P(y) = intercept + slope * logit(p)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// 0 when calibrated.
    pub intercept: f64,
    /// 1 when calibrated; below 1 the predictions are too extreme, above 1 too timid.
    pub slope: f64,
}

impl Line {
    /// The probability that the line makes of another.
    pub fn apply(self, probability: f64) -> f64 {
        1.0 / (1.0 + (-(self.intercept + self.slope * logit(probability))).exp())
    }
}

/// Newton steps at most; a line that exists is found in about six.
const NEWTON_STEPS_MAX: usize = 50;

/// Fits the calibration line by maximum likelihood. `None` for one class, for a constant
/// prediction, and where the classes are separated, so that no finite line exists.
pub fn calibration_line(probabilities: &[f64], labels: &[bool]) -> Option<Line> {
    assert_eq!(probabilities.len(), labels.len(), "one label a prediction");
    if labels.iter().all(|y| *y) || !labels.iter().any(|y| *y) {
        return None;
    }
    let logits: Vec<f64> = probabilities.iter().map(|p| logit(*p)).collect();
    let mut line = Line { intercept: 0.0, slope: 1.0 };
    let mut likelihood = log_likelihood(&logits, labels, line);
    for _ in 0..NEWTON_STEPS_MAX {
        let mut score = Score::default();
        for (x, y) in logits.iter().zip(labels) {
            score.add(&Score::of(line, *x, *y));
        }
        let step = score.newton_step()?;
        // A full step can overshoot far from the optimum: halve it until it gains.
        let mut scale = 1.0;
        let improved = loop {
            let tried = Line {
                intercept: line.intercept + scale * step.intercept,
                slope: line.slope + scale * step.slope,
            };
            let gained = log_likelihood(&logits, labels, tried);
            if gained >= likelihood - 1e-12 * likelihood.abs() {
                line = tried;
                likelihood = gained;
                break true;
            }
            scale /= 2.0;
            if scale < 1e-6 {
                break false;
            }
        };
        if line.slope.abs() > 1e3 {
            return None;
        }
        if !improved || (step.intercept.abs() < 1e-9 && step.slope.abs() < 1e-9) {
            return Some(line);
        }
    }
    None
}

/// Log-odds of a probability, clipped by [`LOGIT_CLIP`].
pub(super) fn logit(probability: f64) -> f64 {
    let p = probability.clamp(LOGIT_CLIP, 1.0 - LOGIT_CLIP);
    (p / (1.0 - p)).ln()
}

fn log_likelihood(logits: &[f64], labels: &[bool], line: Line) -> f64 {
    let of = |(x, y): (&f64, &bool)| {
        let z = line.intercept + line.slope * x;
        let margin = if *y { z } else { -z };
        // ln(sigmoid(margin)), stable on both sides.
        if margin > 0.0 { -(-margin).exp().ln_1p() } else { margin - margin.exp().ln_1p() }
    };
    logits.iter().zip(labels).map(of).sum()
}

/// Gradient and curvature of the log likelihood: sums over rows, so they resample by cluster.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Score {
    gradient: [f64; 2],
    curvature: [f64; 3],
}

impl Score {
    /// One row's part.
    pub(super) fn of(line: Line, x: f64, label: bool) -> Self {
        let p = 1.0 / (1.0 + (-(line.intercept + line.slope * x)).exp());
        let residual = f64::from(u8::from(label)) - p;
        let w = p * (1.0 - p);
        Self { gradient: [residual, residual * x], curvature: [w, w * x, w * x * x] }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.add_scaled(other, 1.0);
    }

    pub(super) fn add_scaled(&mut self, other: &Self, scale: f64) {
        for (a, b) in self.gradient.iter_mut().zip(other.gradient) {
            *a += scale * b;
        }
        for (a, b) in self.curvature.iter_mut().zip(other.curvature) {
            *a += scale * b;
        }
    }

    /// The Newton step, `None` where the curvature is flat (a constant prediction).
    pub(super) fn newton_step(&self) -> Option<Line> {
        let [a, b, c] = self.curvature;
        let determinant = a * c - b * b;
        if determinant.is_nan() || determinant <= 1e-9 * (a * c).max(1e-12) {
            return None;
        }
        let [g, h] = self.gradient;
        Some(Line {
            intercept: (c * g - b * h) / determinant,
            slope: (a * h - b * g) / determinant,
        })
    }
}
