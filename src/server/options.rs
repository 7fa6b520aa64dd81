//! Limits and timeouts of the HTTP interface, checked once at start.

use std::net::SocketAddr;
use std::time::Duration;

use super::request::Rules;

/// How the server listens and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to listen; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Allows an address beyond loopback, which nothing authenticates yet.
    pub allow_remote: bool,
    /// Most connections at a time; further ones are refused and counted.
    pub connections_max: usize,
    /// Most requests under `/v1` being answered at a time; further ones get 429.
    pub requests_max: usize,
    /// Largest request body in bytes; a larger one gets 413.
    pub body_bytes_max: usize,
    /// Most operations in a transaction; more get 422.
    pub operations_count_max: usize,
    /// Most batches being answered at a time; further ones get 429.
    pub batches_max: usize,
    /// Most members of a batch that comes as an array; more get 413. Lines are not counted.
    pub batch_members_max: usize,
    /// Largest batch that comes as an array, in bytes; a larger one gets 413. Each of its members,
    /// and each line, is bounded by `body_bytes_max`.
    pub batch_body_bytes_max: usize,
    /// Most members being submitted at a time, of all batches together; the others are not read.
    pub batch_in_flight_max: usize,
    /// Longest wait for a request's head, also on an idle connection.
    pub header_timeout: Duration,
    /// Longest wait for a request's body; then 408.
    pub body_timeout: Duration,
    /// Longest wait for an answer; then 202 with the place to ask later.
    pub request_timeout: Duration,
    /// How long what runs may take to finish after the signal to stop.
    pub shutdown_timeout: Duration,
    /// Whether clients may say when a payment happened, as replays of histories do.
    pub client_time: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 7878)),
            allow_remote: false,
            connections_max: 1024,
            requests_max: 1024,
            body_bytes_max: 64 * 1024,
            operations_count_max: 16,
            batches_max: 16,
            batch_members_max: 10_000,
            batch_body_bytes_max: 16 << 20,
            batch_in_flight_max: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            client_time: false,
        }
    }
}

/// An option that the server cannot start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The address is open to others.
    #[error(
        "address {address} is not loopback and requests are not authenticated yet: anybody who \
         reaches it can move money; set server.allow_remote = true if the network keeps them out"
    )]
    Remote {
        /// The address.
        address: SocketAddr,
    },
    /// A number is out of range.
    #[error("{name} = {value} is not between {min} and {max}")]
    OutOfRange {
        /// Which option.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The smallest.
        min: usize,
        /// The largest.
        max: usize,
    },
}

impl Options {
    /// Checks every option.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if !self.address.ip().is_loopback() && !self.allow_remote {
            return Err(OptionsError::Remote { address: self.address });
        }
        let millis =
            |duration: Duration| usize::try_from(duration.as_millis()).unwrap_or(usize::MAX);
        let day_ms = 86_400_000;
        for (name, value, min, max) in [
            ("connections_max", self.connections_max, 1, 1_000_000),
            ("requests_max", self.requests_max, 1, 1_000_000),
            ("body_bytes_max", self.body_bytes_max, 1024, 16 << 20),
            ("operations_count_max", self.operations_count_max, 1, 1024),
            ("batches_max", self.batches_max, 1, 1024),
            ("batch_members_max", self.batch_members_max, 1, 1_000_000),
            ("batch_body_bytes_max", self.batch_body_bytes_max, 1024, 256 << 20),
            ("batch_in_flight_max", self.batch_in_flight_max, 1, 1_000_000),
            ("header_timeout_ms", millis(self.header_timeout), 1, day_ms),
            ("body_timeout_ms", millis(self.body_timeout), 1, day_ms),
            ("request_timeout_ms", millis(self.request_timeout), 1, day_ms),
            ("shutdown_timeout_ms", millis(self.shutdown_timeout), 0, day_ms),
        ] {
            if !(min..=max).contains(&value) {
                return Err(OptionsError::OutOfRange { name, value, min, max });
            }
        }
        Ok(())
    }

    pub(super) fn rules(&self) -> Rules {
        Rules { operations_count_max: self.operations_count_max, client_time: self.client_time }
    }
}
