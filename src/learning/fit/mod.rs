//! From a history to a bundle: success, fraud, latency, and the rules beside them.
//!
//! Everything is cut by time. The oldest part of the window warms the online state up, the newest
//! labelled part calibrates and measures, what lies between fits; the penalty is chosen on the
//! newest part of that. Rules are tuned on what the models were fitted on when the two are
//! compared, and on the whole window for the bundle. The same history, options and seed give the
//! same files. A target that cannot be trained is left out and said; nothing trained is an error.
//!
//! No file is read or written here, and no model is put in service.

mod classifier;
mod latency;
mod recipe;
mod tune;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use recipe::{Recipe, RecipeError};
pub use tune::tune;

use super::dataset::{Dataset, LeftOut, Window, build};
use crate::features::{self, leg_features, txn_features};
use crate::models::bundle::{Draft, GOLDEN, Golden, RULES};
use crate::models::manifest::{BoundFeature, FORMAT, Manifest, TargetManifest};
use crate::models::rules::BUILT_IN;
use crate::models::{Predictor, Rules, RulesError, RulesFile, Target};
use crate::txn::{HistoryRow, Timestamp};

/// How a history is trained on.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Name in the registry.
    pub name: String,
    /// Nothing known only later is used.
    pub until: Timestamp,
    /// Younger rows carry no fraud label.
    pub label_delay: Duration,
    /// Draws the golden rows; at most 2⁶³ − 1.
    pub seed: u64,
    /// Now, for the record.
    pub created: Timestamp,
    /// `name/version` of the present champion, for the record.
    pub parent: Option<String>,
    /// Rows that could not be read, for the record.
    pub rejects: u64,
    /// The recipe.
    pub recipe: Recipe,
    /// Rules to tune; the built-in ones if `None`.
    pub rules: Option<RulesFile>,
    /// Limits and calendar of the extractor.
    pub features: features::Options,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Rows pass through the extractor.
    Features,
    /// Rules are tuned and a target's model is fitted.
    Fit(Target),
    /// The bundle is put together.
    Bundle,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which stage.
    pub stage: Stage,
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
}

/// A trained bundle, not yet written.
#[derive(Debug, Clone)]
pub struct Trained {
    /// For `models::Registry::write`.
    pub draft: Draft,
    /// What the labels left out.
    pub left_out: LeftOut,
}

/// Why nothing was trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The history cannot be replayed.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// The rules name what does not exist.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The recipe is out of range.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The seed does not fit a manifest.
    #[error("seed {seed} is above {}", i64::MAX)]
    Seed {
        /// What was given.
        seed: u64,
    },
    /// No target could be trained.
    #[error("nothing could be trained: {}", reasons(.0))]
    Nothing(BTreeMap<Target, String>),
}

