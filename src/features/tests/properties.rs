//! Online equals offline; the future never leaks; hostile input stays finite; bounds hold.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::histories::{START, history, legs, payment, row, state};
use crate::features::{
    Error, Event, Features, LegContext, Options, Replay, State, leg_features, txn_features,
};
use crate::txn::{
    CounterpartyId, CustomerId, HistoryRow, LegRow, LegVote, ParticipantName, Timestamp,
};

/// NaNs compare equal, and −0 differs from 0.
fn bits(features: &Features) -> (Vec<u32>, Vec<Vec<u32>>) {
    let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect();
    (bits(&features.txn), features.legs.iter().map(|leg| bits(leg)).collect())
}

fn replayed(rows: &[HistoryRow]) -> Vec<(Vec<u32>, Vec<Vec<u32>>)> {
    let mut replay = Replay::new(state());
    rows.iter().map(|row| bits(&replay.step(row.clone()).unwrap())).collect()
}

/// What the online path would see, spelt out: every event of every row in one list, sorted.
fn online(rows: &[HistoryRow]) -> Vec<(Vec<u32>, Vec<Vec<u32>>)> {
    let mut schedule: Vec<(Timestamp, u8, usize, usize)> = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        schedule.push((row.timestamp, 0, number, 0));
        if let Some(total) = row.total {
            let finished = row.timestamp.after(total);
            schedule.push((finished, 1, number, 0));
            for (index, leg) in row.legs.iter().enumerate() {
                schedule.push((finished, 2, number, index));
                if let (LegVote::Timeout, Some(late)) = (leg.vote, leg.late_ms) {
                    let late = row.timestamp.after(Duration::from_secs_f64(late / 1e3));
                    schedule.push((late.max(finished), 3, number, index));
                }
            }
        }
        if let Some(known) = row.labelled_at {
            schedule.push((known, 4, number, 0));
        }
    }
    schedule.sort_unstable();
    let mut state = state();
    let mut vectors = Vec::new();
    for (at, what, number, index) in schedule {
        let HistoryRow { payment, outcome, failure_class, fraud, legs, .. } = &rows[number];
        match what {
            0 => {
                let context =
                    |leg: &LegRow| LegContext { in_flight: leg.in_flight, health: leg.health };
                let contexts: Vec<_> = legs.iter().map(context).collect();
                vectors.push(bits(&state.extract(payment, &contexts, at)));
                state.apply(&Event::Arrived { at, payment });
            }
            1 => {
                let Some(outcome) = *outcome else { continue };
                let failure_class = *failure_class;
                state.apply(&Event::Finished { at, payment, outcome, failure_class });
            }
            2 if legs[index].vote == LegVote::Timeout => {
                let leg = LegRow { late_ms: None, ..legs[index].clone() };
                state.apply(&Event::Leg { at, leg: &leg });
            }
            2 | 3 => state.apply(&Event::Leg { at, leg: &legs[index] }),
            _ => {
                let Some(fraud) = *fraud else { continue };
                state.apply(&Event::Labelled { at, payment, fraud });
            }
        }
    }
    vectors
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replay_equals_online_bit_for_bit(rows in history(1..40)) {
        prop_assert_eq!(replayed(&rows), online(&rows));
    }

    #[test]
    fn no_event_after_t_changes_a_vector_at_t(
        rows in history(2..40),
        other in history(0..10),
        strangers in prop::collection::vec(row(), 40),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(rows.len());
        let t = rows[cut].timestamp;
        // Everything known only at t or later is replaced: outcomes, votes, labels, and all rows.
        let mut changed: Vec<HistoryRow> = rows[..=cut].to_vec();
        for (row, stranger) in changed.iter_mut().zip(strangers) {
            if row.finished_at().is_none_or(|at| at >= t) {
                row.outcome = stranger.outcome;
                row.failure_class = stranger.failure_class;
                row.total = stranger.total.map(|total| t.since(row.timestamp) + total);
                for (leg, other) in row.legs.iter_mut().zip(&stranger.legs) {
                    leg.vote = other.vote;
                    leg.prepare_ms = other.prepare_ms;
                    leg.late_ms = other.late_ms;
                }
            } else {
                for leg in &mut row.legs {
                    let late = leg.late_ms.filter(|_| leg.vote == LegVote::Timeout);
                    if late.is_some_and(|ms| {
                        row.timestamp.after(Duration::from_secs_f64(ms / 1e3)) >= t
                    }) {
                        leg.late_ms = None;
                    }
                }
            }
            if row.labelled_at.is_none_or(|at| at >= t) {
                row.fraud = stranger.fraud;
                row.labelled_at = stranger.fraud.map(|_| t);
            }
        }
        for mut row in other {
            row.timestamp = t.after(row.timestamp.since(Timestamp::from_micros(START)));
            row.labelled_at = row.labelled_at.map(|at| at.max(row.timestamp));
            changed.push(row);
        }
        prop_assert_eq!(&replayed(&rows)[..=cut], &replayed(&changed)[..=cut]);
    }

    #[test]
    fn values_are_finite_or_the_documented_nan(
        rows in prop::collection::vec((row(), hostile_instant(), hostile_instant()), 1..30),
        amounts in prop::collection::vec(prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(0)], 30),
        numbers in prop::collection::vec(hostile_number(), 180),
    ) {
        let mut state = state();
        let mut numbers = numbers.into_iter();
        for ((mut row, now, since), minor) in rows.into_iter().zip(amounts) {
            let mut number = || numbers.next().unwrap();
            row.payment.amount.minor = minor;
            row.payment.customer.since = Some(since);
            row.payment.attempt = u32::MAX;
            row.payment.system_load_ratio = Some(number());
            if let Some(place) = &mut row.payment.location {
                (place.lat, place.lon) = (number(), number());
            }
            let context = LegContext { in_flight: u32::MAX, health: number() };
            check_finite(&state.extract(&row.payment, &[context], now))?;
            apply_all(&mut state, &mut row, now, number());
            check_finite(&state.extract(&row.payment, &[], now))?;
        }
    }

    #[test]
    fn reading_changes_nothing_and_time_running_backwards_is_no_time(
        rows in history(1..20),
        payment in payment(),
        legs in legs(),
        back in 0..10_000_000_000_000i64,
    ) {
        let mut replay = Replay::new(state());
        for row in &rows {
            replay.step(row.clone()).unwrap();
        }
        let last = rows.last().unwrap().timestamp;
        let mut state = replay.into_state();
        let earlier = Timestamp::from_micros(last.micros() - back);
        let mut payment = payment;
        payment.participants = legs.iter().map(|leg| leg.participant.clone()).collect();
        let before = state.extract(&payment, &[], earlier);
        check_finite(&before)?;
        check_finite(&state.extract(&payment, &[], last))?;
        prop_assert_eq!(bits(&before), bits(&state.extract(&payment, &[], earlier)));
        state.apply(&Event::Arrived { at: earlier, payment: &payment });
        check_finite(&state.extract(&payment, &[], last))?;
    }

    #[test]
    fn eviction_keeps_every_bound(rows in history(1..60), max in 1..3usize) {
        let options = Options {
            customers_max: max,
            counterparties_max: max,
            participants_max: max,
            ..Options::default()
        };
        let mut replay = Replay::new(State::new(options).unwrap());
        for row in rows {
            replay.step(row).unwrap();
            let stats = replay.state().stats();
            prop_assert!(stats.customers <= max && stats.counterparties <= max);
            prop_assert!(stats.participants <= max);
        }
        replay.advance_to(Timestamp::LATEST);
        prop_assert!(replay.into_state().stats().customers <= max);
    }
}

