//! `presume txn rows`: what the decision log of a stopped coordinator holds of each transaction,
//! which is stored packed, as JSON.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use presume::decision_log::{DecisionLog, Decisions as _};
use serde_json::json;

use super::print;
use super::settings::{Settings, flag};

/// Rows read and printed at once.
const PAGE_ROWS: usize = 1_000;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  presume txn rows --data-dir data | jq -c '[.sequence, .row.txn_id, .row.outcome]'
  presume txn rows --from 5001 --limit 10

The coordinator must be stopped. Rows that are sealed already are in the files of the outcome log.")]
pub struct RowsArgs {
    /// The first sequence that is printed
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1)]
    from: u64,
    /// Most rows that are printed
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// The coordinator's data folder [default: data.dir of the configuration]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(args: &RowsArgs) -> anyhow::Result<()> {
    let flags = [flag("--data-dir", "data.dir", args.data_dir.as_ref().map(|d| d.display()))];
    let config = args.settings.load(flags.into_iter().flatten().collect())?.config;
    let folder = config.decision_log_dir();
    let (log, _) = DecisionLog::open_stopped(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?;
    let (mut next, mut left) = (args.from, usize::try_from(args.limit).unwrap_or(usize::MAX));
    while left > 0 {
        let page = log.outcome_rows(next, left.min(PAGE_ROWS))?;
        let Some((last, _)) = page.last() else { break };
        (next, left) = (last + 1, left - page.len());
        let mut lines = String::new();
        for (sequence, row) in page {
            let told = log.answer(&row.txn_id)?.map(|record| {
                json!({
                    "answer": record.answer,
                    "request_hash": record.request_hash,
                    "at": record.at,
                })
            });
            writeln!(lines, "{}", json!({"sequence": sequence, "row": row, "told": told}))?;
        }
        print(&lines)?;
    }
    Ok(log.close()?)
}
