//! `presume bench commit`: what a commit costs, beside the bare protocol on the same participants.
//!
//! In one run, by turns: the bare protocol (`targets`), ours with every transaction alone, and ours.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use presume::policy::coalescing::{CoalescingOptions, Strategy};
use tokio::time::Instant;

use super::arrivals::{Arrivals, Spacing};
use super::load::{Load, Open, Run};
use super::ours::{Ours, ours};
use super::report::{Figures, Report};
use super::targets::{CONNECTIONS_MAX, Kinds, Target, bare};
use super::workload::{Accounts, Workload};
use super::{plot, report};
use crate::cli::{Progress, print, print_json};

/// Clients of the bare protocol in a closed loop: the best of these counts.
const BARE_CLIENTS: [usize; 4] = [1, 8, 32, 64];
/// Most transactions in flight: what a coordinator takes.
const IN_FLIGHT_MAX: usize = 4_096;
/// Most arrivals a second: more than the threads of any machine here would start.
const RATE_MAX: f64 = 1e6;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  presume bench commit --in-flight 1,64,512 --seconds 5 --json
  presume bench commit --rate 500,1000,2000,4000 --plot latency.svg
  presume bench commit --participant-count 5 --read-only 2 --accounts zipf --declines 5
  scripts/with-servers presume bench commit --participants postgres --in-flight 64,512,2048 \\
      --declines 1 --rounds 5 --plot ratios.svg
  scripts/with-servers presume bench commit --participants mixed --in-flight 64,512

Every debit has the condition that the money is there. In a closed loop clients wait for one
answer before they send again. With --rate arrivals come at instants that do not depend on
answers, and latency counts from the instant at which a transfer was meant to start; the largest
--in-flight is then the most in flight, waiting ones included, above which arrivals are refused.

Databases are named by LEFT_URL, RIGHT_URL and MARIADB_URL; a table presume_bench and our own are
made there, and a database more for every further participant of a server.")]
pub struct Args {
    /// Between what
    #[arg(long, value_enum, default_value_t = Kinds::Embedded)]
    pub(super) participants: Kinds,
    /// Participants of a transfer: 2, 3 or 5
    #[arg(long, default_value_t = 2)]
    pub(super) participant_count: usize,
    /// So many of them, at most all but the debited one, only read
    #[arg(long, default_value_t = 0)]
    read_only: usize,
    /// Transactions kept in flight, one run each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    pub(super) in_flight: Vec<usize>,
    /// Open loop: arrivals a second, one run each
    #[arg(long, value_delimiter = ',')]
    pub(super) rate: Vec<f64>,
    /// How the arrivals of an open loop are spaced
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    arrivals: Spacing,
    /// Draws ratios over what is in flight, or with --rate latencies over the rate
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
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
    #[command(flatten)]
    pub(super) setup: Setup,
    /// How batches are carried out
    #[arg(long, default_value = "auto")]
    pub(super) strategy: Strategy,
    /// The most members of a batch
    #[arg(long)]
    pub(super) members_max: Option<usize>,
    /// The most batches on their way
    #[arg(long)]
    journeys_max: Option<usize>,
}

