//! Connections: one pool a participant, each session set up so that nothing waits for ever.
//!
//! TLS is used where the URL says `sslmode=require` (or `verify-full`, which is the same here),
//! where certificates are given, and beyond this machine unless it says `sslmode=disable`.

use std::net::IpAddr;
use std::time::Duration;

use deadpool_postgres::{
    Client, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, QueueMode, RecyclingMethod,
    Runtime,
};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::{Options, schema};
use crate::participants::{ConfigurationError, tls};
use crate::txn::{Epoch, LogId};

/// What our sessions are called, up to the epoch.
pub(super) fn application_prefix(log: LogId) -> String {
    format!("presume:{log}:")
}

/// What the sessions of one epoch are called; at most 63 bytes, which the server keeps.
pub(super) fn application_name(log: LogId, epoch: Epoch) -> String {
    format!("{}{}", application_prefix(log), epoch.0)
}

/// The way to the server.
pub(super) struct Route {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// Reads URL and certificates; the URL's password is never part of an error.
pub(super) fn route(options: &Options) -> Result<Route, ConfigurationError> {
    let refused = |detail: String| ConfigurationError::Url { detail };
    let (url, asked) = without_sslmode(&options.url).map_err(refused)?;
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        refused(cause.unwrap_or_else(|| "it cannot be read".to_owned()))
    })?;
    if config.get_dbname().is_none() {
        return Err(refused("it names no database".to_owned()));
    }
    let asked = asked.or(match config.get_ssl_mode() {
        SslMode::Disable => Some(false),
        SslMode::Require => Some(true),
        _ => None,
    });
    let ca = options.tls_ca.as_deref();
    let tls = if tls::wanted(asked, ca, is_this_machine(&config)).map_err(refused)? {
        config.ssl_mode(SslMode::Require);
        let trusted = tls::certificates(ca).and_then(tls::client_config);
        Some(MakeRustlsConnect::new(trusted.map_err(|detail| ConfigurationError::Tls { detail })?))
    } else {
        config.ssl_mode(SslMode::Disable);
        None
    };
    limit(&mut config, options);
    Ok(Route { config, tls })
}

/// The URL without its `sslmode`, and what that asks for.
fn without_sslmode(url: &str) -> Result<(String, Option<bool>), String> {
    // Where the driver looks for the end of the password.
    let query = url.find('@').unwrap_or_default();
    let Some(query) = url[query..].find('?').map(|at| query + at) else {
        return Ok((url.to_owned(), None));
    };
    let (mut kept, mut asked) = (Vec::new(), None);
    for pair in url[query + 1..].split('&') {
        asked = match pair.split_once('=') {
            Some(("sslmode", "disable")) => Some(false),
            Some(("sslmode", "require" | "verify-full")) => Some(true),
            Some(("sslmode", other)) => {
                return Err(format!(
                    "sslmode={other}, and it can be disable, require or verify-full: TLS with the \
                     certificate and its name checked, or none"
                ));
            }
            Some(("sslrootcert", _)) => return Err("tls_ca stands for sslrootcert".to_owned()),
            _ => {
                kept.push(pair);
                continue;
            }
        };
    }
    Ok((format!("{}?{}", &url[..query], kept.join("&")), asked))
}

/// Whether every host that may be tried is this machine.
fn is_this_machine(config: &Config) -> bool {
    let local = |host: &Host| match host {
        Host::Tcp(name) => tls::is_this_machine(name),
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(local) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// Bounds of every session.
fn limit(config: &mut Config, options: &Options) {
    config.connect_timeout(options.connect_timeout);
    config.keepalives_idle(Duration::from_secs(30));
    config.tcp_user_timeout(options.listening_horizon);
    config.application_name("presume");
    let horizon = options.listening_horizon.as_millis();
    // A little less, so that a wait for a lock is called by its name.
    let lock_timeout = horizon * 9 / 10;
    // Beyond the horizon nobody listens. A batch whose client died while it waits for a lock would
    // else be carried out later (`client_connection_check_interval`).
    let mut settings = format!(
        "-c lock_timeout={lock_timeout} -c statement_timeout={horizon} \
         -c idle_in_transaction_session_timeout={horizon} \
         -c client_connection_check_interval=500 -c synchronous_commit=on \
         -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off"
    );
    if let Some(own) = config.get_options() {
        settings = format!("{own} {settings}");
    }
    config.options(&settings);
}

/// Who may open sessions: a process, as long as it holds an epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) log: LogId,
    pub(super) epoch: Epoch,
    pub(super) process: Uuid,
}

impl Holder {
    /// Looks, once the server knows the session by its name, whether it holds the epoch still. A
    /// claim first stores the epoch and then ends whoever has a name: so no session of an older
    /// epoch survives it or comes after it, and what it would commit or roll back stays with the
    /// newer one.
    async fn admit(self, client: &tokio_postgres::Client) -> Result<(), HookError> {
        let epoch = i64::try_from(self.epoch.0).expect("counted from 1, one a start");
        let held = client.query_opt(schema::HOLDS, &[&self.log.0, &epoch, &self.process]).await;
        match held {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(HookError::message(format!(
                "the database knows another holder of this decision log than epoch {} of this \
                 process",
                self.epoch.0
            ))),
            Err(error) => Err(HookError::Backend(error)),
        }
    }
}

/// A pool whose sessions carry `name`; with a holder, only as long as it holds its epoch.
pub(super) fn pool(
    options: &Options,
    route: &Route,
    name: &str,
    holder: Option<Holder>,
) -> Result<Pool, ConfigurationError> {
    let mut config = route.config.clone();
    config.application_name(name);
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match route.tls.clone() {
        None => Manager::from_config(config, tokio_postgres::NoTls, manager_config),
        Some(tls) => Manager::from_config(config, tls, manager_config),
    };
    let timeout = Some(options.connect_timeout);
    let built = Pool::builder(manager)
        // The session that was used last is warm, at the server, too.
        .queue_mode(QueueMode::Lifo)
        .max_size(options.connections_max)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.listening_horizon))
        .create_timeout(timeout)
        .recycle_timeout(timeout)
        .post_create(Hook::async_fn(move |client, _| {
            Box::pin(async move {
                match holder {
                    Some(holder) => holder.admit(client).await,
                    None => Ok(()),
                }
            })
        }))
        .pre_recycle(Hook::sync_fn(|client, _| {
            if client.is_closed() {
                return Err(HookError::message("the session has ended"));
            }
            Ok(())
        }))
        .build();
    built.map_err(|error| ConfigurationError::Pool { detail: error.to_string() })
}

/// A session, or why there is none, in one line.
pub(super) async fn session(pool: &Pool) -> Result<Client, String> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            super::errors::text(&error)
        }
        PoolError::PostCreateHook(HookError::Message(why)) => why.into_owned(),
        PoolError::Timeout(_) => {
            let status = pool.status();
            format!("none of {} sessions became free in time", status.max_size)
        }
        other => other.to_string(),
    })
}
