//! `presume bench log`: what it costs to record how transactions ended, beside bare appends.
//!
//! A few writers each record batches of made-up members, answers and outcome rows as a coordinator
//! makes them, with the commit decision, wait until they are durable, and forget the decision. The
//! processor time is that of the whole process: encoding, journal, tables and what the store does
//! in the background, up to and including its closing. Beside it, as many bytes as that wrote go to
//! a plain file, synced once a batch.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use presume::decision_log::{DecisionLog, Decisions as _, Options};
use presume::txn::{Epoch, PhysicalId};
use serde::Serialize;
use tokio::time::Instant;

use super::commit::in_scratch;
use super::cpu::Cpu;
use super::outcomes::{Members, txn_id};
use crate::cli::{Progress, print, print_json};

/// Members of a batch at most, and in the queue by all writers.
const BATCH_MAX: usize = 4_096;
const QUEUED_MAX: usize = 16_384;
const WRITERS_MAX: usize = 256;
/// Members a batch while the log is filled beforehand.
const STORED_BATCH: usize = 512;
const LOOKUPS: u64 = 20_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  presume bench log --batch 1,32,128,512 --seconds 5
  presume bench log --batch 128 --stored 1000000 --json")]
pub struct Args {
    /// Transactions recorded at once, one run each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128, 512])]
    batch: Vec<usize>,
    /// Writers at once, each with one batch at a time
    #[arg(long, default_value_t = 4)]
    writers: usize,
    /// Outcomes stored before the measurement begins
    #[arg(long, default_value_t = 0)]
    stored: u64,
    /// Seconds a run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Folder for the scratch data, on the disk to be measured; removed afterwards
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    batch: usize,
    writers: usize,
    stored: u64,
    outcomes: u64,
    outcomes_per_second: f64,
    outcomes_per_flush: f64,
    /// Of the process an outcome, user and system; `None` off Linux, as for the others.
    cpu_us: Option<f64>,
    /// What the bench itself needs to make one up: part of `cpu_us`.
    making_us: Option<f64>,
    /// Written to the disk an outcome, journal and tables.
    bytes: Option<f64>,
    memory_mib: Option<f64>,
    /// The same bytes appended to a plain file, one sync a batch.
    bare_per_second: Option<f64>,
    bare_cpu_us: Option<f64>,
    /// To ask for the answer of a transaction that has none, and of one that has.
    absent_us: f64,
    present_us: f64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.batch.iter().all(|n| (1..=BATCH_MAX).contains(n)),
        "--batch must be between 1 and {BATCH_MAX}"
    );
    let most = args.batch.iter().max().copied().unwrap_or(1);
    anyhow::ensure!(
        (1..=WRITERS_MAX).contains(&args.writers) && args.writers * most <= QUEUED_MAX,
        "--writers must be between 1 and {WRITERS_MAX}, with at most {QUEUED_MAX} outcomes at once"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all = Vec::new();
    for &batch in &args.batch {
        let progress = Progress::spinner(format!("{batch} a batch"), args.json);
        let measured = in_scratch(&args.dir, async |data: &Path| measure(args, batch, data).await);
        all.push(runtime.block_on(measured)?);
        drop(progress);
    }
    if args.json { print_json(&all) } else { print(&describe(&all)) }
}

fn describe(all: &[Figures]) -> String {
    let mut table = Table::new();
    table.set_header([
        "a batch",
        "outcomes/s",
        "a flush",
        "CPU us",
        "making us",
        "bytes",
        "bare/s",
        "bare CPU us",
        "absent us",
        "present us",
        "MiB",
    ]);
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let whole = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    for f in all {
        table.add_row([
            f.batch.to_string(),
            format!("{:.0}", f.outcomes_per_second),
            format!("{:.1}", f.outcomes_per_flush),
            figure(f.cpu_us),
            figure(f.making_us),
            whole(f.bytes),
            whole(f.bare_per_second),
            figure(f.bare_cpu_us),
            format!("{:.2}", f.absent_us),
            format!("{:.2}", f.present_us),
            whole(f.memory_mib),
        ]);
    }
    format!(
        "{table}\nan outcome: an answer and a row; CPU us: of the whole process, making included\n"
    )
}

