//! When payments come, and how loaded the system is then.

use rand_chacha::ChaCha8Rng;

use super::laws::{MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Wander, exponential};
use super::world::World;
use crate::txn::Timestamp;

/// Local civil time of an instant, as far as the world's laws ask for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Local {
    /// Days since 1970-01-01, local.
    pub day: i64,
    /// 0 to 23.
    pub hour: u32,
    /// Hours since local midnight, with their fraction.
    pub hours: f64,
}

/// Arrivals in operational time: an inhomogeneous Poisson process whose rate is constant within
/// an hour, and corrected so that about the wanted number arrives by the end.
#[derive(Debug)]
pub(super) struct Traffic {
    offset: i64,
    /// Intensity by weekday (Monday first) and hour, with mean 1 over a week.
    intensity: [[f64; 24]; 7],
    now: i64,
    operational_left: f64,
    gap_nominal: f64,
    noise: Wander,
}

impl Traffic {
    pub(super) fn new(
        world: &World,
        [start, end]: [i64; 2],
        arrivals: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut intensity = [[0.0; 24]; 7];
        for (row, day) in intensity.iter_mut().zip(world.traffic.weekdays) {
            for (cell, hour) in row.iter_mut().zip(world.traffic.hours) {
                *cell = day * hour;
            }
        }
        let mean = intensity.iter().flatten().sum::<f64>() / (7.0 * 24.0);
        intensity.iter_mut().flatten().for_each(|cell| *cell /= mean);
        let noise = Wander::start(&world.load.noise, start, rng);
        let offset = i64::from(world.utc_offset_minutes) * 60 * MICROS_PER_SECOND;
        let mut traffic =
            Self { offset, intensity, now: start, operational_left: 0.0, gap_nominal: 1.0, noise };
        let mut at = start;
        while at < end {
            let next = traffic.hour_end(at).min(end);
            traffic.operational_left += (next - at) as f64 * traffic.intensity_at(at);
            at = next;
        }
        traffic.gap_nominal = traffic.operational_left / arrivals.max(1.0);
        traffic
    }

    pub(super) fn local(&self, micros: i64) -> Local {
        let local = micros + self.offset;
        let of_day = local.rem_euclid(MICROS_PER_DAY);
        Local {
            day: local.div_euclid(MICROS_PER_DAY),
            hour: (of_day / MICROS_PER_HOUR) as u32,
            hours: of_day as f64 / MICROS_PER_HOUR as f64,
        }
    }

    /// The next arrival, when `arrivals_left` are still wanted before the end.
    pub(super) fn next_arrival(&mut self, arrivals_left: f64, rng: &mut ChaCha8Rng) -> i64 {
        let wanted = self.operational_left.max(0.0) / arrivals_left.max(1.0);
        let mean = wanted.clamp(0.5 * self.gap_nominal, 2.0 * self.gap_nominal);
        let mut gap = exponential(rng, mean);
        self.operational_left -= gap;
        loop {
            let intensity = self.intensity_at(self.now);
            let hour_end = self.hour_end(self.now);
            let room = (hour_end - self.now) as f64 * intensity;
            if gap <= room {
                self.now += (gap / intensity) as i64;
                return self.now;
            }
            gap -= room;
            self.now = hour_end;
        }
    }

    /// Load of the system at an instant; instants must not go back.
    pub(super) fn load(&mut self, world: &World, now: i64, rng: &mut ChaCha8Rng) -> f64 {
        let noise = self.noise.step(&world.load.noise, now, rng);
        let excess = self.intensity_at(now) - 1.0;
        (world.load.base + world.load.slope * excess + noise).max(world.load.floor)
    }

    fn intensity_at(&self, micros: i64) -> f64 {
        let local = self.local(micros);
        // 1970-01-01 was a Thursday.
        let weekday = (local.day + 3).rem_euclid(7) as usize;
        self.intensity[weekday][local.hour as usize]
    }

    fn hour_end(&self, micros: i64) -> i64 {
        let local = micros + self.offset;
        (local.div_euclid(MICROS_PER_HOUR) + 1) * MICROS_PER_HOUR - self.offset
    }
}

/// Day of the month and length of the month before, of a day since 1970-01-01.
pub(super) fn day_of_month(day: i64) -> (u32, u32) {
    let midnight = Timestamp::from_micros(day.saturating_mul(MICROS_PER_DAY)).to_jiff();
    let date = jiff::tz::Offset::UTC.to_datetime(midnight).date();
    let last_length = date.first_of_month().yesterday().map_or(31, jiff::civil::Date::day);
    (date.day().unsigned_abs().into(), last_length.unsigned_abs().into())
}
