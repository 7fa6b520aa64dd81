//! Outcomes as history: what a restarted coordinator's feature state is rebuilt from.

use std::path::Path;
use std::time::Duration;

use polars::prelude::{DataFrame, DataType, PolarsError, Series};

use super::{Error, read_file};
use crate::decision_log::{DecisionLog, OutcomeLeg, OutcomeRow};
use crate::features::{self, Replay, State};
use crate::txn::{
    Customer, HistoryOutcome, HistoryRow, Location, Money, Outcome, Payment, Timestamp,
};

/// Unsealed rows read at once.
const PAGE_ROWS: usize = 10_000;

/// The newest outcomes of a coordinator, in time order.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// Sorted by submission.
    pub rows: Vec<HistoryRow>,
    /// Rows that could not be understood, left out.
    pub unreadable: u64,
    /// What was wrong with the first of them.
    pub unreadable_first: Option<String>,
    /// What could not be read at all, one sentence a file.
    pub faults: Vec<String>,
}

/// The newest outcomes, `rows_max` at most: those not sealed yet and, before them, those of the
/// newest files in `dir`. A file that is missing or damaged is told in [`Recent::faults`], not an
/// error: a coordinator that remembers less still decides.
pub fn recent(dir: &Path, log: &DecisionLog, rows_max: usize) -> Result<Recent, Error> {
    let mut recent = Recent::default();
    if rows_max == 0 {
        return Ok(recent);
    }
    let mut next = 0;
    loop {
        let page = log.outcome_rows(next, PAGE_ROWS)?;
        let Some((last, _)) = page.last() else { break };
        next = last + 1;
        for (_, row) in &page {
            recent.take(row_of_record(row));
        }
    }
    // The log's own notes: a crash may have left the manifest behind them.
    let ranges = log.sealed()?;
    for file in ranges.iter().rev().flat_map(|range| range.files.iter().rev()) {
        if recent.rows.len() >= rows_max {
            break;
        }
        match read_file(dir, file) {
            Ok(frame) => (0..frame.height()).for_each(|row| recent.take(row_of_frame(&frame, row))),
            Err(error) => recent.faults.push(error.to_string()),
        }
    }
    recent.rows.sort_by_key(|row| row.timestamp);
    let surplus = recent.rows.len().saturating_sub(rows_max);
    recent.rows.drain(..surplus);
    Ok(recent)
}

impl Recent {
    /// A feature state that has seen these outcomes, all of them known.
    pub fn warm_up(self, state: State) -> Result<State, features::Error> {
        let mut replay = Replay::new(state);
        for row in self.rows {
            replay.step(row)?;
        }
        replay.advance_to(Timestamp::LATEST);
        Ok(replay.into_state())
    }

    fn take(&mut self, row: Result<HistoryRow, String>) {
        match row {
            Ok(row) => self.rows.push(row),
            Err(detail) => {
                self.unreadable += 1;
                self.unreadable_first.get_or_insert(detail);
            }
        }
    }
}

/// What record and frame have in common, as text where records have text.
struct Parts<'a> {
    txn_id: &'a str,
    timestamp: Timestamp,
    kind: &'a str,
    customer_id: &'a str,
    customer_type: &'a str,
    customer_since: Option<Timestamp>,
    counterparty_id: Option<&'a str>,
    amount_minor: i64,
    currency: &'a str,
    cross_border: bool,
    requires_consistency: bool,
    lat: Option<f64>,
    lon: Option<f64>,
    attempt: u32,
    system_load_ratio: Option<f64>,
    outcome: Outcome,
    failure_class: Option<&'a str>,
    total: Duration,
    legs: &'a [OutcomeLeg],
}

impl Parts<'_> {
    fn row(self) -> Result<HistoryRow, String> {
        let location = self.lat.zip(self.lon).map(|(lat, lon)| Location { lat, lon });
        let payment = Payment {
            kind: parse(self.kind)?,
            customer: Customer {
                id: parse(self.customer_id)?,
                customer_type: parse(self.customer_type)?,
                since: self.customer_since,
            },
            counterparty: self.counterparty_id.map(parse).transpose()?,
            amount: Money { minor: self.amount_minor, currency: parse(self.currency)? },
            cross_border: self.cross_border,
            requires_consistency: self.requires_consistency,
            location,
            attempt: self.attempt,
            system_load_ratio: self.system_load_ratio,
            participants: self.legs.iter().map(|leg| leg.participant.clone()).collect(),
        };
        Ok(HistoryRow {
            txn_id: self.txn_id.to_owned(),
            payment_id: self.txn_id.to_owned(),
            timestamp: self.timestamp,
            payment,
            route: None,
            outcome: Some(match self.outcome {
                Outcome::Committed => HistoryOutcome::Committed,
                Outcome::Rejected => HistoryOutcome::Rejected,
                _ => HistoryOutcome::Aborted,
            }),
            failure_class: self.failure_class.map(parse).transpose()?,
            total: Some(self.total),
            fraud: None,
            labelled_at: None,
            legs: self.legs.iter().filter_map(OutcomeLeg::history).collect(),
        })
    }
}

