//! Tests of data sets and fitting, on a small invented history.
#![allow(clippy::unwrap_used)]

mod labels;
mod rules_and_recipe;
mod training;

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::features;
use crate::learning::dataset::{Dataset, Window, build};
use crate::models::calibration::sigmoid;
use crate::txn::{
    CounterpartyId, Currency, Customer, CustomerId, CustomerType, HistoryOutcome, HistoryRow, Kind,
    LegRow, LegVote, Money, ParticipantName, Payment, Timestamp,
};

const DAY: Duration = Duration::from_hours(24);
const START: i64 = 1_767_225_600_000_000;

fn at(days: f64) -> Timestamp {
    Timestamp::from_micros(START).after(DAY.mul_f64(days))
}

/// `count` payments over 20 days. Large amounts at a loaded system fail, payments of large amounts
/// across a border are fraud, known two days later; latency follows what is in flight.
fn history(count: usize, seed: u64) -> Vec<HistoryRow> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let names = ["core", "rail"].map(|name| ParticipantName::new(name).unwrap());
    let step = 20.0 / count as f64;
    (0..count)
        .map(|number| {
            let amount = rng.random_range(4.0..14.0_f64);
            let load = rng.random_range(0.0..1.0);
            let cross_border = rng.random_bool(0.2);
            let fails = sigmoid(0.8 * (amount - 12.0) + 4.0 * (load - 0.6));
            let outcome = if rng.random_bool(fails) {
                HistoryOutcome::Aborted
            } else {
                HistoryOutcome::Committed
            };
            let risk = if cross_border { sigmoid(1.5 * (amount - 12.0)) } else { 0.005 };
            let legs = names.iter().map(|name| leg(name, &mut rng)).collect();
            HistoryRow {
                payment: payment(amount, load, cross_border, &names, &mut rng),
                outcome: Some(outcome),
                fraud: Some(rng.random_bool(risk)),
                legs,
                ..blank(number, at(step * number as f64))
            }
        })
        .collect()
}

/// A committed row without a label, made known after a second and two days.
fn blank(number: usize, timestamp: Timestamp) -> HistoryRow {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let name = ParticipantName::new("core").unwrap();
    HistoryRow {
        txn_id: format!("t{number}"),
        payment_id: format!("p{number}"),
        timestamp,
        payment: payment(8.0, 0.5, false, &[name], &mut rng),
        route: None,
        outcome: Some(HistoryOutcome::Committed),
        failure_class: None,
        total: Some(Duration::from_secs(1)),
        fraud: None,
        labelled_at: Some(timestamp.after(2 * DAY)),
        legs: Vec::new(),
    }
}

fn leg(name: &ParticipantName, rng: &mut ChaCha8Rng) -> LegRow {
    let in_flight = rng.random_range(0..100);
    let noise = rng.random_range(-1.0..1.0_f64) + rng.random_range(-1.0..1.0);
    LegRow {
        participant: name.clone(),
        vote: LegVote::Yes,
        prepare_ms: (3.0 + f64::from(in_flight).ln_1p() * 0.5 + 0.3 * noise).exp(),
        timeout_ms: Some(5_000.0),
        late_ms: None,
        in_flight,
        health: 1.0,
    }
}

fn payment(
    amount: f64,
    load: f64,
    cross_border: bool,
    participants: &[ParticipantName],
    rng: &mut ChaCha8Rng,
) -> Payment {
    Payment {
        kind: Kind::Upi,
        customer: Customer {
            id: CustomerId::new(&format!("c{}", rng.random_range(0..50))).unwrap(),
            customer_type: CustomerType::Retail,
            since: None,
        },
        counterparty: Some(CounterpartyId::new(&format!("m{}", rng.random_range(0..50))).unwrap()),
        amount: Money { minor: amount.exp() as i64, currency: Currency::INR },
        cross_border,
        requires_consistency: true,
        location: None,
        attempt: 1,
        system_load_ratio: Some(load),
        participants: participants.to_vec(),
    }
}

fn window(until: f64, delay: f64) -> Window {
    Window { until: at(until), label_delay: DAY.mul_f64(delay) }
}

fn dataset(rows: &[HistoryRow], window: Window) -> Dataset {
    build(rows, features::Options::default(), window, &mut |_| {}).unwrap()
}
