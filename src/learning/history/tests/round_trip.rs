//! What is written reads back; what nobody wrote makes no panic; Parquet says the same as CSV.

use std::time::Duration;

use polars::prelude::{IntoColumn, NamedFrom, ParquetWriter, Series};
use proptest::prelude::*;

use super::*;
use crate::txn::{
    CounterpartyId, Currency, Customer, CustomerId, CustomerType, FailureClass, HistoryOutcome,
    HistoryRow, Kind, LegRow, LegVote, Location, Money, ParticipantName, Payment, Timestamp,
};

fn instant() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800_000_000_i64..=253_402_207_200_000_000).prop_map(Timestamp::from_micros)
}

/// Ids with everything that CSV finds hard, and no control characters.
fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9,\";' é∑\u{1f600}-]{1,20}"
}

fn payment() -> impl Strategy<Value = Payment> {
    let kind = proptest::sample::select(Kind::ALL);
    let customer_type = proptest::sample::select(CustomerType::ALL);
    let customer = (text(), customer_type, proptest::option::of(instant()));
    let place = proptest::option::of((-90.0..=90.0_f64, -180.0..=180.0_f64));
    let numbers = (0..=i64::MAX, 1..=1_000_000_u32, proptest::option::of(0.0..=1_000.0_f64));
    let flags = (any::<bool>(), any::<bool>());
    (kind, customer, proptest::option::of(text()), numbers, flags, place).prop_map(
        |(kind, (id, customer_type, since), counterparty, numbers, flags, place)| Payment {
            kind,
            customer: Customer { id: CustomerId::new(&id).unwrap(), customer_type, since },
            counterparty: counterparty.map(|id| CounterpartyId::new(&id).unwrap()),
            amount: Money { minor: numbers.0, currency: Currency::INR },
            cross_border: flags.0,
            requires_consistency: flags.1,
            location: place.map(|(lat, lon)| Location { lat, lon }),
            attempt: numbers.1,
            system_load_ratio: numbers.2,
            participants: Vec::new(),
        },
    )
}

fn legs() -> impl Strategy<Value = Vec<LegRow>> {
    let ms = || 0.0..=1e9_f64;
    let vote = proptest::sample::select(LegVote::ALL);
    let times = (ms(), proptest::option::of(ms()), proptest::option::of(ms()));
    let leg = (vote, times, any::<u32>(), 0.0..=1.0_f64);
    proptest::collection::vec(leg, 0..4).prop_map(|legs| {
        let number = |(index, (vote, times, in_flight, health)): (usize, _)| {
            let (prepare_ms, timeout_ms, late_ms): (f64, Option<f64>, Option<f64>) = times;
            let late_ms = late_ms.filter(|_| vote == LegVote::Timeout);
            let participant = ParticipantName::new(&format!("p,{index}")).unwrap();
            LegRow { participant, vote, prepare_ms, timeout_ms, late_ms, in_flight, health }
        };
        legs.into_iter().enumerate().map(number).collect()
    })
}

