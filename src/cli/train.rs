//! `presume train`: from a history to a bundle in the registry.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use comfy_table::{ContentArrangement, Table, presets};
use presume::learning::dataset::LeftOut;
use presume::learning::fit::{self, Recipe, Stage, TrainOptions};
use presume::learning::history::{self, History, ReadOptions};
use presume::models::{Manifest, Registry, RegistryError, RulesFile, Target};
use presume::txn::{Timestamp, span};
use serde_json::json;

use super::files::{read_mapping, read_text};
use super::progress::Progress;
use super::settings::{Settings, flag};
use super::{print, print_json};

/// Train models of success, fraud and latency on a history; write them as a bundle.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  presume train --history history.csv --legs legs.csv
  presume train --history history.csv --until 2026-03-12 --label-delay 14d --no-promote
  presume train --history history.parquet --recipe mine.toml --name cards --json
  presume train --history theirs.csv.gz --mapping training/mappings/card_payments.toml

Nothing known only after --until is used; without it, everything in the history is. A target that
cannot be trained (no labels, one class only, no legs) is left out and said. The first bundle of a
name becomes its champion; later ones only with --promote.")]
pub struct Args {
    /// Transactions: CSV, also packed (.gz), or Parquet
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// How a file of another form says what a history says (TOML)
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Legs, a row a participant; without them there is no latency model
    #[arg(long, value_name = "FILE")]
    legs: Option<PathBuf>,
    /// Cut-off: a date or RFC 3339 [default: after the last row]
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Younger rows carry no fraud label, such as `7d` or `36h`
    #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = span)]
    label_delay: Duration,
    /// Recipe (TOML) [default: the one that ships, training/payments.toml]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Rules to tune (TOML) [default: the ones that ship, training/rules.toml]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Model registry [default: models, or as configured]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Name in the registry [default: payments, or as configured]
    #[arg(long)]
    name: Option<String>,
    /// Seed of what is drawn
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Make the bundle the champion
    #[arg(long, conflicts_with = "no_promote")]
    promote: bool,
    /// Leave the champion as it is
    #[arg(long)]
    no_promote: bool,
    /// Where to write rows that cannot be read
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let models = args.models.as_ref().map(|dir| dir.display().to_string());
    let flags = flag("--models", "models.dir", models).into_iter();
    let flags = flags.chain(flag("--name", "models.name", args.name.clone())).collect();
    let config = args.settings.load(flags)?.config;
    let (registry, name) = (Registry::open(&config.models.dir), config.models.name);
    let champion = champion(&registry, &name)?;
    let recipe = match &args.recipe {
        Some(path) => Recipe::parse(&read_text(path)?).with_context(|| at(path))?,
        None => Recipe::default(),
    };
    let rules = match &args.rules {
        Some(path) => Some(RulesFile::parse(&read_text(path)?).with_context(|| at(path))?),
        None => None,
    };
    let history = read_history(args)?;
    let Some(last) = history.rows.last() else {
        bail!("{} has no usable row", args.history.display());
    };
    let after_last = last.timestamp.after(Duration::from_micros(1));
    let options = TrainOptions {
        name: name.clone(),
        until: args.until.unwrap_or(after_last),
        label_delay: args.label_delay,
        seed: args.seed,
        created: now(),
        parent: champion.map(|version| format!("{name}/{version}")),
        rejects: history.report.rows_rejected,
        recipe,
        rules,
        features: config.features,
    };
    let trained = fit_with_progress(&history, &options, args.json)?;
    let version = registry.write(&trained.draft)?;
    let promoted = !args.no_promote && (args.promote || champion.is_none());
    if promoted {
        registry.promote(&name, version)?;
    }
    // Read back what was written: a bundle that does not load is worth nothing.
    registry.load(&name, version, &options.features.calendar)?;
    let path = registry.path(&name, version);
    let manifest = registry.manifest(&name, version)?;
    let said = Said { history: &history, left_out: trained.left_out, manifest: &manifest };
    if args.json {
        return print_json(&json!({
            "bundle": format!("{name}/{version}"),
            "path": path,
            "champion": promoted,
            "history": { "rows": history.rows.len(), "notes": history.report.notes() },
            "left_out": left_out(said.left_out).map(|(what, count)| json!({"what": what, "rows": count})),
            "manifest": manifest,
        }));
    }
    print(&said.text())?;
    print(&format!(
        "\nbundle {name}/{version} in {}{}\n",
        path.display(),
        if promoted { ", now the champion" } else { ", not promoted" },
    ))
}

