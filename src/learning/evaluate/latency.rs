//! Timeout rules' figures, with intervals: pure, from legs and the timeouts each rule gave them.

use std::collections::BTreeMap;

use super::classifier::Resampling;
use super::result::{LatencyRow, LatencyVersus, ParticipantCoverage};
use crate::learning::metrics::bootstrap::{Dependence, weighted};
use crate::learning::metrics::{Leg, pinball, score_timeouts};

/// A timeout is judged as this quantile of arriving votes: 1 minus the false-abort target.
pub(super) const TIMEOUT_LEVEL: f64 = 0.999;

/// Votes later than a minute count as never heard: nobody keeps a branch open for longer.
pub(super) const LISTENING_HORIZON_MS: f64 = 60_000.0;

/// Votes a participant needs before its coverage is called the worst.
const WORST_ARRIVED_MIN: usize = 100;

/// The legs of a test window, in parallel columns.
#[allow(clippy::struct_field_names, reason = "the legs themselves stand among their columns")]
pub(super) struct Legs {
    pub legs: Vec<Leg>,
    pub participant: Vec<u32>,
    pub names: Vec<String>,
    pub dependence: Dependence,
    /// Timeouts in milliseconds by rule, `champion` among them.
    pub rules: BTreeMap<String, Vec<f64>>,
}

/// The figures of every rule.
pub(super) fn rows(legs: &Legs, how: Resampling) -> BTreeMap<String, LatencyRow> {
    let champion = &legs.rules["champion"];
    let one = |(name, timeouts): (&String, &Vec<f64>)| {
        let mut row = figures(legs, timeouts, how);
        if name != "champion" {
            row.vs_champion = versus(legs, champion, timeouts, how);
        }
        (name.clone(), row)
    };
    legs.rules.iter().map(one).collect()
}

fn figures(legs: &Legs, timeouts: &[f64], how: Resampling) -> LatencyRow {
    let score = score_timeouts(&legs.legs, timeouts, TIMEOUT_LEVEL, LISTENING_HORIZON_MS);
    let per_leg = |i: usize| {
        let one = score_timeouts(
            &legs.legs[i..=i],
            &timeouts[i..=i],
            TIMEOUT_LEVEL,
            LISTENING_HORIZON_MS,
        );
        let known =
            |value: Option<f64>| [value.unwrap_or(0.0), f64::from(u8::from(value.is_some()))];
        let [covered, arrived] = known(one.coverage);
        let [aborted, could_commit] = known(one.false_abort_ratio);
        let [waited, dead] = known(one.dead_wait_ms);
        [covered, arrived, aborted, could_commit, one.pinball.unwrap_or(0.0), waited, dead]
    };
    let [coverage_ci, false_abort_ratio_ci, pinball_ci, dead_wait_ms_ci] =
        legs.dependence.intervals(how.means, how.seed, |clusters| {
            let sums = clusters.sums(per_leg);
            move |weights: &[f64]| {
                let [covered, arrived, aborted, could_commit, loss, waited, dead] =
                    weighted(&sums, weights);
                let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
                [
                    share(covered, arrived),
                    share(aborted, could_commit),
                    share(loss, arrived),
                    share(waited, dead),
                ]
            }
        });
    let worst_participant = by_participant(legs, timeouts)
        .into_iter()
        .filter(|one| one.arrived >= WORST_ARRIVED_MIN)
        .min_by(|a, b| a.coverage.total_cmp(&b.coverage));
    LatencyRow {
        score,
        coverage_ci,
        false_abort_ratio_ci,
        pinball_ci,
        dead_wait_ms_ci,
        worst_participant,
        vs_champion: None,
    }
}

/// Coverage at each participant that answered at all, in order of name.
pub(super) fn by_participant(legs: &Legs, timeouts: &[f64]) -> Vec<ParticipantCoverage> {
    let mut parts: Vec<(Vec<Leg>, Vec<f64>)> = vec![Default::default(); legs.names.len()];
    for ((leg, participant), timeout) in legs.legs.iter().zip(&legs.participant).zip(timeouts) {
        let part = &mut parts[*participant as usize];
        part.0.push(*leg);
        part.1.push(*timeout);
    }
    let one = |(name, (legs, timeouts)): (&String, (Vec<Leg>, Vec<f64>))| {
        let score = score_timeouts(&legs, &timeouts, TIMEOUT_LEVEL, LISTENING_HORIZON_MS);
        Some(ParticipantCoverage {
            participant: name.clone(),
            arrived: score.arrived,
            coverage: score.coverage?,
            false_abort_ratio: score.false_abort_ratio,
        })
    };
    let mut found: Vec<_> = legs.names.iter().zip(parts).filter_map(one).collect();
    found.sort_by(|a, b| a.participant.cmp(&b.participant));
    found
}

fn versus(
    legs: &Legs,
    champion: &[f64],
    baseline: &[f64],
    how: Resampling,
) -> Option<LatencyVersus> {
    let difference = |i: usize| match legs.legs[i].latency_ms {
        Some(latency) => {
            let loss = |timeout: f64| pinball(TIMEOUT_LEVEL, timeout, latency);
            [1.0, loss(champion[i]) - loss(baseline[i])]
        }
        None => [0.0; 2],
    };
    let total =
        (0..legs.legs.len()).map(difference).fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    let mean = |[n, sum]: [f64; 2]| (n > 0.0).then(|| sum / n);
    let [pinball_difference_ci] = legs.dependence.intervals(how.means, how.seed, |clusters| {
        let sums = clusters.sums(difference);
        move |weights: &[f64]| [mean(weighted(&sums, weights))]
    });
    Some(LatencyVersus { pinball_difference: mean(total)?, pinball_difference_ci })
}
