//! The page: what was evaluated, the verdicts, a section a target, the data, the command.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format::{Unit, instant, maybe, name, number, size};
use super::{REJECTS_SHOWN_MAX, Report, plots, tables};
use crate::learning::evaluate::{ClassifierDetails, Evaluation, Verdict, in_order};

const STYLE: &str = include_str!("style.css");

/// Participants that the page lists at most.
const PARTICIPANTS_SHOWN_MAX: usize = 50;

pub(super) fn page(report: &Report) -> Markup {
    let evaluation = &report.evaluation;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Evaluation of " (evaluation.model) }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                (header(report))
                @if !evaluation.targets.success.is_empty() {
                    (classifier(evaluation, "success", "Will every vote be yes?"))
                }
                @if !evaluation.targets.fraud.is_empty() {
                    (classifier(evaluation, "fraud", "Is the payment fraud?"))
                }
                @if !evaluation.targets.latency.is_empty() { (latency(evaluation)) }
                (data(report))
                (method(evaluation))
                h2 { "Make it again" }
                pre { (report.command) }
                footer {
                    "Made by presume at " (instant(report.made_at)) ". The same figures stand in "
                    (super::DATA_FILE) " beside this page."
                }
            } }
        }
    }
}

fn header(report: &Report) -> Markup {
    let evaluation = &report.evaluation;
    let window = &evaluation.window;
    html! {
        p.eyebrow { "Presume · evaluation" }
        h1 { "Model bundle " (evaluation.model) }
        p.lead {
            "Judged on " (size(evaluation.counts.rows_test)) " payments from "
            (instant(window.from)) " to " (instant(window.to)) ", none of which it was trained on: \
            its label cut-off is " (instant(window.trained_until)) "."
        }
        div.verdicts {
            @for (target, sentence) in evaluation.verdicts() {
                section class={ "card " (mood(evaluation, target)) } {
                    h3 { (heading(target)) }
                    p { (sentence) }
                }
            }
            @for (target, why) in &evaluation.not_evaluated {
                section.card { h3 { (heading(target)) } p { "Not evaluated: " (why) "." } }
            }
        }
        @if !evaluation.warnings.is_empty() || report.looks_before > 0 {
            div.note role="note" {
                @for warning in &evaluation.warnings { p { (warning) } }
                @if report.looks_before > 0 {
                    p {
                        "This window, or a part of it, was looked at "
                        (size(report.looks_before)) " times before. Each choice made after a look \
                        makes the figures a little too good."
                    }
                }
            }
        }
    }
}

fn heading(target: &str) -> &str {
    match target {
        "success" => "Success",
        "fraud" => "Fraud",
        "latency" => "Timeouts",
        other => other,
    }
}

/// The colour of a verdict card: by the worst comparison.
fn mood(evaluation: &Evaluation, target: &str) -> &'static str {
    let rows = match target {
        "success" => &evaluation.targets.success,
        "fraud" => &evaluation.targets.fraud,
        _ => return timeout_mood(evaluation),
    };
    let verdicts = || rows.values().filter_map(|row| row.vs_champion).map(|v| v.verdict);
    if verdicts().any(|v| v == Verdict::Worse) {
        "bad"
    } else if verdicts().all(|v| v == Verdict::Better) {
        "good"
    } else {
        "warn"
    }
}

/// Good where coverage is within half a point of its target.
fn timeout_mood(evaluation: &Evaluation) -> &'static str {
    let champion = evaluation.targets.latency.get("champion");
    match champion.and_then(|row| row.score.coverage) {
        Some(coverage) if (coverage - evaluation.timeout_level).abs() <= 0.005 => "good",
        Some(_) => "bad",
        None => "warn",
    }
}

fn classifier(evaluation: &Evaluation, target: &'static str, question: &str) -> Markup {
    let (rows, details) = if target == "success" {
        (&evaluation.targets.success, evaluation.details.success.as_ref())
    } else {
        (&evaluation.targets.fraud, evaluation.details.fraud.as_ref())
    };
    html! {
        h2 { (heading(target)) }
        p.soft { (question) }
        (tables::classifier(target, rows))
        h3 { "Against each baseline" }
        (tables::versus(rows))
        @if let Some(details) = details {
            (figures(target, details))
            h3 { "By slice" }
            (tables::slices(details))
            h3 { "At the policy's threshold" }
            (tables::thresholds(target, details))
        }
    }
}

fn figures(target: &str, details: &ClassifierDetails) -> Markup {
    let rare = if target == "success" { ", of failures" } else { "" };
    html! {
        h3 { "Order and calibration" }
        div.plots {
            figure {
                figcaption { b { "ROC. " } "Up and left is better." }
                (PreEscaped(plots::roc(&details.curves, target)))
            }
            figure {
                figcaption { b { "Precision and recall" (rare) ". " } "Up and right is better." }
                (PreEscaped(plots::precision_recall(&details.curves, target)))
            }
            figure {
                figcaption { b { "Calibration. " } "On the line is better; bars are 95 %." }
                (PreEscaped(plots::calibration(&details.curves, target)))
            }
        }
        ul.legend { @for (key, _) in in_order(&details.curves) {
            li { i style={ "background:" (plots::css(key)) } {} (name(key)) }
        } }
    }
}

