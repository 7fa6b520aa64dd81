//! Legs: joined, or set aside.

use super::*;

const LEGS: &str = "txn_id,participant,vote,prepare_ms,timeout_ms,late_ms,in_flight,health";

fn read_both(rows: &str, legs: &str) -> Result<History, HistoryError> {
    let folder = Folder::new();
    let path = folder.file("h.csv", rows);
    let legs = folder.file("l.csv", legs);
    read(&path, Some(&legs), &ReadOptions::default())
}

fn check_leg_rejected(bad: &str, column: &str, reason: &str) {
    let legs = format!("{LEGS}\nn0,core,yes,1.5,5000,,3,0.9\n{bad}\n");
    let history = read_both(&many(2), &legs).unwrap();
    assert_eq!(history.rejects.len(), 1, "{bad}");
    let reject = &history.rejects[0];
    assert!(reject.file.ends_with("l.csv"));
    assert_eq!((reject.line, reject.column.as_str()), (3, column), "{reject}");
    assert!(reject.reason.contains(reason), "{reject}");
    assert_eq!((history.report.legs_rejected, history.report.rows_rejected), (1, 0));
    assert_eq!(history.rows[0].legs.len(), 1);
}

#[test]
fn legs_become_participants_in_the_order_of_the_file() {
    let legs = format!(
        "{LEGS}\nn0,core,yes,1.5,5000,,3,0.9\nn0,rail,timeout,5000,5000,7100.25,4,0.5\n\
         n0,arc,no,2,,,,\n"
    );
    let history = read_both(&many(2), &legs).unwrap();
    let row = &history.rows[0];
    let names: Vec<&str> =
        row.payment.participants.iter().map(crate::txn::ParticipantName::as_str).collect();
    assert_eq!(names, ["core", "rail", "arc"]);
    assert_eq!(row.legs[1].latency_ms(), Some(7_100.25));
    assert_eq!((row.legs[2].in_flight, row.legs[2].health), (0, 1.0));
    assert_eq!((history.targets.latency.count, history.report.rows_without_legs), (3, 1));
}

#[test]
fn bad_legs_are_set_aside() {
    check_leg_rejected("zz,core,yes,1,,,1,1", "txn_id", "no such transaction");
    check_leg_rejected("n1,core,perhaps,1,,,1,1", "vote", "one of yes");
    check_leg_rejected("n1,core,,1,,,1,1", "vote", "empty");
    check_leg_rejected("n1,,yes,1,,,1,1", "participant", "empty");
    check_leg_rejected("n1,core,yes,-1,,,1,1", "prepare_ms", "negative");
    check_leg_rejected("n1,core,yes,nan,,,1,1", "prepare_ms", "between");
    check_leg_rejected("n1,core,yes,,,,1,1", "prepare_ms", "empty");
    check_leg_rejected("n1,core,yes,1,,,-1,1", "in_flight", "negative");
    check_leg_rejected("n1,core,yes,1,,,1,1.5", "health", "between 0 and 1");
    check_leg_rejected("n1,core,yes,1,5000,6000,1,1", "late_ms", "in time");
    check_leg_rejected("n0,core,yes,1,,,1,1", "participant", "second leg");
    check_leg_rejected("n1,core,yes", "", "3 fields where the header has 8");
}

#[test]
fn legs_of_rows_that_were_set_aside_are_not_blamed() {
    let rows = many(2) + "bad,never,UPI,c1,1,,,\n";
    let leg = |name: &str| format!("bad,{name},yes,1,,,1,1\n");
    let legs: String = ["p0", "p1", "p2", "p3", "p4"].map(leg).concat();
    let history = read_both(&rows, &format!("{LEGS}\n{legs}")).unwrap();
    assert_eq!((history.report.legs_rejected, history.report.legs_of_rejected_rows), (0, 5));
    assert!(history.rejects.last().unwrap().reason.contains("was set aside"));
}

#[test]
fn the_first_of_two_duplicates_keeps_its_legs() {
    let rows = format!("{HEADER}\n{GOOD}\n{GOOD}\n");
    let history = read_both(&rows, &format!("{LEGS}\na,core,yes,1,,,1,1\n")).unwrap();
    assert_eq!((history.rows[0].legs.len(), history.report.legs_rejected), (1, 0));
}

#[test]
fn too_many_bad_legs_stop_the_run() {
    let legs = format!("{LEGS}\n{}", "zz,core,yes,1,,,1,1\n".repeat(4));
    contains_all(&message(read_both(&many(2), &legs)), &["l.csv", "4 of 4", "l.csv:2"]);
}

#[test]
fn legs_need_their_columns_and_ids_to_join_by() {
    let error = message(read_both(&many(1), "txn_id,participant\na,core\n"));
    contains_all(&error, &["l.csv", "vote, prepare_ms"]);
    let rows = "timestamp,customer_id,amount_minor,kind\n2026-01-01,c1,5,UPI\n";
    contains_all(&message(read_both(rows, &format!("{LEGS}\n"))), &["h.csv", "txn_id"]);
    contains_all(&message(read_both(&many(1), "")), &["l.csv is empty"]);
}

#[test]
fn a_legs_file_without_legs_leaves_no_latency_target() {
    let history = read_both(&many(2), &format!("{LEGS}\n")).unwrap();
    assert_eq!(history.report.rows_without_legs, 2);
    assert!(history.targets.latency.absent.unwrap().contains("no leg"));
}

#[test]
fn a_transaction_of_too_many_legs_loses_the_rest() {
    let legs: Vec<String> = (0..66).map(|index| format!("n0,p{index},yes,1,,,1,1\n")).collect();
    let legs = legs.concat();
    let history = read_both(&many(1), &format!("{LEGS}\n{legs}")).unwrap();
    assert_eq!((history.rows[0].legs.len(), history.report.legs_rejected), (64, 2));
}
