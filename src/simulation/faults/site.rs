//! Where the coordinator runs: starts it, and starts it again after every death.
//!
//! The coordinator is the real one, with its real engines, driver, recovery and scan. Only what it
//! stands on is simulated: the log's disk, the participants, the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::Disk;
use super::life::Life;
use super::log::{Records, SimulatedLog};
use super::network::Network;
use super::profile::Profile;
use super::stub::Stub;
use super::world::World;
use crate::coordinator::{Coordinator, Options, Parts};
use crate::features;
use crate::participants::Participant;
use crate::policy::coalescing::{Coalescing, CoalescingOptions};
use crate::policy::{self, Policy};
use crate::txn::{Mode, ParticipantName};

/// How often the supervisor looks whether the coordinator is well.
const LOOK: Duration = Duration::from_millis(10);
/// The longest that a restart takes while faults go on, in milliseconds.
const RESTART_MS_MAX: u64 = 1_500;
/// How long an orderly stop may take.
const STOP_BOUND: Duration = Duration::from_millis(800);
/// The prepare timeout: some messages are later than that, and most are not.
const PREPARE_TIMEOUT_MS: u64 = 300;

/// A coordinator with the process that it runs in.
pub(super) type Running = (Arc<Life>, Arc<Coordinator>);

/// The place of the coordinator.
pub(super) struct Site {
    world: Arc<World>,
    network: Arc<Network>,
    disk: Arc<Disk<Records>>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    life: Option<Arc<Life>>,
    coordinator: Option<Arc<Coordinator>>,
}

/// Limits in the proportions of the defaults, scaled to a run of some seconds.
fn options(profile: &Profile) -> Options {
    Options {
        in_flight_max: 64,
        unfinished_max: 256,
        unfinished_per_participant_max: 128,
        recovery_wait_ms: profile.recovery_wait_ms,
        claim_timeout_ms: 1_500,
        scan_interval_ms: profile.scan_interval_ms,
        prepared_age_alert_ms: 6_000,
        retry_ms_first: 20,
        retry_ms_max: 1_000,
    }
}

fn features() -> features::State {
    let options = features::Options {
        customers_max: 16,
        counterparties_max: 16,
        participants_max: 16,
        ..features::Options::default()
    };
    features::State::new(options).expect("limits within their bounds")
}

fn policy() -> Policy {
    let options = policy::Options {
        mode: Mode::Off,
        prepare_timeout_ms_default: PREPARE_TIMEOUT_MS,
        ..policy::Options::default()
    };
    Policy::new(options).expect("options within their bounds")
}

impl Site {
    pub(super) fn new(world: Arc<World>, network: Arc<Network>) -> Arc<Self> {
        let fails = world.profile.log_sync_fails;
        let disk = Disk::new(world.clone(), "log".to_owned(), fails, Records::default());
        Arc::new(Self { world, network, disk, current: Mutex::default() })
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().expect("no panic while held")
    }

    /// The coordinator that takes requests, if one does.
    pub(super) fn running(&self) -> Option<Running> {
        let current = self.current();
        let life = current.life.clone().filter(|life| !life.is_over());
        life.zip(current.coordinator.clone())
    }

    /// The process that has the log, also while it starts.
    pub(super) fn life(&self) -> Option<Arc<Life>> {
        self.current().life.clone().filter(|life| !life.is_over())
    }

    /// Runs coordinators, one after the other, for ever.
    pub(super) async fn supervise(self: Arc<Self>) {
        for number in 1.. {
            let life = Arc::new(Life::new(number));
            *self.current() = Current { life: Some(life.clone()), coordinator: None };
            let started = tokio::select! {
                biased;
                () = life.end() => None,
                coordinator = self.start(&life) => coordinator,
            };
            self.current().coordinator = started;
            while !life.is_over() {
                if self.disk.poisoned() {
                    tokio::time::sleep(self.world.milliseconds(10, 300)).await;
                    self.world.trace(|| format!("coordinator {number}: ended, its log failed"));
                    life.kill();
                }
                tokio::time::sleep(LOOK).await;
            }
            *self.current() = Current::default();
            // Half of the deaths take the machine along: what was not synced is lost at once.
            if life.is_dead() && self.world.chance(0.5) {
                self.disk.stop();
            }
            if life.is_dead() && !self.world.healed() {
                tokio::time::sleep(self.world.milliseconds(10, RESTART_MS_MAX)).await;
            }
        }
    }

    async fn start(&self, life: &Arc<Life>) -> Option<Arc<Coordinator>> {
        let (log, recovered) =
            SimulatedLog::open(self.disk.clone(), self.world.clone(), life.clone());
        let stub = |to: usize| {
            let name = ParticipantName::new(&self.network.servers[to].name).expect("short");
            let (network, life) = (self.network.clone(), life.clone());
            (name, Arc::new(Stub { network, life, to }) as Arc<dyn Participant>)
        };
        let participants: BTreeMap<_, _> = (0..self.network.servers.len()).map(stub).collect();
        let coalescing = Coalescing::new(CoalescingOptions {
            strategy: self.world.profile.strategy,
            ..CoalescingOptions::default()
        });
        let parts = Parts {
            coalescing,
            log: Arc::new(log),
            participants,
            serving: self.world.serving.clone(),
            features: features(),
            policy: policy(),
            clock: self.world.clone(),
        };
        match Coordinator::start(parts, recovered, options(&self.world.profile)).await {
            Ok(coordinator) => {
                self.world.trace(|| format!("coordinator {}: takes transactions", life.number));
                Some(Arc::new(coordinator))
            }
            Err(error) => {
                // Nobody else claims epochs of this log, unless it was taken over meanwhile.
                if !life.has_lost_disk() {
                    let text = format!("4: coordinator {} does not start: {error}", life.number);
                    self.world.history(|history| history.violation(text));
                }
                None
            }
        }
    }

    /// Kills the coordinator.
    pub(super) fn crash(&self) {
        let Some(life) = self.life() else { return };
        self.world.count(|counts| counts.crashes += 1);
        self.world.trace(|| format!("coordinator {}: crashes", life.number));
        life.kill();
    }

    pub(super) fn pause(&self, duration: Duration) {
        let Some(life) = self.life() else { return };
        self.world.count(|counts| counts.pauses += 1);
        self.world.trace(|| format!("coordinator {}: pauses for {duration:?}", life.number));
        life.pause(duration);
    }

    /// Stops it in order.
    pub(super) async fn stop(&self) {
        let Some((life, coordinator)) = self.running() else { return };
        self.world.trace(|| format!("coordinator {}: is told to stop", life.number));
        let left = coordinator.shutdown(STOP_BOUND).await;
        self.world.trace(|| format!("coordinator {}: stops, {left} left", life.number));
        life.kill();
    }

    /// Lets another coordinator open the log, though this one is alive: paused for a while, it
    /// goes on later without a disk and knows nothing of the other.
    pub(super) fn take_over(&self, pause: Duration) {
        let Some(life) = self.life() else { return };
        self.world.count(|counts| counts.takeovers += 1);
        self.world.trace(|| format!("coordinator {}: is taken over", life.number));
        life.pause(pause);
        life.lose_disk();
    }
}
