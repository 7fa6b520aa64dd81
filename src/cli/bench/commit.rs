//! `presume bench commit`: what a commit costs, beside what a bare flush costs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use hdrhistogram::Histogram;
use presume::coordinator::{self, Coordinator, Parts, Submission, SystemClock, Wait};
use presume::decision_log::{self, DecisionLog};
use presume::features;
use presume::models::registry::Registry;
use presume::models::serving::{self, Serving};
use presume::participants::Participant;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use presume::policy::{self, Policy};
use presume::txn::{
    Currency, Customer, CustomerId, CustomerType, Kind, Mode, Money, Operation, OperationName,
    Outcome, Params, ParticipantName, Payment, ProtocolRequest, Transaction, TxnId,
};
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{Progress, print, print_json};

/// At each participant.
pub(super) const ACCOUNTS: u64 = 100_000;
/// Who is debited, who is credited.
pub(super) const PARTICIPANTS: [&str; 2] = ["left", "right"];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  presume bench commit --in-flight 1,64,512 --seconds 5 --json
  scripts/with-postgres presume bench commit --participants postgres --in-flight 1,8,32,64

Between databases, LEFT_URL and RIGHT_URL name them; tables presume_bench and presume_bench_marker
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
    dir: PathBuf,
    /// Model registry; its champion predicts for every transaction
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Name of the model set
    #[arg(long, default_value = "payments")]
    name: String,
    /// Measure without predictions
    #[arg(long)]
    no_predictions: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
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
    let bench = coordinate(args, data, participants.collect::<anyhow::Result<_>>()?).await?;
    let flushed =
        || bench.coordinator.status().flushes + ledgers.iter().map(Ledger::flushes).sum::<u64>();
    bench.load(in_flight, Duration::from_millis(500), Wait::Decision).await?;
    let flushes = flushed();
    let length = Duration::from_secs(args.seconds.max(1));
    let run = bench.load(in_flight, length, Wait::Decision).await?;
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
        ledger.open_accounts(&(0..ACCOUNTS).map(account).collect::<Vec<_>>()).await?;
        ledgers.push(ledger);
    }
    Ok(ledgers)
}

/// A coordinator over `participants`, with its decision log in `data`.
pub(super) async fn coordinate(
    args: &Args,
    data: &Path,
    participants: BTreeMap<ParticipantName, Arc<dyn Participant>>,
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
        let id = bundle.id().to_owned();
        serving.load(bundle);
        format!("{id}, mode observe")
    };
    let parts = Parts {
        log: Arc::new(log),
        participants,
        serving: Arc::new(serving),
        features,
        policy: Policy::new(options)?,
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
    predictions: String,
}

/// What a closed loop of clients saw.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) committed: u64,
    pub(super) seconds: f64,
    pub(super) transfers_per_second: f64,
    pub(super) answer_ms_p50: f64,
    pub(super) answer_ms_p99: f64,
    /// Until every participant had voted.
    pub(super) voted_ms_p50: f64,
    /// Processor time a transfer, user and system: of this process, clients included, and of all
    /// else on the machine, which should be the databases. `None` off Linux.
    pub(super) cpu_ms_own: Option<f64>,
    pub(super) cpu_ms_others: Option<f64>,
}

/// Processor time spent, in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    own: f64,
    machine: f64,
}

impl Cpu {
    /// As `proc(5)` has it.
    pub(super) fn now() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in brackets, may hold anything.
        let fields: Vec<f64> =
            own.rsplit_once(')')?.1.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let spent: Vec<f64> =
            machine.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        // user, nice, system, idle, iowait, irq, softirq
        let busy = spent.get(..7)?.iter().sum::<f64>() - spent[3] - spent[4];
        Some(Self { own: fields.get(11)? + fields.get(12)?, machine: busy })
    }

    /// Milliseconds since, of this process and of all others, for each of `count`.
    pub(super) fn since(start: Option<Self>, count: u64) -> (Option<f64>, Option<f64>) {
        let (Some(start), Some(now)) = (start, Self::now()) else { return (None, None) };
        // Ticks are hundredths of a second wherever Linux shows them.
        let ms = |ticks: f64| Some(ticks * 10.0 / count.max(1) as f64);
        let own = now.own - start.own;
        (ms(own), ms((now.machine - start.machine - own).max(0.0)))
    }
}

