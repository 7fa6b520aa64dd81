//! Every key with its meaning: the example file, and what "unknown" is measured against.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Config;

/// One key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its section.
    pub section: &'static str,
    /// Its name within the section.
    pub name: &'static str,
    /// What it means, with unit and bounds.
    pub meaning: &'static str,
}

const fn key(section: &'static str, name: &'static str, meaning: &'static str) -> Key {
    Key { section, name, meaning }
}

/// Every key but those of participants, in the order of the example.
pub const KEYS: &[Key] = &[
    key("server", "address", "Where to listen; port 0 lets the system choose."),
    key(
        "server",
        "allow_remote",
        "Allows an address beyond loopback. Nothing is authenticated yet.",
    ),
    key("server", "connections_max", "Most connections at a time; more hear 503."),
    key("server", "requests_max", "Most requests being answered at a time; more hear 429."),
    key("server", "body_bytes_max", "Largest request body, 1024 to 16777216."),
    key("server", "operations_count_max", "Most operations in a transaction, up to 1024."),
    key(
        "server",
        "batches_max",
        "Most batches being answered at a time, up to 1024; more hear 429.",
    ),
    key("server", "batch_members_max", "Most members of a batch as an array; lines have no limit."),
    key("server", "batch_body_bytes_max", "Largest batch as an array, 1024 to 268435456."),
    key(
        "server",
        "batch_in_flight_max",
        "Members of all batches submitted at a time; at most half of coordinator.in_flight_max.",
    ),
    key("server", "header_timeout_ms", "Longest wait for a request's head, also when idle."),
    key("server", "body_timeout_ms", "Longest wait for a request's body; then 408."),
    key("server", "request_timeout_ms", "Longest wait for an answer; then 202 and a place to ask."),
    key("server", "shutdown_timeout_ms", "How long what runs may take to finish when stopping."),
    key(
        "server",
        "client_time",
        "Lets clients give `timestamp` and `system_load_ratio` (replays).",
    ),
    key(
        "data",
        "dir",
        "Decision log, ledgers and outcomes stand here, relative to the working folder.",
    ),
    key("coordinator", "in_flight_max", "Transactions without an answer yet; more are refused."),
    key(
        "coordinator",
        "unfinished_max",
        "Transactions not yet applied everywhere, answered ones too.",
    ),
    key(
        "coordinator",
        "unfinished_per_participant_max",
        "The same of those with a branch at one participant; more are refused there alone.",
    ),
    key(
        "coordinator",
        "recovery_wait_ms",
        "How long start-up waits for recovery before it goes on.",
    ),
    key(
        "coordinator",
        "claim_timeout_ms",
        "How long a participant may take at start; one that takes longer is away for now.",
    ),
    key(
        "coordinator",
        "scan_interval_ms",
        "How often participants are asked what stands prepared there.",
    ),
    key(
        "coordinator",
        "prepared_age_alert_ms",
        "How long a branch may stay prepared, or a transaction unresolved, before an error says so.",
    ),
    key("coordinator", "retry_ms_first", "First wait before a call of phase two is repeated."),
    key("coordinator", "retry_ms_max", "Longest wait before a call of phase two is repeated."),
    key("policy", "mode", "off, observe (predict and log only) or enforce."),
    key("policy", "fraud_reject_above", "Reject above this predicted fraud probability."),
    key("policy", "success_reject_below", "Reject below this predicted success probability."),
    key("policy", "rejected_share_max", "Largest share rejected for each of the two reasons."),
    key("policy", "prepare_timeout_ms_min", "Shortest prepare timeout."),
    key("policy", "prepare_timeout_ms_max", "Longest prepare timeout, up to 3600000."),
    key("policy", "prepare_timeout_ms_default", "Prepare timeout where nothing is predicted."),
    key("policy", "false_abort_ratio_target", "Share of votes that may come too late, below 0.5."),
    key("policy", "timeout_step", "Step of the adaptive timeout, 0 to 1; 0 keeps it fixed."),
    key(
        "coalescing",
        "strategy",
        "How transactions share a commit: auto, one_trip, work_first, or alone for none.",
    ),
    key("coalescing", "members_max", "Most transactions of a batch."),
    key("coalescing", "chain_max", "Most of them that touch the same, one after the other."),
    key(
        "coalescing",
        "journeys_max",
        "Most batches to one set of participants on their way to a decision; as many more may be carried out.",
    ),
    key(
        "coalescing",
        "lock_wait_ms",
        "How long a batch waits for somebody else's lock before its member waits alone.",
    ),
    key(
        "coalescing",
        "wait_ms_max",
        "How long a transaction waits for others that touch the same before it is aborted.",
    ),
    key("models", "dir", "The registry of models."),
    key("models", "name", "Which model's champion serves; rules serve if there is none."),
    key("models", "slow_ms_max", "A slower prediction counts as failed."),
    key("models", "cooldown_ms", "How long rules serve after a failed prediction."),
    key("features", "customers_max", "Most customers remembered."),
    key("features", "counterparties_max", "Most counterparties remembered."),
    key("features", "participants_max", "Most participants remembered."),
    key("features.calendar", "time_zone", "IANA name of the zone in which business is done."),
    key("features.calendar", "holidays", "Days without business, such as \"2026-01-26\"."),
    key("features.calendar", "peak_hours", "Hours of high load, each [from, to)."),
    key(
        "outcome_log",
        "dir",
        "Where sealed outcomes stand; `outcomes` in the data folder if unset.",
    ),
    key("outcome_log", "seal_rows_max", "Outcomes after which a Parquet file is sealed."),
    key(
        "outcome_log",
        "seal_age_s_max",
        "Age of the oldest outcome, in seconds, that seals a file.",
    ),
    key(
        "outcome_log",
        "warm_up_rows_max",
        "Newest outcomes from which features are rebuilt at start; 0 starts cold.",
    ),
];

