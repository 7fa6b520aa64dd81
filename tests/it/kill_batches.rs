//! A database, or the coordinator, is killed at a chosen step of a batch.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::cuts::Step;
use crate::house::{House, OPENING, across};
use crate::load::{Transfer, submit};
use crate::pair::{SETTLED_MAX, Side, eventually};
use crate::proxy::{Moment, Outage};

/// Members of the batch.
const MEMBERS: usize = 8;
/// The account of who keeps the road busy.
const BUSY: usize = 98;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Database,
    Coordinator,
}

/// Waits until the server has prepared or committed.
async fn done(step: Step, house: &House, side: Side) {
    let prepared = || !house.pair.prepared(side).is_empty();
    eventually("it is done there", || prepared() == (step == Step::Prepare)).await;
}

/// A session that is about to empty the account [`BUSY`].
async fn outsider(house: &House) -> Client {
    let url = house.pair.postgres.url("left");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql =
        format!("BEGIN; UPDATE accounts SET balance = balance - {OPENING} WHERE id = 'a{BUSY}'");
    client.batch_execute(&sql).await.unwrap();
    client
}

/// Whoever travels now waits for the outsider and will be declined, so that all who come share the
/// next batch.
async fn keep_busy(house: &House, what: &str, asked: &mut JoinSet<Option<Value>>) {
    ask(house, across(&format!("{what}-busy"), BUSY, 1), asked);
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE accounts%'";
    eventually("it waits", || house.pair.sql(Side::Left, waits) == "1").await;
}

async fn all_wait(house: &House) {
    let started = Instant::now();
    while house.metric("presume_transactions_waiting").await < MEMBERS as u64 {
        assert!(started.elapsed() < SETTLED_MAX, "not all of them wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ask(house: &House, transfer: Transfer, asked: &mut JoinSet<Option<Value>>) {
    let (client, url) = (house.client.clone(), house.served().url.clone());
    asked.spawn(async move { submit(&client, &url, &transfer).await });
}

async fn kill_at(house: &mut House, side: Side, step: Step, moment: Moment, victim: Victim) {
    let what = format!("{victim:?}-killed-at-{step:?}-of-{side:?}-{moment:?}");
    house.works().await;
    let before = house.metric("presume_batch_members_total").await;
    let balances = [Side::Left, Side::Right].map(|side| house.pair.balances(side));
    let outsider = outsider(house).await;
    let mut asked = JoinSet::new();
    keep_busy(house, &what, &mut asked).await;
    let transfers: Vec<_> =
        (0..MEMBERS).map(|account| across(&format!("{what}-{account}"), account, 1)).collect();
    for transfer in &transfers {
        ask(house, transfer.clone(), &mut asked);
    }
    all_wait(house).await;
    house.proxy(side).set(step.bytes(side), moment, Outage::OneConnection);
    outsider.batch_execute("COMMIT").await.unwrap();
    house.proxy(side).sprung().await;
    if moment == Moment::BeforeItIsAnswered {
        done(step, house, side).await;
    }
    let members = house.metric("presume_batch_members_total").await - before;
    assert_eq!(members, MEMBERS as u64, "{what}: one batch");
    match victim {
        Victim::Database => {
            house.pair.cut_power(side);
            house.proxy(side).cut(Outage::OneConnection);
        }
        Victim::Coordinator => {
            house.kill();
            house.start();
        }
    }
    let mut committed = Vec::new();
    for transfer in &transfers {
        let answer = house.answer(transfer).await;
        let outcome = answer["outcome"].as_str().unwrap().to_owned();
        assert!(["committed", "aborted"].contains(&&*outcome), "{what}: {answer}");
        assert!(step == Step::Prepare || outcome == "committed", "{what}: {answer}");
        committed.push(i64::from(outcome == "committed"));
    }
    while let Some(heard) = asked.join_next().await {
        let Some(heard) = heard.unwrap() else { continue };
        // Nobody heard something else before.
        let at = transfers.iter().position(|transfer| heard["id"] == *transfer.id);
        let Some(at) = at else { continue };
        assert_eq!(heard["outcome"] == "committed", committed[at] == 1, "{what}: {heard}");
    }
    house.settled(&what).await;
    let sql = format!("UPDATE accounts SET balance = balance + {OPENING} WHERE id = 'a{BUSY}'");
    house.pair.sql(Side::Left, &sql);
    for (side, mut due) in [Side::Left, Side::Right].into_iter().zip(balances) {
        for (account, moved) in committed.iter().enumerate() {
            due[account] += if side == Side::Left { -moved } else { *moved };
        }
        assert_eq!(house.pair.balances(side), due, "{what}: {side:?}");
    }
    println!("{what}: {} of {MEMBERS} committed", committed.iter().sum::<i64>());
}

async fn kill_everywhere(side: Side) {
    let patient = |sections: String| {
        sections.replace("listening_horizon_ms = 2000", "listening_horizon_ms = 60000")
    };
    let Some(mut house) = House::together(patient).await else { return };
    let file = house.folder().join("presume.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("= 3000", "= 30000");
    // With one on its way the road is full.
    std::fs::write(&file, text + "\n[coalescing]\njourneys_max = 1\n").unwrap();
    house.start();
    for victim in [Victim::Database, Victim::Coordinator] {
        for step in [Step::Prepare, Step::Commit] {
            for moment in [Moment::BeforeItIsSent, Moment::BeforeItIsAnswered] {
                kill_at(&mut house, side, step, moment, victim).await;
            }
        }
    }
    let opened = 2 * OPENING * i64::try_from(crate::house::ACCOUNTS).unwrap();
    assert_eq!(house.pair.money(), opened, "money is conserved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_whole_when_postgresql_or_the_coordinator_is_killed_in_it() {
    kill_everywhere(Side::Left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_whole_when_mariadb_or_the_coordinator_is_killed_in_it() {
    kill_everywhere(Side::Right).await;
}
