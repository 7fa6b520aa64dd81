//! `presume serve`: the coordinator behind its HTTP interface, until told to stop.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use presume::configuration::Config;
use presume::server::Server;
use presume::txn::Mode;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::settings::{Settings, flag};
use super::{Node, print};

/// Serve transactions over HTTP until told to stop.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  presume serve
  presume serve --config presume.toml --mode observe
  presume serve --address 127.0.0.1:0 --data-dir /var/lib/presume --port-file port

Stop it with Ctrl-C or SIGTERM: what runs is finished first. A second signal stops at once; the
next start settles what was left. PRESUME_LOG=debug shows more.")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Where to listen; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Folder of decision log, ledgers and outcomes
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// off, observe or enforce
    #[arg(long)]
    mode: Option<Mode>,
    /// Writes the port that was really bound to a file, once it is
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Print the address as one line of JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let data_dir = args.data_dir.as_ref().map(|path| path.display());
    let flags = [
        flag("--address", "server.address", args.address),
        flag("--data-dir", "data.dir", data_dir),
        flag("--mode", "policy.mode", args.mode),
    ];
    let loaded = args.settings.load(flags.into_iter().flatten().collect())?;
    show_traces();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(args, &loaded.config));
    // What blocks on a disk must not hold up the end.
    runtime.shutdown_background();
    served
}

async fn serve(args: &Args, config: &Config) -> anyhow::Result<()> {
    let node = Node::open(config).await?;
    let server = Server::bind(node.service(), config.server_options()).await?;
    let stop = stop_signal()?;
    announce(args, config, server.address())?;
    server.run(stop).await;
    node.close().await
}

/// Says where it listens: from now on it answers.
fn announce(args: &Args, config: &Config, address: SocketAddr) -> anyhow::Result<()> {
    if let Some(path) = &args.port_file {
        write_port(path, address.port())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        let line = json!({
            "address": address.to_string(), "port": address.port(), "pid": std::process::id(),
        });
        return print(&format!("{line}\n"));
    }
    let data = config.data.dir.display();
    print(&format!("presume serves http://{address} (data in {data}); Ctrl-C stops it\n"))
}

/// Whoever sees the file sees the whole number.
fn write_port(path: &Path, port: u16) -> std::io::Result<()> {
    let aside = path.with_extension("tmp");
    std::fs::write(&aside, format!("{port}\n"))?;
    std::fs::rename(&aside, path)
}

/// Resolves on the first signal; the second ends the process.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        let mut next = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping: finishing what runs");
        tokio::spawn(async move {
            next().await;
            tracing::warn!("stopped at once: the next start settles what was left");
            std::process::exit(1);
        });
    })
}

fn show_traces() {
    let filter = EnvFilter::try_from_env("PRESUME_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let traces = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Somebody else's subscriber, as in a test, is as good.
    let _ = traces.try_init();
}
