//! The tables of the page.

use maud::{Markup, html};

use super::format::{Unit, amount, count, interval, maybe, name, number, size, span};
use crate::learning::evaluate::{
    ClassifierDetails, ClassifierRow, LatencyRow, ParticipantCoverage, Slice, Verdict, in_order,
};
use crate::learning::metrics::bootstrap::Interval;
use std::collections::BTreeMap;

/// A table that scrolls by itself on a narrow screen.
fn scrolling(table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" { (table) } }
}

/// A value with its interval below.
fn cell(value: Option<f64>, ci: Option<Interval>, unit: Unit) -> Markup {
    html! {
        td { (maybe(value, unit)) @if let Some(ci) = interval(ci, unit) { span.ci { (ci) } } }
    }
}

/// Every model's figures on a classifier target.
pub fn classifier(target: &str, rows: &BTreeMap<String, ClassifierRow>) -> Markup {
    let success = target == "success";
    let any = &rows["champion"];
    let rare = if success { "failures" } else { "fraud" };
    scrolling(&html! {
        table {
            caption {
                (size(any.n)) " labelled payments, " (size(any.positives)) " positive: a base rate \
                of " (maybe(any.base_rate, Unit::Percent(2)))
                @if let Some(ci) = interval(any.base_rate_ci, Unit::Percent(2)) { " (" (ci) ")" }
                ". Small print: 95 % intervals. Skills are against the majority."
            }
            thead { tr {
                th { "Model" } th { "Log loss" } th { "Skill" } th { "Brier" } th { "Skill" }
                th { "AUC (ROC)" } th { "Avg. precision" br; "(" (rare) ")" } th { "ECE" }
                th { "Calibration" br; "slope" } th { "Accuracy" }
            } }
            tbody { @for (key, row) in in_order(rows) {
                tr.own[key == "champion"] {
                    td { (name(key)) }
                    (cell(row.log_loss, row.log_loss_ci, Unit::Plain(4)))
                    (cell(row.log_loss_skill, row.log_loss_skill_ci, Unit::Percent(1)))
                    (cell(row.brier, row.brier_ci, Unit::Plain(4)))
                    (cell(row.brier_skill, row.brier_skill_ci, Unit::Percent(1)))
                    (cell(row.auc_roc, row.auc_roc_ci, Unit::Plain(3)))
                    @if success {
                        (cell(row.average_precision_negative,
                            row.average_precision_negative_ci, Unit::Plain(3)))
                    } @else {
                        (cell(row.average_precision, row.average_precision_ci, Unit::Plain(3)))
                    }
                    (cell(row.ece, None, Unit::Plain(4)))
                    (cell(row.calibration_slope, row.calibration_slope_ci, Unit::Plain(2)))
                    (cell(row.accuracy, None, Unit::Plain(4)))
                }
            } }
        }
    })
}

/// The paired differences.
pub fn versus(rows: &BTreeMap<String, ClassifierRow>) -> Markup {
    scrolling(&html! {
        table {
            caption { "Champion minus baseline on the same payments; below zero favours the champion." }
            thead { tr {
                th { "Against" } th { "Log loss" } th { "95 % interval" } th { "Brier" }
                th { "95 % interval" } th.text { "Verdict" }
            } }
            tbody { @for (key, row) in in_order(rows) { @if let Some(versus) = row.vs_champion {
                tr {
                    td { (name(key)) }
                    td { (number(versus.log_loss_difference, Unit::Plain(4))) }
                    td { (shown(versus.log_loss_difference_ci, Unit::Plain(4))) }
                    td { (number(versus.brier_difference, Unit::Plain(5))) }
                    td { (shown(versus.brier_difference_ci, Unit::Plain(5))) }
                    td.text { (pill(versus.verdict)) }
                }
            } } }
        }
    })
}

fn shown(ci: Option<Interval>, unit: Unit) -> String {
    interval(ci, unit).unwrap_or_else(|| super::format::NONE.to_owned())
}

fn pill(verdict: Verdict) -> Markup {
    let (class, text) = match verdict {
        Verdict::Better => ("good", "champion better"),
        Verdict::BetterInOne => ("warn", "better in one loss"),
        Verdict::Unclear => ("warn", "no clear difference"),
        Verdict::Worse => ("bad", "champion worse"),
    };
    html! { span class={ "pill " (class) } { (text) } }
}

/// The champion by slice.
pub fn slices(details: &ClassifierDetails) -> Markup {
    let of = |by: &str| details.slices.iter().filter(|s| s.by == by).collect::<Vec<&Slice>>();
    scrolling(&html! {
        table {
            caption {
                "The champion by slice. The difference is against "
                (name(&details.best_baseline).to_lowercase())
                ", the baseline with the least log loss on this window."
            }
            thead { tr {
                th { "Slice" } th { "Payments" } th { "Positive" } th { "Observed" } th { "Predicted" }
                th { "AUC (ROC)" } th { "Log loss" } th { "Difference" } th { "95 % interval" }
            } }
            @for by in ["kind", "customer_type"] { tbody { @for slice in of(by) {
                tr {
                    td { (slice.value) }
                    td { (size(slice.n)) }
                    td { (size(slice.positives)) }
                    td { (number(slice.base_rate, Unit::Percent(2))) }
                    td { (number(slice.predicted, Unit::Percent(2))) }
                    (cell(slice.auc_roc, slice.auc_roc_ci, Unit::Plain(3)))
                    td { (number(slice.log_loss, Unit::Plain(4))) }
                    td { (number(slice.log_loss_difference, Unit::Plain(4))) }
                    td { (shown(slice.log_loss_difference_ci, Unit::Plain(4))) }
                }
            } } }
        }
    })
}

