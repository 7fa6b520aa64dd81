//! The operator's verbs at the command line, between a real `PostgreSQL` and a real `MariaDB`.
//!
//! What hangs is named with why and where to look, is asked again when a person says so, and is
//! ended by a person's word, which is shown ever after.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::doubts::end_by_hand;
use crate::house::{House, across};
use crate::pair::{SETTLED_MAX, Side};
use crate::proxy::{Moment, Outage};
use crate::server::command;

/// What waits this long ends within a test only if somebody asks for it.
const RETRY_MS: u64 = 3_600_000;
const BY: [&str; 4] = ["--by", "A. Clerk", "--reason", "by hand, ticket 12"];

/// A house where what was once asked in vain is not asked again by itself.
async fn open() -> Option<House> {
    let mut house = House::build("", |sections| sections).await?;
    let file = house.folder().join("presume.toml");
    let quick = "retry_ms_first = 10\nretry_ms_max = 200\n";
    let slow = format!("retry_ms_first = {RETRY_MS}\nretry_ms_max = {RETRY_MS}\n");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(quick), "{text}");
    std::fs::write(&file, text.replace(quick, &slow)).unwrap();
    house.start();
    Some(house)
}

/// Decides a transfer whose commit never reaches one side: that side is away from then on.
async fn hang(house: &House, id: &'static str, account: usize, side: Side) {
    let commit = if side == Side::Left { "COMMIT PREPARED" } else { "XA COMMIT" };
    house.proxy(side).set(commit, Moment::BeforeItIsSent, Outage::UntilHealed);
    let (client, url) = (house.client.clone(), house.served().url.clone());
    // Not waited for: where promises came slowly, the answer waits until both have obeyed.
    tokio::spawn(async move { crate::load::submit(&client, &url, &across(id, account, 1)).await });
    house.proxy(side).sprung().await;
    branches(house, id, side, |at| at["state"] == "waiting").await;
    branches(house, id, side.other(), |at| at["state"] == "acknowledged").await;
}