/// What a run has to tell.
struct Said<'a> {
    history: &'a History,
    left_out: LeftOut,
    manifest: &'a Manifest,
}

impl Said<'_> {
    fn text(&self) -> String {
        let notes = self.history.report.notes();
        let mut lines: Vec<String> = notes.iter().map(|note| format!("note: {note}")).collect();
        lines.push(format!(
            "{} rows from {} until {}, label delay {}",
            self.manifest.rows,
            self.manifest.window_from,
            self.manifest.window_until,
            days(self.manifest.label_delay_s),
        ));
        for (what, count) in left_out(self.left_out).into_iter().filter(|(_, count)| *count > 0) {
            lines.push(format!("left out: {count} {what}"));
        }
        for (target, reason) in &self.manifest.not_trained {
            lines.push(format!("not trained: {target}: {reason}"));
        }
        lines.push(format!("\n{}\n", metrics_table(self.manifest)));
        lines.join("\n")
    }
}

/// Metrics of every target, side by side.
pub(super) fn metrics_table(manifest: &Manifest) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["target", "measured on the newest slice", "value"]);
    for (target, description) in &manifest.targets {
        let mut row = |what: &str, value: String| {
            table.add_row([target.to_string(), what.to_owned(), value]);
        };
        row("rows fitted on", description.rows_fit.to_string());
        row("rows measured on", description.rows_calibration.to_string());
        for (name, value) in &description.metrics {
            row(name, format!("{value:.5}"));
        }
        if let Some(conformal) = description.conformal {
            row("conformal multiplier", format!("{:.3}", conformal.multiplier));
            if !conformal.has_enough_rows() {
                row("warning", "too few legs for the upper bound".to_owned());
            }
        }
    }
    table.to_string()
}

fn left_out(left_out: LeftOut) -> [(&'static str, u64); 6] {
    [
        ("rows after the cut-off", left_out.after_until),
        ("rows without an outcome known by then", left_out.outcome_unknown),
        ("rejected rows", left_out.rejected),
        ("rows without a fraud label known by then", left_out.fraud_unknown),
        ("rows younger than the label delay, for fraud", left_out.fraud_too_young),
        ("legs without a known latency", left_out.legs_censored),
    ]
}

/// A length of time for people.
pub(super) fn days(seconds: u64) -> String {
    if seconds.is_multiple_of(86_400) {
        format!("{} d", seconds / 86_400)
    } else {
        format!("{:.2} h", seconds as f64 / 3_600.0)
    }
}

fn champion(registry: &Registry, name: &str) -> anyhow::Result<Option<u32>> {
    match registry.champion(name) {
        // To train anew is the way out of a spoilt champion file.
        Err(RegistryError::ChampionMalformed { .. }) => Ok(None),
        other => Ok(other?),
    }
}

fn read_history(args: &Args) -> anyhow::Result<History> {
    let options = ReadOptions {
        rejects: args.rejects.clone(),
        future_after: Some(now()),
        mapping: read_mapping(args.mapping.as_deref())?,
        ..ReadOptions::default()
    };
    let bar = Progress::new("reading", 0, args.json);
    let mut told = |read: history::Progress| bar.set_total(read.bytes_total, read.bytes);
    Ok(history::read_with(&args.history, args.legs.as_deref(), &options, &mut told)?)
}

fn fit_with_progress(
    history: &History,
    options: &TrainOptions,
    quiet: bool,
) -> anyhow::Result<fit::Trained> {
    let bar = Progress::new("features", history.rows.len() as u64, quiet);
    let fitting: Mutex<Vec<Target>> = Mutex::default();
    let told = |progress: fit::Progress| match progress.stage {
        Stage::Features => bar.set(progress.done as u64),
        Stage::Fit(target) => {
            let mut fitting = fitting.lock().expect("nothing panics while it is held");
            fitting.retain(|other| *other != target);
            if progress.done < progress.total {
                fitting.push(target);
            }
            let names: Vec<&str> = fitting.iter().map(|target| target.as_str()).collect();
            bar.message(format!("fitting {}", names.join(", ")));
        }
        Stage::Bundle => bar.message("writing"),
    };
    Ok(fit::train(&history.rows, options, &told)?)
}

fn at(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[allow(clippy::disallowed_methods, reason = "a command line knows what time it is")]
fn now() -> Timestamp {
    Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
}
