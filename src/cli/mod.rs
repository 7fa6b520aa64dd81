//! The command line: one file a command, and what all commands share.
//!
//! A command is a `clap` struct and `pub fn run(args: &Args) -> anyhow::Result<()>`. Results go to
//! standard output, as text or with `--json` as JSON; everything else goes to standard error. Exit
//! codes are [`exit`]'s.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]
#![allow(missing_docs, reason = "the help texts are the documentation")]

mod bench;
mod client;
mod config;
mod conform;
mod demo;
mod evaluate;
mod exit;
mod features;
mod files;
mod generate;
mod ledger;
mod models;
mod node;
mod output;
mod participants;
mod progress;
mod rows;
mod serve;
mod settings;
mod simulate;
mod submit_lines;
mod train;
mod txn;
mod unresolved;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::Refused;
pub use node::Node;
pub use output::{print, print_json};
pub use progress::Progress;

/// A transaction coordinator that predicts before it prepares.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// One line a command, in the order of a newcomer's day.
#[derive(Debug, Subcommand)]
enum Command {
    /// Watch a coordinator with trained models under a simulated load
    Demo(demo::Args),
    /// Serve transactions over HTTP until told to stop
    Serve(serve::Args),
    /// Submit a transaction, or show one
    #[command(subcommand)]
    Txn(txn::Command),
    /// Open accounts, show balances, check the books
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// List and check participants, make a database ready
    #[command(subcommand)]
    Participants(participants::Command),
    /// List the features that models see
    Features(features::Args),
    /// Generate a history of payments
    Generate(generate::Args),
    /// Train success, fraud and latency models on a history
    Train(train::Args),
    /// Judge a trained model on later history, beside simple baselines
    Evaluate(evaluate::Args),
    /// List and show the models of a registry
    #[command(subcommand)]
    Models(models::Command),
    /// Run the coordinator among simulated faults and check that nothing is lost
    Simulate(simulate::Args),
    /// Show and check the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Measure predictions and commits on this machine
    #[command(subcommand)]
    Bench(bench::Command),
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Txn(command) => txn::run(command),
        Command::Ledger(command) => ledger::run(command),
        Command::Participants(command) => participants::run(command),
        Command::Features(args) => features::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Train(args) => train::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Models(command) => models::run(command),
        Command::Simulate(args) => simulate::run(args),
        Command::Config(command) => config::run(command),
        Command::Bench(command) => bench::run(command),
    }
}

/// Parses, runs, and turns what happened into an exit code.
pub fn main() -> ExitCode {
    output::die_quietly_on_closed_pipe();
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, output::json_asked_for()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_is_well_formed_and_has_an_example() {
        let mut command = super::Cli::command();
        command.build();
        command.clone().debug_assert();
        check_examples(&command, "presume");
    }

    fn check_examples(command: &clap::Command, path: &str) {
        let commands: Vec<_> =
            command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if commands.is_empty() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("presume "), "`{path}` has no example in its help");
        }
        for inner in commands {
            check_examples(inner, &format!("{path} {}", inner.get_name()));
        }
    }
}
