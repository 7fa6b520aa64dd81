//! `presume generate`: writes a history drawn from a world.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use presume::simulation::world::{DEFAULT_WORLD, World};
use presume::simulation::{Generator, Options};
use presume::simulation::{Output, Summary, files};
use presume::txn::Timestamp;

/// Generate a history of payments from a world file; the same seed gives the same bytes.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  presume generate --out history.csv --legs legs.csv
  presume generate --out h.csv --legs l.csv --truth t.csv --rows 20000 --days 30 --seed 7
  presume generate --print-world > mine.toml && presume generate --world mine.toml --out h.csv")]
pub struct Args {
    /// Transactions file to write (CSV)
    #[arg(long, value_name = "FILE", required_unless_present = "print_world")]
    out: Option<PathBuf>,
    /// Legs file to write: one row a participant; without it no latency model can be trained
    #[arg(long, value_name = "FILE")]
    legs: Option<PathBuf>,
    /// File for each row's true probabilities: `txn_id,success,fraud,typology`
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Rows to write
    #[arg(long, default_value_t = 200_000, value_name = "N")]
    rows: u64,
    /// Days that they are spread over
    #[arg(long, default_value_t = 90, value_name = "N")]
    days: u32,
    /// Seed of every draw
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Customers
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    customers: u32,
    /// World file: every law and magnitude; without it the world that ships
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// First instant: a date or RFC 3339
    #[arg(long, default_value = "2026-01-01", value_name = "TIME")]
    start: Timestamp,
    /// Print the world that ships, with its comments, and stop
    #[arg(long)]
    print_world: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.print_world {
        print!("{DEFAULT_WORLD}");
        return Ok(());
    }
    let output = output(args)?;
    let world = match &args.world {
        Some(path) => World::read(path)?,
        None => World::shipped(),
    };
    let options = Options {
        seed: args.seed,
        rows: args.rows,
        days: args.days,
        customers: args.customers,
        start: args.start,
    };
    let generator = Generator::new(world, options)?;
    let bar = progress_bar(args.rows, args.json);
    let summary = files::write(generator, &output, |rows| bar.set_position(rows))
        .context("the history was not written")?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print_summary(&summary, &output);
    }
    Ok(())
}

fn output(args: &Args) -> anyhow::Result<Output> {
    let transactions = args.out.clone().context("--out FILE is missing")?;
    let output = Output { transactions, legs: args.legs.clone(), truth: args.truth.clone() };
    let others = [&output.legs, &output.truth];
    let same = |path: &Option<PathBuf>| path.as_ref() == Some(&output.transactions);
    ensure!(!others.into_iter().any(same), "--out, --legs and --truth must be different files");
    ensure!(
        output.legs.is_none() || output.legs != output.truth,
        "--out, --legs and --truth must be different files"
    );
    Ok(output)
}

fn progress_bar(rows: u64, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} rows, {per_sec}")
        .expect("a constant template");
    ProgressBar::new(rows).with_style(style)
}

fn print_summary(summary: &Summary, output: &Output) {
    let percent = |count: u64| 100.0 * count as f64 / summary.rows.max(1) as f64;
    println!("{} rows to {}", summary.rows, output.transactions.display());
    if let Some([first, last]) = summary.span {
        println!("  from {first} to {last}");
    }
    println!("  committed           {:6.2} %", percent(summary.committed));
    println!("  business declines   {:6.2} %", percent(summary.business_failures));
    println!("  technical failures  {:6.2} %", percent(summary.technical_failures));
    println!("  true success < 0.30 {:6.2} %", percent(summary.success_below_30));
    println!("  retries             {:6.2} %", percent(summary.retries));
    println!("  never labelled      {:6.2} %", percent(summary.never_labelled));
    println!("  fraud               {:6.2} %", percent(summary.fraud.values().sum()));
    for (typology, count) in &summary.fraud {
        println!("    {typology:24} {:6.3} %", percent(*count));
    }
}
