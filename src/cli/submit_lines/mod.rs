//! `presume txn submit --file F.jsonl`: a transaction a line, streamed to the server's batches.
//!
//! Ids make it safe to send a line again, so that is what is done whenever something breaks. A
//! bounded window of lines is held until each has its final answer; the file is read no further
//! meanwhile. Results come in the order of the answers.

mod input;
mod link;
mod results;
mod source;
mod summary;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use presume::protocol::Backoff;
use presume::server::lines::Line;
use presume::server::problem::{Kind, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::client::{Server, url};
use super::{Progress, print, print_json};
use link::{Connection, Event, Link, Unready};
use results::{Answered, Results};
use source::{Item, Job};
use summary::Summary;

pub use input::Input;

/// Lines that are held until they have their answers. Above what a server submits at a time, so
/// that it never waits for us.
const WINDOW_COUNT_MAX: usize = 4_096;
/// The same in bytes; one line more may come on top.
const WINDOW_BYTES_MAX: usize = 16 << 20;
/// Pauses before the server is asked again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
/// After so long without an answer the connection is taken for dead: a server says within its
/// request timeout, 30 s by default, that something takes longer.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// A connection without a line to send is given up after this; the next line makes another.
const IDLE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct LinesArgs {
    /// Takes the file as a transaction a line, whatever its name
    #[arg(long, requires = "file", help_heading = "A transaction a line")]
    pub lines: bool,
    /// Writes the results there, and skips the lines that have one there already
    #[arg(long, value_name = "FILE", requires = "file", help_heading = "A transaction a line")]
    pub out: Option<PathBuf>,
    /// Goes into the ids of lines that have none: another name, other payments
    #[arg(long, value_name = "NAME", requires = "file", help_heading = "A transaction a line")]
    pub series: Option<String>,
    /// Ends when no answer has come for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "A transaction a line",
        value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub give_up_after: u64,
}

impl LinesArgs {
    /// Whether only lines can be meant.
    pub fn wanted(&self) -> bool {
        self.lines || self.out.is_some() || self.series.is_some()
    }
}

/// Submits every line, prints or writes the results, and says what it came to.
pub async fn run(
    args: &LinesArgs,
    server: &Server,
    input: Input,
    path: &Path,
) -> anyhow::Result<()> {
    let (results, answered) = match &args.out {
        Some(out) => {
            ensure!(!is_same(out, path), "--out {} is the file that is read", out.display());
            Results::open(out)?
        }
        None => (Results::stdout(), Answered::default()),
    };
    let total = input.count()?;
    // On a terminal the results themselves show how far it is.
    let quiet = server.json || (args.out.is_none() && std::io::stdout().is_terminal());
    let progress = match total {
        Some(total) => Progress::new("submitting", total, quiet),
        None => Progress::spinner("submitting", quiet),
    };
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).no_proxy();
    let now = Instant::now();
    let mut run = Run {
        client: client.build()?,
        url: url(server, "/v1/transactions:batch"),
        give_up_after: Duration::from_secs(args.give_up_after),
        results,
        progress,
        summary: Summary { lines: total.unwrap_or(0), ..Summary::default() },
        window: BTreeMap::new(),
        window_bytes: 0,
        queue: VecDeque::new(),
        again: Vec::new(),
        again_at: now,
        read: 0,
        reading: true,
        link: Link::Away { until: now },
        failures: 0,
        answered_at: now,
        heard_at: now,
        reason: None,
    };
    let series = args.series.as_deref().unwrap_or_default();
    let mut items = source::read(input.into_reader(), series, answered);
    let driven = run.drive(&mut items).await;
    run.summary.lines = run.summary.lines.max(run.read);
    run.summary.finish(now.elapsed());
    let Run { results, progress, summary, .. } = run;
    drop(progress);
    // Answers that came before something failed are kept.
    results.finish()?;
    driven?;
    report(&summary, server.json, args.out.is_some())?;
    summary.conclude()
}

