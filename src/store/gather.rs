//! When a flush waits, and for whom: the rule of group commit.
//!
//! Transactions of a closed loop go round in step: all prepare, all are decided, all answered. A
//! flush that waits for the last of them serves them all; one that goes early parts them, and every
//! part pays for flushes of its own. So the writer waits for whoever is known to be on the way,
//! within bounds that a flush's own time sets.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::queue::{Shared, State};
use super::writer::{elapsed, now};

/// Waiting for a missing writer ends when nobody came for so many flushes' time: between a write
/// and the next of the same transaction usually lies a flush of another store.
const QUIET_FLUSHES: u32 = 3;
const QUIET_MIN: Duration = Duration::from_millis(2);
const QUIET_MAX: Duration = Duration::from_millis(20);
/// When nobody is missing, it ends as soon as nobody came for this part of a flush's time: whoever
/// was just answered may be about to announce the next write.
const SETTLE_DIVISOR: u32 = 4;
const SETTLE_MIN: Duration = Duration::from_micros(100);
const SETTLE_MAX: Duration = Duration::from_millis(1);
/// Nobody waits for longer than so many flushes' time in all, nor begins a while of waiting if the
/// missing would take longer to come. A flush takes longer the more it writes: where work comes as
/// fast as the processor gives it, waits and flushes grow until everybody is in; where it trickles
/// in from slow participants, both stay short.
const WAIT_FLUSHES: u32 = 6;
const WAIT_MAX: Duration = Duration::from_millis(100);
/// So many waits in a row may be in vain.
const VAIN_MAX: u32 = 4;
/// After more of them, so many flushes go without one, at most; it doubles each time.
const SKIP_MAX: u32 = 64;
/// How many flushes an announced writer may let pass before it is no longer waited for.
const FLUSHES_AWAITED: usize = 4;

/// What the writer knows of flushes and waits so far.
#[derive(Debug)]
pub(super) struct Gather {
    /// The longest flush lately, fading.
    flush_time: Duration,
    /// Waits in a row that were in vain.
    vain: u32,
    /// Flushes that still go without a wait.
    skip: u32,
    skip_next: u32,
}

impl Default for Gather {
    fn default() -> Self {
        Self { flush_time: Duration::from_millis(1), vain: 0, skip: 0, skip_next: 0 }
    }
}

impl Gather {
    /// Waits for those who are likely to write soon, as long as that is likely to pay.
    pub fn wait<'a>(
        &mut self,
        shared: &'a Shared,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        if state.urgent == 0 || state.alone() {
            return state;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return state;
        }
        let quiet = (self.flush_time * QUIET_FLUSHES).clamp(QUIET_MIN, QUIET_MAX);
        let wait_max = (self.flush_time * WAIT_FLUSHES).clamp(QUIET_MIN, WAIT_MAX);
        let settle = (self.flush_time / SETTLE_DIVISOR).clamp(SETTLE_MIN, SETTLE_MAX);
        let at_first = state.urgent;
        let started = now();
        let (mut since, mut urgent_since) = (started, at_first);
        while !state.closed && elapsed(started) < wait_max {
            let urgent = state.urgent;
            state.gathering = state.missing() > 0;
            let wait = if state.gathering { quiet.saturating_sub(elapsed(since)) } else { settle };
            let left = wait_max.saturating_sub(elapsed(started));
            let waited = shared.ready.wait_timeout(state, wait.min(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let missing = state.missing();
            if missing == 0 {
                if state.urgent == urgent {
                    break;
                }
                continue;
            }
            let passed = elapsed(since);
            if passed < quiet {
                continue;
            }
            let came = state.urgent - urgent_since;
            if came == 0 || elapsed(started) + to_come(passed, missing, came) > wait_max {
                state.expected.usual = state.urgent;
                break;
            }
            (since, urgent_since) = (now(), state.urgent);
        }
        state.gathering = false;
        self.note(state.urgent >= 2 * at_first || state.missing() == 0);
        state
    }

    /// A flush took this long.
    pub fn flush_took(&mut self, time: Duration) {
        self.flush_time = time.max(self.flush_time * 7 / 8);
    }

    fn note(&mut self, paid: bool) {
        if paid {
            (self.vain, self.skip, self.skip_next) = (0, 0, 0);
            return;
        }
        self.vain += 1;
        if self.vain > VAIN_MAX {
            self.skip_next = (self.skip_next * 2).clamp(1, SKIP_MAX);
            self.skip = self.skip_next;
        }
    }
}

/// How long the missing will take, if `came` came in the time that passed.
fn to_come(passed: Duration, missing: usize, came: usize) -> Duration {
    let micros = passed.as_micros().saturating_mul(missing as u128) / came.max(1) as u128;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Who is likely to write soon: those who announced it, and as many as usually do.
///
/// Whoever lets [`FLUSHES_AWAITED`] flushes pass is no longer waited for: it may be held up by
/// something else, for long.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Announced and awaited.
    pub announced: usize,
    /// Urgent batches of those announced in a flush lately: who does not announce, such as
    /// transactions between databases, keeps no step and is not waited for.
    pub usual: usize,
    /// Of those announced, who came since the last flush began.
    came: usize,
    /// The number of the next flush, since the store was opened.
    next_flush: u64,
    /// Of `announced`, those of each of the last flushes, by its number.
    by_flush: [usize; FLUSHES_AWAITED],
}

impl Expected {
    /// One more is announced; gives what [`Expected::arrive`] is told of it.
    pub fn announce(&mut self) -> u64 {
        self.announced += 1;
        self.by_flush[Self::slot(self.next_flush)] += 1;
        self.next_flush
    }

    /// One of those announced has come or given up.
    pub fn arrive(&mut self, flush: u64) {
        self.came += 1;
        if self.next_flush - flush < FLUSHES_AWAITED as u64 {
            self.announced -= 1;
            self.by_flush[Self::slot(flush)] -= 1;
        }
    }

    /// A flush begins with so many urgent batches.
    pub fn flush_begins(&mut self, urgent: usize) {
        self.next_flush += 1;
        let oldest = &mut self.by_flush[Self::slot(self.next_flush)];
        self.announced -= std::mem::take(oldest);
        // Lazy batches are announced, too, and nobody waits for them.
        let in_step = self.came.min(urgent);
        self.usual = in_step.max(self.usual - self.usual.div_ceil(8));
        self.came = 0;
    }

    fn slot(flush: u64) -> usize {
        usize::try_from(flush % FLUSHES_AWAITED as u64).expect("below a small count")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(writers: usize, urgent: usize) -> usize {
        let mut expected = Expected::default();
        for _ in 0..3 {
            let announced: Vec<_> = (0..writers).map(|_| expected.announce()).collect();
            for flush in announced {
                expected.arrive(flush);
            }
            expected.flush_begins(urgent);
        }
        expected.usual
    }

    #[test]
    fn only_urgent_batches_that_were_announced_are_usual() {
        // One transaction at a time announces an urgent batch and a lazy one.
        assert_eq!(usual(2, 1), 1);
        assert_eq!(usual(8, 8), 8);
        // Between databases nobody announces.
        assert_eq!(usual(0, 8), 0);
    }
}
