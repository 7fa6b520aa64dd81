//! `presume bench`: the figures of the README, measured on this machine.

mod arrivals;
mod commit;
mod cpu;
mod http;
mod load;
mod log;
mod mariadb;
mod ours;
mod outcomes;
mod plot;
mod postgres;
mod predict;
mod report;
mod strategies;
mod targets;
mod workload;

use clap::Subcommand;

/// What to measure. Figures are ratios within one run where they can be: machines differ.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Time of features plus three predictions, one transaction at a time on one core
    Predict(predict::Args),
    /// Committed transfers per second, latency and flushes, beside the bare protocol
    Commit(commit::Args),
    /// The same transfers through a server process' HTTP interface, beside the same in process
    Http(http::Args),
    /// Outcomes recorded per second, and processor time and bytes each, beside bare appends
    Log(log::Args),
    /// How batches are made up, compared: fixed sizes, blind, filter, ours at several qualities of prediction
    Strategies(strategies::Args),
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Predict(args) => predict::run(args),
        Command::Commit(args) => commit::run(args),
        Command::Http(args) => http::run(args),
        Command::Log(args) => log::run(args),
        Command::Strategies(args) => strategies::run(args),
    }
}
