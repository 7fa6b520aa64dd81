//! The server is killed at random moments under load; nothing answered is lost or done twice.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presume::decision_log::{self, DecisionLog};
use presume::learning::outcome_log;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::banks::{Banks, NAMES};
use crate::server::{Served, root};

const CLIENTS: usize = 32;
const ACCOUNTS: usize = 50;
const OPENING: i64 = 2_000;

/// A transfer as a client remembers it.
#[derive(Clone)]
struct Transfer {
    id: String,
    /// Ledger, account, signed amount of each leg.
    legs: Vec<(&'static str, usize, i64)>,
}

impl Transfer {
    fn draw(id: String, rng: &mut ChaCha8Rng) -> Self {
        let amount = rng.random_range(1..400);
        let account = |rng: &mut ChaCha8Rng| rng.random_range(0..ACCOUNTS);
        let (from, to) = if rng.random_bool(0.5) { (0, 1) } else { (1, 0) };
        let (a, b) = (account(rng), account(rng));
        // One in five stays within one ledger and commits in one phase.
        let to = if rng.random_bool(0.2) { from } else { to };
        Self { id, legs: vec![(NAMES[from], a, -amount), (NAMES[to], b, amount)] }
    }

    fn body(&self) -> Value {
        let operations: Vec<_> = self
            .legs
            .iter()
            .map(|(ledger, account, amount)| {
                json!({
                    "participant": ledger,
                    "operation": if *amount < 0 { "debit" } else { "credit" },
                    "params": {"account": format!("a{account}"), "amount": amount.abs()},
                })
            })
            .collect();
        json!({
            "kind": "UPI",
            "customer": {"id": "c1", "type": "RETAIL"},
            "amount": {"minor": self.legs[1].2, "currency": "INR"},
            "operations": operations,
        })
    }
}

#[derive(Default)]
struct Book {
    /// Sent, and not answered for certain.
    open: Vec<Transfer>,
    /// The first answer to each key.
    answered: HashMap<String, (Transfer, Value)>,
}

/// Small seals, so that many kills fall into one. No rejections: this test is about commits.
fn configuration(participants: &str) -> String {
    let models = root().join("models");
    format!(
        "[models]\ndir = \"{}\"\n[policy]\nmode = \"observe\"\n\
         [outcome_log]\nseal_rows_max = 200\nseal_age_s_max = 1\n{participants}",
        models.display()
    )
}

async fn submit(client: &reqwest::Client, url: &str, transfer: &Transfer) -> Option<Value> {
    let request = client
        .post(format!("{url}/v1/transactions"))
        .header("Idempotency-Key", &transfer.id)
        .json(&transfer.body());
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.ok()?;
    match status {
        200 => Some(body),
        // In flight, in doubt, draining or recovering: not answered yet.
        202 | 409 | 429 | 503 => None,
        _ => panic!("unexpected {status}: {body}"),
    }
}

/// Submits until told to stop or until the server is gone.
async fn client(
    number: usize,
    url: String,
    book: Arc<Mutex<Book>>,
    next: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let seed = next.load(Ordering::SeqCst) as u64 * 1000 + number as u64;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    while !stop.load(Ordering::SeqCst) {
        let retried = {
            let mut book = book.lock().unwrap();
            if rng.random_bool(0.3) { book.open.pop() } else { None }
        };
        let transfer = retried.unwrap_or_else(|| {
            let id = format!("k{}", next.fetch_add(1, Ordering::SeqCst));
            Transfer::draw(id, &mut rng)
        });
        let answer = submit(&client, &url, &transfer).await;
        let gone = answer.is_none();
        settle(&book, transfer, answer);
        if gone {
            // Refused, or dead: a dead server shows at once, so this does not spin for long.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let known = {
            let book = book.lock().unwrap();
            let skip = rng.random_range(0..book.answered.len().max(1));
            book.answered.values().nth(skip).cloned()
        };
        if rng.random_bool(0.1)
            && let Some((transfer, first)) = known
            && let Some(again) = submit(&client, &url, &transfer).await
        {
            assert_eq!(essence(&again), essence(&first), "another answer to {}", transfer.id);
        }
    }
}

fn essence(answer: &Value) -> (Value, Value) {
    (answer["id"].clone(), answer["outcome"].clone())
}

fn settle(book: &Mutex<Book>, transfer: Transfer, answer: Option<Value>) {
    let mut book = book.lock().unwrap();
    let Some(answer) = answer else { return book.open.push(transfer) };
    let outcome = answer["outcome"].as_str().unwrap();
    assert!(matches!(outcome, "committed" | "aborted"), "{answer}");
    if let Some((_, first)) = book.answered.get(&transfer.id) {
        assert_eq!(essence(&answer), essence(first), "another answer to {}", transfer.id);
        return;
    }
    book.answered.insert(transfer.id.clone(), (transfer, answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_is_lost_or_done_twice_when_the_server_is_killed() {
    kill_again_and_again(Banks::Ledgers, kills(24)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_between_databases_that_lose_their_power_too() {
    let Some(banks) = Banks::databases() else { return };
    kill_again_and_again(banks, kills(12)).await;
}

/// How often to kill: more by `KILLS`.
fn kills(default: usize) -> usize {
    std::env::var("KILLS").map_or(default, |text| text.parse().unwrap())
}

async fn kill_again_and_again(mut banks: Banks, kills: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    let sections = banks.open(data, ACCOUNTS, OPENING).await;
    std::fs::write(data.join("presume.toml"), configuration(&sections)).unwrap();
    let book = Arc::new(Mutex::new(Book::default()));
    let next = Arc::new(AtomicUsize::new(0));
    let seed = rand::random::<u64>();
    println!("seed of the kills: {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for round in 0..kills {
        let served = Served::start(data, &[]);
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(
                number,
                served.url.clone(),
                book.clone(),
                next.clone(),
                stop.clone(),
            ));
        }
        // The moment of the kill is what is random here; nothing is synchronised by it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(30..500))).await;
        if round % 4 == 3 {
            banks.cut_power();
        }
        served.kill();
        stop.store(true, Ordering::SeqCst);
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    }
    finish_open(data, &book).await;
    let book = std::mem::take(&mut *book.lock().unwrap());
    check(&banks, data, &book).await;
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
async fn finish_open(data: &Path, book: &Mutex<Book>) {
    let served = Served::start(data, &[]);
    let client = reqwest::Client::new();
    for _ in 0..1_000 {
        let open = std::mem::take(&mut book.lock().unwrap().open);
        if open.is_empty() {
            break;
        }
        for transfer in open {
            let answer = submit(&client, &served.url, &transfer).await;
            settle(book, transfer, answer);
        }
    }
    assert!(book.lock().unwrap().open.is_empty(), "keys stay without an answer");
    assert!(served.stop().success());
}

async fn check(banks: &Banks, data: &Path, book: &Book) {
    let count = |outcome: &str| {
        book.answered.values().filter(|(_, answer)| answer["outcome"] == outcome).count()
    };
    let (committed, aborted) = (count("committed"), count("aborted"));
    println!("{committed} committed, {aborted} aborted");
    assert!(committed > 100 && aborted > 10, "{committed} committed, {aborted} aborted");

    let mut expected: BTreeMap<(&str, usize), i64> = BTreeMap::new();
    for (transfer, answer) in book.answered.values() {
        if answer["outcome"] == "committed" {
            for (ledger, account, amount) in &transfer.legs {
                *expected.entry((ledger, *account)).or_default() += amount;
            }
        }
    }
    for name in NAMES {
        let balances = banks.balances(data, name, ACCOUNTS).await;
        for (account, balance) in balances.into_iter().enumerate() {
            let due = OPENING + expected.get(&(name, account)).copied().unwrap_or(0);
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
    for id in book.answered.keys() {
        assert_eq!(seen.remove(id), Some(1), "{id} in the outcome log");
    }
    assert!(seen.is_empty(), "outcomes that nobody was told: {seen:?}");
}
