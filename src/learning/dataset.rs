//! From a history to rows of features and labels, honest as of an instant.
//!
//! Features come from `features::Replay`, the path that serves. Labels are what could have been
//! known at `until`:
//! - an outcome that came later is unlabelled, and so is a rejected row;
//! - a fraud label that came later is unlabelled; so is, for both classes, every row younger than
//!   the label delay: its frauds are known before its negatives, which would raise the base rate;
//! - a rejected row never becomes "no fraud";
//! - a vote that never came has no latency (late votes have their own).
//!
//! What was left out is counted. Nothing here fits anything.

use std::time::Duration;

use crate::features::{self, LEG_WIDTH, Replay, State, TXN_WIDTH};
use crate::txn::{HistoryOutcome, HistoryRow, Timestamp};

/// Which part of a history may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Nothing known only later is used; rows from here on are left out.
    pub until: Timestamp,
    /// Younger rows carry no fraud label.
    pub label_delay: Duration,
}

/// What was left out, in rows (or legs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Rows at or after `until`.
    pub after_until: u64,
    /// Rows without an outcome known by then.
    pub outcome_unknown: u64,
    /// Rejected rows.
    pub rejected: u64,
    /// Rows without a fraud label known by then.
    pub fraud_unknown: u64,
    /// Rows younger than the label delay.
    pub fraud_too_young: u64,
    /// Legs whose vote never came, or not by then.
    pub legs_censored: u64,
}

/// Rows in time order: features and labels.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// Transaction features, row after row, [`TXN_WIDTH`] a row.
    pub txn: Vec<f32>,
    /// When each row was submitted.
    pub times: Vec<Timestamp>,
    /// Whether it succeeded.
    pub success: Vec<Option<bool>>,
    /// Whether it was fraud.
    pub fraud: Vec<Option<bool>>,
    /// Its position in the history.
    pub row_index: Vec<usize>,
    /// Leg features, leg after leg, [`LEG_WIDTH`] a leg; legs with a known latency only.
    pub legs: Vec<f32>,
    /// Their latencies in milliseconds, above 0.
    pub leg_ms: Vec<f64>,
    /// When each leg's transaction was submitted.
    pub leg_times: Vec<Timestamp>,
    /// What was left out.
    pub left_out: LeftOut,
}

impl Dataset {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The transaction features of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.txn[row * TXN_WIDTH..(row + 1) * TXN_WIDTH]
    }

    /// The features of a leg.
    pub fn leg(&self, leg: usize) -> &[f32] {
        &self.legs[leg * LEG_WIDTH..(leg + 1) * LEG_WIDTH]
    }
}

/// Replays `rows`, which are in time order, and labels them as of `window`. `progress` hears how
/// many rows are done, now and then.
pub fn build(
    rows: &[HistoryRow],
    options: features::Options,
    window: Window,
    progress: &mut dyn FnMut(usize),
) -> Result<Dataset, features::Error> {
    let mut replay = Replay::new(State::new(options)?);
    let usable = rows.partition_point(|row| row.timestamp < window.until);
    let mut dataset = Dataset {
        txn: Vec::with_capacity(usable * TXN_WIDTH),
        left_out: LeftOut { after_until: (rows.len() - usable) as u64, ..LeftOut::default() },
        ..Dataset::default()
    };
    for (index, row) in rows[..usable].iter().enumerate() {
        if index % 1024 == 0 {
            progress(index);
        }
        let features = replay.step(row.clone())?;
        dataset.txn.extend_from_slice(&features.txn);
        dataset.times.push(row.timestamp);
        dataset.row_index.push(index);
        let success = success_label(row, window, &mut dataset.left_out);
        dataset.success.push(success);
        let fraud = fraud_label(row, window, &mut dataset.left_out);
        dataset.fraud.push(fraud);
        push_legs(&mut dataset, row, &features.legs, window);
    }
    progress(usable);
    Ok(dataset)
}

fn known_by(instant: Option<Timestamp>, otherwise: Timestamp, window: Window) -> bool {
    instant.unwrap_or(otherwise) <= window.until
}

fn success_label(row: &HistoryRow, window: Window, left_out: &mut LeftOut) -> Option<bool> {
    if row.outcome == Some(HistoryOutcome::Rejected) {
        left_out.rejected += 1;
        return None;
    }
    let label = row.succeeded().filter(|_| known_by(row.finished_at(), row.timestamp, window));
    left_out.outcome_unknown += u64::from(label.is_none());
    label
}

fn fraud_label(row: &HistoryRow, window: Window, left_out: &mut LeftOut) -> Option<bool> {
    let mature_at = row.timestamp.after(window.label_delay);
    if mature_at > window.until {
        left_out.fraud_too_young += 1;
        return None;
    }
    let label = row.fraud.filter(|_| known_by(row.labelled_at, mature_at, window));
    if label == Some(false) && row.outcome == Some(HistoryOutcome::Rejected) {
        return None;
    }
    left_out.fraud_unknown += u64::from(label.is_none());
    label
}

fn push_legs(
    dataset: &mut Dataset,
    row: &HistoryRow,
    features: &[[f32; LEG_WIDTH]],
    window: Window,
) {
    for (position, leg) in row.legs.iter().enumerate() {
        // Features follow the payment's participants; legs nearly always do as well.
        let aligned = row.payment.participants.get(position) == Some(&leg.participant);
        let place = if aligned {
            Some(position)
        } else {
            row.payment.participants.iter().position(|name| *name == leg.participant)
        };
        let known = |ms: &f64| {
            let after = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::MAX);
            ms.is_finite() && *ms > 0.0 && row.timestamp.after(after) <= window.until
        };
        match (place.and_then(|place| features.get(place)), leg.latency_ms().filter(known)) {
            (Some(features), Some(ms)) => {
                dataset.legs.extend_from_slice(features);
                dataset.leg_ms.push(ms);
                dataset.leg_times.push(row.timestamp);
            }
            _ => dataset.left_out.legs_censored += 1,
        }
    }
}
