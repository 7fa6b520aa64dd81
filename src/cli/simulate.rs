//! `presume simulate`: the coordinator among everything that can fail.

use std::thread;

use clap::Args as ClapArgs;
use presume::simulation::faults::{self, Failure, HEAL_BOUND, Summary};

use super::{Progress, print, print_json};

/// Run the coordinator in a simulated world of faults, and check that nothing is lost.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  presume simulate --seeds 2000
  presume simulate --seeds 20000 --json | jq .violations
  presume simulate --seed 7 --trace

A seed is a whole run: clients move money between participants while messages are lost, repeated
and late, processes crash, pause and are taken over, syncs fail and clocks jump; then everything
heals, and what is open must be resolved. The same seed does the same every time. A violation
prints its seed and the last lines of its trace, and the exit code is 1.")]
pub struct Args {
    /// Seeds to run, from 0
    #[arg(long, default_value_t = 1_000, value_name = "N", conflicts_with = "seed",
        value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run this seed alone
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print the trace of the one seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let summary = match args.seed {
        Some(seed) => one(seed, args.trace && !args.json)?,
        None => many(args),
    };
    if args.json {
        print_json(&summary)?;
    } else {
        print(&text(&summary))?;
    }
    anyhow::ensure!(
        summary.violations == 0,
        "{} of {} seeds broke an invariant",
        summary.violations,
        summary.seeds
    );
    Ok(())
}

fn one(seed: u64, traced: bool) -> anyhow::Result<Summary> {
    let (summary, trace) = faults::trace(seed);
    if traced {
        print(&format!("{}\n\n", trace.join("\n")))?;
    }
    Ok(summary)
}

fn many(args: &Args) -> Summary {
    let bar = Progress::new("seeds", args.seeds, args.json);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    faults::simulate(0..args.seeds, threads, &|| bar.advance(1))
}

fn text(summary: &Summary) -> String {
    let mut text = String::new();
    for failure in &summary.failures {
        text += &failed(failure);
    }
    let line = |label: &str, value: u64| format!("  {label:28} {value:>12}\n");
    text += &format!("{} seeds, {} violations\n", summary.seeds, summary.violations);
    text += &line("transactions", summary.transactions);
    text += &line("committed", summary.committed);
    text += &line("coordinator crashes", summary.crashes);
    text += &line("coordinators taken over", summary.takeovers);
    text += &line("coordinator pauses", summary.pauses);
    text += &line("participant crashes", summary.participant_crashes);
    text += &line("partitions", summary.partitions);
    text += &line("failed syncs", summary.failed_syncs);
    text += &line("clock jumps", summary.clock_jumps);
    text += &line("messages", summary.messages);
    text += &line("messages lost", summary.messages_lost);
    text += &line("messages repeated", summary.messages_duplicated);
    let (worst, seed) = (summary.worst_heal_ms, summary.worst_heal_seed);
    let bound = HEAL_BOUND.as_millis();
    text + &format!("  resolved within {worst} ms of heal (seed {seed}; the bound is {bound} ms)\n")
}

fn failed(failure: &Failure) -> String {
    let mut text = format!("seed {} broke:\n", failure.seed);
    for violation in &failure.violations {
        text += &format!("  {violation}\n");
    }
    text += "the last of its trace:\n";
    for line in &failure.trace {
        text += &format!("  {line}\n");
    }
    text + &format!("all of it: presume simulate --seed {} --trace\n\n", failure.seed)
}
