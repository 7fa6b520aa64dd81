//! The preprocessing of the linear models: a piecewise-linear basis, fitted on training rows.
//!
//! A feature becomes one column a segment between neighbouring quantiles: the value clamped to the
//! segment. Together they span every continuous function that is linear between those quantiles,
//! they are bounded (outliers are winsorised), and they need two operations in a graph. A missing
//! value (NaN) becomes the column's training mean, and has a column of its own where training rows
//! had any. Interactions between features are not made here.

use ndarray::{Array2, ShapeBuilder};
use serde::{Deserialize, Serialize};

/// Rows looked at for quantiles, evenly spaced: enough for a 99.9 % quantile.
const QUANTILE_ROWS_MAX: usize = 100_000;

/// One column: `clamp(x[input], low, high)`, or `missing` where the input is NaN; then scaled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Position in the row.
    pub input: usize,
    /// Lower end of the segment.
    pub low: f32,
    /// Upper end of the segment, never below `low`.
    pub high: f32,
    /// What stands for NaN.
    pub missing: f32,
    /// Mean over the training rows.
    pub mean: f64,
    /// Standard deviation over the training rows, above 0.
    pub deviation: f64,
}

impl Column {
    fn clamp(&self, x: f32) -> f32 {
        if x.is_nan() { self.missing } else { x.max(self.low).min(self.high) }
    }

    /// The value of a row, clamped, or what stands for a missing one.
    pub fn clamped(&self, row: &[f32]) -> f32 {
        self.clamp(row[self.input])
    }

    /// The standardised value of a row.
    pub fn value(&self, row: &[f32]) -> f64 {
        (f64::from(self.clamped(row)) - self.mean) / self.deviation
    }
}

/// All columns, for rows of one width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    width: usize,
    columns: Vec<Column>,
}

impl Basis {
    /// Fits the columns on rows of `width`, with knots at `quantiles` (ascending, 0 to 1). A
    /// feature that never varies gets none.
    pub fn fit(rows: &[f32], width: usize, quantiles: &[f64]) -> Self {
        assert!(width > 0 && rows.len().is_multiple_of(width), "rows of the stated width");
        let mut columns = Vec::new();
        for input in 0..width {
            let count = rows.len() / width;
            let stride = count.div_ceil(QUANTILE_ROWS_MAX).max(1);
            let at = |row: usize| rows[row * width + input];
            let sample: Vec<f32> = (0..count).step_by(stride).map(at).collect();
            for (low, high) in segments(&sample, quantiles) {
                columns.extend(segment(rows, width, input, low, high));
            }
            columns.extend(missing_indicator(rows, width, input));
        }
        Self { width, columns }
    }

    /// How many features a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The same basis over only the features that it uses, and where those stand in the old rows.
    #[must_use]
    pub fn compact(mut self) -> (Self, Vec<usize>) {
        let mut inputs: Vec<usize> = self.columns.iter().map(|column| column.input).collect();
        inputs.sort_unstable();
        inputs.dedup();
        for column in &mut self.columns {
            column.input = inputs.partition_point(|input| *input < column.input);
        }
        self.width = inputs.len();
        (self, inputs)
    }

    /// The matrix of all columns, standardised; column after column in memory if `by_column`.
    pub fn matrix(&self, rows: &[f32], by_column: bool) -> Array2<f64> {
        let shape = (rows.len() / self.width, self.columns.len());
        let at = |(row, column): (usize, usize)| {
            self.columns[column].value(&rows[row * self.width..(row + 1) * self.width])
        };
        Array2::from_shape_fn(shape.set_f(by_column), at)
    }

    /// `intercept + weights · columns` of one row.
    pub fn linear(&self, row: &[f32], weights: &[f64], intercept: f64) -> f64 {
        let terms = self.columns.iter().zip(weights);
        intercept + terms.map(|(column, weight)| column.value(row) * weight).sum::<f64>()
    }
}

/// Neighbouring distinct quantiles; the whole range where the quantiles see only one value.
fn segments(sample: &[f32], quantiles: &[f64]) -> Vec<(f32, f32)> {
    let mut sorted: Vec<f32> = sample.iter().copied().filter(|x| x.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q.clamp(0.0, 1.0)).round() as usize];
    let mut knots: Vec<f32> = quantiles.iter().map(|q| at(*q)).collect();
    knots.dedup();
    if knots.len() < 2 {
        // Almost all rows share one value: keep the few that do not.
        knots = vec![least, most];
    }
    knots.windows(2).filter(|k| k[0] < k[1]).map(|k| (k[0], k[1])).collect()
}

fn segment(rows: &[f32], width: usize, input: usize, low: f32, high: f32) -> Option<Column> {
    let draft = Column { input, low, high, missing: f32::NAN, mean: 0.0, deviation: 1.0 };
    let known = rows.chunks_exact(width).map(|row| row[input]).filter(|x| !x.is_nan());
    let (count, sum) =
        known.fold((0_u64, 0.0_f64), |(n, s), x| (n + 1, s + f64::from(draft.clamp(x))));
    if count == 0 {
        return None;
    }
    standardised(Column { missing: (sum / count as f64) as f32, ..draft }, rows, width)
}

fn missing_indicator(rows: &[f32], width: usize, input: usize) -> Option<Column> {
    if !rows.chunks_exact(width).any(|row| row[input].is_nan()) {
        return None;
    }
    let draft = Column { input, low: 0.0, high: 0.0, missing: 1.0, mean: 0.0, deviation: 1.0 };
    standardised(draft, rows, width)
}

fn standardised(column: Column, rows: &[f32], width: usize) -> Option<Column> {
    let values = || rows.chunks_exact(width).map(|row| column.value(row));
    let count = (rows.len() / width) as f64;
    let mean = values().sum::<f64>() / count;
    let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    // Relative to the segment's own size, so that cents and crores are judged alike.
    let size = f64::from(column.high - column.low).max(f64::MIN_POSITIVE);
    let varies = variance.sqrt() > 1e-9 * size && variance > 0.0;
    varies.then(|| Column { mean, deviation: variance.sqrt(), ..column })
}
