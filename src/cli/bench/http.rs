//! `presume bench http`: transfers through the HTTP interface of a server process of its own, beside
//! the same transfers in this process.
//!
//! Singly, each client has a connection of its own that is kept; as lines, all share one request
//! to `POST /v1/transactions:batch`. Clients and server share the machine.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use comfy_table::Table;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use presume::policy::coalescing::CoalescingOptions;
use presume::server::lines::{Content, Lines};
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::commit::{Setup, in_scratch};
use super::load::{self, Ended, Load, Run};
use super::ours::ours;
use super::report::median;
use super::targets::{Kinds, Target, open_ledger};
use super::workload::{Accounts, PARTICIPANTS, Transfer, Workload};
use crate::cli::{Progress, print, print_json};

/// Clients at most: the coordinator takes twice as many.
const CLIENTS_MAX: usize = 2_048;
/// How long a server may take to start, which opens stores and loads models, and to stop, which ends
/// what it has begun.
const START_MAX: Duration = Duration::from_mins(1);
const STOP_MAX: Duration = Duration::from_mins(1);
/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Lines that are sent at once.
const LINES_MAX: usize = 256;
/// Longest answer to a member.
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  presume bench http --in-flight 1,64,512 --declines 1 --seconds 5 --json
  scripts/with-servers presume bench http --participants mixed --in-flight 512 --rounds 5")]
pub struct Args {
    /// Between what
    #[arg(long, value_enum, default_value_t = Kinds::Embedded)]
    participants: Kinds,
    /// Runs of everything, one after the other; figures are medians over them
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Clients, each with one transfer at a time; one run each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    in_flight: Vec<usize>,
    /// How accounts are drawn
    #[arg(long, value_enum, default_value_t = Accounts::Uniform)]
    accounts: Accounts,
    /// Of a hundred transfers, so many are declined
    #[arg(long, default_value_t = 0.0)]
    declines: f64,
    #[command(flatten)]
    setup: Setup,
}

/// One number of clients in one round.
#[derive(Debug, Serialize)]
struct Figures {
    in_flight: usize,
    round: usize,
    in_process: Run,
    /// A request each.
    single: Run,
    /// A line each.
    lines: Run,
    /// Transfers a second over those in process.
    single_ratio_to_in_process: f64,
    lines_ratio_to_in_process: f64,
}

/// Medians over the rounds of one number of clients.
#[derive(Debug, Serialize)]
struct Medians {
    in_flight: usize,
    rounds: usize,
    in_process: Of,
    single: Of,
    lines: Of,
}

/// Medians of one way.
#[derive(Debug, Serialize)]
struct Of {
    transfers_per_second: f64,
    ratio_to_in_process: f64,
    answer_ms_p50: f64,
    answer_ms_p99: f64,
    /// Processor time a transfer, of clients and, unless in process, of servers.
    cpu_ms_own: Option<f64>,
    cpu_ms_others: Option<f64>,
    /// In all rounds.
    failed: u64,
}

/// Everything that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    participants: Kinds,
    accounts: Accounts,
    declines_percent: f64,
    predictions: String,
    outcome_log: &'static str,
    medians: Vec<Medians>,
    rounds: Vec<Figures>,
}

impl Of {
    fn new(of: &[&Figures], run: impl Fn(&Figures) -> &Run) -> Self {
        let of_all = |value: &dyn Fn(&Figures) -> f64| median(of.iter().map(|f| value(f)));
        let cpu = |value: &dyn Fn(&Run) -> Option<f64>| {
            let all: Option<Vec<f64>> = of.iter().map(|f| value(run(f))).collect();
            all.map(|all| median(all.into_iter()))
        };
        let rate = |f: &Figures| run(f).transfers_per_second;
        Self {
            transfers_per_second: of_all(&rate),
            ratio_to_in_process: of_all(&|f| rate(f) / f.in_process.transfers_per_second),
            answer_ms_p50: of_all(&|f| run(f).answer_ms_p50),
            answer_ms_p99: of_all(&|f| run(f).answer_ms_p99),
            cpu_ms_own: cpu(&|run| run.cpu_ms_own),
            cpu_ms_others: cpu(&|run| run.cpu_ms_others),
            failed: of.iter().map(|f| run(f).failed).sum(),
        }
    }
}

