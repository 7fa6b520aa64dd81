//! Files of other people.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::txn::{CustomerType, HistoryOutcome, Kind};

const THEIRS: &str = "Id;When;Who;Sum;Paid;Bad;Place\n\
    1;24.11.2026 10:00:00;ann;12.50;yes;0;x\n\
    2;24.11.2026 10:00:30;ann;12.50;no;1;y\n\
    3;24.11.2026 10:05;bob;7;;;z\n";

const MAPPING: &str = r#"
    delimiter = ";"
    [columns]
    txn_id = "Id"
    timestamp = "When"
    customer_id = "Who"
    amount_minor = "Sum"
    outcome = "Paid"
    fraud = "Bad"
    [constants]
    kind = "UPI"
    customer_type = "PREMIUM"
    total_ms = 250
    [values.outcome]
    yes = "committed"
    "*" = "aborted"
    "" = ""
    [time]
    formats = ["%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M"]
    zone = "Asia/Kolkata"
    [amount]
    decimals = 2
    [labels]
    known_after = "7d"
    [attempts]
    same = ["Who", "Sum"]
    within = "1m"
"#;

fn mapped(name: &str, bytes: &[u8], mapping: &str) -> Result<History, HistoryError> {
    let folder = Folder::new();
    let mapping = Some(Mapping::parse(mapping).unwrap());
    read(&folder.file(name, bytes), None, &ReadOptions { mapping, ..ReadOptions::default() })
}

fn refused(mapping: &str, parts: &[&str]) {
    contains_all(&Mapping::parse(mapping).unwrap_err().to_string(), parts);
}

#[test]
fn their_rows_say_what_ours_would() {
    let history = mapped("h.csv", THEIRS.as_bytes(), MAPPING).unwrap();
    let [first, second, third] = &history.rows[..] else { panic!("{:?}", history.rejects) };
    assert_eq!(first.timestamp, "2026-11-24T04:30:00Z".parse().unwrap());
    assert_eq!((first.payment.amount.minor, third.payment.amount.minor), (1_250, 700));
    assert_eq!(first.payment.kind, Kind::Upi);
    assert_eq!(first.payment.customer.customer_type, CustomerType::Premium);
    assert_eq!(first.total, Some(Duration::from_millis(250)));
    let outcomes: Vec<_> = history.rows.iter().map(|row| row.outcome).collect();
    let (committed, aborted) = (HistoryOutcome::Committed, HistoryOutcome::Aborted);
    assert_eq!(outcomes, [Some(committed), Some(aborted), None]);
    let labels: Vec<_> = history.rows.iter().map(|row| row.fraud).collect();
    assert_eq!(labels, [Some(false), Some(true), None]);
    assert_eq!(second.labelled_at, Some(second.timestamp.after(Duration::from_hours(7 * 24))));
    let attempts: Vec<_> =
        history.rows.iter().map(|row| (row.payment_id.as_str(), row.payment.attempt)).collect();
    assert_eq!(attempts, [("1", 1), ("1", 2), ("3", 1)]);
    assert_eq!(history.report.columns_ignored, ["Place"]);
}

#[test]
fn a_packed_file_is_the_same_and_a_torn_one_is_refused() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(THEIRS.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let plain = mapped("h.csv", THEIRS.as_bytes(), MAPPING).unwrap();
    assert_eq!(mapped("h.csv.gz", &packed, MAPPING).unwrap().rows, plain.rows);
    let twice = [&packed[..], &packed[..]].concat();
    let again = message(mapped("h.csv.gz", &twice, MAPPING));
    contains_all(&again, &["4 of 7 rows are bad", "the header again", "duplicate of line 2"]);
    let torn = mapped("h.csv.gz", &packed[..packed.len() - 9], MAPPING);
    contains_all(&message(torn), &["h.csv.gz", "incomplete"]);
    contains_all(&message(mapped("h.csv.gz", b"no gzip at all", MAPPING)), &["h.csv.gz", "gzip"]);
}

