//! Files of transactions through the batches of a real server: killed and resumed, full, or bad.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use presume::decision_log::{self, DecisionLog};
use presume::learning::outcome_log;
use serde_json::{Value, json};

use crate::banks::{Banks, NAMES};
use crate::installed::free_port;
use crate::load::{Transfer, submit};
use crate::pair::eventually;
use crate::server::{Served, command, root};

const ACCOUNTS: usize = 100;
const OPENING: i64 = 1_500;

/// From one bank to the other; every hundredth asks for more than anybody has.
fn transfer(n: usize) -> Transfer {
    let amount = if n % 100 == 7 { 1_000_000 } else { 1 + (n % 13) as i64 };
    let (from, to) = if n.is_multiple_of(2) { (0, 1) } else { (1, 0) };
    let legs =
        vec![(NAMES[from], n * 7 % ACCOUNTS, -amount), (NAMES[to], n * 11 % ACCOUNTS, amount)];
    Transfer { id: format!("p{n}"), legs }
}

/// A line; every thousandth has no id of its own.
fn line(n: usize) -> String {
    let transfer = transfer(n);
    let mut body = transfer.body();
    if n % 1_000 != 3 {
        body["id"] = json!(transfer.id);
    }
    body.to_string()
}

async fn open(data: &Path, more: &str) {
    let sections = Banks::Ledgers.open(data, ACCOUNTS, OPENING).await;
    let models = root().join("models");
    let text = format!("{more}\n[models]\ndir = \"{}\"\n{sections}", models.display());
    std::fs::write(data.join("presume.toml"), text).unwrap();
}

fn begin(data: &Path, url: &str, flags: &[&str]) -> Child {
    let mut submit = command();
    submit.args(["txn", "submit", "--file", "in.jsonl", "--server", url]).args(flags);
    submit.current_dir(data).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    submit.spawn().unwrap()
}

fn finish(data: &Path, url: &str, flags: &[&str]) -> Output {
    begin(data, url, flags).wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Without their times: of an answer that is given again, those up to its record are known.
fn values(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().remove("timings_ms");
            value
        })
        .collect()
}

/// Results by line of the file, each once.
fn by_line(results: Vec<Value>) -> BTreeMap<usize, Value> {
    let count = results.len();
    let results: BTreeMap<usize, Value> = results
        .into_iter()
        .map(|result| (usize::try_from(result["line"].as_u64().unwrap()).unwrap(), result))
        .collect();
    assert_eq!(results.len(), count, "a line has two results");
    results
}

fn count_lines(path: &Path) -> usize {
    let text = std::fs::read(path).unwrap_or_default();
    text.split(|byte| *byte == b'\n').count() - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_done_once_whatever_is_killed() {
    const LINES: usize = 20_000;
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    open(data, "").await;
    let text: String = (0..LINES).map(|n| line(n) + "\n").collect();
    std::fs::write(data.join("in.jsonl"), text).unwrap();
    let (port, out) = (free_port(), data.join("out.jsonl"));

    // The server goes and comes again below one client.
    let served = Served::start_on(port, data, &[]);
    let url = served.url.clone();
    let mut client = begin(data, &url, &["--out", "out.jsonl"]);
    eventually("some are answered", || count_lines(&out) > LINES / 8).await;
    served.kill();
    let served = Served::start_on(port, data, &[]);
    eventually("more are answered", || count_lines(&out) > LINES / 3).await;
    // Then the client goes, and its successor meets a torn line.
    client.kill().unwrap();
    client.wait().unwrap();
    let before = count_lines(&out);
    assert!(before < LINES, "the file was too short to kill anybody");
    let mut torn = std::fs::read(&out).unwrap();
    torn.extend_from_slice(b"{\"line\":");
    std::fs::write(&out, torn).unwrap();
    let client = begin(data, &url, &["--out", "out.jsonl", "--json"]);
    eventually("yet more are answered", || count_lines(&out) > before + LINES / 8).await;
    served.kill();
    let served = Served::start_on(port, data, &[]);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["lines"], &summary["left"]), (&json!(LINES), &json!(0)), "{summary}");
    assert_eq!(summary["outcomes"]["aborted"], LINES / 100, "{summary}");
    assert_eq!(summary["outcomes"]["committed"], LINES - LINES / 100, "{summary}");
    let answered_before = summary["answered_before"].as_u64().unwrap();
    assert_eq!(answered_before, before as u64);
    assert!(summary["interruptions"].as_u64().unwrap() > 0, "{summary}");

    // Each line once, with its own answer; asked for again, it is the same.
    let first = by_line(values(&std::fs::read_to_string(&out).unwrap()));
    assert!(first.keys().copied().eq(1..=LINES));
    let again = finish(data, &url, &[]);
    assert_eq!(again.status.code(), Some(3), "{}", told(&again));
    let again = by_line(values(std::str::from_utf8(&again.stdout).unwrap()));
    assert_eq!(first, again);
    let third = finish(data, &url, &["--out", "out.jsonl", "--json"]);
    let third: Value = serde_json::from_slice(&third.stdout).unwrap();
    assert_eq!(third["answered_before"], LINES);
    assert_eq!(count_lines(&out), LINES);
    assert!(served.stop().success());
    check_books(data, &first).await;
}

