//! The adaptive offset of each participant's timeout.
//!
//! θ ← θ + γ (miss − α), after Gibbs and Candès, *Adaptive conformal inference under distribution
//! shift* (2021), in log time: the timeout is multiplied by e^θ. A miss lengthens it at once, many
//! hits shorten it slowly, and in the long run a share α of votes misses.

use std::collections::HashMap;

use super::VoteTiming;
use crate::txn::ParticipantName;

/// Bounds of θ: a timeout is never stretched or shrunk by more than a factor of e³ ≈ 20.
const THETA_MAX: f64 = 3.0;

/// Participants remembered; further ones keep a factor of one.
const PARTICIPANTS_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Offsets {
    target: f64,
    step: f64,
    theta: HashMap<ParticipantName, f64>,
}

impl Offsets {
    pub(super) fn new(target: f64, step: f64) -> Self {
        Self { target, step, theta: HashMap::new() }
    }

    pub(super) fn factor(&self, participant: &ParticipantName) -> f64 {
        self.theta.get(participant).copied().unwrap_or(0.0).exp()
    }

    pub(super) fn observe(&mut self, participant: &ParticipantName, timing: VoteTiming) {
        if self.theta.len() >= PARTICIPANTS_MAX && !self.theta.contains_key(participant) {
            return;
        }
        let theta = self.theta.entry(participant.clone()).or_insert(0.0);
        let miss = if timing == VoteTiming::Late { 1.0 } else { 0.0 };
        *theta = (*theta + self.step * (miss - self.target)).clamp(-THETA_MAX, THETA_MAX);
    }
}
