//! Laying file, environment and flags over the defaults, and remembering who set what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;

use super::Config;
use super::check::{Fault, Faults, check};
use super::keys::{KEYS, OPERATION_KEYS, PARTICIPANT_KEYS, flatten};

/// The file that is read from the working folder if none is named.
pub const FILE_NAME: &str = "presume.toml";

/// Variables with the prefix that are not keys of the configuration.
const ENV_RESERVED: &[&str] = &["PRESUME_CONFIG", "PRESUME_LOG"];

/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One value from the environment or a flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay {
    /// The full key, such as `server.address`.
    pub key: String,
    /// The value as text; read like a TOML value, as text if it is none.
    pub value: String,
    /// Who set it, for messages: `flag --address`.
    pub origin: String,
}

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file; it must exist. If `None`, [`FILE_NAME`] is read if it exists.
    pub file: Option<PathBuf>,
    /// The environment's variables, of which those with the prefix are read.
    pub env: Vec<(String, String)>,
    /// What flags say.
    pub flags: Vec<Overlay>,
}

impl Sources {
    /// The process's environment, and the file named on the command line or by `PRESUME_CONFIG`.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<Overlay>) -> Self {
        let env: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("PRESUME_"))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        let named = env.iter().find(|(name, _)| name == "PRESUME_CONFIG");
        let file = file.or_else(|| named.map(|(_, path)| PathBuf::from(path)));
        Self { file, env, flags }
    }
}

/// One value in force.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The full key.
    pub key: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Who set it: `default`, a file, a variable, a flag.
    pub origin: String,
}

/// A configuration and who set what.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every value in force, by key.
    pub settings: Vec<Setting>,
}

/// Reads all layers and checks everything. All faults found are told, not only the first.
pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
    let layers = layers(sources).map_err(|fault| Faults(vec![fault]))?;
    let mut faults = unknown_keys(&layers);
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let all = Figment::from(Serialized::defaults(Config::default())).merge(layers.clone());
    let config: Config = all.extract().map_err(|error| Faults(vec![mistyped(&error)]))?;
    let settings = settings(&config, &layers);
    faults.extend(check(&config, &settings));
    if faults.is_empty() { Ok(Loaded { config, settings }) } else { Err(Faults(faults)) }
}

fn layers(sources: &Sources) -> Result<Figment, Fault> {
    let mut figment = Figment::new();
    if let Some(file) = file(sources)? {
        figment = figment.merge(file);
    }
    for (name, value) in &sources.env {
        let Some(rest) = name.strip_prefix("PRESUME_") else { continue };
        if ENV_RESERVED.contains(&name.as_str()) {
            continue;
        }
        figment = figment.merge(Overlay {
            key: rest.to_ascii_lowercase().replace("__", "."),
            value: value.clone(),
            origin: format!("environment {name}"),
        });
    }
    for flag in &sources.flags {
        figment = figment.merge(flag.clone());
    }
    Ok(figment)
}

/// What a file says.
struct File {
    path: PathBuf,
    values: Dict,
}

