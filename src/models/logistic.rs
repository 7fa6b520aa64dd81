//! Logistic regression by linfa: success and fraud.
//!
//! `linfa` calls the *majority* class positive, so which probability comes out is read from
//! `labels()`. Its gradient tolerance is absolute on a summed loss, hence 1e-6 times the rows.
//! No class weights: they ruin calibration at fixed thresholds.

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_logistic::{FittedLogisticRegression, LogisticRegression};
use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::basis::Basis;
use super::calibration::Calibration;
use super::linear::{Head, Linear};
use super::{PredictError, Predictor, check_shape};

/// L-BFGS steps at most; standardised columns need some dozens.
const STEPS_MAX: u64 = 300;

/// Gradient tolerance a row.
const TOLERANCE_PER_ROW: f64 = 1e-6;

/// Why nothing could be fitted.
#[derive(Debug, thiserror::Error)]
#[error("logistic regression: {detail}")]
pub struct FitError {
    /// What linfa said.
    pub detail: String,
}

/// A fitted and calibrated logistic regression, with its preprocessing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    basis: Basis,
    l2: f64,
    model: FittedLogisticRegression<f64, bool>,
    calibration: Calibration,
}

/// The labels and the standardised columns of one fit.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// One row a label, the basis' columns. Column after column in memory fits several times
    /// faster: the gradient walks along columns.
    pub columns: ArrayView2<'a, f64>,
    /// Whether the event happened.
    pub labels: &'a [bool],
}

impl Logistic {
    /// Fits on columns made by `basis`, with penalty `l2` / 2 × ‖weights‖² beside the summed log
    /// loss. `start` warms the search up: weights, then the intercept. Uncalibrated.
    pub fn fit(
        basis: Basis,
        sample: Sample<'_>,
        l2: f64,
        start: Option<&Self>,
    ) -> Result<Self, FitError> {
        let count = sample.labels.len();
        let mut parameters = LogisticRegression::default()
            .alpha(l2)
            .max_iterations(STEPS_MAX)
            .gradient_tolerance((TOLERANCE_PER_ROW * count as f64).max(1e-9));
        if let Some(start) = start {
            parameters = parameters.initial_params(start.parameters_as_linfa(sample.labels));
        }
        let targets = Array1::from(sample.labels.to_vec());
        let model = parameters
            .fit(&DatasetBase::new(sample.columns, targets))
            .map_err(|error| FitError { detail: error.to_string() })?;
        Ok(Self { basis, l2, model, calibration: Calibration::Identity })
    }

    /// Weights and intercept in linfa's orientation for a sample with these labels.
    fn parameters_as_linfa(&self, labels: &[bool]) -> Array1<f64> {
        let (weights, intercept) = self.weights();
        let events = labels.iter().filter(|label| **label).count();
        // On a tie linfa takes the label that it met first.
        let positive = match (2 * events).cmp(&labels.len()) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => labels[0],
        };
        let sign = if positive { 1.0 } else { -1.0 };
        weights.iter().copied().chain([intercept]).map(|x| sign * x).collect()
    }

    /// The same model with another calibration.
    #[must_use]
    pub fn calibrated(self, calibration: Calibration) -> Self {
        Self { calibration, ..self }
    }

    /// The penalty that it was fitted with.
    pub fn l2(&self) -> f64 {
        self.l2
    }

    /// The preprocessing.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Weights of the standardised columns and intercept, towards the event, uncalibrated.
    pub fn weights(&self) -> (Vec<f64>, f64) {
        let sign = if self.model.labels().pos.class { 1.0 } else { -1.0 };
        (
            self.model.params().iter().map(|weight| sign * weight).collect(),
            sign * self.model.intercept(),
        )
    }

    /// Probability of the event for each row of columns, uncalibrated.
    pub fn probabilities(&self, columns: ArrayView2<'_, f64>) -> Vec<f64> {
        let majority = self.model.predict_probabilities(&columns);
        let event_is_majority = self.model.labels().pos.class;
        majority.iter().map(|p| if event_is_majority { *p } else { 1.0 - p }).collect()
    }

    /// The form that is written as a graph, with the calibration folded in.
    pub fn linear(&self) -> Linear<'_> {
        let (weights, intercept) = self.weights();
        let (slope, shift) = self.calibration.as_line();
        Linear {
            basis: &self.basis,
            weights: weights.into_iter().map(|weight| slope * weight).collect(),
            intercept: slope * intercept + shift,
            head: Head::Sigmoid,
        }
    }
}

impl Predictor for Logistic {
    fn width(&self) -> usize {
        self.basis.width()
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        check_shape(rows.len(), out.len(), self.width())?;
        let columns = self.basis.matrix(rows, false);
        for (out, p) in out.iter_mut().zip(self.probabilities(columns.view())) {
            *out = self.calibration.apply(p);
        }
        Ok(())
    }
}
