//! Transfers between an embedded ledger and the reference service: outcomes, lost replies, kills.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use presume::participants::Participant;
use presume::participants::http::Http;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::http_service::cut_once;
use crate::middleman::{Act, Call, Script, between};
use crate::server::Served;
use crate::wallet_server::{SECRET, WalletServer, options};

const CLIENTS: usize = 16;
const ROUNDS: usize = 10;
pub const OPENING: i64 = 1_000;
pub const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
/// Generous: the machine may be busy.
pub const SETTLED_MAX: Duration = Duration::from_mins(1);

/// What lets transactions with the service share batches.
pub const LOCKS: &str = "[participants.wallet.operations]\n\
    debit = { locks = [\"account/$account\"] }\ncredit = { locks = [\"account/$account\"] }\n";

/// The ledger's accounts, and the configuration of both participants, with more at its end.
pub async fn prepare_data(data: &Path, service: &str, more: &str) {
    let ledger = open_ledger(data);
    let account = |id: &&str| NewAccount {
        id: (*id).to_owned(),
        opening_minor: OPENING,
        overdraft: Overdraft::Refused,
    };
    ledger.open_accounts(&ACCOUNTS.iter().map(account).collect::<Vec<_>>()).await.unwrap();
    ledger.close().unwrap();
    let secret = data.join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let text = format!(
        "[policy]\nmode = \"off\"\n\
         [coordinator]\nretry_ms_max = 200\nscan_interval_ms = 200\n\
         [participants.core]\nkind = \"embedded\"\n\
         [participants.wallet]\nkind = \"http\"\nurl = \"{service}\"\n\
         secret = \"${{file:{}}}\"\nlistening_horizon_ms = 5000\n{more}",
        secret.display()
    );
    std::fs::write(data.join("presume.toml"), text).unwrap();
}

pub fn open_ledger(data: &Path) -> Ledger {
    let dir = data.join("data").join("ledgers").join("core");
    Ledger::open(&dir, ledger::Options::default()).unwrap()
}

/// Participant, account, signed amount.
pub type Legs = Vec<(&'static str, &'static str, i64)>;

pub fn request(legs: &Legs) -> Value {
    let one = |(participant, account, amount): &(&str, &str, i64)| {
        let operation = if *amount < 0 { "debit" } else { "credit" };
        let params = json!({"account": account, "amount": amount.abs()});
        json!({"participant": participant, "operation": operation, "params": params})
    };
    json!({
        "kind": "UPI", "customer": {"id": "c1", "type": "RETAIL"},
        "amount": {"minor": legs[0].2.abs(), "currency": "INR"},
        "operations": legs.iter().map(one).collect::<Vec<_>>(),
    })
}

/// Status and answer; `None` if the coordinator is gone.
pub async fn post(
    client: &reqwest::Client,
    url: &str,
    key: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let post = client.post(format!("{url}/v1/transactions")).header("Idempotency-Key", key);
    let answer = post.json(body).send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.ok()?))
}

/// The outcome and the codes of its reasons.
fn told(answer: Option<(u16, Value)>) -> (String, String) {
    let (status, answer) = answer.unwrap();
    assert_eq!(status, 200, "{answer}");
    let codes = answer["reasons"].as_array().unwrap().iter();
    let codes: Vec<_> = codes.map(|reason| reason["code"].as_str().unwrap()).collect();
    (answer["outcome"].as_str().unwrap().to_owned(), codes.join(" "))
}

