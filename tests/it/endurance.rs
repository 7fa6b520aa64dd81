//! Memory and descriptors stay flat over many transactions.
//!
//! `TRANSACTIONS=500000` in the environment makes it long; it prints its curve.

use std::sync::atomic::{AtomicUsize, Ordering};

use presume::participants::Participant as _;
use presume::participants::ledger::{self, Ledger};
use serde_json::json;

use crate::banks::{Banks, NAMES};
use crate::processes;
use crate::server::{Served, root};

const CLIENTS: usize = 64;
const ACCOUNTS: usize = 1_000;
const OPENING: i64 = 1_000_000_000;
const SAMPLES: usize = 16;
/// What memory may grow from the second quarter to the last, in KiB: each store gathers what it
/// wrote in tables in memory, up to 8 MiB a keyspace, before it makes files of them.
const GROWTH_KIB_MAX: u64 = 96 * 1024;
/// What may be open beside the connections of the clients.
const DESCRIPTORS_MAX: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_descriptors_stay_flat_over_many_transactions() {
    let count = std::env::var("TRANSACTIONS").map_or(20_000, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    let sections = Banks::Ledgers.open(data, ACCOUNTS, OPENING).await;
    let models = root().join("models");
    let text = format!("[models]\ndir = \"{}\"\n{sections}", models.display());
    std::fs::write(data.join("presume.toml"), text).unwrap();
    let served = Served::start(data, &[]);
    let mut samples = Vec::new();
    let started = std::time::Instant::now();
    for part in 0..SAMPLES {
        transfer(&served.url, count * part / SAMPLES..count * (part + 1) / SAMPLES).await;
        let rss_kib = processes::status(served.pid(), "VmRSS");
        let descriptors = processes::descriptors(served.pid());
        println!(
            "{} transactions in {:.1?}: {rss_kib} KiB, {descriptors} descriptors, {} threads",
            count * (part + 1) / SAMPLES,
            started.elapsed(),
            processes::status(served.pid(), "Threads"),
        );
        samples.push((rss_kib, descriptors));
    }
    let quarter = |n: usize| {
        let part = &samples[n * SAMPLES / 4..(n + 1) * SAMPLES / 4];
        part.iter().map(|(rss_kib, _)| rss_kib).sum::<u64>() / part.len() as u64
    };
    let (second, last) = (quarter(1), quarter(3));
    assert!(last < second + GROWTH_KIB_MAX, "{second} KiB became {last} KiB");
    let most = samples.iter().map(|(_, descriptors)| *descriptors).max().unwrap();
    assert!(most < DESCRIPTORS_MAX + CLIENTS, "{most} descriptors");
    assert!(served.stop().success());
    for name in NAMES {
        let dir = data.join("data").join("ledgers").join(name);
        let ledger = Ledger::open(&dir, ledger::Options::default()).unwrap();
        assert!(ledger.list_prepared().await.unwrap().branches.is_empty());
        assert!(ledger.verify().await.unwrap().is_sound(), "{name}");
    }
}

/// Transfers with these numbers, by clients that each wait for their answer.
async fn transfer(url: &str, numbers: std::ops::Range<usize>) {
    let next = AtomicUsize::new(numbers.start);
    let clients = (0..CLIENTS).map(async |_| {
        let client = reqwest::Client::new();
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            if n >= numbers.end {
                return;
            }
            let leg = |participant: &str, operation: &str, account: usize| {
                json!({
                    "participant": participant, "operation": operation,
                    "params": {"account": format!("a{account}"), "amount": 1},
                })
            };
            // Every customer, counterparty and account comes again and again.
            let body = json!({
                "id": format!("e{n}"), "kind": "UPI",
                "customer": {"id": format!("c{}", n % 500), "type": "RETAIL"},
                "counterparty": format!("m{}", n % 300),
                "amount": {"minor": 1 + n % 9_000, "currency": "INR"},
                "operations": [
                    leg("left", "debit", n % ACCOUNTS), leg("right", "credit", n % ACCOUNTS)
                ],
            });
            let url = format!("{url}/v1/transactions");
            let response = client.post(url).json(&body).send().await.unwrap();
            assert_eq!(response.status(), 200, "{n}");
        }
    });
    futures_util::future::join_all(clients).await;
}
