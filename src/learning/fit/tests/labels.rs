use super::*;

#[test]
fn an_outcome_is_a_label_only_once_it_is_known() {
    let mut rows: Vec<_> = (0..3).map(|i| blank(i, at(1.0))).collect();
    rows[0].total = Some(DAY);
    rows[1].outcome = None;
    let data = dataset(&rows, window(1.5, 0.0));
    assert_eq!(data.success, [None, None, Some(true)]);
    assert_eq!(data.left_out.outcome_unknown, 2);
    assert_eq!(dataset(&rows, window(2.0, 0.0)).success, [Some(true), None, Some(true)]);
}

#[test]
fn a_fraud_label_counts_only_once_it_is_known_and_its_row_is_old_enough() {
    let labelled = |number, day, fraud| HistoryRow { fraud, ..blank(number, at(day)) };
    let rows = [
        labelled(0, 0.0, Some(true)),
        labelled(1, 0.0, None),
        labelled(2, 1.0, Some(false)),
        labelled(3, 6.0, Some(true)),
        labelled(4, 6.0, Some(false)),
    ];
    let data = dataset(&rows, window(9.0, 4.0));
    assert_eq!(data.fraud, [Some(true), None, Some(false), None, None]);
    assert_eq!((data.left_out.fraud_unknown, data.left_out.fraud_too_young), (1, 2));
    let early = dataset(&rows, window(2.5, 0.0));
    assert_eq!(early.fraud, [Some(true), None, None], "known at day 3");
    assert_eq!(early.left_out.after_until, 2);
}

#[test]
fn a_rejected_row_is_neither_a_success_nor_a_failure_nor_no_fraud() {
    let rejected = |number, fraud| HistoryRow {
        outcome: Some(HistoryOutcome::Rejected),
        fraud,
        ..blank(number, at(0.0))
    };
    let data = dataset(&[rejected(0, Some(false)), rejected(1, Some(true))], window(9.0, 0.0));
    assert_eq!(data.success, [None, None]);
    assert_eq!(data.fraud, [None, Some(true)]);
    assert_eq!(data.left_out.rejected, 2);
}

#[test]
fn a_late_vote_has_its_own_latency_and_a_lost_one_has_none() {
    let mut row = blank(0, at(0.0));
    let vote = |name: &str, vote, late_ms| LegRow {
        participant: ParticipantName::new(name).unwrap(),
        vote,
        prepare_ms: 100.0,
        timeout_ms: Some(100.0),
        late_ms,
        in_flight: 0,
        health: 1.0,
    };
    row.legs = vec![
        vote("a", LegVote::Yes, None),
        vote("b", LegVote::Timeout, Some(700.0)),
        vote("c", LegVote::Timeout, None),
        vote("stranger", LegVote::Yes, None),
    ];
    row.payment.participants = ["a", "b", "c"].map(|n| ParticipantName::new(n).unwrap()).to_vec();
    let data = dataset(&[row], window(1.0, 0.0));
    assert_eq!(data.leg_ms, [100.0, 700.0]);
    assert_eq!(data.left_out.legs_censored, 2);
}

#[test]
fn what_becomes_known_after_the_cut_off_changes_nothing() {
    let rows = history(600, 1);
    let window = window(12.0, 3.0);
    let before = dataset(&rows, window);
    let mut changed = rows.clone();
    for row in &mut changed {
        if row.labelled_at > Some(window.until) {
            row.fraud = row.fraud.map(|fraud| !fraud);
        }
        if row.timestamp >= window.until {
            row.payment.amount.minor = 1;
            row.outcome = None;
        }
    }
    assert_ne!(changed, rows);
    let after = dataset(&changed, window);
    let bits = |data: &Dataset| -> Vec<u32> {
        data.txn.iter().chain(&data.legs).map(|x| x.to_bits()).collect()
    };
    assert_eq!(bits(&before), bits(&after));
    assert_eq!((before.success, before.fraud), (after.success, after.fraud));
    assert_eq!(before.times.len(), 360);
}