fn apply_all(state: &mut State, row: &mut HistoryRow, at: Timestamp, number: f64) {
    let HistoryRow { payment, outcome, failure_class, legs, .. } = row;
    state.apply(&Event::Arrived { at, payment });
    if let Some(outcome) = *outcome {
        let failure_class = *failure_class;
        state.apply(&Event::Finished { at, payment, outcome, failure_class });
    }
    for leg in legs {
        leg.prepare_ms = number;
        leg.late_ms = Some(number);
        leg.in_flight = u32::MAX;
        state.apply(&Event::Leg { at, leg });
    }
    state.apply(&Event::Labelled { at, payment, fraud: true });
}

fn hostile_instant() -> impl Strategy<Value = Timestamp> {
    let instant = prop_oneof![
        Just(i64::MIN),
        Just(i64::MAX),
        Just(0),
        Just(START),
        Just(-2_208_988_800_000_001),
        any::<i64>()
    ];
    instant.prop_map(Timestamp::from_micros)
}

fn hostile_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(90.0),
        Just(-180.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-0.0)
    ]
}

fn check_finite(features: &Features) -> Result<(), TestCaseError> {
    let legs = features.legs.iter().flat_map(|leg| leg.iter().zip(leg_features()));
    for (value, feature) in features.txn.iter().zip(txn_features()).chain(legs) {
        let documented = value.is_nan() && feature.default.is_nan();
        prop_assert!(value.is_finite() || documented, "{} is {value}", feature.name);
    }
    Ok(())
}

