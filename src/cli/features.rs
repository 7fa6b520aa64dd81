//! `presume features`: what models see, by name.

use clap::Args as ClapArgs;
use comfy_table::{ContentArrangement, Table, presets};
use presume::features::{Feature, leg_features, txn_features};
use serde_json::{Value, json};

use super::settings::Settings;
use super::{print, print_json};

/// List the features that models see.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  presume features
  presume features --json | jq '.transaction[].name'

A fingerprint changes with everything that defines a value, also with the configured calendar; a
model is only loaded where the fingerprints of its inputs are those that it was trained with.")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let calendar = args.settings.load(Vec::new())?.config.features.calendar;
    if args.json {
        let list = |features: &[Feature]| -> Vec<Value> {
            let shown = |feature: &Feature| {
                json!({
                    "name": feature.name,
                    "unit": feature.unit,
                    "window": feature.window,
                    // NaN has no JSON form: null, as in the schema.
                    "default": Some(feature.default).filter(|default| !default.is_nan()),
                    "meaning": feature.meaning,
                    "definition": feature.definition,
                    "fingerprint": feature.fingerprint(&calendar),
                })
            };
            features.iter().map(shown).collect()
        };
        return print_json(&json!({
            "transaction": list(txn_features()),
            "leg": list(leg_features()),
            "calendar": calendar,
        }));
    }
    for (title, features) in [
        ("Of a transaction, for success and fraud", &txn_features()[..]),
        ("Of a participant's part in it, for latency", &leg_features()[..]),
    ] {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["name", "unit", "window", "default", "meaning"]);
        for feature in features {
            table.add_row([
                feature.name.to_owned(),
                feature.unit.to_owned(),
                feature.window.to_owned(),
                feature.default.to_string(),
                feature.meaning.to_owned(),
            ]);
        }
        print(&format!("{title} ({})\n{table}\n\n", features.len()))?;
    }
    Ok(())
}
