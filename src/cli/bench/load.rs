//! Load in a closed or an open loop, and what was seen of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::arrivals::{Arrivals, Spacing};
use super::cpu::Cpu;

/// The longest latency that is told from longer ones, in microseconds: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Numbers of everything that is done; no two of one process are the same.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// How work comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Load {
    /// Clients that each do one thing after the other.
    Closed { clients: usize },
    /// Arrivals at instants that do not depend on what became of earlier ones.
    Open(Open),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Open {
    /// Arrivals a second.
    pub(super) rate: f64,
    pub(super) spacing: Spacing,
    /// Who serves them; an arrival waits for one that is idle, which belongs to its latency.
    pub(super) clients: usize,
    /// Arrivals that find as many in flight, waiting ones included, are refused.
    pub(super) in_flight_max: usize,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) committed: u64,
    /// Declined for want of money, as it should be.
    pub(super) declined: u64,
    /// Ended otherwise than it should, such as by a timeout under overload.
    pub(super) failed: u64,
    /// Of an open loop: arrivals for which there was no room.
    pub(super) refused: u64,
    pub(super) seconds: f64,
    pub(super) transfers_per_second: f64,
    /// Of those that committed: in an open loop from when it was meant to start, in a closed one
    /// from when it did.
    pub(super) answer_ms_p50: f64,
    pub(super) answer_ms_p99: f64,
    pub(super) answer_ms_p999: f64,
    /// Until every participant had voted, from when it did start.
    pub(super) voted_ms_p50: f64,
    /// Processor time a transfer, user and system: of this process, clients included, and of all
    /// else on the machine, which should be the servers. `None` off Linux.
    pub(super) cpu_ms_own: Option<f64>,
    pub(super) cpu_ms_others: Option<f64>,
    /// Flushes a transfer: of our decision log (the bare protocol has none), and of the
    /// participants. A database's are those of its whole server from before the load until its
    /// sessions are closed, over all transfers in that time. `None` where they cannot be known.
    pub(super) flushes_own: Option<f64>,
    pub(super) flushes_participants: Option<f64>,
}

/// How one thing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Committed,
    Declined,
    Failed,
}

/// Puts load on `work`, which gets a client's and a thing's number, and answers how it ended, and
/// after how many milliseconds all had voted. The first error ends everything.
pub(super) async fn run<W, F>(load: Load, length: Duration, work: W) -> anyhow::Result<Run>
where
    W: Fn(usize, u64) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<(Ended, f64)>> + Send,
{
    let (started, cpu) = (Instant::now(), Cpu::now());
    let tally = match load {
        Load::Closed { clients } => closed_loop(clients, started + length, work).await?,
        Load::Open(open) => open_loop(open, length, work).await?,
    };
    Ok(tally.into_run(started.elapsed().as_secs_f64(), cpu))
}

async fn closed_loop<W, F>(clients: usize, until: Instant, work: W) -> anyhow::Result<Tally>
where
    W: Fn(usize, u64) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<(Ended, f64)>> + Send,
{
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let work = work.clone();
        tasks.spawn(async move {
            // Small: there may be thousands of clients.
            let mut all = Vec::new();
            while Instant::now() < until {
                let started = Instant::now();
                let (ended, voted_ms) = work(client, NEXT.fetch_add(1, Ordering::Relaxed)).await?;
                all.push((ended, started.elapsed(), voted_ms));
            }
            anyhow::Ok(all)
        });
    }
    let mut tally = Tally::new()?;
    while let Some(task) = tasks.join_next().await {
        for (ended, latency, voted_ms) in task?? {
            tally.add(ended, latency, voted_ms);
        }
    }
    Ok(tally)
}

/// What the arrivals of an open loop share.
struct Shared {
    tally: Mutex<anyhow::Result<Tally>>,
    failed: AtomicBool,
    idle: Mutex<Vec<usize>>,
    clients: Semaphore,
    room: Arc<Semaphore>,
}

async fn open_loop<W, F>(open: Open, length: Duration, work: W) -> anyhow::Result<Tally>
where
    W: Fn(usize, u64) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<(Ended, f64)>> + Send,
{
    let shared = Arc::new(Shared {
        tally: Mutex::new(Tally::new()),
        failed: AtomicBool::new(false),
        idle: Mutex::new((0..open.clients).collect()),
        clients: Semaphore::new(open.clients),
        room: Arc::new(Semaphore::new(open.in_flight_max)),
    });
    let (sharing, runtime) = (shared.clone(), Handle::current());
    // In a thread: timers of the runtime are a millisecond coarse, which latencies would show.
    let arrivals = tokio::task::spawn_blocking(move || {
        let (started, mut refused) = (Instant::now(), 0);
        for offset in Arrivals::new(open.rate, open.spacing).take_while(|at| *at < length) {
            let due = started + offset;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sharing.failed.load(Ordering::Relaxed) {
                break;
            }
            let Ok(place) = sharing.room.clone().try_acquire_owned() else {
                refused += 1;
                continue;
            };
            let (shared, work) = (sharing.clone(), work.clone());
            runtime.spawn(async move {
                serve(&shared, due, work).await;
                drop(place);
            });
        }
        refused
    });
    let refused = arrivals.await?;
    // Everything in flight has ended once all places are free.
    let _all = shared.room.acquire_many(u32::try_from(open.in_flight_max)?).await?;
    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tally = std::mem::replace(&mut *tally, Tally::new())?;
    tally.refused = refused;
    Ok(tally)
}

