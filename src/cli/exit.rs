//! Exit codes, and how errors are told.

use std::fmt;
use std::process::ExitCode;

use presume::configuration::Faults;
use serde_json::json;

/// The exit codes, as every help text shows them.
pub const HELP: &str = "Exit codes:
  0  done
  1  failed: an error was printed
  2  the command line or the configuration cannot be used
  3  done, and the answer is no: not committed, books that do not balance
  4  the outcome is not known yet: ask again with `presume txn show`";

/// The command worked, and its answer is not the one hoped for: exit code 3 or 4.
///
/// The result itself has been printed already, so this is told in one line only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The answer is no.
    No(String),
    /// The answer is not known yet.
    Unknown(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(text) | Self::Unknown(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Refused {}

/// The code for an error, by what is at its root.
pub fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Refused>() {
        Some(Refused::No(_)) => return 3,
        Some(Refused::Unknown(_)) => return 4,
        None => {}
    }
    if error.downcast_ref::<Faults>().is_some() { 2 } else { 1 }
}

/// Prints an error with its causes, as text or JSON, to standard error.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let code = code(error);
    if json {
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let body = json!({"error": error.to_string(), "causes": causes, "exit_code": code});
        eprintln!("{body}");
    } else {
        eprintln!("presume: {error}");
        let mut told = error.to_string();
        for cause in error.chain().skip(1) {
            let cause = cause.to_string();
            // Many messages already end with their cause's.
            if !told.contains(&cause) {
                eprintln!("  because {cause}");
            }
            told = cause;
        }
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use anyhow::Context;

    use super::*;

    #[test]
    fn exit_codes_survive_added_context() {
        let refused = || anyhow::Error::new(Refused::No("aborted".into()));
        assert_eq!(code(&refused().context("submitting")), 3);
        let unknown: anyhow::Result<()> = Err(Refused::Unknown("in flight".into()).into());
        assert_eq!(code(&unknown.context("submitting").unwrap_err()), 4);
        assert_eq!(code(&anyhow::Error::new(Faults(Vec::new())).context("starting")), 2);
        assert_eq!(code(&anyhow::anyhow!("anything else")), 1);
    }
}
