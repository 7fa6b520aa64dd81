//! One run: a seed's faults, then heal, then the checks.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::books::Work;
use super::checkers::{self, Evidence};
use super::clients::Clients;
use super::log::LOG;
use super::nemesis;
use super::network::Network;
use super::server::Server;
use super::site::Site;
use super::world::{Counts, World};
use crate::txn::{BranchIndex, Epoch, Gid, LogId, Outcome, PhysicalId};

/// How long after heal everything must be resolved, the audit of every key included. It covers what may still be under way then, one
/// after the other: an outage (2.5 s), slow messages of a dead sender (6 s), a start that waits for
/// claims (1.5 s), a scan (1.5 s) and a repeated call (2.2 s).
pub const HEAL_BOUND: Duration = Duration::from_secs(15);
/// How often it is looked whether everything is resolved.
const LOOK: Duration = Duration::from_millis(10);

/// What one seed came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) seed: u64,
    pub(super) counts: Counts,
    pub(super) healed_in: Duration,
    pub(super) transactions: u64,
    pub(super) committed: u64,
    pub(super) violations: Vec<String>,
    pub(super) trace: Vec<String>,
}

/// Runs a seed. The same seed does the same.
pub(super) fn run(seed: u64, traced: bool) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output takes nothing from the system");
    runtime.block_on(play(seed, traced))
}

async fn play(seed: u64, traced: bool) -> Ran {
    let world = Arc::new(World::new(seed, traced));
    world.trace(|| format!("{:?}", world.profile));
    let servers: Vec<_> =
        (0..world.profile.participants).map(|index| Server::new(&world, index)).collect();
    let foreign = plant_foreign(&servers);
    let network = Arc::new(Network::new(world.clone(), servers));
    let site = Site::new(world.clone(), network.clone());
    tokio::spawn(site.clone().supervise());
    let clients = Clients::new(world.clone(), site.clone());
    let days = (0..world.profile.clients).map(|client| tokio::spawn(clients.clone().run(client)));
    let days: Vec<_> = days.collect();
    tokio::spawn(nemesis::act(world.clone(), network.clone(), site.clone()));

    tokio::time::sleep(world.profile.faulty_for).await;
    world.heal();
    network.heal();
    world.trace(|| "heal".to_owned());
    let healed_at = world.now();
    let resolved = async {
        for day in days {
            // A client that panics leaves its key unanswered; the checkers see that.
            let _ = day.await;
        }
        settle(&network, &site).await;
        let healed_in = world.now().saturating_sub(healed_at);
        clients.audit().await;
        settle(&network, &site).await;
        healed_in
    };
    let healed_in = tokio::time::timeout(HEAL_BOUND, resolved).await.unwrap_or_else(|_| {
        let text = format!("4: not resolved {} s after heal", HEAL_BOUND.as_secs());
        world.history(|history| history.violation(text));
        HEAL_BOUND
    });
    judge(seed, &world, &network, &clients, &foreign, healed_in)
}

/// Waits until nothing is open: no branch prepared or on its way, nothing that recovery has not
/// settled, nothing unfinished.
async fn settle(network: &Network, site: &Site) {
    let settled = || {
        let idle = site.running().is_some_and(|(_, coordinator)| {
            let status = coordinator.status();
            let open = status.unsettled + status.unfinished + status.in_flight;
            status.healthy && !status.recovering && open == 0
        });
        let ours = |server: &Arc<Server>| {
            server.boot().is_some() && server.prepared().iter().all(|gid| gid.log != LOG)
        };
        idle && network.is_quiet() && network.servers.iter().all(ours)
    };
    while !settled() {
        tokio::time::sleep(LOOK).await;
    }
}

/// A prepared branch of somebody else's at every second participant: nobody may touch it.
fn plant_foreign(servers: &[Arc<Server>]) -> Vec<usize> {
    let foreign: Vec<usize> = (0..servers.len()).step_by(2).collect();
    for at in &foreign {
        let log = LogId(Uuid::from_u128(0xf0e));
        let gid = Gid { log, epoch: Epoch(1), physical: PhysicalId(1), branch: BranchIndex(0) };
        let notes = vec!["of another log".into()];
        let work = Work { notes, postings: vec![(0, 1)], checks: vec![] };
        servers[*at].plant(gid, work);
    }
    foreign
}

fn judge(
    seed: u64,
    world: &World,
    network: &Network,
    clients: &Clients,
    foreign: &[usize],
    healed_in: Duration,
) -> Ran {
    let books: Vec<_> = network.servers.iter().map(|server| server.books()).collect();
    let submitted = clients.submitted();
    let (found, told) =
        world.history(|history| (history.violations().to_vec(), history.told().clone()));
    let evidence = Evidence { books: &books, submitted: &submitted, told: &told, foreign };
    let mut violations = found;
    violations.extend(checkers::check(&evidence));
    let committed = told.values().filter(|told| told.outcome == Outcome::Committed).count();
    Ran {
        seed,
        counts: world.counts(),
        healed_in,
        transactions: submitted.len() as u64,
        committed: committed as u64,
        violations,
        trace: world.take_trace(),
    }
}