pub async fn nothing_is_prepared(wallet: &WalletServer) {
    let http = Http::new(&options(&wallet.url())).unwrap();
    let started = Instant::now();
    loop {
        let left = http.list_prepared().await.unwrap().branches;
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < SETTLED_MAX, "still prepared: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_with_a_service_commit_abort_and_commit_in_one_phase() {
    let wallet = WalletServer::start(&[("w", 500)], &[]);
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    prepare_data(data, &wallet.url(), "").await;
    let served = Served::start(data, &[]);
    let client = reqwest::Client::new();
    let submit = async |key: &str, legs: Legs| {
        let mut body = request(&legs);
        body["wait"] = "applied".into();
        told(post(&client, &served.url, key, &body).await)
    };
    let committed = || ("committed".to_owned(), String::new());
    let declined = || ("aborted".to_owned(), "business_decline".to_owned());
    assert_eq!(submit("1", vec![("core", "a", -100), ("wallet", "w", 100)]).await, committed());
    assert_eq!(submit("2", vec![("wallet", "w", -601), ("core", "a", 601)]).await, declined());
    assert_eq!(submit("3", vec![("core", "a", -901), ("wallet", "w", 901)]).await, declined());
    assert_eq!(submit("4", vec![("wallet", "w", -50), ("wallet", "x", 50)]).await, committed());
    assert_eq!(submit("5", vec![("wallet", "w", -551)]).await, declined());
    // The same key: the same answer, applied once.
    assert_eq!(submit("1", vec![("core", "a", -100), ("wallet", "w", 100)]).await, committed());

    let look = json!({"participant": "wallet", "operation": "balance", "params": {"account": "w"}});
    let mut body = request(&vec![("core", "a", -1)]);
    body["operations"].as_array_mut().unwrap().push(look);
    assert_eq!(told(post(&client, &served.url, "6", &body).await), committed());
    body["operations"][1]["operation"] = "steal".into();
    let (status, answer) = post(&client, &served.url, "7", &body).await.unwrap();
    assert_eq!(status, 422);
    assert!(answer["detail"].as_str().unwrap().contains("debit, credit, balance"), "{answer}");

    nothing_is_prepared(&wallet).await;
    assert_eq!((wallet.account("w").await, wallet.account("x").await), ((550, 0, 0), (50, 0, 0)));
    let participants = client.get(format!("{}/v1/participants", served.url)).send().await.unwrap();
    let participants: Value = participants.json().await.unwrap();
    let shown = participants["participants"].as_array().unwrap();
    let shown = shown.iter().find(|participant| participant["name"] == "wallet").unwrap();
    assert_eq!(shown["kind"], "http");
    assert!(shown["identity"].as_str().unwrap().starts_with("http:wallet:"), "{shown}");
    assert!(served.stop().success());
    assert_eq!(open_ledger(data).balance("a").unwrap().balance_minor, OPENING - 101);
}

/// What is cut, how, and the outcome.
type Cut = (&'static str, fn() -> Act, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_lost_at_any_step_leaves_both_sides_alike() {
    let cuts: [Cut; 6] = [
        ("prepare", || Act::CutBefore, "aborted"),
        ("prepare", || Act::CutAfter, "aborted"),
        ("commit", || Act::CutBefore, "committed"),
        ("commit", || Act::CutAfter, "committed"),
        ("commit-one-phase", || Act::CutBefore, "aborted"),
        ("commit-one-phase", || Act::CutAfter, "committed"),
    ];
    for (verb, act, expected) in cuts {
        let wallet = WalletServer::start(&[("w", 500)], &[]);
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path();
        let url = between(wallet.url(), cut_once(verb, act)).await;
        prepare_data(data, &url, "").await;
        let served = Served::start(data, &[]);
        let both = vec![("core", "a", -100), ("wallet", "w", 100)];
        let legs = if verb == "commit-one-phase" { vec![("wallet", "w", 100)] } else { both };
        let mut body = request(&legs);
        body["wait"] = "applied".into();
        let client = reqwest::Client::new();
        let (outcome, codes) = told(post(&client, &served.url, "1", &body).await);
        assert_eq!(outcome, expected, "{verb}: {codes}");
        nothing_is_prepared(&wallet).await;
        let moved = if expected == "committed" { 100 } else { 0 };
        assert_eq!(wallet.account("w").await, (500 + moved, 0, 0), "{verb}");
        assert!(served.stop().success());
        let paid = if legs.len() == 2 { i64::try_from(moved).unwrap() } else { 0 };
        assert_eq!(open_ledger(data).balance("a").unwrap().balance_minor, OPENING - paid, "{verb}");
    }
}

#[derive(Default)]
struct Book {
    /// Sent, and not answered for certain.
    open: Vec<(String, Legs)>,
    answered: HashMap<String, (Legs, String)>,
}

fn draw(rng: &mut ChaCha8Rng) -> Legs {
    let amount = rng.random_range(1..300);
    let account = |rng: &mut ChaCha8Rng| ACCOUNTS[rng.random_range(0..ACCOUNTS.len())];
    let (from, to) = if rng.random_bool(0.5) { ("core", "wallet") } else { ("wallet", "core") };
    // One in five stays at the service and commits in one phase.
    let (from, to) = if rng.random_bool(0.2) { ("wallet", "wallet") } else { (from, to) };
    vec![(from, account(rng), -amount), (to, account(rng), amount)]
}

async fn submit(
    client: &reqwest::Client,
    url: &str,
    (key, legs): (String, Legs),
    book: &Mutex<Book>,
) {
    let answer = post(client, url, &key, &request(&legs)).await;
    let mut book = book.lock().unwrap();
    match answer {
        Some((200, answer)) => {
            let outcome = answer["outcome"].as_str().unwrap().to_owned();
            assert!(matches!(outcome.as_str(), "committed" | "aborted"), "{answer}");
            book.answered.insert(key, (legs, outcome));
        }
        // In flight, in doubt, away, or the coordinator is gone: not answered yet.
        Some((202 | 409 | 429 | 503, _)) | None => book.open.push((key, legs)),
        Some((status, answer)) => panic!("{status}: {answer}"),
    }
}

async fn load(url: String, seed: u64, book: Arc<Mutex<Book>>, stop: Arc<AtomicBool>) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let again = if rng.random_bool(0.3) { book.lock().unwrap().open.pop() } else { None };
        let next = again.unwrap_or_else(|| (format!("k{seed}-{number}"), draw(&mut rng)));
        submit(&client, &url, next, &book).await;
    }
}

