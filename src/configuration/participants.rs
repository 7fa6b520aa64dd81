//! The sections `[participants.NAME]`: who holds the money, and what may be asked of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::participants::http::{self, Http};
use crate::participants::mysql::{self, Mysql};
use crate::participants::postgres::{self, Postgres};
use crate::participants::{ConfigurationError, OperationSql, Remote};
use crate::txn::OperationName;

/// What a participant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipantKind {
    /// A ledger in a folder of its own, in this process.
    Embedded,
    /// A `PostgreSQL` database.
    Postgres,
    /// A `MySQL` or `MariaDB` database.
    Mysql,
    /// A service over HTTP.
    Http,
}

/// A section `[participants.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each key's meaning stands in `keys::PARTICIPANT_KEYS`")]
pub struct Participant {
    pub kind: ParticipantKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening_horizon_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared_reserve: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_unsafe: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<String, OperationSql>,
}

/// What is wrong with a participant: the key within its section, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantFault {
    /// Such as `url` or `operations.debit.sql`.
    pub key: String,
    /// Why it cannot be used.
    pub problem: String,
}

/// Most sessions of one participant.
const CONNECTIONS_MAX: usize = 1_000;
/// Longest of its time limits, in milliseconds: a day.
const MS_MAX: u64 = 86_400_000;

impl Participant {
    /// An embedded ledger in its usual folder.
    pub fn embedded() -> Self {
        Self {
            kind: ParticipantKind::Embedded,
            dir: None,
            url: None,
            secret: None,
            tls_ca: None,
            connections_max: None,
            connect_timeout_ms: None,
            listening_horizon_ms: None,
            prepared_reserve: None,
            allow_unsafe: Vec::new(),
            operations: BTreeMap::new(),
        }
    }

    /// Keys that are set and mean nothing for its kind.
    pub(super) fn misplaced(&self) -> Vec<ParticipantFault> {
        use ParticipantKind::{Embedded, Http, Mysql, Postgres};
        const REMOTE: (&[ParticipantKind], &str) =
            (&[Postgres, Mysql, Http], "databases and services");
        let keys = [
            ("dir", self.dir.is_some(), (&[Embedded][..], "embedded ledgers")),
            ("url", self.url.is_some(), REMOTE),
            ("secret", self.secret.is_some(), (&[Http], "kind http")),
            ("tls_ca", self.tls_ca.is_some(), REMOTE),
            ("connections_max", self.connections_max.is_some(), REMOTE),
            ("connect_timeout_ms", self.connect_timeout_ms.is_some(), REMOTE),
            ("listening_horizon_ms", self.listening_horizon_ms.is_some(), REMOTE),
            ("prepared_reserve", self.prepared_reserve.is_some(), (&[Postgres], "kind postgres")),
            ("allow_unsafe", !self.allow_unsafe.is_empty(), REMOTE),
            ("operations", !self.operations.is_empty(), REMOTE),
        ];
        let misplaced = |(key, set, (kinds, of)): (&str, bool, (&[ParticipantKind], &str))| {
            let wrong = set && !kinds.contains(&self.kind);
            wrong.then(|| fault(key, format!("is for {of} only")))
        };
        keys.into_iter().filter_map(misplaced).collect()
    }

