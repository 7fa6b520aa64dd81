//! What single features say of a simple story.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::histories::{START, payment, state};
use crate::features::schema::Txn;
use crate::features::window::{Counters, Moments, Window};
use crate::features::{Event, LegContext, State};
use crate::txn::{
    CounterpartyId, FailureClass, HistoryOutcome, Kind, Location, ParticipantName, Payment,
    Timestamp,
};

fn at(hours: f64) -> Timestamp {
    Timestamp::from_micros(START).after(Duration::from_secs_f64(hours * 3_600.0))
}

fn some_payment() -> Payment {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut payment = payment().new_tree(&mut runner).unwrap().current();
    payment.kind = Kind::Upi;
    payment.amount.minor = 10_000;
    payment.counterparty = Some(CounterpartyId::new("m").unwrap());
    payment.participants = vec![ParticipantName::new("core").unwrap()];
    payment
}

fn value(state: &State, payment: &Payment, now: Timestamp, feature: Txn) -> f64 {
    f64::from(state.extract(payment, &[LegContext::default()], now).txn[feature as usize])
}

#[track_caller]
fn check(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() < 1e-4 * expected.abs().max(1.0),
        "{actual} is not {expected}"
    );
}

#[test]
fn fading_counts_equal_those_of_a_plain_window_in_steady_traffic() {
    let mut counters = Counters::new(at(0.0));
    let windows = [Window::HOUR, Window::DAY];
    for minute in 0..(20 * 24 * 60) {
        counters.add(at(f64::from(minute) / 60.0), &windows, [1.0, 1.0]);
    }
    let [hour, day] = counters.read(at(20.0 * 24.0), &windows);
    assert!((hour - 60.0).abs() < 1.0 && (day - 1_440.0).abs() < 2.0, "{hour} {day}");
    let [gone, _] = counters.read(Timestamp::LATEST, &windows);
    check(gone, 0.0);
}

#[test]
fn payments_are_counted_and_fade() {
    let (mut state, payment) = (state(), some_payment());
    for _ in 0..3 {
        state.apply(&Event::Arrived { at: at(0.0), payment: &payment });
    }
    let count = |hours, feature| value(&state, &payment, at(hours), feature).exp_m1();
    check(count(0.0, Txn::Count1h), 3.0);
    check(count(1.0, Txn::Count1h), 3.0 / std::f64::consts::E);
    check(count(24.0, Txn::Count1d), 3.0 / std::f64::consts::E);
    check(count(2.0, Txn::SincePayment), 7_200.0);
    check(count(0.0, Txn::Counterparties7d), 1.0);
    check(count(8.0 * 24.0, Txn::Counterparties7d), 0.0);
    check(count(0.0, Txn::CounterpartyCount), 3.0);
    check(count(0.0, Txn::Amount1d), 40_000.0);
}

#[test]
fn a_large_amount_to_a_new_counterparty_stands_out_of_a_habit() {
    let (mut state, mut payment) = (state(), some_payment());
    for day in 0..30 {
        payment.amount.minor = 9_000 + 100 * (day % 20);
        state.apply(&Event::Arrived { at: at(day as f64 * 24.0), payment: &payment });
    }
    let now = at(31.0 * 24.0);
    let usual = value(&state, &payment, now, Txn::AmountDeviation);
    assert!(usual.abs() < 1.5, "{usual}");
    check(value(&state, &payment, now, Txn::NewCounterpartyExcess), 0.0);
    payment.amount.minor = 10_000_000;
    payment.counterparty = Some(CounterpartyId::new("stranger").unwrap());
    for feature in [Txn::AmountDeviation, Txn::NewCounterpartyExcess, Txn::AmountRatio] {
        let value = value(&state, &payment, now, feature);
        assert!(value > 4.0, "{feature:?} is {value}");
    }
    check(value(&state, &payment, now, Txn::CounterpartyKnown), 0.0);
    // One outlier does not become the normal.
    state.apply(&Event::Arrived { at: now, payment: &payment });
    let again = value(&state, &payment, at(32.0 * 24.0), Txn::AmountDeviation);
    assert!(again > 4.0, "{again}");
    check(value(&state, &payment, now, Txn::Large3d).exp_m1(), 1.0);
}

#[test]
fn failures_lower_success_and_a_rejection_teaches_nothing() {
    let (mut state, mut payment) = (state(), some_payment());
    let finish = |state: &mut State, payment: &Payment, outcome, failure_class| {
        state.apply(&Event::Finished { at: at(0.0), payment, outcome, failure_class });
    };
    let now = at(0.1);
    let before = state.extract(&payment, &[], now);
    finish(&mut state, &payment, HistoryOutcome::Rejected, None);
    assert_eq!(
        before.txn.map(f32::to_bits),
        state.extract(&payment, &[], now).txn.map(f32::to_bits)
    );

    finish(&mut state, &payment, HistoryOutcome::Committed, None);
    let good = value(&state, &payment, now, Txn::CustomerSuccess);
    let class = Some(FailureClass::Business);
    finish(&mut state, &payment, HistoryOutcome::Aborted, class);
    assert!(value(&state, &payment, now, Txn::CustomerSuccess) < good);
    assert!(value(&state, &payment, now, Txn::DeclinedAmount) > 0.9);
    let calm = value(&state, &payment, now, Txn::TechnicalMost);
    payment.amount.minor -= 1;
    assert!(value(&state, &payment, now, Txn::DeclinedAmount) < -0.9);

    let class = Some(FailureClass::Technical);
    finish(&mut state, &payment, HistoryOutcome::Aborted, class);
    let outage = value(&state, &payment, now, Txn::TechnicalMost);
    assert!(outage > calm + 1.0, "{outage} {calm}");
    let later = value(&state, &payment, at(2.0), Txn::TechnicalMost);
    assert!(later < outage, "an outage is forgotten: {later} {outage}");
    check(value(&state, &payment, at(0.0), Txn::Failures1h).exp_m1(), 2.0);
}

