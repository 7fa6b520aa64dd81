//! One record of the transactions file to one row.

use std::collections::HashMap;
use std::time::Duration;

use super::cells::{BadCell, Cells};
use super::columns::Schema;
use super::{COLUMNS, REQUIRED_COLUMNS};
use crate::txn::{
    CounterpartyId, Currency, Customer, CustomerId, CustomerType, FailureClass, HistoryOutcome,
    HistoryRow, IdError, Location, Money, Payment, Timestamp,
};

pub(super) const SCHEMA: Schema = Schema { columns: &COLUMNS, required: &REQUIRED_COLUMNS };

/// Positions in [`COLUMNS`].
pub(super) mod at {
    pub const TXN_ID: usize = 0;
    pub const PAYMENT_ID: usize = 1;
    pub const ATTEMPT: usize = 2;
    pub const TIMESTAMP: usize = 3;
    pub const KIND: usize = 4;
    pub const CUSTOMER_ID: usize = 5;
    pub const CUSTOMER_TYPE: usize = 6;
    pub const CUSTOMER_SINCE: usize = 7;
    pub const COUNTERPARTY_ID: usize = 8;
    pub const AMOUNT_MINOR: usize = 9;
    pub const CURRENCY: usize = 10;
    pub const CROSS_BORDER: usize = 11;
    pub const REQUIRES_CONSISTENCY: usize = 12;
    pub const LAT: usize = 13;
    pub const LON: usize = 14;
    pub const ROUTE: usize = 15;
    pub const SYSTEM_LOAD_RATIO: usize = 16;
    pub const OUTCOME: usize = 17;
    pub const FAILURE_CLASS: usize = 18;
    pub const TOTAL_MS: usize = 19;
    pub const FRAUD: usize = 20;
    pub const LABELLED_AT: usize = 21;
}

/// Ten years: no transaction takes longer.
const TOTAL_MS_MAX: f64 = 3.2e11;
/// Load beyond a thousand times full is a mistake of units.
const LOAD_RATIO_MAX: f64 = 1_000.0;
/// No payment is tried more often.
const ATTEMPT_MAX: i64 = 1_000_000;

/// Ids repeat from row to row: each text is checked and stored once.
#[derive(Debug)]
pub(super) struct Interned<T>(HashMap<Box<[u8]>, T>);

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> Interned<T> {
    pub(super) fn get(
        &mut self,
        cells: &Cells<'_>,
        column: usize,
        make: impl FnOnce(&str) -> Result<T, IdError>,
    ) -> Result<Option<T>, BadCell> {
        let Some(bytes) = cells.bytes(column) else { return Ok(None) };
        if let Some(id) = self.0.get(bytes) {
            return Ok(Some(id.clone()));
        }
        let id = cells.id(column, make)?;
        if let Some(id) = &id {
            self.0.insert(bytes.into(), id.clone());
        }
        Ok(id)
    }
}

/// Makes rows of records.
#[derive(Debug, Default)]
pub(super) struct RowParser {
    customers: Interned<CustomerId>,
    counterparties: Interned<CounterpartyId>,
    future_after: Option<Timestamp>,
    has_txn_id: bool,
    pub labels_without_time: u64,
}

impl RowParser {
    pub(super) fn new(future_after: Option<Timestamp>, has_txn_id: bool) -> Self {
        Self { future_after, has_txn_id, ..Self::default() }
    }

    pub(super) fn parse(&mut self, cells: &Cells<'_>, line: u64) -> Result<HistoryRow, BadCell> {
        let timestamp = cells.instant(at::TIMESTAMP)?;
        let timestamp = timestamp.ok_or_else(|| cells.bad(at::TIMESTAMP, "empty"))?;
        if let Some(now) = self.future_after.filter(|now| timestamp > *now) {
            return Err(cells.bad(at::TIMESTAMP, format!("in the future: after {now}")));
        }
        let txn_id = if self.has_txn_id {
            cells.required(at::TXN_ID)?;
            id_text(cells, at::TXN_ID)?.unwrap_or_default()
        } else {
            format!("row-{line}")
        };
        let payment_id = id_text(cells, at::PAYMENT_ID)?.unwrap_or_else(|| txn_id.clone());
        let outcome = cells.parsed::<HistoryOutcome>(at::OUTCOME)?;
        let failure_class = cells.parsed::<FailureClass>(at::FAILURE_CLASS)?;
        if failure_class.is_some() && outcome == Some(HistoryOutcome::Committed) {
            return Err(cells.bad(at::FAILURE_CLASS, "given for a committed row"));
        }
        let total_ms = cells.number(at::TOTAL_MS, [0.0, TOTAL_MS_MAX])?;
        let payment = self.payment(cells)?;
        let (fraud, labelled_at) = self.label(cells, timestamp)?;
        Ok(HistoryRow {
            txn_id,
            payment_id,
            timestamp,
            payment,
            route: id_text(cells, at::ROUTE)?,
            outcome,
            failure_class,
            total: total_ms.map(|ms| Duration::from_micros((ms * 1_000.0).round() as u64)),
            fraud,
            labelled_at,
            legs: Vec::new(),
        })
    }

