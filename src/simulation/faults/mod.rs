//! The fault simulator: the real coordinator in a world where everything fails, from one seed.
//!
//! # What is real and what is simulated
//! `coordinator` runs as it is, with its engines, driver, recovery and scan. It stands on a paused
//! tokio clock, so that waiting costs nothing and one seed gives one trace; on a decision log with a
//! model disk; and on model participants behind a faulty network. The embedded log and ledger and
//! the database drivers are not in it: they have tests against real disks and servers.
//!
//! # Faults
//! Messages are lost, repeated, overtaken, late by seconds; participants are cut off, paused,
//! crash; the coordinator crashes at chosen steps and at any time, is paused, stopped in order, or
//! taken over by another while it is alive; syncs fail; unsynced writes are lost or kept in part,
//! by batch; the wall clock jumps. Then everything heals, and what is open must be resolved within
//! [`HEAL_BOUND`].
//!
//! # Who judges
//! `history` and `checkers` share no code with the coordinator and see only what crossed its
//! boundaries. A log folder copied while its owner decides is out of their scope: two logs that
//! both decide cannot be told from two truths.

mod books;
mod checkers;
mod clients;
mod disk;
mod history;
mod life;
mod log;
mod nemesis;
mod network;
mod profile;
mod run;
mod server;
mod site;
mod stub;
mod world;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde::Serialize;

pub use run::HEAL_BOUND;
use run::Ran;

/// The last lines of a trace that a failure shows.
const TAIL: usize = 60;
/// The most failures whose traces are kept.
const FAILURES_MAX: usize = 10;

/// A seed that broke an invariant.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was broken, each with the invariant's number.
    pub violations: Vec<String>,
    /// The last events before the end.
    pub trace: Vec<String>,
}

/// What all runs came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Runs.
    pub seeds: u64,
    /// Runs that broke an invariant.
    pub violations: u64,
    /// Coordinators that died without warning.
    pub crashes: u64,
    /// Times that a participant was cut off.
    pub partitions: u64,
    /// Messages that never arrived.
    pub messages_lost: u64,
    /// The longest from heal until everything was resolved, in milliseconds of virtual time.
    pub worst_heal_ms: u64,
    /// The seed that took it.
    pub worst_heal_seed: u64,
    /// Keys that clients submitted.
    pub transactions: u64,
    /// Those answered as committed.
    pub committed: u64,
    /// Coordinators taken over while alive.
    pub takeovers: u64,
    /// Coordinators paused.
    pub pauses: u64,
    /// Participants that crashed.
    pub participant_crashes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Jumps of the wall clock.
    pub clock_jumps: u64,
    /// Messages and answers sent.
    pub messages: u64,
    /// Those that arrived twice.
    pub messages_duplicated: u64,
    /// The first failures, by seed.
    pub failures: Vec<Failure>,
}

/// Runs one seed and gives its whole trace.
pub fn trace(seed: u64) -> (Summary, Vec<String>) {
    let ran = run::run(seed, true);
    let mut summary = Summary::default();
    summary.add(&ran);
    if !ran.violations.is_empty() {
        summary.failures.push(failure(&ran));
    }
    (summary, ran.trace)
}

/// Runs a range of seeds on `threads` threads; `progress` hears of every finished one.
pub fn simulate(seeds: Range<u64>, threads: usize, progress: &(dyn Fn() + Sync)) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Summary::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let ran = run::run(seed, false);
                    let mut total = total.lock().expect("no panic while held");
                    total.add(&ran);
                    progress();
                }
            });
        }
    });
    let mut summary = total.into_inner().expect("no panic while held");
    summary.failures.sort_by_key(|failure| failure.seed);
    summary.failures.truncate(FAILURES_MAX);
    // The same seed does the same again, with its trace.
    for known in &mut summary.failures {
        *known = failure(&run::run(known.seed, true));
    }
    summary
}

fn failure(ran: &Ran) -> Failure {
    let tail = ran.trace.len().saturating_sub(TAIL);
    Failure {
        seed: ran.seed,
        violations: ran.violations.clone(),
        trace: ran.trace[tail..].to_vec(),
    }
}

impl Summary {
    fn add(&mut self, ran: &Ran) {
        let counts = &ran.counts;
        self.seeds += 1;
        self.crashes += counts.crashes;
        self.partitions += counts.partitions;
        self.messages_lost += counts.messages_lost;
        self.transactions += ran.transactions;
        self.committed += ran.committed;
        self.takeovers += counts.takeovers;
        self.pauses += counts.pauses;
        self.participant_crashes += counts.participant_crashes;
        self.failed_syncs += counts.failed_syncs;
        self.clock_jumps += counts.clock_jumps;
        self.messages += counts.messages;
        self.messages_duplicated += counts.messages_duplicated;
        let heal_ms = u64::try_from(ran.healed_in.as_millis()).unwrap_or(u64::MAX);
        let worse = heal_ms > self.worst_heal_ms;
        if worse || (heal_ms == self.worst_heal_ms && ran.seed < self.worst_heal_seed) {
            (self.worst_heal_ms, self.worst_heal_seed) = (heal_ms, ran.seed);
        }
        if !ran.violations.is_empty() {
            self.violations += 1;
            let (seed, violations) = (ran.seed, ran.violations.clone());
            self.failures.push(Failure { seed, violations, trace: Vec::new() });
        }
    }
}
