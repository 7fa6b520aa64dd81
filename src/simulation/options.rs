//! How much of a world is generated, and its limits.

use super::laws::{MICROS_PER_DAY, MICROS_PER_SECOND};
use super::world::WorldError;
use crate::txn::Timestamp;

/// How much of a world is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The same seed gives the same history.
    pub seed: u64,
    /// Rows, 1 to [`ROWS_MAX`].
    pub rows: u64,
    /// Over so many days, 1 to [`DAYS_MAX`].
    pub days: u32,
    /// Customers, 1 to [`CUSTOMERS_MAX`].
    pub customers: u32,
    /// When the history begins.
    pub start: Timestamp,
}

/// Most rows of one history.
pub const ROWS_MAX: u64 = 100_000_000;
/// Longest history in days.
pub const DAYS_MAX: u32 = 3_650;
/// Most customers.
pub const CUSTOMERS_MAX: u32 = 1_000_000;
/// Histories begin in the years 1970 to 2200.
const START_MICROS_MAX: i64 = 7_258_118_400 * MICROS_PER_SECOND;

impl Default for Options {
    fn default() -> Self {
        let start = Timestamp::from_micros(1_767_225_600 * MICROS_PER_SECOND);
        Self { seed: 1, rows: 200_000, days: 90, customers: 5_000, start }
    }
}

impl Options {
    /// Start and end in microseconds.
    pub(super) fn span(&self) -> [i64; 2] {
        let start = self.start.micros();
        [start, start + i64::from(self.days) * MICROS_PER_DAY]
    }

    /// Errors name the option that is out of range.
    pub(super) fn check(&self) -> Result<(), WorldError> {
        let check = |key: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            let limit = format!("between 1 and {max}");
            Err(WorldError::Range { key: key.to_owned(), value: value.to_string(), limit })
        };
        check("rows", self.rows, ROWS_MAX)?;
        check("days", self.days.into(), DAYS_MAX.into())?;
        check("customers", self.customers.into(), CUSTOMERS_MAX.into())?;
        if !(0..=START_MICROS_MAX).contains(&self.start.micros()) {
            return Err(WorldError::Range {
                key: "start".to_owned(),
                value: self.start.to_string(),
                limit: "in the years 1970 to 2200".to_owned(),
            });
        }
        Ok(())
    }
}
