//! The server is killed at random moments under load; nothing answered is lost or done twice.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use presume::decision_log::{self, DecisionLog};
use presume::learning::outcome_log;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::banks::{Banks, NAMES};
use crate::doubts;
use crate::load::Load;
use crate::pair::Travel;
use crate::resolution::{Resolution, Worst};
use crate::server::{Served, root};

/// Small seals, so that many kills fall into one. No rejections: this test is about commits.
fn configuration(travel: Travel, participants: &str) -> String {
    let models = root().join("models");
    let strategy = if travel == Travel::Together { "auto" } else { "alone" };
    format!(
        "[models]\ndir = \"{}\"\n[policy]\nmode = \"observe\"\n\
         [coalescing]\nstrategy = \"{strategy}\"\n\
         [outcome_log]\nseal_rows_max = 200\nseal_age_s_max = 1\n{participants}",
        models.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_is_lost_or_done_twice_when_the_server_is_killed() {
    let load = Load::new(32, 50, 2_000);
    kill_again_and_again(Banks::Ledgers, &load, kills(24), Travel::Together).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_between_databases_that_lose_their_power_too() {
    let Some(banks) = Banks::databases() else { return };
    kill_again_and_again(banks, &Load::new(32, 50, 2_000), kills(12), Travel::Together).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_between_postgresql_and_mariadb_under_64_clients() {
    between_postgresql_and_mariadb(kills(8), Travel::Together).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_without_batches() {
    between_postgresql_and_mariadb(kills(8), Travel::Alone).await;
}

async fn between_postgresql_and_mariadb(kills: usize, travel: Travel) {
    // So many that few meet: what two databases lock against each other is no deadlock to either.
    let load = Load::new(64, 1_000, 500);
    let Some(banks) = Banks::pair(load.accounts, load.opening) else { return };
    kill_again_and_again(banks, &load, kills, travel).await;
}

/// How often to kill: more by `KILLS`.
fn kills(default: usize) -> usize {
    std::env::var("KILLS").map_or(default, |text| text.parse().unwrap())
}

/// Batches that were seen.
#[derive(Debug, Default)]
struct Batches {
    set_out: u64,
    members: u64,
    /// Decided, and not carried out everywhere at a kill.
    recovered: usize,
}

impl Batches {
    async fn count(&mut self, served: &Served) {
        self.set_out += served.metric("presume_batches_total").await;
        self.members += served.metric("presume_batch_members_total").await;
    }

    /// Looks into a copy of what a killed server has left.
    fn count_recovered(&mut self, data: &Path) {
        let copy = tempfile::tempdir().unwrap();
        let folder = copy.path().join("decision-log");
        doubts::copy(&data.join("data").join("decision-log"), &folder);
        let (_, recovered) = DecisionLog::open(&folder, decision_log::Options::default()).unwrap();
        let batches = recovered.decisions.iter().filter(|decision| decision.members.len() > 1);
        self.recovered += batches.count();
    }

    /// They were what was killed, or there were none.
    fn check(&self, travel: Travel, kills: usize) {
        println!("{self:?}");
        let Self { set_out, members, recovered } = self;
        if travel == Travel::Together {
            assert!(*set_out >= kills as u64 && *members >= 2 * set_out, "{self:?}");
            // Of a few kills, by chance none may meet a batch between decision and end.
            assert!(kills < 50 || *recovered > 0, "{self:?}");
        } else {
            assert_eq!((*set_out, *members, *recovered), (0, 0, 0));
        }
    }
}

async fn kill_again_and_again(mut banks: Banks, load: &Load, kills: usize, travel: Travel) {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    let sections = banks.open(data, load.accounts, load.opening).await;
    std::fs::write(data.join("presume.toml"), configuration(travel, &sections)).unwrap();
    let seed = rand::random::<u64>();
    println!("seed of the kills: {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut worst, mut batches) = (Worst::default(), Batches::default());
    for round in 0..kills {
        let resolution = Resolution::watch(&banks, round);
        let served = Served::start(data, &[]);
        let clients = load.start(&served.url);
        // The moment of the kill is what is random here; nothing is synchronised by it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(30..500))).await;
        batches.count(&served).await;
        if round % 4 == 3 {
            banks.cut_power(round / 4);
        }
        served.kill();
        clients.stop().await;
        batches.count_recovered(data);
        worst.take(resolution).await;
    }
    let resolution = Resolution::watch(&banks, kills);
    finish_open(data, load).await;
    worst.take(resolution).await;
    worst.print(kills);
    batches.check(travel, kills);
    check(&banks, data, load).await;
    check_features_were_rebuilt(data, kills);
}

/// Each start knows again every outcome before it, sealed or not.
fn check_features_were_rebuilt(data: &Path, kills: usize) {
    let log = std::fs::read_to_string(data.join("serve.log")).unwrap();
    assert!(!log.contains("features are rebuilt without"), "{log}");
    let starts = log.lines().filter(|line| line.contains("features are rebuilt from"));
    let rows = |line: &str| line.rsplit_once("rows=").unwrap().1.trim().parse::<u64>().unwrap();
    let rows: Vec<u64> = starts.map(rows).collect();
    assert_eq!(rows.len(), kills + 1);
    assert!(rows[0] == 0 && rows.is_sorted() && rows[kills] > 100, "{rows:?}");
}

/// A last run: every open key is asked until it is answered, then the server is stopped.
async fn finish_open(data: &Path, load: &Load) {
    let served = Served::start(data, &[]);
    load.finish_open(&served.url).await;
    assert!(served.stop().success());
}

async fn check(banks: &Banks, data: &Path, load: &Load) {
    let (committed, aborted) = load.look(|book| (book.count("committed"), book.count("aborted")));
    println!("{committed} committed, {aborted} aborted");
    assert!(committed > 100 && aborted > 10, "{committed} committed, {aborted} aborted");

    for name in NAMES {
        let balances = banks.balances(data, name, load.accounts).await;
        for (account, (balance, due)) in balances.into_iter().zip(load.due(name)).enumerate() {
            assert_eq!(balance, due, "{name} a{account}");
        }
    }

    let folder = data.join("data").join("decision-log");
    let (log, recovered) = DecisionLog::open(&folder, decision_log::Options::default()).unwrap();
    assert!(recovered.decisions.is_empty() && recovered.intents.is_empty(), "in doubt");
    let mut seen: HashMap<String, u32> = HashMap::new();
    let sealed = outcome_log::txn_ids(&data.join("data").join("outcomes")).unwrap();
    assert!(!sealed.is_empty(), "nothing was sealed");
    for id in sealed {
        *seen.entry(id).or_default() += 1;
    }
    for (_, row) in log.outcome_rows(0, usize::MAX).unwrap() {
        *seen.entry(row.txn_id.to_string()).or_default() += 1;
    }
    load.look(|book| {
        for id in book.answered.keys() {
            assert_eq!(seen.remove(id), Some(1), "{id} in the outcome log");
        }
    });
    assert!(seen.is_empty(), "outcomes that nobody was told: {seen:?}");
}
