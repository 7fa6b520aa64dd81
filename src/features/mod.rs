//! One extractor, the same online and offline, and its bounded state.
//!
//! [`State::extract`] turns a payment into numbers, reading only; [`State::apply`] takes in what
//! happened. Online the coordinator calls both as events occur; offline [`Replay`] calls the same
//! two for a history, so that a model is served exactly what it was trained on.
//!
//! # Invariants
//! - Online equals offline, bit for bit on one machine: no clock, no randomness, 64-bit floats
//!   inside, 32-bit out. (Another platform's `exp` and `ln` may differ in the last place.)
//! - No event after *t* changes a vector at *t*: outcome, vote, late vote and label are events of
//!   their own.
//! - Every value is finite, or NaN where [`Feature::default`] says so.
//! - Bounded: customers, counterparties and participants each have a maximum ([`Options`]), kept
//!   by CLOCK eviction. With its index a customer takes about 490 bytes (nearly half of them the
//!   ring of counterparties it has paid), a counterparty 100, a participant 240: 300 MB when the
//!   default limits are reached, and half as much again while a table doubles. Nothing is
//!   allocated before it is needed.
//!
//! Amounts are compared in minor units as they are: currencies are not converted. This module
//! trains nothing, predicts nothing and holds no label back; the caller says when it was known.

mod bounded;
mod calendar;
mod entities;
mod extract;
mod replay;
mod schema;
mod state;
mod window;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use calendar::{Calendar, CalendarPart};
pub use replay::Replay;
pub use schema::{Feature, LEG_WIDTH, TXN_WIDTH, leg_features, txn_features};
pub use state::{LegLatency, State, Stats};

use crate::txn::{FailureClass, HistoryOutcome, LegRow, Payment, Timestamp};

/// What a [`State`] is made with; checked by [`State::new`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Time zone, holidays, peak hours.
    pub calendar: Calendar,
    /// Most customers remembered, 1 to 100 million.
    pub customers_max: usize,
    /// Most counterparties remembered, 1 to 100 million.
    pub counterparties_max: usize,
    /// Most participants remembered, 1 to 100 million.
    pub participants_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            calendar: Calendar::default(),
            customers_max: 500_000,
            counterparties_max: 500_000,
            participants_max: 1_024,
        }
    }
}

/// Observable circumstances of one participant when a vector is taken: online from live counters,
/// offline from the legs of the history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LegContext {
    /// Branches in flight there.
    pub in_flight: u32,
    /// Share of its recent calls that were answered, 0 to 1.
    pub health: f64,
}

impl Default for LegContext {
    /// Idle and healthy: what is assumed of a participant of which nothing is observed.
    fn default() -> Self {
        Self { in_flight: 0, health: 1.0 }
    }
}

/// The numbers that models see, in schema order.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Of the transaction.
    pub txn: [f32; TXN_WIDTH],
    /// Of each branch, in the order of `payment.participants`.
    pub legs: Vec<[f32; LEG_WIDTH]>,
}

/// Something that happened, applied when it became known.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A payment was submitted; applied right after its own vector was taken.
    Arrived {
        /// When.
        at: Timestamp,
        /// Which.
        payment: &'a Payment,
    },
    /// A payment's outcome became known. A rejected one never started: it only takes
    /// back that the counterparty was paid.
    Finished {
        /// When.
        at: Timestamp,
        /// Which.
        payment: &'a Payment,
        /// How it ended.
        outcome: HistoryOutcome,
        /// Why it failed, if known.
        failure_class: Option<FailureClass>,
    },
    /// A participant voted, or was given up on. A vote that comes after its timeout is two events:
    /// `Timeout` without `late_ms` when it was given up (counts as a failure), and `Timeout` with
    /// `late_ms` when the vote arrived (counts as a latency).
    Leg {
        /// When.
        at: Timestamp,
        /// Which.
        leg: &'a LegRow,
    },
    /// A fraud label became known.
    Labelled {
        /// When.
        at: Timestamp,
        /// Of which payment.
        payment: &'a Payment,
        /// Whether it was fraud.
        fraud: bool,
    },
}

/// Why a state cannot be made, or a history cannot be replayed. Fix the configuration or the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The time zone cannot be had.
    #[error("time zone {time_zone:?} is not known: {detail}")]
    TimeZone {
        /// What was asked for.
        time_zone: String,
        /// What the time-zone database says.
        detail: String,
    },
    /// A peak is empty, reversed, or beyond the day.
    #[error("peak hours {from} to {to} are not within 0 to 24, or end before they begin")]
    PeakHours {
        /// Its first hour.
        from: u8,
        /// The hour that ends it.
        to: u8,
    },
    /// A limit is out of range.
    #[error("{option} is {value}, allowed are 1 to {max}")]
    Limit {
        /// Which option.
        option: &'static str,
        /// What it was.
        value: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A row is earlier than what was replayed before it. Sort the history.
    #[error(
        "row {row} (transaction {txn_id:?}) at {timestamp} is earlier than {previous}, which was \
         replayed before: rows must be in timestamp order"
    )]
    OutOfOrder {
        /// Its position among the rows given, from 1.
        row: u64,
        /// Its transaction.
        txn_id: String,
        /// Its timestamp.
        timestamp: Timestamp,
        /// The latest instant replayed so far.
        previous: Timestamp,
    },
    /// Too many outcomes and labels lie in the future of the replay.
    #[error(
        "row {row} (transaction {txn_id:?}): more than {max} events wait for their time; are \
         total_ms and labelled_at in the right unit?"
    )]
    TooManyPending {
        /// Its position among the rows given, from 1.
        row: u64,
        /// Its transaction.
        txn_id: String,
        /// The most that may wait.
        max: usize,
    },
}
