//! Instants as microseconds since the Unix epoch, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant, in whole microseconds since 1970-01-01T00:00:00Z; text form RFC 3339.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

/// A text that is not an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("timestamp {text:?} is not RFC 3339, such as 2026-01-31T09:30:00Z")]
pub struct TimestampError {
    /// What was read.
    pub text: String,
}

/// 0001-01-01 and 9999-12-30 in microseconds: what has an RFC 3339 form.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
const MICROS_MAX: i64 = 253_402_207_200_000_000;

impl Timestamp {
    /// The first instant that has a text form.
    pub const EARLIEST: Self = Self(MICROS_MIN);
    /// The last instant that has a text form.
    pub const LATEST: Self = Self(MICROS_MAX);

    /// From microseconds since the Unix epoch, clamped to the years 1 to 9999.
    #[inline]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(MICROS_MIN, MICROS_MAX))
    }

    /// Microseconds since the Unix epoch.
    #[inline]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Microseconds passed since `earlier`, zero if that lies in the future.
    #[inline]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0).max(0).unsigned_abs()
    }

    /// Time passed since `earlier`, zero if that lies in the future.
    #[inline]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// This instant moved later, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// This instant moved earlier, saturating.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }

    /// The instant for calendar arithmetic.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).expect("clamped to representable years")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_jiff().fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let error = || TimestampError { text: text.to_owned() };
        let parsed = if text.len() == 10 {
            let date: jiff::civil::Date = text.parse().map_err(|_| error())?;
            date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| error())?.timestamp()
        } else {
            text.parse::<jiff::Timestamp>().map_err(|_| error())?
        };
        Ok(Self::from_micros(parsed.as_microsecond()))
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;
    fn try_from(text: String) -> Result<Self, TimestampError> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.to_string()
    }
}

/// A length of time as people write it: `90s`, `36h`, `7d` or `P7D`; a day has 24 hours. `Err` is a
/// sentence.
pub fn span(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text.parse().map_err(|error| format!("{error}, such as 7d"))?;
    let length = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|error| error.to_string())?;
    length.try_into().map_err(|_| "it is negative".to_owned())
}
