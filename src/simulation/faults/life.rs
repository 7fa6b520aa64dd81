//! One life of a coordinator's process: whether it runs, is paused, or is dead.
//!
//! The tasks of a dead process are not ended; they are cut off. Whatever crosses its boundary
//! (messages, disk, answers) passes the gate first, and a dead one's stays shut. So a process can
//! also be paused, and can outlive the loss of its disk to another.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::world::World;

/// A process, from its start to its death.
pub(super) struct Life {
    /// 1, 2, …
    pub(super) number: u64,
    condition: Mutex<Condition>,
    over: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Condition {
    dead: bool,
    /// Another process has opened the log.
    lost_disk: bool,
    paused_until: Option<Instant>,
}

impl Life {
    pub(super) fn new(number: u64) -> Self {
        Self { number, condition: Mutex::default(), over: watch::Sender::new(false) }
    }

    fn condition(&self) -> Condition {
        *self.condition.lock().expect("no panic while held")
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        change(&mut self.condition.lock().expect("no panic while held"));
    }

    pub(super) fn is_dead(&self) -> bool {
        self.condition().dead
    }

    pub(super) fn has_lost_disk(&self) -> bool {
        self.condition().lost_disk
    }

    pub(super) fn kill(&self) {
        self.change(|condition| condition.dead = true);
        self.over.send_replace(true);
    }

    pub(super) fn lose_disk(&self) {
        self.change(|condition| condition.lost_disk = true);
        self.over.send_replace(true);
    }

    /// Whether it is dead, or goes on without the log.
    pub(super) fn is_over(&self) -> bool {
        let condition = self.condition();
        condition.dead || condition.lost_disk
    }

    pub(super) fn pause(&self, duration: Duration) {
        let until = Instant::now() + duration;
        self.change(|condition| condition.paused_until = Some(until));
    }

    /// Passes while the process runs: waits out a pause, and for ever in a dead one.
    pub(super) async fn gate(&self) {
        loop {
            let condition = self.condition();
            if condition.dead {
                return std::future::pending().await;
            }
            match condition.paused_until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Resolves when it is over.
    pub(super) async fn end(&self) {
        let mut over = self.over.subscribe();
        over.wait_for(|over| *over).await.expect("the sender is ours");
    }

    /// A step at which the process may die; answers whether it is dead now.
    pub(super) fn crash_point(&self, world: &World) -> bool {
        if self.is_dead() {
            return true;
        }
        let crashes = !self.has_lost_disk() && world.fault(world.profile.crash_at_step);
        if crashes {
            world.count(|counts| counts.crashes += 1);
            world.trace(|| format!("coordinator {}: crashes at this step", self.number));
            self.kill();
        }
        crashes
    }
}
