//! A bundle: one folder with everything that a set of models needs to be served, or refused.
//!
//! | file | what |
//! |---|---|
//! | `manifest.toml` | [`Manifest`]: the format's specification |
//! | `<target>.onnx` | the model as a graph, preprocessing and calibration included |
//! | `<target>.json` | the form that linfa trained, where it did; it serves if it is there |
//! | `rules.toml` | the tuned rules, which serve when a model cannot |
//! | `golden.json` | inputs, some missing, and the outputs that the trained form gave |
//!
//! Graph and trained form must both reproduce the golden vectors. The trained form then serves,
//! because it is an order of magnitude faster; a bundle without one is served by its graph.
//!
//! A bundle is loaded whole or refused with its own message. Swapping is `serving`'s business.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::conformal::Conformal;
use super::linear::Folded;
use super::logistic::Logistic;
use super::manifest::{BoundFeature, FORMAT, FileEntry, Manifest};
use super::onnx::{MODEL_BYTES_MAX, Onnx, OnnxError};
use super::ridge::Ridge;
use super::rules::{Rules, RulesError, RulesFile, position};
use super::{PredictError, Predictor, Target};
use crate::features::{Calendar, LEG_WIDTH, TXN_WIDTH, leg_features, txn_features};
use crate::txn::Text;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.toml";
/// The tuned rules' file name.
pub const RULES: &str = "rules.toml";
/// The golden vectors' file name.
pub const GOLDEN: &str = "golden.json";

/// Largest manifest in bytes.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// How far a loaded graph may be from the trained form: absolute up to 1, relative above.
pub const GOLDEN_TOLERANCE: f64 = 1e-6;

/// Why a bundle is refused. Retrain, or restore the folder.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no manifest.
    #[error("{path}: no manifest, this is not a bundle")]
    ManifestMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The manifest is not of the expected form.
    #[error("{path}: the manifest cannot be read: {detail}")]
    ManifestMalformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The bundle was written by a newer program.
    #[error("bundle format {found} is newer than {FORMAT}, which this program reads: upgrade it")]
    FormatTooNew {
        /// The bundle's format.
        found: u32,
    },
    /// A file cannot be read.
    #[error("{path}: {detail}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A file is larger than this program reads.
    #[error("{file} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Which file.
        file: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file ends early.
    #[error("{file} is truncated: {bytes} bytes, {expected} were written")]
    Truncated {
        /// Which file.
        file: String,
        /// Its size.
        bytes: u64,
        /// The size that the manifest states.
        expected: u64,
    },
    /// A file was changed after it was written.
    #[error("{file} was changed: its SHA-256 is {found}, the manifest says {expected}")]
    Changed {
        /// Which file.
        file: String,
        /// Its hash.
        found: String,
        /// The hash that the manifest states.
        expected: String,
    },
    /// A model takes a feature that this program does not make.
    #[error("{target}: the model takes {feature:?}, a feature that this program does not make")]
    UnknownFeature {
        /// Whose model.
        target: Target,
        /// Which feature.
        feature: String,
    },
    /// A feature, or the calendar behind it, is defined otherwise than when it was trained.
    #[error(
        "{target}: feature {feature:?} has fingerprint {found} here and had {expected} when the \
         model was trained: its definition or the calendar has changed, retrain"
    )]
    Fingerprint {
        /// Whose model.
        target: Target,
        /// Which feature.
        feature: String,
        /// The fingerprint at training.
        expected: String,
        /// The fingerprint now.
        found: String,
    },
    /// The graph cannot be used: too large, of another width, not ONNX.
    #[error("{target}: {error}")]
    Graph {
        /// Whose graph.
        target: Target,
        /// What is wrong.
        error: OnnxError,
    },
    /// The trained form cannot be used.
    #[error("{target}.json: {detail}")]
    Form {
        /// Whose form.
        target: Target,
        /// What is wrong.
        detail: String,
    },
    /// The tuned rules cannot be used.
    #[error("{RULES}: {0}")]
    Rules(#[from] RulesError),
    /// The golden vectors are not of the expected form.
    #[error("{GOLDEN}: {detail}")]
    GoldenMalformed {
        /// What is wrong.
        detail: String,
    },
    /// Graph or form do not give what the model gave when it was trained.
    #[error("{target}: golden vector {row} gives {found}, the trained model gave {expected}")]
    Golden {
        /// Whose graph.
        target: Target,
        /// Which vector, from 0.
        row: usize,
        /// What the model gave when it was trained.
        expected: f64,
        /// What it gives now.
        found: f64,
    },
}