/// The file, if any: named and there, or in its usual place.
fn file(sources: &Sources) -> Result<Option<File>, Fault> {
    let (path, named) = match &sources.file {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(FILE_NAME), false),
    };
    let fault = |problem: String| Fault {
        key: "(file)".into(),
        value: Some(path.display().to_string()),
        problem,
        origin: if named { "given by name" } else { "working folder" }.into(),
    };
    match std::fs::metadata(&path) {
        Ok(found) if !found.is_file() => Err(fault("is not a file".into())),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            Err(fault(format!("has {} bytes, the limit is {FILE_BYTES_MAX}", found.len())))
        }
        Ok(_) => {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| fault(format!("cannot be read: {error}")))?;
            match toml::from_str(&text) {
                Ok(values) => Ok(Some(File { path, values })),
                Err(error) => Err(fault(format!("is no valid TOML: {error}"))),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(None),
        Err(error) => Err(fault(format!("cannot be read: {error}"))),
    }
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Provider for Overlay {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let Ok(value) = self.value.parse::<Value>();
        let nested = figment::util::nest(&self.key, value);
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

fn unknown_keys(layers: &Figment) -> Vec<Fault> {
    let tree: Dict = match layers.extract() {
        Ok(tree) => tree,
        Err(error) => return vec![mistyped(&error)],
    };
    let mut leaves = Vec::new();
    collect_leaves("", &tree, &mut leaves);
    leaves.into_iter().filter_map(|path| unknown_key(&path, layers)).collect()
}

fn collect_leaves(prefix: &str, tree: &Dict, leaves: &mut Vec<String>) {
    for (name, value) in tree {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value.as_dict() {
            Some(inner) if !is_key(&path) => collect_leaves(&path, inner, leaves),
            _ => leaves.push(path),
        }
    }
}

fn is_key(path: &str) -> bool {
    let within = path.strip_prefix("participants.").and_then(|rest| rest.split_once('.'));
    match within.map(|(_, key)| key) {
        Some(key) => match key.strip_prefix("operations.").and_then(|op| op.rsplit_once('.')) {
            Some((_, key)) => OPERATION_KEYS.iter().any(|(known, _)| *known == key),
            None => PARTICIPANT_KEYS.iter().any(|(known, _)| *known == key),
        },
        None => KEYS.iter().any(|key| key.path() == path),
    }
}

fn unknown_key(path: &str, layers: &Figment) -> Option<Fault> {
    if is_key(path) {
        return None;
    }
    let sections = KEYS.iter().any(|key| key.path().starts_with(&format!("{path}.")));
    let problem = if sections || path == "participants" {
        "is a section, not a value".to_owned()
    } else {
        match closest(path) {
            Some(known) => format!("is not a known key; did you mean {known}?"),
            None => "is not a known key; `presume config show --example` lists all".to_owned(),
        }
    };
    Some(Fault { key: path.to_owned(), value: None, problem, origin: origin(layers, path) })
}

/// The known key most like `path`, if any is like it at all.
fn closest(path: &str) -> Option<String> {
    let participant = path.strip_prefix("participants.").and_then(|rest| rest.split_once('.'));
    let candidates: Vec<String> = match participant {
        Some((name, _)) => {
            PARTICIPANT_KEYS.iter().map(|(key, _)| format!("participants.{name}.{key}")).collect()
        }
        None => KEYS.iter().map(super::keys::Key::path).collect(),
    };
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    candidates
        .into_iter()
        .map(|known| {
            let whole = strsim::normalized_damerau_levenshtein(&known, path);
            let name = strsim::normalized_damerau_levenshtein(&last(&known), &last(path));
            (whole.max(name), known)
        })
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn mistyped(error: &figment::Error) -> Fault {
    let origin = error.metadata.as_ref().map_or_else(|| "unknown".to_owned(), describe);
    let key = if error.path.is_empty() { "(file)".to_owned() } else { error.path.join(".") };
    // The kind alone: the rest of figment's message repeats key and origin.
    Fault { key, value: None, problem: error.kind.to_string().trim().to_owned(), origin }
}

fn settings(config: &Config, layers: &Figment) -> Vec<Setting> {
    flatten(config)
        .into_iter()
        .map(|(key, value)| {
            let origin = origin(layers, &key);
            Setting { key, value, origin }
        })
        .collect()
}

fn origin(layers: &Figment, key: &str) -> String {
    layers.find_metadata(key).map_or_else(|| "default".to_owned(), describe)
}

fn describe(metadata: &Metadata) -> String {
    match metadata.source.as_ref().and_then(figment::Source::file_path) {
        Some(path) => format!("file {}", path.display()),
        None => metadata.name.to_string(),
    }
}

/// The section of every origin that is not the default, for a short listing.
impl Loaded {
    /// Values that somebody set.
    pub fn set(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter().filter(|setting| setting.origin != "default")
    }
}

/// Where the value of `key` came from.
pub(super) fn origin_of<'a>(settings: &'a BTreeMap<&str, &Setting>, key: &str) -> &'a str {
    settings.get(key).map_or("default", |setting| setting.origin.as_str())
}
