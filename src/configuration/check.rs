//! What a configuration must hold to, beyond the types of its values.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Config;
use crate::features;
use crate::models::{Registry, RegistryError};

use super::layers::{Setting, origin_of};
use super::participants::ParticipantFault;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The full key.
    pub key: String,
    /// Its value, if that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong, with the limit.
    pub problem: String,
    /// Who set it.
    pub origin: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, " ({}): {}", self.origin, self.problem)
    }
}

/// Everything that is wrong, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Longest participant name: it becomes a folder.
const NAME_BYTES_MAX: usize = 64;

/// Most participants.
const PARTICIPANTS_MAX: usize = 256;

struct Checker<'a> {
    settings: BTreeMap<&'a str, &'a Setting>,
    faults: Vec<Fault>,
}

pub(super) fn check(config: &Config, settings: &[Setting]) -> Vec<Fault> {
    let settings = settings.iter().map(|setting| (setting.key.as_str(), setting)).collect();
    let mut checker = Checker { settings, faults: Vec::new() };
    checker.sections(config);
    checker.numbers(config);
    checker.participants(config);
    checker.faults
}

impl Checker<'_> {
    fn fault(&mut self, key: &str, problem: impl Into<String>) {
        let value = self.settings.get(key).map(|setting| setting.value.to_string());
        let origin = origin_of(&self.settings, key).to_owned();
        self.faults.push(Fault { key: key.to_owned(), value, problem: problem.into(), origin });
    }

    /// Sections that check themselves.
    fn sections(&mut self, config: &Config) {
        use crate::server::OptionsError;
        match config.server.options().validate() {
            Ok(()) => {}
            Err(error @ OptionsError::Remote { .. }) => {
                self.fault("server.address", error.to_string());
            }
            Err(OptionsError::OutOfRange { name, min, max, .. }) => {
                self.fault(&format!("server.{name}"), format!("must be between {min} and {max}"));
            }
        }
        if let Err(error) = config.policy.check() {
            self.fault(&format!("policy.{}", error.key), format!("must be {}", error.bounds));
        }
        // Their messages begin with the key.
        for checked in [config.coordinator.check(), config.coalescing.check()] {
            let Err(error) = checked else { continue };
            let key = error.split_whitespace().next().unwrap_or_default().to_owned();
            self.fault(&key, error);
        }
    }

    fn numbers(&mut self, config: &Config) {
        let models = &config.models;
        if !(models.slow_ms_max.is_finite() && models.slow_ms_max > 0.0) {
            self.fault("models.slow_ms_max", "must be above 0");
        }
        if let Err(error @ RegistryError::Name { .. }) =
            Registry::open(&models.dir).versions(&models.name)
        {
            self.fault("models.name", error.to_string());
        }
        match features::State::new(config.features.clone()) {
            Ok(_) => {}
            Err(features::Error::Limit { option, max, .. }) => {
                self.fault(&format!("features.{option}"), format!("must be between 1 and {max}"));
            }
            Err(error @ features::Error::TimeZone { .. }) => {
                self.fault("features.calendar.time_zone", error.to_string());
            }
            Err(error) => self.fault("features.calendar.peak_hours", error.to_string()),
        }
        let outcome_log = &config.outcome_log;
        for (key, value, min, max) in [
            ("outcome_log.seal_rows_max", outcome_log.seal_rows_max, 1, 10_000_000),
            ("outcome_log.seal_age_s_max", outcome_log.seal_age_s_max, 1, 31 * 86_400),
            ("outcome_log.warm_up_rows_max", outcome_log.warm_up_rows_max, 0, 10_000_000),
        ] {
            if !(min..=max).contains(&value) {
                self.fault(key, format!("must be between {min} and {max}"));
            }
        }
    }

    fn participants(&mut self, config: &Config) {
        if config.participants.len() > PARTICIPANTS_MAX {
            let problem = format!("must be at most {PARTICIPANTS_MAX} sections");
            self.fault("participants", problem);
        }
        for name in config.participants.keys().filter(|name| !is_plain_name(name)) {
            self.fault(&format!("participants.{name}"), NAME_RULE);
        }
        if !self.faults.is_empty() {
            return;
        }
        for (name, participant) in &config.participants {
            let mut faults = participant.misplaced();
            if faults.is_empty() {
                // Secrets are the running process's: here only their references are looked at.
                let any = |_: &str| Some("secret".to_owned());
                let refers =
                    |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains("${"));
                let unseen = |fault: &ParticipantFault| match fault.key.as_str() {
                    "url" => refers(&participant.url),
                    // Whether one is needed depends on the host.
                    "secret" => refers(&participant.secret) || refers(&participant.url),
                    _ => false,
                };
                let fault = participant.remote(&any).err();
                faults.extend(fault.filter(|fault| !unseen(fault)));
            }
            for fault in faults {
                self.fault(&format!("participants.{name}.{}", fault.key), fault.problem);
            }
        }
        let mut taken: BTreeMap<PathBuf, String> = BTreeMap::new();
        for (name, dir) in config.ledger_dirs() {
            let key = format!("participants.{name}.dir");
            if let Some(other) = taken.insert(dir.clone(), name.to_string()) {
                let problem = format!("folder {} is {other}'s already", dir.display());
                self.fault(&key, problem);
            }
        }
    }
}

const NAME_RULE: &str =
    "a name must have 1 to 64 letters, digits, `-` or `_`, and begin with a letter or digit";

fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

/// Folders that cannot be used as the configuration says. It tries to write where data will be
/// written, and leaves nothing behind.
pub fn unusable_folders(config: &Config, settings: &[Setting]) -> Vec<Fault> {
    let settings: BTreeMap<&str, &Setting> =
        settings.iter().map(|setting| (setting.key.as_str(), setting)).collect();
    let mut wanted = vec![
        ("data.dir".to_owned(), config.data.dir.clone()),
        ("outcome_log.dir".to_owned(), config.outcome_log_dir()),
    ];
    let ledgers = config.ledger_dirs().into_iter();
    wanted.extend(ledgers.map(|(name, dir)| (format!("participants.{name}.dir"), dir)));
    let mut faults = Vec::new();
    for (key, dir) in wanted {
        if let Err(problem) = writable(&dir) {
            let origin = origin_of(&settings, &key).to_owned();
            faults.push(Fault { key, value: Some(dir.display().to_string()), problem, origin });
        }
    }
    let models = &config.models.dir;
    if models.exists() && !models.is_dir() {
        faults.push(Fault {
            key: "models.dir".into(),
            value: Some(models.display().to_string()),
            problem: "is not a folder".into(),
            origin: origin_of(&settings, "models.dir").to_owned(),
        });
    }
    faults
}

/// Whether `dir`, or the nearest folder above it that exists, can be written to.
fn writable(dir: &Path) -> Result<(), String> {
    let absolute = std::path::absolute(dir).map_err(|error| error.to_string())?;
    let nearest = absolute.ancestors().find(|path| path.exists());
    let Some(nearest) = nearest else {
        return Err("no folder above it exists".into());
    };
    if !nearest.is_dir() {
        return Err(format!("{} is not a folder", nearest.display()));
    }
    let probe = nearest.join(format!(".presume-check-{}", std::process::id()));
    std::fs::File::create_new(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .map_err(|error| format!("{} cannot be written to: {error}", nearest.display()))
}