#[test]
fn fraud_labels_follow_customer_and_counterparty() {
    let (mut state, payment) = (state(), some_payment());
    let before = value(&state, &payment, at(0.0), Txn::CounterpartyFraud);
    state.apply(&Event::Labelled { at: at(0.0), payment: &payment, fraud: true });
    assert!(value(&state, &payment, at(0.0), Txn::CounterpartyFraud) > before + 1.0);
    check(value(&state, &payment, at(0.0), Txn::CounterpartyFrauds).exp_m1(), 1.0);
    check(value(&state, &payment, at(0.0), Txn::CustomerFrauds).exp_m1(), 1.0);
}

#[test]
fn impossible_travel_is_fast() {
    let (mut state, mut payment) = (state(), some_payment());
    payment.location = Some(Location { lat: 19.07, lon: 72.88 });
    assert!(value(&state, &payment, at(0.0), Txn::Speed).is_nan());
    state.apply(&Event::Arrived { at: at(0.0), payment: &payment });
    payment.location = Some(Location { lat: 51.51, lon: -0.13 });
    let km = value(&state, &payment, at(0.5), Txn::Distance).exp_m1();
    assert!((km - 7_190.0).abs() < 30.0, "Mumbai to London are {km} km");
    check(value(&state, &payment, at(0.5), Txn::Speed).exp_m1() / km, 2.0);
}

proptest! {
    #[test]
    fn moments_equal_their_definition(
        values in prop::collection::vec((-50.0..50.0, 0.0..200.0), 1..50),
    ) {
        let mut moments = Moments::new(at(0.0));
        let mut now = 0.0;
        let mut seen = Vec::new();
        for (value, hours) in values {
            now += hours;
            moments.add(at(now), Window::DAYS_3, value);
            seen.push((value, now));
        }
        let weigh = |hours: f64| ((hours - now) / 72.0).exp();
        let weight: f64 = seen.iter().map(|(_, hours)| weigh(*hours)).sum();
        let mean = seen.iter().map(|(value, hours)| weigh(*hours) * value).sum::<f64>() / weight;
        let square = |(value, hours): &(f64, f64)| weigh(*hours) * (value - mean).powi(2);
        let variance = seen.iter().map(square).sum::<f64>() / weight;
        prop_assert!((moments.weight(at(now), Window::DAYS_3) - weight).abs() < 1e-6);
        prop_assert!((moments.mean().unwrap() - mean).abs() < 1e-6);
        prop_assert!((moments.variance().unwrap() - variance).abs() < 1e-6);
    }
}

#[test]
fn a_refused_payment_makes_nobody_known() {
    for outcome in [HistoryOutcome::Rejected, HistoryOutcome::Aborted] {
        let (mut state, payment) = (state(), some_payment());
        let known = |state: &State| value(state, &payment, at(1.0), Txn::CounterpartyKnown);
        let mut pay = |outcome| {
            let (at, payment, failure_class) = (at(0.0), &payment, None);
            state.apply(&Event::Arrived { at, payment });
            state.apply(&Event::Finished { at, payment, outcome, failure_class });
            known(&state)
        };
        check(pay(outcome), 0.0);
        check(pay(HistoryOutcome::Committed), 1.0);
        check(pay(outcome), 1.0);
    }
}

#[test]
fn the_counterparties_paid_longest_ago_are_forgotten_first() {
    let (mut state, mut payment) = (state(), some_payment());
    let mut named = |state: &mut State, id: usize, apply: bool| {
        payment.counterparty = Some(CounterpartyId::new(&format!("m{id}")).unwrap());
        let known = value(state, &payment, at(1.0), Txn::CounterpartyKnown);
        if apply {
            state.apply(&Event::Arrived { at: at(1.0), payment: &payment });
        }
        known
    };
    for id in 0..24 {
        check(named(&mut state, id, true), 0.0);
    }
    check(named(&mut state, 0, true), 1.0);
    check(named(&mut state, 24, true), 0.0);
    check(named(&mut state, 1, false), 0.0);
    for id in (2..=24).chain([0]) {
        check(named(&mut state, id, false), 1.0);
    }
}

#[test]
fn memory_is_as_documented() {
    use crate::features::bounded::Bounded;
    use crate::features::entities::{Counterparty, Customer, ParticipantHistory};
    let bytes = [
        Bounded::<Customer>::bytes_per_entry(),
        Bounded::<Counterparty>::bytes_per_entry(),
        Bounded::<ParticipantHistory>::bytes_per_entry(),
    ];
    // The index takes up to 12 bytes more.
    assert_eq!(bytes, [480, 88, 224]);
}
