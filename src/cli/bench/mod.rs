//! `presume bench`: the figures of the README, measured on this machine.

mod commit;
mod load;
mod postgres;
mod predict;
mod workload;

use clap::Subcommand;

/// What to measure. Figures are ratios within one run where they can be: machines differ.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Time of features plus three predictions, one transaction at a time on one core
    Predict(predict::Args),
    /// Committed two-ledger transfers per second and per flush, beside bare flushes
    Commit(commit::Args),
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Predict(args) => predict::run(args),
        Command::Commit(args) => commit::run(args),
    }
}
