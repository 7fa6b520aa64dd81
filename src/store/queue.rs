//! The bounded queue between callers and the writer thread.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use tokio::sync::oneshot;

use super::gather::Expected;
use super::{Batch, Error, Options, Snapshot};

/// Whether a batch starts a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Flushed as soon as the writer is free.
    Urgent,
    /// Flushed with the next urgent batch, or after `lazy_flush_after`.
    Lazy,
}

/// A queued batch; resolves when it is durable, with the sequences of its appended values.
#[derive(Debug)]
#[must_use = "the batch is queued either way, but only this tells when it is durable"]
pub struct Write {
    ticket: u64,
    receiver: oneshot::Receiver<Result<Vec<u64>, Error>>,
    shared: Arc<Shared>,
}

impl Write {
    /// Its place in the order of durability.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Blocks the thread until it is durable: for start-up and the command line.
    pub fn wait(self) -> Result<Vec<u64>, Error> {
        block_on(self)
    }
}

/// Runs a future of this module on the current thread, inside or outside a runtime.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl Future for Write {
    type Output = Result<Vec<u64>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let received = std::task::ready!(Pin::new(&mut self.receiver).poll(context));
        Poll::Ready(received.unwrap_or_else(|_| Err(self.shared.gone())))
    }
}

/// A caller that will write soon, while this lives. Drop it after the write was submitted.
#[derive(Debug)]
pub struct Announced {
    shared: Arc<Shared>,
    /// The flush that was next when it was announced.
    flush: u64,
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.expected.arrive(self.flush);
        state.wake_if_gathered(&self.shared.ready);
    }
}

#[derive(Debug)]
pub(super) struct Request {
    pub batch: Batch,
    pub urgency: Urgency,
    pub reply: Reply,
    pub ticket: u64,
}

pub(super) enum Reply {
    Write(oneshot::Sender<Result<Vec<u64>, Error>>),
    Snapshot(oneshot::Sender<Result<Snapshot, Error>>),
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Write(_)) { "Write" } else { "Snapshot" })
    }
}

impl Reply {
    pub fn fail(self, error: Error) {
        // A caller that stopped waiting needs no answer.
        match self {
            Self::Write(sender) => drop(sender.send(Err(error))),
            Self::Snapshot(sender) => drop(sender.send(Err(error))),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub requests: VecDeque<Request>,
    pub bytes: usize,
    /// How many of `requests` are urgent.
    pub urgent: usize,
    /// When the oldest lazy batch of an otherwise empty queue came.
    pub lazy_since: Option<Instant>,
    pub closed: bool,
    /// The writer waits on `ready` for anything to do.
    pub idle: bool,
    /// The writer waits on `ready` for those who will write soon.
    pub gathering: bool,
    pub expected: Expected,
    next_ticket: u64,
}

/// What callers and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub ready: Condvar,
    pub durable: AtomicU64,
    pub flushes: AtomicU64,
    pub writes: AtomicU64,
    poison: OnceLock<Arc<str>>,
    count_max: usize,
    bytes_max: usize,
}

impl Shared {
    pub fn new(options: &Options) -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            durable: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            poison: OnceLock::new(),
            count_max: options.queue_count_max,
            bytes_max: options.queue_bytes_max,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn submit(self: &Arc<Self>, batch: Batch, urgency: Urgency) -> Result<Write, Error> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.push(batch, urgency, Reply::Write(sender))?;
        Ok(Write { ticket, receiver, shared: Arc::clone(self) })
    }

    pub fn push(&self, batch: Batch, urgency: Urgency, reply: Reply) -> Result<u64, Error> {
        let mut state = self.lock();
        if let Some(error) = self.poison() {
            return Err(error);
        }
        if state.closed {
            return Err(Error::Closed);
        }
        if state.requests.len() >= self.count_max {
            return Err(Error::Full { queued: state.requests.len(), limit: self.count_max });
        }
        if state.bytes + batch.bytes > self.bytes_max {
            return Err(Error::Full { queued: state.bytes + batch.bytes, limit: self.bytes_max });
        }
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        state.bytes += batch.bytes;
        let wakes = match urgency {
            Urgency::Urgent => {
                state.urgent += 1;
                true
            }
            Urgency::Lazy => state.note_lazy(),
        };
        state.requests.push_back(Request { batch, urgency, reply, ticket });
        if wakes && std::mem::take(&mut state.idle) {
            drop(state);
            self.ready.notify_one();
        } else {
            state.wake_if_gathered(&self.ready);
        }
        Ok(ticket)
    }

    pub fn announce(this: &Arc<Self>) -> Announced {
        let flush = this.lock().expected.announce();
        Announced { shared: Arc::clone(this), flush }
    }

    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        (state.idle, state.gathering) = (false, false);
        drop(state);
        self.ready.notify_one();
    }

    pub fn set_poison(&self, cause: &str) {
        let _first_cause_stays = self.poison.set(Arc::from(cause));
    }

    pub fn poison(&self) -> Option<Error> {
        self.poison.get().map(|cause| Error::Poisoned { cause: Arc::clone(cause) })
    }

    /// Why writes are refused now, if they are.
    pub fn refusal(&self) -> Option<Error> {
        self.poison().or_else(|| self.lock().closed.then_some(Error::Closed))
    }

    /// Why a reply never came.
    pub fn gone(&self) -> Error {
        self.poison().unwrap_or(Error::Closed)
    }
}

impl State {
    /// Whether nobody is worth waiting for: one writer, as far as can be seen, or none in step.
    pub fn alone(&self) -> bool {
        let in_step = self.expected.usual;
        self.missing() == 0 && (in_step == 0 || (self.urgent == 1 && in_step == 1))
    }

    /// How many are likely to write soon and have not.
    pub fn missing(&self) -> usize {
        self.expected.announced.max(self.expected.usual.saturating_sub(self.urgent))
    }

    /// Wakes a gathering writer that has nobody left to wait for.
    fn wake_if_gathered(&mut self, ready: &Condvar) {
        if self.gathering && self.missing() == 0 {
            self.gathering = false;
            ready.notify_one();
        }
    }

    /// Starts the clock of lazy batches; true if it was not running.
    #[allow(clippy::disallowed_methods, reason = "bounds how long a lazy batch waits")]
    fn note_lazy(&mut self) -> bool {
        let first = self.lazy_since.is_none();
        self.lazy_since.get_or_insert_with(Instant::now);
        first
    }
}
