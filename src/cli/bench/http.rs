//! `presume bench http`: transfers between embedded ledgers through the HTTP interface of a server
//! process of its own, beside the same transfers in this process.
//!
//! Singly, each client has a connection of its own that is kept; as lines, all share one request
//! to `POST /v1/transactions:batch`. Clients and server share the machine.

use std::collections::HashMap;
use std::fmt::Write as _;
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
use super::targets::{Kinds, open_ledger};
use super::workload::{Accounts, PARTICIPANTS, Transfer, Workload};
use crate::cli::{Progress, print, print_json};

/// Clients at most: the coordinator takes twice as many.
const CLIENTS_MAX: usize = 2_048;
/// How long a server may take to start: it opens stores and loads models.
const START_MAX: Duration = Duration::from_mins(1);
/// Longest answer to a member.
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  presume bench http --in-flight 1,64,512 --declines 1 --seconds 5 --json")]
pub struct Args {
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

/// One number of clients.
#[derive(Debug, Serialize)]
struct Figures {
    in_flight: usize,
    in_process: Run,
    /// A request each.
    single: Run,
    /// A line each.
    lines: Run,
    /// Transfers a second over those in process.
    single_ratio_to_in_process: f64,
    lines_ratio_to_in_process: f64,
}

/// Everything that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    accounts: Accounts,
    declines_percent: f64,
    predictions: String,
    outcome_log: &'static str,
    runs: Vec<Figures>,
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
    for f in &report.runs {
        for (name, run, ratio) in [
            ("in process", &f.in_process, 1.0),
            ("single", &f.single, f.single_ratio_to_in_process),
            ("lines", &f.lines, f.lines_ratio_to_in_process),
        ] {
            table.add_row([
                f.in_flight.to_string(),
                name.to_owned(),
                format!("{:.0}", run.transfers_per_second),
                format!("{ratio:.2}"),
                format!("{:.2}", run.answer_ms_p50),
                format!("{:.2}", run.answer_ms_p99),
                figure(run.cpu_ms_own),
                figure(run.cpu_ms_others),
                run.failed.to_string(),
            ]);
        }
    }
    format!("{table}\npredictions: {}; outcome log: {}\n", report.predictions, report.outcome_log)
}

async fn measure(args: &Args, data: &Path) -> anyhow::Result<Report> {
    let workload = Arc::new(Workload::new(args.accounts, args.declines, 2, 0));
    let targets = Kinds::Embedded.open(2, &data.join("in-process")).await?;
    let served = Served::start(&args.setup, &data.join("served")).await?;
    let length = Duration::from_secs(args.setup.seconds.max(1));
    let (mut runs, mut predictions) = (Vec::new(), String::new());
    for &clients in &args.in_flight {
        let _progress = Progress::spinner(format!("{clients} in flight"), args.setup.json);
        let load = Load::Closed { clients };
        let log = data.join("in-process").join("log");
        let coalescing = CoalescingOptions::default();
        let seen = ours(&args.setup, &log, &targets, &workload, load, coalescing).await?;
        std::fs::remove_dir_all(&log)?;
        predictions = seen.predictions;
        let single = single(&served.url, &workload, clients, length).await?;
        let lines = lines(&served.url, &workload, clients, length).await?;
        let over = |run: &Run| run.transfers_per_second / seen.run.transfers_per_second;
        runs.push(Figures {
            in_flight: clients,
            single_ratio_to_in_process: over(&single),
            lines_ratio_to_in_process: over(&lines),
            in_process: seen.run,
            single,
            lines,
        });
    }
    Ok(Report {
        accounts: args.accounts,
        declines_percent: args.declines,
        predictions,
        outcome_log: "on",
        runs,
    })
}

/// A server process with ledgers of its own; killed when it is dropped.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    async fn start(setup: &Setup, data: &Path) -> anyhow::Result<Self> {
        let mut text = format!(
            "[server]\nconnections_max = 4096\nrequests_max = 4096\nbatch_in_flight_max = 4096\n\
             [policy]\nmode = {}\n[models]\ndir = {}\nname = {}\n",
            json!(if setup.no_predictions { "off" } else { "observe" }),
            json!(std::path::absolute(&setup.models)?),
            json!(setup.name),
        );
        std::fs::create_dir_all(data)?;
        for name in &PARTICIPANTS[..2] {
            open_ledger(data, name).await?.close()?;
            writeln!(text, "[participants.{name}]\nkind = \"embedded\"")?;
        }
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
            tokio::time::sleep(Duration::from_millis(20)).await;
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
        let operation = leg.operation(i)?;
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
    let frames = stream::poll_fn(move |context| {
        let chunk = chunks.poll_recv(context);
        chunk.map(|chunk| chunk.map(|chunk| anyhow::Ok(Frame::data(chunk))))
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
