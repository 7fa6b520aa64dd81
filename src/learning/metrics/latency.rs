//! How good prepare timeouts would have been, judged on votes that were heard to their end.

use serde::{Deserialize, Serialize};

/// What is known of one branch's vote in the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leg {
    /// When the vote arrived, in milliseconds after prepare was sent; `None` if it never came.
    pub latency_ms: Option<f64>,
    /// Whether cutting it off would have aborted something that could commit: a yes, a read-only
    /// vote, or a late vote (whose kind is not recorded).
    pub could_commit: bool,
    /// Whether waiting was in vain: it never answered, or it answered no for a technical reason.
    pub dead: bool,
}

/// One timeout rule over many legs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeoutScore {
    /// Legs judged.
    pub n: usize,
    /// Of the votes that arrived at all, the share that arrived within the timeout.
    pub coverage: Option<f64>,
    /// Of the votes that could have committed and came within the listening horizon, the share
    /// that came after the timeout.
    pub false_abort_ratio: Option<f64>,
    /// Mean pinball loss of the timeout as a quantile of arriving votes, in milliseconds.
    pub pinball: Option<f64>,
    /// Mean time waited on dead legs, in milliseconds: until the timeout or the useless answer.
    pub dead_wait_ms: Option<f64>,
    /// Mean timeout, in milliseconds.
    pub timeout_ms_mean: Option<f64>,
    /// Votes that arrived.
    pub arrived: usize,
    /// Votes that came within the horizon but after the timeout.
    pub false_aborts: usize,
    /// Dead legs.
    pub dead: usize,
}

/// Pinball (quantile) loss of predicting `quantile` for `actual`, both in one unit.
pub fn pinball(level: f64, quantile: f64, actual: f64) -> f64 {
    let difference = actual - quantile;
    if difference >= 0.0 { level * difference } else { (level - 1.0) * difference }
}

/// Scores timeouts in milliseconds, one a leg, with pinball loss at `level`; votes later than
/// `horizon_ms` count as never heard for the false-abort ratio.
pub fn score_timeouts(
    legs: &[Leg],
    timeouts_ms: &[f64],
    level: f64,
    horizon_ms: f64,
) -> TimeoutScore {
    assert_eq!(legs.len(), timeouts_ms.len(), "one timeout a leg");
    let (mut covered, mut could_commit, mut loss) = (0_usize, 0_usize, 0.0);
    let (mut waited, mut timeouts) = (0.0, 0.0);
    let mut score = TimeoutScore { n: legs.len(), ..TimeoutScore::default() };
    for (leg, timeout) in legs.iter().zip(timeouts_ms) {
        timeouts += timeout;
        if let Some(latency) = leg.latency_ms {
            score.arrived += 1;
            covered += usize::from(latency <= *timeout);
            loss += pinball(level, *timeout, latency);
            if leg.could_commit && latency <= horizon_ms {
                could_commit += 1;
                score.false_aborts += usize::from(latency > *timeout);
            }
        }
        if leg.dead {
            score.dead += 1;
            waited += leg.latency_ms.map_or(*timeout, |latency| latency.min(*timeout));
        }
    }
    let share = |part: f64, whole: usize| (whole > 0).then(|| part / whole as f64);
    score.coverage = share(covered as f64, score.arrived);
    score.false_abort_ratio = share(score.false_aborts as f64, could_commit);
    score.pinball = share(loss, score.arrived);
    score.dead_wait_ms = share(waited, score.dead);
    score.timeout_ms_mean = share(timeouts, score.n);
    score
}
