//! Mappings: how somebody else's file says what a history says.
//!
//! A TOML file; every table may be left out:
//!
//! ```toml
//! delimiter = ";"                      # of CSV; default ","
//!
//! [columns]                            # our column = theirs
//! timestamp = "TX_DATETIME"
//! customer_id = "CUSTOMER_ID"
//! amount_minor = "TX_AMOUNT"
//! fraud = "TX_FRAUD"
//!
//! [constants]                          # what no column of theirs says
//! kind = "UPI"
//!
//! [values.outcome]                     # their value = ours; "*" is every other, "" an empty cell
//! 1 = "committed"
//! "*" = "aborted"
//!
//! [time]                               # of timestamp, customer_since and labelled_at
//! formats = ["%Y-%m-%d %H:%M:%S"]      # the first that fits; strftime's letters, or rfc3339, unix_s,
//!                                      # unix_ms, unix_us; default rfc3339
//! zone = "Asia/Kolkata"                # of texts without one; default UTC
//!
//! [amount]                             # theirs is a decimal number; without this it is in minor units
//! decimals = 2
//! round = false                        # refuse more decimals (the default), or round them
//!
//! [labels]
//! known_after = "7d"                   # labelled_at, where no column says it: so long after timestamp
//!
//! [attempts]                           # payment_id and attempt, where no column says them
//! same = ["country", "amount"]         # their columns that attempts of one payment have in common
//! within = "1m"                        # and the longest from one attempt to the next
//! ```
//!
//! A local time that a change of clocks skips counts as after it, one that occurs twice as the first.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{COLUMNS, REQUIRED_COLUMNS};
use crate::txn::{Timestamp, span};

/// Most time formats, and most columns that attempts have in common.
const LIST_MAX: usize = 16;
/// Most decimals of an amount.
const DECIMALS_MAX: u8 = 9;
/// What stands for every value that is not named.
pub(super) const OTHER: &str = "*";

/// A mapping that cannot be followed. Fix the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mapping: {0}")]
pub struct MappingError(String);

/// How somebody else's file says what a history says; see the head of `mapping.rs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    pub(super) delimiter: u8,
    /// Ours to theirs.
    pub(super) columns: BTreeMap<&'static str, String>,
    pub(super) constants: BTreeMap<&'static str, String>,
    pub(super) values: BTreeMap<&'static str, BTreeMap<String, String>>,
    pub(super) time: TimeForm,
    pub(super) amount: Option<Amount>,
    pub(super) known_after: Option<Duration>,
    pub(super) attempts: Option<Attempts>,
}

/// How instants are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TimeForm {
    formats: Vec<Format>,
    zone: TimeZone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    Rfc3339,
    /// Decimals of the unit down to microseconds.
    Unix(u8),
    Pattern(String),
}

/// How amounts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Amount {
    decimals: u8,
    #[serde(default)]
    round: bool,
}