fn latency(evaluation: &Evaluation) -> Markup {
    let rules = &evaluation.targets.latency;
    let participants = &evaluation.details.participants;
    html! {
        h2 { "Timeouts" }
        p.soft { "How long is a participant's vote worth waiting for?" }
        (tables::latency(rules, evaluation.listening_horizon_ms, evaluation.timeout_level))
        figure.wide {
            figcaption { b { "What a timeout costs. " } "Down and left is better." }
            (PreEscaped(plots::timeouts(rules)))
        }
        ul.legend { @for (key, _) in in_order(rules) {
            li { i style={ "background:" (plots::css(key)) } {} (name(key)) }
        } }
        h3 { "By participant" }
        (tables::participants(&participants[..participants.len().min(PARTICIPANTS_SHOWN_MAX)]))
        @if participants.len() > PARTICIPANTS_SHOWN_MAX {
            p.soft.small {
                (size(participants.len() - PARTICIPANTS_SHOWN_MAX)) " more stand in "
                (super::DATA_FILE) "."
            }
        }
    }
}

fn data(report: &Report) -> Markup {
    let (window, counts) = (&report.evaluation.window, &report.evaluation.counts);
    let days = |s: u64| number(s as f64 / 86_400.0, Unit::Plain(1));
    html! {
        h2 { "Data" }
        dl {
            dt { "History" } dd { (report.history) ", " (size(counts.rows)) " rows" }
            dt { "Legs" } dd {
                @if let Some(legs) = &report.legs { (legs) } @else { "none given" }
            }
            dt { "Warm-up" } dd {
                (size(counts.rows_warm_up)) " rows from " (instant(window.warm_up_from))
            }
            dt { "Trained on" } dd {
                (instant(window.trained_from)) " to " (instant(window.trained_until))
                ", with what was known then"
            }
            dt { "Baselines set with" } dd { "what was known by " (instant(window.baselines_until)) }
            dt { "Test window" } dd {
                (size(counts.rows_test)) " rows, " (instant(window.from)) " to " (instant(window.to))
            }
            dt { "Fraud label delay" } dd { (days(window.label_delay_s)) " days" }
            dt { "Without success label" } dd { (size(counts.success_unlabelled)) " rows" }
            dt { "Without fraud label" } dd {
                (size(counts.fraud_unlabelled)) " rows, and " (size(counts.fraud_immature))
                " too young to be sure"
            }
            dt { "Legs in the window" } dd {
                (size(counts.legs)) ", of which " (size(counts.legs_never_answered))
                " never answered"
            }
            dt { "Rejected rows" } dd { (size(counts.rejects)) }
        }
        @if !report.rejects.is_empty() {
            p.small { "The first of them:" }
            pre { @for line in report.rejects.iter().take(REJECTS_SHOWN_MAX) { (line) "\n" } }
        }
    }
}

fn method(evaluation: &Evaluation) -> Markup {
    let majority =
        |target: &str| maybe(evaluation.tuned.majority.get(target).copied(), Unit::Percent(2));
    let [means, rankings] = evaluation.resamples;
    html! {
        h2 { "Method" }
        p {
            "Each payment was predicted from what was known at its submission: outcomes count from \
            when they were known, fraud labels from when they were reported. No threshold, constant \
            or seed was chosen on the test window."
        }
        dl {
            dt { "Majority" } dd {
                "The training window's base rate: success " (majority("success")) ", fraud "
                (majority("fraud"))
            }
            dt { "Rules" } dd { "The committed rules with thresholds tuned on the training window" }
            @for (target, tuned) in &evaluation.tuned.moving_average {
                dt { "Moving average, " (target) } dd { "Decayed rates, tuned: " (tuned) }
            }
            dt { "Reference rule" } dd {
                "2 × the running mean, clamped to 1 to 30 s, then × 3 at peak hours"
            }
            dt { "Sliding p99.9" } dd { "Of a participant's last 10,000 latencies as known then" }
            dt { "Jacobson" } dd { "Smoothed mean + 4 × smoothed deviation (RFC 6298)" }
            @if let Some(k) = evaluation.tuned.mean_plus_k_sd {
                dt { "Mean + k·sd" } dd { "k = " (number(k, Unit::Plain(1))) ", tuned on the training window" }
            }
            dt { "Log loss" } dd { "In nats, probabilities clipped to [1e-15, 1 − 1e-15]" }
            dt { "ECE" } dd { "15 bins of equal mass, ties together; noise biases it upwards" }
            dt { "Intervals" } dd {
                "95 %, by resampling whole days and, apart from that, whole customers; the wider \
                envelope of the two, widened for few clusters. " (size(means)) " resamples for means, "
                (size(rankings)) " for ranking measures, seed " (evaluation.seed)
            }
        }
    }
}