fn row_of_record(row: &OutcomeRow) -> Result<HistoryRow, String> {
    let parts = Parts {
        txn_id: row.txn_id.as_str(),
        timestamp: row.timestamp,
        kind: &row.kind,
        customer_id: &row.customer_id,
        customer_type: &row.customer_type,
        customer_since: row.customer_since,
        counterparty_id: row.counterparty_id.as_deref(),
        amount_minor: row.amount_minor,
        currency: &row.currency,
        cross_border: row.cross_border,
        requires_consistency: row.requires_consistency,
        lat: row.lat,
        lon: row.lon,
        attempt: row.attempt,
        system_load_ratio: row.system_load_ratio,
        outcome: row.outcome,
        failure_class: row.failure_class.as_deref(),
        total: Duration::from_micros(row.total_us),
        legs: &row.legs,
    };
    parts.row()
}

fn row_of_frame(frame: &DataFrame, row: usize) -> Result<HistoryRow, String> {
    let cells = Cells { frame, row };
    let legs: Vec<OutcomeLeg> =
        serde_json::from_str(cells.text("legs")?).map_err(|error| error.to_string())?;
    let total = Duration::try_from_secs_f64(cells.number("total_ms")? / 1e3);
    let parts = Parts {
        txn_id: cells.text("txn_id")?,
        timestamp: required("timestamp", cells.instant("timestamp")?)?,
        kind: cells.text("kind")?,
        customer_id: cells.text("customer_id")?,
        customer_type: cells.text("customer_type")?,
        customer_since: cells.instant("customer_since")?,
        counterparty_id: cells.text_if_any("counterparty_id")?,
        amount_minor: cells.integer("amount_minor")?,
        currency: cells.text("currency")?,
        cross_border: cells.flag("cross_border")?,
        requires_consistency: cells.flag("requires_consistency")?,
        lat: cells.number_if_any("lat")?,
        lon: cells.number_if_any("lon")?,
        attempt: u32::try_from(cells.integer("attempt")?).map_err(|error| error.to_string())?,
        system_load_ratio: cells.number_if_any("system_load_ratio")?,
        outcome: parse(cells.text("outcome")?)?,
        failure_class: cells.text_if_any("failure_class")?,
        total: total.map_err(|error| error.to_string())?,
        legs: &legs,
    };
    parts.row()
}

/// One row of a frame, a typed value a column.
struct Cells<'a> {
    frame: &'a DataFrame,
    row: usize,
}

impl<'a> Cells<'a> {
    fn column(&self, name: &str) -> Result<&'a Series, String> {
        let column = self.frame.column(name).map_err(text_of)?;
        Ok(column.as_materialized_series())
    }

    fn text_if_any(&self, name: &str) -> Result<Option<&'a str>, String> {
        let column = self.column(name)?;
        if *column.dtype() == DataType::Null {
            return Ok(None);
        }
        Ok(column.str().map_err(text_of)?.get(self.row))
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        required(name, self.text_if_any(name)?)
    }

    fn instant(&self, name: &str) -> Result<Option<Timestamp>, String> {
        let micros = self.column(name)?.datetime().map_err(text_of)?;
        Ok(micros.physical().get(self.row).map(Timestamp::from_micros))
    }

    fn integer(&self, name: &str) -> Result<i64, String> {
        required(name, self.column(name)?.i64().map_err(text_of)?.get(self.row))
    }

    fn number_if_any(&self, name: &str) -> Result<Option<f64>, String> {
        Ok(self.column(name)?.f64().map_err(text_of)?.get(self.row))
    }

    fn number(&self, name: &str) -> Result<f64, String> {
        required(name, self.number_if_any(name)?)
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        required(name, self.column(name)?.bool().map_err(text_of)?.get(self.row))
    }
}

fn text_of(error: PolarsError) -> String {
    error.to_string()
}

fn required<T>(name: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("{name} is empty"))
}

fn parse<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}