/// Which rows are attempts of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempts {
    pub same: Vec<String>,
    pub within: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "comma")]
    delimiter: char,
    #[serde(default)]
    columns: BTreeMap<String, String>,
    #[serde(default)]
    constants: BTreeMap<String, toml::Value>,
    #[serde(default)]
    values: BTreeMap<String, BTreeMap<String, toml::Value>>,
    #[serde(default)]
    time: TimeFile,
    amount: Option<Amount>,
    labels: Option<LabelsFile>,
    attempts: Option<AttemptsFile>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TimeFile {
    #[serde(default)]
    formats: Vec<String>,
    zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelsFile {
    known_after: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttemptsFile {
    same: Vec<String>,
    within: String,
}

fn comma() -> char {
    ','
}

impl Mapping {
    /// Reads and checks a mapping; the error names key, value and what would be right.
    pub fn parse(text: &str) -> Result<Self, MappingError> {
        let file: File = toml::from_str(text).map_err(|error| MappingError(error.to_string()))?;
        Self::check(file).map_err(MappingError)
    }

    fn check(file: File) -> Result<Self, String> {
        let delimiter = u8::try_from(file.delimiter).ok().filter(|byte| {
            byte.is_ascii()
                && !matches!(byte, b'"' | b'\n' | b'\r')
                && !byte.is_ascii_alphanumeric()
        });
        let delimiter = delimiter
            .ok_or_else(|| format!("delimiter {:?} is not one sign, such as ;", file.delimiter))?;
        let columns = by_column("columns", file.columns, Ok)?;
        let constants = by_column("constants", file.constants, |value| scalar("constants", value))?;
        let values = by_column("values", file.values, |values| {
            let one = |(theirs, ours)| Ok((theirs, scalar("values", ours)?));
            values.into_iter().map(one).collect::<Result<_, String>>()
        })?;
        let within =
            |what: &str, text: &str| span(text).map_err(|why| format!("{what} {text:?}: {why}"));
        let labels = file.labels.map(|labels| within("labels.known_after", &labels.known_after));
        let attempts = file.attempts.map(|attempts| {
            if attempts.same.is_empty() || attempts.same.len() > LIST_MAX {
                let count = attempts.same.len();
                return Err(format!("attempts.same names {count} columns, not 1 to {LIST_MAX}"));
            }
            let within = within("attempts.within", &attempts.within)?;
            Ok(Attempts { same: attempts.same, within })
        });
        let mapping = Self {
            delimiter,
            columns,
            constants,
            values,
            time: TimeForm::check(&file.time)?,
            amount: file.amount,
            known_after: labels.transpose()?,
            attempts: attempts.transpose()?,
        };
        mapping.fits()?;
        Ok(mapping)
    }

    /// Whether the tables fit each other.
    fn fits(&self) -> Result<(), String> {
        let given =
            |name: &str| self.columns.contains_key(name) || self.constants.contains_key(name);
        if let Some(twice) = self.columns.keys().find(|name| self.constants.contains_key(*name)) {
            return Err(format!("{twice} stands under [columns] and under [constants]"));
        }
        if let Some(missing) = REQUIRED_COLUMNS.iter().find(|name| !given(name)) {
            return Err(format!(
                "nothing gives {missing}: name their column under [columns], or a value under \
                 [constants]"
            ));
        }
        if !self.columns.contains_key("timestamp") {
            return Err("timestamp is a constant: no history happens at one instant".to_owned());
        }
        if self.values.contains_key("timestamp") {
            return Err("[values.timestamp]: instants are read as [time] says".to_owned());
        }
        if let Some(odd) = self.values.keys().find(|name| !self.columns.contains_key(*name)) {
            return Err(format!("[values.{odd}] without a column for {odd} under [columns]"));
        }
        if let Some(amount) = self.amount.filter(|amount| amount.decimals > DECIMALS_MAX) {
            return Err(format!("amount.decimals is {}, at most {DECIMALS_MAX}", amount.decimals));
        }
        if self.known_after.is_some() && (given("labelled_at") || !given("fraud")) {
            return Err("labels.known_after needs a fraud column and no labelled_at".to_owned());
        }
        if self.attempts.is_some() && (given("payment_id") || given("attempt")) {
            return Err("[attempts] makes payment_id and attempt: they are given twice".to_owned());
        }
        Ok(())
    }
}

/// By our column, which must be one.
fn by_column<V, T>(
    table: &str,
    values: BTreeMap<String, V>,
    take: impl Fn(V) -> Result<T, String>,
) -> Result<BTreeMap<&'static str, T>, String> {
    let one = |(name, value): (String, V)| {
        let known = COLUMNS.iter().find(|known| **known == name);
        let known = known.ok_or_else(|| {
            format!("[{table}] names {name:?}, which no history has; it has {}", COLUMNS.join(", "))
        })?;
        Ok((*known, take(value)?))
    };
    values.into_iter().map(one).collect()
}

/// A value as it would stand in a file.
fn scalar(table: &str, value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(yes) => Ok(yes.to_string()),
        other => Err(format!("[{table}] has {}, not a text or a number", other.type_str())),
    }
}

impl TimeForm {
    fn check(file: &TimeFile) -> Result<Self, String> {
        if file.formats.len() > LIST_MAX {
            return Err(format!("time.formats has {}, at most {LIST_MAX}", file.formats.len()));
        }
        let zone = file.zone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(zone)
            .map_err(|_| format!("time.zone {zone:?} is not one, such as Asia/Kolkata"))?;
        let mut formats =
            file.formats.iter().map(|text| Format::check(text)).collect::<Result<Vec<_>, _>>()?;
        if formats.is_empty() {
            formats.push(Format::Rfc3339);
        }
        Ok(Self { formats, zone })
    }

