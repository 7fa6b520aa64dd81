//! What everything in one run shares: chance, virtual time, the trace, the counts.
//!
//! One generator serves every draw. The run has one thread and a paused clock, so draws come in the
//! same order every time, and the seed is the whole story.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::history::History;
use super::profile::Profile;
use crate::coordinator::Clock;
use crate::models::serving::{self, Serving};
use crate::txn::Timestamp;

/// The wall clock's reading when a run starts: any will do, since nothing depends on it.
const WALL_START_MICROS: i64 = 1_767_225_600_000_000;

/// How often what happened in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) crashes: u64,
    pub(super) takeovers: u64,
    pub(super) pauses: u64,
    pub(super) partitions: u64,
    pub(super) participant_crashes: u64,
    pub(super) failed_syncs: u64,
    pub(super) clock_jumps: u64,
    pub(super) messages: u64,
    pub(super) messages_lost: u64,
    pub(super) messages_duplicated: u64,
}

/// One run's shared state.
pub(super) struct World {
    pub(super) profile: Profile,
    pub(super) serving: Arc<Serving>,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    rng: ChaCha8Rng,
    healed: bool,
    wall_offset_micros: i64,
    counts: Counts,
    history: History,
    trace: Option<Vec<String>>,
}

impl World {
    /// To be called within the run's runtime, whose clock it reads.
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let profile = Profile::draw(&mut rng);
        let state = State {
            rng,
            healed: false,
            wall_offset_micros: 0,
            counts: Counts::default(),
            history: History::default(),
            trace: traced.then(Vec::new),
        };
        let clock: serving::Clock = Arc::new(|| Duration::ZERO);
        let serving = Arc::new(Serving::new(serving::Options::with_clock(clock)));
        Self { profile, serving, started: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Virtual time since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// True with a probability.
    pub(super) fn chance(&self, probability: f64) -> bool {
        self.state().rng.random::<f64>() < probability
    }

    /// True with a probability, never after heal.
    pub(super) fn fault(&self, probability: f64) -> bool {
        let mut state = self.state();
        !state.healed && state.rng.random::<f64>() < probability
    }

    /// A whole number from `low` to `high`, both included.
    pub(super) fn between(&self, low: u64, high: u64) -> u64 {
        self.state().rng.random_range(low..=high)
    }

    /// A length of whole milliseconds, the timer's resolution.
    pub(super) fn milliseconds(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    pub(super) fn healed(&self) -> bool {
        self.state().healed
    }

    pub(super) fn heal(&self) {
        self.state().healed = true;
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.state().counts);
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Works on the history of what was seen at the boundaries.
    pub(super) fn history<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.state().history)
    }

    /// Notes a line; the text is only made when somebody reads it.
    pub(super) fn trace(&self, text: impl FnOnce() -> String) {
        let now = self.now();
        if let Some(trace) = &mut self.state().trace {
            trace.push(format!("{:9.3} {}", now.as_secs_f64(), text()));
        }
    }

    pub(super) fn take_trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    /// Moves the wall clock; time itself goes on as before.
    pub(super) fn jump_clock(&self, micros: i64) {
        let mut state = self.state();
        state.wall_offset_micros += micros;
        state.counts.clock_jumps += 1;
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        let micros = i64::try_from(World::now(self).as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(WALL_START_MICROS + micros + self.state().wall_offset_micros)
    }
}