impl Bench {
    /// Transfers by `clients` clients, every account pair drawn evenly.
    pub(super) async fn load(
        &self,
        clients: usize,
        length: Duration,
        wait: Wait,
    ) -> anyhow::Result<Run> {
        let coordinator = self.coordinator.clone();
        closed_loop(clients, length, move |_, n| {
            let coordinator = coordinator.clone();
            async move {
                let submission = Submission { wait, ..transfer(n)? };
                let answer = coordinator.submit(submission).await?;
                anyhow::ensure!(answer.outcome == Outcome::Committed, "{:?}", answer.reasons);
                Ok(answer.timings_ms.prepare)
            }
        })
        .await
    }
}

/// Clients that each do one thing after the other; `work` gets the client's and the thing's number
/// and answers after how many milliseconds all had voted.
pub(super) async fn closed_loop<W, F>(
    clients: usize,
    length: Duration,
    work: W,
) -> anyhow::Result<Run>
where
    W: Fn(usize, u64) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<f64>> + Send,
{
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (started, cpu) = (Instant::now(), Cpu::now());
    let until = started + length;
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let work = work.clone();
        tasks.spawn(async move {
            let mut latency = histogram()?;
            let mut voted = histogram()?;
            while Instant::now() < until {
                let started = Instant::now();
                let voted_ms = work(client, NEXT.fetch_add(1, Ordering::Relaxed)).await?;
                let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                latency.saturating_record(us);
                voted.saturating_record((voted_ms * 1e3) as u64);
            }
            anyhow::Ok((latency, voted))
        });
    }
    let (mut all, mut voted) = (histogram()?, histogram()?);
    while let Some(task) = tasks.join_next().await {
        let (latency, votes) = task??;
        all.add(&latency)?;
        voted.add(&votes)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (cpu_ms_own, cpu_ms_others) = Cpu::since(cpu, all.len());
    Ok(Run {
        committed: all.len(),
        seconds,
        transfers_per_second: all.len() as f64 / seconds,
        answer_ms_p50: all.value_at_quantile(0.5) as f64 / 1e3,
        answer_ms_p99: all.value_at_quantile(0.99) as f64 / 1e3,
        voted_ms_p50: voted.value_at_quantile(0.5) as f64 / 1e3,
        cpu_ms_own,
        cpu_ms_others,
    })
}

/// Of microseconds, up to a minute.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// The accounts of a transfer: two walks with large strides that share no factor with their number.
pub(super) fn accounts(n: u64) -> (u64, u64) {
    (n.wrapping_mul(7_919) % ACCOUNTS, n.wrapping_mul(104_729) % ACCOUNTS)
}

fn transfer(n: u64) -> anyhow::Result<Submission> {
    let (from, to) = accounts(n);
    let operation = |participant: &str, name: &str, account: u64| -> anyhow::Result<Operation> {
        Ok(Operation {
            participant: ParticipantName::new(participant)?,
            operation: OperationName::new(name)?,
            params: Params::from([
                ("account".to_owned(), format!("a{account}").into()),
                ("amount".to_owned(), 100.into()),
            ]),
        })
    };
    let customer = Customer {
        id: CustomerId::new(&format!("c{from}"))?,
        customer_type: CustomerType::Retail,
        since: None,
    };
    let amount = Money { minor: 100, currency: Currency::INR };
    Ok(Submission {
        transaction: Transaction {
            id: TxnId::new(&format!("b{n}"))?,
            payment: Payment::new(Kind::Upi, customer, amount),
            protocol: ProtocolRequest::Auto,
            operations: vec![
                operation(PARTICIPANTS[0], "debit", from)?,
                operation(PARTICIPANTS[1], "credit", to)?,
            ],
        },
        request_hash: String::new(),
        event_time: None,
        wait: Wait::Decision,
    })
}
