//! `presume participants`: look at them, check what they lack, make our tables there.
//!
//! `list`, `drain` and `resume` ask a running server; `check` and `init` go to the database or
//! service itself, by the configuration, so that they help before anything runs. `conform` and
//! `openapi` are for those who write services.

use anyhow::{Context, ensure};
use clap::Subcommand;
use comfy_table::{ContentArrangement, Table};
use presume::participants::{Finding, Remote, http};
use presume::txn::ParticipantName;
use serde_json::{Value, json};

use super::client::{Server, client, send, url};
use super::node::open_remotes;
use super::settings::Settings;
use super::{conform, print, print_json};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the participants of a running server, and what stands prepared there
    List(ListArgs),
    /// Say exactly what a database or service lacks, and what mends it; exit code 1 if anything does
    Check(CheckArgs),
    /// Make the tables that a database needs; may be repeated
    Init(InitArgs),
    /// Keep new transactions from a participant; those under way go on
    Drain(VerbArgs),
    /// Let new transactions come again
    Resume(VerbArgs),
    /// Check whether a service over HTTP keeps the protocol; exit code 1 if it does not
    Conform(conform::Args),
    /// Print the protocol of services over HTTP as an OpenAPI 3.1 document
    Openapi(OpenapiArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume participants openapi > participant.json")]
pub struct OpenapiArgs {}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume participants list --json")]
pub struct ListArgs {
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume participants check bank-a --config presume.toml")]
pub struct CheckArgs {
    /// Which participant [default: every database and service]
    name: Option<String>,
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  presume participants init bank-a\n  \
                        presume participants init bank-a --print | psql bank_a")]
pub struct InitArgs {
    /// Which participant
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Print the statements instead of running them
    #[arg(long)]
    print: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume participants drain bank-a")]
pub struct VerbArgs {
    /// Which participant
    name: String,
    #[command(flatten)]
    server: Server,
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::List(args) => list(&args.server).await,
            Command::Check(args) => check(args).await,
            Command::Init(args) => init(args).await,
            Command::Drain(args) => tell(args, "drain").await,
            Command::Resume(args) => tell(args, "resume").await,
            Command::Conform(args) => conform::run(args).await,
            Command::Openapi(OpenapiArgs {}) => print(http::OPENAPI),
        }
    })
}

async fn list(server: &Server) -> anyhow::Result<()> {
    let answer = send(client()?.get(url(server, "/v1/participants")), server).await?;
    if server.json {
        return print_json(&answer);
    }
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["name", "kind", "state", "in flight", "health", "prepared", "foreign"]);
    for participant in answer["participants"].as_array().into_iter().flatten() {
        let text = |key: &str| participant[key].as_str().unwrap_or_default().to_owned();
        let state = match (&participant["away"], participant["drained"].as_bool()) {
            (Value::String(away), _) => format!("away: {away}"),
            (_, Some(true)) => "drained".to_owned(),
            _ => "ready".to_owned(),
        };
        table.add_row([
            text("name"),
            text("kind"),
            state,
            participant["in_flight"].to_string(),
            format!("{:.2}", participant["health"].as_f64().unwrap_or_default()),
            participant["prepared"].as_object().map_or(0, serde_json::Map::len).to_string(),
            participant["foreign"].as_array().map_or(0, Vec::len).to_string(),
        ]);
    }
    print(&format!("{table}\n"))
}

async fn tell(args: &VerbArgs, verb: &str) -> anyhow::Result<()> {
    let path = format!("/v1/participants/{}:{verb}", args.name);
    let request = client()?.post(url(&args.server, &path)).json(&json!({}));
    let answer = send(request, &args.server).await?;
    if args.server.json {
        return print_json(&answer);
    }
    let state = if answer["drained"] == true { "drained" } else { "taking transactions" };
    print(&format!("{} is {state}\n", args.name))
}

async fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let config = args.settings.load(Vec::new())?.config;
    let remotes = open_remotes(&config)?;
    let asked: Vec<(ParticipantName, Remote)> = match &args.name {
        Some(name) => vec![(ParticipantName::new(name)?, find(remotes, name)?)],
        None => remotes.into_iter().collect(),
    };
    ensure!(!asked.is_empty(), "the configuration names no database and no service");
    let mut faults = 0;
    let mut reports = serde_json::Map::new();
    for (name, remote) in asked {
        let findings = remote.check().await;
        let findings = findings.map_err(|why| anyhow::anyhow!("{why}"));
        let findings = findings.with_context(|| format!("{name} cannot be reached"))?;
        faults += findings.iter().filter(|finding| !finding.ok).count();
        if args.json {
            reports.insert(name.to_string(), json!(findings));
        } else {
            print(&describe(&name, &findings))?;
        }
    }
    if args.json {
        print_json(&reports)?;
    }
    ensure!(faults == 0, "{faults} things to be mended");
    Ok(())
}

fn describe(name: &ParticipantName, findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mark = if finding.ok { "ok   " } else { "WRONG" };
        format!("  {mark} {finding}\n")
    };
    let lines: Vec<String> = findings.iter().map(line).collect();
    format!("{name}\n{}", lines.concat())
}

async fn init(args: &InitArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let config = args.settings.load(Vec::new())?.config;
    let remote = find(open_remotes(&config)?, name)?;
    let refused = |why: String| anyhow::anyhow!("{name}: {why}");
    if args.print {
        return print(remote.init_statements().map_err(refused)?);
    }
    remote.init().await.map_err(refused)?;
    print(&format!("{name} has the tables that it needs\n"))
}

fn find(
    remotes: std::collections::BTreeMap<ParticipantName, Remote>,
    name: &str,
) -> anyhow::Result<Remote> {
    let known: Vec<_> = remotes.keys().map(ToString::to_string).collect();
    let found = remotes.into_iter().find(|(known, _)| known.as_str() == name);
    let (_, remote) = found.with_context(|| {
        let known = known.join(", ");
        format!("the configuration names no database or service {name:?}; it has: {known}")
    })?;
    Ok(remote)
}
