//! Batches of a service through a coordinator: answers that cannot be true, a service that goes
//! back to an older version, and one with small limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http_transfers::{
    ACCOUNTS, LOCKS, OPENING, SETTLED_MAX, nothing_is_prepared, open_ledger, post, prepare_data,
    request,
};
use crate::middleman::{Act, Call, Script, between};
use crate::server::Served;
use crate::wallet_server::WalletServer;

/// As many as share batches, and each has at most one transfer on its way.
const CLIENTS: usize = 16;

/// What was answered: outcomes with the code and detail of their reason.
type Answers = Vec<(String, String, String)>;

/// Moves one unit at a time from the ledger to the service, in as many transactions at a time as
/// there are clients, until `enough` says so; answers what each heard.
async fn transfers(url: &str, enough: impl Fn() -> bool) -> Answers {
    let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for number in 0..CLIENTS {
        clients.spawn(client(url.to_owned(), number, stop.clone()));
    }
    let started = Instant::now();
    while !enough() {
        assert!(started.elapsed() < SETTLED_MAX, "it did not come to that");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    stop.store(true, Ordering::SeqCst);
    clients.join_all().await.concat()
}

async fn client(url: String, number: usize, stop: Arc<AtomicBool>) -> Answers {
    let http = reqwest::Client::new();
    let mut answers = Vec::new();
    let account = ACCOUNTS[number % ACCOUNTS.len()];
    while !stop.load(Ordering::SeqCst) {
        let body = request(&vec![("core", account, -1), ("wallet", account, 1)]);
        let key = format!("{number}-{}", answers.len());
        let (status, answer) = post(&http, &url, &key, &body).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reason = &answer["reasons"][0];
        answers.push((text(&answer["outcome"]), text(&reason["code"]), text(&reason["detail"])));
    }
    answers
}

fn by_outcome(answers: &Answers) -> BTreeMap<&str, i64> {
    let mut counts = BTreeMap::new();
    for (outcome, ..) in answers {
        *counts.entry(outcome.as_str()).or_default() += 1;
    }
    counts
}

struct Setting {
    wallet: WalletServer,
    served: Served,
    scratch: tempfile::TempDir,
}

impl Setting {
    /// A service behind a script, with more configuration.
    async fn start(script: impl Script, more: &str) -> Self {
        let opened = ACCOUNTS.map(|account| (account, u64::try_from(OPENING).unwrap()));
        let wallet = WalletServer::start(&opened, &[]);
        let url = between(wallet.url(), script).await;
        let scratch = tempfile::tempdir().unwrap();
        prepare_data(scratch.path(), &url, &format!("{LOCKS}{more}")).await;
        let served = Served::start(scratch.path(), &[]);
        Self { wallet, served, scratch }
    }

    /// Stops it all; both sides have moved what was answered as committed, and nothing else.
    async fn both_sides_have_moved(self, committed: i64) {
        nothing_is_prepared(&self.wallet).await;
        assert!(self.served.stop().success());
        let ledger = open_ledger(self.scratch.path());
        assert!(ledger.verify().await.unwrap().is_sound());
        let (mut in_ledger, mut in_wallet) = (0, 0);
        for account in ACCOUNTS {
            in_ledger += ledger.balance(account).unwrap().balance_minor;
            let (balance, held, incoming) = self.wallet.account(account).await;
            assert_eq!((held, incoming), (0, 0), "{account}");
            in_wallet += i64::try_from(balance).unwrap();
        }
        let opened = OPENING * i64::try_from(ACCOUNTS.len()).unwrap();
        assert_eq!((in_ledger, in_wallet), (opened - committed, opened + committed));
    }
}

/// A service that carries batches out and lies about them.
struct Liar {
    lie: fn(members: usize, answer: &mut Value),
    told: Arc<AtomicUsize>,
}

impl Script for Liar {
    fn act(&self, _: &Call) -> Act {
        Act::Pass
    }

    fn reply(&self, call: &Call, status: u16, mut body: Value) -> (u16, Value) {
        if call.verb() == "prepare-batch" && status == 200 {
            let members = call.json()["members"].as_array().map_or(0, Vec::len);
            (self.lie)(members, &mut body);
            self.told.fetch_add(1, Ordering::SeqCst);
        }
        (status, body)
    }
}

fn decline(member: impl Into<Value>, class: &str) -> Value {
    json!({"member": member.into(), "class": class, "code": "funds", "detail": "none"})
}

type Lie = fn(usize, &mut Value);

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_lies_about_a_batch_declines_nobody_and_is_told_of_clearly() {
    let lies: [(&str, Lie, &str); 5] = [
        (
            "auto",
            |members, answer| answer["declined"] = json!([decline(members, "business")]),
            "its answer to a batch is wrong: it names member",
        ),
        (
            "work_first",
            |_, answer| {
                answer["declined"] = json!([decline(0, "business"), decline(0, "business")]);
            },
            "names member 0 twice",
        ),
        (
            "work_first",
            |members, answer| {
                let all = (0..=members).map(|member| decline(member, "business"));
                answer["declined"] = all.collect();
            },
            "counted from 0",
        ),
        (
            "one_trip",
            |_, answer| answer["declined"] = json!([decline(1, "business")]),
            "it votes yes although 1 of",
        ),
        (
            "auto",
            |_, answer| answer["declined"] = json!([decline(0, "technical")]),
            "declined by class technical",
        ),
    ];
    for (strategy, lie, why) in lies {
        let told = Arc::new(AtomicUsize::new(0));
        let more = format!("[coalescing]\nstrategy = \"{strategy}\"\n");
        let setting = Setting::start(Liar { lie, told: told.clone() }, &more).await;
        let answers = transfers(&setting.served.url, || told.load(Ordering::SeqCst) >= 6).await;
        let counts = by_outcome(&answers);
        let known = counts.keys().all(|outcome| ["committed", "aborted"].contains(outcome));
        assert!(known, "{counts:?}");
        for (outcome, code, detail) in &answers {
            let aborted = outcome == "aborted";
            assert!(!aborted || code == "technical_failure", "{outcome} {code}: {detail}");
        }
        assert!(answers.iter().any(|(.., detail)| detail.contains(why)), "{why}: {answers:?}");
        setting.both_sides_have_moved(counts.get("committed").copied().unwrap_or(0)).await;
    }
}

/// A service that, from some moment on, is an older version of itself.
struct Downgraded {
    older: Arc<AtomicBool>,
    before: Arc<AtomicUsize>,
    after: Arc<AtomicUsize>,
}

impl Script for Downgraded {
    fn act(&self, call: &Call) -> Act {
        if call.verb() != "prepare-batch" {
            return Act::Pass;
        }
        if !self.older.load(Ordering::SeqCst) {
            self.before.fetch_add(1, Ordering::SeqCst);
            return Act::Pass;
        }
        self.after.fetch_add(1, Ordering::SeqCst);
        Act::Answer(404, json!({"code": "no_such_path", "detail": "see the OpenAPI"}))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_back_to_a_version_without_batches_loses_no_transaction() {
    let (older, before, after) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let script = Downgraded { older: older.clone(), before: before.clone(), after: after.clone() };
    let setting = Setting::start(script, "").await;
    let url = setting.served.url.clone();
    let mut answers = transfers(&url, || before.load(Ordering::SeqCst) >= 5).await;
    let first = answers.len();
    older.store(true, Ordering::SeqCst);
    let http = reqwest::Client::new();
    let started = Instant::now();
    let (mut round, mut asked_in) = (0, 0);
    while round < asked_in + 3 {
        assert!(started.elapsed() < SETTLED_MAX, "nobody shared a batch");
        round += 1;
        let one = |number: usize| {
            let account = ACCOUNTS[number % ACCOUNTS.len()];
            let body = request(&vec![("core", account, -1), ("wallet", account, 1)]);
            let (http, url) = (http.clone(), url.clone());
            async move { post(&http, &url, &format!("old-{round}-{number}"), &body).await }
        };
        for answer in futures_util::future::join_all((0..CLIENTS).map(one)).await {
            let (status, answer) = answer.unwrap();
            assert_eq!((status, &answer["outcome"]), (200, &json!("committed")), "{answer}");
            answers.push(("committed".to_owned(), String::new(), String::new()));
        }
        if after.load(Ordering::SeqCst) == 0 {
            asked_in = round;
        }
    }
    let asked = after.load(Ordering::SeqCst);
    // By those that were on their way at once, at most, and never again.
    assert!((1..=4).contains(&asked), "{asked} batches were still tried");
    let counts = by_outcome(&answers);
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&"committed"], "{first} before: {counts:?}");
    let committed = counts["committed"];
    setting.both_sides_have_moved(committed).await;
}

/// What becomes of its description.
type Described = fn(&mut Value);

/// A service that says it takes little, and notes what it is sent.
struct Small {
    described: Described,
    largest: Arc<AtomicUsize>,
    batches: Arc<AtomicUsize>,
}

impl Script for Small {
    fn act(&self, call: &Call) -> Act {
        if call.verb() == "prepare-batch" {
            let members = call.json()["members"].as_array().map_or(0, Vec::len);
            self.largest.fetch_max(members, Ordering::SeqCst);
            self.batches.fetch_add(1, Ordering::SeqCst);
        }
        Act::Pass
    }

    fn reply(&self, call: &Call, status: u16, mut body: Value) -> (u16, Value) {
        if call.path == "/v1/service" {
            (self.described)(&mut body);
        }
        (status, body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_no_larger_than_the_service_takes() {
    let limits: [(Described, usize); 2] = [
        (|described| described["batch_members_max"] = 3.into(), 3),
        // What one alone needs is 140 bytes, and a member more some 70.
        (|described| described["body_bytes_max"] = 500.into(), 6),
    ];
    for (described, most) in limits {
        let (largest, batches) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let script = Small { described, largest: largest.clone(), batches: batches.clone() };
        let setting = Setting::start(script, "").await;
        let answers = transfers(&setting.served.url, || batches.load(Ordering::SeqCst) >= 20).await;
        let (largest, counts) = (largest.load(Ordering::SeqCst), by_outcome(&answers));
        assert!((2..=most).contains(&largest), "{largest}, at most {most}");
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&"committed"], "{answers:?}");
        setting.both_sides_have_moved(counts["committed"]).await;
    }
}
