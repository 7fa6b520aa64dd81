//! TLS of clients: rustls on ring, against the system's certificates or those of a file.
//!
//! Certificate and name of a server are always checked. Whether TLS is used is the URL's to say;
//! where it says nothing, a named CA or a server beyond this machine wants it, and nothing falls
//! back to plain text.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};

/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 8;

/// Whether a server is spoken to over TLS: as the URL has `asked`, else as is safe. `Err` is one
/// sentence.
pub(super) fn wanted(
    asked: Option<bool>,
    ca: Option<&Path>,
    this_machine: bool,
) -> Result<bool, String> {
    match (asked, ca) {
        (Some(false), Some(_)) => Err("it asks for plain text, and tls_ca is set".to_owned()),
        (Some(asked), _) => Ok(asked),
        (None, Some(_)) => Ok(true),
        (None, None) => Ok(!this_machine),
    }
}

/// Whether what is sent to a host stays on this machine.
pub(super) fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The certificates that a server's must lead to: all of a file, or what can be read of the
/// system's. `Err` is one sentence.
pub(super) fn certificates(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca else {
        // One that cannot be read must not keep the others from use; systems have such.
        let mut found = rustls_native_certs::load_native_certs().certs;
        found.retain(|certificate| roots.add(certificate.clone()).is_ok());
        if found.is_empty() {
            return Err("the system has no certificates: name a file of them".to_owned());
        }
        return Ok(found);
    };
    let broken = |error: &dyn Error| format!("{}: {error}", file.display());
    // Read apart, since PEM has its own words for a file that is not there.
    let text = std::fs::read(file).map_err(|error| broken(&error))?;
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| broken(&error))?;
        roots.add(certificate.clone()).map_err(|error| broken(&error))?;
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(format!("{} holds no certificate in PEM", file.display()));
    }
    Ok(found)
}

/// Checks the server's certificate and name; `Err` is one sentence.
pub(super) fn client_config(trusted: Vec<CertificateDer<'static>>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What a failed handshake comes from, in one sentence; `None` if that is not the error's cause.
pub(super) fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return sentence(error);
        }
        // What an I/O error wraps is not its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn sentence(error: &rustls::Error) -> Option<String> {
    use CertificateError::{BadSignature, NotValidForNameContext, UnknownIssuer};
    let invalid = match error {
        rustls::Error::InvalidCertificate(invalid) => invalid,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return Some("the server does not speak TLS there".to_owned());
        }
        _ => return None,
    };
    Some(match invalid {
        UnknownIssuer => {
            "the server's certificate leads to none that is trusted (those of tls_ca, \
                          else the system's)"
                .to_owned()
        }
        BadSignature => {
            "the server's certificate was not signed by the one it names, whose namesake \
                         is trusted: is tls_ca an older one?"
                .to_owned()
        }
        NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(NAMES_SHOWN).map(String::as_str).collect();
            let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            format!("the server's certificate is for {names}, not for {}", expected.to_str())
        }
        other => format!("the server's certificate is not valid: {other}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn tls_is_used_as_asked_and_unasked_wherever_a_stranger_could_listen() {
        let ca = Some(Path::new("ca.pem"));
        for (asked, ca, this_machine, expected) in [
            (None, None, true, Some(false)),
            (None, None, false, Some(true)),
            (None, ca, true, Some(true)),
            (Some(true), None, true, Some(true)),
            (Some(false), None, false, Some(false)),
            (Some(false), ca, true, None),
        ] {
            assert_eq!(wanted(asked, ca, this_machine).ok(), expected, "{asked:?} {ca:?}");
        }
        for (host, here) in [
            ("localhost", true),
            ("127.0.0.2", true),
            ("[::1]", true),
            ("::1", true),
            ("localhost.example", false),
            ("10.0.0.1", false),
            ("db1", false),
        ] {
            assert_eq!(is_this_machine(host), here, "{host}");
        }
    }

    #[test]
    fn a_file_of_certificates_that_cannot_be_used_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let block = |kind: &str, body: &str| {
            format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
        };
        for (name, text, why) in [
            ("empty.pem", String::new(), "holds no certificate"),
            ("words.pem", "no PEM at all\n".to_owned(), "holds no certificate"),
            ("key.pem", block("PRIVATE KEY", "AAAA"), "holds no certificate"),
            ("short.pem", block("CERTIFICATE", "AAAA"), "certificate"),
            ("broken.pem", block("CERTIFICATE", "?"), "base64"),
            ("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), "end"),
        ] {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            let error = certificates(Some(&file)).unwrap_err();
            assert!(error.contains(name) && error.contains(why), "{name}: {error}");
        }
        let error = certificates(Some(&dir.path().join("missing.pem"))).unwrap_err();
        assert!(error.contains("missing.pem: No such file"), "{error}");
    }
}
