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

const ACCOUNTS: u64 = 100_000;
const LEDGERS: [&str; 2] = ["left", "right"];

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume bench commit --in-flight 1,64,512 --seconds 5 --json")]
pub struct Args {
    /// Transactions kept in flight, one run each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    in_flight: Vec<usize>,
    /// Seconds a run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
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
    json: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    in_flight: usize,
    predictions: String,
    committed: u64,
    seconds: f64,
    transfers_per_second: f64,
    flushes: u64,
    transfers_per_flush: f64,
    bare_flushes_per_second: f64,
    ratio_to_bare_flushes: f64,
    answer_ms_p50: f64,
    answer_ms_p99: f64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.in_flight.iter().all(|n| (1..=4096).contains(n)),
        "--in-flight must be between 1 and 4096"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all = Vec::new();
    for &in_flight in &args.in_flight {
        let progress = Progress::spinner(format!("{in_flight} in flight"), args.json);
        all.push(runtime.block_on(measure(args, in_flight))?);
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
            format!("{:.0}", f.transfers_per_second),
            format!("{:.1}", f.transfers_per_flush),
            format!("{:.0}", f.bare_flushes_per_second),
            format!("{:.2}", f.ratio_to_bare_flushes),
            format!("{:.2}", f.answer_ms_p50),
            format!("{:.2}", f.answer_ms_p99),
        ]);
    }
    let predictions = all.first().map_or("", |f| f.predictions.as_str());
    print(&format!("{table}\npredictions: {predictions}; two ledgers and a decision log\n"))
}

struct Bench {
    coordinator: Coordinator,
    ledgers: Vec<Ledger>,
    predictions: String,
}

async fn measure(args: &Args, in_flight: usize) -> anyhow::Result<Figures> {
    let scratch = args.dir.join(format!(".presume-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    let result = measure_in(args, in_flight, &scratch).await;
    std::fs::remove_dir_all(&scratch)
        .with_context(|| format!("cannot remove {}", scratch.display()))?;
    result
}

async fn measure_in(args: &Args, in_flight: usize, data: &Path) -> anyhow::Result<Figures> {
    let bare_before = bare_flushes_per_second(data)?;
    let bench = open(args, data).await?;
    let bench = Arc::new(bench);
    load(&bench, in_flight, Duration::from_millis(500)).await?;
    let flushes = bench.flushes();
    let started = Instant::now();
    let (committed, latency) =
        load(&bench, in_flight, Duration::from_secs(args.seconds.max(1))).await?;
    let seconds = started.elapsed().as_secs_f64();
    let flushes = bench.flushes() - flushes;
    bench.coordinator.shutdown(Duration::from_secs(5)).await;
    for ledger in &bench.ledgers {
        anyhow::ensure!(ledger.verify().await?.problems.is_empty(), "a ledger does not balance");
    }
    let bare = f64::midpoint(bare_before, bare_flushes_per_second(data)?);
    let per_second = committed as f64 / seconds;
    Ok(Figures {
        in_flight,
        predictions: bench.predictions.clone(),
        committed,
        seconds,
        transfers_per_second: per_second,
        flushes,
        transfers_per_flush: committed as f64 / flushes.max(1) as f64,
        bare_flushes_per_second: bare,
        ratio_to_bare_flushes: per_second / bare,
        answer_ms_p50: latency.value_at_quantile(0.5) as f64 / 1e3,
        answer_ms_p99: latency.value_at_quantile(0.99) as f64 / 1e3,
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

async fn open(args: &Args, data: &Path) -> anyhow::Result<Bench> {
    let (log, recovered) =
        DecisionLog::open(&data.join("decisions"), decision_log::Options::default())?;
    let mut participants: BTreeMap<ParticipantName, Arc<dyn Participant>> = BTreeMap::new();
    let mut ledgers = Vec::new();
    for name in LEDGERS {
        let ledger = Ledger::open(&ledger::folder(data, name)?, ledger::Options::default())?;
        if ledger.accounts() < usize::try_from(ACCOUNTS)? {
            let account = |i| NewAccount {
                id: format!("a{i}"),
                opening_minor: 1_000_000_000,
                overdraft: Overdraft::Refused,
            };
            ledger.open_accounts(&(0..ACCOUNTS).map(account).collect::<Vec<_>>()).await?;
        }
        participants.insert(ParticipantName::new(name)?, Arc::new(ledger.clone()));
        ledgers.push(ledger);
    }
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
    Ok(Bench { coordinator, ledgers, predictions })
}

impl Bench {
    fn flushes(&self) -> u64 {
        self.coordinator.status().flushes + self.ledgers.iter().map(Ledger::flushes).sum::<u64>()
    }
}

/// A closed loop of `in_flight` clients; every account pair is drawn evenly.
async fn load(
    bench: &Arc<Bench>,
    in_flight: usize,
    length: Duration,
) -> anyhow::Result<(u64, Histogram<u64>)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + length;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let bench = bench.clone();
        clients.spawn(async move {
            let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
            let mut committed = 0u64;
            while Instant::now() < until {
                let n = NEXT.fetch_add(1, Ordering::Relaxed);
                let started = Instant::now();
                let answer = bench.coordinator.submit(transfer(n)?).await?;
                anyhow::ensure!(answer.outcome == Outcome::Committed, "{:?}", answer.reasons);
                let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                latency.saturating_record(us);
                committed += 1;
            }
            Ok((committed, latency))
        });
    }
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let mut committed = 0;
    while let Some(client) = clients.join_next().await {
        let (count, latency) = client??;
        committed += count;
        all.add(&latency)?;
    }
    Ok((committed, all))
}

fn transfer(n: u64) -> anyhow::Result<Submission> {
    // Two walks with large strides that share no factor with the number of accounts.
    let (from, to) = (n.wrapping_mul(7_919) % ACCOUNTS, n.wrapping_mul(104_729) % ACCOUNTS);
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
    let payment = Payment {
        kind: Kind::Upi,
        customer: Customer {
            id: CustomerId::new(&format!("c{from}"))?,
            customer_type: CustomerType::Retail,
            since: None,
        },
        counterparty: None,
        amount: Money { minor: 100, currency: Currency::INR },
        cross_border: false,
        requires_consistency: true,
        location: None,
        attempt: 1,
        system_load_ratio: None,
        participants: Vec::new(),
    };
    Ok(Submission {
        transaction: Transaction {
            id: TxnId::new(&format!("b{n}"))?,
            payment,
            protocol: ProtocolRequest::Auto,
            operations: vec![
                operation(LEDGERS[0], "debit", from)?,
                operation(LEDGERS[1], "credit", to)?,
            ],
        },
        request_hash: String::new(),
        event_time: None,
        wait: Wait::Decision,
    })
}
