//! The network between a coordinator and the participants: it loses, repeats, delays and parts.
//!
//! A message travels in a task of its own: whoever sent it may be dead when it arrives. It dies
//! with its connection when the participant restarts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::life::Life;
use super::server::{Reply, Request, Server};
use super::world::World;

/// The longest that a slow message takes, in milliseconds.
pub(super) const DELAY_MS_MAX: u64 = 3_000;
/// The longest that an ordinary message takes, in milliseconds.
const DELAY_MS_USUAL: u64 = 8;
/// How long a caller waits for an answer.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_200);
/// How often a caller can tell that nothing was sent, while the network is parted.
const REFUSED_SHARE: f64 = 0.2;
/// How often a caller whose message is lost hears of it at once.
const RESET_SHARE: f64 = 0.3;
/// How often a message is late because its sender died: it is then that lateness matters most.
const ORPHAN_LATE_SHARE: f64 = 0.3;
/// How often a message that meets a partition waits for its end, as a retransmission does.
const HELD_SHARE: f64 = 0.4;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing was sent.
    Unsent,
    /// It may have been carried out.
    Unknown(&'static str),
}

/// The way to every participant.
pub(super) struct Network {
    pub(super) world: Arc<World>,
    pub(super) servers: Vec<Arc<Server>>,
    state: Mutex<State>,
}

/// From a process to one start of a participant.
struct Way {
    life: Arc<Life>,
    to: usize,
    boot: u64,
}

#[derive(Default)]
struct State {
    /// By participant: until when it is cut off.
    parted_until: Vec<Option<Instant>>,
    /// Prepares and one-phase commits on their way.
    branches_travelling: usize,
}

impl Network {
    pub(super) fn new(world: Arc<World>, servers: Vec<Arc<Server>>) -> Self {
        let state = State { parted_until: vec![None; servers.len()], branches_travelling: 0 };
        Self { world, servers, state: Mutex::new(state) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no panic while held"))
    }

    /// Cuts a participant off for a while.
    pub(super) fn part(&self, to: usize, duration: Duration) {
        self.world.count(|counts| counts.partitions += 1);
        self.change(|state| state.parted_until[to] = Some(Instant::now() + duration));
    }

    pub(super) fn heal(&self) {
        self.change(|state| state.parted_until.fill(None));
    }

    /// Whether a branch may still arrive somewhere.
    pub(super) fn is_quiet(&self) -> bool {
        self.change(|state| state.branches_travelling == 0)
    }

    fn parted(&self, to: usize) -> bool {
        self.change(|state| state.parted_until[to].is_some_and(|until| until > Instant::now()))
    }

    /// Sends a request for a process and waits for the answer.
    pub(super) async fn call(
        self: &Arc<Self>,
        life: &Arc<Life>,
        to: usize,
        request: Request,
    ) -> Result<Reply, Lost> {
        life.gate().await;
        if life.crash_point(&self.world) {
            return std::future::pending().await;
        }
        let boot = self.servers[to].boot();
        let refused = self.parted(to) && self.world.chance(REFUSED_SHARE);
        let Some(boot) = boot.filter(|_| !refused) else {
            return Err(Lost::Unsent);
        };
        self.world.trace(|| {
            format!("coordinator {} -> {}: {request}", life.number, self.servers[to].name)
        });
        self.observe(&request);
        let (sender, mut replies) = mpsc::channel(4);
        let copies = self.copies();
        for _ in 0..copies {
            let way = Way { life: life.clone(), to, boot };
            tokio::spawn(self.clone().exchange(way, request.clone(), sender.clone()));
        }
        drop(sender);
        if life.crash_point(&self.world) {
            return std::future::pending().await;
        }
        let answer = self.wait(&mut replies).await;
        life.gate().await;
        if life.crash_point(&self.world) {
            return std::future::pending().await;
        }
        answer
    }

    /// What goes out counts, whether it arrives or not.
    fn observe(&self, request: &Request) {
        self.world.history(|history| match request {
            Request::Commit(gid) => history.commit_sent(*gid),
            Request::Abort(gid) => history.abort_sent(*gid),
            Request::OnePhase(gid, _) => history.one_phase_sent(*gid),
            _ => {}
        });
    }

    async fn wait(&self, replies: &mut mpsc::Receiver<Reply>) -> Result<Reply, Lost> {
        match tokio::time::timeout(CALL_TIMEOUT, replies.recv()).await {
            Ok(Some(reply)) => return Ok(reply),
            // Every copy is lost, and sometimes that shows at once.
            Ok(None) if self.world.chance(RESET_SHARE) => {
                return Err(Lost::Unknown("the connection was reset"));
            }
            Ok(None) => tokio::time::sleep(CALL_TIMEOUT).await,
            Err(_) => {}
        }
        Err(Lost::Unknown("no answer in time"))
    }

    /// A request's way there and its answer's way back.
    async fn exchange(
        self: Arc<Self>,
        Way { life, to, boot }: Way,
        request: Request,
        sender: mpsc::Sender<Reply>,
    ) {
        let is_branch = matches!(
            request,
            Request::Prepare(..)
                | Request::OnePhase(..)
                | Request::Work { .. }
                | Request::PrepareHeld(_)
        );
        if is_branch {
            self.change(|state| state.branches_travelling += 1);
        }
        let arrives = self.travel(to).await;
        if life.is_over() && self.world.fault(ORPHAN_LATE_SHARE) {
            tokio::time::sleep(self.world.milliseconds(1, DELAY_MS_MAX)).await;
        }
        let reply = if arrives { self.servers[to].receive(boot, request).await } else { None };
        if is_branch {
            self.change(|state| state.branches_travelling -= 1);
        }
        let Some(reply) = reply else { return };
        for _ in 0..self.copies() {
            let (network, sender, reply) = (self.clone(), sender.clone(), reply.clone());
            tokio::spawn(async move {
                if network.travel(to).await {
                    // The caller may have given up.
                    let _ = sender.send(reply).await;
                }
            });
        }
    }

    /// How often a message arrives: once, unless it is lost or repeated.
    fn copies(&self) -> u32 {
        let profile = &self.world.profile;
        self.world.count(|counts| counts.messages += 1);
        if self.world.fault(profile.lost) {
            self.world.count(|counts| counts.messages_lost += 1);
            return 0;
        }
        if self.world.fault(profile.duplicated) {
            self.world.count(|counts| counts.messages_duplicated += 1);
            return 2;
        }
        1
    }

    /// Takes its time; answers whether the message arrives.
    async fn travel(&self, with: usize) -> bool {
        let slow = self.world.fault(self.world.profile.slow);
        let longest = if slow { DELAY_MS_MAX } else { DELAY_MS_USUAL };
        tokio::time::sleep(self.world.milliseconds(1, longest)).await;
        let parted_until = self.change(|state| state.parted_until[with]);
        match parted_until {
            Some(until) if until > Instant::now() => {
                if !self.world.chance(HELD_SHARE) {
                    self.world.count(|counts| counts.messages_lost += 1);
                    return false;
                }
                tokio::time::sleep_until(until).await;
                tokio::time::sleep(self.world.milliseconds(1, DELAY_MS_USUAL)).await;
                true
            }
            _ => true,
        }
    }
}
