//! `presume txn`: submit a transaction to a server, and show one.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use presume::server::problem::encode;
use presume::txn::{CustomerType, Kind};
use serde_json::{Map, Value, json};

use super::client::{Server, client, send, url};
use super::{Refused, print, print_json, rows, unresolved};

/// Largest request that is sent; the server's own limit is lower by default.
const REQUEST_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit a transaction and wait for its outcome
    Submit(Box<SubmitArgs>),
    /// Show what became of a transaction
    Show(ShowArgs),
    /// List what is not settled everywhere
    List(unresolved::ListArgs),
    /// Say in words what hangs, and why
    Stuck(unresolved::StuckArgs),
    /// Ask again at once, instead of when it is due
    RetryNow(unresolved::RetryArgs),
    /// State how a branch ended that nobody can ask any more
    Resolve(unresolved::ResolveArgs),
    /// Print what a stopped coordinator's log holds of each transaction, a line of JSON each
    Rows(rows::RowsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume txn submit --customer c17 --amount 12500 --debit core:a1 --credit rail-a:b2
  presume txn submit --file transfer.json --id 7f3c --json
  presume txn submit --predict --file -

Money is in minor units (paise, cents). Exit code 3 if it was not committed, 4 if that is not
known yet.")]
pub struct SubmitArgs {
    /// The request as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "kind", "customer", "customer_type", "counterparty", "amount", "currency", "debit",
        "credit"])]
    file: Option<PathBuf>,
    /// The transaction's id, which is its idempotency key [default: made by the server]
    #[arg(long)]
    id: Option<String>,
    /// `UPI`, `IMPS`, `NEFT`, `RTGS`, `INTERNAL`, `LOAN_DISBURSEMENT` or `PORTFOLIO_UPDATE`
    #[arg(long, default_value = "UPI")]
    kind: Kind,
    /// Who pays
    #[arg(long, required_unless_present = "file")]
    customer: Option<String>,
    /// RETAIL, REGULAR, PREMIUM or CORPORATE
    #[arg(long, default_value = "RETAIL")]
    customer_type: CustomerType,
    /// Who is paid
    #[arg(long)]
    counterparty: Option<String>,
    /// Amount in minor units
    #[arg(long, required_unless_present = "file")]
    amount: Option<u64>,
    #[arg(long, default_value = "INR")]
    currency: String,
    /// Takes the amount from an account; may be repeated
    #[arg(long, value_name = "PARTICIPANT:ACCOUNT")]
    debit: Vec<String>,
    /// Gives the amount to an account; may be repeated
    #[arg(long, value_name = "PARTICIPANT:ACCOUNT")]
    credit: Vec<String>,
    /// Wait until every participant has carried it out
    #[arg(long)]
    applied: bool,
    /// Only predict and plan; do nothing
    #[arg(long)]
    predict: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  presume txn show 7f3c --json")]
pub struct ShowArgs {
    /// The transaction's id
    id: String,
    #[command(flatten)]
    server: Server,
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Submit(args) => runtime.block_on(submit(args)),
        Command::Show(args) => runtime.block_on(show(args)),
        Command::List(args) => runtime.block_on(unresolved::list(args)),
        Command::Stuck(args) => runtime.block_on(unresolved::stuck(args)),
        Command::RetryNow(args) => runtime.block_on(unresolved::retry_now(args)),
        Command::Resolve(args) => runtime.block_on(unresolved::resolve(args)),
        Command::Rows(args) => rows::run(args),
    }
}

async fn submit(args: &SubmitArgs) -> anyhow::Result<()> {
    let mut body = match &args.file {
        Some(path) => read_request(path)?,
        None => request(args)?,
    };
    if args.applied {
        body.insert("wait".into(), "applied".into());
    }
    let path = if args.predict { "/v1/transactions:predict" } else { "/v1/transactions" };
    let mut request = client()?.post(url(&args.server, path)).json(&body);
    if let Some(id) = &args.id {
        request = request.header("idempotency-key", id);
    }
    let answer = send(request, &args.server).await?;
    if args.predict {
        return print_json(&answer);
    }
    conclude(&answer, args.server.json)
}

async fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let path = format!("/v1/transactions/{}", encode(&args.id));
    let answer = send(client()?.get(url(&args.server, &path)), &args.server).await?;
    conclude(&answer, args.server.json)
}

fn read_request(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(REQUEST_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {shown}"))?;
        file.take(REQUEST_BYTES_MAX + 1).read_to_end(&mut bytes)
    };
    let count = read.with_context(|| format!("cannot read {shown}"))?;
    ensure!(count as u64 <= REQUEST_BYTES_MAX, "{shown} has more than {REQUEST_BYTES_MAX} bytes");
    serde_json::from_slice(&bytes).with_context(|| format!("{shown} is not a JSON object"))
}

