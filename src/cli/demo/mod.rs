//! `presume demo`: a coordinator with trained models under a simulated load, in one process.
//!
//! Real all the way: a world is generated, its past warms the features up, its present is
//! submitted over HTTP to a server on real ledgers, and what was predicted is held against what
//! happened. Simulated are only the payments and how long each participant takes.

mod requests;
mod slowed;
mod summary;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use presume::configuration::{Config, Participant};
use presume::coordinator::Answer;
use presume::features::{self, Replay, State};
use presume::participants::ledger::{NewAccount, Overdraft};
use presume::server::Server;
use presume::simulation::{Generated, Generator, Options, World};
use presume::txn::Mode;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::node::{Fittings, Node};
use super::{Progress, print, print_json};
use slowed::Slowed;
use summary::Summary;

/// Rows a day and customer: the density that the shipped models were trained at, 200,000 rows of
/// 5,000 customers in 90 days.
const ROWS_PER_CUSTOMER_DAY: f64 = 200_000.0 / 5_000.0 / 90.0;
/// Rows to go on with where no number is given: hours of load.
const ROWS_UNBOUNDED: u64 = 2_000_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  presume demo
  presume demo --transactions 5000 --exit
  presume demo --mode observe --address 127.0.0.1:7412")]
pub struct Args {
    /// Payments to submit [default: until Ctrl-C]
    #[arg(long)]
    transactions: Option<u64>,
    /// End with a summary after the last payment, instead of serving on
    #[arg(long, requires = "transactions")]
    exit: bool,
    /// Payments in flight
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Payments a second at most
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Customers of the simulated world
    #[arg(long, default_value_t = 2_000)]
    customers: u32,
    /// Past payments that warm the features up
    #[arg(long, default_value_t = 40_000)]
    warm_up: u64,
    /// Seed of the simulated world
    #[arg(long, default_value_t = 2_026)]
    seed: u64,
    /// World file [default: the shipped world]
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// off, observe or enforce
    #[arg(long, default_value_t = Mode::Enforce)]
    mode: Mode,
    /// Model registry
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Where to listen; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:7411", value_name = "IP:PORT")]
    address: SocketAddr,
    /// Folder for the data, new or empty, kept afterwards [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!((1..=2_048).contains(&args.in_flight), "--in-flight must be between 1 and 2048");
    ensure!(args.rate >= 1, "--rate must be at least 1");
    let (data, kept) = match &args.data_dir {
        Some(dir) => (dir.clone(), true),
        None => {
            let name = format!("presume-demo-{}", std::process::id());
            (std::env::temp_dir().join(name), false)
        }
    };
    ensure_empty(&data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shown = runtime.block_on(demo(args, &data));
    runtime.shutdown_background();
    if !kept {
        // A temporary folder that stays behind is untidy, not wrong.
        let _ = std::fs::remove_dir_all(&data);
    }
    shown
}

fn ensure_empty(data: &Path) -> anyhow::Result<()> {
    match std::fs::read_dir(data) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{} is not empty", data.display());
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", data.display())),
    }
}

async fn demo(args: &Args, data: &Path) -> anyhow::Result<()> {
    let world = match &args.world {
        Some(path) => World::read(path)?,
        None => World::shipped(),
    };
    let live = args.transactions.unwrap_or(ROWS_UNBOUNDED);
    let rows = args.warm_up + live;
    let days = rows as f64 / f64::from(args.customers) / ROWS_PER_CUSTOMER_DAY;
    let options = Options {
        seed: args.seed,
        rows,
        days: (days.ceil() as u32).clamp(1, presume::simulation::DAYS_MAX),
        customers: args.customers,
        ..Options::default()
    };
    let mut generator = Generator::new(world, options)?;
    let config = configuration(args, data, &generator);
    let features = warm_up(args, &config, &mut generator)?;
    let fittings = Fittings { features: Some(features), wrap: |ledger| Arc::new(Slowed(ledger)) };
    let node = Node::open_with(&config, fittings).await?;
    open_accounts(&node, &generator).await?;
    let server = Server::bind(node.service(), config.server_options()).await?;
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async {
        // A dropped sender is a stop as well.
        let _ = stopped.await;
    }));
    if !args.json {
        print(&format!(
            "presume serves http://{address} with model {}, mode {}\n\
             try: curl -s http://{address}/metrics | grep presume_\n",
            node.coordinator.serving().version(),
            args.mode,
        ))?;
    }
    let summary = Arc::new(Mutex::new(Summary::new()?));
    let started = Instant::now();
    tokio::select! {
        loaded = load(args, address, generator, live, &summary) => loaded?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    let elapsed = started.elapsed();
    report(args, &node, &summary, elapsed)?;
    if !args.exit && args.transactions.is_some() {
        print(&format!("serving http://{address} until Ctrl-C\n"))?;
        tokio::signal::ctrl_c().await?;
    }
    // The server may have ended by itself; then there is nobody left to tell.
    let _ = stop.send(());
    serving.await?;
    finish(args, node, &summary).await
}

fn configuration(args: &Args, data: &Path, generator: &Generator) -> Config {
    let mut config = Config::default();
    config.server.address = args.address;
    config.server.client_time = true;
    data.clone_into(&mut config.data.dir);
    config.policy.mode = args.mode;
    config.models.dir.clone_from(&args.models);
    let participant = Participant::embedded();
    config.participants = generator
        .participants()
        .iter()
        .map(|name| (name.to_string(), participant.clone()))
        .collect::<BTreeMap<_, _>>();
    config
}

