//! From a finished transaction to what is stored and answered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::answer::{Insights, Timings};
use crate::decision_log::{OutcomeLeg, OutcomeRow};
use crate::features::{Features, LegContext};
use crate::protocol::two_phase::AbortCause;
use crate::txn::{
    Declined, FailureClass, LegVote, Outcome, ParticipantName, Plan, Prediction, Reason,
    ReasonCode, Timestamp, Transaction,
};

/// How one branch went, as the driver saw it.
#[derive(Debug, Clone)]
pub(super) struct LegTrace {
    pub(super) context: LegContext,
    pub(super) sent_at: Option<Duration>,
    pub(super) vote: Option<LegVote>,
    pub(super) prepare: Option<Duration>,
}

/// Everything known of a transaction but how it ended.
pub(super) struct Draft {
    pub(super) transaction: Transaction,
    pub(super) timestamp: Timestamp,
    pub(super) features: Features,
    pub(super) prediction: Option<Prediction>,
    pub(super) plan: Plan,
}

impl Draft {
    /// The row of a transaction that ended after `total`.
    pub(super) fn row(
        &self,
        outcome: Outcome,
        failure: Option<FailureClass>,
        reasons: &[Reason],
        legs: &[LegTrace],
        total: Duration,
    ) -> OutcomeRow {
        let payment = &self.transaction.payment;
        OutcomeRow {
            txn_id: self.transaction.id.clone(),
            timestamp: self.timestamp,
            kind: payment.kind.to_string(),
            customer_id: payment.customer.id.to_string(),
            customer_type: payment.customer.customer_type.to_string(),
            customer_since: payment.customer.since,
            counterparty_id: payment.counterparty.as_ref().map(ToString::to_string),
            amount_minor: payment.amount.minor,
            currency: payment.amount.currency.to_string(),
            cross_border: payment.cross_border,
            requires_consistency: payment.requires_consistency,
            lat: payment.location.map(|l| l.lat),
            lon: payment.location.map(|l| l.lon),
            attempt: payment.attempt,
            system_load_ratio: payment.system_load_ratio,
            outcome,
            failure_class: failure.map(|f| f.to_string()),
            reasons: reasons.iter().map(|r| r.code.to_string()).collect(),
            total_us: u64::try_from(total.as_micros()).unwrap_or(u64::MAX),
            features: self.features.txn.to_vec(),
            prediction: self.prediction.clone(),
            plan: self.plan.clone(),
            legs: self.legs(legs),
        }
    }

    fn legs(&self, traces: &[LegTrace]) -> Vec<OutcomeLeg> {
        let of = |(branch, trace): (&crate::txn::BranchPlan, &LegTrace)| OutcomeLeg {
            participant: branch.participant.clone(),
            vote: trace.vote,
            prepare_ms: trace.prepare.map(milliseconds),
            timeout_ms: milliseconds(branch.prepare_timeout),
            late_ms: None,
            in_flight: trace.context.in_flight,
            health: trace.context.health,
        };
        self.plan.branches.iter().zip(traces).map(of).collect()
    }

    /// The insights of the answer.
    pub(super) fn insights(&self) -> Option<Insights> {
        let prediction = self.prediction.as_ref()?;
        Some(insights(prediction, &self.plan))
    }
}

/// The predictions behind an answer, in the shape that clients read.
pub(super) fn insights(prediction: &Prediction, plan: &Plan) -> Insights {
    let served = |by: crate::txn::ServedBy| match by {
        crate::txn::ServedBy::Model => prediction.model_version.clone(),
        crate::txn::ServedBy::Rules => "rules".to_owned(),
    };
    let mut models = BTreeMap::from([
        ("success".to_owned(), served(prediction.success_by)),
        ("fraud".to_owned(), served(prediction.fraud_by)),
    ]);
    if let Some(leg) = prediction.latency.first() {
        models.insert("latency".to_owned(), served(leg.served_by));
    }
    let timeouts = plan.branches.iter().map(|b| b.prepare_timeout);
    let latency = prediction.latency.iter().map(|l| (l.participant.to_string(), l.median_ms));
    Insights {
        success_probability: prediction.success,
        fraud_probability: prediction.fraud,
        timeout_ms: milliseconds(timeouts.max().unwrap_or_default()),
        confidence: (2.0 * prediction.success.get() - 1.0).abs(),
        latency_ms: latency.collect(),
        models,
    }
}

/// Why it aborted: as a reason for the client and a class for learning.
pub(super) fn explain(
    cause: Option<&AbortCause>,
    participants: &[ParticipantName],
) -> (Reason, FailureClass) {
    let name = |branch: &crate::txn::BranchIndex| &participants[usize::from(branch.0)];
    match cause {
        Some(AbortCause::Declined(branch, why)) => declined_at(name(branch), why),
        Some(AbortCause::VoteUnknown(branch, detail)) => {
            let detail = format!("the vote of {} is unknown: {detail}", name(branch));
            (Reason::new(ReasonCode::TechnicalFailure, detail), FailureClass::Technical)
        }
        Some(AbortCause::Timeout(branch)) => {
            let detail = format!("{} did not vote in time", name(branch));
            (Reason::new(ReasonCode::PrepareTimeout, detail), FailureClass::Technical)
        }
        Some(AbortCause::Cancelled) | None => {
            let detail = "stopped before a decision".to_owned();
            (Reason::new(ReasonCode::Cancelled, detail), FailureClass::Technical)
        }
    }
}

/// The same of a participant that declined or failed.
pub(super) fn declined_at(name: &ParticipantName, why: &Declined) -> (Reason, FailureClass) {
    match why {
        Declined::Business { code, detail } => {
            let detail = format!("{name} declined with {code}: {detail}");
            (Reason::new(ReasonCode::BusinessDecline, detail), FailureClass::Business)
        }
        Declined::Technical { code, detail } => {
            let detail = format!("{name} failed with {code}: {detail}");
            (Reason::new(ReasonCode::TechnicalFailure, detail), FailureClass::Technical)
        }
    }
}

/// Times as milliseconds.
pub(super) fn timings(
    predict: Duration,
    prepared: Duration,
    decided: Duration,
    total: Duration,
) -> Timings {
    Timings {
        predict: milliseconds(predict),
        prepare: milliseconds(prepared.saturating_sub(predict)),
        commit: milliseconds(decided.saturating_sub(prepared)),
        total: milliseconds(total),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
