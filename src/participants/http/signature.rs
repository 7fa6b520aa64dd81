//! HMAC-SHA256 over what a request says, with a secret that both sides have.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest secret in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// The value of `presume-signature`. `path` is that of the request line, with its query;
/// `timestamp` is in seconds since 1970.
pub fn sign(secret: &[u8], method: &str, path: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(format!("v1\n{method}\n{path}\n{timestamp}\n").as_bytes());
    mac.update(body);
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    /// Python: `hmac.new(secret, b'v1\nPOST\n/base/v1/claims\n1767225600\n{"a":1}', sha256)`.
    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        let signature = sign(SECRET, "POST", "/base/v1/claims", 1_767_225_600, b"{\"a\":1}");
        let expected = "v1=d78ac344aad5b27d2f370e69bbc5649644df2724038a6a1e1c7f1c1d332d247a";
        assert_eq!(signature, expected);
    }

    #[test]
    fn every_part_of_a_request_is_signed() {
        let of = |method, path, at, body: &[u8]| sign(SECRET, method, path, at, body);
        let first = of("POST", "/v1/a?x=1", 5, b"{}");
        for other in [
            of("GET", "/v1/a?x=1", 5, b"{}"),
            of("POST", "/v1/a?x=2", 5, b"{}"),
            of("POST", "/v1/a?x=1", 6, b"{}"),
            of("POST", "/v1/a?x=1", 5, b"{ }"),
            sign(b"another secret, another", "POST", "/v1/a?x=1", 5, b"{}"),
        ] {
            assert_ne!(first, other);
        }
    }
}
