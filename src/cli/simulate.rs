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
    let mut lines: Vec<String> = summary.failures.iter().flat_map(failed).collect();
    lines.push(format!("{} seeds, {} violations", summary.seeds, summary.violations));
    let counts = [
        ("transactions", summary.transactions),
        ("committed", summary.committed),
        ("coordinator crashes", summary.crashes),
        ("coordinators taken over", summary.takeovers),
        ("coordinator pauses", summary.pauses),
        ("participant crashes", summary.participant_crashes),
        ("partitions", summary.partitions),
        ("failed syncs", summary.failed_syncs),
        ("clock jumps", summary.clock_jumps),
        ("messages", summary.messages),
        ("messages lost", summary.messages_lost),
        ("messages repeated", summary.messages_duplicated),
    ];
    lines.extend(counts.map(|(label, count)| format!("  {label:24} {count:>12}")));
    let (worst, seed) = (summary.worst_heal_ms, summary.worst_heal_seed);
    let bound = HEAL_BOUND.as_millis();
    lines.push(format!(
        "  resolved within {worst} ms of heal, seed {seed}; the bound is {bound} ms\n"
    ));
    lines.join("\n")
}

fn failed(failure: &Failure) -> Vec<String> {
    let mut lines = vec![format!("seed {} broke:", failure.seed)];
    lines.extend(failure.violations.iter().map(|violation| format!("  {violation}")));
    lines.push("the last of its trace:".to_owned());
    lines.extend(failure.trace.iter().map(|line| format!("  {line}")));
    lines.push(format!("all of it: presume simulate --seed {} --trace\n", failure.seed));
    lines
}
