//! A closed loop of clients, and what it saw and cost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

/// What a closed loop of clients saw.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) committed: u64,
    /// Declined for want of money, as it should be.
    pub(super) declined: u64,
    /// Ended otherwise than it should, such as by a timeout under overload.
    pub(super) failed: u64,
    pub(super) seconds: f64,
    pub(super) transfers_per_second: f64,
    pub(super) answer_ms_p50: f64,
    pub(super) answer_ms_p99: f64,
    /// Until every participant had voted.
    pub(super) voted_ms_p50: f64,
    /// Processor time a transfer, user and system: of this process, clients included, and of all
    /// else on the machine, which should be the databases. `None` off Linux.
    pub(super) cpu_ms_own: Option<f64>,
    pub(super) cpu_ms_others: Option<f64>,
}

/// How one thing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Committed,
    Declined,
    Failed,
}

/// Processor time spent, in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    own: f64,
    machine: f64,
}

impl Cpu {
    /// As `proc(5)` has it.
    pub(super) fn now() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in brackets, may hold anything.
        let fields: Vec<f64> =
            own.rsplit_once(')')?.1.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let spent: Vec<f64> =
            machine.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        // user, nice, system, idle, iowait, irq, softirq
        let busy = spent.get(..7)?.iter().sum::<f64>() - spent[3] - spent[4];
        Some(Self { own: fields.get(11)? + fields.get(12)?, machine: busy })
    }

    /// Milliseconds since, of this process and of all others, for each of `count`.
    pub(super) fn since(start: Option<Self>, count: u64) -> (Option<f64>, Option<f64>) {
        let (Some(start), Some(now)) = (start, Self::now()) else { return (None, None) };
        // Ticks are hundredths of a second wherever Linux shows them.
        let ms = |ticks: f64| Some(ticks * 10.0 / count.max(1) as f64);
        let own = now.own - start.own;
        (ms(own), ms((now.machine - start.machine - own).max(0.0)))
    }
}

/// Clients that each do one thing after the other; `work` gets the client's and the thing's number
/// and answers how it ended, and after how many milliseconds all had voted.
pub(super) async fn closed_loop<W, F>(
    clients: usize,
    length: Duration,
    work: W,
) -> anyhow::Result<Run>
where
    W: Fn(usize, u64) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<(Ended, f64)>> + Send,
{
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (started, cpu) = (Instant::now(), Cpu::now());
    let until = started + length;
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let work = work.clone();
        tasks.spawn(async move {
            // Small: there may be thousands of clients.
            let (mut latency, mut voted) = (Vec::new(), Vec::new());
            let (mut declined, mut failed) = (0_u64, 0_u64);
            while Instant::now() < until {
                let started = Instant::now();
                let (ended, voted_ms) = work(client, NEXT.fetch_add(1, Ordering::Relaxed)).await?;
                match ended {
                    Ended::Committed => {}
                    Ended::Declined => {
                        declined += 1;
                        continue;
                    }
                    Ended::Failed => {
                        failed += 1;
                        continue;
                    }
                }
                let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                latency.push(us);
                voted.push((voted_ms * 1e3) as u64);
            }
            anyhow::Ok((latency, voted, declined, failed))
        });
    }
    let (mut all, mut voted) = (histogram()?, histogram()?);
    let (mut declined, mut failed) = (0, 0);
    while let Some(task) = tasks.join_next().await {
        let (latency, votes, refused, lost) = task??;
        (declined, failed) = (declined + refused, failed + lost);
        for (histogram, values) in [(&mut all, latency), (&mut voted, votes)] {
            for value in values {
                histogram.saturating_record(value);
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let (cpu_ms_own, cpu_ms_others) = Cpu::since(cpu, all.len());
    Ok(Run {
        committed: all.len(),
        declined,
        failed,
        seconds,
        transfers_per_second: all.len() as f64 / seconds,
        answer_ms_p50: all.value_at_quantile(0.5) as f64 / 1e3,
        answer_ms_p99: all.value_at_quantile(0.99) as f64 / 1e3,
        voted_ms_p50: voted.value_at_quantile(0.5) as f64 / 1e3,
        cpu_ms_own,
        cpu_ms_others,
    })
}

/// Of microseconds, up to a minute.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}