/// Inputs and outputs that a loaded graph must reproduce. `None` stands for NaN.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Golden {
    /// Rows of features, in the graph's order.
    pub inputs: Vec<Vec<Option<f32>>>,
    /// One output a row.
    pub outputs: Vec<f64>,
}

/// A bundle that has no version yet: the manifest and every other file.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its description; `version` and `files` are filled in by [`Draft::sealed`].
    pub manifest: Manifest,
    /// Name and content.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A model bound to the feature schema.
pub struct BoundModel {
    /// The trained form, or the graph.
    pub predictor: Box<dyn Predictor>,
    /// Where its inputs stand in the schema, in its order.
    pub inputs: Vec<usize>,
}

/// A loaded bundle.
pub struct Bundle {
    manifest: Manifest,
    id: Text,
    rules: Rules,
    models: BTreeMap<Target, BoundModel>,
}

impl Draft {
    /// The files as written under `version`, the manifest among them.
    pub fn sealed(&self, version: u32) -> BTreeMap<String, Vec<u8>> {
        let entry = |content: &Vec<u8>| FileEntry {
            bytes: content.len() as u64,
            sha256: hex_sha256(content),
        };
        let entries = self.files.iter().map(|(name, content)| (name.clone(), entry(content)));
        let manifest = Manifest { version, files: entries.collect(), ..self.manifest.clone() };
        let text = toml::to_string(&manifest).expect("plain tables of numbers and texts");
        let mut files = self.files.clone();
        files.insert(MANIFEST.to_owned(), text.into_bytes());
        files
    }
}

impl Bundle {
    /// Loads a folder, or says why not.
    pub fn load(dir: &Path, calendar: &Calendar) -> Result<Self, LoadError> {
        Self::load_form(dir, calendar, true)
    }

    /// The same, served by the graphs even where there are trained forms: to compare the two.
    pub fn load_graphs(dir: &Path, calendar: &Calendar) -> Result<Self, LoadError> {
        Self::load_form(dir, calendar, false)
    }

    fn load_form(dir: &Path, calendar: &Calendar, trained: bool) -> Result<Self, LoadError> {
        let manifest = read_manifest(dir)?;
        let mut files = BTreeMap::new();
        for (name, entry) in &manifest.files {
            files.insert(name.clone(), read_checked(dir, name, entry)?);
        }
        let file = |name: &str| {
            files.get(name).ok_or_else(|| LoadError::ManifestMalformed {
                path: dir.join(MANIFEST),
                detail: format!("it lists no file {name:?}"),
            })
        };
        let rules_text = String::from_utf8_lossy(file(RULES)?).into_owned();
        let rules = Rules::bind(RulesFile::parse(&rules_text)?)?;
        let golden: BTreeMap<Target, Golden> = serde_json::from_slice(file(GOLDEN)?)
            .map_err(|error| LoadError::GoldenMalformed { detail: error.to_string() })?;
        let mut models = BTreeMap::new();
        for (target, description) in &manifest.targets {
            let inputs = bind(*target, &description.features, calendar)?;
            let graph = Onnx::load(file(&format!("{target}.onnx"))?, inputs.len())
                .map_err(|error| LoadError::Graph { target: *target, error })?;
            let vectors = golden.get(target).ok_or_else(|| LoadError::GoldenMalformed {
                detail: format!("it has no vectors for {target}"),
            })?;
            check_golden(*target, &graph, vectors)?;
            let form = files.get(&format!("{target}.json")).map(|file| read_form(*target, file));
            let predictor: Box<dyn Predictor> = match form.transpose()? {
                Some(form) => {
                    check_golden(*target, &form, vectors)?;
                    if trained { Box::new(form) } else { Box::new(graph) }
                }
                None => Box::new(graph),
            };
            models.insert(*target, BoundModel { predictor, inputs });
        }
        Ok(Self::assemble(manifest, rules, models))
    }