fn warm_up(args: &Args, config: &Config, generator: &mut Generator) -> anyhow::Result<State> {
    let state = State::new(features::Options { ..config.features.clone() })?;
    let progress = Progress::new("warming features up", args.warm_up, args.json);
    let mut replay = Replay::new(state);
    for generated in generator.by_ref().take(usize::try_from(args.warm_up)?) {
        replay.step(generated.row)?;
        progress.advance(1);
    }
    Ok(replay.into_state())
}

async fn open_accounts(node: &Node, generator: &Generator) -> anyhow::Result<()> {
    let (customers, payees) = requests::accounts(generator);
    let account =
        |id: String, opening_minor, overdraft| NewAccount { id, opening_minor, overdraft };
    let mut accounts = Vec::new();
    for customer in &customers {
        let full = requests::account(customer);
        accounts.push(account(full, requests::OPENING_MINOR, Overdraft::Refused));
        let empty = requests::empty_account(customer);
        accounts.push(account(empty, 0, Overdraft::Refused));
    }
    let unnamed = "payee/unnamed".to_owned();
    for payee in payees.into_iter().chain([unnamed]) {
        accounts.push(account(payee, 0, Overdraft::Refused));
    }
    for book in requests::BOOKS {
        accounts.push(account(book.to_owned(), 0, Overdraft::Allowed));
    }
    for ledger in node.ledgers.values() {
        ledger.open_accounts(&accounts).await?;
    }
    Ok(())
}

type Job = Generated;

/// Submits `live` payments in order, at most `in_flight` at a time, as clients would.
async fn load(
    args: &Args,
    address: SocketAddr,
    generator: Generator,
    live: u64,
    summary: &Arc<Mutex<Summary>>,
) -> anyhow::Result<()> {
    let progress = match args.transactions {
        Some(total) => Progress::new("submitting payments", total, args.json),
        None => Progress::spinner("submitting payments", args.json),
    };
    let (jobs, queue) = mpsc::channel::<Job>(args.in_flight);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let client = reqwest::Client::builder().timeout(Duration::from_mins(2)).build()?;
    let url = format!("http://{address}/v1/transactions");
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..args.in_flight {
        let (queue, client, url) = (queue.clone(), client.clone(), url.clone());
        let summary = summary.clone();
        clients.spawn(async move {
            loop {
                let Some(job) = queue.lock().await.recv().await else { return };
                let started = Instant::now();
                let answered = submit(&client, &url, &job).await;
                let mut summary = summary.lock().expect("no panic while held");
                match answered {
                    Ok(answer) => summary.record(&job, &answer, started.elapsed()),
                    Err(error) => summary.error(format!("{error:#}")),
                }
            }
        });
    }
    let started = Instant::now();
    let interval = Duration::from_secs(1) / args.rate;
    let (mut sent, mut told) = (0u32, started);
    for generated in generator.take(usize::try_from(live)?) {
        tokio::time::sleep_until(started + interval * sent).await;
        if jobs.send(generated).await.is_err() {
            bail!("every client has stopped");
        }
        sent += 1;
        progress.set(u64::from(sent));
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            let line = summary.lock().expect("no panic while held").line(started.elapsed());
            if progress.is_shown() {
                progress.message(line);
            } else if !args.json {
                progress.line(&line);
            }
        }
    }
    drop(jobs);
    while let Some(client) = clients.join_next().await {
        client?;
    }
    Ok(())
}

async fn submit(client: &reqwest::Client, url: &str, job: &Job) -> anyhow::Result<Answer> {
    let response = client.post(url).json(&requests::request(job)).send().await?;
    let status = response.status();
    let body = response.text().await?;
    ensure!(status.is_success(), "{status}: {body}");
    serde_json::from_str(&body).with_context(|| format!("unreadable answer: {body}"))
}

fn report(
    args: &Args,
    node: &Node,
    summary: &Arc<Mutex<Summary>>,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let text = {
        let summary = summary.lock().expect("no panic while held");
        if args.json {
            let figures = serde_json::to_value(summary.figures(elapsed))?;
            let fallbacks = node.coordinator.serving().fallbacks().total();
            let model = node.coordinator.serving().version();
            return print_json(&json!({
                "model": model, "model_fallbacks": fallbacks, "summary": figures,
            }));
        }
        summary.table(elapsed)
    };
    print(&text)
}

/// Stops, and says whether the books balance.
async fn finish(args: &Args, node: Node, summary: &Arc<Mutex<Summary>>) -> anyhow::Result<()> {
    let left = node.coordinator.shutdown(Duration::from_secs(10)).await;
    let mut problems = 0;
    for (name, ledger) in &node.ledgers {
        let report = ledger.verify().await?;
        if !args.json || !report.is_sound() {
            eprintln!(
                "ledger {name}: {} accounts, sum {}, {} pending, {}",
                report.accounts,
                report.sum_minor,
                report.pending,
                if report.is_sound() { "sound" } else { "NOT SOUND" }
            );
        }
        for problem in &report.problems {
            eprintln!("  {problem}");
        }
        problems += report.problems_count;
    }
    node.close().await?;
    ensure!(problems == 0, "{problems} problems in the ledgers");
    ensure!(left == 0, "{left} transactions were left to recovery");
    let summary = summary.lock().expect("no panic while held");
    let count = summary.errors();
    let last = summary.last_error();
    ensure!(count == 0, "{count} payments got no answer, the last because: {last}");
    Ok(())
}
