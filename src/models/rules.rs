//! Rules: the baseline that every report shows, and the fallback that always answers.
//!
//! For success and fraud a *decision list*: the first rule whose conditions hold gives its
//! probability, and where none does, `otherwise`. For latency the participant's own moving
//! average, or a static bound where it has none. A missing value (NaN) fires no rule. Thresholds
//! and order are tuned by `learning::fit`, from the quantiles that stand beside each condition.

use serde::{Deserialize, Serialize};

use super::{PredictError, Predictor, Target, check_shape};
use crate::features::{Feature, LEG_WIDTH, TXN_WIDTH, leg_features, txn_features};

/// The built-in rules: defaults by judgement, nothing measured.
pub const BUILT_IN: &str = include_str!("../../training/rules.toml");

/// Most rules a target, and most conditions a rule.
pub const RULES_MAX: usize = 64;

/// Why a rules file is refused. Fix the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// It is not of the expected form.
    #[error("rules: {detail}")]
    Malformed {
        /// Where and what.
        detail: String,
    },
    /// A condition names no feature of the schema.
    #[error("rules for {target}: rule {rule:?} names the unknown feature {feature:?}")]
    UnknownFeature {
        /// Whose list.
        target: Target,
        /// Which rule.
        rule: String,
        /// What it names.
        feature: String,
    },
    /// A number is out of its range.
    #[error("rules for {target}: rule {rule:?}: {detail}")]
    OutOfRange {
        /// Whose list.
        target: Target,
        /// Which rule.
        rule: String,
        /// The value and the limit.
        detail: String,
    },
}

/// A rules file, built in or tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesFile {
    /// For success.
    pub success: List,
    /// For fraud.
    pub fraud: List,
    /// For latency.
    pub latency: LatencyRule,
}

/// A decision list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Probability where no rule fires.
    pub otherwise: f64,
    /// Training rows that no rule took; 0 if untuned.
    #[serde(default)]
    pub rows: u64,
    /// The first that fires answers.
    #[serde(rename = "rule", default)]
    pub rules: Vec<Rule>,
}

/// One rule: all its conditions hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For people.
    pub name: String,
    /// What it answers.
    pub probability: f64,
    /// Training rows that it took; 0 if untuned.
    #[serde(default)]
    pub rows: u64,
    /// At least one.
    pub when: Vec<Condition>,
}

/// One predicate on one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A transaction feature's name.
    pub feature: String,
    /// Which side of the threshold.
    pub is: Side,
    /// The threshold, in the feature's unit.
    pub threshold: f32,
    /// Quantiles of the feature to try when tuning; none keeps the threshold.
    #[serde(default)]
    pub quantiles: Vec<f64>,
}

/// Which side of a threshold fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// value ≥ threshold.
    AtLeast,
    /// value ≤ threshold.
    AtMost,
}

impl Side {
    /// Whether the value lies on this side; never for NaN.
    pub fn holds(self, value: f32, threshold: f32) -> bool {
        match self {
            Self::AtLeast => value >= threshold,
            Self::AtMost => value <= threshold,
        }
    }
}

/// The participant's own moving average of log latency, and what to do without one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyRule {
    /// A leg feature: moving average of ln(milliseconds).
    pub feature: String,
    /// Upper bound = average × this, never below `floor_ms`.
    pub multiplier: f64,
    /// The lowest upper bound, in milliseconds.
    pub floor_ms: f64,
    /// Median and upper bound for a participant never seen, in milliseconds.
    pub static_ms: f64,
}

/// Rules bound to the feature schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    file: RulesFile,
    success: DecisionList,
    fraud: DecisionList,
    latency_input: usize,
}

/// A decision list bound to the transaction features.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionList {
    otherwise: f64,
    rules: Vec<BoundRule>,
}

#[derive(Debug, Clone, PartialEq)]
struct BoundRule {
    probability: f64,
    when: Vec<(usize, Side, f32)>,
}

impl RulesFile {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        toml::from_str(text).map_err(|error| RulesError::Malformed { detail: error.to_string() })
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("plain tables of numbers and texts")
    }

    /// The list of a target that has one.
    pub fn list(&self, target: Target) -> Option<&List> {
        match target {
            Target::Success => Some(&self.success),
            Target::Fraud => Some(&self.fraud),
            Target::Latency => None,
        }
    }
}

impl Rules {
    /// The built-in rules.
    pub fn built_in() -> Self {
        let file = RulesFile::parse(BUILT_IN).expect("a test reads the built-in rules");
        Self::bind(file).expect("a test binds the built-in rules")
    }