impl Medians {
    fn new(in_flight: usize, rounds: &[Figures]) -> Self {
        let of: Vec<_> = rounds.iter().filter(|f| f.in_flight == in_flight).collect();
        Self {
            in_flight,
            rounds: of.len(),
            in_process: Of::new(&of, |f| &f.in_process),
            single: Of::new(&of, |f| &f.single),
            lines: Of::new(&of, |f| &f.lines),
        }
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.in_flight.iter().all(|n| (1..=CLIENTS_MAX).contains(n)),
        "--in-flight must be between 1 and {CLIENTS_MAX}"
    );
    anyhow::ensure!(
        (0.0..=50.0).contains(&args.declines),
        "--declines is {}, not between 0 and 50 percent",
        args.declines
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = in_scratch(&args.setup.dir, async |data: &Path| measure(args, data).await);
    let report = runtime.block_on(measured)?;
    if args.setup.json { print_json(&report) } else { print(&describe(&report)) }
}

fn describe(report: &Report) -> String {
    let mut table = Table::new();
    table.set_header([
        "in flight",
        "",
        "transfers/s",
        "to in process",
        "p50 ms",
        "p99 ms",
        "CPU ms client",
        "CPU ms others",
        "failed",
    ]);
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    for m in &report.medians {
        let ways = [("in process", &m.in_process), ("single", &m.single), ("lines", &m.lines)];
        for (name, of) in ways {
            table.add_row([
                m.in_flight.to_string(),
                name.to_owned(),
                format!("{:.0}", of.transfers_per_second),
                format!("{:.2}", of.ratio_to_in_process),
                format!("{:.2}", of.answer_ms_p50),
                format!("{:.2}", of.answer_ms_p99),
                figure(of.cpu_ms_own),
                figure(of.cpu_ms_others),
                of.failed.to_string(),
            ]);
        }
    }
    format!(
        "{table}\nmedians of {} rounds; predictions: {}; outcome log: {}\n",
        report.medians.first().map_or(0, |m| m.rounds),
        report.predictions,
        report.outcome_log
    )
}

async fn measure(args: &Args, data: &Path) -> anyhow::Result<Report> {
    let workload = Arc::new(Workload::new(args.accounts, args.declines, 2, 0));
    let targets = args.participants.open(2, &data.join("in-process")).await?;
    let length = Duration::from_secs(args.setup.seconds.max(1));
    let (mut rounds, mut predictions) = (Vec::new(), String::new());
    for round in 0..args.rounds.max(1) {
        let mut in_process = Vec::new();
        for &clients in &args.in_flight {
            let said = format!("{clients} in flight, in process");
            let _progress = Progress::spinner(said, args.setup.json);
            let (load, rule) = (Load::Closed { clients }, CoalescingOptions::default());
            let log = data.join("in-process");
            let seen = ours(&args.setup, &log, &targets, &workload, load, rule).await?;
            predictions = seen.predictions;
            in_process.push(seen.run);
        }
        // After these, whose flushes are counted once nobody else has a session.
        let folder = data.join("served");
        let served = Served::start(&args.setup, &targets, &folder).await?;
        for (&clients, in_process) in args.in_flight.iter().zip(in_process) {
            let said = format!("{clients} in flight, through HTTP");
            let _progress = Progress::spinner(said, args.setup.json);
            let single = single(&served.url, &workload, clients, length).await?;
            let lines = lines(&served.url, &workload, clients, length).await?;
            let over = |run: &Run| run.transfers_per_second / in_process.transfers_per_second;
            rounds.push(Figures {
                in_flight: clients,
                round,
                single_ratio_to_in_process: over(&single),
                lines_ratio_to_in_process: over(&lines),
                in_process,
                single,
                lines,
            });
        }
        served.stop().await?;
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(Report {
        participants: args.participants,
        accounts: args.accounts,
        declines_percent: args.declines,
        predictions,
        outcome_log: "on",
        medians: args.in_flight.iter().map(|n| Medians::new(*n, &rounds)).collect(),
        rounds,
    })
}

/// A server process, with ledgers of its own; killed when it is dropped.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    async fn start(setup: &Setup, targets: &[Target], data: &Path) -> anyhow::Result<Self> {
        let mut text = format!(
            "[server]\nconnections_max = 4096\nrequests_max = 4096\nbatch_in_flight_max = 4096\n\
             [policy]\nmode = {}\n[models]\ndir = {}\nname = {}\n",
            json!(if setup.no_predictions { "off" } else { "observe" }),
            json!(std::path::absolute(&setup.models)?),
            json!(setup.name),
        );
        std::fs::create_dir_all(data)?;
        let mut sections = toml::Table::new();
        for (name, target) in PARTICIPANTS.into_iter().zip(targets) {
            if matches!(target, Target::Embedded(_)) {
                open_ledger(data, name).await?.close()?;
            }
            sections.insert(name.to_owned(), target.section()?.into());
        }
        let sections = toml::Table::from_iter([("participants".to_owned(), sections.into())]);
        text += &toml::to_string(&sections)?;
        std::fs::write(data.join("presume.toml"), text)?;
        let (port_file, said) = (data.join("port"), data.join("said"));
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--address", "127.0.0.1:0", "--config"])
            .arg(data.join("presume.toml"))
            .arg("--data-dir")
            .arg(data)
            .arg("--port-file")
            .arg(&port_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&said)?)
            .spawn()
            .context("cannot start a server")?;
        let mut served = Self { child, url: String::new() };
        let until = Instant::now() + START_MAX;
        loop {
            if let Ok(port) = std::fs::read_to_string(&port_file) {
                served.url = format!("http://127.0.0.1:{}/v1/transactions", port.trim());
                return Ok(served);
            }
            let ended = served.child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let said = std::fs::read_to_string(&said).unwrap_or_default();
                anyhow::bail!("the server does not start: {said}");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Nothing of it stays prepared anywhere.
    async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        let told =
            Command::new("kill").args(["-TERM", &pid]).status().context("cannot run kill")?;
        anyhow::ensure!(told.success(), "cannot stop the server");
        let until = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "the server ends with {status}");
                return Ok(());
            }
            let waited = STOP_MAX.as_secs();
            anyhow::ensure!(Instant::now() < until, "the server does not end within {waited} s");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same as a request.
