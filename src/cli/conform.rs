//! `presume participants conform`: does somebody's service keep the protocol?

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use presume::participants::http::conform::{self, Checked, Outcome, Sample, Step};
use presume::participants::http::{Options, SECRET_BYTES_MIN};
use presume::txn::{OperationName, Params};
use serde_json::json;

use super::{print, print_json};

/// Largest file of operations.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  presume participants conform http://127.0.0.1:7900 --secret-env WALLET_SECRET \\
      --give credit --take debit --read balance \\
      --params '{\"account\": \"conform\", \"amount\": 1}' --read-params '{\"account\": \"conform\"}'
  presume participants conform https://wallet.example/base --operations sample.json --json

The checks need two operations: one that gives and always succeeds, and one that takes and succeeds as
often as was given before, and no more. A credit and a debit of one unit do, on an account that is
empty; it is empty again afterwards. A file of operations looks so:
  {\"give\": {\"operation\": \"credit\", \"params\": {\"account\": \"conform\", \"amount\": 1}},
   \"take\": {\"operation\": \"debit\",  \"params\": {\"account\": \"conform\", \"amount\": 1}},
   \"read\": {\"operation\": \"balance\", \"params\": {\"account\": \"conform\"}}}
Run it against a test instance: each run leaves a few ended branches there.")]
pub struct Args {
    /// The service's base URL
    url: String,
    /// The environment variable that holds the secret
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// The operation that gives
    #[arg(long, value_name = "OPERATION", required_unless_present = "operations")]
    give: Option<OperationName>,
    /// The operation that takes
    #[arg(long, value_name = "OPERATION", required_unless_present = "operations")]
    take: Option<OperationName>,
    /// An operation that changes nothing
    #[arg(long, value_name = "OPERATION")]
    read: Option<OperationName>,
    /// The parameters of what gives and takes, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = params)]
    params: Params,
    /// The parameters of what takes, if they are others
    #[arg(long, value_name = "JSON", value_parser = params)]
    take_params: Option<Params>,
    /// The parameters of what only reads
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = params)]
    read_params: Params,
    /// The operations with their parameters, in a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["give", "take", "read"])]
    operations: Option<PathBuf>,
    /// Certificates that the service's must lead to [default: the system's]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Accepts `plain_http` or `unsigned` beyond this machine; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_unsafe: Vec<String>,
    /// How long a yes is left alone
    #[arg(long, value_name = "MS", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pause_ms: u64,
    /// Longest that a request may take
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn params(text: &str) -> Result<Params, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object: {error}"))
}

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let options = conform::Options {
        service: service(args)?,
        sample: sample(args)?,
        pause: Duration::from_millis(args.pause_ms),
    };
    let mut printed = Ok(());
    let report = conform::run(&options, |checked| {
        if !args.json && printed.is_ok() {
            printed = print(&line(checked));
        }
    });
    let report = report.await.with_context(|| format!("{} cannot be checked", args.url))?;
    printed?;
    let count = |wanted: fn(&Outcome) -> bool| report.iter().filter(|c| wanted(&c.outcome)).count();
    let ok = count(|outcome| matches!(outcome, Outcome::Ok));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    if args.json {
        let summary = json!({"url": args.url, "ok": ok, "failed": failed, "skipped": skipped,
                             "checks": report});
        print_json(&summary)?;
    } else {
        print(&format!("{ok} ok, {failed} failed, {skipped} skipped\n"))?;
    }
    ensure!(failed == 0, "{} does not keep the protocol: {failed} checks failed", args.url);
    Ok(())
}

fn service(args: &Args) -> anyhow::Result<Options> {
    let mut options = Options::new(&args.url);
    options.tls_ca.clone_from(&args.tls_ca);
    options.allow_unsafe.clone_from(&args.allow_unsafe);
    options.listening_horizon = Duration::from_millis(args.timeout_ms);
    options.connect_timeout = options.connect_timeout.min(options.listening_horizon);
    if let Some(name) = &args.secret_env {
        let secret = std::env::var(name);
        let secret = secret.with_context(|| {
            format!("environment variable {name} must hold the secret, at least {SECRET_BYTES_MIN} bytes")
        })?;
        options.secret = Some(secret);
    }
    Ok(options)
}

fn sample(args: &Args) -> anyhow::Result<Sample> {
    if let Some(path) = &args.operations {
        let shown = path.display();
        let size = std::fs::metadata(path).with_context(|| format!("{shown} is not there"))?.len();
        ensure!(size <= FILE_BYTES_MAX, "{shown} has {size} bytes, at most {FILE_BYTES_MAX}");
        let text = std::fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
        return serde_json::from_slice(&text).with_context(|| {
            format!("{shown} must hold `give` and `take`: see `presume help participants conform`")
        });
    }
    let step = |operation: &Option<OperationName>, params: &Params| {
        operation.clone().map(|operation| Step { operation, params: params.clone() })
    };
    Ok(Sample {
        give: step(&args.give, &args.params).context("--give is needed")?,
        take: step(&args.take, args.take_params.as_ref().unwrap_or(&args.params))
            .context("--take is needed")?,
        read: step(&args.read, &args.read_params),
    })
}

fn line(checked: &Checked) -> String {
    let Checked { number, name, claim, outcome } = checked;
    match outcome {
        Outcome::Ok => format!("{number:>2} ok      {name}: {claim}\n"),
        Outcome::Failed(why) => format!("{number:>2} FAILED  {name}: {claim}\n     {why}\n"),
        Outcome::Skipped(why) => format!("{number:>2} skipped {name}: {why}\n"),
    }
}