/// One arrival, by the client that is idle first.
async fn serve<W, F>(shared: &Shared, due: Instant, work: W)
where
    W: Fn(usize, u64) -> F,
    F: Future<Output = anyhow::Result<(Ended, f64)>>,
{
    let permit = shared.clients.acquire().await.expect("it is never closed");
    let idle = || shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
    let client = idle().pop().expect("as many are idle as there are permits");
    let done = work(client, NEXT.fetch_add(1, Ordering::Relaxed)).await;
    let latency = due.elapsed();
    idle().push(client);
    drop(permit);
    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    match (done, tally.as_mut()) {
        (Ok((ended, voted_ms)), Ok(tally)) => tally.add(ended, latency, voted_ms),
        (Ok(_), Err(_)) => {}
        (Err(error), _) => {
            shared.failed.store(true, Ordering::Relaxed);
            *tally = Err(error);
        }
    }
}

struct Tally {
    latency_us: Histogram<u64>,
    voted_us: Histogram<u64>,
    declined: u64,
    failed: u64,
    refused: u64,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).context("no histogram");
        let (latency_us, voted_us) = (histogram()?, histogram()?);
        Ok(Self { latency_us, voted_us, declined: 0, failed: 0, refused: 0 })
    }

    fn add(&mut self, ended: Ended, latency: Duration, voted_ms: f64) {
        match ended {
            Ended::Committed => {
                let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(us);
                self.voted_us.saturating_record((voted_ms * 1e3) as u64);
            }
            Ended::Declined => self.declined += 1,
            Ended::Failed => self.failed += 1,
        }
    }

    fn into_run(self, seconds: f64, cpu: Option<Cpu>) -> Run {
        let committed = self.latency_us.len();
        let (cpu_ms_own, cpu_ms_others) = Cpu::since(cpu, committed);
        let ms = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1e3;
        Run {
            committed,
            declined: self.declined,
            failed: self.failed,
            refused: self.refused,
            seconds,
            transfers_per_second: committed as f64 / seconds,
            answer_ms_p50: ms(&self.latency_us, 0.5),
            answer_ms_p99: ms(&self.latency_us, 0.99),
            answer_ms_p999: ms(&self.latency_us, 0.999),
            voted_ms_p50: ms(&self.voted_us, 0.5),
            cpu_ms_own,
            cpu_ms_others,
            flushes_own: None,
            flushes_participants: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn open(clients: usize, in_flight_max: usize) -> Load {
        Load::Open(Open { rate: 1e3, spacing: Spacing::Fixed, clients, in_flight_max })
    }

    #[tokio::test]
    async fn every_arrival_is_served_or_refused_and_no_client_serves_two_at_once() {
        let busy: Arc<[AtomicUsize; 2]> = Arc::default();
        let run = run(open(2, 4), Duration::from_millis(100), move |client, n| {
            let busy = busy.clone();
            async move {
                assert_eq!(busy[client].fetch_add(1, Ordering::SeqCst), 0);
                tokio::time::sleep(Duration::from_millis(5)).await;
                busy[client].fetch_sub(1, Ordering::SeqCst);
                let ended = [Ended::Committed, Ended::Declined, Ended::Failed];
                Ok((ended[(n % 3) as usize], 0.0))
            }
        });
        let run = run.await.unwrap();
        assert_eq!(run.committed + run.declined + run.failed + run.refused, 100);
        assert!(run.refused > 0 && run.committed > 0 && run.declined > 0, "{run:?}");
    }

    #[tokio::test]
    async fn a_stall_is_seen_by_all_that_were_meant_to_start_during_it() {
        let first = Arc::new(AtomicBool::new(true));
        let stalls = move |_, _| {
            let stall = first.swap(false, Ordering::SeqCst);
            async move {
                if stall {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok((Ended::Committed, 0.0))
            }
        };
        let run = run(open(1, 1_000), Duration::from_millis(100), stalls).await.unwrap();
        assert_eq!(run.committed, 100);
        // The one in the middle was meant to start half way through the stall.
        assert!(run.answer_ms_p50 >= 49.0, "{run:?}");
    }

    #[tokio::test]
    async fn an_error_ends_the_run_and_is_told() {
        let fails = |_, _| async { anyhow::bail!("no such account") };
        let error = run(open(1, 8), Duration::from_mins(1), fails).await.unwrap_err();
        assert_eq!(error.to_string(), "no such account");
    }
}
