//! `presume evaluate`: a champion's figures on payments that it has not seen.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args as ClapArgs;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use presume::coordinator::{Clock, SystemClock};
use presume::learning::evaluate::{self, Evaluation, LOOKS_FILE, Look, in_order};
use presume::learning::history::{self, History, ReadOptions};
use presume::learning::report::{self, Report, Unit, interval, maybe, name, size};
use presume::models::registry::Registry;
use presume::txn::{Timestamp, span};

use super::files::read_mapping;
use super::settings::{Settings, flag};
use super::{Progress, print, print_json};

/// Evaluate the champion on a history, beside simple baselines
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  presume evaluate --history history.csv --legs legs.csv --report report
  presume evaluate --history history.csv --from 2026-03-11 --json
  presume evaluate --history history.csv --legs legs.csv --model 2   a version that does not serve

The history is cut by time: everything before --from warms the online state up, everything from
there on is predicted from what was known then. Every look at a test window is recorded in
looks.jsonl in the report's folder.")]
pub struct Args {
    /// Transactions file: CSV, also packed (.gz), or Parquet
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// How a file of another form says what a history says (TOML)
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Legs file: one row a participant; without it timeouts are not evaluated
    #[arg(long, value_name = "FILE")]
    legs: Option<PathBuf>,
    /// First test instant: a date or RFC 3339 [default: the label cut-off + the label delay]
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Fraud labels count from this age, such as 7d or 36h [default: as trained]
    #[arg(long, value_name = "TIME", value_parser = span)]
    label_delay: Option<Duration>,
    /// Registry of models [default: models.dir of the configuration]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Which model [default: models.name of the configuration]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Which version of it [default: the champion]
    #[arg(long, value_name = "N")]
    model: Option<u32>,
    /// Folder for the report: index.html, report.json, looks.jsonl
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Seed of the intervals
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Greatest share of bad rows, 0 to 1
    #[arg(long, default_value_t = 0.01, value_name = "RATIO")]
    bad_rows_max: f64,
    /// File for bad rows: `file,line,column,value,reason`
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        (0.0..=1.0).contains(&args.bad_rows_max),
        "--bad-rows-max is {}, allowed are 0 to 1",
        args.bad_rows_max
    );
    let flags = [
        flag("--models", "models.dir", args.models.as_ref().map(|dir| dir.display())),
        flag("--name", "models.name", args.name.as_ref()),
    ];
    let config = args.settings.load(flags.into_iter().flatten().collect())?.config;
    let registry = Registry::open(&config.models.dir);
    let calendar = &config.features.calendar;
    let bundle = match args.model {
        Some(version) => registry.load(&config.models.name, version, calendar)?,
        None => registry.load_champion(&config.models.name, calendar)?,
    };
    let now = SystemClock.now();
    let history = read(args, now)?;
    let rejected = history.report.rows_rejected + history.report.legs_rejected;
    let options = evaluate::Options {
        from: args.from,
        label_delay: args.label_delay,
        seed: args.seed,
        features: config.features.clone(),
        rejects: usize::try_from(rejected).unwrap_or(usize::MAX),
        ..evaluate::Options::default()
    };
    let bar = Progress::new("Predicting", history.rows.len() as u64, args.json);
    let mut evaluation = evaluate::evaluate(&history.rows, &bundle, &options, &mut |rows| {
        if rows == history.rows.len() {
            bar.message("Drawing intervals");
        }
        bar.set(rows as u64);
    })?;
    drop(bar);
    let of_history = history.report.notes().into_iter().map(|note| format!("history: {note}."));
    evaluation.warnings.extend(of_history);
    let look = Look::of(&evaluation, now);
    let looks_before = match &args.report {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            look.record(folder).with_context(|| folder.join(LOOKS_FILE).display().to_string())?
        }
        None => 0,
    };
    let report = Report {
        command: command(args, &config.models.dir, &evaluation),
        evaluation,
        made_at: now,
        history: args.history.display().to_string(),
        legs: args.legs.as_ref().map(|path| path.display().to_string()),
        looks_before,
        rejects: history.rejects.iter().map(ToString::to_string).collect(),
    };
    finish(args, &report)
}

fn read(args: &Args, now: Timestamp) -> anyhow::Result<History> {
    let options = ReadOptions {
        bad_rows_max_ratio: args.bad_rows_max,
        rejects: args.rejects.clone(),
        future_after: Some(now),
        mapping: read_mapping(args.mapping.as_deref())?,
    };
    let bar = Progress::new("Reading", 0, args.json);
    let read = history::read_with(&args.history, args.legs.as_deref(), &options, &mut |progress| {
        bar.set(progress.rows);
    });
    Ok(read?)
}

