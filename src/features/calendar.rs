//! The business calendar: time zone, holidays, peak hours, all configuration.
//!
//! [`LocalTime`] answers for an instant without asking the time-zone database: the offset
//! transitions of three centuries are looked up once. Instants outside go to the database.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use crate::txn::Timestamp;

/// What calendar features depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calendar {
    /// IANA name of the time zone in which people live and business is done.
    pub time_zone: String,
    /// Days on which business rests, in local time.
    pub holidays: Vec<jiff::civil::Date>,
    /// Hours of the local day with high load, each `[from, to)`, `from` below `to`, `to` up to 24.
    pub peak_hours: Vec<[u8; 2]>,
}

impl Default for Calendar {
    fn default() -> Self {
        Self {
            time_zone: "Asia/Kolkata".to_owned(),
            holidays: Vec::new(),
            peak_hours: vec![[10, 12], [14, 16]],
        }
    }
}

/// Which part of the calendar a feature's value depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarPart {
    /// None.
    None,
    /// The time zone.
    TimeZone,
    /// The time zone and the holidays.
    Holidays,
    /// The time zone and the peak hours.
    PeakHours,
}

impl Calendar {
    /// Feeds what `part` names to a fingerprint; the order of a list and its repetitions do not
    /// count.
    pub(super) fn digest(&self, part: CalendarPart, hash: &mut Sha256) {
        if part == CalendarPart::None {
            return;
        }
        hash.update((self.time_zone.len() as u64).to_le_bytes());
        hash.update(self.time_zone.as_bytes());
        if part == CalendarPart::Holidays {
            let mut days: Vec<i64> = self.holidays.iter().map(|day| day_number(*day)).collect();
            days.sort_unstable();
            days.dedup();
            for day in days {
                hash.update(day.to_le_bytes());
            }
        }
        if part == CalendarPart::PeakHours {
            hash.update(self.peak_by_hour().map(u8::from));
        }
    }

    fn peak_by_hour(&self) -> [bool; 24] {
        std::array::from_fn(|hour| {
            self.peak_hours.iter().any(|&[from, to]| (usize::from(from)..to.into()).contains(&hour))
        })
    }
}

/// Days since 1970-01-01.
fn day_number(date: jiff::civil::Date) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    i64::from(epoch.duration_until(date).as_secs().div_euclid(86_400) as i32)
}

/// An instant as people at the calendar's place see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Local {
    /// Hours since local midnight, 0 up to 24.
    pub hour: f64,
    /// 0 for Monday to 6 for Sunday.
    pub weekday: u8,
    /// Saturday or Sunday.
    pub weekend: bool,
    /// A configured holiday.
    pub holiday: bool,
    /// Within a configured peak.
    pub peak: bool,
}

/// A checked calendar, ready to answer in some tens of nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct LocalTime {
    calendar: Calendar,
    zone: TimeZone,
    /// Offsets in seconds east, each from its instant in microseconds on, ascending; the first
    /// begins at `table_from`.
    offsets: Vec<(i64, i32)>,
    table_to: i64,
    holidays: Vec<i64>,
    peak: [bool; 24],
}

/// 1900-01-01 and 2200-01-01 in seconds: transitions in between are tabulated.
const TABLE_FROM: i64 = -2_208_988_800;
const TABLE_TO: i64 = 7_258_118_400;
/// No zone has more transitions in three centuries; beyond it the database is asked.
const OFFSETS_MAX: usize = 4_096;

impl LocalTime {
    pub(super) fn new(calendar: Calendar) -> Result<Self, Error> {
        let zone = TimeZone::get(&calendar.time_zone).map_err(|error| Error::TimeZone {
            time_zone: calendar.time_zone.clone(),
            detail: error.to_string(),
        })?;
        if let Some(&[from, to]) =
            calendar.peak_hours.iter().find(|[from, to]| from >= to || *to > 24)
        {
            return Err(Error::PeakHours { from, to });
        }
        let mut holidays: Vec<i64> = calendar.holidays.iter().map(|day| day_number(*day)).collect();
        holidays.sort_unstable();
        let (offsets, table_to) = offsets(&zone);
        let peak = calendar.peak_by_hour();
        Ok(Self { calendar, zone, offsets, table_to, holidays, peak })
    }

    pub(super) fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    pub(super) fn at(&self, now: Timestamp) -> Local {
        let micros = now.micros() + i64::from(self.offset_seconds(now)) * 1_000_000;
        let seconds = micros.div_euclid(1_000_000);
        let day = seconds.div_euclid(86_400);
        let second = seconds.rem_euclid(86_400);
        // 1970-01-01 was a Thursday.
        let weekday = (day + 3).rem_euclid(7) as u8;
        Local {
            hour: second as f64 / 3_600.0,
            weekday,
            weekend: weekday >= 5,
            holiday: self.holidays.binary_search(&day).is_ok(),
            peak: self.peak[(second / 3_600) as usize],
        }
    }

    fn offset_seconds(&self, now: Timestamp) -> i32 {
        let micros = now.micros();
        if micros < TABLE_FROM * 1_000_000 || micros >= self.table_to {
            return self.zone.to_offset(now.to_jiff()).seconds();
        }
        let after = self.offsets.partition_point(|(from, _)| *from <= micros);
        self.offsets[after - 1].1
    }
}

/// The table of offsets and the instant, in microseconds, at which it ends.
fn offsets(zone: &TimeZone) -> (Vec<(i64, i32)>, i64) {
    let start = jiff::Timestamp::from_second(TABLE_FROM).expect("1900 is representable");
    let mut offsets = vec![(TABLE_FROM * 1_000_000, zone.to_offset(start).seconds())];
    for transition in zone.following(start) {
        let from = transition.timestamp().as_microsecond();
        if transition.timestamp().as_second() >= TABLE_TO {
            break;
        }
        if offsets.len() == OFFSETS_MAX {
            return (offsets, from);
        }
        offsets.push((from, transition.offset().seconds()));
    }
    (offsets, TABLE_TO * 1_000_000)
}
