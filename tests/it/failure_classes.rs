//! Which test shows what about each failure class that has hurt users of other coordinators, and
//! about each trap of the databases.
//!
//! | # | failure | tests, or why it cannot happen here |
//! |---|---|---|
//! | F1 | a branch registers after the decision | `a_prepare_that_lands_after_its_transaction_ended_is_found_and_aborted`, `an_abort_before_its_prepare_refuses_the_prepare`; the branches of a transaction stand in its request, so that none can register later |
//! | F2 | a commit decision races a timeout's rollback | `a_late_vote_aborts_and_the_branch_is_told_until_it_acknowledges`, `every_branch_ends_as_decided_whatever_the_network_does`, `whatever_is_stopped_under_load_no_transfer_is_half_done`; one engine decides once, and a timeout is one of its inputs |
//! | F3 | an error of unlocking is swallowed | `phase_two_is_told_again_until_it_is_acknowledged`, `exhausted_prepared_slots_decline_clearly_and_leak_nothing`; locks of the coordinator's own are not built yet |
//! | F4 | a crash during rollback leaves it undone for ever | `recovery_commits_what_was_decided_and_aborts_the_rest`, `the_same_between_postgresql_and_mariadb_under_64_clients` |
//! | F5 | a compensation meets a dirty write, or succeeds by accident | compensations belong to sagas, which are not built yet |
//! | F6 | hanging tries, null rollbacks, gaps of the fence | `an_abort_before_its_prepare_refuses_the_prepare`, `one_phase_commits_and_a_lost_reply_is_settled_by_who_came_first`, `a_branch_at_work_while_its_epoch_is_overtaken_gets_no_marker` |
//! | F7 | a barrier skips and does not say why | `an_abort_before_its_prepare_refuses_the_prepare`, `a_duplicate_id_is_never_a_yes_and_leaves_the_first_alone`; each skip has its own code |
//! | F8 | retries without bound | `calls_of_phase_two_are_repeated_ever_more_rarely`, `waits_double_up_to_the_cap_and_jitter_stays_within_half` |
//! | F9 | a refusal is retried as if unknown | `a_no_says_whose_rule_it_was_and_leaves_nothing_behind`, `codes_are_declines_of_their_kind_or_unknown` |
//! | F10 | a slow callee is called again and again | `a_participant_that_never_votes_times_out_and_nothing_stays_prepared`, `a_slow_transaction_is_answered_202_with_a_place_to_ask`, `an_answer_of_postgresql_that_never_comes_is_not_waited_for_for_ever`; a prepare is sent once |
//! | F11 | what is unresolved expires | `old_answers_are_pruned_but_never_unresolved_ones`, `pruning_keeps_balances_recomputable_and_what_is_open` |
//! | F12 | a cancelled caller corrupts the log | `a_client_that_goes_away_finds_one_answer_when_it_comes_again`, `a_caller_that_gives_up_leaves_no_session_in_a_transaction`, `a_writer_that_panics_strands_nobody` |
//! | F13 | an illegal transition at commit | `every_branch_ends_as_decided_whatever_the_network_does`, `recovery_takes_the_live_path_and_never_prepares_again` |
//! | F14 | two processes on one log | `a_second_process_on_the_same_folder_is_refused_by_name`, `a_later_epoch_fences_the_sessions_and_branches_of_an_older_one` |
//! | F15 | node id, log and address must stay together | `an_older_copy_of_the_data_folder_refuses_to_start_however_often_and_touches_nothing`, `a_log_that_was_overtaken_is_never_opened_again_and_says_by_whom`, `a_new_store_under_the_same_name_lists_the_branches_of_the_lost_one_and_leaves_them`; the id stands in the log, and no address is part of it; logs that are shared are not built yet |
//! | F16 | finished at the resource, not yet in the log | `a_commit_that_finds_its_branch_gone_is_done_with_a_marker_and_heuristic_without`, `votes_decisions_and_repeated_calls` |
//! | F17 | a heuristic end is not a state of its own | `a_commit_that_finds_its_branch_gone_is_done_with_a_marker_and_heuristic_without`, `a_heuristic_end_is_reported_and_ends_the_branch`, `what_ended_one_way_is_heuristic_the_other_way` |
//! | F18 | a reload deletes what had failed | `each_opening_is_a_later_epoch_of_the_same_log`, `damage_anywhere_in_the_journal_is_never_silent_loss`; nothing is replicated, and nothing reloads while it runs |
//! | F19 | a store that loses what it acknowledged | `a_crash_image_taken_after_the_acknowledgement_holds_it`, `a_full_disk_poisons_the_store_and_loses_nothing_acknowledged`, `what_a_database_lacks_is_said_with_the_statement_that_mends_it` |
//! | F20 | an ambiguous error is returned as a failure | `a_lost_reply_to_a_one_phase_commit_is_inquired_never_guessed`, `a_transfer_is_whole_whatever_step_of_postgresql_is_cut`, `a_transfer_is_whole_whatever_step_of_mariadb_is_cut` |
//! | F21 | recovery stops at the first it cannot settle | `a_database_away_at_start_is_503_for_those_who_need_it_and_stops_no_other`, `a_participant_that_is_away_at_start_stops_nothing_and_is_settled_when_it_comes` |
//! | F22 | it waits for somebody, and nobody is told | `a_branch_that_stays_prepared_is_told_of_with_its_age`, `metrics_show_what_operators_watch`; events pushed to others are not built yet |
//! | F23 | what is sent is executed, or grows without bound | `only_plain_json_in_utf_8_is_taken`, `nesting_is_read_up_to_its_limit`, `a_body_over_the_limit_is_413_whether_announced_or_not`, `an_address_beyond_loopback_needs_an_explicit_word`, `no_bytes_make_the_parser_panic` |
//! | F24 | an orphaned branch holds its locks for ever | `a_prepare_of_an_older_epoch_that_lands_after_the_first_look_is_rolled_back`, `a_branch_that_stays_prepared_is_told_of_with_its_age`, `what_others_prepared_is_listed_and_left_alone_by_a_whole_server` |
//! | P1 | PostgreSQL: PREPARE after a failure says nothing | `prepare_in_a_failed_transaction_answers_without_an_error_and_is_never_a_yes` |
//! | P2 | PostgreSQL: a prepare lands after its client died | `a_branch_whose_client_died_while_it_waited_for_a_lock_is_not_prepared_later`, `a_message_held_back_by_the_network_finds_its_session_ended`, `a_prepare_of_an_older_epoch_that_lands_after_the_first_look_is_rolled_back` |
//! | P3 | PostgreSQL: ids are the server's, branches the database's | `a_branch_belongs_to_its_database_and_its_id_to_the_whole_server` |
//! | P4 | PostgreSQL: a dropped branch leaks its slot | `exhausted_prepared_slots_decline_clearly_and_leak_nothing`, `exhausted_slots_decline_and_a_foreign_branch_is_listed_and_left_alone`, `what_cannot_be_prepared_is_a_no_and_leaves_its_session_clean` |
//! | P5 | PostgreSQL: prepared branches survive everything | `a_power_cut_keeps_what_is_prepared_and_the_session_after_it_works` |
//! | M1 | MariaDB: 1397 while the owner lives | `unknown_xid_is_not_done_while_the_branch_is_listed` |
//! | M2 | MariaDB: 1402 for a branch that changed nothing | `a_branch_rolled_back_by_its_server_is_no_success`, `a_branch_that_met_no_row_has_its_marker_and_survives_its_session` |
//! | M3 | MariaDB: a prepared branch holds its session | `exhausted_sessions_decline_work_and_never_an_end_of_a_branch`, `a_prepared_branch_outlives_the_idle_limit_of_its_session` |
//! | M4 | MariaDB: rows changed are not rows found | `an_update_that_changes_nothing_has_met_its_row` |
//! | M5 | MariaDB: prepared branches survive disconnect and kill | `a_kill_keeps_what_is_prepared_and_the_session_after_it_works`, `a_branch_whose_session_was_lost_is_ended_on_another` |
//! | M6 | MariaDB: 1440 and 1398 for ids that are taken | `a_duplicate_id_is_never_a_yes_and_leaves_the_first_alone` |
//! | M7 | MariaDB: 1399 after a deadlock's 1213 | `a_deadlock_is_technical_and_its_session_is_clean_again` |

