//! Which faults a run has, and how many of them.
//!
//! Each seed draws its own mix: a run with every fault at once would hide what needs long quiet
//! stretches, a run with few would miss what needs two at a time.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::policy::coalescing::Strategy;

/// What the nemesis does, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    CrashCoordinator,
    StopCoordinator,
    PauseCoordinator,
    /// Another coordinator opens the log while the one before is alive.
    TakeOver,
    CrashParticipant,
    PauseParticipant,
    Partition,
    JumpClock,
}

const FAULTS: [Fault; 8] = [
    Fault::CrashCoordinator,
    Fault::StopCoordinator,
    Fault::PauseCoordinator,
    Fault::TakeOver,
    Fault::CrashParticipant,
    Fault::PauseParticipant,
    Fault::Partition,
    Fault::JumpClock,
];

/// The mix of one run. Shares are probabilities of each single event.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) participants: usize,
    pub(super) clients: usize,
    pub(super) transfers_each: usize,
    /// How long faults go on.
    pub(super) faulty_for: Duration,
    /// The longest pause between two acts of the nemesis, in milliseconds.
    pub(super) nemesis_ms_max: u64,
    pub(super) nemesis: Vec<Fault>,
    pub(super) lost: f64,
    pub(super) duplicated: f64,
    /// Messages that take up to [`super::network::DELAY_MS_MAX`].
    pub(super) slow: f64,
    /// Steps at which the coordinator dies.
    pub(super) crash_at_step: f64,
    pub(super) log_sync_fails: f64,
    pub(super) participant_sync_fails: f64,
    /// Branches that a participant refuses for no reason of the client's.
    pub(super) refused: f64,
    pub(super) sync_ms_max: u64,
    /// The longest pause of a client between two transfers, in milliseconds.
    pub(super) think_ms_max: u64,
    /// How often the coordinator looks at what stands prepared, in milliseconds.
    pub(super) scan_interval_ms: u64,
    /// How long its start-up waits for recovery, in milliseconds.
    pub(super) recovery_wait_ms: u64,
    /// How transactions travel together.
    pub(super) strategy: Strategy,
    /// How many arrive at once.
    pub(super) burst_max: usize,
}

impl Profile {
    pub(super) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let nemesis = FAULTS.into_iter().filter(|_| rng.random::<f64>() < 0.5).collect();
        let mut share = |often: f64, max: f64| {
            let (on, size) = (rng.random::<f64>() < often, rng.random::<f64>());
            if on { size * max } else { 0.0 }
        };
        let lost = share(0.7, 0.1);
        let duplicated = share(0.6, 0.1);
        let slow = share(0.6, 0.15);
        let crash_at_step = share(0.6, 0.015);
        let log_sync_fails = share(0.3, 0.02);
        let participant_sync_fails = share(0.3, 0.01);
        let refused = share(0.3, 0.05);
        Self {
            participants: rng.random_range(2..=3),
            clients: rng.random_range(2..=8),
            transfers_each: rng.random_range(6..=20),
            faulty_for: Duration::from_millis(rng.random_range(2_000..=8_000)),
            nemesis_ms_max: rng.random_range(200..=1_500),
            nemesis,
            lost,
            duplicated,
            slow,
            crash_at_step,
            log_sync_fails,
            participant_sync_fails,
            refused,
            sync_ms_max: rng.random_range(2..=20),
            think_ms_max: rng.random_range(20..=600),
            scan_interval_ms: rng.random_range(20..=1_500),
            recovery_wait_ms: rng.random_range(1..=1_000),
            strategy: Strategy::ALL[rng.random_range(0..Strategy::ALL.len())],
            burst_max: rng.random_range(1..=4),
        }
    }
}
