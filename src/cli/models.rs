//! `presume models`: what the registry holds.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets};
use presume::models::{Manifest, Registry};
use serde_json::{Value, json};

use super::settings::{Settings, flag};
use super::train::{days, metrics_table};
use super::{print, print_json};

/// List and show bundles of models.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List every bundle
    #[command(after_help = "Examples:\n  presume models list\n  presume models list --json")]
    List(ListArgs),
    /// Show one bundle: what it was trained on, its metrics, its inputs; and whether it loads
    #[command(after_help = "Examples:
  presume models show
  presume models show payments/3 --json

Without a version the champion is shown, or the newest where there is none.")]
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Which one [default: the configured name, payments]
    #[arg(value_name = "NAME[/VERSION]")]
    bundle: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Where the registry is, and how to print.
#[derive(Debug, clap::Args)]
struct Place {
    /// Model registry [default: models, or as configured]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Place {
    fn config(&self) -> anyhow::Result<presume::configuration::Config> {
        let models = self.models.as_ref().map(|dir| dir.display().to_string());
        let flags = flag("--models", "models.dir", models).into_iter().collect();
        Ok(self.settings.load(flags)?.config)
    }
}

/// Runs the command.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(&args.place),
        Command::Show(args) => show(args),
    }
}

fn list(place: &Place) -> anyhow::Result<()> {
    let registry = Registry::open(place.config()?.models.dir);
    let mut bundles = Vec::new();
    for entry in registry.list()? {
        for version in &entry.versions {
            let champion = entry.champion == Some(*version);
            // One spoilt bundle does not hide the others.
            let manifest = registry.manifest(&entry.name, *version);
            bundles.push((format!("{}/{version}", entry.name), champion, manifest));
        }
    }
    if place.json {
        let one = |(id, champion, manifest): &(String, bool, Result<Manifest, _>)| match manifest {
            Ok(manifest) => json!({
                "bundle": id, "champion": champion, "created": manifest.created,
                "rows": manifest.rows, "window_until": manifest.window_until,
                "targets": manifest.targets.keys().collect::<Vec<_>>(),
            }),
            Err(error) => {
                let error: &presume::models::RegistryError = error;
                json!({"bundle": id, "champion": champion, "error": error.to_string()})
            }
        };
        return print_json(&bundles.iter().map(one).collect::<Vec<Value>>());
    }
    if bundles.is_empty() {
        return print(&format!(
            "no bundles in {}; `presume train` makes one\n",
            registry.dir().display()
        ));
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["bundle", "champion", "trained on", "rows", "log loss"]);
    for (id, champion, manifest) in &bundles {
        let champion = if *champion { "yes" } else { "" };
        match manifest {
            Ok(manifest) => table.add_row([
                id.clone(),
                champion.to_owned(),
                format!("{} until {}", date(manifest.window_from), date(manifest.window_until)),
                manifest.rows.to_string(),
                log_losses(manifest),
            ]),
            Err(error) => {
                table.add_row([id.clone(), champion.to_owned(), format!("unreadable: {error}")])
            }
        };
    }
    print(&format!("{table}\n"))
}

fn date(timestamp: presume::txn::Timestamp) -> String {
    timestamp.to_string().chars().take(10).collect()
}

fn log_losses(manifest: &Manifest) -> String {
    let one = |(target, description): (&presume::models::Target, &_)| {
        let description: &presume::models::manifest::TargetManifest = description;
        description.metrics.get("log_loss").map(|loss| format!("{target} {loss:.4}"))
    };
    manifest.targets.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let config = args.place.config()?;
    let registry = Registry::open(config.models.dir);
    let text = args.bundle.clone().unwrap_or(config.models.name);
    let (name, version) = match text.split_once('/') {
        Some((name, version)) => {
            let version = version.parse().ok().filter(|version| *version > 0);
            (name, version.with_context(|| format!("{text:?} is not NAME/VERSION"))?)
        }
        None => match registry.champion(&text)?.or(registry.versions(&text)?.last().copied()) {
            Some(version) => (text.as_str(), version),
            None => bail!("no bundle named {text:?} in {}", registry.dir().display()),
        },
    };
    let manifest = registry.manifest(name, version)?;
    let refused = registry.load(name, version, &config.features.calendar).err();
    if args.place.json {
        return print_json(&json!({
            "bundle": format!("{name}/{version}"),
            "path": registry.path(name, version),
            "champion": registry.champion(name)? == Some(version),
            "refused": refused.map(|error| error.to_string()),
            "manifest": manifest,
        }));
    }
    let mut lines = vec![
        format!("{name}/{version} in {}", registry.path(name, version).display()),
        format!(
            "trained {} by recipe {:?}, seed {}, parent {}",
            manifest.created,
            manifest.recipe,
            manifest.seed,
            manifest.parent.as_deref().unwrap_or("none"),
        ),
        format!(
            "{} rows ({} rejects) from {} until {}, label delay {}",
            manifest.rows,
            manifest.rejects,
            manifest.window_from,
            manifest.window_until,
            days(manifest.label_delay_s),
        ),
    ];
    for (target, description) in &manifest.targets {
        let features = description.features.len();
        lines.push(format!("{target}: {}, {features} features", description.model));
    }
    for (target, reason) in &manifest.not_trained {
        lines.push(format!("{target}: not trained: {reason}"));
    }
    lines.push(format!("\n{}\n", metrics_table(&manifest)));
    lines.push(match refused {
        None => "it loads: files, fingerprints and golden vectors are in order".to_owned(),
        Some(error) => format!("it is REFUSED: {error}"),
    });
    print(&(lines.join("\n") + "\n"))
}
