//! Random histories, small enough that everything in them collides.

use std::time::Duration;

use proptest::prelude::*;

use crate::features::{Options, State};
use crate::txn::{
    CounterpartyId, Currency, Customer, CustomerId, CustomerType, FailureClass, HistoryOutcome,
    HistoryRow, Kind, LegRow, LegVote, Location, Money, ParticipantName, Payment, Timestamp,
};

/// 2026-02-03T04:26:40Z.
pub(super) const START: i64 = 1_770_092_800_000_000;

pub(super) fn state() -> State {
    State::new(Options::default()).unwrap()
}

/// Rows in timestamp order, many at the same instant.
pub(super) fn history(rows: std::ops::Range<usize>) -> impl Strategy<Value = Vec<HistoryRow>> {
    prop::collection::vec((0..4u64, row()), rows).prop_map(|rows| {
        let mut now = Timestamp::from_micros(START);
        let mut in_order = Vec::new();
        for (number, (steps, mut row)) in rows.into_iter().enumerate() {
            // Steps of 40 minutes against delays of minutes to days: events interleave.
            now = now.after(Duration::from_secs(steps * 2_400));
            row.txn_id = format!("t{number}");
            row.labelled_at = row.labelled_at.map(|at| now.after(at.since(Timestamp::default())));
            row.timestamp = now;
            in_order.push(row);
        }
        in_order
    })
}

/// A row whose `labelled_at` is a delay since 1970, to be moved to its place in time.
pub(super) fn row() -> impl Strategy<Value = HistoryRow> {
    let outcome = prop_oneof![
        Just((None, None)),
        Just((Some(HistoryOutcome::Committed), None)),
        Just((Some(HistoryOutcome::Rejected), None)),
        Just((Some(HistoryOutcome::Aborted), None)),
        Just((Some(HistoryOutcome::Aborted), Some(FailureClass::Business))),
        Just((Some(HistoryOutcome::Aborted), Some(FailureClass::Technical))),
    ];
    // Zero and whole steps make ties with later rows.
    let total = prop_oneof![
        Just(None),
        Just(Some(0)),
        Just(Some(2_400_000)),
        (0..9_000_000u64).prop_map(Some)
    ];
    let label = (any::<Option<bool>>(), prop::option::of(prop_oneof![Just(0), 0..40i64]));
    (payment(), legs(), outcome, total, label).prop_map(
        |(mut payment, legs, (outcome, failure_class), total, (fraud, steps))| {
            payment.participants = legs.iter().map(|leg| leg.participant.clone()).collect();
            HistoryRow {
                txn_id: String::new(),
                payment_id: "p".into(),
                timestamp: Timestamp::default(),
                payment,
                route: None,
                outcome,
                failure_class,
                total: total.map(Duration::from_millis),
                fraud,
                labelled_at: steps.map(|steps| Timestamp::from_micros(steps * 2_400_000_000)),
                legs,
            }
        },
    )
}

pub(super) fn payment() -> impl Strategy<Value = Payment> {
    let who = (0..3u8, 0..CustomerType::ALL.len(), prop::option::of(0..3u8));
    let what = (0..Kind::ALL.len(), 0..10_000_000i64, any::<[bool; 2]>(), 0..4u32);
    let place = prop::option::of((-90.0..=90.0, -180.0..=180.0));
    (who, what, place, prop::option::of(0.0..2.0)).prop_map(
        |((customer, segment, counterparty), (kind, minor, flags, attempt), place, load)| Payment {
            kind: Kind::ALL[kind],
            customer: Customer {
                id: CustomerId::new(&format!("c{customer}")).unwrap(),
                customer_type: CustomerType::ALL[segment],
                since: (customer > 0).then(|| Timestamp::from_micros(START - 1_000_000_000_000)),
            },
            counterparty: counterparty.map(|id| CounterpartyId::new(&format!("m{id}")).unwrap()),
            amount: Money { minor, currency: Currency::INR },
            cross_border: flags[0],
            requires_consistency: flags[1],
            location: place.map(|(lat, lon)| Location { lat, lon }),
            attempt,
            system_load_ratio: load,
            participants: Vec::new(),
        },
    )
}

pub(super) fn legs() -> impl Strategy<Value = Vec<LegRow>> {
    let leg = (0..LegVote::ALL.len(), 0.0..9e6, prop::option::of(0.0..2e7), 0..50u32, 0.0..=1.0);
    prop::collection::vec(leg, 0..3).prop_map(|legs| {
        let leg = |(index, (vote, prepare_ms, late_ms, in_flight, health))| LegRow {
            participant: ParticipantName::new(&format!("p{index}")).unwrap(),
            vote: LegVote::ALL[vote],
            prepare_ms,
            timeout_ms: Some(5_000.0),
            late_ms,
            in_flight,
            health,
        };
        legs.into_iter().enumerate().map(leg).collect()
    })
}
