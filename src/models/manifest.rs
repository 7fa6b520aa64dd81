//! What a bundle says of itself: `manifest.toml`, the first file of the format.
//!
//! It binds inputs by feature name, each with a fingerprint, so that adding a feature invalidates
//! nobody; and it carries the hash of every other file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Target;
use super::calibration::Calibration;
use super::conformal::Conformal;
use crate::features::Calendar;
use crate::txn::Timestamp;

/// The bundle format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// A bundle's description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the bundle format.
    pub format: u32,
    /// Name in the registry.
    pub name: String,
    /// Version under that name; 0 until the registry gives one.
    pub version: u32,
    /// When it was trained.
    pub created: Timestamp,
    /// `name/version` of the champion at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Name of the recipe.
    pub recipe: String,
    /// Seed of the training.
    pub seed: u64,
    /// Rows that the history held before `until`.
    pub rows: u64,
    /// Rows of the history that could not be read.
    pub rejects: u64,
    /// First row.
    pub window_from: Timestamp,
    /// Nothing known only later was used: the label cut-off.
    pub window_until: Timestamp,
    /// Younger rows carry no fraud label, in seconds.
    pub label_delay_s: u64,
    /// The calendar behind the calendar features.
    pub calendar: Calendar,
    /// What could not be trained, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_trained: BTreeMap<Target, String>,
    /// What was trained.
    pub targets: BTreeMap<Target, TargetManifest>,
    /// Every other file of the bundle.
    pub files: BTreeMap<String, FileEntry>,
}

/// One target of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetManifest {
    /// `logistic` or `ridge`.
    pub model: String,
    /// L2 penalty chosen.
    pub l2: f64,
    /// Labelled rows that it was fitted on.
    pub rows_fit: u64,
    /// Labelled rows that calibration and metrics come from, the newest.
    pub rows_calibration: u64,
    /// First row of that slice.
    pub calibration_from: Timestamp,
    /// Part of the graph; stated here for the reader.
    pub calibration: Calibration,
    /// For latency: the upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformal: Option<Conformal>,
    /// Measured on the calibration slice.
    pub metrics: BTreeMap<String, f64>,
    /// The graph's inputs, in its order.
    pub features: Vec<BoundFeature>,
}

/// A feature as the model knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundFeature {
    /// Its name.
    pub name: String,
    /// Fingerprint of its definition.
    pub fingerprint: String,
}

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
}
