//! `presume bench commit`: what a commit costs, beside what a bare flush costs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use presume::coordinator::{self, Coordinator, Parts, SystemClock, Wait};
use presume::decision_log::{self, DecisionLog};
use presume::features;
use presume::models::bundle::BoundModel;
use presume::models::registry::Registry;
use presume::models::serving::{self, Serving};
use presume::models::{PredictError, Predictor, Target};
use presume::participants::Participant;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use presume::policy::coalescing::{Coalescing, CoalescingOptions, Strategy};
use presume::policy::{self, Policy};
use presume::txn::{Mode, Outcome, ParticipantName, Reason, ReasonCode};
use serde::Serialize;
use tokio::time::Instant;

use super::load::{Ended, Run, closed_loop};
use super::workload::{ACCOUNTS, Accounts, EMPTY_ACCOUNTS, PARTICIPANTS, Workload, submission};
use crate::cli::{Progress, print, print_json};

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  presume bench commit --in-flight 1,64,512 --seconds 5 --json
  scripts/with-postgres presume bench commit --participants postgres --in-flight 64,512,2048 \\
      --declines 1 --rounds 5

Between databases, LEFT_URL and RIGHT_URL name them; a table presume_bench and our own
are made there.")]
pub struct Args {
    /// Between what: embedded ledgers, or two PostgreSQL servers beside the bare protocol
    #[arg(long, value_enum, default_value_t = Kinds::Embedded)]
    participants: Kinds,
    /// Transactions kept in flight, one run each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    pub(super) in_flight: Vec<usize>,
    /// Seconds a run
    #[arg(long, default_value_t = 5)]
    pub(super) seconds: u64,
    /// Folder for the scratch data, on the disk to be measured; removed afterwards
    #[arg(long, default_value = ".")]
    pub(super) dir: PathBuf,
    /// Model registry; its champion predicts for every transaction
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Name of the model set
    #[arg(long, default_value = "payments")]
    name: String,
    /// Measure without predictions
    #[arg(long)]
    no_predictions: bool,
    /// Runs of everything, one after the other; figures are medians over them
    #[arg(long, default_value_t = 1)]
    pub(super) rounds: usize,
    /// How accounts are drawn
    #[arg(long, value_enum, default_value_t = Accounts::Uniform)]
    accounts: Accounts,
    /// Of a hundred transfers, so many are declined
    #[arg(long, default_value_t = 0.0)]
    pub(super) declines: f64,
    /// Every other decline is the credited side's: its account does not exist
    #[arg(long)]
    both_sides: bool,
    /// Votes are predicted with this AUC, by a model made up for the run; 1 knows them
    #[arg(long)]
    pub(super) auc: Option<f64>,
    /// How batches are carried out
    #[arg(long, default_value = "auto")]
    pub(super) strategy: Strategy,
    /// The most members of a batch
    #[arg(long)]
    pub(super) members_max: Option<usize>,
    /// The most batches on their way
    #[arg(long)]
    journeys_max: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let auc = self.auc.unwrap_or(1.0);
        anyhow::ensure!((0.5..=1.0).contains(&auc), "--auc is {auc}, it must be between 0.5 and 1");
        let (of, max) = (self.declines, 90.0);
        anyhow::ensure!((0.0..=max).contains(&of), "--declines is {of}, it must be at most {max}");
        anyhow::ensure!(self.auc.is_none() || !self.no_predictions, "--auc needs predictions");
        Ok(())
    }

    pub(super) fn workload(&self) -> Workload {
        Workload::new(self.accounts, self.declines)
            .with_both_sides(self.both_sides)
            .with_foresight(self.auc)
    }

    pub(super) fn coalescing(&self) -> CoalescingOptions {
        let default = CoalescingOptions::default();
        CoalescingOptions {
            strategy: self.strategy,
            members_max: self.members_max.unwrap_or(default.members_max),
            journeys_max: self.journeys_max.unwrap_or(default.journeys_max),
            ..default
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kinds {
    Embedded,
    Postgres,
}

#[derive(Debug, Serialize)]
struct Figures {
    in_flight: usize,
    predictions: String,
    #[serde(flatten)]
    run: Run,
    flushes: u64,
    transfers_per_flush: f64,
    bare_flushes_per_second: f64,
    ratio_to_bare_flushes: f64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.in_flight.iter().all(|n| (1..=4096).contains(n)),
        "--in-flight must be between 1 and 4096"
    );
    args.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.participants == Kinds::Postgres {
        return runtime.block_on(in_scratch(&args.dir, async |data: &Path| {
            super::postgres::run(args, data).await
        }));
    }
    let mut all = Vec::new();
    for &in_flight in &args.in_flight {
        let progress = Progress::spinner(format!("{in_flight} in flight"), args.json);
        let measured =
            in_scratch(&args.dir, async |data: &Path| measure(args, in_flight, data).await);
        all.push(runtime.block_on(measured)?);
        drop(progress);
    }
    if args.json {
        return print_json(&all);
    }
    let mut table = Table::new();
    table.set_header([
        "in flight",
        "transfers/s",
        "per flush of any store",
        "bare flushes/s",
        "ratio",
        "p50 ms",
        "p99 ms",
    ]);
    for f in &all {
        table.add_row([
            f.in_flight.to_string(),
            format!("{:.0}", f.run.transfers_per_second),
            format!("{:.1}", f.transfers_per_flush),
            format!("{:.0}", f.bare_flushes_per_second),
            format!("{:.2}", f.ratio_to_bare_flushes),
            format!("{:.2}", f.run.answer_ms_p50),
            format!("{:.2}", f.run.answer_ms_p99),
        ]);
    }
    let predictions = all.first().map_or("", |f| f.predictions.as_str());
    print(&format!("{table}\npredictions: {predictions}; two ledgers and a decision log\n"))
}

/// Runs in a scratch folder, which is removed.
pub(super) async fn in_scratch<T>(
    dir: &Path,
    work: impl AsyncFnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let scratch = dir.join(format!(".presume-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    let result = work(&scratch).await;
    std::fs::remove_dir_all(&scratch)
        .with_context(|| format!("cannot remove {}", scratch.display()))?;
    result
}

async fn measure(args: &Args, in_flight: usize, data: &Path) -> anyhow::Result<Figures> {
    let bare_before = bare_flushes_per_second(data)?;
    let ledgers = open_ledgers(data).await?;
    let shared = |(name, ledger): (&str, &Ledger)| -> anyhow::Result<_> {
        Ok((ParticipantName::new(name)?, Arc::new(ledger.clone()) as Arc<dyn Participant>))
    };
    let participants = PARTICIPANTS.into_iter().zip(&ledgers).map(shared);
    let participants = participants.collect::<anyhow::Result<_>>()?;
    let bench = coordinate(args, data, participants, args.coalescing()).await?;
    let flushed =
        || bench.coordinator.status().flushes + ledgers.iter().map(Ledger::flushes).sum::<u64>();
    let workload = Arc::new(args.workload());
    bench.load(&workload, in_flight, Duration::from_millis(500), Wait::Decision).await?;
    let flushes = flushed();
    let length = Duration::from_secs(args.seconds.max(1));
    let run = bench.load(&workload, in_flight, length, Wait::Decision).await?;
    let flushes = flushed() - flushes;
    bench.coordinator.shutdown(Duration::from_secs(5)).await;
    for ledger in &ledgers {
        anyhow::ensure!(ledger.verify().await?.problems.is_empty(), "a ledger does not balance");
    }
    let bare = f64::midpoint(bare_before, bare_flushes_per_second(data)?);
    Ok(Figures {
        in_flight,
        predictions: bench.predictions.clone(),
        flushes,
        transfers_per_flush: run.committed as f64 / flushes.max(1) as f64,
        bare_flushes_per_second: bare,
        ratio_to_bare_flushes: run.transfers_per_second / bare,
        run,
    })
}

/// Appends of 512 bytes, each made durable: what the disk gives to a writer that never groups.
fn bare_flushes_per_second(data: &Path) -> anyhow::Result<f64> {
    let path = data.join("bare");
    let mut file = std::fs::File::create(&path)?;
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < Duration::from_millis(700) {
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

async fn open_ledgers(data: &Path) -> anyhow::Result<Vec<Ledger>> {
    let mut ledgers = Vec::new();
    for name in PARTICIPANTS {
        let ledger = Ledger::open(&ledger::folder(data, name)?, ledger::Options::default())?;
        let account = |i| NewAccount {
            id: format!("a{i}"),
            opening_minor: 1_000_000_000,
            overdraft: Overdraft::Refused,
        };
        let empty = |i| NewAccount { id: format!("e{i}"), opening_minor: 0, ..account(0) };
        let accounts = (0..ACCOUNTS).map(account).chain((0..EMPTY_ACCOUNTS).map(empty));
        ledger.open_accounts(&accounts.collect::<Vec<_>>()).await?;
        ledgers.push(ledger);
    }
    Ok(ledgers)
}

/// A model of votes that says what the workload states beforehand.
struct Foreseen;

impl Predictor for Foreseen {
    fn width(&self) -> usize {
        1
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        for (row, out) in rows.iter().zip(out) {
            *out = 1.0 - f64::from(*row);
        }
        Ok(())
    }
}

fn foreseen() -> anyhow::Result<BoundModel> {
    let input = features::txn_features().iter().position(|f| f.name == "system_load");
    let input = input.context("there is no feature system_load")?;
    Ok(BoundModel { predictor: Box::new(Foreseen), inputs: vec![input] })
}

/// A coordinator over `participants`, with its decision log in `data`.
pub(super) async fn coordinate(
    args: &Args,
    data: &Path,
    participants: BTreeMap<ParticipantName, Arc<dyn Participant>>,
    coalescing: CoalescingOptions,
) -> anyhow::Result<Bench> {
    let (log, recovered) =
        DecisionLog::open(&data.join("decisions"), decision_log::Options::default())?;
    let features = features::State::new(features::Options::default())?;
    let origin = Instant::now();
    let serving = Serving::new(serving::Options::with_clock(Arc::new(move || origin.elapsed())));
    let mut options = policy::Options { mode: Mode::Observe, ..policy::Options::default() };
    let predictions = if args.no_predictions {
        options.mode = Mode::Off;
        "off".to_owned()
    } else {
        let registry = Registry::open(&args.models);
        let bundle = registry.load_champion(&args.name, features.calendar())?;
        let id = bundle.id().to_string();
        match args.auc {
            Some(auc) => {
                serving.load(bundle.with_model(Target::Success, foreseen()?));
                format!("{id}, votes with an AUC of {auc} made up, mode observe")
            }
            None => {
                serving.load(bundle);
                format!("{id}, mode observe")
            }
        }
    };
    let parts = Parts {
        log: Arc::new(log),
        participants,
        serving: Arc::new(serving),
        features,
        policy: Policy::new(options)?,
        coalescing: Coalescing::new(coalescing),
        clock: Arc::new(SystemClock),
    };
    let coordinator = Coordinator::start(parts, recovered, coordinator::Options::default()).await?;
    for participant in coordinator.status().participants {
        let away = participant.away.unwrap_or_default();
        anyhow::ensure!(participant.identity.is_some(), "{} is away: {away}", participant.name);
    }
    Ok(Bench { coordinator: Arc::new(coordinator), predictions })
}

/// A coordinator under load.
pub(super) struct Bench {
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) predictions: String,
}

impl Bench {
    /// Transfers of a workload by `clients` clients.
    pub(super) async fn load(
        &self,
        workload: &Arc<Workload>,
        clients: usize,
        length: Duration,
        wait: Wait,
    ) -> anyhow::Result<Run> {
        let (coordinator, workload) = (self.coordinator.clone(), workload.clone());
        closed_loop(clients, length, move |_, n| {
            let (coordinator, workload) = (coordinator.clone(), workload.clone());
            async move {
                let transfer = workload.transfer(n);
                let answer = coordinator.submit(submission(n, &transfer, wait)?).await?;
                let declined = |reason: &Reason| reason.code == ReasonCode::BusinessDecline;
                let ended = match answer.outcome {
                    Outcome::Committed if !transfer.declined() => Ended::Committed,
                    Outcome::Aborted if !answer.reasons.iter().any(declined) => Ended::Failed,
                    Outcome::Aborted if transfer.declined() => Ended::Declined,
                    outcome => anyhow::bail!("{} {outcome}: {:?}", answer.id, answer.reasons),
                };
                Ok((ended, answer.timings_ms.prepare))
            }
        })
        .await
    }
}
