//! How sessions are opened: address, TLS, and settings by which nothing waits for ever.
//!
//! TLS is used where the URL says `require_ssl=true` or certificates are given.

use std::path::Path;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Options;
use crate::participants::ConfigurationError;
use crate::participants::sql::OPERATIONS_MAX;

/// Reads the URL; its password is never part of an error.
pub(super) fn opts(options: &Options) -> Result<Opts, ConfigurationError> {
    let refused = |detail: String| ConfigurationError::Url { detail };
    let opts = Opts::from_url(&options.url).map_err(|error| refused(error.to_string()))?;
    if opts.db_name().is_none() {
        return Err(refused("it names no database".to_owned()));
    }
    let tls = match (opts.ssl_opts(), &options.tls_ca) {
        (None, None) => None,
        (asked, ca) => Some(tls(asked.cloned().unwrap_or_default(), ca.as_deref())?),
    };
    let statements = options.operations.len().min(OPERATIONS_MAX);
    let builder = OptsBuilder::from_opts(opts)
        // An update that finds its row and changes nothing has met it.
        .client_found_rows(true)
        // Where the URL says, and nowhere else.
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .stmt_cache_size(statements.max(1))
        .ssl_opts(tls);
    Ok(builder.into())
}

/// Checks the server's certificate against those of `ca`, else the system's.
fn tls(asked: SslOpts, ca: Option<&Path>) -> Result<SslOpts, ConfigurationError> {
    let refused = |detail: String| ConfigurationError::Tls { detail };
    let certificates: Vec<CertificateDer<'static>> = match ca {
        Some(file) => {
            let broken = |error| refused(format!("{}: {error}", file.display()));
            let read = CertificateDer::pem_file_iter(file).map_err(broken)?;
            read.collect::<Result<_, _>>().map_err(broken)?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    // One that cannot be read would make every connection fail; systems have such.
    let mut roots = RootCertStore::empty();
    let readable: Vec<_> = certificates
        .into_iter()
        .filter(|certificate| roots.add(certificate.clone()).is_ok())
        .map(|certificate| certificate.to_vec().into())
        .collect();
    if readable.is_empty() {
        let place = ca.map_or("the system".to_owned(), |file| file.display().to_string());
        return Err(refused(format!("{place} holds no certificate")));
    }
    Ok(asked.with_root_certs(readable).with_disable_built_in_roots(true))
}

/// What every session is told first. Beyond the horizon nobody listens: waits and statements end,
/// and a session that idles in a transaction does, too. What is prepared outlives its session.
pub(super) fn settings(options: &Options) -> String {
    let horizon = options.listening_horizon;
    let lock_s = lock_wait_s(options);
    let (horizon_s, horizon_ms) = (horizon.as_secs_f64(), horizon.as_millis());
    let idle_s = horizon.as_secs().max(1);
    // Only MariaDB reads what stands in `/*M!`, and only MySQL 8 what stands in `/*!80000`. Its
    // limit of statements is on reads alone.
    format!(
        "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {lock_s}, \
         lock_wait_timeout = {lock_s}, \
         sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION') \
         /*M!, max_statement_time = {horizon_s}, idle_transaction_timeout = {idle_s} */ \
         /*!80000 , max_execution_time = {horizon_ms} */; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
    )
}

/// How long a statement waits for a lock. A little less than it may take, so that a wait is called
/// by its name; the server counts whole seconds.
pub(super) fn lock_wait_s(options: &Options) -> u64 {
    (options.listening_horizon.as_secs() * 9 / 10).max(1)
}
