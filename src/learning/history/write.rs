//! Writing the canonical files: one form for each value, which reads back as the same value.
//!
//! Instants are RFC 3339 in UTC with microseconds, `total_ms` has three decimals, other numbers
//! are as short as they can be and still read back bit by bit; unknown is empty.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{COLUMNS, LEG_COLUMNS};
use crate::txn::{HistoryRow, Timestamp};

/// Buffer of a written file.
const BUFFER_BYTES: usize = 1 << 18;

/// Writes both files; no legs file where `legs` is `None`. An existing file is replaced.
pub fn write<'a>(
    path: &Path,
    legs: Option<&Path>,
    rows: impl IntoIterator<Item = &'a HistoryRow>,
) -> io::Result<()> {
    let create = |path: &Path| File::create(path).map(BufWriter::new);
    let mut transactions = HistoryWriter::new(create(path)?)?;
    let mut legs = legs.map(|path| LegsWriter::new(create(path)?)).transpose()?;
    for row in rows {
        transactions.write(row)?;
        if let Some(legs) = &mut legs {
            legs.write(row)?;
        }
    }
    transactions.finish()?;
    legs.map(LegsWriter::finish).transpose()?;
    Ok(())
}

/// Writes the transactions file row by row.
#[derive(Debug)]
pub struct HistoryWriter<W: Write>(Fields<W>);

impl<W: Write> HistoryWriter<W> {
    /// Writes the header.
    pub fn new(out: W) -> io::Result<Self> {
        Fields::new(out, &COLUMNS).map(Self)
    }

    /// Writes one row; its legs are left to [`LegsWriter`].
    pub fn write(&mut self, row: &HistoryRow) -> io::Result<()> {
        let HistoryRow { payment, .. } = row;
        let fields = &mut self.0;
        fields.text(&row.txn_id)?;
        fields.text(&row.payment_id)?;
        fields.show(payment.attempt)?;
        fields.instant(Some(row.timestamp))?;
        fields.text(payment.kind.as_str())?;
        fields.text(payment.customer.id.as_str())?;
        fields.text(payment.customer.customer_type.as_str())?;
        fields.instant(payment.customer.since)?;
        fields.text(payment.counterparty.as_ref().map_or("", |id| id.as_str()))?;
        fields.show(payment.amount.minor)?;
        fields.text(payment.amount.currency.as_str())?;
        fields.show(payment.cross_border)?;
        fields.show(payment.requires_consistency)?;
        fields.maybe(payment.location.map(|at| at.lat))?;
        fields.maybe(payment.location.map(|at| at.lon))?;
        fields.text(row.route.as_deref().unwrap_or_default())?;
        fields.maybe(payment.system_load_ratio)?;
        fields.text(row.outcome.map_or("", |outcome| outcome.as_str()))?;
        fields.text(row.failure_class.map_or("", |class| class.as_str()))?;
        fields.maybe(row.total.map(|total| {
            let micros = total.as_micros();
            Thousandths(micros)
        }))?;
        fields.maybe(row.fraud)?;
        fields.instant(row.labelled_at)?;
        fields.end()
    }

    /// Writes what is buffered, and gives the output back.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

/// Writes the legs file transaction by transaction.
#[derive(Debug)]
pub struct LegsWriter<W: Write>(Fields<W>);

impl<W: Write> LegsWriter<W> {
    /// Writes the header.
    pub fn new(out: W) -> io::Result<Self> {
        Fields::new(out, &LEG_COLUMNS).map(Self)
    }

    /// Writes the legs of one transaction, in branch order.
    pub fn write(&mut self, row: &HistoryRow) -> io::Result<()> {
        let fields = &mut self.0;
        for leg in &row.legs {
            fields.text(&row.txn_id)?;
            fields.text(leg.participant.as_str())?;
            fields.text(leg.vote.as_str())?;
            fields.show(leg.prepare_ms)?;
            fields.maybe(leg.timeout_ms)?;
            fields.maybe(leg.late_ms)?;
            fields.show(leg.in_flight)?;
            fields.show(leg.health)?;
            fields.end()?;
        }
        Ok(())
    }

    /// Writes what is buffered, and gives the output back.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

/// Microseconds shown as milliseconds with three decimals.
struct Thousandths(u128);

impl Display for Thousandths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// A CSV writer by fields, with a scratch buffer.
#[derive(Debug)]
struct Fields<W: Write> {
    csv: csv::Writer<W>,
    scratch: String,
}

impl<W: Write> Fields<W> {
    fn new(out: W, header: &[&str]) -> io::Result<Self> {
        let mut csv = csv::WriterBuilder::new().buffer_capacity(BUFFER_BYTES).from_writer(out);
        csv.write_record(header).map_err(io::Error::from)?;
        Ok(Self { csv, scratch: String::new() })
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.csv.write_field(text).map_err(io::Error::from)
    }

    fn show(&mut self, value: impl Display) -> io::Result<()> {
        self.scratch.clear();
        write!(self.scratch, "{value}").map_err(io::Error::other)?;
        self.csv.write_field(&self.scratch).map_err(io::Error::from)
    }

    fn maybe(&mut self, value: Option<impl Display>) -> io::Result<()> {
        match value {
            Some(value) => self.show(value),
            None => self.text(""),
        }
    }

    fn instant(&mut self, at: Option<Timestamp>) -> io::Result<()> {
        let Some(at) = at else { return self.text("") };
        self.csv.write_field(instant(at)).map_err(io::Error::from)
    }

    fn end(&mut self) -> io::Result<()> {
        self.csv.write_record(None::<&[u8]>).map_err(io::Error::from)
    }

    fn finish(mut self) -> io::Result<W> {
        self.csv.flush()?;
        self.csv.into_inner().map_err(|error| io::Error::other(error.to_string()))
    }
}

/// `2026-01-31T09:30:00.000000Z`, without the formatter's machinery: it is most of a file.
pub(super) fn instant(at: Timestamp) -> [u8; 27] {
    let local = jiff::tz::Offset::UTC.to_datetime(at.to_jiff());
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let number = |x: i8| usize::from(x.unsigned_abs());
    let parts = [
        (0, 4, usize::from(local.year().unsigned_abs())),
        (5, 2, number(local.month())),
        (8, 2, number(local.day())),
        (11, 2, number(local.hour())),
        (14, 2, number(local.minute())),
        (17, 2, number(local.second())),
        (20, 6, at.micros().rem_euclid(1_000_000) as usize),
    ];
    for (from, width, mut value) in parts {
        for digit in text[from..from + width].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    text
}