/// Keys of one participant.
pub const PARTICIPANT_KEYS: &[(&str, &str)] = &[
    ("kind", "What it is: embedded (a ledger in this process), postgres, mysql or http."),
    ("dir", "embedded: its folder; `ledgers/NAME` in the data folder if unset."),
    (
        "url",
        "postgres://USER:${PASSWORD}@HOST/DATABASE or https://HOST/BASE; ${NAME} is the environment's.",
    ),
    ("secret", "http: what requests are signed with, \"${NAME}\" or \"${file:PATH}\"."),
    (
        "tls_ca",
        "File of certificates, one of which the server's must lead to; the system's if unset.",
    ),
    ("connections_max", "Most sessions or connections (postgres 16, mysql and http 32)."),
    ("connect_timeout_ms", "Longest that connecting may take (5000)."),
    ("listening_horizon_ms", "Longest that a statement or a request may take (60000)."),
    ("prepared_reserve", "postgres: prepared transactions left to others (2)."),
    (
        "allow_unsafe",
        "Unsafe settings that are accepted: of databases such as [\"fsync\"]; http: plain_http, unsigned.",
    ),
];

/// Keys of one operation of a database participant, in `[participants.NAME.operations.OPERATION]`.
pub const OPERATION_KEYS: &[(&str, &str)] = &[
    ("sql", "One statement; $name stands for a parameter."),
    ("expect_rows", "Rows it must change or find; anything else is a business decline."),
    (
        "locks",
        "What it touches, such as [\"account/$account\"] (services, too): transactions share batches.",
    ),
    (
        "batch_sql",
        "The same for many: lists and $member (PostgreSQL), or the table $batch (MySQL).",
    ),
    ("batch_check", "MySQL: which members of $batch pass, and locks their rows (FOR UPDATE)."),
];

impl Key {
    /// The key with its section, such as `server.address`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// Every set value by its full key; arrays count as one value, unset keys are left out.
pub fn flatten(config: &Config) -> BTreeMap<String, serde_json::Value> {
    let mut flat = BTreeMap::new();
    let tree = serde_json::to_value(config).expect("a configuration always serialises");
    flatten_into(&mut flat, String::new(), tree);
    flat
}

fn flatten_into(
    flat: &mut BTreeMap<String, serde_json::Value>,
    path: String,
    value: serde_json::Value,
) {
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten_into(flat, path, value);
            }
        }
        serde_json::Value::String(url) if path.rsplit('.').next() == Some("url") => {
            flat.insert(path, super::participants::without_password(&url).into());
        }
        serde_json::Value::String(secret) if path.rsplit('.').next() == Some("secret") => {
            flat.insert(path, super::participants::without_secret(&secret).into());
        }
        leaf => {
            flat.insert(path, leaf);
        }
    }
}

/// A configuration file with every key at its default, each with its meaning.
pub fn example() -> String {
    let defaults = flatten(&Config::default());
    let mut text = String::from(
        "# Presume. Every key is optional; what stands here are the defaults.\n\
         # The environment overrides the file: PRESUME_SERVER__ADDRESS for server.address.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            write!(text, "\n[{section}]\n").expect("a String takes every write");
        }
        let line = match defaults.get(&key.path()) {
            Some(value) => format!("{} = {value}", key.name),
            None => format!("# {} = \"…\"", key.name),
        };
        write!(text, "# {}\n{line}\n", key.meaning).expect("a String takes every write");
    }
    text.push_str(
        "\n# Who holds the money: a section each. If there is none, embedded ledgers named core,\n\
         # rail-a and rail-b stand ready.\n# [participants.core]\n",
    );
    for (name, meaning) in PARTICIPANT_KEYS {
        let value = if *name == "kind" { "embedded" } else { "…" };
        writeln!(text, "# {name} = \"{value}\"   # {meaning}").expect("a String takes every write");
    }
    text.push_str("# [participants.core.operations.debit]\n");
    for (name, meaning) in OPERATION_KEYS {
        writeln!(text, "# {name} = \"…\"   # {meaning}").expect("a String takes every write");
    }
    text
}
