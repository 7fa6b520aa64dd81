//! Under load, servers are stopped and go on, or lose their power; so does the coordinator.

use std::time::Duration;

use crate::banks::NAMES;
use crate::load::Load;
use crate::pair::{Pair, Side, configuration};
use crate::processes;
use crate::server::Served;

const ACCOUNTS: usize = 500;
const OPENING: i64 = 2_000;
/// Longer than the prepare timeout below.
const PAUSE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// SIGSTOP, and SIGCONT after a while.
    Pause(Side),
    PauseCoordinator,
    /// `pg_ctl stop -m immediate`, or SIGKILL of `mariadbd`, and a start.
    PowerCut(Side),
    /// Both at a time, and the coordinator killed meanwhile.
    Everything,
}

const FAULTS: [Fault; 6] = [
    Fault::Pause(Side::Left),
    Fault::Pause(Side::Right),
    Fault::PauseCoordinator,
    Fault::PowerCut(Side::Left),
    Fault::PowerCut(Side::Right),
    Fault::Everything,
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_stopped_under_load_no_transfer_is_half_done() {
    let Some(mut pair) = Pair::start(ACCOUNTS, OPENING) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    let timeout = "prepare_timeout_ms_default = 3000";
    configuration(data, "", &pair.sections());
    let text = std::fs::read_to_string(data.join("presume.toml")).unwrap();
    let text = text.replace(timeout, "prepare_timeout_ms_default = 1000");
    std::fs::write(data.join("presume.toml"), text).unwrap();
    let load = Load::new(32, ACCOUNTS, OPENING);
    let mut served = Served::start(data, &[]);
    for fault in FAULTS {
        let before = load.look(|book| book.count("committed"));
        let clients = load.start(&served.url);
        // It is under way when the fault comes.
        at_least(&load, before + 50).await;
        match fault {
            Fault::Pause(side) => {
                pause(&pair, side).await;
            }
            Fault::PauseCoordinator => {
                processes::pause(served.pid());
                tokio::time::sleep(PAUSE).await;
                processes::resume(served.pid());
            }
            Fault::PowerCut(side) => pair.cut_power(side),
            Fault::Everything => {
                pair.postgres.stop();
                pair.mysql.stop();
                served.kill();
                served = Served::start(data, &[]);
                pair.postgres.run();
                pair.mysql.run();
            }
        }
        if !matches!(fault, Fault::Everything) {
            // It goes on afterwards, by itself.
            let after = load.look(|book| book.count("committed"));
            at_least(&load, after + 50).await;
        }
        clients.stop().await;
        load.finish_open(&served.url).await;
        pair.settled(&format!("after {fault:?}")).await;
        check(&pair, &load, fault);
    }
    assert!(served.stop().success());
}

async fn pause(pair: &Pair, side: Side) {
    match side {
        Side::Left => pair.postgres.pause(),
        Side::Right => pair.mysql.pause(),
    }
    // How long it stands still is the fault, not a wait for something.
    tokio::time::sleep(PAUSE).await;
    match side {
        Side::Left => pair.postgres.resume(),
        Side::Right => pair.mysql.resume(),
    }
}

async fn at_least(load: &Load, committed: usize) {
    crate::pair::eventually("transfers commit", || {
        load.look(|book| book.count("committed")) >= committed
    })
    .await;
}

fn check(pair: &Pair, load: &Load, fault: Fault) {
    let (committed, aborted) = load.look(|book| (book.count("committed"), book.count("aborted")));
    println!("{fault:?}: {committed} committed, {aborted} aborted");
    for (side, name) in [Side::Left, Side::Right].into_iter().zip(NAMES) {
        let balances = pair.balances(side).into_iter();
        for (account, (balance, due)) in balances.zip(load.due(name)).enumerate() {
            assert_eq!(balance, due, "{name} a{account} after {fault:?}");
        }
    }
}