/// What the policy's threshold would have done.
pub fn thresholds(target: &str, details: &ClassifierDetails) -> Markup {
    let success = target == "success";
    let (bad, good) = if success { ("failing", "succeeding") } else { ("fraud", "genuine") };
    scrolling(&html! {
        table {
            caption {
                "The policy's default threshold applied to this window, as if nothing were capped: \
                counts, and amounts in the window's commonest currency."
            }
            thead { tr {
                th { "Rejects if" } th { "Rejected," br; (bad) } th { "Rejected," br; (good) }
                th { "Admitted," br; (bad) } th { "Admitted," br; (good) } th { "Precision" }
                th { "Recall" } th { "Rejected" br; "share" } th { "Turned away" br; "(" (good) ")" }
                @if success { th { "Time saved" } } @else { th { "Fraud" br; "stopped" } th { "Fraud" br; "missed" } }
            } }
            tbody { @for row in &details.thresholds {
                tr.own[row.model == "champion"] {
                    td { (row.rule) span.ci { (name(&row.model)) } }
                    td { (size(row.rejected_rightly)) }
                    td { (size(row.rejected_wrongly)) }
                    td { (size(row.admitted_wrongly)) }
                    td { (size(row.admitted_rightly)) }
                    td { (maybe(row.precision, Unit::Percent(1))) }
                    td { (maybe(row.recall, Unit::Percent(1))) }
                    td { (number(row.rejected_ratio, Unit::Percent(2))) }
                    td { (amount(row.cost.turned_away_minor, &row.cost.currency)) }
                    @if success {
                        td { (span(row.cost.saved_ms)) }
                    } @else {
                        td { (amount(row.cost.stopped_minor, &row.cost.currency)) }
                        td { (amount(row.cost.missed_minor, &row.cost.currency)) }
                    }
                }
            } }
        }
    })
}

/// Every timeout rule's figures.
pub fn latency(rules: &BTreeMap<String, LatencyRow>, horizon_ms: f64, level: f64) -> Markup {
    let any = &rules["champion"].score;
    scrolling(&html! {
        table {
            caption {
                (size(any.n)) " prepares, " (size(any.arrived)) " votes heard, " (size(any.dead))
                " dead (never answered, or a technical no). Coverage: votes heard within the timeout. \
                False aborts: votes that could have committed, came within "
                (span(horizon_ms)) " and after the timeout. Dead wait: mean wait on the dead. Pinball \
                loss at " (level) "."
            }
            thead { tr {
                th { "Timeout" } th { "Coverage" } th { "False aborts" } th { "Dead wait, ms" }
                th { "Pinball, ms" } th { "Champion minus it," br; "pinball, ms" }
                th { "Mean timeout, ms" } th { "Worst participant" }
            } }
            tbody { @for (key, row) in in_order(rules) {
                tr.own[key == "champion"] {
                    td { (name(key)) }
                    (cell(row.score.coverage, row.coverage_ci, Unit::Percent(3)))
                    (cell(row.score.false_abort_ratio, row.false_abort_ratio_ci, Unit::Percent(3)))
                    (cell(row.score.dead_wait_ms, row.dead_wait_ms_ci, Unit::Milliseconds))
                    (cell(row.score.pinball, row.pinball_ci, Unit::Plain(2)))
                    (cell(row.vs_champion.map(|v| v.pinball_difference),
                        row.vs_champion.and_then(|v| v.pinball_difference_ci), Unit::Plain(2)))
                    td { (maybe(row.score.timeout_ms_mean, Unit::Milliseconds)) }
                    @if let Some(worst) = &row.worst_participant {
                        td { (number(worst.coverage, Unit::Percent(2))) span.ci { (worst.participant) } }
                    } @else { td { (super::format::NONE) } }
                }
            } }
        }
    })
}

/// The champion's coverage at each participant.
pub fn participants(rows: &[ParticipantCoverage]) -> Markup {
    scrolling(&html! {
        table {
            caption { "The champion's timeouts at each participant." }
            thead { tr { th { "Participant" } th { "Votes heard" } th { "Coverage" } th { "False aborts" } } }
            tbody { @for row in rows {
                tr {
                    td { (row.participant) }
                    td { (count(row.arrived as i64)) }
                    td { (number(row.coverage, Unit::Percent(3))) }
                    td { (maybe(row.false_abort_ratio, Unit::Percent(3))) }
                }
            } }
        }
    })
}
