//! `presume config`: what is in force, who set it, and what is wrong with it.

use clap::{Args, Subcommand};
use presume::configuration::{Fault, Faults, Loaded, Setting, keys, unusable_folders};
use serde::Serialize;

use super::settings::Settings;
use super::{print, print_json};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the configuration and its folders; exit code 1 if anything is wrong
    Check(CheckArgs),
    /// Print the configuration in force, or an example file
    Show(ShowArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume config check
  presume config check --config production.toml --json
  PRESUME_POLICY__MODE=observe presume config check")]
pub struct CheckArgs {
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume config show --example > presume.toml
  presume config show --json")]
pub struct ShowArgs {
    #[command(flatten)]
    settings: Settings,
    /// Print a commented file with every default instead
    #[arg(long, conflicts_with = "json")]
    example: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Check(args) => check(args),
        Command::Show(args) => show(args),
    }
}

/// What `config check --json` prints.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    faults: &'a [Fault],
    set: Vec<&'a Setting>,
    settings: &'a [Setting],
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    match args.settings.load(Vec::new()) {
        Ok(loaded) => {
            let faults = unusable_folders(&loaded.config, &loaded.settings);
            report(args, &faults, Some(&loaded))
        }
        Err(Faults(faults)) => report(args, &faults, None),
    }
}

fn report(args: &CheckArgs, faults: &[Fault], loaded: Option<&Loaded>) -> anyhow::Result<()> {
    if args.json {
        let set = loaded.map(|loaded| loaded.set().collect()).unwrap_or_default();
        let settings = loaded.map_or(&[][..], |loaded| &loaded.settings);
        print_json(&Report { ok: faults.is_empty(), faults, set, settings })?;
    } else {
        if let Some(loaded) = loaded {
            print_settings(loaded)?;
        }
        for fault in faults {
            print(&format!("wrong: {fault}\n"))?;
        }
    }
    match faults.len() {
        0 if args.json => Ok(()),
        0 => print("the configuration can be used\n"),
        1 => anyhow::bail!("1 fault in the configuration"),
        count => anyhow::bail!("{count} faults in the configuration"),
    }
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    if args.example {
        return print(&keys::example());
    }
    let loaded = args.settings.load(Vec::new())?;
    if args.json {
        return print_json(&loaded.config);
    }
    print_settings(&loaded)
}

/// Every value; those that somebody set say who.
fn print_settings(loaded: &Loaded) -> anyhow::Result<()> {
    let lines: String = loaded
        .settings
        .iter()
        .map(|setting| match setting.origin.as_str() {
            "default" => format!("{} = {}\n", setting.key, setting.value),
            origin => format!("{} = {}   # {origin}\n", setting.key, setting.value),
        })
        .collect();
    print(&lines)
}
