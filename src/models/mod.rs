//! Predictors, calibration, bundles, registry, serving.
//!
//! A *model* is a trained artefact behind [`Predictor`]; a *bundle* is one folder with a model a
//! target, the names and fingerprints of the features that it takes, and vectors that prove it
//! loads as it was trained. [`Serving`] never fails: where a model is missing, fails, is slow or
//! gives nonsense, the rules serve, and it is counted.
//!
//! Nothing here decides what to do with a prediction (that is `policy`), and nothing here looks at
//! a history (that is `learning`).

pub mod basis;
pub mod bundle;
pub mod calibration;
pub mod conformal;
pub mod linear;
pub mod logistic;
pub mod manifest;
pub mod onnx;
pub mod onnx_export;
pub mod registry;
pub mod ridge;
pub mod rules;
pub mod serving;

#[cfg(test)]
mod tests;

pub use bundle::{Bundle, Draft, LoadError};
pub use manifest::Manifest;
pub use registry::{Registry, RegistryError};
pub use rules::{Rules, RulesError, RulesFile};
pub use serving::{FallbackCause, FallbackCounts, Serving};

use crate::features::{LEG_WIDTH, TXN_WIDTH};
use crate::txn::text_enum;

text_enum!(
    /// What is predicted.
    Target, "target", {
        /// Whether every vote will be yes.
        Success => "success",
        /// Whether it is fraud.
        Fraud => "fraud",
        /// How long a participant takes to vote, median, in milliseconds.
        Latency => "latency",
    }
);

impl Target {
    /// How many features the schema has for it.
    pub fn schema_width(self) -> usize {
        match self {
            Self::Success | Self::Fraud => TXN_WIDTH,
            Self::Latency => LEG_WIDTH,
        }
    }
}

/// Why a predictor gave no answer. Fall back to rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// The caller's rows do not have the predictor's width.
    #[error("{values} values are not {rows} rows of width {width}")]
    Shape {
        /// How many values came.
        values: usize,
        /// How many outputs were asked for.
        rows: usize,
        /// The predictor's width.
        width: usize,
    },
    /// The predictor broke.
    #[error("prediction failed: {detail}")]
    Failed {
        /// What it said.
        detail: String,
    },
    /// There is no such predictor.
    #[error("no model for {target}")]
    Missing {
        /// What was to be predicted.
        target: Target,
    },
}

/// Something that turns rows of features into numbers.
pub trait Predictor: Send + Sync {
    /// How many features a row has.
    fn width(&self) -> usize;

    /// Predicts `out.len()` rows, `rows` holding them one after another. Outputs may be NaN; the
    /// caller checks them.
    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError>;
}

/// Checks that `values` are `rows` rows of `width`.
fn check_shape(values: usize, rows: usize, width: usize) -> Result<(), PredictError> {
    if rows.checked_mul(width) == Some(values) {
        return Ok(());
    }
    Err(PredictError::Shape { values, rows, width })
}
