//! A model disk: writes are queued, a sync takes time, and only what was synced survives a crash.
//!
//! A crash keeps some of the unsynced batches, in their order and each as a whole, as the store
//! below the real log and ledger does: it is atomic by batch. A failed sync poisons the disk: what
//! was queued may be kept or not, which shows when it is opened again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use super::world::World;
use crate::mutation::{Mutation, on};

/// What a disk holds, as far as it is durable.
pub(super) trait Content: Clone + Send + 'static {
    /// One atomic write.
    type Batch: Send + 'static;

    /// A batch has become durable.
    fn apply(&mut self, batch: &Self::Batch, world: &World);
}

/// A write failed, and the disk takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Poisoned;

/// Resolves when a write is durable; its sender is dropped when the machine stops before.
pub(super) type Durable = oneshot::Receiver<Result<(), Poisoned>>;

type Waiting = oneshot::Sender<Result<(), Poisoned>>;

/// A disk that outlives the processes that use it.
pub(super) struct Disk<C: Content> {
    world: Arc<World>,
    name: String,
    sync_fails: f64,
    state: Mutex<State<C>>,
}

struct State<C: Content> {
    durable: C,
    queue: VecDeque<(Option<C::Batch>, Option<Waiting>)>,
    syncing: bool,
    poisoned: bool,
    /// How often it was opened: a sync of an earlier opening does nothing.
    opening: u64,
}

impl<C: Content> Disk<C> {
    pub(super) fn new(world: Arc<World>, name: String, sync_fails: f64, content: C) -> Arc<Self> {
        let state = State {
            durable: content,
            queue: VecDeque::new(),
            syncing: false,
            poisoned: false,
            opening: 0,
        };
        Arc::new(Self { world, name, sync_fails, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().expect("no panic while held")
    }

    /// Queues a batch, or with `None` only waits for what is queued before.
    pub(super) fn write(self: &Arc<Self>, batch: Option<C::Batch>) -> Durable {
        let (sender, durable) = oneshot::channel();
        let mut state = self.state();
        if state.poisoned {
            let _ = sender.send(Err(Poisoned));
            return durable;
        }
        if batch.is_none() && state.queue.is_empty() {
            let _ = sender.send(Ok(()));
            return durable;
        }
        state.queue.push_back((batch, Some(sender)));
        if !state.syncing {
            state.syncing = true;
            tokio::spawn(self.clone().sync(state.opening));
        }
        durable
    }

    async fn sync(self: Arc<Self>, opening: u64) {
        loop {
            let count = self.state().queue.len();
            tokio::time::sleep(self.world.milliseconds(1, self.world.profile.sync_ms_max)).await;
            let fails = self.world.fault(self.sync_fails);
            let mut state = self.state();
            if state.opening != opening {
                return;
            }
            if fails && on(Mutation::FailedSyncIsIgnored) {
                let lost: Vec<_> = state.queue.drain(..count).collect();
                for sender in lost.into_iter().filter_map(|(_, sender)| sender) {
                    let _ = sender.send(Ok(()));
                }
            } else if fails {
                self.world.count(|counts| counts.failed_syncs += 1);
                self.world.trace(|| format!("{}: a sync fails", self.name));
                state.poisoned = true;
                for (_, sender) in &mut state.queue {
                    sender.take().map(|sender| sender.send(Err(Poisoned)));
                }
                return;
            }
            for _ in 0..count.min(state.queue.len()) {
                let (batch, sender) = state.queue.pop_front().expect("counted before");
                if let Some(batch) = &batch {
                    state.durable.apply(batch, &self.world);
                }
                sender.map(|sender| sender.send(Ok(())));
            }
            if state.queue.is_empty() {
                state.syncing = false;
                return;
            }
        }
    }

    /// The machine stops: a part of what was queued becomes durable, the rest is lost.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.opening += 1;
        let kept = self.world.between(0, state.queue.len() as u64);
        let queue = std::mem::take(&mut state.queue);
        let lost = queue.len() - kept as usize;
        for (batch, _) in queue.into_iter().take(kept as usize) {
            if let Some(batch) = &batch {
                state.durable.apply(batch, &self.world);
            }
        }
        state.syncing = false;
        state.poisoned = false;
        if kept > 0 || lost > 0 {
            self.world.trace(|| format!("{}: {kept} unsynced writes kept, {lost} lost", self.name));
        }
    }

    /// Looks at what is durable.
    pub(super) fn read<T>(&self, look: impl FnOnce(&C) -> T) -> T {
        look(&self.state().durable)
    }

    /// Writes durably at once: only while nobody else writes, as when a store is opened.
    pub(super) fn write_through(&self, batch: &C::Batch) {
        self.state().durable.apply(batch, &self.world);
    }

    pub(super) fn poisoned(&self) -> bool {
        self.state().poisoned
    }
}
