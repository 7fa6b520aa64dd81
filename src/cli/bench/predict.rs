//! `presume bench predict`: what a prediction costs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use presume::features::{self, LegContext, Replay, State};
use presume::models::Bundle;
use presume::models::registry::Registry;
use presume::models::serving::{self, Serving};
use presume::simulation::{Generator, Options, World};
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{Progress, print, print_json};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume bench predict --transactions 100000 --json")]
pub struct Args {
    /// Transactions to time, after the warm-up
    #[arg(long, default_value_t = 100_000)]
    transactions: u64,
    /// Transactions to warm the feature state up with
    #[arg(long, default_value_t = 100_000)]
    warm_up: u64,
    /// Customers in the simulated history
    #[arg(long, default_value_t = 5_000)]
    customers: u32,
    /// Seed of the simulated history
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Model registry
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Name of the model set; its champion serves
    #[arg(long, default_value = "payments")]
    name: String,
    /// Predict by the ONNX graphs, on tract, even where the bundle holds trained forms
    #[arg(long)]
    graphs: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    graphs: bool,
    transactions: u64,
    participants_mean: f64,
    features_us_p50: f64,
    features_us_p99: f64,
    predictions_us_p50: f64,
    predictions_us_p99: f64,
    total_us_p50: f64,
    total_us_p99: f64,
    total_us_max: f64,
    fallbacks: u64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut state = State::new(features::Options::default())?;
    let origin = Instant::now();
    let serving = Serving::new(serving::Options::with_clock(Arc::new(move || origin.elapsed())));
    let registry = Registry::open(&args.models);
    let cannot =
        || format!("the champion of {} in {} cannot serve", args.name, args.models.display());
    let champion = registry.load_champion(&args.name, state.calendar()).with_context(cannot)?;
    let folder = registry.path(&args.name, champion.manifest().version);
    serving.load(if args.graphs {
        Bundle::load_graphs(&folder, state.calendar()).with_context(cannot)?
    } else {
        champion
    });
    let rows = args.warm_up + args.transactions;
    let options =
        Options { seed: args.seed, rows, customers: args.customers, ..Options::default() };
    let mut generator = Generator::new(World::shipped(), options)?;
    let progress = Progress::new("warming up", rows, args.json);
    let mut replay = Replay::new(state);
    for generated in generator.by_ref().take(usize::try_from(args.warm_up)?) {
        replay.step(generated.row)?;
        progress.advance(1);
    }
    progress.message("predicting");
    let histogram = || Histogram::<u64>::new_with_bounds(10, 10_000_000_000, 3);
    let (mut extracting, mut predicting, mut both) = (histogram()?, histogram()?, histogram()?);
    let (mut count, mut participants) = (0u64, 0u64);
    for generated in generator {
        let row = generated.row;
        replay.advance_to(row.timestamp);
        let contexts: Vec<_> = row
            .legs
            .iter()
            .map(|leg| LegContext { in_flight: leg.in_flight, health: leg.health })
            .collect();
        state = replay.into_state();
        let started = Instant::now();
        let vector = state.extract(&row.payment, &contexts, row.timestamp);
        let extracted = Instant::now();
        let prediction = serving.predict(&vector, &row.payment.participants);
        let predicted = Instant::now();
        std::hint::black_box(&prediction);
        extracting.saturating_record(nanoseconds(extracted - started));
        predicting.saturating_record(nanoseconds(predicted - extracted));
        both.saturating_record(nanoseconds(predicted - started));
        participants += row.payment.participants.len() as u64;
        count += 1;
        state.apply(&features::Event::Arrived { at: row.timestamp, payment: &row.payment });
        replay = Replay::new(state);
        progress.advance(1);
    }
    drop(progress);
    let us = |histogram: &Histogram<u64>, q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
    let figures = Figures {
        model: serving.version(),
        graphs: args.graphs,
        transactions: count,
        participants_mean: participants as f64 / count.max(1) as f64,
        features_us_p50: us(&extracting, 0.5),
        features_us_p99: us(&extracting, 0.99),
        predictions_us_p50: us(&predicting, 0.5),
        predictions_us_p99: us(&predicting, 0.99),
        total_us_p50: us(&both, 0.5),
        total_us_p99: us(&both, 0.99),
        total_us_max: us(&both, 1.0),
        fallbacks: serving.fallbacks().total(),
    };
    if args.json {
        return print_json(&figures);
    }
    print(&format!(
        "{} transactions, {:.1} participants each, model {}{}, one core\n\
         features              p50 {:>7.1} us   p99 {:>7.1} us\n\
         three predictions     p50 {:>7.1} us   p99 {:>7.1} us\n\
         both                  p50 {:>7.1} us   p99 {:>7.1} us   max {:.0} us\n\
         served by rules instead of a model: {}\n",
        figures.transactions,
        figures.participants_mean,
        figures.model,
        if figures.graphs { " by ONNX on tract" } else { "" },
        figures.features_us_p50,
        figures.features_us_p99,
        figures.predictions_us_p50,
        figures.predictions_us_p99,
        figures.total_us_p50,
        figures.total_us_p99,
        figures.total_us_max,
        figures.fallbacks,
    ))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