    /// The database or service that it names, `None` for an embedded ledger; `secret` gives the
    /// value of an environment variable. Connects to nothing.
    pub fn remote(
        &self,
        secret: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Remote>, ParticipantFault> {
        if self.kind == ParticipantKind::Embedded {
            return Ok(None);
        }
        let url = self.url.as_deref().ok_or_else(|| fault("url", "is needed".to_owned()))?;
        let url = expand(url, secret).map_err(|problem| fault("url", problem))?;
        if self.connections_max.is_some_and(|count| !(1..=CONNECTIONS_MAX).contains(&count)) {
            let problem = format!("must be between 1 and {CONNECTIONS_MAX}");
            return Err(fault("connections_max", problem));
        }
        Ok(Some(match self.kind {
            ParticipantKind::Mysql => Remote::Mysql(self.mysql(url)?),
            ParticipantKind::Http => Remote::Http(self.http(url, secret)?),
            _ => Remote::Postgres(self.postgres(url)?),
        }))
    }

    fn postgres(&self, url: String) -> Result<Postgres, ParticipantFault> {
        let mut options = postgres::Options::new(url, self.named_operations()?);
        options.tls_ca.clone_from(&self.tls_ca);
        options.allow_unsafe.clone_from(&self.allow_unsafe);
        options.connections_max = self.connections_max.unwrap_or(options.connections_max);
        self.lengths(&mut options.connect_timeout, &mut options.listening_horizon)?;
        options.prepared_reserve = self.prepared_reserve.unwrap_or(options.prepared_reserve);
        Postgres::new(options).map_err(refused)
    }

    fn mysql(&self, url: String) -> Result<Mysql, ParticipantFault> {
        let mut options = mysql::Options::new(url, self.named_operations()?);
        options.tls_ca.clone_from(&self.tls_ca);
        options.allow_unsafe.clone_from(&self.allow_unsafe);
        options.connections_max = self.connections_max.unwrap_or(options.connections_max);
        self.lengths(&mut options.connect_timeout, &mut options.listening_horizon)?;
        Mysql::new(options).map_err(refused)
    }

    fn http(
        &self,
        url: String,
        secret: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Http, ParticipantFault> {
        let mut options = http::Options::new(url);
        let signed = self.secret.as_deref().map(|text| expand(text, secret)).transpose();
        options.secret = signed.map_err(|problem| fault("secret", problem))?;
        options.tls_ca.clone_from(&self.tls_ca);
        options.allow_unsafe.clone_from(&self.allow_unsafe);
        options.connections_max = self.connections_max.unwrap_or(options.connections_max);
        self.lengths(&mut options.connect_timeout, &mut options.listening_horizon)?;
        for (name, operation) in self.named_operations()? {
            let plain =
                OperationSql { locks: operation.locks.clone(), ..OperationSql::new("", None) };
            let Some(locks) = operation.locks.clone().filter(|_| operation == plain) else {
                let problem = "a service has its own: only `locks` stands here".to_owned();
                return Err(fault(&format!("operations.{name}"), problem));
            };
            options.locks.insert(name, locks);
        }
        Http::new(&options).map_err(|error| match error {
            ConfigurationError::Operation { operation, detail } => {
                fault(&format!("operations.{operation}.locks"), detail)
            }
            error => refused(error),
        })
    }

    fn lengths(
        &self,
        connect: &mut Duration,
        horizon: &mut Duration,
    ) -> Result<(), ParticipantFault> {
        for (key, value, length) in [
            ("connect_timeout_ms", self.connect_timeout_ms, connect),
            ("listening_horizon_ms", self.listening_horizon_ms, horizon),
        ] {
            match value {
                None => {}
                Some(ms @ 1..=MS_MAX) => *length = Duration::from_millis(ms),
                Some(_) => return Err(fault(key, format!("must be between 1 and {MS_MAX}"))),
            }
        }
        Ok(())
    }

    fn named_operations(&self) -> Result<BTreeMap<OperationName, OperationSql>, ParticipantFault> {
        let named = |(name, operation): (&String, &OperationSql)| {
            let wrong = |error: crate::txn::IdError| {
                fault(&format!("operations.{name}"), error.to_string())
            };
            Ok((OperationName::new(name).map_err(wrong)?, operation.clone()))
        };
        self.operations.iter().map(named).collect()
    }
}

/// The key that a refused configuration is to be mended at.
fn refused(error: ConfigurationError) -> ParticipantFault {
    let text = error.to_string();
    match error {
        ConfigurationError::Operation { operation, detail } => {
            fault(&format!("operations.{operation}.sql"), detail)
        }
        ConfigurationError::Tls { detail } => fault("tls_ca", detail),
        ConfigurationError::Secret { detail } => fault("secret", detail),
        ConfigurationError::Connections { .. } => fault("connections_max", text),
        ConfigurationError::Url { detail } => fault("url", detail),
        ConfigurationError::Pool { .. } => fault("url", text),
    }
}

fn fault(key: &str, problem: String) -> ParticipantFault {
    ParticipantFault { key: key.to_owned(), problem }
}

/// Puts the environment's values in the place of each `${NAME}`, and the first line of a file in
/// that of `${file:PATH}`. The error never holds a value.
fn expand(text: &str, secret: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("holds a ${ that is not closed")?;
        expanded.push_str(before);
        match name.strip_prefix("file:") {
            Some(path) => {
                let content = std::fs::read_to_string(path);
                let content = content.map_err(|error| format!("file {path}: {error}"))?;
                expanded.push_str(content.lines().next().unwrap_or_default());
            }
            None => {
                let value = secret(name);
                let unset = || format!("environment variable {name} is not set");
                expanded.push_str(&value.ok_or_else(unset)?);
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Nothing of a secret, unless it is only a reference to one.
pub(super) fn without_secret(secret: &str) -> &str {
    let reference = secret.starts_with("${") && secret.find('}') == Some(secret.len() - 1);
    if reference { secret } else { "…" }
}

/// A URL without its password.
pub(super) fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user, rest) = rest.rsplit_once('@')?;
        let (user, password) = user.split_once(':')?;
        // A reference to a secret is none.
        let shown = if password.starts_with("${") { password } else { "…" };
        Some(format!("{scheme}://{user}:{shown}@{rest}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn secrets_come_from_the_environment_or_a_file_and_are_not_shown() {
        let secret = |name: &str| (name == "PW").then(|| "s3cret".to_owned());
        assert_eq!(expand("a:${PW}@b", &secret).unwrap(), "a:s3cret@b");
        assert_eq!(
            expand("a:${OTHER}@b", &secret).unwrap_err(),
            "environment variable OTHER is not set"
        );
        assert_eq!(expand("a:${PW", &secret).unwrap_err(), "holds a ${ that is not closed");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let text = format!("a:${{file:{}}}@b", file.path().display());
        assert_eq!(expand(&text, &secret).unwrap(), "a:from-file@b");
        assert_eq!(without_password("postgres://u:pw@h:1/d"), "postgres://u:…@h:1/d");
        assert_eq!(without_password("postgres://u:${PW}@h/d"), "postgres://u:${PW}@h/d");
        assert_eq!(without_password("postgres://u@h/d"), "postgres://u@h/d");
        assert_eq!(without_secret("${SECRET}"), "${SECRET}");
        assert_eq!(without_secret("${file:/run/secret}"), "${file:/run/secret}");
        assert_eq!(without_secret("plain"), "…");
        assert_eq!(without_secret("${SECRET}and-more"), "…");
    }
}
