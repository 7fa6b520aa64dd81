//! Ridge regression of log latency by linfa's elastic net without its L1 part.
//!
//! Plain least squares fails on collinear columns; the basis has them. The prediction is the
//! median in milliseconds, `exp` of the line; the upper bound is conformal's business.

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_elasticnet::ElasticNet;
use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::basis::Basis;
use super::linear::{Head, Linear};
use super::logistic::FitError;
use super::{PredictError, Predictor, check_shape};

/// Passes over the columns at most; the penalty makes some dozens enough.
const STEPS_MAX: u32 = 200;

/// Relative change of the weights, and of the duality gap, at which to stop.
const TOLERANCE: f64 = 1e-6;

/// A fitted line of log latency, with its preprocessing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ridge {
    basis: Basis,
    l2: f64,
    weights: Vec<f64>,
    intercept: f64,
}

impl Ridge {
    /// Fits ln(`latencies_ms`) on columns made by `basis`, with penalty `l2` / 2 × ‖weights‖²
    /// beside the mean squared error / 2. Latencies are above 0.
    pub fn fit(
        basis: Basis,
        columns: ArrayView2<'_, f64>,
        latencies_ms: &[f64],
        l2: f64,
    ) -> Result<Self, FitError> {
        let logs: Array1<f64> = latencies_ms.iter().map(|ms| ms.ln()).collect();
        if logs.iter().any(|log| !log.is_finite()) {
            return Err(FitError { detail: "a latency is not above 0".to_owned() });
        }
        let model = ElasticNet::params()
            .l1_ratio(0.0)
            .penalty(l2)
            .max_iterations(STEPS_MAX)
            .tolerance(TOLERANCE)
            .fit(&DatasetBase::new(columns, logs))
            .map_err(|error| FitError { detail: error.to_string() })?;
        let weights = model.hyperplane().to_vec();
        Ok(Self { basis, l2, weights, intercept: model.intercept() })
    }

    /// The penalty that it was fitted with.
    pub fn l2(&self) -> f64 {
        self.l2
    }

    /// The form that is written as a graph.
    pub fn linear(&self) -> Linear<'_> {
        Linear {
            basis: &self.basis,
            weights: self.weights.clone(),
            intercept: self.intercept,
            head: Head::Exp,
        }
    }
}

impl Predictor for Ridge {
    fn width(&self) -> usize {
        self.basis.width()
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        check_shape(rows.len(), out.len(), self.width())?;
        for (row, out) in rows.chunks_exact(self.width()).zip(out) {
            *out = self.basis.linear(row, &self.weights, self.intercept).exp();
        }
        Ok(())
    }
}
