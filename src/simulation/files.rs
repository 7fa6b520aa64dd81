//! A history as files: transactions, legs, truth. Each appears under its name only when complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::fraud::Typology;
use super::generate::{Generated, Generator};
use crate::learning::history::{HistoryWriter, LegsWriter};
use crate::txn::{FailureClass, HistoryOutcome};

/// Where a history goes.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Transactions.
    pub transactions: PathBuf,
    /// A row a participant.
    pub legs: Option<PathBuf>,
    /// True probabilities: `txn_id,success,fraud,typology`.
    pub truth: Option<PathBuf>,
}

/// What a generated history is like.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Rows written.
    pub rows: u64,
    /// Rows that committed.
    pub committed: u64,
    /// Rows that were declined by business rules.
    pub business_failures: u64,
    /// Rows that failed technically.
    pub technical_failures: u64,
    /// Rows whose true probability of success is below 0.30.
    pub success_below_30: u64,
    /// Rows that are attempts after the first.
    pub retries: u64,
    /// Rows without a fraud label.
    pub never_labelled: u64,
    /// Rows that are fraud, by typology.
    pub fraud: std::collections::BTreeMap<&'static str, u64>,
    /// First and last instant.
    pub span: Option<[crate::txn::Timestamp; 2]>,
}

impl Summary {
    /// Counts one row.
    pub fn count(&mut self, of: &Generated) {
        let row = &of.row;
        self.rows += 1;
        self.committed += u64::from(row.outcome == Some(HistoryOutcome::Committed));
        let failed = |class| u64::from(row.failure_class == Some(class));
        self.business_failures += failed(FailureClass::Business);
        self.technical_failures += failed(FailureClass::Technical);
        self.success_below_30 += u64::from(of.truth.success < 0.30);
        self.retries += u64::from(row.payment.attempt > 1);
        self.never_labelled += u64::from(row.fraud.is_none());
        if let Some(typology) = of.truth.typology {
            *self.fraud.entry(Typology::as_str(typology)).or_default() += 1;
        }
        let [first, _] = self.span.unwrap_or([row.timestamp; 2]);
        self.span = Some([first, row.timestamp]);
    }
}

/// Writes everything that the generator gives; `progress` hears the number of rows so far, every
/// few thousand.
pub fn write(
    generator: Generator,
    output: &Output,
    mut progress: impl FnMut(u64),
) -> io::Result<Summary> {
    let mut transactions = HistoryWriter::new(Pending::create(&output.transactions)?)?;
    let create = |path: &Option<PathBuf>| path.as_deref().map(Pending::create).transpose();
    let mut legs = create(&output.legs)?.map(LegsWriter::new).transpose()?;
    let mut truth = create(&output.truth)?;
    if let Some(truth) = &mut truth {
        writeln!(truth, "txn_id,success,fraud,typology")?;
    }
    let mut summary = Summary::default();
    for generated in generator {
        let row = &generated.row;
        transactions.write(row)?;
        if let Some(legs) = &mut legs {
            legs.write(row)?;
        }
        if let Some(out) = &mut truth {
            let of = generated.truth;
            let typology = of.typology.map_or("", Typology::as_str);
            writeln!(out, "{},{:.6},{:.6},{typology}", row.txn_id, of.success, of.fraud)?;
        }
        summary.count(&generated);
        if summary.rows % 4_096 == 0 {
            progress(summary.rows);
        }
    }
    progress(summary.rows);
    transactions.finish()?.complete()?;
    legs.map(|legs| legs.finish()?.complete()).transpose()?;
    truth.map(Pending::complete).transpose()?;
    Ok(summary)
}

/// A file in the making beside its final name; dropped before its end, it is removed.
#[derive(Debug)]
struct Pending {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
}

impl Pending {
    fn create(path: &Path) -> io::Result<Self> {
        let located =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(located)?;
        Ok(Self { file: Some(BufWriter::new(file)), temporary, path: path.to_owned() })
    }

    fn complete(mut self) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
            fs::rename(&self.temporary, &self.path)?;
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is complete"))
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open()?.flush()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Best effort: an unfinished file must not pass for a history.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