/// On standard output, unless the results are there.
fn report(summary: &Summary, json: bool, out: bool) -> anyhow::Result<()> {
    match (json, out) {
        (true, true) => print_json(summary),
        (true, false) => {
            eprintln!("{}", serde_json::to_string(summary)?);
            Ok(())
        }
        (false, true) => print(&summary.text()),
        (false, false) => {
            eprint!("{}", summary.text());
            Ok(())
        }
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

struct Run {
    client: reqwest::Client,
    url: String,
    give_up_after: Duration,
    results: Results,
    progress: Progress,
    summary: Summary,
    /// Lines without a final answer, by the number in which they were read.
    window: BTreeMap<u64, Job>,
    window_bytes: usize,
    /// Those to be sent.
    queue: VecDeque<u64>,
    /// Those to be sent again, later.
    again: Vec<u64>,
    again_at: Instant,
    /// Lines read so far.
    read: u64,
    reading: bool,
    link: Link,
    /// In a row, without a final answer.
    failures: u32,
    /// When the last final answer came, or when there was first something to wait for.
    answered_at: Instant,
    /// When the server was last heard.
    heard_at: Instant,
    /// What went wrong last.
    reason: Option<String>,
}

enum Step {
    Item(Option<Item>),
    Link(Event),
    Again,
    Silence,
    Idle,
    GiveUp,
    Interrupted,
}

/// An answer as far as it is looked at.
#[derive(Deserialize)]
struct Told<'a> {
    index: u64,
    #[serde(borrow, default)]
    outcome: Option<Cow<'a, str>>,
    #[serde(default)]
    problem: Option<Blame>,
}

#[derive(Deserialize)]
struct Blame {
    status: u16,
    #[serde(default)]
    detail: String,
}

impl Run {
    async fn drive(&mut self, items: &mut mpsc::Receiver<Item>) -> anyhow::Result<()> {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        while self.reading || !self.window.is_empty() {
            let room = self.window.len() < WINDOW_COUNT_MAX && self.window_bytes < WINDOW_BYTES_MAX;
            let (waiting, open) = (!self.window.is_empty(), matches!(self.link, Link::Open(_)));
            let give_up_at = self.answered_at + self.give_up_after;
            let silent_at = self.heard_at.max(self.answered_at) + SILENCE_MAX;
            let idle_at = self.answered_at + IDLE_MAX;
            let step = tokio::select! {
                biased;
                // Lines that are there are gathered first, so that they travel together.
                item = items.recv(), if self.reading && room => Step::Item(item),
                event = self.link.next(!self.queue.is_empty()) => Step::Link(event),
                () = sleep_until(self.again_at), if !self.again.is_empty() => Step::Again,
                () = sleep_until(give_up_at), if waiting => Step::GiveUp,
                () = sleep_until(silent_at), if waiting && open => Step::Silence,
                () = sleep_until(idle_at), if !waiting && open => Step::Idle,
                _ = &mut interrupted => Step::Interrupted,
            };
            match step {
                Step::Item(item) => self.take(item)?,
                Step::Link(event) => self.follow(event)?,
                Step::Again => self.queue.extend(self.again.drain(..)),
                Step::Silence => {
                    self.over(format!("nothing was heard for {} s", SILENCE_MAX.as_secs()).into());
                }
                Step::Idle => self.link = Link::Away { until: Instant::now() },
                Step::GiveUp => {
                    let seconds = self.give_up_after.as_secs();
                    let reason = self.reason.take();
                    let reason = reason.map_or(String::new(), |reason| format!(", last {reason}"));
                    self.summary.gave_up = Some(format!("none came for {seconds} s{reason}"));
                    return Ok(());
                }
                Step::Interrupted => {
                    self.summary.gave_up = Some("it was interrupted".to_owned());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, item: Option<Item>) -> anyhow::Result<()> {
        let Some(item) = item else {
            self.reading = false;
            return Ok(());
        };
        self.read += 1;
        match item {
            Item::Job(job) => {
                if self.window.is_empty() {
                    self.answered_at = Instant::now();
                }
                self.window_bytes += job.text.len();
                self.window.insert(self.read, job);
                self.queue.push_back(self.read);
            }
            Item::Answered { outcome } => {
                self.summary.answered_before += 1;
                self.summary.count(outcome);
                self.show();
            }
            Item::TooLong { line, id, bytes } => {
                let limit = source::LINE_BYTES_MAX;
                let detail = format!("it has {bytes} bytes, at most {limit} are sent");
                let at = usize::try_from(line).unwrap_or(usize::MAX);
                let position = Some((at, limit + 1));
                let problem = Problem { position, ..Problem::new(Kind::TooLarge, detail) };
                let document = serde_json::from_str(&problem.body())?;
                self.refuse(line, &id, document)?;
                self.results.flush()?;
            }
            Item::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn follow(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Due => {
                let connecting = Connection::open(&self.client, self.url.clone());
                self.link = Link::Connecting(connecting);
            }
            Event::Connected(Ok(Ok(connection))) => {
                self.heard_at = Instant::now();
                self.link = Link::Open(connection);
            }
            Event::Connected(Ok(Err(unready))) => self.over(unready),
            Event::Connected(Err(error)) => return Err(error),
            Event::Room => {
                let Link::Open(connection) = &mut self.link else { return Ok(()) };
                let jobs = self.queue.iter().map(|number| (*number, &self.window[number].text));
                let sent = connection.send(jobs);
                self.queue.drain(..sent);
            }
            Event::Answers(Ok(lines)) => {
                self.heard_at = Instant::now();
                for line in &lines {
                    self.hear(line)?;
                }
                self.results.flush()?;
                self.show();
            }
            Event::Answers(Err(error)) => self.over(format!("{error:#}").into()),
        }
        Ok(())
    }

    /// The connection is gone, or was never made: what it carried is sent again.
    fn over(&mut self, Unready { reason, retry_after }: Unready) {
        self.summary.interruptions += 1;
        self.failures += 1;
        self.reason = Some(reason);
        let wait = BACKOFF.wait(self.failures, u64::from(std::process::id()));
        let until = Instant::now() + wait.max(retry_after);
        if let Link::Open(connection) = std::mem::replace(&mut self.link, Link::Away { until }) {
            for number in connection.unanswered().into_iter().rev() {
                self.queue.push_front(number);
            }
        }
    }

    fn hear(&mut self, line: &Line) -> anyhow::Result<()> {
        let text = link::text(line)?;
        let told: Told = serde_json::from_str(text)
            .with_context(|| format!("{} gives no answers of presume", self.url))?;
        let Link::Open(connection) = &mut self.link else { return Ok(()) };
        let Some(number) = connection.answered(told.index) else {
            // Why it reads no further.
            self.reason = told.problem.map(|blame| blame.detail);
            return Ok(());
        };
        match told {
            Told { index, outcome: Some(outcome), .. } if outcome != "in_doubt" => {
                let Some(rest) = text.strip_prefix(&format!("{{\"index\":{index}")) else {
                    bail!("{} gives an answer that does not begin with its index", self.url);
                };
                let job = self.end(number);
                self.results.write(&format!("{{\"line\":{}{rest}", job.line))?;
                self.summary.count(&outcome);
            }
            Told { problem: Some(blame), .. } if is_final(blame.status) => {
                let mut told: Value = serde_json::from_str(text)?;
                let job = self.end(number);
                self.refuse(job.line, &job.id, told["problem"].take())?;
            }
            Told { problem, .. } => {
                self.reason = Some(match problem {
                    Some(blame) => blame.detail,
                    None => format!("transaction {} takes longer", self.window[&number].id),
                });
                if self.again.is_empty() {
                    self.failures += 1;
                    let wait = BACKOFF.wait(self.failures, number);
                    self.again_at = Instant::now() + wait;
                }
                self.again.push(number);
            }
        }
        Ok(())
    }

    /// Takes a line out of the window: it has its final answer.
    fn end(&mut self, number: u64) -> Job {
        let job = self.window.remove(&number).expect("it stays there until it is answered");
        self.window_bytes -= job.text.len();
        self.failures = 0;
        self.answered_at = Instant::now();
        job
    }

    /// Writes what is wrong with a line, with the place in our file.
    fn refuse(&mut self, line: u64, id: &str, mut problem: Value) -> anyhow::Result<()> {
        if problem.get("line").is_some() {
            problem["line"] = json!(line);
        }
        self.summary.refuse(line, id, &problem);
        let (id, status) = (json!(id), &problem["status"]);
        let text =
            format!("{{\"line\":{line},\"id\":{id},\"status\":{status},\"problem\":{problem}}}");
        self.results.write(&text)
    }

    fn show(&self) {
        if self.progress.is_shown() {
            self.progress.set(self.summary.answered());
            self.progress.message(self.summary.short());
        }
    }
}

/// Whether a problem stays as it is: nothing was done, and the line itself is to blame.
fn is_final(status: u16) -> bool {
    (400..500).contains(&status) && ![408, 409, 429].contains(&status)
}
