//! `presume txn list`, `stuck`, `retry-now` and `resolve`: what hangs, why, and what to do about it.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use presume::coordinator::{Clock as _, Statement, Stopped, SystemClock};
use presume::decision_log::DecisionLog;
use presume::server::problem::encode;
use presume::txn::{Claim, ParticipantName, TxnId};
use serde_json::{Value, json};

use super::client::{Server, client, send, url};
use super::settings::{Settings, flag};
use super::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume txn list --in-doubt
  presume txn list --older-than-s 30 --json
  presume txn list --offline

Off-line it reads the folder of a coordinator that is stopped, one that refuses to start, say.")]
pub struct ListArgs {
    /// Only those past their first phase
    #[arg(long)]
    in_doubt: bool,
    /// Only those at least so old, in seconds
    #[arg(long, value_name = "SECONDS")]
    older_than_s: Option<f64>,
    /// Most transactions that are listed
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    offline: Offline,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  presume txn stuck --older-than-s 30")]
pub struct StuckArgs {
    /// Only those at least so old, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS")]
    older_than_s: Option<f64>,
    /// Most transactions that are listed
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume txn retry-now 7f3c
  presume txn retry-now --participant south
  presume txn retry-now --all")]
pub struct RetryArgs {
    /// The transaction's id
    #[arg(required_unless_present_any = ["participant", "all"], conflicts_with = "all")]
    id: Option<String>,
    /// Everything that waits for this participant
    #[arg(long, conflicts_with_all = ["id", "all"])]
    participant: Option<String>,
    /// Everything that waits
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume txn resolve 7f3c --branch south --as done --by 'A. Clerk' --reason 'carried out by hand, ticket 12'
  presume txn resolve 7f3c --branch south --as gone --by 'A. Clerk' --reason 'server lost' --offline

The word is durable before it takes effect. It never changes a decision: the transaction ends as
heuristic, with who and why in its answer. `done` and `gone` end a branch that cannot hear a
decision; `committed` and `aborted` tell how a commit in one phase ended.")]
pub struct ResolveArgs {
    /// The transaction's id
    id: String,
    /// The participant whose branch it is
    #[arg(long, value_name = "PARTICIPANT")]
    branch: ParticipantName,
    /// `done`, `gone`, `committed` or `aborted`
    #[arg(long = "as", value_name = "CLAIM")]
    claim: Claim,
    /// Why
    #[arg(long)]
    reason: String,
    /// Who says so
    #[arg(long)]
    by: String,
    #[command(flatten)]
    offline: Offline,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
struct Offline {
    /// Read the folder of a stopped coordinator instead of asking a server
    #[arg(long = "offline")]
    asked: bool,
    /// Its data folder, off-line [default: data.dir of the configuration]
    #[arg(long, value_name = "DIR", requires = "asked")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Offline {
    fn open(&self) -> anyhow::Result<Stopped> {
        let flags = [flag("--data-dir", "data.dir", self.data_dir.as_ref().map(|d| d.display()))];
        let config = self.settings.load(flags.into_iter().flatten().collect())?.config;
        let folder = config.decision_log_dir();
        let opened = DecisionLog::open_stopped(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?;
        Ok(Stopped::new(opened))
    }
}

pub async fn list(args: &ListArgs) -> anyhow::Result<()> {
    if args.offline.asked {
        let stopped = args.offline.open()?;
        let mut found = stopped.unresolved(SystemClock.now());
        stopped.close()?;
        // What a stopped coordinator left is in doubt, all of it.
        found.retain(|one| one.age_s >= args.older_than_s.unwrap_or(0.0));
        let more = found.len().saturating_sub(args.limit);
        found.truncate(args.limit);
        let page = json!({"transactions": found, "more": more, "left_alone": [],
            "left_alone_more": 0});
        return show(&page, args.server.json);
    }
    let state = if args.in_doubt { "in_doubt" } else { "unresolved" };
    ask(&args.server, state, args.older_than_s, args.limit).await
}

pub async fn stuck(args: &StuckArgs) -> anyhow::Result<()> {
    ask(&args.server, "stuck", args.older_than_s, args.limit).await
}

async fn ask(
    server: &Server,
    state: &str,
    older_than_s: Option<f64>,
    limit: usize,
) -> anyhow::Result<()> {
    let mut path = format!("/v1/transactions?state={state}&limit={limit}");
    if let Some(seconds) = older_than_s {
        ensure!(seconds >= 0.0, "--older-than-s is {seconds}, at least 0 is needed");
        path = format!("{path}&older_than_s={seconds}");
    }
    let page = send(client()?.get(url(server, &path)), server).await?;
    show(&page, server.json)
}

pub async fn retry_now(args: &RetryArgs) -> anyhow::Result<()> {
    let (path, body) = match (&args.id, &args.participant) {
        (Some(id), _) => (format!("/v1/transactions/{}:retry-now", encode(id)), json!({})),
        (None, Some(name)) => {
            ("/v1/transactions:retry-now".to_owned(), json!({"participant": name}))
        }
        (None, None) => ("/v1/transactions:retry-now".to_owned(), json!({})),
    };
    let request = client()?.post(url(&args.server, &path)).json(&body);
    let answer = send(request, &args.server).await?;
    if args.server.json {
        return print_json(&answer);
    }
    let count = |key: &str| answer["woken"][key].as_u64().unwrap_or_default();
    let left = match count("left") {
        0 => String::new(),
        left => format!("; {left} more wait: ask again"),
    };
    let (branches, participants) = (count("branches"), count("participants"));
    print(&format!("asked again: {branches} branches, {participants} participants{left}\n"))
}

pub async fn resolve(args: &ResolveArgs) -> anyhow::Result<()> {
    let answer = if args.offline.asked {
        let statement = Statement::new(args.claim, &args.by, &args.reason)?;
        let id = TxnId::new(&args.id)?;
        let mut stopped = args.offline.open()?;
        let told = stopped.resolve(&id, &args.branch, statement, SystemClock.now()).await;
        stopped.close()?;
        json!({"id": id, "resolution": told?})
    } else {
        let path = format!("/v1/transactions/{}:resolve", encode(&args.id));
        let body = json!({"branch": args.branch, "as": args.claim, "reason": args.reason,
            "by": args.by});
        send(client()?.post(url(&args.server, &path)).json(&body), &args.server).await?
    };
    if args.server.json {
        return print_json(&answer);
    }
    let when = if args.offline.asked { "; the next start ends it" } else { "" };
    print(&format!("{}: {}{when}\n", args.id, describe_resolution(&answer["resolution"])))
}

fn show(page: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(page);
    }
    print(&describe(page))
}

/// The page in words.
pub fn describe(page: &Value) -> String {
    let mut lines = Vec::new();
    for one in each(&page["transactions"]) {
        lines.extend(describe_one(one));
    }
    for one in each(&page["left_alone"]) {
        let (name, gid) = (text(&one["participant"]), text(&one["gid"]));
        lines.push(format!("left alone at {name}: {gid}, {}", text(&one["why"])));
    }
    for (key, what) in [("more", "transactions"), ("left_alone_more", "branches left alone")] {
        let more = page[key].as_u64().unwrap_or_default();
        lines.extend((more > 0).then(|| format!("{more} more {what}: raise --limit")));
    }
    if lines.is_empty() {
        lines.push("nothing".to_owned());
    }
    lines.join("\n") + "\n"
}

/// An unresolved transaction: a line for it, and what is open of each branch below it.
pub fn describe_one(one: &Value) -> Vec<String> {
    let ids: Vec<_> = each(&one["ids"]).map(text).collect();
    let ids = if ids.is_empty() { "(no transaction)".to_owned() } else { ids.join(", ") };
    let decision = one["decision"].as_str().unwrap_or("undecided");
    let age_s = one["age_s"].as_f64().unwrap_or_default();
    let (state, origin) = (text(&one["state"]), text(&one["origin"]));
    let mut lines = vec![format!("{ids}  {state}, {decision}, {origin}, for {age_s:.1} s")];
    for branch in each(&one["branches"]) {
        let (name, state) = (text(&branch["participant"]), text(&branch["state"]));
        lines.push(format!("  {name}  {state}  {}", text(&branch["gid"])));
        // A branch that has ended needs no words.
        let Some(diagnosis) = branch["diagnosis"].as_str() else { continue };
        lines.push(format!("    {diagnosis}"));
        lines.extend(branch["look"].as_str().map(|look| format!("    {look}")));
    }
    lines
}

/// What an operator stated of a branch.
pub fn describe_resolution(resolution: &Value) -> String {
    let [name, claim, by] = ["participant", "claim", "by"].map(|key| text(&resolution[key]));
    format!("{name} is {claim} by the word of {by}")
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
