//! The recipe: every choice of training that is not in the data, as a TOML file.

use serde::{Deserialize, Serialize};

/// The recipe that ships.
const BUILT_IN: &str = include_str!("../../../training/payments.toml");

/// A recipe that cannot be followed. Fix the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// It is not of the expected form.
    #[error("recipe: {0}")]
    Malformed(String),
    /// A number is out of its range.
    #[error("recipe: {what} is {value}, expected {expected}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// How a history becomes a bundle; see `training/payments.toml` for what each means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in the file that ships")]
pub struct Recipe {
    pub name: String,
    pub warm_up_ratio: f64,
    pub calibration_ratio: f64,
    pub validation_ratio: f64,
    pub trial_rows_max: usize,
    pub legs_max: usize,
    pub golden_rows: usize,
    pub classifier: ClassifierRecipe,
    pub latency: LatencyRecipe,
    pub rules: RulesRecipe,
}

/// For success and fraud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in the file that ships")]
pub struct ClassifierRecipe {
    pub quantiles: Vec<f64>,
    pub l2: Vec<f64>,
}

/// For latency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in the file that ships")]
pub struct LatencyRecipe {
    pub quantiles: Vec<f64>,
    pub l2: f64,
    pub alpha: f64,
}

/// For the rules.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in the file that ships")]
pub struct RulesRecipe {
    pub smoothing_rows: f64,
    pub rows_min: u64,
    pub gain_min: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self::parse(BUILT_IN).expect("a test reads the recipe that ships")
    }
}

impl Recipe {
    /// Reads and checks a recipe.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let recipe: Self =
            toml::from_str(text).map_err(|error| RecipeError::Malformed(error.to_string()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks every range.
    pub fn check(&self) -> Result<(), RecipeError> {
        let check = |what, value: f64, low: f64, high: f64, expected| {
            let fits = value >= low && value <= high;
            let error = || RecipeError::OutOfRange { what, value: value.to_string(), expected };
            fits.then_some(()).ok_or_else(error)
        };
        check("warm_up_ratio", self.warm_up_ratio, 0.0, 0.9, "0 to 0.9")?;
        check("calibration_ratio", self.calibration_ratio, 0.05, 0.5, "0.05 to 0.5")?;
        check("validation_ratio", self.validation_ratio, 0.05, 0.5, "0.05 to 0.5")?;
        check("trial_rows_max", self.trial_rows_max as f64, 1e3, 1e7, "1,000 to 10,000,000")?;
        check("legs_max", self.legs_max as f64, 1e3, 1e7, "1,000 to 10,000,000")?;
        check("golden_rows", self.golden_rows as f64, 4.0, 1e3, "4 to 1,000")?;
        check("classifier.l2", self.classifier.l2.len() as f64, 1.0, 20.0, "1 to 20 penalties")?;
        for l2 in &self.classifier.l2 {
            check("classifier.l2", *l2, 1e-9, 1e9, "above 0")?;
        }
        check("latency.l2", self.latency.l2, 1e-9, 1e9, "above 0")?;
        check("latency.alpha", self.latency.alpha, 1e-5, 0.5, "0.00001 to 0.5")?;
        check("rules.smoothing_rows", self.rules.smoothing_rows, 0.0, 1e6, "0 to 1,000,000")?;
        check("rules.gain_min", self.rules.gain_min, 0.0, 1e9, "0 or more")?;
        for quantiles in [&self.classifier.quantiles, &self.latency.quantiles] {
            let ascending = quantiles.windows(2).all(|pair| pair[0] < pair[1]);
            let within = quantiles.iter().all(|q| (0.0..=1.0).contains(q));
            if !(ascending && within && (2..=20).contains(&quantiles.len())) {
                return Err(RecipeError::OutOfRange {
                    what: "quantiles",
                    value: format!("{quantiles:?}"),
                    expected: "2 to 20 ascending numbers from 0 to 1",
                });
            }
        }
        Ok(())
    }
}