fn reasons(reasons: &BTreeMap<Target, String>) -> String {
    let one = |(target, reason): (&Target, &String)| format!("{target}: {reason}");
    reasons.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A model for the bundle, bound to the features that it uses.
struct Fitted {
    manifest: TargetManifest,
    /// Schema positions of the graph's inputs.
    inputs: Vec<usize>,
    graph: Vec<u8>,
    form: Vec<u8>,
    /// The trained form, over the same inputs.
    predictor: Box<dyn Predictor>,
    /// Rows of schema width from which golden vectors are drawn: positions in the data set.
    candidates: Vec<usize>,
}

/// Trains on `rows`, which are in time order.
pub fn train(
    rows: &[HistoryRow],
    options: &TrainOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Trained, TrainError> {
    options.recipe.check()?;
    if i64::try_from(options.seed).is_err() {
        return Err(TrainError::Seed { seed: options.seed });
    }
    let untuned = match &options.rules {
        Some(file) => file.clone(),
        None => RulesFile::parse(BUILT_IN)?,
    };
    Rules::bind(untuned.clone())?;
    let window = Window { until: options.until, label_delay: options.label_delay };
    let total = rows.len();
    let step = |done| progress(Progress { stage: Stage::Features, done, total });
    let dataset = build(rows, options.features.clone(), window, &mut |done| step(done))?;

    let stage = |target, done| progress(Progress { stage: Stage::Fit(target), done, total: 1 });
    let classify = |target| {
        stage(target, 0);
        let result = classifier::fit(&dataset, target, &options.recipe, &untuned);
        stage(target, 1);
        result
    };
    let (success, fraud, latency) = std::thread::scope(|scope| {
        let success = scope.spawn(|| classify(Target::Success));
        let fraud = classify(Target::Fraud);
        stage(Target::Latency, 0);
        let latency = latency::fit(&dataset, &options.recipe, &untuned.latency);
        stage(Target::Latency, 1);
        (success.join().expect("fitting returns errors and does not panic"), fraud, latency)
    });

    let mut rules = untuned;
    let mut fitted = BTreeMap::new();
    let mut not_trained = BTreeMap::new();
    for (target, result) in [(Target::Success, success), (Target::Fraud, fraud)] {
        match result {
            Ok((model, list)) => {
                fitted.insert(target, model);
                match target {
                    Target::Fraud => rules.fraud = list,
                    _ => rules.success = list,
                }
            }
            Err(reason) => drop(not_trained.insert(target, reason)),
        }
    }
    match latency {
        Ok((model, rule)) => {
            fitted.insert(Target::Latency, model);
            rules.latency = rule;
        }
        Err(reason) => drop(not_trained.insert(Target::Latency, reason)),
    }
    if fitted.is_empty() {
        return Err(TrainError::Nothing(not_trained));
    }
    progress(Progress { stage: Stage::Bundle, done: 0, total: 1 });
    let draft = draft(&dataset, options, &rules, fitted, not_trained);
    progress(Progress { stage: Stage::Bundle, done: 1, total: 1 });
    Ok(Trained { draft, left_out: dataset.left_out })
}

fn draft(
    dataset: &Dataset,
    options: &TrainOptions,
    rules: &RulesFile,
    fitted: BTreeMap<Target, Fitted>,
    not_trained: BTreeMap<Target, String>,
) -> Draft {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut files = BTreeMap::new();
    let mut golden = BTreeMap::new();
    let mut targets = BTreeMap::new();
    for (target, model) in fitted {
        let count = options.recipe.golden_rows;
        golden.insert(target, golden_vectors(dataset, target, &model, count, &mut rng));
        files.insert(format!("{target}.onnx"), model.graph);
        files.insert(format!("{target}.json"), model.form);
        let features = bound(target, &model.inputs, &options.features.calendar);
        targets.insert(target, TargetManifest { features, ..model.manifest });
    }
    files.insert(RULES.to_owned(), rules.to_toml().into_bytes());
    let golden = serde_json::to_vec(&golden).expect("numbers and their absence");
    files.insert(GOLDEN.to_owned(), golden);
    let manifest = Manifest {
        format: FORMAT,
        name: options.name.clone(),
        version: 0,
        created: options.created,
        parent: options.parent.clone(),
        recipe: options.recipe.name.clone(),
        seed: options.seed,
        rows: dataset.len() as u64,
        rejects: options.rejects,
        window_from: dataset.times.first().copied().unwrap_or_default(),
        window_until: options.until,
        label_delay_s: options.label_delay.as_secs(),
        calendar: options.features.calendar.clone(),
        not_trained,
        targets,
        files: BTreeMap::new(),
    };
    Draft { manifest, files }
}

/// Rows drawn from the newest slice, some with a missing value, and one with all missing.
fn golden_vectors(
    dataset: &Dataset,
    target: Target,
    model: &Fitted,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Golden {
    let mut golden = Golden::default();
    for number in 0..=count {
        let candidate = model.candidates[rng.random_range(0..model.candidates.len())];
        let schema_row =
            if target == Target::Latency { dataset.leg(candidate) } else { dataset.row(candidate) };
        let mut row: Vec<f32> = model.inputs.iter().map(|input| schema_row[*input]).collect();
        if number == count {
            row.fill(f32::NAN);
        } else if number % 4 == 3 {
            let place = rng.random_range(0..row.len());
            row[place] = f32::NAN;
        }
        let mut out = [f64::NAN];
        model.predictor.predict(&row, &mut out).expect("the row has the model's width");
        golden.outputs.push(out[0]);
        golden.inputs.push(row.into_iter().map(|x| (!x.is_nan()).then_some(x)).collect());
    }
    golden
}

/// Names and fingerprints of a model's inputs.
fn bound(target: Target, inputs: &[usize], calendar: &features::Calendar) -> Vec<BoundFeature> {
    let schema: &[_] = if target == Target::Latency { leg_features() } else { txn_features() };
    let one = |input: &usize| BoundFeature {
        name: schema[*input].name.to_owned(),
        fingerprint: schema[*input].fingerprint(calendar),
    };
    inputs.iter().map(one).collect()
}

/// `count` positions out of `len`, evenly spaced; all of them if there are fewer.
fn thinned(len: usize, count: usize) -> Vec<usize> {
    let count = count.min(len);
    (0..count).map(|i| i * len / count.max(1)).collect()
}
