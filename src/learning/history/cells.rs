//! One cell to one value, or a sentence that says why not.

use super::record::Record;
use crate::txn::Timestamp;

/// Longest part of a bad value that is shown.
const SHOWN_BYTES_MAX: usize = 80;

/// A cell that holds nothing usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadCell {
    pub column: &'static str,
    pub value: String,
    pub reason: String,
}

/// One row with the positions of the columns in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells<'a> {
    pub record: &'a Record,
    pub names: &'static [&'static str],
    pub positions: &'a [Option<usize>],
}

impl<'a> Cells<'a> {
    /// The bytes of a column by its canonical index; `None` where it is missing or empty.
    pub(super) fn bytes(&self, column: usize) -> Option<&'a [u8]> {
        let bytes = self.record.get(self.positions[column]?)?;
        (!bytes.is_empty()).then_some(bytes)
    }

    /// A bad cell of this column.
    pub(super) fn bad(&self, column: usize, reason: impl Into<String>) -> BadCell {
        let value = shown(self.bytes(column).unwrap_or_default());
        BadCell { column: self.names[column], value, reason: reason.into() }
    }

    pub(super) fn text(&self, column: usize) -> Result<Option<&'a str>, BadCell> {
        let Some(bytes) = self.bytes(column) else { return Ok(None) };
        let text = std::str::from_utf8(bytes);
        text.map(Some).map_err(|error| {
            self.bad(column, format!("not UTF-8 from byte {} of the field", error.valid_up_to()))
        })
    }

    pub(super) fn required(&self, column: usize) -> Result<&'a str, BadCell> {
        self.text(column)?.ok_or_else(|| self.bad(column, "empty"))
    }

    /// A value by its own parser, whose error tells what is wrong.
    pub(super) fn parsed<T: std::str::FromStr>(&self, column: usize) -> Result<Option<T>, BadCell>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.text(column)? else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| self.bad(column, error.to_string()))
    }

    /// A text of at most 128 bytes without control characters, by the rules of ids.
    pub(super) fn id<T>(
        &self,
        column: usize,
        make: impl FnOnce(&str) -> Result<T, crate::txn::IdError>,
    ) -> Result<Option<T>, BadCell> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        make(text).map(Some).map_err(|error| self.bad(column, error.to_string()))
    }

    pub(super) fn instant(&self, column: usize) -> Result<Option<Timestamp>, BadCell> {
        let Some(bytes) = self.bytes(column) else { return Ok(None) };
        match canonical_instant(bytes) {
            Some(micros) => Ok(Some(Timestamp::from_micros(micros))),
            None => self.parsed(column),
        }
    }

    pub(super) fn boolean(&self, column: usize) -> Result<Option<bool>, BadCell> {
        match self.bytes(column) {
            None => Ok(None),
            Some(b"true") => Ok(Some(true)),
            Some(b"false") => Ok(Some(false)),
            Some(b"1") => Ok(Some(true)),
            Some(b"0") => Ok(Some(false)),
            Some(_) => Err(self.bad(column, "neither true nor false")),
        }
    }

    /// A whole number within bounds.
    pub(super) fn whole(
        &self,
        column: usize,
        [min, max]: [i64; 2],
    ) -> Result<Option<i64>, BadCell> {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let Some(text) = self.text(column)? else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            Ok(number) if number < 0 && min >= 0 => Err(self.bad(column, "negative")),
            Ok(_) => Err(self.bad(column, format!("not between {min} and {max}"))),
            Err(error) if matches!(error.kind(), PosOverflow | NegOverflow) => {
                Err(self.bad(column, format!("overflows: not between {min} and {max}")))
            }
            Err(_) => Err(self.bad(column, "not a whole number")),
        }
    }

    /// A finite number within bounds.
    pub(super) fn number(
        &self,
        column: usize,
        [min, max]: [f64; 2],
    ) -> Result<Option<f64>, BadCell> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            Ok(number) if number < 0.0 && min == 0.0 => Err(self.bad(column, "negative")),
            Ok(_) => Err(self.bad(column, format!("not between {min} and {max}"))),
            Err(_) => Err(self.bad(column, "not a number")),
        }
    }
}

/// A value for people: UTF-8 at any cost, and short.
pub(super) fn shown(bytes: &[u8]) -> String {
    let short = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(short).into_owned();
    if bytes.len() > SHOWN_BYTES_MAX {
        text.push_str("...");
    }
    text
}

/// `2026-01-31T09:30:00Z`, or with six decimals: what most files hold, at a tenth of the general
/// parser's cost. `None` leaves everything else, right or wrong, to that parser.
fn canonical_instant(bytes: &[u8]) -> Option<i64> {
    let fraction = match bytes {
        [.., b'Z'] if bytes.len() == 20 => 0,
        [.., b'Z'] if bytes.len() == 27 && bytes[19] == b'.' => digits(&bytes[20..26])?,
        _ => return None,
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes[*at] != *byte) {
        return None;
    }
    let at = |from: usize, to: usize| digits(&bytes[from..to]);
    let (year, month, day) = (at(0, 4)?, at(5, 7)?, at(8, 10)?);
    let (hour, minute, second) = (at(11, 13)?, at(14, 16)?, at(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_epoch(year, month, day)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// Days since 1970-01-01 of a Gregorian date from the year 1 on; `None` for no date.
fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    const LENGTH: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if year < 1 || !(1..=12).contains(&month) {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let index = (month - 1) as usize;
    if day < 1 || day > LENGTH[index] + i64::from(leap && month == 2) {
        return None;
    }
    let past = year - 1;
    let leaps = past / 4 - past / 100 + past / 400 + i64::from(leap && month > 2);
    // 719,162 days lie between 0001-01-01 and 1970-01-01.
    Some(past * 365 + leaps + BEFORE[index] + day - 1 - 719_162)
}