fn body(n: u64, transfer: &Transfer) -> anyhow::Result<Value> {
    let operation = |(i, leg): (usize, &super::workload::Leg)| -> anyhow::Result<Value> {
        let operation = leg.operation(i);
        Ok(json!({
            "participant": operation.participant, "operation": operation.operation,
            "params": operation.params,
        }))
    };
    let operations = transfer.legs.iter().enumerate().map(operation);
    let debit = &transfer.legs[0];
    Ok(json!({
        "id": format!("h{n}"),
        "kind": "UPI",
        "customer": {"id": format!("c{}", debit.account), "type": "RETAIL"},
        "amount": {"minor": debit.amount_minor, "currency": "INR"},
        "operations": operations.collect::<anyhow::Result<Vec<_>>>()?,
    }))
}

/// What became of a transfer: the answer is the server's, or a member's.
fn ended(transfer: &Transfer, status: u64, answer: &Value) -> anyhow::Result<(Ended, f64)> {
    let voted_ms = answer["timings_ms"]["prepare"].as_f64().unwrap_or(0.0);
    let business = answer["reasons"]
        .as_array()
        .is_some_and(|reasons| reasons.iter().any(|reason| reason["code"] == "business_decline"));
    let ended = match answer["outcome"].as_str() {
        Some("committed") if !transfer.declined => Ended::Committed,
        Some("aborted") if transfer.declined && business => Ended::Declined,
        Some("aborted") if !business => Ended::Failed,
        // Overloaded, or still running when the server had waited long enough.
        _ if status == 202 || status == 429 || status == 503 => Ended::Failed,
        _ => anyhow::bail!("the server answers {status}: {answer}"),
    };
    Ok((ended, voted_ms))
}