async fn measure(args: &Args, batch: usize, data: &Path) -> anyhow::Result<Figures> {
    let (log, _) = DecisionLog::open(&data.join("decisions"), Options::default())?;
    let next = Arc::new(AtomicU64::new(0));
    let mut members = Members::new(STORED_BATCH)?;
    while next.load(Ordering::Relaxed) < args.stored {
        record(&log, &mut members, &next).await?;
    }
    let length = Duration::from_secs(args.seconds.max(1));
    let making_us = making(batch)?;
    let members: Vec<_> =
        (0..args.writers).map(|_| Members::new(batch)).collect::<anyhow::Result<_>>()?;
    let (started, cpu, io) = (Instant::now(), Cpu::now(), written());
    let (flushes, first) = (log.flushes(), next.load(Ordering::Relaxed));
    let mut tasks = tokio::task::JoinSet::new();
    for mut members in members {
        let (log, next) = (log.clone(), next.clone());
        tasks.spawn(async move {
            while started.elapsed() < length {
                record(&log, &mut members, &next).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let stored = next.load(Ordering::Relaxed);
    let outcomes = stored - first;
    let flushes = log.flushes() - flushes;
    let lookup = |from: u64, present: bool| -> anyhow::Result<f64> {
        let started = Instant::now();
        for n in 0..LOOKUPS {
            let id = txn_id(from + n.wrapping_mul(7_919) % stored.max(1))?;
            anyhow::ensure!(log.answer(&id)?.is_some() == present, "{id}: present is {present}");
        }
        Ok(started.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64)
    };
    let memory_mib = memory_mib();
    // What is left to do in the background belongs to the outcomes, too.
    let cpu_us = Cpu::since(cpu, outcomes).0.map(|ms| ms * 1e3);
    let bytes = written().zip(io).map(|(now, then)| (now - then) / outcomes.max(1) as f64);
    let (absent_us, present_us) = (lookup(u64::MAX / 2, false)?, lookup(0, true)?);
    log.close()?;
    let bare = bytes.map(|bytes| bare(data, bytes, batch, length)).transpose()?;
    Ok(Figures {
        batch,
        writers: args.writers,
        stored,
        outcomes,
        outcomes_per_second: outcomes as f64 / seconds,
        outcomes_per_flush: outcomes as f64 / flushes.max(1) as f64,
        cpu_us,
        making_us,
        bytes,
        memory_mib,
        bare_per_second: bare.map(|(rate, _)| rate),
        bare_cpu_us: bare.and_then(|(_, cpu_us)| cpu_us),
        absent_us,
        present_us,
    })
}

/// One batch from its making to its forgetting.
async fn record(log: &DecisionLog, members: &mut Members, next: &AtomicU64) -> anyhow::Result<()> {
    members.renew(next.fetch_add(members.count() as u64, Ordering::Relaxed))?;
    let decision = members.decision(log.epoch(), log.next_physical())?;
    let recorded = log.record_outcomes(Some(&decision), &members.recorded(), None);
    recorded.await?;
    // As the coordinator does, which does not wait for it.
    drop(log.finish(decision.epoch, decision.physical));
    Ok(())
}

/// Microseconds of making up one member, without recording it.
fn making(batch: usize) -> anyhow::Result<Option<f64>> {
    const MADE: u64 = 500_000;
    let mut members = Members::new(batch)?;
    let cpu = Cpu::now();
    let mut made = 0;
    while made < MADE {
        members.renew(made)?;
        std::hint::black_box(members.decision(Epoch(1), PhysicalId(made))?);
        made += batch as u64;
    }
    Ok(Cpu::since(cpu, made).0.map(|ms| ms * 1e3))
}

/// Appends as large as a batch, each made durable: their outcomes a second, and microseconds of
/// processor time each.
fn bare(
    data: &Path,
    bytes: f64,
    batch: usize,
    length: Duration,
) -> anyhow::Result<(f64, Option<f64>)> {
    let path = data.join("bare");
    let mut file = std::fs::File::create(&path).context("cannot make the bare file")?;
    let buffer = vec![7; (bytes * batch as f64) as usize];
    let (started, cpu) = (Instant::now(), Cpu::now());
    let mut outcomes = 0;
    while started.elapsed() < length {
        file.write_all(&buffer)?;
        file.sync_data()?;
        outcomes += batch as u64;
    }
    let rate = outcomes as f64 / started.elapsed().as_secs_f64();
    let cpu_us = Cpu::since(cpu, outcomes).0.map(|ms| ms * 1e3);
    std::fs::remove_file(path)?;
    Ok((rate, cpu_us))
}

/// Bytes that this process caused to be written to disks, as `proc(5)` has it.
fn written() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

fn memory_mib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
