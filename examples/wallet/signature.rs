//! Requests are signed with HMAC-SHA256; a stale one is refused, so that none can be kept for later.

use axum::http::{HeaderMap, Method, StatusCode};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::api::Refusal;
use crate::books::now_s;

/// How far a caller's clock may be off.
const TOLERANCE_S: u64 = 300;

/// Checks `presume-timestamp` and `presume-signature`. `path` is that of the request line.
pub fn check(
    secret: &str,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), Refusal> {
    let refused = |code, detail: &str| Refusal::new(StatusCode::UNAUTHORIZED, code, detail);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(timestamp) = header("presume-timestamp") else {
        return Err(refused("bad_signature", "the request is not signed"));
    };
    let signature = header("presume-signature").and_then(|text| text.strip_prefix("v1="));
    let signature = signature.and_then(from_hex).unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length will do");
    mac.update(format!("v1\n{method}\n{path}\n{timestamp}\n").as_bytes());
    mac.update(body);
    // Takes the same time wherever the difference is.
    if mac.verify_slice(&signature).is_err() {
        return Err(refused("bad_signature", "the signature is not that of this request"));
    }
    match timestamp.parse::<u64>() {
        Ok(at) if at.abs_diff(now_s()) <= TOLERANCE_S => Ok(()),
        _ => Err(refused("bad_timestamp", "the timestamp is too far off; compare the clocks")),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
