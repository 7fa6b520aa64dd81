//! Who makes things fail: one act after the other, until heal.

use std::sync::Arc;

use super::network::Network;
use super::profile::Fault;
use super::site::Site;
use super::world::World;

/// The longest that a process is paused or down, or a participant cut off, in milliseconds.
const OUTAGE_MS_MAX: u64 = 2_500;
/// The farthest that the wall clock jumps, in hours.
const JUMP_HOURS_MAX: i64 = 48;

/// Acts until the world is healed.
pub(super) async fn act(world: Arc<World>, network: Arc<Network>, site: Arc<Site>) {
    let faults = world.profile.nemesis.clone();
    while !faults.is_empty() {
        tokio::time::sleep(world.milliseconds(20, world.profile.nemesis_ms_max)).await;
        if world.healed() {
            return;
        }
        let fault = faults[world.between(0, faults.len() as u64 - 1) as usize];
        let target = world.between(0, network.servers.len() as u64 - 1) as usize;
        let server = &network.servers[target];
        let length = world.milliseconds(10, OUTAGE_MS_MAX);
        match fault {
            Fault::CrashCoordinator => site.crash(),
            Fault::StopCoordinator => site.stop().await,
            Fault::PauseCoordinator => site.pause(length),
            Fault::TakeOver => site.take_over(length),
            Fault::CrashParticipant => {
                if server.boot().is_some() {
                    server.crash(length);
                }
            }
            Fault::PauseParticipant => {
                world.trace(|| format!("{}: pauses for {length:?}", server.name));
                server.pause(length);
            }
            Fault::Partition => {
                world.trace(|| format!("{}: is cut off for {length:?}", server.name));
                network.part(target, length);
            }
            Fault::JumpClock => {
                let hours = world.between(0, 2 * JUMP_HOURS_MAX as u64) as i64 - JUMP_HOURS_MAX;
                world.trace(|| format!("the wall clock jumps by {hours} h"));
                world.jump_clock(hours * 3_600_000_000);
            }
        }
    }
}
