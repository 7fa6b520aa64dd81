//! The `presume` command: parse, run, exit code. Everything else stands in `cli` and the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
