//! How sessions are opened: address, TLS, and settings by which nothing waits for ever.
//!
//! TLS is used where the URL says `require_ssl=true`, where certificates are given, and beyond this
//! machine unless it says `require_ssl=false`.

use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::Options;
use crate::participants::ConfigurationError;
use crate::participants::sql::OPERATIONS_MAX;
use crate::participants::tls;

/// Reads URL and certificates; the URL's password is never part of an error.
pub(super) fn opts(options: &Options) -> Result<Opts, ConfigurationError> {
    let refused = |detail: String| ConfigurationError::Url { detail };
    let opts = Opts::from_url(&options.url).map_err(|error| refused(error.to_string()))?;
    if opts.db_name().is_none() {
        return Err(refused("it names no database".to_owned()));
    }
    let named = names_tls(&options.url).map_err(refused)?;
    let asked = named.then_some(opts.ssl_opts().is_some());
    let this_machine = opts.socket().is_some() || tls::is_this_machine(opts.ip_or_hostname());
    let ca = options.tls_ca.as_deref();
    let ssl = if tls::wanted(asked, ca, this_machine).map_err(refused)? {
        let trusted = tls::certificates(ca).map_err(|detail| ConfigurationError::Tls { detail })?;
        let trusted = trusted.iter().map(|certificate| certificate.to_vec().into()).collect();
        // None that the driver brings, nor anything else that the URL would make of it.
        Some(SslOpts::default().with_root_certs(trusted).with_disable_built_in_roots(true))
    } else {
        None
    };
    let statements = options.operations.len().min(OPERATIONS_MAX);
    let builder = OptsBuilder::from_opts(opts)
        // An update that finds its row and changes nothing has met it.
        .client_found_rows(true)
        // Where the URL says, and nowhere else.
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .stmt_cache_size(statements.max(1))
        .ssl_opts(ssl);
    Ok(builder.into())
}

/// Whether the URL, which the driver could read, says anything of TLS.
fn names_tls(url: &str) -> Result<bool, String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut named = false;
    for name in query.split('&').filter_map(|pair| pair.split('=').next()) {
        match name {
            "require_ssl" => named = true,
            // The driver leaves them out without a word where TLS is not required.
            "verify_ca" | "verify_identity" | "built_in_roots" => {
                return Err(format!(
                    "{name} cannot be chosen: over TLS the certificate and its name are always \
                     checked, against tls_ca or else the system's"
                ));
            }
            _ => {}
        }
    }
    Ok(named)
}

/// What every session is told first. Beyond the horizon nobody listens: waits and statements end,
/// and a session that idles in a transaction does, too. What is prepared outlives its session.
pub(super) fn settings(options: &Options) -> String {
    let horizon = options.listening_horizon;
    let (lock_s, horizon_ms) = (lock_wait_s(options), horizon.as_millis());
    let limits = usual_limits(options);
    let idle_s = horizon.as_secs().max(1);
    // Only MariaDB reads what stands in `/*M!`, and only MySQL 8 what stands in `/*!80000`. Its
    // limit of statements is on reads alone.
    format!(
        "{limits}; SET SESSION autocommit = 1, lock_wait_timeout = {lock_s}, \
         group_concat_max_len = 1048576, \
         sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION') \
         /*M!, idle_transaction_timeout = {idle_s} */ \
         /*!80000 , max_execution_time = {horizon_ms} */; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
    )
}

/// How long statements wait for locks, and how long they take.
pub(super) fn usual_limits(options: &Options) -> String {
    limits(lock_wait_s(options), options.listening_horizon)
}

/// A statement that says how long those after it wait for locks and, to MariaDB, take.
pub(super) fn limits(lock_s: u64, statement: Duration) -> String {
    let statement_s = statement.as_secs_f64();
    format!(
        "SET SESSION innodb_lock_wait_timeout = {lock_s} \
         /*M!, max_statement_time = {statement_s} */"
    )
}

/// How long a statement waits for a lock. A little less than it may take, so that a wait is called
/// by its name; the server counts whole seconds.
pub(super) fn lock_wait_s(options: &Options) -> u64 {
    (options.listening_horizon.as_secs() * 9 / 10).max(1)
}
