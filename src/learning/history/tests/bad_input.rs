//! One test for each way in which a transactions file can be bad.

use super::*;
use crate::txn::Timestamp;

#[test]
fn a_malformed_line_is_set_aside() {
    check_rejected("b,2026-01-01T10:00:00Z,UPI", "", "b", "3 fields where the header has 8");
    check_rejected(format!("{GOOD},extra").replacen('a', "b", 1), "", "b", "9 fields");
}

#[test]
fn a_truncated_last_line_is_set_aside_and_an_unfinished_file_is_told() {
    let text = format!("{HEADER}\n{GOOD}\nb,2026-01-01T10:00:00Z,UPI,c1,1");
    let history = read_text(text).unwrap();
    assert_eq!((history.rows.len(), history.rejects[0].line), (1, 3));
    assert!(history.report.unfinished_files[0].ends_with("h.csv"));
    assert!(history.report.notes().iter().any(|note| note.contains("cut off")));
    assert!(read_text(many(2)).unwrap().report.unfinished_files.is_empty());
}

#[test]
fn bytes_that_are_not_utf8_are_located() {
    let bad = [b"b,2026-01-01T10:00:00Z,UPI,c\xff1,100,committed,,".as_slice()].concat();
    check_rejected(bad, "customer_id", "c", "not UTF-8 from byte 1");
    let header = [b"txn_id,\xff\xfe\n".as_slice(), b"1,2\n"].concat();
    contains_all(&message(read_text(header)), &["h.csv", "column 2", "UTF-8"]);
}

#[test]
fn wrong_types_are_set_aside() {
    let with = |column: usize, value: &str| {
        let mut fields: Vec<&str> = GOOD.split(',').collect();
        fields[0] = "b";
        fields[column] = value;
        fields.join(",")
    };
    check_rejected(with(1, "yesterday"), "timestamp", "yesterday", "RFC 3339");
    check_rejected(with(1, "2026-02-30T10:00:00Z"), "timestamp", "02-30", "RFC 3339");
    check_rejected(with(1, ""), "timestamp", "", "empty");
    check_rejected(with(3, ""), "customer_id", "", "empty");
    check_rejected(with(3, &"c".repeat(129)), "customer_id", "ccc...", "129 bytes");
    check_rejected(with(4, "12.50"), "amount_minor", "12.50", "not a whole number");
    check_rejected(with(4, "lots"), "amount_minor", "lots", "not a whole number");
    check_rejected(with(4, ""), "amount_minor", "", "empty");
    check_rejected(with(6, "maybe"), "fraud", "maybe", "neither true nor false");
}

#[test]
fn negative_and_overflowing_amounts_are_set_aside() {
    let with = |amount: &str| format!("b,2026-01-01T10:00:00Z,UPI,c1,{amount},committed,,");
    check_rejected(with("-1"), "amount_minor", "-1", "negative");
    check_rejected(with("9223372036854775808"), "amount_minor", "9223", "overflows");
    check_rejected(with("-9223372036854775809"), "amount_minor", "-9223", "overflows");
    check_rejected(with(&"9".repeat(400)), "amount_minor", "999...", "overflows");
}

#[test]
fn unknown_enum_values_are_set_aside_with_the_choice() {
    check_rejected("b,2026-01-01,CASH,c1,1,committed,,", "kind", "CASH", "one of UPI");
    check_rejected("b,2026-01-01,UPI,c1,1,done,,", "outcome", "done", "committed");
    check_rejected("b,2026-01-01,upi,c1,1,committed,,", "kind", "upi", "one of UPI");
}

#[test]
fn duplicate_ids_are_set_aside_and_name_the_first_line() {
    check_rejected(GOOD, "txn_id", "a", "duplicate of line 2");
}

#[test]
fn the_header_again_is_set_aside() {
    check_rejected(HEADER, "", "txn_id", "the header again");
}

#[test]
fn an_empty_or_hostile_id_is_set_aside() {
    check_rejected(GOOD.replacen('a', "", 1), "txn_id", "", "empty");
    check_rejected(GOOD.replacen('a', "b\u{7}", 1), "txn_id", "b\u{7}", "control");
}