    /// A bundle from its parts, unchecked: for models that come from elsewhere than a folder.
    pub fn assemble(
        manifest: Manifest,
        rules: Rules,
        models: BTreeMap<Target, BoundModel>,
    ) -> Self {
        let id = format!("{}/{}", manifest.name, manifest.version).into();
        Self { manifest, id, rules, models }
    }

    /// The same with another model for a target, from elsewhere than its folder.
    #[must_use]
    pub fn with_model(mut self, target: Target, model: BoundModel) -> Self {
        self.models.insert(target, model);
        self
    }

    /// `name/version`.
    pub fn id(&self) -> &Text {
        &self.id
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tuned rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether there is a model for the target.
    pub fn has(&self, target: Target) -> bool {
        self.models.contains_key(&target)
    }

    /// Probability that every vote will be yes; unchecked, may be NaN.
    pub fn predict_success(&self, features: &[f32; TXN_WIDTH]) -> Result<f64, PredictError> {
        self.predict_one(Target::Success, features)
    }

    /// Probability of fraud; unchecked, may be NaN.
    pub fn predict_fraud(&self, features: &[f32; TXN_WIDTH]) -> Result<f64, PredictError> {
        self.predict_one(Target::Fraud, features)
    }

    /// Median of a participant's prepare in milliseconds; unchecked, may be NaN.
    pub fn predict_latency_ms(&self, features: &[f32; LEG_WIDTH]) -> Result<f64, PredictError> {
        self.predict_one(Target::Latency, features)
    }

    /// Probability by the tuned rules; `None` for latency.
    pub fn predict_rules(&self, target: Target, features: &[f32; TXN_WIDTH]) -> Option<f64> {
        self.rules.list(target).map(|list| list.probability(features))
    }

    /// Predicts whole schema rows, one after another: `out.len()` of them.
    pub fn predict_rows(
        &self,
        target: Target,
        rows: &[f32],
        out: &mut [f64],
    ) -> Result<(), PredictError> {
        let model = self.models.get(&target).ok_or(PredictError::Missing { target })?;
        let width = target.schema_width();
        super::check_shape(rows.len(), out.len(), width)?;
        if model.inputs.iter().copied().eq(0..width) {
            return model.predictor.predict(rows, out);
        }
        let mut bound = Vec::with_capacity(out.len() * model.inputs.len());
        for row in rows.chunks_exact(width) {
            bound.extend(model.inputs.iter().map(|input| row[*input]));
        }
        model.predictor.predict(&bound, out)
    }

    /// Upper bound of latency = median × this; `None` without a latency model.
    pub fn conformal(&self) -> Option<Conformal> {
        self.manifest.targets.get(&Target::Latency)?.conformal
    }

    /// The multiplier alone; 1 without a latency model.
    pub fn conformal_multiplier(&self) -> f64 {
        self.conformal().map_or(1.0, |conformal| conformal.multiplier)
    }

    fn predict_one(&self, target: Target, row: &[f32]) -> Result<f64, PredictError> {
        let mut out = [f64::NAN];
        self.predict_rows(target, row, &mut out)?;
        Ok(out[0])
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Reads and checks the manifest alone, for listings.
pub fn read_manifest(dir: &Path) -> Result<Manifest, LoadError> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let path = dir.join(MANIFEST);
    if !path.is_file() {
        return Err(LoadError::ManifestMissing { path });
    }
    let malformed = |detail: String| LoadError::ManifestMalformed { path: path.clone(), detail };
    let bytes = read_limited(&path, MANIFEST, MANIFEST_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let format: FormatOnly = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    if format.format > FORMAT {
        return Err(LoadError::FormatTooNew { found: format.format });
    }
    toml::from_str(&text).map_err(|error| malformed(error.to_string()))
}

fn read_checked(dir: &Path, name: &str, entry: &FileEntry) -> Result<Vec<u8>, LoadError> {
    if name.contains(['/', '\\']) || name == ".." {
        let detail = format!("file name {name:?} leaves the folder");
        return Err(LoadError::ManifestMalformed { path: dir.join(MANIFEST), detail });
    }
    let content = read_limited(&dir.join(name), name, MODEL_BYTES_MAX as u64)?;
    let bytes = content.len() as u64;
    if bytes < entry.bytes {
        let file = name.to_owned();
        return Err(LoadError::Truncated { file, bytes, expected: entry.bytes });
    }
    let found = hex_sha256(&content);
    if found != entry.sha256 {
        let expected = entry.sha256.clone();
        return Err(LoadError::Changed { file: name.to_owned(), found, expected });
    }
    Ok(content)
}

fn read_limited(path: &Path, name: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
    let failed = |error: std::io::Error| LoadError::File {
        path: path.to_owned(),
        detail: error.to_string(),
    };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > limit {
        return Err(LoadError::TooLarge { file: name.to_owned(), bytes, limit });
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

fn bind(
    target: Target,
    features: &[BoundFeature],
    calendar: &Calendar,
) -> Result<Vec<usize>, LoadError> {
    let schema: &[_] = match target {
        Target::Success | Target::Fraud => txn_features(),
        Target::Latency => leg_features(),
    };
    let one = |bound: &BoundFeature| {
        let index = position(schema, &bound.name)
            .ok_or_else(|| LoadError::UnknownFeature { target, feature: bound.name.clone() })?;
        let found = schema[index].fingerprint(calendar);
        if found == bound.fingerprint {
            return Ok(index);
        }
        let (feature, expected) = (bound.name.clone(), bound.fingerprint.clone());
        Err(LoadError::Fingerprint { target, feature, expected, found })
    };
    features.iter().map(one).collect()
}

fn read_form(target: Target, file: &[u8]) -> Result<Folded, LoadError> {
    let refused = |detail: String| LoadError::Form { target, detail };
    let malformed = |error: serde_json::Error| refused(error.to_string());
    let folded = match target {
        Target::Success | Target::Fraud => {
            serde_json::from_slice::<Logistic>(file).map_err(malformed)?.linear().fold()
        }
        Target::Latency => {
            serde_json::from_slice::<Ridge>(file).map_err(malformed)?.linear().fold()
        }
    };
    folded.map_err(refused)
}

fn check_golden(target: Target, model: &dyn Predictor, golden: &Golden) -> Result<(), LoadError> {
    let width = model.width();
    let malformed = |detail: String| LoadError::GoldenMalformed { detail };
    if golden.inputs.is_empty() || golden.inputs.len() != golden.outputs.len() {
        let (inputs, outputs) = (golden.inputs.len(), golden.outputs.len());
        return Err(malformed(format!("{target} has {inputs} inputs and {outputs} outputs")));
    }
    for (row, (input, expected)) in golden.inputs.iter().zip(&golden.outputs).enumerate() {
        if input.len() != width {
            let detail = format!("{target}: vector {row} has {} values, not {width}", input.len());
            return Err(malformed(detail));
        }
        let values: Vec<f32> = input.iter().map(|x| x.unwrap_or(f32::NAN)).collect();
        let mut out = [f64::NAN];
        model.predict(&values, &mut out).map_err(|error| malformed(error.to_string()))?;
        let within = (out[0] - expected).abs() <= GOLDEN_TOLERANCE * expected.abs().max(1.0);
        if !within {
            return Err(LoadError::Golden { target, row, expected: *expected, found: out[0] });
        }
    }
    Ok(())
}

/// SHA-256 as lower-case hex.
pub fn hex_sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}
