#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;
use crate::txn::{LatencyPrediction, Probability};

fn core() -> ParticipantName {
    ParticipantName::new("core").unwrap()
}

fn prediction(success: f64, fraud: f64, upper_ms: f64) -> Prediction {
    Prediction {
        success: Probability::new(success).unwrap(),
        success_by: ServedBy::Model,
        fraud: Probability::new(fraud).unwrap(),
        fraud_by: ServedBy::Model,
        latency: vec![LatencyPrediction {
            participant: core(),
            median_ms: upper_ms / 4.0,
            upper_ms,
            served_by: ServedBy::Model,
        }],
        model_version: "test/1".into(),
    }
}

fn policy(mode: Mode) -> Policy {
    Policy::new(Options { mode, ..Options::default() }).unwrap()
}

fn check(mode: Mode, success: f64, fraud: f64, admission: Admission, code: Option<ReasonCode>) {
    let plan = policy(mode).plan(&[core()], Some(&prediction(success, fraud, 100.0)));
    assert_eq!(plan.admission, admission, "{mode} {success} {fraud}");
    assert_eq!(plan.reasons.first().map(|r| r.code), code, "{mode} {success} {fraud}");
}

#[test]
fn thresholds_reject_only_beyond_themselves_and_only_in_enforce() {
    check(Mode::Enforce, 0.9, 0.1, Admission::Admit, None);
    check(Mode::Enforce, 0.9, 0.85, Admission::Admit, None);
    check(Mode::Enforce, 0.9, 0.86, Admission::Reject, Some(ReasonCode::FraudPredicted));
    check(Mode::Enforce, 0.30, 0.1, Admission::Admit, None);
    check(Mode::Enforce, 0.29, 0.1, Admission::Reject, Some(ReasonCode::SuccessUnlikely));
    check(Mode::Observe, 0.1, 0.9, Admission::Admit, Some(ReasonCode::Observed));
    check(Mode::Off, 0.1, 0.9, Admission::Admit, None);
}

#[test]
fn the_rejected_share_stays_under_its_cap_when_a_model_would_turn_all_away() {
    let mut policy = policy(Mode::Enforce);
    let gloomy = prediction(0.1, 0.0, 100.0);
    let rejected = (0..10_000)
        .filter(|_| policy.plan(&[core()], Some(&gloomy)).admission == Admission::Reject)
        .count();
    assert!((500..=521).contains(&rejected), "{rejected} of 10000");
}

#[test]
fn a_cap_of_zero_rejects_nothing() {
    let options = Options { mode: Mode::Enforce, rejected_share_max: 0.0, ..Options::default() };
    let mut policy = Policy::new(options).unwrap();
    let plan = policy.plan(&[core()], Some(&prediction(0.1, 0.99, 100.0)));
    assert_eq!(plan.admission, Admission::Admit);
    assert_eq!(plan.reasons[0].code, ReasonCode::RejectedShareCapped);
}

#[test]
fn timeouts_follow_the_prediction_within_bounds() {
    let mut enforce = policy(Mode::Enforce);
    let timeout = |policy: &mut Policy, upper_ms: f64| {
        policy.plan(&[core()], Some(&prediction(0.9, 0.0, upper_ms))).branches[0].prepare_timeout
    };
    assert_eq!(timeout(&mut enforce, 420.0), Duration::from_millis(420));
    assert_eq!(timeout(&mut enforce, 0.001), Duration::from_millis(50));
    assert_eq!(timeout(&mut enforce, 1e300), Duration::from_secs(30));
    assert_eq!(timeout(&mut enforce, f64::NAN), Duration::from_secs(5));
    assert_eq!(timeout(&mut policy(Mode::Observe), 420.0), Duration::from_secs(5));
    let none = enforce.plan(&[core()], None).branches[0].prepare_timeout;
    assert_eq!(none, Duration::from_secs(5));
}

#[test]
fn the_offset_settles_where_the_target_share_of_votes_is_late() {
    // Votes take 1 to 1000 ms, evenly; the model says 100 ms, ten times too little.
    let options =
        Options { mode: Mode::Enforce, false_abort_ratio_target: 0.05, ..Options::default() };
    let mut policy = Policy::new(options).unwrap();
    let mut late = 0;
    for i in 0..40_000u64 {
        let vote_ms = (i * 7919) % 1000 + 1;
        let plan = policy.plan(&[core()], Some(&prediction(0.9, 0.0, 100.0)));
        let in_time = Duration::from_millis(vote_ms) <= plan.branches[0].prepare_timeout;
        if i >= 20_000 && !in_time {
            late += 1;
        }
        let timing = if in_time { VoteTiming::InTime } else { VoteTiming::Late };
        policy.observe_vote(&core(), timing);
    }
    let share = f64::from(late) / 20_000.0;
    assert!((0.04..0.06).contains(&share), "late share {share}");
}

#[test]
fn options_out_of_bounds_name_key_value_and_bounds() {
    let options = Options { success_reject_below: f64::NAN, ..Options::default() };
    let error = options.check().unwrap_err().to_string();
    assert_eq!(error, "policy.success_reject_below is NaN, it must be between 0 and 1");
    let options = Options { prepare_timeout_ms_max: 10, ..Options::default() };
    assert!(options.check().is_err());
}
