//! Asking a running server: what the commands that do share.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Refused;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, clap::Args)]
pub struct Server {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7878")]
    pub server: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub fn client() -> anyhow::Result<reqwest::Client> {
    // Longer than any server waits before it says where to ask later.
    let client = reqwest::Client::builder().timeout(Duration::from_mins(2));
    Ok(client.no_proxy().build()?)
}

pub fn url(server: &Server, path: &str) -> String {
    format!("{}{path}", server.server.trim_end_matches('/'))
}

pub async fn send(request: reqwest::RequestBuilder, server: &Server) -> anyhow::Result<Value> {
    let response = request.send().await.with_context(|| {
        format!("no answer from {}; is `presume serve` running there?", server.server)
    })?;
    let status = response.status();
    let body = response.bytes().await.context("the answer broke off")?;
    ensure!(body.len() <= ANSWER_BYTES_MAX, "the answer has {} bytes", body.len());
    let answer: Value = serde_json::from_slice(&body).with_context(|| {
        format!("{} answered {status}, but not in JSON: is it presume?", server.server)
    })?;
    if status.is_success() {
        return Ok(answer);
    }
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or("no detail given");
    let refused = anyhow::anyhow!("{} ({status}): {}", text("title"), text("detail"));
    if text("type").ends_with(":outcome-unknown") || text("type").ends_with(":in-flight") {
        return Err(refused.context(Refused::Unknown("the outcome is not known yet".into())));
    }
    Err(refused)
}