async fn single(
    url: &str,
    workload: &Arc<Workload>,
    clients: usize,
    length: Duration,
) -> anyhow::Result<Run> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(clients).build()?;
    let (url, workload) = (url.to_owned(), workload.clone());
    let work = move |_, n| {
        let (client, url, transfer) = (client.clone(), url.clone(), workload.transfer(n));
        async move {
            let text = serde_json::to_vec(&body(n, &transfer)?)?;
            let request = client.post(url).header(CONTENT_TYPE, "application/json").body(text);
            let response = request.send().await?;
            let status = u64::from(response.status().as_u16());
            ended(&transfer, status, &serde_json::from_slice(&response.bytes().await?)?)
        }
    };
    load::run(Load::Closed { clients }, length, work).await
}

/// Who waits for the answer to which id.
type Waiting = Arc<Mutex<Option<HashMap<String, oneshot::Sender<Value>>>>>;

async fn lines(
    url: &str,
    workload: &Arc<Workload>,
    clients: usize,
    length: Duration,
) -> anyhow::Result<Run> {
    let (sender, mut chunks) = mpsc::channel::<Bytes>(clients);
    // Lines that are there travel together, as from a buffered writer.
    let frames = stream::poll_fn(move |context| {
        let mut lines = Vec::new();
        let count = std::task::ready!(chunks.poll_recv_many(context, &mut lines, LINES_MAX));
        std::task::Poll::Ready(
            (count > 0).then(|| anyhow::Ok(Frame::data(Bytes::from(lines.concat())))),
        )
    });
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.post(format!("{url}:batch")).header(CONTENT_TYPE, "application/x-ndjson");
    let response = request.body(reqwest::Body::wrap(StreamBody::new(frames))).send().await?;
    let status = response.status();
    anyhow::ensure!(status.is_success(), "the server answers {status} to lines");
    let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
    let reader = tokio::spawn(read(response, waiting.clone()));
    let workload = workload.clone();
    let work = move |_, n| {
        let (sender, waiting, transfer) = (sender.clone(), waiting.clone(), workload.transfer(n));
        async move {
            let mut line = serde_json::to_vec(&body(n, &transfer)?)?;
            line.push(b'\n');
            let (tell, told) = oneshot::channel();
            let over = "the server has ended its answer";
            expect(&waiting, n, tell).context(over)?;
            sender.send(line.into()).await.map_err(|_| anyhow::anyhow!(over))?;
            let answer = told.await.context(over)?;
            // A member that was answered as it should be is its answer, without a status.
            let status = answer["status"].as_u64().unwrap_or(200);
            ended(&transfer, status, &answer)
        }
    };
    let run = load::run(Load::Closed { clients }, length, work).await;
    match (run, reader.await?) {
        (Ok(run), Ok(())) => Ok(run),
        (_, Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

/// `None` once the server has ended its answer.
fn expect(waiting: &Waiting, n: u64, tell: oneshot::Sender<Value>) -> Option<()> {
    let mut all = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    all.as_mut()?.insert(format!("h{n}"), tell);
    Some(())
}

/// Gives every answer to who waits for it, until the server ends the response. After that nobody
/// waits in vain.
async fn read(mut response: reqwest::Response, waiting: Waiting) -> anyhow::Result<()> {
    let all = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let result = async {
        let mut lines = Lines::new(ANSWER_BYTES_MAX);
        while let Some(chunk) = response.chunk().await? {
            lines.push(chunk);
            while let Some(line) = lines.next_ended() {
                let Content::Whole(text) = &line.content else {
                    anyhow::bail!("an answer has more than {ANSWER_BYTES_MAX} bytes");
                };
                let answer: Value = serde_json::from_slice(text)?;
                let id = answer["id"].as_str().with_context(|| format!("no id: {answer}"))?;
                let waits = all().as_mut().and_then(|all| all.remove(id));
                let waits = waits.with_context(|| format!("nobody waits for {answer}"))?;
                // Who went away does not wait any more.
                let _ = waits.send(answer);
            }
        }
        Ok(())
    };
    let result = result.await;
    all().take();
    result
}
