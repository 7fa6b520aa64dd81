//! Participants: how fast they answer, how full they are, when they are out.

use rand_chacha::ChaCha8Rng;

use super::laws::{
    MICROS_PER_DAY, MICROS_PER_SECOND, Wander, exponential, happens, normal, normal_tail, round_to,
    uniform,
};
use super::world::{CoordinatorLaw, ParticipantLaw, World};
use crate::txn::{LegRow, LegVote, ParticipantName};

/// What a participant is going through.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outage {
    /// Answers take so many times as long.
    Slow(f64),
    /// Calls fail or are never answered.
    Failing,
}

/// One participant over time; instants must not go back.
#[derive(Debug)]
pub(super) struct ParticipantState {
    pub name: ParticipantName,
    law: ParticipantLaw,
    wander: Wander,
    /// The current or the next outage: start, end, what.
    outage: (i64, i64, Outage),
    health: f64,
    health_micros: i64,
}

/// One call to a participant: what happened, and how likely it was to go wrong.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub leg: LegRow,
    /// Probability of no usable vote in time, given the hidden state.
    pub failure_probability: f64,
}

impl ParticipantState {
    pub(super) fn new(
        name: &ParticipantName,
        law: &ParticipantLaw,
        start: i64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        Self {
            name: name.clone(),
            law: law.clone(),
            wander: Wander::start(&law.wander, start, rng),
            outage: next_outage(law, start, rng),
            health: 1.0,
            health_micros: start,
        }
    }

    /// Sends a prepare at `now` under a load relative to the base load.
    pub(super) fn call(
        &mut self,
        coordinator: &CoordinatorLaw,
        now: i64,
        relative_load: f64,
        rng: &mut ChaCha8Rng,
    ) -> Call {
        while self.outage.1 <= now {
            self.outage = next_outage(&self.law, self.outage.1, rng);
        }
        let outage = (self.outage.0 <= now).then_some(self.outage.2);
        let law = &self.law;
        let in_flight = in_flight(law, relative_load, rng);
        let slow = if let Some(Outage::Slow(factor)) = outage { factor } else { 1.0 };
        let wander = self.wander.step(&law.wander, now, rng);
        let stretch = slow * (queue(law, in_flight) + wander).exp();
        let latency_ms = round_to(body_or_tail(law, rng) * stretch, 3).max(0.001);
        let (error, silent) = match outage {
            Some(Outage::Failing) => (law.outage_error_ratio, law.outage_silent_ratio),
            _ => (law.error_ratio, 0.0),
        };
        let late = late_probability(law, coordinator.timeout_ms / stretch);
        let failure_probability = error + silent + (1.0 - error - silent).max(0.0) * late;
        let fate = uniform(rng);
        let heard = happens(rng, coordinator.late_heard_ratio)
            && latency_ms <= coordinator.late_heard_ms_max;
        let health = self.observe_health(coordinator, now, 1.0 - failure_probability, rng);
        let timeout_ms = coordinator.timeout_ms;
        let (vote, prepare_ms, late_ms) = if fate < error {
            (LegVote::No, latency_ms.min(timeout_ms), None)
        } else if fate < error + silent {
            (LegVote::Timeout, timeout_ms, None)
        } else if latency_ms > timeout_ms {
            (LegVote::Timeout, timeout_ms, heard.then_some(latency_ms))
        } else {
            (LegVote::Yes, latency_ms, None)
        };
        let leg = LegRow {
            participant: self.name.clone(),
            vote,
            prepare_ms,
            timeout_ms: Some(timeout_ms),
            late_ms,
            in_flight,
            health,
        };
        Call { leg, failure_probability }
    }

    /// Recorded health follows the truth with a delay, as a monitor's average does.
    fn observe_health(
        &mut self,
        law: &CoordinatorLaw,
        now: i64,
        truth: f64,
        rng: &mut ChaCha8Rng,
    ) -> f64 {
        let known_since = if self.outage.0 <= now { self.outage.0 } else { i64::MIN };
        let since = self.health_micros.max(known_since);
        let minutes = (now - since).max(0) as f64 / (60 * MICROS_PER_SECOND) as f64;
        let kept = (-std::f64::consts::LN_2 * minutes / law.health_half_life_minutes).exp();
        self.health = truth + (self.health - truth) * kept;
        self.health_micros = now;
        round_to((self.health - law.health_noise * normal(rng).abs()).clamp(0.0, 1.0), 3)
    }
}

/// A latency as `World::latency_ms` promises it: without the hidden wandering.
pub(super) fn free_latency_ms(
    law: &ParticipantLaw,
    relative_load: f64,
    outage: bool,
    rng: &mut ChaCha8Rng,
) -> f64 {
    let slow = if outage { law.outage_slow_factor.draw(rng) } else { 1.0 };
    let in_flight = in_flight(law, relative_load, rng);
    body_or_tail(law, rng) * slow * queue(law, in_flight).exp()
}

/// Poisson in effect: the rounded normal law of the same mean and variance.
fn in_flight(law: &ParticipantLaw, relative_load: f64, rng: &mut ChaCha8Rng) -> u32 {
    let mean = law.in_flight_mean * relative_load.max(0.0);
    (mean + mean.sqrt() * normal(rng)).round().max(0.0) as u32
}

fn queue(law: &ParticipantLaw, in_flight: u32) -> f64 {
    law.queue_slope * f64::from(in_flight) / law.in_flight_mean
}

fn body_or_tail(law: &ParticipantLaw, rng: &mut ChaCha8Rng) -> f64 {
    let body = law.body_ms.draw(rng);
    if happens(rng, law.tail_ratio) { body * law.tail_factor.draw(rng) } else { body }
}

/// Probability that body or tail exceeds a limit in milliseconds.
fn late_probability(law: &ParticipantLaw, limit_ms: f64) -> f64 {
    let beyond = |median: f64, log_sigma: f64| {
        let distance = (limit_ms / median).ln();
        if log_sigma == 0.0 {
            return if distance < 0.0 { 1.0 } else { 0.0 };
        }
        normal_tail(distance / log_sigma)
    };
    let (body, tail) = (&law.body_ms, &law.tail_factor);
    let tail_sigma = body.log_sigma.hypot(tail.log_sigma);
    (1.0 - law.tail_ratio) * beyond(body.median, body.log_sigma)
        + law.tail_ratio * beyond(body.median * tail.median, tail_sigma)
}

fn next_outage(law: &ParticipantLaw, from: i64, rng: &mut ChaCha8Rng) -> (i64, i64, Outage) {
    if law.outages_per_30_days == 0.0 {
        return (i64::MAX, i64::MAX, Outage::Failing);
    }
    let wait_days = exponential(rng, 30.0 / law.outages_per_30_days);
    let start = from + (wait_days * MICROS_PER_DAY as f64) as i64;
    let length = law.outage_minutes.draw(rng) * (60 * MICROS_PER_SECOND) as f64;
    let failing = happens(rng, law.outage_failing_share);
    let factor = law.outage_slow_factor.draw(rng);
    let outage = if failing { Outage::Failing } else { Outage::Slow(factor) };
    (start, start + (length as i64).max(MICROS_PER_SECOND), outage)
}

/// Every participant of a world, in the order of their names.
pub(super) fn all(world: &World, start: i64, rng: &mut ChaCha8Rng) -> Vec<ParticipantState> {
    world
        .participants
        .iter()
        .map(|(name, law)| ParticipantState::new(name, law, start, rng))
        .collect()
}