    /// The instant that a text names; `Err` is a sentence about it.
    pub(super) fn parse(&self, text: &str) -> Result<Timestamp, String> {
        let found = self.formats.iter().find_map(|format| format.parse(text, &self.zone));
        found.ok_or_else(|| {
            let formats: Vec<_> = self.formats.iter().map(Format::name).collect();
            format!("not of the form {}", formats.join(" or "))
        })
    }
}

impl Format {
    fn check(text: &str) -> Result<Self, String> {
        let format = match text {
            "rfc3339" => Self::Rfc3339,
            "unix_s" => Self::Unix(6),
            "unix_ms" => Self::Unix(3),
            "unix_us" => Self::Unix(0),
            pattern => Self::Pattern(pattern.to_owned()),
        };
        // What it writes it must read, with a day and a time.
        let at = civil::date(2026, 11, 24).at(13, 14, 15, 0);
        let zoned = at.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
        if let Self::Pattern(pattern) = &format {
            let written = jiff::fmt::strtime::format(pattern, &zoned)
                .map_err(|error| format!("time format {pattern:?}: {error}"))?;
            let read = format.parse(&written, &TimeZone::UTC);
            let read = read.map(|read| read.to_jiff().to_zoned(TimeZone::UTC));
            // To the second, the minute, the hour or the day, and nothing of it lost.
            let day = at.date();
            let coarser = [at, day.at(13, 14, 0, 0), day.at(13, 0, 0, 0), day.at(0, 0, 0, 0)];
            let kept = read.is_some_and(|read| {
                let again = jiff::fmt::strtime::format(pattern, &read);
                coarser.contains(&read.datetime()) && again.is_ok_and(|again| again == written)
            });
            if !kept {
                return Err(format!(
                    "time format {pattern:?} names no instant, such as %Y-%m-%d %H:%M:%S does"
                ));
            }
        }
        Ok(format)
    }

    fn name(&self) -> &str {
        match self {
            Self::Rfc3339 => "rfc3339",
            Self::Unix(6) => "unix_s",
            Self::Unix(3) => "unix_ms",
            Self::Unix(_) => "unix_us",
            Self::Pattern(pattern) => pattern,
        }
    }

    fn parse(&self, text: &str, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Rfc3339 => text.parse().ok(),
            Self::Unix(decimals) => {
                let micros = decimal(text, Amount { decimals: *decimals, round: true }).ok()?;
                Some(Timestamp::from_micros(micros))
            }
            Self::Pattern(pattern) => {
                let broken = jiff::fmt::strtime::parse(pattern, text).ok()?;
                let instant = match broken.to_timestamp() {
                    Ok(instant) => instant,
                    Err(_) => {
                        let at = broken
                            .to_datetime()
                            .or_else(|_| broken.to_date().map(civil::DateTime::from))
                            .ok()?;
                        zone.to_zoned(at).ok()?.timestamp()
                    }
                };
                Some(Timestamp::from_micros(instant.as_microsecond()))
            }
        }
    }
}

impl Amount {
    /// An amount in minor units; `Err` is a sentence about the text.
    pub(super) fn minor(self, text: &str) -> Result<i64, String> {
        decimal(text, self)
    }
}

/// A decimal number as a whole number of its smallest unit.
fn decimal(text: &str, Amount { decimals, round }: Amount) -> Result<i64, String> {
    let wrong = || "not a decimal number, such as 12.50".to_owned();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !plain(whole) || !plain(fraction) {
        return Err(wrong());
    }
    let (kept, rest) = fraction.split_at(fraction.len().min(usize::from(decimals)));
    if !round && rest.bytes().any(|digit| digit != b'0') {
        return Err(format!("more than {decimals} decimals"));
    }
    let mut number = 0_i64;
    let padding = std::iter::repeat_n(b'0', usize::from(decimals) - kept.len());
    for digit in whole.bytes().chain(kept.bytes()).chain(padding) {
        let next =
            number.checked_mul(10).and_then(|tens| tens.checked_add(i64::from(digit - b'0')));
        number = next.ok_or_else(|| "too large".to_owned())?;
    }
    // Half away from zero, as people do.
    if rest.bytes().next().is_some_and(|digit| digit >= b'5') {
        number = number.checked_add(1).ok_or_else(|| "too large".to_owned())?;
    }
    Ok(if negative { -number } else { number })
}
