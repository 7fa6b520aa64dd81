//! `presume bench strategies`: what prediction is worth where transactions travel together.
//!
//! The same transfers by every strategy, one after the other in each round: batches of a fixed size
//! in one trip; *blind*, as many as wait in one trip; the *filter*, which lets one participant work first; ours with predictions of several qualities; and an
//! *oracle*, ours with predictions that are never wrong. The filter looks at no prediction.

use std::path::Path;
use std::sync::Arc;

use comfy_table::Table;
use presume::policy::coalescing::Strategy;
use serde::Serialize;

use super::commit;
use super::load::{Load, Run};
use super::ours::ours;
use super::report::median;
use crate::cli::{Progress, print, print_json};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  scripts/with-postgres presume bench strategies --participants postgres --in-flight 64,2048 --shares 1,5,20 --rounds 5")]
pub struct Args {
    #[command(flatten)]
    commit: commit::Args,
    /// Of a hundred transfers, so many are declined; one table each
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 5.0, 20.0])]
    shares: Vec<f64>,
    /// Qualities of prediction that ours is tried with
    #[arg(long, value_delimiter = ',', default_values_t = [0.6, 0.75, 0.9])]
    aucs: Vec<f64>,
}

/// A way to make up batches.
struct Contestant {
    name: String,
    strategy: Strategy,
    members_max: Option<usize>,
    auc: Option<f64>,
}

/// One strategy at one share of declines and one number in flight.
#[derive(Debug, Serialize)]
struct Figures {
    strategy: String,
    in_flight: usize,
    declines_percent: f64,
    rounds: usize,
    /// Medians over the rounds.
    transfers_per_second: f64,
    answer_ms_p50: f64,
    /// Its transfers a second over the filter's in the same round.
    ratio_to_filter: f64,
    ratio_to_filter_min: f64,
    ratio_to_filter_max: f64,
    /// Ended otherwise than by commit or decline, in all rounds.
    failed: u64,
}

const FILTER: &str = "filter";

fn contestants(args: &Args) -> Vec<Contestant> {
    let new = |name: &str, strategy, members_max, auc| Contestant {
        name: name.to_owned(),
        strategy,
        members_max,
        auc,
    };
    let mut all = vec![new(FILTER, Strategy::WorkFirst, None, None)];
    for size in [8, 32, 128] {
        all.push(new(&format!("fixed {size}"), Strategy::OneTrip, Some(size), None));
    }
    all.push(new("blind", Strategy::OneTrip, None, None));
    for auc in &args.aucs {
        all.push(new(&format!("ours, AUC {auc}"), Strategy::Auto, None, Some(*auc)));
    }
    all.push(new("oracle", Strategy::Auto, None, Some(1.0)));
    all
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let given = &args.commit;
    for (flag, is_given) in [
        ("rate", !given.rate.is_empty()),
        ("plot", given.plot.is_some()),
        ("auc (but --aucs)", given.auc.is_some()),
        ("declines (but --shares)", given.declines != 0.0),
        ("strategy", given.strategy != Strategy::Auto),
        ("members-max", given.members_max.is_some()),
    ] {
        anyhow::ensure!(!is_given, "bench strategies takes no --{flag}");
    }
    for share in &args.shares {
        for auc in args.aucs.iter().chain(&[1.0]) {
            let mut of = args.commit.clone();
            (of.declines, of.auc) = (*share, Some(*auc));
            of.check()?;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured =
        commit::in_scratch(&args.commit.setup.dir, async |data: &Path| measure(args, data).await);
    let all = runtime.block_on(measured)?;
    if args.commit.setup.json {
        return print_json(&all);
    }
    print(&describe(&all))
}

async fn measure(args: &Args, data: &Path) -> anyhow::Result<Vec<Figures>> {
    let (contestants, rounds) = (contestants(args), args.commit.rounds.max(1));
    let mut all = Vec::new();
    for share in &args.shares {
        for in_flight in &args.commit.in_flight {
            let mut runs: Vec<Vec<Run>> = contestants.iter().map(|_| Vec::new()).collect();
            for round in 0..rounds {
                for turn in 0..contestants.len() {
                    // Each round begins with another, each run with fresh tables: what was rolled
                    // back before slows nobody down.
                    let at = (turn + round) % contestants.len();
                    let (contestant, runs) = (&contestants[at], &mut runs[at]);
                    let name = &contestant.name;
                    let said = format!("{name}, {share} %, {in_flight} in flight");
                    let _progress = Progress::spinner(said, args.commit.setup.json);
                    let mut args = args.commit.clone();
                    (args.declines, args.auc) = (*share, contestant.auc);
                    (args.strategy, args.members_max) =
                        (contestant.strategy, contestant.members_max);
                    let folder = data.join(format!("{share}-{in_flight}-{round}-{name}"));
                    let targets = args.participants.open(args.participant_count, &folder).await?;
                    let (workload, rule) = (Arc::new(args.workload()), args.coalescing());
                    let load = Load::Closed { clients: *in_flight };
                    let seen = ours(&args.setup, &folder, &targets, &workload, load, rule);
                    runs.push(seen.await?.run);
                    // What cannot be removed yet is removed with the scratch folder.
                    let _ = std::fs::remove_dir_all(&folder);
                }
            }
            let filter: Vec<f64> = runs[0].iter().map(|run| run.transfers_per_second).collect();
            let of = |(contestant, runs): (&Contestant, &Vec<Run>)| {
                let rates = runs.iter().map(|run| run.transfers_per_second);
                let ratios = sorted(rates.clone().zip(&filter).map(|(rate, of)| rate / of));
                Figures {
                    strategy: contestant.name.clone(),
                    in_flight: *in_flight,
                    declines_percent: *share,
                    rounds,
                    transfers_per_second: median(rates),
                    answer_ms_p50: median(runs.iter().map(|run| run.answer_ms_p50)),
                    ratio_to_filter: median(ratios.iter().copied()),
                    ratio_to_filter_min: ratios[0],
                    ratio_to_filter_max: ratios[ratios.len() - 1],
                    failed: runs.iter().map(|run| run.failed).sum(),
                }
            };
            all.extend(contestants.iter().zip(&runs).map(of));
        }
    }
    Ok(all)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn describe(all: &[Figures]) -> String {
    let mut table = Table::new();
    table.set_header([
        "declined %",
        "in flight",
        "strategy",
        "transfers/s",
        "p50 ms",
        "of the filter's",
        "least, most",
        "failed",
    ]);
    for f in all {
        table.add_row([
            f.declines_percent.to_string(),
            f.in_flight.to_string(),
            f.strategy.clone(),
            format!("{:.0}", f.transfers_per_second),
            format!("{:.2}", f.answer_ms_p50),
            format!("{:.2}", f.ratio_to_filter),
            format!("{:.2}, {:.2}", f.ratio_to_filter_min, f.ratio_to_filter_max),
            f.failed.to_string(),
        ]);
    }
    let rounds = all.first().map_or(0, |f| f.rounds);
    format!(
        "{table}\nmedians of {rounds} rounds; predictions, decision log, markers, outcome log on\n"
    )
}