    /// Checks a file and binds it to the schema.
    pub fn bind(file: RulesFile) -> Result<Self, RulesError> {
        for (name, value) in [
            ("multiplier", file.latency.multiplier),
            ("floor_ms", file.latency.floor_ms),
            ("static_ms", file.latency.static_ms),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(RulesError::OutOfRange {
                    target: Target::Latency,
                    rule: name.to_owned(),
                    detail: format!("{value} is not above 0"),
                });
            }
        }
        Ok(Self {
            success: DecisionList::bind(Target::Success, &file.success)?,
            fraud: DecisionList::bind(Target::Fraud, &file.fraud)?,
            latency_input: position(leg_features(), &file.latency.feature).ok_or_else(|| {
                RulesError::UnknownFeature {
                    target: Target::Latency,
                    rule: "feature".to_owned(),
                    feature: file.latency.feature.clone(),
                }
            })?,
            file,
        })
    }

    /// The file.
    pub fn file(&self) -> &RulesFile {
        &self.file
    }

    /// The list of success or fraud; `None` for latency.
    pub fn list(&self, target: Target) -> Option<&DecisionList> {
        match target {
            Target::Success => Some(&self.success),
            Target::Fraud => Some(&self.fraud),
            Target::Latency => None,
        }
    }

    /// Probability of success.
    pub fn success(&self, features: &[f32; TXN_WIDTH]) -> f64 {
        self.success.probability(features)
    }

    /// Probability of fraud.
    pub fn fraud(&self, features: &[f32; TXN_WIDTH]) -> f64 {
        self.fraud.probability(features)
    }

    /// Median and upper bound of a participant's prepare, in milliseconds.
    pub fn latency_ms(&self, features: &[f32; LEG_WIDTH]) -> (f64, f64) {
        let rule = &self.file.latency;
        match self.average_ms(features) {
            Some(median) => (median, (median * rule.multiplier).max(rule.floor_ms)),
            None => (rule.static_ms, rule.static_ms),
        }
    }

    /// The participant's moving average in milliseconds, if it has one.
    pub fn average_ms(&self, features: &[f32; LEG_WIDTH]) -> Option<f64> {
        let median = f64::from(features[self.latency_input]).exp();
        (median.is_finite() && median > 0.0).then_some(median)
    }
}

impl DecisionList {
    fn bind(target: Target, list: &List) -> Result<Self, RulesError> {
        let out_of_range = |rule: &str, detail: String| RulesError::OutOfRange {
            target,
            rule: rule.to_owned(),
            detail,
        };
        let probability = |rule: &str, p: f64| {
            let fits = (0.0..=1.0).contains(&p);
            fits.then_some(p).ok_or_else(|| out_of_range(rule, format!("{p} is no probability")))
        };
        if list.rules.len() > RULES_MAX {
            let detail = format!("{} rules, the limit is {RULES_MAX}", list.rules.len());
            return Err(out_of_range("all", detail));
        }
        let mut rules = Vec::with_capacity(list.rules.len());
        for rule in &list.rules {
            if rule.when.is_empty() || rule.when.len() > RULES_MAX {
                let detail = format!("{} conditions, 1 to {RULES_MAX} are read", rule.when.len());
                return Err(out_of_range(&rule.name, detail));
            }
            let mut when = Vec::with_capacity(rule.when.len());
            for condition in &rule.when {
                if !condition.threshold.is_finite() {
                    let detail = format!("threshold {} is not finite", condition.threshold);
                    return Err(out_of_range(&rule.name, detail));
                }
                let input = position(txn_features(), &condition.feature).ok_or_else(|| {
                    RulesError::UnknownFeature {
                        target,
                        rule: rule.name.clone(),
                        feature: condition.feature.clone(),
                    }
                })?;
                when.push((input, condition.is, condition.threshold));
            }
            rules.push(BoundRule { probability: probability(&rule.name, rule.probability)?, when });
        }
        Ok(Self { otherwise: probability("otherwise", list.otherwise)?, rules })
    }

    /// The first rule's probability that fires, else `otherwise`.
    pub fn probability(&self, row: &[f32]) -> f64 {
        let fires = |rule: &&BoundRule| {
            rule.when.iter().all(|(input, side, threshold)| side.holds(row[*input], *threshold))
        };
        self.rules.iter().find(fires).map_or(self.otherwise, |rule| rule.probability)
    }
}

impl Predictor for DecisionList {
    fn width(&self) -> usize {
        TXN_WIDTH
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        check_shape(rows.len(), out.len(), TXN_WIDTH)?;
        for (row, out) in rows.chunks_exact(TXN_WIDTH).zip(out) {
            *out = self.probability(row);
        }
        Ok(())
    }
}

/// Where a feature stands in a schema.
pub fn position(features: &[Feature], name: &str) -> Option<usize> {
    features.iter().position(|feature| feature.name == name)
}
