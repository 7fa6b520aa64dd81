//! Reading both files: rows, then legs joined to them, then sorting and what there is to say.

use std::collections::hash_map::Entry;
use std::path::Path;

use super::cells::{BadCell, Cells, shown};
use super::columns::{Columns, Schema};
use super::legs::{self, Index, LegParser};
use super::mapping::Mapping;
use super::record::Record;
use super::rejects::{Rejects, Tally};
use super::source::Source;
use super::transactions::{self, RowParser, at};
use super::translate::Translator;
use super::{
    FIELD_BYTES_MAX, History, HistoryError, Labels, Progress, ROWS_MAX, ReadOptions, Report,
    Targets,
};
use crate::txn::HistoryRow;

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 8_192;

pub(super) fn read(
    path: &Path,
    legs: Option<&Path>,
    options: &ReadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<History, HistoryError> {
    let inputs: Vec<&Path> = std::iter::once(path).chain(legs).collect();
    let mut rejects = Rejects::new(options, &inputs)?;
    let result = read_files(path, legs, options, &mut rejects, progress);
    // What was set aside must be on disk also when the run stops for it.
    rejects.finish()?;
    let (rows, targets, report) = result?;
    Ok(History { rows, rejects: rejects.kept, targets, report })
}

type Parts = (Vec<HistoryRow>, Targets, Report);

fn read_files(
    path: &Path,
    legs: Option<&Path>,
    options: &ReadOptions,
    rejects: &mut Rejects,
    progress: &mut dyn FnMut(Progress),
) -> Result<Parts, HistoryError> {
    let mut report = Report::default();
    let mut table = Table::open(path, transactions::SCHEMA, options.mapping.as_ref())?;
    let (mut rows, index) = read_rows(&mut table, options, rejects, &mut report, progress)?;
    let with_outcome = table.columns.has(at::OUTCOME);
    let with_label = table.columns.has(at::FRAUD) && table.columns.has(at::LABELLED_AT);
    let with_id = table.columns.has(at::TXN_ID);
    report.columns_missing = std::mem::take(&mut table.columns.missing);
    if let Some(legs) = legs {
        if !with_id {
            return Err(HistoryError::MissingColumns {
                path: table.source.path,
                missing: "txn_id".to_owned(),
                required: "those of a history with legs".to_owned(),
            });
        }
        let mut table = Table::open(legs, legs::SCHEMA, None)?;
        read_legs(&mut table, &index, &mut rows, rejects, &mut report, progress)?;
    }
    drop(index);
    sort(&mut rows, &mut report);
    let targets = targets(&rows, with_outcome, with_label, legs.is_some());
    Ok((rows, targets, report))
}

/// A file with its header understood.
struct Table {
    source: Source,
    columns: Columns,
    schema: Schema,
    translator: Option<Translator>,
}

impl Table {
    fn open(path: &Path, schema: Schema, mapping: Option<&Mapping>) -> Result<Self, HistoryError> {
        let mut source = Source::open(path, mapping.map_or(b',', |mapping| mapping.delimiter))?;
        let mut header = Record::default();
        if source.next(&mut header)?.is_none() {
            let required = schema.required.join(", ");
            return Err(HistoryError::Empty { path: source.path, required });
        }
        let Some(mapping) = mapping else {
            let columns = Columns::new(&source.path, schema, &header)?;
            return Ok(Self { source, columns, schema, translator: None });
        };
        let (translator, ignored) = Translator::new(mapping, &source.path, &header)?;
        let ours = translator.header();
        let columns = Columns::translated(&source.path, schema, &ours, &header, ignored)?;
        Ok(Self { source, columns, schema, translator: Some(translator) })
    }

    /// Gives each row to `take`, sets aside what it refuses, and watches the limits.
    fn each(
        &mut self,
        rejects: &mut Rejects,
        progress: &mut dyn FnMut(Progress),
        take: &mut dyn FnMut(&Cells<'_>, u64, &mut Rejects) -> Result<(), Refusal>,
    ) -> Result<Tally, HistoryError> {
        let mut tally = Tally::default();
        let (mut record, mut ours) = (Record::default(), Record::default());
        while let Some(line) = self.source.next(&mut record)? {
            tally.rows += 1;
            if tally.rows > ROWS_MAX as u64 {
                let path = self.source.path.clone();
                return Err(HistoryError::TooManyRows { path, limit: ROWS_MAX });
            }
            let wrong = self.misshapen(&record).or_else(|| {
                let translator = self.translator.as_mut()?;
                translator.translate(&record, line, &mut ours).err()
            });
            let positions = &self.columns.positions;
            let record = if self.translator.is_some() { &ours } else { &record };
            let cells = Cells { record, names: self.schema.columns, positions };
            let taken = match wrong {
                Some(cell) => Err(Refusal::Bad(cell)),
                None => take(&cells, line, rejects),
            };
            match taken {
                Ok(()) => {}
                Err(Refusal::Excused(cell)) => rejects.add(&self.source.path, line, cell)?,
                Err(Refusal::Bad(cell)) => {
                    tally.rejected += 1;
                    rejects.add(&self.source.path, line, cell)?;
                    rejects.check_early(&self.source.path, tally)?;
                }
            }
            if tally.rows % PROGRESS_ROWS == 0 {
                self.tell(tally.rows, progress);
            }
        }
        self.tell(tally.rows, progress);
        rejects.check(&self.source.path, tally)?;
        Ok(tally)
    }

    fn tell(&self, rows: u64, progress: &mut dyn FnMut(Progress)) {
        let (bytes, bytes_total) = (self.source.bytes(), self.source.bytes_total);
        progress(Progress { rows, bytes, bytes_total });
    }

    /// What is wrong with a record before its cells are looked at.
    fn misshapen(&self, record: &Record) -> Option<BadCell> {
        let whole = |reason: String| {
            let value = shown(record.get(0).unwrap_or_default());
            Some(BadCell { column: "", value, reason })
        };
        if record.len() != self.columns.count {
            let (found, expected) = (record.len(), self.columns.count);
            return whole(format!("{found} fields where the header has {expected}"));
        }
        if self.columns.is_header(record) {
            return whole("the header again".to_owned());
        }
        if record.total_bytes() <= FIELD_BYTES_MAX {
            return None;
        }
        let long = record.iter().position(|field| field.len() > FIELD_BYTES_MAX)?;
        let ours = self.translator.is_none();
        let known = self.columns.positions.iter().position(|at| ours && *at == Some(long));
        let value = record.get(long)?;
        let (field, bytes) = (long + 1, value.len());
        let reason = format!("field {field} has {bytes} bytes, at most {FIELD_BYTES_MAX}");
        let column = known.map_or("", |known| self.schema.columns[known]);
        Some(BadCell { column, value: shown(value), reason })
    }
}

/// Why a row is set aside.
enum Refusal {
    Bad(BadCell),
    /// Not its own fault, and not counted against its file.
    Excused(BadCell),
}

impl From<BadCell> for Refusal {
    fn from(cell: BadCell) -> Self {
        Self::Bad(cell)
    }
}

fn read_rows(
    table: &mut Table,
    options: &ReadOptions,
    rejects: &mut Rejects,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<HistoryRow>, Index), HistoryError> {
    let mut parser = RowParser::new(options.future_after, table.columns.has(at::TXN_ID));
    let mut rows: Vec<HistoryRow> = Vec::new();
    let mut index = Index::new();
    let tally = table.each(rejects, progress, &mut |cells, line, rejects| {
        let row = parser.parse(cells, line).inspect_err(|_| {
            if let Some(id) = cells.bytes(at::TXN_ID) {
                rejects.remember_id(id);
            }
        })?;
        match index.entry(row.txn_id.clone()) {
            Entry::Occupied(first) => {
                let reason = format!("duplicate of line {}", first.get().1);
                return Err(cells.bad(at::TXN_ID, reason).into());
            }
            Entry::Vacant(free) => free.insert((rows.len(), line)),
        };
        rows.push(row);
        Ok(())
    })?;
    let path = &table.source.path;
    if rows.is_empty() {
        let (path, first) = (path.clone(), rejects.first_of(path));
        let Tally { rows, rejected } = tally;
        return Err(HistoryError::NoRows { path, rows, rejected, first });
    }
    report.rows_read = tally.rows;
    report.rows_rejected = tally.rejected;
    report.labels_without_time = parser.labels_without_time;
    finish_table(table, report);
    Ok((rows, index))
}

fn read_legs(
    table: &mut Table,
    index: &Index,
    rows: &mut [HistoryRow],
    rejects: &mut Rejects,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), HistoryError> {
    let mut parser = LegParser::default();
    let mut excused = 0;
    let tally = table.each(rejects, progress, &mut |cells, _, rejects| {
        let joined = parser.join(cells, index, rows);
        let id = cells.bytes(legs::at::TXN_ID).unwrap_or_default();
        let of_rejected = |_: &BadCell| {
            let is_known = std::str::from_utf8(id).is_ok_and(|id| index.contains_key(id));
            !is_known && rejects.knows_id(id)
        };
        match joined {
            Err(mut cell) if of_rejected(&cell) => {
                excused += 1;
                "its transaction was set aside".clone_into(&mut cell.reason);
                Err(Refusal::Excused(cell))
            }
            other => Ok(other?),
        }
    })?;
    report.legs_read = tally.rows;
    report.legs_rejected = tally.rejected;
    report.legs_of_rejected_rows = excused;
    report.rows_without_legs = rows.iter().filter(|row| row.legs.is_empty()).count() as u64;
    finish_table(table, report);
    Ok(())
}

fn finish_table(table: &mut Table, report: &mut Report) {
    report.columns_ignored.append(&mut table.columns.ignored);
    if table.source.is_unfinished() {
        report.unfinished_files.push(table.source.path.clone());
    }
}

fn sort(rows: &mut [HistoryRow], report: &mut Report) {
    let mut latest = None;
    for row in rows.iter() {
        if latest.is_some_and(|latest| row.timestamp < latest) {
            report.rows_out_of_order += 1;
        }
        latest = latest.max(Some(row.timestamp));
    }
    if report.rows_out_of_order > 0 {
        rows.sort_by_key(|row| row.timestamp);
    }
}

fn targets(rows: &[HistoryRow], outcome: bool, label: bool, legs: bool) -> Targets {
    let known = |leg: &&crate::txn::LegRow| leg.latency_ms().is_some();
    let success = rows.iter().filter(|row| row.succeeded().is_some()).count();
    let fraud = rows.iter().filter(|row| row.fraud.is_some()).count();
    let latency = rows.iter().flat_map(|row| &row.legs).filter(known).count();
    let labels = |count: usize, present: bool, column: &str, empty: &str| {
        let absent = match (count, present) {
            (0, false) => Some(format!("there is no {column}")),
            (0, true) => Some(empty.to_owned()),
            _ => None,
        };
        Labels { count: count as u64, absent }
    };
    Targets {
        success: labels(success, outcome, "column outcome", "no row committed or aborted"),
        fraud: labels(
            fraud,
            label,
            "column fraud with labelled_at",
            "no row has a fraud label with its time",
        ),
        latency: labels(latency, legs, "legs file", "no leg has a known latency"),
    }
}
