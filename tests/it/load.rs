//! Clients that transfer without end, ask again for what was not answered, and remember every
//! answer: the money must be where the answers say.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::banks::NAMES;

/// Keys without an answer from which on clients ask for these only.
const OPEN_MAX: usize = 200;

/// A transfer as a client remembers it.
#[derive(Clone)]
pub struct Transfer {
    pub id: String,
    /// Participant, account, signed amount of each leg.
    pub legs: Vec<(&'static str, usize, i64)>,
}

impl Transfer {
    fn draw(id: String, accounts: usize, rng: &mut ChaCha8Rng) -> Self {
        let amount = rng.random_range(1..400);
        let account = |rng: &mut ChaCha8Rng| rng.random_range(0..accounts);
        let (from, to) = if rng.random_bool(0.5) { (0, 1) } else { (1, 0) };
        let (a, b) = (account(rng), account(rng));
        // One in five stays within one participant and commits in one phase.
        let to = if rng.random_bool(0.2) { from } else { to };
        Self { id, legs: vec![(NAMES[from], a, -amount), (NAMES[to], b, amount)] }
    }

    pub fn body(&self) -> Value {
        let operations: Vec<_> = self
            .legs
            .iter()
            .map(|(participant, account, amount)| {
                json!({
                    "participant": participant,
                    "operation": if *amount < 0 { "debit" } else { "credit" },
                    "params": {"account": format!("a{account}"), "amount": amount.abs()},
                })
            })
            .collect();
        json!({
            "kind": "UPI",
            "customer": {"id": "c1", "type": "RETAIL"},
            "amount": {"minor": self.legs[0].2.abs(), "currency": "INR"},
            "operations": operations,
        })
    }
}

/// Everything that was asked and answered.
#[derive(Default)]
pub struct Book {
    /// Sent, and not answered for certain.
    open: Vec<Transfer>,
    /// The first answer to each key.
    pub answered: HashMap<String, (Transfer, Value)>,
    /// Their keys, to draw from.
    ids: Vec<String>,
}

impl Book {
    pub fn count(&self, outcome: &str) -> usize {
        self.answered.values().filter(|(_, answer)| answer["outcome"] == outcome).count()
    }

    /// What the answers add up to, by participant and account.
    fn due(&self) -> BTreeMap<(&'static str, usize), i64> {
        let mut due = BTreeMap::new();
        for (transfer, answer) in self.answered.values() {
            if answer["outcome"] == "committed" {
                for (name, account, amount) in &transfer.legs {
                    *due.entry((*name, *account)).or_default() += amount;
                }
            }
        }
        due
    }
}

/// The clients of one test, over many runs of the server.
pub struct Load {
    /// Accounts of each participant.
    pub accounts: usize,
    /// What each had at first.
    pub opening: i64,
    clients: usize,
    book: Arc<Mutex<Book>>,
    next: Arc<AtomicUsize>,
}

/// Clients at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Clients {
    /// Lets each finish what it asks for.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(client) = self.tasks.join_next().await {
            client.unwrap();
        }
    }
}

impl Load {
    pub fn new(clients: usize, accounts: usize, opening: i64) -> Self {
        Self { accounts, opening, clients, book: Arc::default(), next: Arc::default() }
    }

    /// Sets all clients to work.
    pub fn start(&self, url: &str) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..self.clients {
            let (url, stop) = (url.to_owned(), stop.clone());
            let (book, next) = (self.book.clone(), self.next.clone());
            tasks.spawn(client(number, url, book, next, stop, self.accounts));
        }
        Clients { stop, tasks }
    }

    /// Asks every open key until it is answered.
    pub async fn finish_open(&self, url: &str) {
        let client = reqwest::Client::new();
        for _ in 0..1_000 {
            let open = std::mem::take(&mut self.book.lock().unwrap().open);
            if open.is_empty() {
                return;
            }
            for transfer in open {
                let answer = submit(&client, url, &transfer).await;
                settle(&self.book, transfer, answer);
            }
        }
        panic!("keys stay without an answer");
    }

    /// What the accounts of a participant must have, by the answers.
    pub fn due(&self, name: &'static str) -> Vec<i64> {
        let due = self.look(Book::due);
        let moved = |account| due.get(&(name, account)).copied().unwrap_or(0);
        (0..self.accounts).map(|account| self.opening + moved(account)).collect()
    }

    /// What has been answered so far, to look at.
    pub fn look<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.lock().unwrap())
    }
}

/// Submits; `None` if there is no certain answer.
pub async fn submit(client: &reqwest::Client, url: &str, transfer: &Transfer) -> Option<Value> {
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
    accounts: usize,
) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
    let seed = next.load(Ordering::SeqCst) as u64 * 1000 + number as u64;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    while !stop.load(Ordering::SeqCst) {
        let retried = {
            let mut book = book.lock().unwrap();
            // While nothing is answered, nothing more is thought of.
            let again = rng.random_bool(0.3) || book.open.len() > OPEN_MAX;
            if again { book.open.pop() } else { None }
        };
        let transfer = retried.unwrap_or_else(|| {
            let id = format!("k{}", next.fetch_add(1, Ordering::SeqCst));
            Transfer::draw(id, accounts, &mut rng)
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
            let known = rng.random_range(0..book.ids.len().max(1));
            book.ids.get(known).map(|id| book.answered[id].clone())
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
    book.ids.push(transfer.id.clone());
    book.answered.insert(transfer.id.clone(), (transfer, answer));
}
