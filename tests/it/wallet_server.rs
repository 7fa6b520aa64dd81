//! The reference service of `examples/wallet` on a free port, in a scratch folder; killed when it
//! is dropped.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use presume::participants::http;
use serde_json::Value;

/// What requests to it are signed with.
pub const SECRET: &str = "a secret of the tests, long enough";

pub struct WalletServer {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    port: String,
    child: Option<Child>,
}

impl WalletServer {
    /// A running service with accounts and their balances.
    pub fn start(accounts: &[(&str, u64)], flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("presume-wallet-").tempdir().unwrap();
        let opened =
            accounts.iter().map(|(account, balance)| format!("--open={account}={balance}"));
        let flags = opened.chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        let mut server = Self { dir, flags, port: "0".to_owned(), child: None };
        server.run();
        server
    }

    /// Starts it, on the port that it had before, and waits until it listens.
    pub fn run(&mut self) {
        let mut child = Command::new(binary())
            .args(["--port", &self.port, "--data"])
            .arg(self.dir.path().join("data"))
            .args(&self.flags)
            .env("WALLET_SECRET", SECRET)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, port) = line.trim().rsplit_once(':').unwrap_or_else(|| panic!("it said {line:?}"));
        port.clone_into(&mut self.port);
        self.child = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it says of an account: balance, held, incoming.
    pub async fn account(&self, account: &str) -> (u64, u64, u64) {
        let answer = reqwest::get(format!("{}/accounts/{account}", self.url())).await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let number = |key: &str| answer[key].as_u64().unwrap_or_else(|| panic!("{answer}"));
        (number("balance"), number("held"), number("incoming"))
    }
}

impl Drop for WalletServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How the service behind a URL is reached.
pub fn options(url: &str) -> http::Options {
    let mut options = http::Options::new(url);
    options.secret = Some(SECRET.to_owned());
    options.listening_horizon = Duration::from_secs(20);
    options
}

/// Cargo builds examples for the tests, and puts them beside.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let binary = profile.join("examples").join("wallet");
    assert!(
        binary.is_file(),
        "{} is not there: run all tests, or first `cargo build --release --examples`",
        binary.display()
    );
    binary
}
