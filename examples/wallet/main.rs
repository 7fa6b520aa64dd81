//! A service that takes part in Presume's transactions: wallets that can be debited and credited.
//!
//! A template for authors of services. It uses nothing of the `presume` library, only what any
//! service has: an HTTP server (axum) and a durable store (fjall). The protocol is specified in
//! `src/participants/http` (`presume participants openapi`); check a service of your own with
//! `presume participants conform URL`.
//!
//! ```text
//! WALLET_SECRET=0123456789abcdef cargo run --release --example wallet -- --data wallet-data --open alice=100000
//! ```
//!
//! | file | what |
//! |---|---|
//! | `api.rs` | paths, bodies, refusals: HTTP to `books` and back |
//! | `signature.rs` | who may call |
//! | `books.rs` | the rules of the protocol, each change durable before its answer |
//! | `accounts.rs` | what this service is about; put yours in its place |

#![expect(clippy::print_stdout, reason = "it says where it listens")]

mod accounts;
mod api;
mod books;
mod signature;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;

#[derive(Parser)]
struct Args {
    /// Port on this machine; 0 lets the system choose. Put TLS in front to be reached from others
    #[arg(long, default_value_t = 7900)]
    port: u16,
    /// Folder of the books
    #[arg(long, default_value = "wallet-data")]
    data: PathBuf,
    /// The environment variable with the secret that coordinators sign with
    #[arg(long, value_name = "NAME", default_value = "WALLET_SECRET")]
    secret_env: String,
    /// Takes unsigned requests
    #[arg(long)]
    unsigned: bool,
    /// Opens an account, unless it is there; may be repeated
    #[arg(long, value_name = "ACCOUNT=BALANCE", value_parser = opening)]
    open: Vec<(String, u64)>,
    /// Does not offer one-phase commits, as a simpler service may
    #[arg(long)]
    two_phase_only: bool,
    /// Does not offer batches, as a simpler service may
    #[arg(long)]
    no_batches: bool,
}

fn opening(text: &str) -> Result<(String, u64), String> {
    let (account, balance) = text.split_once('=').ok_or("must be ACCOUNT=BALANCE")?;
    let balance = balance.parse().map_err(|error| format!("{balance:?}: {error}"))?;
    if !accounts::is_name(account) || balance > accounts::BALANCE_MAX {
        return Err(format!(
            "an account's name has 1 to 64 characters, its balance is at most {}",
            accounts::BALANCE_MAX
        ));
    }
    Ok((account.to_owned(), balance))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let secret = match (args.unsigned, std::env::var(&args.secret_env)) {
        (true, _) => None,
        (false, Ok(secret)) if secret.len() >= 16 => Some(secret),
        (false, _) => {
            let name = args.secret_env;
            return Err(
                format!("{name} must hold a secret of at least 16 bytes (or --unsigned)").into()
            );
        }
    };
    let books = books::Books::open(&args.data)?;
    for (account, balance) in &args.open {
        books.open_account(account, *balance)?;
    }
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await?;
    println!("wallet listens on http://{}", listener.local_addr()?);
    let (one_phase, batches) = (!args.two_phase_only, !args.no_batches);
    let service = api::Service { books, secret, one_phase, batches, places: api::places() };
    axum::serve(listener, api::router(Arc::new(service))).await?;
    Ok(())
}