#[test]
fn rows_out_of_order_are_refused_by_name() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut row = row().new_tree(&mut runner).unwrap().current();
    let mut replay = Replay::new(state());
    row.timestamp = Timestamp::from_micros(START);
    replay.step(row.clone()).unwrap();
    row.timestamp = Timestamp::from_micros(START - 1);
    row.txn_id = "late".into();
    let error = replay.step(row).unwrap_err();
    assert!(matches!(error, Error::OutOfOrder { row: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("row 2 (transaction \"late\") at 2026-02-03"), "{error}");
}

#[test]
fn eviction_gives_up_the_one_not_used_and_reading_is_no_use() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut payment = payment().new_tree(&mut runner).unwrap().current();
    let options = Options { customers_max: 2, ..Options::default() };
    let mut state = State::new(options).unwrap();
    let at = Timestamp::from_micros(START);
    let mut arrive = |state: &mut State, id: &str, read: bool| {
        payment.customer.id = CustomerId::new(id).unwrap();
        payment.counterparty = Some(CounterpartyId::new("m").unwrap());
        let known =
            state.extract(&payment, &[], at).txn[crate::features::schema::Txn::Count1h as usize];
        if !read {
            state.apply(&Event::Arrived { at, payment: &payment });
        }
        known > 0.0
    };
    for id in ["a", "b", "c"] {
        assert!(!arrive(&mut state, id, false)); // c takes the place of a
    }
    assert!(!arrive(&mut state, "a", true));
    assert!(arrive(&mut state, "b", true)); // b was passed by the hand; reading does not save it
    assert!(!arrive(&mut state, "d", false));
    assert!(!arrive(&mut state, "b", true));
    assert!(arrive(&mut state, "c", true));
    assert_eq!(state.stats().evicted, 2);
}

#[test]
fn a_late_vote_teaches_no_latency_before_it_arrives() {
    let name = ParticipantName::new("rail").unwrap();
    let leg = LegRow {
        participant: name.clone(),
        vote: LegVote::Timeout,
        prepare_ms: 5_000.0,
        timeout_ms: Some(5_000.0),
        late_ms: None,
        in_flight: 1,
        health: 1.0,
    };
    let mut state = state();
    let at = Timestamp::from_micros(START);
    state.apply(&Event::Leg { at, leg: &leg });
    assert_eq!(state.leg_latency(&name), None);
    let late = LegRow { late_ms: Some(7_000.0), ..leg };
    state.apply(&Event::Leg { at, leg: &late });
    let latency = state.leg_latency(&name).unwrap();
    assert_eq!((latency.mean_ms, latency.samples), (7_000.0, 1));
}
