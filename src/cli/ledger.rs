//! `presume ledger`: the embedded ledgers, opened directly.
//!
//! A ledger belongs to one process at a time: while a server runs, ask it instead
//! (`GET /v1/ledgers/NAME/accounts/ID`, `/v1/ledgers/NAME/verify`).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use comfy_table::Table;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use serde_json::json;

use super::settings::{Settings, flag};
use super::{print, print_json};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open an account, with a balance from the ledger's equity
    Open(OpenArgs),
    /// Show one account, or all
    Balance(BalanceArgs),
    /// Check that every ledger's books balance; exit code 1 if not
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    settings: Settings,
    /// Folder of the data [default: data.dir of the configuration]
    #[arg(long, alias = "data", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume ledger open --ledger core --account alice \
                        --balance 100000")]
pub struct OpenArgs {
    #[command(flatten)]
    place: Place,
    /// Which ledger; it is made if there is none
    #[arg(long)]
    ledger: String,
    /// The account's id
    #[arg(long)]
    account: String,
    /// What it starts with, in minor units
    #[arg(long, default_value_t = 0)]
    balance: i64,
    /// Let it go below zero
    #[arg(long)]
    overdraft: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume ledger balance --ledger core --account alice --json")]
pub struct BalanceArgs {
    #[command(flatten)]
    place: Place,
    /// Which ledger
    #[arg(long)]
    ledger: String,
    /// Which account [default: all]
    #[arg(long)]
    account: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  presume ledger verify")]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// Which ledger [default: all that exist]
    #[arg(long)]
    ledger: Option<String>,
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Open(args) => open(args).await,
            Command::Balance(args) => balance(args),
            Command::Verify(args) => verify(args).await,
        }
    })
}

impl Place {
    fn data(&self) -> anyhow::Result<PathBuf> {
        let flags = [flag("--data-dir", "data.dir", self.data_dir.as_ref().map(|d| d.display()))];
        Ok(self.settings.load(flags.into_iter().flatten().collect())?.config.data.dir)
    }

    fn existing(&self, name: &str) -> anyhow::Result<Ledger> {
        let folder = ledger::folder(&self.data()?, name)?;
        ensure!(folder.is_dir(), "there is no ledger {name:?} in {}", folder.display());
        open_ledger(&folder)
    }
}

fn open_ledger(folder: &Path) -> anyhow::Result<Ledger> {
    Ledger::open(folder, ledger::Options::default()).with_context(|| {
        format!("cannot open {}; is a server running? ask it instead", folder.display())
    })
}

async fn open(args: &OpenArgs) -> anyhow::Result<()> {
    let folder = ledger::folder(&args.place.data()?, &args.ledger)?;
    let ledger = open_ledger(&folder)?;
    let account = NewAccount {
        id: args.account.clone(),
        opening_minor: args.balance,
        overdraft: if args.overdraft { Overdraft::Allowed } else { Overdraft::Refused },
    };
    ledger.open_accounts(&[account]).await?;
    ledger.close()?;
    if args.place.json {
        return print_json(&json!({
            "ledger": args.ledger, "account": args.account, "balance_minor": args.balance,
        }));
    }
    print(&format!("opened {} in {} with {}\n", args.account, args.ledger, args.balance))
}

fn balance(args: &BalanceArgs) -> anyhow::Result<()> {
    let ledger = args.place.existing(&args.ledger)?;
    let accounts = match &args.account {
        Some(id) => match ledger.balance(id) {
            Some(balance) => vec![(id.clone(), balance)],
            None => bail!("there is no account {id:?} in ledger {}", args.ledger),
        },
        None => ledger.balances(),
    };
    ledger.close()?;
    if args.place.json {
        let rows: Vec<_> = accounts
            .iter()
            .map(|(id, b)| {
                json!({
                    "account": id,
                    "balance_minor": b.balance_minor,
                    "pending_debit_minor": b.pending_debit_minor,
                    "pending_credit_minor": b.pending_credit_minor,
                })
            })
            .collect();
        return print_json(&rows);
    }
    let mut table = Table::new();
    table.set_header(["account", "balance", "pending debit", "pending credit"]);
    for (id, b) in &accounts {
        table.add_row([
            id.clone(),
            b.balance_minor.to_string(),
            b.pending_debit_minor.to_string(),
            b.pending_credit_minor.to_string(),
        ]);
    }
    print(&format!("{table}\n"))
}

async fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let names = match &args.ledger {
        Some(name) => vec![name.clone()],
        None => ledger_names(&args.place.data()?)?,
    };
    let mut reports = Vec::new();
    for name in names {
        let ledger = args.place.existing(&name)?;
        let report = ledger.verify().await?;
        ledger.close()?;
        reports.push((name, report));
    }
    if args.place.json {
        print_json(&reports.iter().cloned().collect::<std::collections::BTreeMap<_, _>>())?;
    } else {
        for (name, report) in &reports {
            print(&format!(
                "{name}: {} accounts, {} transfers, sum {}, {} pending, {}\n",
                report.accounts,
                report.transfers,
                report.sum_minor,
                report.pending,
                if report.is_sound() { "sound" } else { "NOT SOUND" }
            ))?;
            for problem in &report.problems {
                print(&format!("  {problem}\n"))?;
            }
        }
    }
    let problems: usize = reports.iter().map(|(_, report)| report.problems_count).sum();
    ensure!(problems == 0, "{problems} problems found");
    Ok(())
}

fn ledger_names(data: &Path) -> anyhow::Result<Vec<String>> {
    let folder = data.join("ledgers");
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("there are no ledgers in {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
