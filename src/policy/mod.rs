//! Policy: predictions in, a finished plan with reasons out.
//!
//! Pure: what it remembers (the cap's tokens, the timeout offsets) is its own state, and time and
//! outcomes are told to it. It runs before the engine starts and never after anything is prepared.

mod admission;
pub mod coalescing;
mod options;
mod timeout;

#[cfg(test)]
mod tests;

use crate::txn::{
    Admission, BranchPlan, Mode, ParticipantName, Plan, Prediction, Protocol, Reason, ReasonCode,
    ServedBy,
};

pub use options::{Options, OptionsError};

use admission::RejectedShare;
use timeout::Offsets;

/// Turns predictions into plans.
#[derive(Debug)]
pub struct Policy {
    options: Options,
    mode: Mode,
    fraud_rejected: RejectedShare,
    success_rejected: RejectedShare,
    offsets: Offsets,
}

impl Policy {
    /// A policy in the mode of its options.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self {
            mode: options.mode,
            fraud_rejected: RejectedShare::new(options.rejected_share_max),
            success_rejected: RejectedShare::new(options.rejected_share_max),
            offsets: Offsets::new(options.false_abort_ratio_target, options.timeout_step),
            options,
        })
    }

    /// The mode in force.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Switches between off, observe and enforce.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// The options that it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The plan for one transaction over `participants`; `prediction` is `None` in mode off.
    pub fn plan(
        &mut self,
        participants: &[ParticipantName],
        prediction: Option<&Prediction>,
    ) -> Plan {
        let prediction = prediction.filter(|_| self.mode != Mode::Off);
        let mut reasons = Vec::new();
        let admission = match prediction {
            Some(prediction) => self.admit(prediction, &mut reasons),
            None => Admission::Admit,
        };
        let branches = participants
            .iter()
            .map(|participant| BranchPlan {
                participant: participant.clone(),
                prepare_timeout: self.prepare_timeout(participant, prediction),
            })
            .collect();
        Plan { admission, protocol: Protocol::TwoPhase, branches, reasons, mode: self.mode }
    }

    /// The plan that would be made, without spending anything of the cap.
    pub fn preview(
        &mut self,
        participants: &[ParticipantName],
        prediction: Option<&Prediction>,
    ) -> Plan {
        let saved = (self.fraud_rejected.clone(), self.success_rejected.clone());
        let plan = self.plan(participants, prediction);
        (self.fraud_rejected, self.success_rejected) = saved;
        plan
    }

    /// Learns from one vote: whether it came before its timeout. Adapts that participant's offset.
    pub fn observe_vote(&mut self, participant: &ParticipantName, timing: VoteTiming) {
        self.offsets.observe(participant, timing);
    }

    fn admit(&mut self, prediction: &Prediction, reasons: &mut Vec<Reason>) -> Admission {
        if prediction.success_by == ServedBy::Rules || prediction.fraud_by == ServedBy::Rules {
            reasons.push(Reason::new(
                ReasonCode::ModelFallback,
                format!(
                    "success served by {}, fraud by {}",
                    prediction.success_by, prediction.fraud_by
                ),
            ));
        }
        let fraud = prediction.fraud.get();
        let success = prediction.success.get();
        // Each transaction earns its share of rejections, whether or not it is one itself.
        self.fraud_rejected.count();
        self.success_rejected.count();
        let (wish, share) = if fraud > self.options.fraud_reject_above {
            let detail = format!(
                "fraud probability {fraud:.3} is above {}",
                self.options.fraud_reject_above
            );
            (Reason::new(ReasonCode::FraudPredicted, detail), &mut self.fraud_rejected)
        } else if success < self.options.success_reject_below {
            let detail = format!(
                "success probability {success:.3} is below {}",
                self.options.success_reject_below
            );
            (Reason::new(ReasonCode::SuccessUnlikely, detail), &mut self.success_rejected)
        } else {
            return Admission::Admit;
        };
        if self.mode != Mode::Enforce {
            reasons.push(Reason::new(
                ReasonCode::Observed,
                format!("would be rejected in mode enforce: {}", wish.detail),
            ));
            return Admission::Admit;
        }
        if !share.take() {
            reasons.push(Reason::new(
                ReasonCode::RejectedShareCapped,
                format!(
                    "{}; admitted, because the rejected share would pass {}",
                    wish.detail, self.options.rejected_share_max
                ),
            ));
            return Admission::Admit;
        }
        reasons.push(wish);
        Admission::Reject
    }

    fn prepare_timeout(
        &self,
        participant: &ParticipantName,
        prediction: Option<&Prediction>,
    ) -> std::time::Duration {
        let predicted = prediction
            .filter(|_| self.mode == Mode::Enforce)
            .and_then(|p| p.latency.iter().find(|l| &l.participant == participant))
            .filter(|l| l.upper_ms.is_finite() && l.upper_ms > 0.0)
            .map(|l| l.upper_ms * self.offsets.factor(participant));
        self.options.clamp_timeout(predicted)
    }
}

/// How a vote came, seen from its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteTiming {
    /// Before the timeout.
    InTime,
    /// After it, or not at all while the participant answered others: a false abort.
    Late,
}