#[test]
fn rows_out_of_order_are_sorted_and_counted() {
    let text = format!(
        "{HEADER}\nb,2026-01-02,UPI,c1,1,committed,,\nc,2026-01-01,UPI,c1,1,committed,,\n\
         d,2026-01-02,UPI,c1,1,committed,,\n"
    );
    let history = read_text(text).unwrap();
    let ids: Vec<&str> = history.rows.iter().map(|row| row.txn_id.as_str()).collect();
    assert_eq!(ids, ["c", "b", "d"]);
    assert_eq!((history.report.rows_out_of_order, history.rejects.len()), (1, 0));
    assert!(history.report.notes()[0].contains("sorted"));
}

#[test]
fn rows_in_the_future_are_set_aside_when_a_present_is_given() {
    let folder = Folder::new();
    let path = folder.file("h.csv", format!("{HEADER}\n{GOOD}\nb,2030-01-01,UPI,c1,1,,,\n"));
    assert_eq!(read(&path, None, &ReadOptions::default()).unwrap().rows.len(), 2);
    let now: Timestamp = "2027-01-01".parse().unwrap();
    let options = ReadOptions { future_after: Some(now), ..ReadOptions::default() };
    let history = read(&path, None, &options).unwrap();
    assert_eq!((history.rows.len(), history.rejects.len()), (1, 1));
    contains_all(&history.rejects[0].to_string(), &[":3:", "timestamp", "2030", "in the future"]);
}

#[test]
fn labels_out_of_time_are_set_aside() {
    let with = |rest: &str| format!("b,2026-01-02T00:00:00Z,UPI,c1,1,committed,{rest}");
    check_rejected(with("true,2026-01-01T00:00:00Z"), "labelled_at", "01-01", "before the row's");
    check_rejected(with(",2026-01-03T00:00:00Z"), "labelled_at", "01-03", "without a fraud label");
}

#[test]
fn a_fraud_label_without_its_time_is_dropped_and_counted_because_it_could_leak() {
    let text = format!("{HEADER}\nb,2026-01-02T00:00:00Z,UPI,c1,1,committed,true,\n");
    let history = read_text(text).unwrap();
    assert_eq!((history.rows[0].fraud, history.report.labels_without_time), (None, 1));
    assert!(history.targets.fraud.absent.as_deref().unwrap().contains("its time"));
    contains_all(&history.report.notes().join("\n"), &["1 fraud labels without labelled_at"]);
}

#[test]
fn places_off_the_globe_and_half_places_are_set_aside() {
    let check = |place: &str, column: &str, reason: &str| {
        let header = "txn_id,timestamp,kind,customer_id,amount_minor,lat,lon";
        let good = "2026-01-01,UPI,c1,1";
        let text = format!("{header}\na,{good},1.5,-2.5\nb,{good},{place}\nc,{good},,\n");
        let history = read_text(text).unwrap();
        assert_eq!((history.rows.len(), history.rejects.len()), (2, 1), "{place}");
        let reject = &history.rejects[0];
        assert_eq!((reject.line, reject.column.as_str()), (3, column));
        assert!(reject.reason.contains(reason), "{reject}");
    };
    check("90.1,0", "lat", "between -90 and 90");
    check("0,-180.5", "lon", "between -180 and 180");
    check("nan,0", "lat", "between -90 and 90");
    check("inf,0", "lat", "between -90 and 90");
    check("here,0", "lat", "not a number");
    check("1,", "lon", "lat is given");
    check(",1", "lat", "lon is given");
}

#[test]
fn numbers_out_of_range_are_set_aside() {
    let header =
        "txn_id,timestamp,kind,customer_id,amount_minor,attempt,system_load_ratio,total_ms";
    for (value, column) in [
        ("0,0.5,1", "attempt"),
        ("1,-0.5,1", "system_load_ratio"),
        ("1,nan,1", "system_load_ratio"),
        ("1,0.5,-1", "total_ms"),
        ("1,0.5,1e300", "total_ms"),
    ] {
        let good = "2026-01-01,UPI,c1,1";
        let text = format!("{header}\na,{good},1,0.5,1.5\nb,{good},{value}\n");
        let history = read_text(text).unwrap();
        assert_eq!(history.rejects[0].column, column, "{value}");
    }
}

