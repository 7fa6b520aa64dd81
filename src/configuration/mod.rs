//! What an operator may set: one file, the environment, flags; later layers win.
//!
//! `presume.toml`, then `PRESUME_SECTION__KEY`, then flags. Every key stands in [`keys::KEYS`]
//! with its meaning, which is also the text of the example file. Everything is checked once, at
//! start; a fault names key, value, limit and where the value came from. Paths are relative to the
//! working folder. Reading the configuration opens nothing but the file.

mod check;
pub mod keys;
mod layers;
mod participants;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::txn::ParticipantName;
use crate::{coordinator, features, policy, server};

pub use check::{Fault, Faults, unusable_folders};
pub use layers::{FILE_NAME, Loaded, Overlay, Setting, Sources, load};
pub use participants::{Participant, ParticipantFault, ParticipantKind};

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How to listen.
    pub server: Server,
    /// Where everything durable stands.
    pub data: Data,
    /// Limits of what runs.
    pub coordinator: coordinator::Options,
    /// Thresholds and bounds.
    pub policy: policy::Options,
    /// Which transactions travel together.
    pub coalescing: policy::coalescing::CoalescingOptions,
    /// Which models serve.
    pub models: Models,
    /// Calendar and sizes of the features' state.
    pub features: features::Options,
    /// When outcomes are sealed into Parquet.
    pub outcome_log: OutcomeLog,
    /// Who holds the money, by name.
    pub participants: BTreeMap<String, Participant>,
}

/// The section `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key's meaning stands in `keys::KEYS`")]
pub struct Server {
    pub address: SocketAddr,
    pub allow_remote: bool,
    pub connections_max: usize,
    pub requests_max: usize,
    pub body_bytes_max: usize,
    pub operations_count_max: usize,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub shutdown_timeout_ms: u64,
    pub client_time: bool,
}

impl Default for Server {
    fn default() -> Self {
        let options = server::Options::default();
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            address: options.address,
            allow_remote: options.allow_remote,
            connections_max: options.connections_max,
            requests_max: options.requests_max,
            body_bytes_max: options.body_bytes_max,
            operations_count_max: options.operations_count_max,
            header_timeout_ms: millis(options.header_timeout),
            body_timeout_ms: millis(options.body_timeout),
            request_timeout_ms: millis(options.request_timeout),
            shutdown_timeout_ms: millis(options.shutdown_timeout),
            client_time: options.client_time,
        }
    }
}

impl Server {
    /// The server's own form.
    pub fn options(&self) -> server::Options {
        server::Options {
            address: self.address,
            allow_remote: self.allow_remote,
            connections_max: self.connections_max,
            requests_max: self.requests_max,
            body_bytes_max: self.body_bytes_max,
            operations_count_max: self.operations_count_max,
            header_timeout: Duration::from_millis(self.header_timeout_ms),
            body_timeout: Duration::from_millis(self.body_timeout_ms),
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            shutdown_timeout: Duration::from_millis(self.shutdown_timeout_ms),
            client_time: self.client_time,
        }
    }
}

/// The section `[data]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key's meaning stands in `keys::KEYS`")]
pub struct Data {
    pub dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from("presume-data") }
    }
}

/// The section `[models]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key's meaning stands in `keys::KEYS`")]
pub struct Models {
    pub dir: PathBuf,
    pub name: String,
    pub slow_ms_max: f64,
    pub cooldown_ms: u64,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("models"),
            name: "payments".to_owned(),
            slow_ms_max: 20.0,
            cooldown_ms: 1_000,
        }
    }
}

/// The section `[outcome_log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each key's meaning stands in `keys::KEYS`")]
pub struct OutcomeLog {
    pub dir: Option<PathBuf>,
    pub seal_rows_max: u64,
    pub seal_age_s_max: u64,
    pub warm_up_rows_max: u64,
}

impl Default for OutcomeLog {
    fn default() -> Self {
        Self { dir: None, seal_rows_max: 50_000, seal_age_s_max: 300, warm_up_rows_max: 200_000 }
    }
}

/// The ledgers that exist when no participant is configured.
pub const PARTICIPANTS_DEFAULT: [&str; 3] = ["core", "rail-a", "rail-b"];

impl Config {
    /// Where the decision log stands.
    pub fn decision_log_dir(&self) -> PathBuf {
        self.data.dir.join("decision-log")
    }

    /// Where sealed outcomes stand.
    pub fn outcome_log_dir(&self) -> PathBuf {
        self.outcome_log.dir.clone().unwrap_or_else(|| self.data.dir.join("outcomes"))
    }

    /// The folder of every embedded ledger; three stand ready if none is configured.
    pub fn ledger_dirs(&self) -> BTreeMap<ParticipantName, PathBuf> {
        let home = |name: &str| self.data.dir.join("ledgers").join(name);
        let named = |name: &str, dir: Option<&Path>| {
            let checked = ParticipantName::new(name).expect("names were checked when loaded");
            (checked, dir.map_or_else(|| home(name), Path::to_path_buf))
        };
        if self.participants.is_empty() {
            return PARTICIPANTS_DEFAULT.iter().map(|name| named(name, None)).collect();
        }
        let embedded = |(_, p): &(&String, &Participant)| p.kind == ParticipantKind::Embedded;
        let participants = self.participants.iter().filter(embedded);
        participants.map(|(name, p)| named(name, p.dir.as_deref())).collect()
    }
}