/// What every run with a coordinator needs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Setup {
    /// Seconds a run
    #[arg(long, default_value_t = 5)]
    pub(super) seconds: u64,
    /// Folder for the scratch data, on the disk to be measured; removed afterwards
    #[arg(long, default_value = ".")]
    pub(super) dir: PathBuf,
    /// Model registry; its champion predicts for every transaction
    #[arg(long, default_value = "models")]
    pub(super) models: PathBuf,
    /// Name of the model set
    #[arg(long, default_value = "payments")]
    pub(super) name: String,
    /// Measure without predictions
    #[arg(long)]
    pub(super) no_predictions: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.in_flight.iter().all(|n| (1..=IN_FLIGHT_MAX).contains(n)),
            "--in-flight must be between 1 and {IN_FLIGHT_MAX}"
        );
        anyhow::ensure!(
            self.rate.iter().all(|rate| (1.0..=RATE_MAX).contains(rate)),
            "--rate must be between 1 and {RATE_MAX} a second"
        );
        let count = self.participant_count;
        anyhow::ensure!(
            [2, 3, 5].contains(&count),
            "--participant-count is {count}, not 2, 3 or 5"
        );
        anyhow::ensure!(
            self.read_only < count,
            "--read-only is {}, at most {} of {count} participants can",
            self.read_only,
            count - 1
        );
        anyhow::ensure!(
            (0.0..=50.0).contains(&self.declines),
            "--declines is {}, not between 0 and 50 percent",
            self.declines
        );
        anyhow::ensure!(
            !self.both_sides || count - self.read_only > 1,
            "--both-sides: nobody is credited, all but one only read"
        );
        let auc = self.auc.unwrap_or(1.0);
        anyhow::ensure!((0.5..=1.0).contains(&auc), "--auc is {auc}, not between 0.5 and 1");
        anyhow::ensure!(
            self.auc.is_none() || !self.setup.no_predictions,
            "--auc needs predictions"
        );
        Ok(())
    }

    pub(super) fn workload(&self) -> Workload {
        Workload::new(self.accounts, self.declines, self.participant_count, self.read_only)
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

pub fn run(args: &Args) -> anyhow::Result<()> {
    args.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = in_scratch(&args.setup.dir, async |data: &Path| measure(args, data).await);
    let report = runtime.block_on(measured)?;
    if let Some(file) = &args.plot {
        let svg = plot::draw(&report)?;
        std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.setup.json { print_json(&report) } else { print(&report::describe(&report)) }
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
    let removed = std::fs::remove_dir_all(&scratch);
    // Whatever went wrong first is told.
    let result = result?;
    removed.with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(result)
}

async fn measure(args: &Args, data: &Path) -> anyhow::Result<Report> {
    let targets = args.participants.open(args.participant_count, data).await?;
    let workload = Arc::new(args.workload());
    let mut report = Report {
        participants: args.participants,
        participant_count: args.participant_count,
        read_only: args.read_only,
        accounts: args.accounts,
        declines_percent: args.declines,
        arrivals: (!args.rate.is_empty()).then_some(args.arrivals),
        predictions: String::new(),
        outcome_log: "on",
        bare_flushes_per_second: bare_flushes_per_second(data)?,
        medians: Vec::new(),
        rounds: Vec::new(),
    };
    for round in 0..args.rounds.max(1) {
        let pass = Pass { args, data, targets: &targets, workload: &workload, round };
        pass.measure(&mut report).await?;
    }
    for target in &targets {
        target.verify().await?;
    }
    report.conclude();
    Ok(report)
}

/// One round over everything.
struct Pass<'a> {
    args: &'a Args,
    data: &'a Path,
    targets: &'a [Target],
    workload: &'a Arc<Workload>,
    round: usize,
}

impl Pass<'_> {
    async fn measure(&self, report: &mut Report) -> anyhow::Result<()> {
        let args = self.args;
        if args.rate.is_empty() {
            let mut bares = Vec::new();
            for clients in BARE_CLIENTS {
                bares.push((clients, self.bare(clients, Load::Closed { clients }).await?));
            }
            let rate = |(_, run): &&(usize, Run)| run.transfers_per_second;
            let best = bares.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)));
            let best = best.cloned().expect("there are four");
            let at_64 = bares.pop().expect("there are four").1;
            for &in_flight in &args.in_flight {
                let alone = match args.participants {
                    Kinds::Embedded => in_flight,
                    // More would wait for a session and time out.
                    _ => in_flight.min(CONNECTIONS_MAX),
                };
                let loads = [alone, in_flight].map(|clients| Load::Closed { clients });
                let figures = self.ours(in_flight, alone, loads, (best.clone(), at_64.clone()));
                report.add(figures.await?);
            }
            return Ok(());
        }
        let in_flight_max = args.in_flight.iter().copied().max().unwrap_or(IN_FLIGHT_MAX);
        for &rate in &args.rate {
            let spacing = args.arrivals;
            let open = |clients: usize| {
                let clients = clients.min(in_flight_max);
                Load::Open(Open { rate, spacing, clients, in_flight_max })
            };
            let clients = CONNECTIONS_MAX.min(in_flight_max);
            let bare = self.bare(clients, open(clients)).await?;
            let alone = match args.participants {
                Kinds::Embedded => in_flight_max,
                _ => clients,
            };
            let loads = [open(alone), open(in_flight_max)];
            let bares = ((clients, bare.clone()), bare);
            let mut figures = self.ours(in_flight_max, alone, loads, bares).await?;
            figures.1.rate = Some(rate);
            let length = Duration::from_secs(args.setup.seconds.max(1));
            let arrivals = Arrivals::new(rate, spacing).take_while(|at| *at < length);
            figures.1.arrival_count = Some(arrivals.count() as u64);
            report.add(figures);
        }
        Ok(())
    }

    async fn bare(&self, clients: usize, load: Load) -> anyhow::Result<Run> {
        let _progress = Progress::spinner(format!("bare, {clients} clients"), self.args.setup.json);
        let length = Duration::from_secs(self.args.setup.seconds.max(1));
        bare(self.targets, self.workload, clients, load, length).await
    }

    /// Ours alone and together, beside what the bare protocol did: the predictions, and the figures.
    async fn ours(
        &self,
        in_flight: usize,
        uncoalesced_in_flight: usize,
        [alone, together]: [Load; 2],
        ((bare_clients, bare), bare_at_64): ((usize, Run), Run),
    ) -> anyhow::Result<(String, Figures)> {
        let _progress = Progress::spinner(format!("{in_flight} in flight"), self.args.setup.json);
        let alone_options =
            CoalescingOptions { strategy: Strategy::Alone, ..self.args.coalescing() };
        let uncoalesced = self.once(alone, alone_options).await?;
        let presume = self.once(together, self.args.coalescing()).await?;
        let over = |other: &Run| presume.run.transfers_per_second / other.transfers_per_second;
        let figures = Figures {
            in_flight,
            rate: None,
            arrival_count: None,
            round: self.round,
            ratio_to_bare: over(&bare),
            ratio_to_uncoalesced: over(&uncoalesced.run),
            p50_to_bare_at_64: presume.run.answer_ms_p50 / bare_at_64.answer_ms_p50,
            p99_to_bare_at_64: presume.run.answer_ms_p99 / bare_at_64.answer_ms_p99,
            transfers_per_flush: presume.flushes.map(|n| presume.run.committed as f64 / n as f64),
            bare_clients,
            bare,
            bare_at_64,
            uncoalesced_in_flight,
            uncoalesced: uncoalesced.run,
            presume: presume.run,
        };
        Ok((presume.predictions, figures))
    }

    /// With a decision log that starts empty.
    async fn once(&self, load: Load, coalescing: CoalescingOptions) -> anyhow::Result<Ours> {
        let setup = &self.args.setup;
        ours(setup, self.data, self.targets, self.workload, load, coalescing).await
    }
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