#[test]
fn a_failure_class_on_a_committed_row_is_set_aside() {
    let header = "timestamp,kind,customer_id,amount_minor,outcome,failure_class";
    let row = "2026-01-01,UPI,c1,1";
    let text = format!("{header}\n{row},committed,business\n{row},aborted,business\n");
    let history = read_text(text).unwrap();
    assert_eq!(history.rejects[0].column, "failure_class");
    assert_eq!(history.rows[0].txn_id, "row-3");
}

#[test]
fn missing_columns_are_missing_features_but_four_are_required() {
    let error = message(read_text("txn_id,timestamp,kind\na,2026-01-01,UPI\n"));
    contains_all(&error, &["h.csv", "no column customer_id, amount_minor", "required are"]);
    let history = read_text("timestamp,customer_id,amount_minor,kind\n2026-01-01,c1,5,UPI\n");
    let history = history.unwrap();
    assert_eq!(history.report.columns_missing.len(), COLUMNS.len() - 4);
    assert!(history.report.notes()[0].contains("columns missing"));
    let row = &history.rows[0];
    assert_eq!((row.txn_id.as_str(), row.payment.attempt), ("row-2", 1));
    let absent = [&history.targets.success, &history.targets.fraud, &history.targets.latency]
        .map(|labels| labels.absent.clone().unwrap());
    contains_all(&absent.join("; "), &["no column outcome", "no column fraud", "no legs file"]);
}

#[test]
fn unknown_columns_are_ignored_and_named() {
    let text = format!("{HEADER},shoe_size\n{GOOD},44\n");
    let history = read_text(text).unwrap();
    assert_eq!(history.rows.len(), 1);
    assert_eq!(history.report.columns_ignored, ["shoe_size"]);
    assert!(history.report.notes().join("\n").contains("shoe_size"));
}

#[test]
fn an_empty_file_is_an_error() {
    contains_all(&message(read_text("")), &["h.csv is empty", "timestamp"]);
    contains_all(&message(read_text("\n\n")), &["h.csv is empty"]);
}

#[test]
fn a_header_alone_is_an_error() {
    contains_all(&message(read_text(format!("{HEADER}\n"))), &["h.csv", "no usable rows"]);
}

#[test]
fn a_column_that_stands_there_twice_is_an_error() {
    let error = message(read_text(format!("{HEADER},kind\n{GOOD},UPI\n")));
    contains_all(&error, &["h.csv", "column kind", "twice"]);
}