fn request(args: &SubmitArgs) -> anyhow::Result<Map<String, Value>> {
    let amount = args.amount.context("--amount is missing")?;
    ensure!(!args.debit.is_empty(), "--debit is missing: from which account, such as core:a1");
    ensure!(!args.credit.is_empty(), "--credit is missing: to which account, such as rail-a:b2");
    let debits = args.debit.iter().map(|account| operation("debit", account, amount));
    let credits = args.credit.iter().map(|account| operation("credit", account, amount));
    let operations = debits.chain(credits).collect::<anyhow::Result<Vec<Value>>>()?;
    let body = json!({
        "kind": args.kind,
        "customer": {"id": args.customer, "type": args.customer_type},
        "counterparty": args.counterparty,
        "amount": {"minor": amount, "currency": args.currency},
        "operations": operations,
    });
    match body {
        Value::Object(body) => Ok(body),
        _ => bail!("the request is not an object"),
    }
}

fn operation(name: &str, place: &str, amount: u64) -> anyhow::Result<Value> {
    let Some((participant, account)) = place.split_once(':') else {
        bail!("--{name} {place:?} is not PARTICIPANT:ACCOUNT, such as core:a1");
    };
    let params = json!({"account": account, "amount": amount});
    Ok(json!({"participant": participant, "operation": name, "params": params}))
}

/// Prints an answer and turns its outcome into the exit code.
fn conclude(answer: &Value, json: bool) -> anyhow::Result<()> {
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    let id = text("id").unwrap_or("?");
    let outcome = text("outcome").or_else(|| text("status")).unwrap_or("unknown");
    if json {
        print_json(answer)?;
    } else {
        print(&describe(answer, id, outcome))?;
    }
    match outcome {
        "committed" => Ok(()),
        "in_doubt" | "in_flight" | "unknown" => {
            Err(Refused::Unknown(format!("transaction {id} is {outcome}")).into())
        }
        _ => Err(Refused::No(format!("transaction {id} was not committed: {outcome}")).into()),
    }
}

fn describe(answer: &Value, id: &str, outcome: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{id}  {outcome}\n");
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<22}{value}").expect("a String takes every write");
    };
    for reason in answer["reasons"].as_array().into_iter().flatten() {
        let code = reason["code"].as_str().unwrap_or("?");
        line("reason", format!("{code}: {}", reason["detail"].as_str().unwrap_or_default()));
    }
    let names = answer["participants"].as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    if !names.is_empty() {
        line("participants", names.join(", "));
    }
    for (name, key) in [("success predicted", "success"), ("fraud predicted", "fraud")] {
        if let Some(p) = answer["insights"][format!("{key}_probability")].as_f64() {
            line(name, format!("{:.2} %", p * 100.0));
        }
    }
    if let Some(total) = answer["timings_ms"]["total"].as_f64() {
        line("took", format!("{total:.1} ms"));
    }
    for resolution in answer["resolutions"].as_array().into_iter().flatten() {
        let word = |key: &str| resolution[key].as_str().unwrap_or_default();
        let stated = unresolved::describe_resolution(resolution);
        line("resolution", format!("{stated}, {}: {}", word("at"), word("reason")));
    }
    if answer["unresolved"].is_object() {
        text += &(unresolved::describe_one(&answer["unresolved"]).join("\n") + "\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unresolved_is_shown_as_it_is_listed_below_what_operators_stated() {
        let unresolved = json!({
        "ids": ["t1"], "state": "telling", "decision": "commit", "origin": "running",
        "age_s": 31.26, "branches": [
            {"participant": "left", "state": "acknowledged", "gid": "presume:1:1:7:0"},
            {"participant": "right", "state": "waiting", "gid": "presume:1:1:7:1",
                "diagnosis": "right has not acknowledged", "look": "XA RECOVER"},
        ]});
        let answer = json!({
            "id": "t1", "outcome": "heuristic", "participants": ["left", "right"],
            "resolutions": [{"participant": "left", "claim": "gone", "by": "A. Clerk",
                "reason": "server lost", "at": "2026-01-31T09:30:00Z"}],
            "unresolved": unresolved,
        });
        let listed = "t1  telling, commit, running, for 31.3 s\n  \
                      left  acknowledged  presume:1:1:7:0\n  \
                      right  waiting  presume:1:1:7:1\n    \
                      right has not acknowledged\n    XA RECOVER\n";
        let expected = format!(
            "t1  heuristic\n  participants          left, right\n  resolution            \
             left is gone by the word of A. Clerk, 2026-01-31T09:30:00Z: server lost\n{listed}"
        );
        assert_eq!(describe(&answer, "t1", "heuristic"), expected);
        assert_eq!(unresolved::describe(&json!({"transactions": [answer["unresolved"]]})), listed);
    }
}
