//! The server is killed at random moments under load; nothing answered is lost or done twice.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presume::decision_log::{self, DecisionLog};
use presume::learning::outcome_log;
use presume::participants::Participant;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::server::{Served, root};

const KILLS: usize = 24;
const CLIENTS: usize = 32;
const ACCOUNTS: usize = 50;
const OPENING: i64 = 2_000;
const LEDGERS: [&str; 2] = ["left", "right"];

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
        Self { id, legs: vec![(LEDGERS[from], a, -amount), (LEDGERS[to], b, amount)] }
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

fn flags() -> Vec<String> {
    let models = root().join("models");
    let mut flags: Vec<String> = LEDGERS
        .iter()
        .flat_map(|name| ["--set".into(), format!("participants.{name}.kind=embedded")])
        .collect();
    // Small seals, so that many kills fall into one. No rejections: this test is about commits.
    for set in [
        format!("models.dir={}", models.display()),
        "policy.mode=observe".into(),
        "outcome_log.seal_rows_max=200".into(),
        "outcome_log.seal_age_s_max=1".into(),
    ] {
        flags.extend(["--set".into(), set]);
    }
    flags
}

fn ledger_at(data: &Path, name: &str) -> Ledger {
    let dir = data.join("data").join("ledgers").join(name);
    Ledger::open(&dir, ledger::Options::default()).unwrap()
}

async fn open_accounts(data: &Path) {
    for name in LEDGERS {
        let ledger = ledger_at(data, name);
        let account = |i| NewAccount {
            id: format!("a{i}"),
            opening_minor: OPENING,
            overdraft: Overdraft::Refused,
        };
        ledger.open_accounts(&(0..ACCOUNTS).map(account).collect::<Vec<_>>()).await.unwrap();
        ledger.close().unwrap();
    }
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
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    open_accounts(data).await;
    let flags = flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let book = Arc::new(Mutex::new(Book::default()));
    let next = Arc::new(AtomicUsize::new(0));
    let seed = rand::random::<u64>();
    println!("seed of the kills: {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..KILLS {
        let served = Served::start(data, &flags);
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
        served.kill();
        stop.store(true, Ordering::SeqCst);
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    }
    finish_open(data, &flags, &book).await;
    let book = std::mem::take(&mut *book.lock().unwrap());
    check(data, &book).await;
    check_features_were_rebuilt(data);
}

/// Each start knows again every outcome before it, sealed or not.
fn check_features_were_rebuilt(data: &Path) {
    let log = std::fs::read_to_string(data.join("serve.log")).unwrap();
    assert!(!log.contains("features are rebuilt without"), "{log}");
    let starts = log.lines().filter(|line| line.contains("features are rebuilt from"));
    let rows = |line: &str| line.rsplit_once("rows=").unwrap().1.trim().parse::<u64>().unwrap();
    let rows: Vec<u64> = starts.map(rows).collect();
    assert_eq!(rows.len(), KILLS + 1);
    assert!(rows[0] == 0 && rows.is_sorted() && rows[KILLS] > 100, "{rows:?}");
}

/// A last run: every open key is asked until it is answered, then the server is stopped.
async fn finish_open(data: &Path, flags: &[&str], book: &Mutex<Book>) {
    let served = Served::start(data, flags);
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

async fn check(data: &Path, book: &Book) {
    let count = |outcome: &str| {
        book.answered.values().filter(|(_, answer)| answer["outcome"] == outcome).count()
    };
    let (committed, aborted) = (count("committed"), count("aborted"));
    println!("{committed} committed, {aborted} aborted over {KILLS} kills");
    assert!(committed > 100 && aborted > 10, "{committed} committed, {aborted} aborted");

    let mut expected: BTreeMap<(&str, usize), i64> = BTreeMap::new();
    for (transfer, answer) in book.answered.values() {
        if answer["outcome"] == "committed" {
            for (ledger, account, amount) in &transfer.legs {
                *expected.entry((ledger, *account)).or_default() += amount;
            }
        }
    }
    for name in LEDGERS {
        let ledger = ledger_at(data, name);
        assert!(ledger.list_prepared().await.unwrap().branches.is_empty(), "{name} is in doubt");
        let report = ledger.verify().await.unwrap();
        assert!(report.is_sound(), "{name}: {:?}", report.problems);
        for account in 0..ACCOUNTS {
            let balance = ledger.balance(&format!("a{account}")).unwrap();
            let due = OPENING + expected.get(&(name, account)).copied().unwrap_or(0);
            assert_eq!(balance.balance_minor, due, "{name} a{account}");
        }
        ledger.close().unwrap();
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