#[test]
fn a_bad_row_of_theirs_is_found_where_it_is() {
    let check = |line: &str, column: &str, reason: &str| {
        let text = format!("{THEIRS}{line}\n");
        let history = mapped("h.csv", text.as_bytes(), MAPPING).unwrap();
        let [reject] = &history.rejects[..] else { panic!("{line}: {:?}", history.rejects) };
        assert_eq!((reject.line, reject.column.as_str()), (5, column), "{reject}");
        assert!(reject.reason.contains(reason), "{reject}");
    };
    check("4;11/24/2026;eve;1;yes;0;x", "timestamp", "not of the form %d.%m.%Y %H:%M:%S or");
    check("4;;eve;1;yes;0;x", "timestamp", "empty");
    check("4;24.11.2026 10:06;eve;1.005;yes;0;x", "amount_minor", "more than 2 decimals");
    check("4;24.11.2026 10:06;eve;1e3;yes;0;x", "amount_minor", "not a decimal number");
    check("4;24.11.2026 10:06;eve;NaN;yes;0;x", "amount_minor", "not a decimal number");
    check("4;24.11.2026 10:06;eve;99999999999999999;yes;0;x", "amount_minor", "too large");
    check("4;24.11.2026 10:06;eve;1;yes;maybe;x", "fraud", "neither true nor false");
    check("4;24.11.2026 10:06;eve", "", "3 fields where the header has 7");
    check("1;24.11.2026 10:06;eve;1;yes;0;x", "txn_id", "duplicate of line 2");
    check(THEIRS.lines().next().unwrap(), "", "the header again");
    let known = MAPPING.replace("\"*\" = \"aborted\"", "no = \"aborted\"");
    let text = format!("{THEIRS}4;24.11.2026 10:06;eve;1;perhaps;0;x\n");
    let history = mapped("h.csv", text.as_bytes(), &known).unwrap();
    contains_all(&history.rejects[0].reason, &["the mapping knows only", "no, yes"]);
}

#[test]
fn a_mapping_that_does_not_fit_the_file_is_told_so() {
    let without = THEIRS.replace(";Who;", ";Whom;");
    let error = message(mapped("h.csv", without.as_bytes(), MAPPING));
    contains_all(&error, &["no column Who", "for customer_id", "Whom"]);
    let twice = THEIRS.replace(";Place", ";Who");
    let error = message(mapped("h.csv", twice.as_bytes(), MAPPING));
    contains_all(&error, &["Who", "is there twice"]);
    let error = message(mapped("h.csv", b"", MAPPING));
    contains_all(&error, &["is empty"]);
}

#[test]
fn a_mapping_is_checked_before_any_file_is_read() {
    let minimal = "[columns]\ntimestamp = 'a'\ncustomer_id = 'b'\namount_minor = 'c'\nkind = 'd'\n";
    assert!(Mapping::parse(minimal).is_ok());
    refused("[column]", &["unknown field `column`"]);
    refused("[columns]\nwho = 'a'", &["\"who\"", "it has txn_id"]);
    refused(&minimal.replace("kind = 'd'\n", ""), &["nothing gives kind", "[constants]"]);
    let with = |more: &str| format!("{minimal}{more}");
    refused(&with("[constants]\nkind = 'UPI'"), &["kind", "[columns]", "[constants]"]);
    refused(&with("[constants]\nroute = [1]"), &["[constants]", "array"]);
    refused(&with("[values.route]\na = 'b'"), &["[values.route]", "[columns]"]);
    refused(&with("[time]\nformats = ['%Q']"), &["%Q"]);
    refused(&with("[time]\nformats = ['%H:%M']"), &["%H:%M", "no instant"]);
    refused(&with("[time]\nformats = ['%Y-%m-%d %I:%M']"), &["%I", "no instant"]);
    assert!(Mapping::parse(&with("[time]\nformats = ['%Y-%m-%d %I:%M %p', '%d/%m/%y']")).is_ok());
    refused(&with("[values.timestamp]\na = 'b'"), &["[values.timestamp]", "[time]"]);
    refused(&with("[time]\nzone = 'Mars/Olympus'"), &["Mars/Olympus", "Asia/Kolkata"]);
    refused(&with("[amount]\ndecimals = 12"), &["12", "at most 9"]);
    refused(&with("[labels]\nknown_after = '7d'"), &["needs a fraud column"]);
    refused(&with("[attempts]\nsame = []\nwithin = '1m'"), &["attempts.same", "0"]);
    refused(&with("[attempts]\nsame = ['x']\nwithin = 'soon'"), &["attempts.within", "soon"]);
    refused(&format!("delimiter = 'ab'\n{minimal}"), &["delimiter"]);
    refused(&format!("delimiter = '\"'\n{minimal}"), &["delimiter"]);
}