    fn payment(&mut self, cells: &Cells<'_>) -> Result<Payment, BadCell> {
        let empty = |column| move || cells.bad(column, "empty");
        let customer_id = self.customers.get(cells, at::CUSTOMER_ID, CustomerId::new)?;
        let minor = cells.whole(at::AMOUNT_MINOR, [0, i64::MAX])?;
        let customer_type = cells.parsed(at::CUSTOMER_TYPE)?;
        Ok(Payment {
            kind: cells.parsed(at::KIND)?.ok_or_else(empty(at::KIND))?,
            customer: Customer {
                id: customer_id.ok_or_else(empty(at::CUSTOMER_ID))?,
                customer_type: customer_type.unwrap_or(CustomerType::Retail),
                since: cells.instant(at::CUSTOMER_SINCE)?,
            },
            counterparty: self.counterparties.get(
                cells,
                at::COUNTERPARTY_ID,
                CounterpartyId::new,
            )?,
            amount: Money {
                minor: minor.ok_or_else(empty(at::AMOUNT_MINOR))?,
                currency: cells.parsed(at::CURRENCY)?.unwrap_or(Currency::INR),
            },
            cross_border: cells.boolean(at::CROSS_BORDER)?.unwrap_or(false),
            requires_consistency: cells.boolean(at::REQUIRES_CONSISTENCY)?.unwrap_or(true),
            location: location(cells)?,
            attempt: cells.whole(at::ATTEMPT, [1, ATTEMPT_MAX])?.unwrap_or(1) as u32,
            system_load_ratio: cells.number(at::SYSTEM_LOAD_RATIO, [0.0, LOAD_RATIO_MAX])?,
            participants: Vec::new(),
        })
    }

    /// A label counts only with the instant at which it became known.
    fn label(
        &mut self,
        cells: &Cells<'_>,
        timestamp: Timestamp,
    ) -> Result<(Option<bool>, Option<Timestamp>), BadCell> {
        let fraud = cells.boolean(at::FRAUD)?;
        let labelled_at = cells.instant(at::LABELLED_AT)?;
        match (fraud, labelled_at) {
            (_, Some(known)) if known < timestamp => {
                Err(cells.bad(at::LABELLED_AT, format!("before the row's timestamp {timestamp}")))
            }
            (None, Some(_)) => Err(cells.bad(at::LABELLED_AT, "given without a fraud label")),
            (Some(_), None) => {
                self.labels_without_time += 1;
                Ok((None, None))
            }
            both => Ok(both),
        }
    }
}

fn location(cells: &Cells<'_>) -> Result<Option<Location>, BadCell> {
    let lat = cells.number(at::LAT, [-90.0, 90.0])?;
    let lon = cells.number(at::LON, [-180.0, 180.0])?;
    match (lat, lon) {
        (Some(lat), Some(lon)) => Ok(Some(Location { lat, lon })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(cells.bad(at::LON, "empty, but lat is given")),
        (None, Some(_)) => Err(cells.bad(at::LAT, "empty, but lon is given")),
    }
}

/// A text by the rules of ids, for fields that have no type of their own.
pub(super) fn id_text(cells: &Cells<'_>, column: usize) -> Result<Option<String>, BadCell> {
    use crate::txn::TxnId;
    let named = |error: BadCell| BadCell {
        reason: error.reason.replace("transaction id", cells.names[column]),
        ..error
    };
    cells.id(column, |text| TxnId::new(text).map(|_| text.to_owned())).map_err(named)
}