use std::collections::BTreeSet;
use std::path::Path;

use crate::server::root;

/// Rows that the table must have.
const CLASSES: [(&str, u32); 3] = [("F", 24), ("P", 5), ("M", 7)];

/// The rows of the table above: number, and the tests that its last column names.
fn table() -> Vec<(String, String, Vec<String>)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("//! |")?.split('|').map(str::trim).collect();
        let number = cells.first().filter(|cell| cell.ends_with(|c: char| c.is_ascii_digit()))?;
        let last = cells.get(2)?;
        let tests = last.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some(((*number).to_owned(), (*last).to_owned(), tests))
    };
    include_str!("failure_classes.rs").lines().filter_map(row).collect()
}

/// Names of the functions that carry a test's attribute.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, found);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((head, rest)) = line.split_once("fn ")
                && is_test
                && (head.is_empty() || head == "async ")
            {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                found.insert(rest[..end.unwrap_or(rest.len())].to_owned());
                is_test = false;
            }
        }
    }
}

#[test]
fn every_class_and_trap_has_a_test_that_exists_or_a_reason() {
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests_below(&root().join(folder), &mut tests);
    }
    let table = table();
    let numbers: Vec<&str> = table.iter().map(|(number, ..)| number.as_str()).collect();
    let expected: Vec<String> = CLASSES
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")))
        .collect();
    assert_eq!(numbers, expected);
    for (number, last, named) in &table {
        for test in named {
            assert!(tests.contains(test), "{number} names {test}, which is no test");
        }
        let reason = last.rsplit('`').next().unwrap();
        assert!(!named.is_empty() || reason.split_whitespace().count() > 5, "{number}: {last}");
    }
}