/// Passes most requests of a branch, and loses one in twenty on its way or on the way back.
struct Lossy {
    rng: Mutex<ChaCha8Rng>,
    batches: Arc<AtomicUsize>,
}

impl Script for Lossy {
    fn act(&self, call: &Call) -> Act {
        if call.verb() == "prepare-batch" {
            self.batches.fetch_add(1, Ordering::SeqCst);
        }
        match (call.verb(), self.rng.lock().unwrap().random_range(0..40)) {
            ("", _) => Act::Pass,
            (_, 0) => Act::CutBefore,
            (_, 1) => Act::CutAfter,
            _ => Act::Pass,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_service_and_of_the_coordinator_lose_nothing() {
    let opened = ACCOUNTS.map(|account| (account, u64::try_from(OPENING).unwrap()));
    let wallet = WalletServer::start(&opened, &[]);
    let url = wallet.url();
    kills_lose_nothing(wallet, &url, "", rand::random::<u64>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_and_lost_replies_lose_nothing_of_batches() {
    let opened = ACCOUNTS.map(|account| (account, u64::try_from(OPENING).unwrap()));
    let wallet = WalletServer::start(&opened, &[]);
    let seed = rand::random::<u64>();
    let batches = Arc::new(AtomicUsize::new(0));
    let rng = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
    let url = between(wallet.url(), Lossy { rng, batches: batches.clone() }).await;
    kills_lose_nothing(wallet, &url, LOCKS, seed).await;
    let batches = batches.load(Ordering::SeqCst);
    println!("{batches} batches");
    assert!(batches > 5, "{batches} batches");
}

async fn kills_lose_nothing(mut wallet: WalletServer, url: &str, more: &str, seed: u64) {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    prepare_data(data, url, more).await;
    println!("seed: {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let book = Arc::new(Mutex::new(Book::default()));
    let mut served = Served::start(data, &[]);
    let next_seed = AtomicUsize::new(0);
    for round in 0..ROUNDS {
        let before = book.lock().unwrap().answered.len();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let seed = next_seed.fetch_add(1, Ordering::Relaxed) as u64;
            clients.spawn(load(served.url.clone(), seed, book.clone(), stop.clone()));
        }
        let started = Instant::now();
        while book.lock().unwrap().answered.len() < before + 20 {
            assert!(started.elapsed() < SETTLED_MAX, "round {round}: no answers");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The moment of the kill is what is random here; nothing is synchronised by it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
        if round % 3 == 2 {
            served.kill();
            stop.store(true, Ordering::SeqCst);
            while clients.join_next().await.transpose().unwrap().is_some() {}
            served = Served::start(data, &[]);
        } else {
            wallet.kill();
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
            wallet.run();
            stop.store(true, Ordering::SeqCst);
            while clients.join_next().await.transpose().unwrap().is_some() {}
        }
    }
    let client = reqwest::Client::new();
    let started = Instant::now();
    loop {
        let open = std::mem::take(&mut book.lock().unwrap().open);
        if open.is_empty() {
            break;
        }
        assert!(started.elapsed() < SETTLED_MAX, "{} keys stay without an answer", open.len());
        for transfer in open {
            submit(&client, &served.url, transfer, &book).await;
        }
    }
    nothing_is_prepared(&wallet).await;
    let book = std::mem::take(&mut *book.lock().unwrap());
    // Every answer stays what it was.
    for (key, (legs, outcome)) in book.answered.iter().take(50) {
        let again = told(post(&client, &served.url, key, &request(legs)).await);
        assert_eq!(&again.0, outcome, "{key}");
    }
    assert!(served.stop().success());
    let mut expected: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (legs, _) in book.answered.values().filter(|(_, outcome)| outcome == "committed") {
        for (participant, account, amount) in legs {
            *expected.entry((participant, account)).or_default() += amount;
        }
    }
    let committed = book.answered.values().filter(|(_, outcome)| outcome == "committed").count();
    println!("{committed} committed, {} aborted", book.answered.len() - committed);
    assert!(committed > 50, "{committed} committed");
    let ledger = open_ledger(data);
    assert!(ledger.verify().await.unwrap().is_sound());
    for account in ACCOUNTS {
        let due =
            |participant| OPENING + expected.get(&(participant, account)).copied().unwrap_or(0);
        assert_eq!(ledger.balance(account).unwrap().balance_minor, due("core"), "core {account}");
        let (balance, held, incoming) = wallet.account(account).await;
        assert_eq!(
            (i64::try_from(balance).unwrap(), held, incoming),
            (due("wallet"), 0, 0),
            "{account}"
        );
    }
}