#[test]
fn instants_are_read_in_every_form_that_is_named() {
    let at = |format: &str, text: &str| {
        let mapping = format!(
            "[columns]\ntimestamp = 't'\ncustomer_id = 'c'\namount_minor = 'a'\n\
             [constants]\nkind = 'UPI'\n[time]\nformats = ['{format}']\nzone = 'Europe/Berlin'\n"
        );
        let file = format!("t,c,a\n\"{text}\",x,1\n");
        mapped("h.csv", file.as_bytes(), &mapping).unwrap().rows[0].timestamp.to_string()
    };
    assert_eq!(at("rfc3339", "2026-07-01T00:00:00+02:00"), at("unix_s", "1782856800"));
    assert_eq!(at("unix_ms", "1782856800000"), at("unix_s", "1782856800.0"));
    assert_eq!(at("%Y-%m-%d", "2026-07-01"), at("unix_us", "1782856800000000"));
    assert_eq!(at("%Y-%m-%dT%H:%M:%S%z", "2026-07-01T03:00:00+0500"), at("%Y-%m-%d", "2026-07-01"));
    // A skipped hour counts as after it, a repeated one as the first.
    let hour = "%Y-%m-%d %H:%M";
    assert_eq!(at(hour, "2026-03-29 02:30"), at("rfc3339", "2026-03-29T01:30:00Z"));
    assert_eq!(at(hour, "2026-10-25 02:30"), at("rfc3339", "2026-10-25T00:30:00Z"));
}

#[test]
fn the_mappings_that_ship_are_read() {
    for text in [
        include_str!("../../../../training/mappings/card_payments.toml"),
        include_str!("../../../../training/mappings/card_routing.toml"),
    ] {
        Mapping::parse(text).unwrap();
    }
}

proptest! {
    #[test]
    fn an_amount_is_what_it_says(minor in -99_999_999_i64..99_999_999, decimals in 0_u32..5) {
        let unit = 10_i64.pow(decimals);
        let sign = if minor < 0 { "-" } else { "" };
        let (whole, rest) = (minor.abs() / unit, minor.abs() % unit);
        let text = if decimals == 0 {
            format!("{sign}{whole}")
        } else {
            format!("{sign}{whole}.{rest:0width$}", width = decimals as usize)
        };
        let mapping = format!(
            "[columns]\ntimestamp = 't'\ncustomer_id = 'c'\namount_minor = 'a'\n\
             [constants]\nkind = 'UPI'\n[time]\nformats = ['unix_s']\n[amount]\ndecimals = {decimals}\n"
        );
        let read = mapped("h.csv", format!("t,c,a\n1,x,{text}\n1,x,0\n").as_bytes(), &mapping).unwrap();
        if minor < 0 {
            prop_assert_eq!(&read.rejects[0].reason, "negative");
        } else {
            prop_assert_eq!(read.rows[0].payment.amount.minor, minor);
        }
    }

    /// Whatever stands in a file and in a mapping: rows, rejects or an error.
    #[test]
    fn nothing_that_is_given_panics(file in "\\PC{0,300}", mapping in "\\PC{0,200}", tail in "\\PC{0,60}") {
        let _ = Mapping::parse(&mapping);
        let _ = mapped("h.csv", format!("{file}\n").as_bytes(), MAPPING);
        let _ = mapped("h.csv", format!("{THEIRS}{tail}\n").as_bytes(), MAPPING);
    }
}