/// Waits until the branch at a side is so.
async fn branches(house: &House, id: &str, side: Side, so: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    loop {
        let seen = house.get(&format!("/v1/transactions/{id}")).await;
        if so(&seen["unresolved"]["branches"][side as usize]) {
            return;
        }
        assert!(started.elapsed() < SETTLED_MAX, "{side:?}: {seen}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs `presume txn …` in the folder of the house.
fn txn(house: &House, args: &[&str]) -> Output {
    command().arg("txn").args(args).current_dir(house.folder()).output().unwrap()
}

/// The same against the server: exit code, what it printed, what it complained of.
fn ask(house: &House, args: &[&str]) -> (i32, String, String) {
    let served = ["--server", &house.served().url];
    said(&txn(house, &[args, &served].concat()))
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// What a command prints that must succeed.
fn done((code, printed, complained): (i32, String, String)) -> String {
    assert_eq!((code, complained.as_str()), (0, ""), "{printed}");
    printed
}

/// The same as JSON.
fn json(house: &House, args: &[&str]) -> Value {
    serde_json::from_str(&done(ask(house, &[args, &["--json"]].concat()))).unwrap()
}

/// A command fails, and says all of these.
fn refused((code, _, complained): (i32, String, String), parts: &[&str]) {
    assert_eq!(code, 1, "{complained}");
    for part in parts {
        assert!(complained.contains(part), "{part:?} is not in {complained}");
    }
}

/// The lines of a text from the one that begins so on.
fn lines_from<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with(begin)).collect();
    assert!(!lines.is_empty(), "no line begins with {begin:?}:\n{text}");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_named_with_why_and_where_and_ends_at_once_when_it_is_asked_again() {
    let Some(house) = open().await else { return };
    hang(&house, "t1", 1, Side::Left).await;
    let gid = house.pair.prepared(Side::Left);

    let stuck = ["stuck", "--older-than-s", "0"];
    let text = done(ask(&house, &stuck));
    let lines = lines_from(&text, "t1  telling, commit, running, for ");
    assert_eq!(lines[1], format!("  left  waiting  {gid}"), "{text}");
    let why = lines[2].strip_prefix("    left has not acknowledged the commit for ").unwrap();
    assert!(why.contains("; 1 attempt; next in "), "{why}");
    let look = lines[3].strip_prefix("    ").unwrap();
    assert!(house.pair.sql(Side::Left, look).contains(&gid), "{look}");
    let right = format!("  right  acknowledged  {}1", gid.strip_suffix('0').unwrap());
    assert_eq!(lines[4..], [right], "a branch that has ended needs no words");

    let page = json(&house, &stuck);
    let one = &page["transactions"][0];
    assert_eq!((&page["more"], &one["ids"]), (&0.into(), &serde_json::json!(["t1"])));
    let branch = &one["branches"][0];
    assert_eq!((&branch["gid"], &branch["look"]), (&gid.as_str().into(), &look.into()));
    assert!(branch["diagnosis"].as_str().unwrap().contains("not acknowledged the commit"));
    assert!(branch["last_error"].is_string() && branch["attempts"] == 1, "{branch}");
    let next_s = branch["next_try_s"].as_f64().unwrap();
    assert!(next_s > SETTLED_MAX.as_secs_f64(), "it would end by itself: {branch}");
    assert!(one["branches"][1]["diagnosis"].is_null(), "{one}");

    let listed = json(&house, &["list", "--in-doubt"]);
    assert_eq!(listed["transactions"][0]["branches"][0]["gid"], gid);
    assert_eq!(done(ask(&house, &["stuck", "--older-than-s", "86400"])), "nothing\n");
    let (_, shown, _) = ask(&house, &["show", "t1"]);
    assert_eq!(lines_from(&shown, "t1  telling, commit, running, for ")[1], lines[1]);

    // It is asked, and is still away.
    assert_eq!(
        done(ask(&house, &["retry-now", "t1"])),
        "asked again: 1 branches, 0 participants\n"
    );
    branches(&house, "t1", Side::Left, |at| at["attempts"] == 2 && at["state"] == "waiting").await;
    house.proxy(Side::Left).heal();
    assert_eq!(json(&house, &["retry-now", "t1"])["woken"]["branches"], 1);
    house.settled("asked again").await;
    house.assert_moved(1, 1, "decided before");
    assert_eq!(done(ask(&house, &stuck)), "nothing\n");
    let shown = done(ask(&house, &["show", "t1"]));
    assert!(shown.starts_with("t1  committed\n") && !shown.contains("telling"), "{shown}");
    refused(ask(&house, &["retry-now", "t1"]), &["t1 is not unresolved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_ended_by_hand_is_heuristic_by_a_word_that_is_shown_with_who_and_why() {
    let Some(house) = open().await else { return };
    hang(&house, "t2", 2, Side::Left).await;
    end_by_hand(&house, Side::Left, "COMMIT").await;

    let resolve = |branch, claim| {
        let flags = ["resolve", "t2", "--branch", branch, "--as", claim];
        ask(&house, &[&flags[..], &BY].concat())
    };
    refused(resolve("left", "committed"), &["committed", "say done", "or gone"]);
    refused(resolve("middle", "done"), &["no branch at", "middle", "left, right"]);
    refused(resolve("right", "done"), &["not in doubt there", "right has ended as decided"]);
    assert_eq!(done(resolve("left", "done")), "t2: left is done by the word of A. Clerk\n");
    house.settled("by a word").await;
    house.assert_moved(2, 1, "committed by hand");
    refused(resolve("left", "gone"), &["not in doubt there", "heuristic"]);

    let (code, shown, complained) = ask(&house, &["show", "t2"]);
    assert_eq!(code, 3, "{complained}");
    let lines = lines_from(&shown, "t2  heuristic");
    let has = |begin: &str, end: &str| {
        let found = |line: &&&str| line.starts_with(begin) && line.ends_with(end);
        assert_eq!(lines.iter().filter(found).count(), 1, "{begin} … {end}:\n{shown}");
    };
    let word = "left was decided to commit and is done by the word of A. Clerk: by hand, ticket 12";
    has("  reason  ", word);
    has("  resolution  ", ": by hand, ticket 12");
    assert!(shown.contains("  left is done by the word of A. Clerk, 20"), "{shown}");
    assert!(!shown.contains("telling"), "{shown}");

    let (code, shown, _) = ask(&house, &["show", "t2", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &shown["outcome"]), (3, &"heuristic".into()));
    let resolution = &shown["resolutions"][0];
    for (key, value) in [
        ("participant", "left"),
        ("claim", "done"),
        ("by", "A. Clerk"),
        ("reason", "by hand, ticket 12"),
        ("decision", "commit"),
    ] {
        assert_eq!(resolution[key], value, "{shown}");
    }
    assert!(shown["resolutions"][1].is_null() && shown["unresolved"].is_null(), "{shown}");
    assert_eq!(done(ask(&house, &["list"])), "nothing\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_coordinator_left_is_listed_and_ended_off_line() {
    let Some(mut house) = open().await else { return };
    hang(&house, "t3", 3, Side::Right).await;
    let list = ["list", "--offline", "--data-dir", "data"];
    refused(said(&txn(&house, &list)), &["decision-log", "in use"]);
    let gid = json(&house, &["list"])["transactions"][0]["branches"][1]["gid"].clone();
    let gid = gid.as_str().unwrap();
    let address = house.served().url.clone();
    house.kill();
    refused(said(&txn(&house, &["list", "--server", &address])), &["no answer from", &address]);

    let text = done(said(&txn(&house, &list)));
    let lines = lines_from(&text, "t3  telling, commit, recovered, for ");
    assert!(lines.contains(&format!("  right  prepared  {gid}").as_str()), "{text}");
    assert!(lines.contains(&"    the next start tells right to commit"), "{text}");
    let page = || -> Value {
        let output = txn(&house, &[&list[..], &["--json"]].concat());
        serde_json::from_str(&done(said(&output))).unwrap()
    };
    let one = &page()["transactions"][0];
    assert_eq!((&one["ids"][0], &one["decision"]), (&"t3".into(), &"commit".into()));
    assert_eq!((&one["branches"][1]["gid"], &one["state"]), (&gid.into(), &"telling".into()));

    let rows = done(said(&txn(&house, &["rows", "--data-dir", "data"])));
    let row: Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&row["row"]["txn_id"], &row["sequence"]),
        (&"t3".into(), &rows.lines().count().into())
    );
    assert_eq!(
        (&row["told"]["answer"]["outcome"], &row["row"]["outcome"]),
        (&"committed".into(), &"committed".into())
    );

    end_by_hand(&house, Side::Right, "COMMIT").await;
    let resolve = ["resolve", "t3", "--branch", "right", "--as", "done"];
    let resolve = [&resolve[..], &BY, &list[1..]].concat();
    assert_eq!(
        done(said(&txn(&house, &resolve))),
        "t3: right is done by the word of A. Clerk; the next start ends it\n"
    );
    let one = &page()["transactions"][0];
    assert_eq!(one["branches"][1]["state"], "acknowledged");
    let why = one["branches"][1]["diagnosis"].as_str().unwrap();
    assert_eq!(why, "done by the word of A. Clerk; the next start ends it");
    refused(said(&txn(&house, &resolve)), &["A. Clerk has said that it is done"]);

    house.proxy(Side::Right).heal();
    house.start();
    house.settled("by a word").await;
    house.assert_moved(3, 1, "committed by hand");
    let (code, shown, complained) = ask(&house, &["show", "t3"]);
    assert_eq!(code, 3, "{complained}");
    assert!(lines_from(&shown, "t3  heuristic").len() > 1, "{shown}");
    assert!(shown.contains("  right is done by the word of A. Clerk, 20"), "{shown}");
    assert_eq!(done(ask(&house, &["list"])), "nothing\n");
}
