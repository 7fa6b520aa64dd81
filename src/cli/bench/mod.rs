//! `presume bench`: the figures of the README, measured on this machine.

mod commit;
mod load;
mod log;
mod outcomes;
mod postgres;
mod predict;
mod strategies;
mod workload;

use clap::Subcommand;

/// What to measure. Figures are ratios within one run where they can be: machines differ.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Time of features plus three predictions, one transaction at a time on one core
    Predict(predict::Args),
    /// Committed two-ledger transfers per second and per flush, beside bare flushes
    Commit(commit::Args),
    /// Outcomes recorded per second, and processor time and bytes each, beside bare appends
    Log(log::Args),
    /// How batches are made up, compared: fixed sizes, blind, filter, ours at several qualities of prediction
    Strategies(strategies::Args),
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Predict(args) => predict::run(args),
        Command::Commit(args) => commit::run(args),
        Command::Log(args) => log::run(args),
        Command::Strategies(args) => strategies::run(args),
    }
}