fn finish(args: &Args, report: &Report) -> anyhow::Result<()> {
    let written = args
        .report
        .as_ref()
        .map(|folder| report::write(folder, report).with_context(|| folder.display().to_string()));
    if args.json {
        print_json(report)?;
        written.transpose()?;
        return Ok(());
    }
    print(&text(&report.evaluation))?;
    match written.transpose()? {
        Some(written) => print(&format!("Report: {}\n", written.page.display())),
        None => print("This look at the window is not recorded; --report DIR records it.\n"),
    }
}

/// The command that makes the figures again, with what was left to defaults.
fn command(args: &Args, models: &std::path::Path, evaluation: &Evaluation) -> String {
    let mut text = format!("presume evaluate --history {}", quoted(&args.history));
    let mut add = |flag: &str, value: String| {
        let _ = write!(text, " \\\n  --{flag} {value}");
    };
    if let Some(legs) = &args.legs {
        add("legs", quoted(legs));
    }
    let (name, version) = evaluation.model.split_once('/').unwrap_or((&evaluation.model, "1"));
    add("from", evaluation.window.from.to_string());
    add("label-delay", format!("{}s", evaluation.window.label_delay_s));
    add("models", quoted(models));
    add("name", name.to_owned());
    add("model", version.to_owned());
    add("seed", args.seed.to_string());
    if let Some(folder) = &args.report {
        add("report", quoted(folder));
    }
    text
}

/// A path as a shell takes it.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The figures for a terminal: a table and a sentence a target.
fn text(evaluation: &Evaluation) -> String {
    let window = &evaluation.window;
    let mut text = format!(
        "{} on {} payments from {} to {}\n",
        evaluation.model,
        size(evaluation.counts.rows_test),
        window.from,
        window.to
    );
    let verdicts = evaluation.verdicts();
    for (target, sentence) in &verdicts {
        let table = match *target {
            "latency" => latency(evaluation),
            _ => classifier(evaluation, target),
        };
        let _ = write!(text, "\n{target}\n{table}\n{sentence}\n");
    }
    for (target, why) in &evaluation.not_evaluated {
        let _ = write!(text, "\n{target}: not evaluated: {why}\n");
    }
    if !evaluation.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &evaluation.warnings {
        let _ = writeln!(text, "Note: {warning}");
    }
    text.push('\n');
    text
}

fn classifier(evaluation: &Evaluation, target: &str) -> Table {
    let rows = evaluation.targets.classifiers().find(|(name, _)| *name == target);
    let mut table = table(&[
        "model", "log loss", "95 %", "skill", "brier", "skill", "AUC", "95 %", "avg prec", "ECE",
        "slope", "accuracy",
    ]);
    for (key, row) in rows.into_iter().flat_map(|(_, rows)| in_order(rows)) {
        table.add_row([
            name(key),
            maybe(row.log_loss, Unit::Plain(4)),
            interval(row.log_loss_ci, Unit::Plain(4)).unwrap_or_default(),
            maybe(row.log_loss_skill, Unit::Percent(1)),
            maybe(row.brier, Unit::Plain(4)),
            maybe(row.brier_skill, Unit::Percent(1)),
            maybe(row.auc_roc, Unit::Plain(3)),
            interval(row.auc_roc_ci, Unit::Plain(3)).unwrap_or_default(),
            maybe(row.average_precision, Unit::Plain(3)),
            maybe(row.ece, Unit::Plain(4)),
            maybe(row.calibration_slope, Unit::Plain(2)),
            maybe(row.accuracy, Unit::Plain(4)),
        ]);
    }
    right(table)
}

fn latency(evaluation: &Evaluation) -> Table {
    let mut table = table(&[
        "timeout",
        "coverage",
        "95 %",
        "false aborts",
        "95 %",
        "dead wait ms",
        "pinball ms",
        "mean ms",
        "worst participant",
    ]);
    for (key, row) in in_order(&evaluation.targets.latency) {
        let worst = row.worst_participant.as_ref().map(|worst| {
            format!("{} {}", maybe(Some(worst.coverage), Unit::Percent(2)), worst.participant)
        });
        table.add_row([
            name(key),
            maybe(row.score.coverage, Unit::Percent(3)),
            interval(row.coverage_ci, Unit::Percent(2)).unwrap_or_default(),
            maybe(row.score.false_abort_ratio, Unit::Percent(3)),
            interval(row.false_abort_ratio_ci, Unit::Percent(2)).unwrap_or_default(),
            maybe(row.score.dead_wait_ms, Unit::Milliseconds),
            maybe(row.score.pinball, Unit::Plain(2)),
            maybe(row.score.timeout_ms_mean, Unit::Milliseconds),
            worst.unwrap_or_default(),
        ]);
    }
    right(table)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().copied());
    table
}

fn right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_the_shell() {
        assert_eq!(quoted("data/h-1.csv".as_ref()), "data/h-1.csv");
        assert_eq!(quoted("it's here.csv".as_ref()), r"'it'\''s here.csv'");
    }
}
