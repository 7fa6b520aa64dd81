//! TLS to the server, by rustls and ring, against the system's certificates or a file.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;

/// A connector that checks the server's certificate and name.
pub(super) fn connector(ca: Option<&Path>) -> Result<MakeRustlsConnect, Error> {
    let refused = |detail: String| Error::Tls { detail };
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let broken = |error: rustls::pki_types::pem::Error| {
                refused(format!("{}: {error}", file.display()))
            };
            for certificate in CertificateDer::pem_file_iter(file).map_err(broken)? {
                let added = roots.add(certificate.map_err(broken)?);
                added.map_err(|error| refused(format!("{}: {error}", file.display())))?;
            }
            if roots.is_empty() {
                return Err(refused(format!("{} holds no certificate", file.display())));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