/// The money is where the answers say, and each id is among the outcomes once.
async fn check_books(data: &Path, results: &BTreeMap<usize, Value>) {
    let mut due: HashMap<(&str, usize), i64> = HashMap::new();
    let mut ids: HashMap<String, u32> = HashMap::new();
    for (line, result) in results {
        let transfer = transfer(line - 1);
        let id = result["id"].as_str().unwrap();
        assert!(id == transfer.id || id.starts_with("line-"), "{result}");
        *ids.entry(id.to_owned()).or_default() += 1;
        if result["outcome"] == "committed" {
            for (name, account, amount) in transfer.legs {
                *due.entry((name, account)).or_default() += amount;
            }
        }
    }
    for name in NAMES {
        let balances = Banks::Ledgers.balances(data, name, ACCOUNTS).await;
        for (account, balance) in balances.into_iter().enumerate() {
            let moved = due.get(&(name, account)).copied().unwrap_or(0);
            assert_eq!(balance, OPENING + moved, "{name} a{account}");
        }
    }
    let folder = data.join("data").join("decision-log");
    let (log, recovered) = DecisionLog::open(&folder, decision_log::Options::default()).unwrap();
    assert!(recovered.decisions.is_empty() && recovered.intents.is_empty(), "in doubt");
    let mut seen: HashMap<String, u32> = HashMap::new();
    for id in outcome_log::txn_ids(&data.join("data").join("outcomes")).unwrap() {
        *seen.entry(id).or_default() += 1;
    }
    for (_, row) in log.outcome_rows(0, usize::MAX).unwrap() {
        *seen.entry(row.txn_id.to_string()).or_default() += 1;
    }
    assert_eq!(seen, ids, "outcomes, each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_coordinator_loses_no_member() {
    const LINES: usize = 1_500;
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    open(data, "[coordinator]\nin_flight_max = 8\nunfinished_max = 8").await;
    let text: String = (0..LINES).map(|n| line(n) + "\n").collect();
    std::fs::write(data.join("in.jsonl"), text).unwrap();
    let served = Served::start(data, &[]);

    // Others fill it all the while, to and fro.
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..8)
        .map(|number| {
            let (stop, url) = (stop.clone(), served.url.clone());
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (from, to) = if n % 2 == 0 { (0, 1) } else { (1, 0) };
                    let legs = vec![(NAMES[from], number, -1), (NAMES[to], number, 1)];
                    let transfer = Transfer { id: format!("other-{number}-{n}"), legs };
                    while submit(&client, &url, &transfer).await.is_none() {
                        // Refused is refused at once: eight that asked again at once took both
                        // processors, and nearly every place, with questions alone.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect();
    let client = begin(data, &served.url, &["--json", "--out", "out.jsonl"]);
    let output = tokio::task::spawn_blocking(|| client.wait_with_output().unwrap()).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    for other in others {
        other.await.unwrap();
    }
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["left"], &summary["refused"]), (&json!(0), &json!(0)), "{summary}");
    assert_eq!(summary["outcomes"]["aborted"], LINES / 100, "{summary}");
    assert_eq!(summary["outcomes"]["committed"], LINES - LINES / 100, "{summary}");
    assert!(metric(&served, "presume_http_batch_waits_total").await > 0, "it was never full");
}

/// A number of `/metrics`; 0 if it is not there yet.
async fn metric(served: &Served, name: &str) -> u64 {
    let metrics = reqwest::get(format!("{}/metrics", served.url)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let values = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let value = values.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value);
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_place_for_its_batch_asks_again_when_it_may() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    open(data, "[server]\nbatches_max = 1\nbody_timeout_ms = 60000").await;
    std::fs::write(data.join("in.jsonl"), line(0) + "\n" + &line(1)).unwrap();
    let served = Served::start(data, &[]);
    // One that says nothing has the only place.
    let mut holder = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).unwrap();
    let head = "POST /v1/transactions:batch HTTP/1.1\r\nhost: localhost\r\n\
                transfer-encoding: chunked\r\ncontent-type: application/x-ndjson\r\n\r\n";
    holder.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    holder.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    let output = finish(data, &served.url, &["--json", "--give-up-after", "3"]);
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    assert!(told(&output).contains("1 batches are being answered"), "{}", told(&output));
    // It is told to wait a second: without, it would be refused five times in three.
    let refused = metric(&served, "presume_http_refused_total{code=\"overloaded\"}").await;
    assert!((1..=4).contains(&refused), "refused {refused} times");

    let client = begin(data, &served.url, &["--json"]);
    loop {
        let now = metric(&served, "presume_http_refused_total{code=\"overloaded\"}").await;
        if now > refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(holder);
    let output = tokio::task::spawn_blocking(|| client.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let summary: Value = serde_json::from_str(&told(&output)).unwrap();
    assert_eq!(summary["outcomes"], json!({"committed": 2}), "{summary}");
    assert!(summary["interruptions"].as_u64().unwrap() > 0, "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_are_located_in_the_file_and_tried_again_once_they_are_mended() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    open(data, "").await;
    let served = Served::start(data, &[]);
    let elsewhere = line(9).replace("\"left\"", "\"nowhere\"");
    let large = json!({"id": "large", "memo": "x".repeat(2_000_000)});
    let mut lines = [
        line(0),
        String::new(),
        "{\"kind\": UPI}".into(),
        elsewhere,
        large.to_string(),
        "[]".into(),
        line(1),
    ];
    let write = |lines: &[String]| std::fs::write(data.join("in.jsonl"), lines.join("\n")).unwrap();
    write(&lines);
    let output = finish(data, &served.url, &["--out", "out.jsonl"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("4 of 6 lines were not committed"), "{}", told(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    for place in ["line 3:10, line-", "line 4, p9: ", "line 5:1048577, line-", "line 6, line-"] {
        assert!(printed.contains(place), "{place} is not in\n{printed}");
    }
    let read = || by_line(values(&std::fs::read_to_string(data.join("out.jsonl")).unwrap()));
    let results = read();
    assert_eq!(results.len(), 6);
    for (line, status, slug, column) in [
        (3, 400, "malformed", Some(10)),
        (4, 422, "unknown-participant", None),
        (5, 413, "too-large", Some((1 << 20) + 1)),
        (6, 422, "invalid", None),
    ] {
        let (result, problem) = (&results[&line], &results[&line]["problem"]);
        assert_eq!(result["status"], status, "{result}");
        assert_eq!(problem["type"], format!("urn:presume:problem:{slug}"), "{result}");
        assert_eq!(problem["column"].as_u64(), column, "{result}");
        assert_eq!(problem["line"].as_u64(), column.map(|_| line as u64), "{result}");
        assert!(result["id"].is_string(), "{result}");
    }
    assert_eq!((&results[&1]["outcome"], &results[&1]["id"]), (&json!("committed"), &json!("p0")));

    // Mended, only these are sent again.
    for (at, n) in [(2, 2), (3, 9), (4, 4), (5, 5)] {
        lines[at] = line(n);
    }
    write(&lines);
    let output = finish(data, &served.url, &["--out", "out.jsonl", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["answered_before"], &summary["lines"]), (&json!(2), &json!(6)));
    let results = read();
    assert!(results.values().all(|result| result["outcome"] == "committed"), "{results:?}");
    assert_eq!(results.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7]);

    // Other words for the same, and what cannot be meant.
    let piped = |flags: &[&str], text: &str| {
        let mut submit = command();
        submit.args(["txn", "submit", "--server", &served.url]).args(flags).current_dir(data);
        std::fs::write(data.join("pipe"), text).unwrap();
        submit.stdin(std::fs::File::open(data.join("pipe")).unwrap()).output().unwrap()
    };
    let two = format!("{}\n{}\n", line(0), line(1));
    let output = piped(&["--file", "-"], &two);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(by_line(values(std::str::from_utf8(&output.stdout).unwrap())).len(), 2);
    let unnamed = line(3);
    let ids: Vec<Value> = [&[][..], &[], &["--series", "june"]]
        .into_iter()
        .map(|flags| {
            let flags = [&["--file", "-", "--lines"], flags].concat();
            values(std::str::from_utf8(&piped(&flags, &unnamed).stdout).unwrap()).remove(0)
        })
        .collect();
    assert_eq!(ids[0], ids[1], "the same line again is the same payment");
    assert_ne!(ids[0]["id"], ids[2]["id"]);
    for (flags, part) in [
        (&["--file", "in.jsonl", "--predict"][..], "--predict is for one transaction"),
        (&["--file", "in.jsonl", "--out", "in.jsonl"], "is the file that is read"),
        (&["--file", "in.jsonl", "--out", "presume.toml"], "presume.toml"),
        (&["--file", "in.jsonl", "--out", "no/folder"], "no/folder"),
        (&["--file", "missing.jsonl"], "missing.jsonl"),
    ] {
        let output = piped(flags, "");
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {}", told(&output));
        assert!(told(&output).contains(part), "{flags:?}: {}", told(&output));
    }
    assert!(std::fs::read_to_string(data.join("presume.toml")).unwrap().contains("[models]"));

    // Without a server it ends after a while, and says what is left.
    let url = served.url.clone();
    assert!(served.stop().success());
    let output = finish(data, &url, &["--give-up-after", "1", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    let summary = told(&output);
    let summary: Value = serde_json::from_str(summary.lines().next().unwrap()).unwrap();
    assert_eq!((&summary["left"], &summary["lines"]), (&json!(6), &json!(6)), "{summary}");
    assert!(summary["gave_up"].as_str().unwrap().contains("refused"), "{summary}");
}