fn rows() -> impl Strategy<Value = Vec<HistoryRow>> {
    let outcome = proptest::option::of(proptest::sample::select(HistoryOutcome::ALL));
    let class = proptest::option::of(proptest::sample::select(FailureClass::ALL));
    let total = proptest::option::of((0..10_000_000_000_u64).prop_map(Duration::from_micros));
    let label = proptest::option::of((any::<bool>(), 0..10_000_000_000_000_u64));
    let ends = (outcome, class, total, label, proptest::option::of(text()));
    let row = (text(), instant(), payment(), ends, legs());
    proptest::collection::vec(row, 1..8).prop_map(|rows| {
        let row = |(index, (payment_id, timestamp, payment, ends, legs)): (usize, _)| {
            let (outcome, class, total, label, route) = ends;
            let mut payment: Payment = payment;
            let legs: Vec<LegRow> = legs;
            payment.participants = legs.iter().map(|leg| leg.participant.clone()).collect();
            let class: Option<FailureClass> = class;
            let label: Option<(bool, u64)> = label;
            let timestamp: Timestamp = timestamp;
            HistoryRow {
                txn_id: format!("t\"{index}"),
                payment_id,
                timestamp,
                payment,
                route,
                outcome,
                failure_class: class.filter(|_| outcome != Some(HistoryOutcome::Committed)),
                total,
                fraud: label.map(|(fraud, _)| fraud),
                labelled_at: label
                    .map(|(_, micros)| timestamp.after(Duration::from_micros(micros))),
                legs,
            }
        };
        let mut rows: Vec<HistoryRow> = rows.into_iter().enumerate().map(row).collect();
        rows.sort_by_key(|row| row.timestamp);
        rows
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(rows in rows()) {
        let folder = Folder::new();
        let (path, legs) = (folder.path("h.csv"), folder.path("l.csv"));
        write(&path, Some(&legs), &rows).unwrap();
        let history = read(&path, Some(&legs), &ReadOptions::default()).unwrap();
        prop_assert_eq!(&history.rejects, &Vec::new());
        prop_assert_eq!(history.rows, rows);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let folder = Folder::new();
        let path = folder.file("h.csv", &bytes);
        let _ = read(&path, None, &ReadOptions::default());
        let with_header = [HEADER.as_bytes(), b"\n", &bytes].concat();
        let path = folder.file("h.csv", &with_header);
        let _ = read(&path, Some(&path), &ReadOptions::default());
        let path = folder.file("h.parquet", &bytes);
        prop_assert!(read(&path, None, &ReadOptions::default()).is_err());
    }

    #[test]
    fn damaged_histories_never_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
        let mut bytes = many(5).into_bytes();
        let (at, cut) = (at % bytes.len(), cut % bytes.len());
        bytes[at] = byte;
        let _ = read_text(&bytes);
        let _ = read_text(&bytes[..cut]);
    }

    #[test]
    fn both_parsers_of_instants_agree(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{6})?Z") {
        let text = text.replacen("0000", "0001", 1);
        let row = format!("{HEADER}\nb,{text},UPI,c1,1,,,\n");
        let history = read_text(row);
        match text.parse::<Timestamp>() {
            Ok(expected) => prop_assert_eq!(history.unwrap().rows[0].timestamp, expected),
            Err(_) => prop_assert!(history.is_err()),
        }
    }
}

fn parquet(folder: &Folder, columns: Vec<Series>) -> PathBuf {
    let path = folder.path("h.parquet");
    let height = columns[0].len();
    let columns = columns.into_iter().map(IntoColumn::into_column).collect();
    let mut frame = polars::prelude::DataFrame::new(height, columns).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    path
}

fn typed_columns() -> Vec<Series> {
    let micros = 1_767_261_600_000_000_i64;
    let instants = Series::new("timestamp".into(), [micros, micros + 1_500_000]);
    let unit = polars::prelude::TimeUnit::Microseconds;
    vec![
        Series::new("txn_id".into(), ["a", "b"]),
        instants.cast(&polars::prelude::DataType::Datetime(unit, None)).unwrap(),
        Series::new("kind".into(), ["UPI", "CASH"]),
        Series::new("customer_id".into(), ["c1", "c2"]),
        Series::new("amount_minor".into(), [100_i64, 200]),
        Series::new("cross_border".into(), [Some(true), None]),
        Series::new("system_load_ratio".into(), [Some(0.1), None]),
    ]
}

#[test]
fn parquet_passes_through_the_same_checks() {
    let folder = Folder::new();
    let path = parquet(&folder, typed_columns());
    let history = read(&path, None, &ReadOptions::default()).unwrap();
    let row = &history.rows[0];
    assert_eq!(row.timestamp.to_string(), "2026-01-01T10:00:00Z");
    assert_eq!((row.payment.amount.minor, row.payment.cross_border), (100, true));
    assert_eq!(row.payment.system_load_ratio, Some(0.1));
    let reject = &history.rejects[0];
    assert_eq!((reject.line, reject.column.as_str(), reject.value.as_str()), (2, "kind", "CASH"));
}

#[test]
fn damaged_parquet_is_an_error() {
    let folder = Folder::new();
    let path = parquet(&folder, typed_columns());
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 3, 8, bytes.len() / 2, bytes.len() - 1] {
        let path = folder.file("cut.parquet", &bytes[..cut]);
        contains_all(&message(read(&path, None, &ReadOptions::default())), &["cut.parquet"]);
    }
}