#[test]
fn a_file_without_usable_rows_is_an_error_that_shows_some() {
    let error = message(read_text(format!("{HEADER}\nx,,UPI,c1,1,,,\n")));
    contains_all(&error, &["no usable rows", "1 of 1", "h.csv:2", "timestamp"]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_and_blank_lines_do_no_harm() {
    let text = format!("\u{feff}{HEADER}\r\n{GOOD}\r\n\r\nb,x,UPI,c1,1,,,\r\n");
    let history = read_text(text).unwrap();
    assert_eq!((history.rows.len(), history.rejects.len()), (1, 1));
    assert_eq!(history.rejects[0].line, 4);
    assert!(history.report.unfinished_files.is_empty());
}

#[test]
fn quoted_fields_are_read_and_lines_within_them_counted() {
    let quoted = "\"b,\"\"1\"\"\",2026-01-01,UPI,\"c 1\",1,committed,,";
    let text = format!("{HEADER},note\n{GOOD},\"two\nlines\"\n{quoted},\nc,x,UPI,c1,1,,,,\n");
    let history = read_text(text).unwrap();
    let ids: Vec<&str> = history.rows.iter().map(|row| row.txn_id.as_str()).collect();
    assert!(ids.contains(&"b,\"1\""), "{ids:?}");
    assert_eq!(history.rejects[0].line, 5);
}

#[test]
fn a_field_of_a_megabyte_is_set_aside() {
    let long = "x".repeat(1 << 20);
    let bad = format!("b,2026-01-01T10:00:00Z,UPI,{long},100,committed,,");
    check_rejected(bad, "customer_id", "xxx...", "1048576 bytes, at most 65536");
}

#[test]
fn an_open_quote_stops_the_run_instead_of_filling_the_memory() {
    let text = format!("{HEADER}\n{GOOD}\n\"{}", "x\n".repeat(4 << 20));
    contains_all(&message(read_text(text)), &["h.csv:3", "4194304 bytes", "quote"]);
}

#[test]
fn few_bad_rows_are_tolerated_and_many_stop_the_run_with_the_first_shown() {
    let bad = |count: usize| {
        let line = "x,never,UPI,c1,1,,,\n";
        let history = many(400) + &line.repeat(count);
        read_text(history)
    };
    assert_eq!(bad(4).unwrap().report.rows_rejected, 4);
    let error = message(bad(5));
    contains_all(&error, &["5 of 405 rows", "0.01", "h.csv:402", "never", "RFC 3339"]);
    let tiny = |count: usize| read_text(many(1) + &"x,never,UPI,c1,1,,,\n".repeat(count));
    assert_eq!(tiny(3).unwrap().rejects.len(), 3);
    contains_all(&message(tiny(4)), &["4 of 5 rows"]);
}

#[test]
fn a_limit_of_zero_tolerates_nothing_and_other_limits_are_refused() {
    let folder = Folder::new();
    let path = folder.file("h.csv", many(10) + "x\n");
    let with = |ratio| ReadOptions { bad_rows_max_ratio: ratio, ..ReadOptions::default() };
    contains_all(&message(read(&path, None, &with(0.0))), &["1 of 11"]);
    for ratio in [-0.1, 1.1, f64::NAN] {
        contains_all(&message(read(&path, None, &with(ratio))), &["bad_rows_max_ratio"]);
    }
}

#[test]
fn a_file_that_is_mostly_bad_is_given_up_early() {
    let text = format!("{HEADER}\n{}", "x\n".repeat(100_000));
    contains_all(&message(read_text(text)), &["1000 of 1000 rows"]);
}

#[test]
fn rejects_are_written_also_when_the_run_stops_for_them() {
    let folder = Folder::new();
    let path = folder.file("h.csv", many(1) + &"x,\"ne,ver\",UPI,c1,1,,,\n".repeat(7));
    let rejects = folder.path("rejects.csv");
    let options = ReadOptions { rejects: Some(rejects.clone()), ..ReadOptions::default() };
    message(read(&path, None, &options));
    let text = std::fs::read_to_string(&rejects).unwrap();
    assert_eq!(text.lines().count(), 8);
    contains_all(&text, &["file,line,column,value,reason", ",3,timestamp,\"ne,ver\","]);
}

#[test]
fn the_rejects_file_never_replaces_the_input() {
    let folder = Folder::new();
    let path = folder.file("h.csv", many(1));
    let options = ReadOptions { rejects: Some(path.clone()), ..ReadOptions::default() };
    contains_all(&message(read(&path, None, &options)), &["one of the inputs"]);
    assert_eq!(read(&path, None, &ReadOptions::default()).unwrap().rows.len(), 1);
}

#[test]
fn a_missing_file_and_a_folder_are_errors() {
    let folder = Folder::new();
    let options = ReadOptions::default();
    contains_all(&message(read(&folder.path("none.csv"), None, &options)), &["none.csv"]);
    assert!(!exists(&folder.path("none.csv")));
    contains_all(&message(read(folder.0.path(), None, &options)), &["folder"]);
}

#[test]
fn progress_reaches_the_end() {
    let folder = Folder::new();
    let path = folder.file("h.csv", many(20_000));
    let mut last = None;
    let history = read_with(&path, None, &ReadOptions::default(), &mut |at| last = Some(at));
    assert_eq!(history.unwrap().rows.len(), 20_000);
    let last = last.unwrap();
    assert_eq!((last.rows, last.bytes), (20_000, last.bytes_total));
}
