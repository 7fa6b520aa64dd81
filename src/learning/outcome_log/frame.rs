//! The columns of the outcome log: flat and typed, for pandas, `DuckDB`, Spark and ourselves.
//!
//! | column | type | meaning |
//! |---|---|---|
//! | `sequence` | i64 | order in which outcomes became durable, without gaps over all files |
//! | `txn_id` … `system_load_ratio` | | the submission, named as in the history CSV |
//! | `timestamp`, `customer_since` | datetime\[µs\] | UTC, without a zone |
//! | `outcome`, `failure_class`, `reasons` | text | reason codes joined by commas |
//! | `total_ms` | f64 | from submission to outcome |
//! | `mode`, `admission`, `protocol`, `plan_reasons` | text | what policy made of it |
//! | `success_probability`, `fraud_probability` | f64 | null in mode off |
//! | `success_by`, `fraud_by`, `model_version` | text | what predicted |
//! | `latency` | text | JSON, a prediction a participant |
//! | `legs` | text | JSON, an entry a participant: vote, latencies in ms, timeout in force |
//! | `f_<feature>` | f32 | transaction features as served; NaN is missing, null not computed |
//! | `features_json` | text | values of a row whose width is not this schema's |

use polars::prelude::{
    Column, DataFrame, DataType, NamedFrom, ParquetWriter, PolarsResult, Series, TimeUnit,
};

use crate::decision_log::OutcomeRow;
use crate::txn::{Admission, Prediction, Reason, Timestamp};

/// A Parquet file of these rows; `Err` is one sentence.
pub(super) fn encode(
    rows: &[(u64, OutcomeRow)],
    feature_names: &[String],
) -> Result<Vec<u8>, String> {
    let encode = || -> PolarsResult<Vec<u8>> {
        let mut frame = DataFrame::new(rows.len(), columns(rows, feature_names)?)?;
        let mut bytes = Vec::new();
        ParquetWriter::new(&mut bytes).finish(&mut frame)?;
        Ok(bytes)
    };
    encode().map_err(|error| error.to_string())
}

fn columns(rows: &[(u64, OutcomeRow)], feature_names: &[String]) -> PolarsResult<Vec<Column>> {
    let table = Table(rows);
    let sequences: Vec<i64> = rows.iter().map(|(sequence, _)| sequence.cast_signed()).collect();
    let mut columns = vec![
        Series::new("sequence".into(), sequences).into(),
        table.text("txn_id", |row| Some(row.txn_id.to_string())),
        table.instant("timestamp", |row| Some(row.timestamp))?,
        table.text("kind", |row| Some(row.kind.to_string())),
        table.text("customer_id", |row| Some(row.customer_id.to_string())),
        table.text("customer_type", |row| Some(row.customer_type.to_string())),
        table.instant("customer_since", |row| row.customer_since)?,
        table.text("counterparty_id", |row| row.counterparty_id.as_ref().map(ToString::to_string)),
        table.column("amount_minor", |row| row.amount_minor),
        table.text("currency", |row| Some(row.currency.to_string())),
        table.column("cross_border", |row| row.cross_border),
        table.column("requires_consistency", |row| row.requires_consistency),
        table.column("lat", |row| row.lat),
        table.column("lon", |row| row.lon),
        table.column("attempt", |row| i64::from(row.attempt)),
        table.column("system_load_ratio", |row| row.system_load_ratio),
        table.text("outcome", |row| Some(row.outcome.to_string())),
        table.text("failure_class", |row| row.failure_class.as_ref().map(ToString::to_string)),
        table.text("reasons", |row| Some(row.reasons.join(","))),
        table.column("total_ms", |row| row.total_us as f64 / 1e3),
        table.text("mode", |row| Some(row.plan.mode.to_string())),
        table.text("admission", |row| Some(admission(row.plan.admission).to_owned())),
        table.text("protocol", |row| Some(row.plan.protocol.to_string())),
        table.text("plan_reasons", |row| Some(codes(&row.plan.reasons))),
        table.predicted("success_probability", |prediction| prediction.success.get()),
        table.predicted("fraud_probability", |prediction| prediction.fraud.get()),
        table.predictor("success_by", |prediction| prediction.success_by.to_string()),
        table.predictor("fraud_by", |prediction| prediction.fraud_by.to_string()),
        table.predictor("model_version", |prediction| prediction.model_version.to_string()),
        table.predictor("latency", |prediction| json(&prediction.latency)),
        table.text("legs", |row| Some(json(&row.legs))),
    ];
    let width = feature_names.len();
    for (position, name) in feature_names.iter().enumerate() {
        let value =
            |row: &OutcomeRow| (row.features.len() == width).then(|| row.features[position]);
        columns.push(table.column(&format!("f_{name}"), value));
    }
    columns.push(table.text("features_json", |row| {
        let other = row.features.len() != width && !row.features.is_empty();
        other.then(|| json(&row.features))
    }));
    Ok(columns)
}

struct Table<'a>(&'a [(u64, OutcomeRow)]);

impl Table<'_> {
    fn column<T>(&self, name: &str, value: impl Fn(&OutcomeRow) -> T) -> Column
    where
        Series: NamedFrom<Vec<T>, [T]>,
    {
        let values: Vec<T> = self.0.iter().map(|(_, row)| value(row)).collect();
        Series::new(name.into(), values).into()
    }

    fn text(&self, name: &str, value: impl Fn(&OutcomeRow) -> Option<String>) -> Column {
        let values: Vec<Option<String>> = self.0.iter().map(|(_, row)| value(row)).collect();
        Series::new(name.into(), values).into()
    }

    fn instant(
        &self,
        name: &str,
        value: impl Fn(&OutcomeRow) -> Option<Timestamp>,
    ) -> PolarsResult<Column> {
        let micros = self.column(name, |row| value(row).map(Timestamp::micros));
        micros.cast(&DataType::Datetime(TimeUnit::Microseconds, None))
    }

    fn predicted(&self, name: &str, value: impl Fn(&Prediction) -> f64) -> Column {
        self.column(name, |row| row.prediction.as_ref().map(&value))
    }

    fn predictor(&self, name: &str, value: impl Fn(&Prediction) -> String) -> Column {
        self.text(name, |row| row.prediction.as_ref().map(&value))
    }
}

fn admission(admission: Admission) -> &'static str {
    match admission {
        Admission::Admit => "admit",
        Admission::Reject => "reject",
    }
}

fn codes(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.code.as_str()).collect::<Vec<_>>().join(",")
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}
