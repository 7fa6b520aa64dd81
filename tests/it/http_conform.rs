//! The conformance check: the reference service passes, and every kind of faulty one is named.

use std::collections::{BTreeMap, HashMap};
use std::process::Output;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use presume::participants::http::conform::{self, Checked, Outcome, Sample};
use serde_json::{Value, json};

use crate::middleman::{Act, Call, Script, between};
use crate::server::command;
use crate::wallet_server::{SECRET, WalletServer, options};

fn sample() -> Sample {
    let step = |name: &str| json!({"operation": name, "params": {"account": "t", "amount": 1}});
    let read = json!({"operation": "balance", "params": {"account": "t"}});
    let sample = json!({"give": step("credit"), "take": step("debit"), "read": read});
    serde_json::from_value(sample).unwrap()
}

async fn check(url: &str) -> Vec<Checked> {
    let pause = Duration::from_millis(600);
    let options = conform::Options { service: options(url), sample: sample(), pause };
    conform::run(&options, |_| {}).await.unwrap()
}

fn failed(report: &[Checked]) -> Vec<&'static str> {
    let failed = |checked: &&Checked| matches!(checked.outcome, Outcome::Failed(_));
    report.iter().filter(failed).map(|checked| checked.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_service_conforms_again_and_again() {
    let mut server = WalletServer::start(&[], &[]);
    for _ in 0..2 {
        let report = check(&server.url()).await;
        assert!(report.iter().all(|checked| checked.outcome == Outcome::Ok), "{report:#?}");
        assert_eq!(server.account("t").await, (0, 0, 0));
        server.kill();
        server.run();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_does_not_offer_is_skipped() {
    let server = WalletServer::start(&[], &["--two-phase-only", "--no-batches"]);
    let report = check(&server.url()).await;
    assert_eq!(failed(&report), [""; 0], "{report:#?}");
    let skipped = report.iter().filter(|c| matches!(c.outcome, Outcome::Skipped(_)));
    let skipped: Vec<_> = skipped.map(|checked| checked.name).collect();
    let expected = [
        "one-phase-is-repeatable",
        "inquiry-tells-the-truth",
        "inquiry-leaves-a-tombstone",
        "batch-is-a-serial-order",
        "batch-is-all-or-nothing",
        "batch-is-repeatable",
        "batch-is-limited",
        "batch-is-fenced",
    ];
    assert_eq!(skipped, expected);
}

/// How a service may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    ForgetsTombstones,
    ExpiresYes,
    CommitsUnknown,
    AppliesTwice,
    ChecksNoSignature,
    ChecksNoTime,
    FencesNothing,
    ChangesIdentity,
    ListsHalf,
    BreaksOnBadInput,
    TakesOtherOperations,
    AnswersWithoutCode,
    DeniesCommits,
    HidesDeclines,
    DropsUnasked,
    NamesOnce,
    CountsFromOne,
    LeavesTraces,
    TurnsAround,
    TakesAnySize,
}

/// The reference service with a fault.
struct Faulty {
    fault: Fault,
    /// When each branch was first prepared.
    prepared: Mutex<HashMap<String, Instant>>,
}

/// Sends a request for another branch, too: it has another branch number.
fn twin(call: &Call) -> Act {
    match call.gid().strip_suffix(":0") {
        Some(stem) => Act::Also(call.to(format!("/v1/branches/{stem}:1/{}", call.verb()))),
        None => Act::Pass,
    }
}

impl Fault {
    /// The batch as this fault has it carried out, and for each of its members whose part it is.
    fn garbled(self, call: &Call) -> Option<(Call, Vec<usize>)> {
        let mut body = call.json();
        let members = body["members"].as_array()?.iter().enumerate();
        let mut parts: Vec<(usize, Value)> = match self {
            // Each operation for itself.
            Self::LeavesTraces => {
                let of = |(index, member): (usize, &Value)| {
                    let operations = member.as_array().cloned().unwrap_or_default();
                    operations.into_iter().map(move |operation| (index, json!([operation])))
                };
                members.flat_map(of).collect()
            }
            Self::TurnsAround => members.map(|(index, member)| (index, member.clone())).collect(),
            _ => return None,
        };
        if self == Self::TurnsAround {
            parts.reverse();
        }
        let (owners, members): (Vec<usize>, Vec<Value>) = parts.into_iter().unzip();
        body["members"] = members.into();
        Some((Call { body: body.to_string().into(), ..call.clone() }, owners))
    }
}

impl Script for Faulty {
    fn act(&self, call: &Call) -> Act {
        if let Some((garbled, _)) =
            self.fault.garbled(call).filter(|_| call.verb() == "prepare-batch")
        {
            return Act::Instead(garbled);
        }
        let mut prepared = self.prepared.lock().unwrap();
        let (gid, verb) = (call.gid().to_owned(), call.verb());
        let known = prepared.get(&gid).copied();
        if verb == "prepare" && known.is_none() {
            prepared.insert(gid.clone(), Instant::now());
        }
        let is_credit = call.json()["operations"][0]["operation"] == "credit";
        let to = |verb: &str| Act::Instead(call.to(format!("/v1/branches/{gid}/{verb}")));
        match (self.fault, verb) {
            (Fault::ForgetsTombstones, "abort" | "inquire") if known.is_none() => {
                Act::Answer(200, json!({"state": "aborted"}))
            }
            (Fault::ExpiresYes, "commit")
                if known.is_some_and(|at| at.elapsed() > Duration::from_millis(500)) =>
            {
                to("abort")
            }
            (Fault::AppliesTwice, "prepare" | "commit-one-phase") if is_credit => twin(call),
            (Fault::AppliesTwice, "commit" | "abort") => twin(call),
            (Fault::ChecksNoSignature, _) => Act::Instead(call.clone()),
            (Fault::ChecksNoTime, _) if call.headers.contains_key("presume-timestamp") => {
                Act::Instead(call.clone())
            }
            _ => Act::Pass,
        }
    }

    fn reply(&self, call: &Call, status: u16, mut body: Value) -> (u16, Value) {
        match (self.fault, status, call.verb()) {
            (Fault::CommitsUnknown, 404, "commit") => (200, json!({"state": "committed"})),
            (Fault::FencesNothing, 409, "prepare" | "prepare-batch" | "commit-one-phase") => {
                (200, json!({"vote": "yes"}))
            }
            (Fault::FencesNothing, 409, "commit") => (200, json!({"state": "committed"})),
            (Fault::ChangesIdentity, 200, "") if body["protocol"].is_string() => {
                body["identity"] = format!("wallet:{}", rand::random::<u32>()).into();
                (200, body)
            }
            (Fault::ListsHalf, 200, "") => {
                if let Some(branches) = body["branches"].as_array_mut() {
                    branches.pop();
                }
                (200, body)
            }
            (Fault::BreaksOnBadInput, 400, _) => (500, body),
            (Fault::TakesOtherOperations, 422, _) => (200, json!({"vote": "yes"})),
            (Fault::AnswersWithoutCode, 400..=499, _) => (status, json!("no")),
            (Fault::HidesDeclines, 200, "prepare-batch") => {
                body["declined"] = json!([]);
                (200, body)
            }
            (Fault::DropsUnasked, 200, "prepare-batch") if body["vote"] == "no" => {
                (200, json!({"vote": "yes", "declined": body["declined"]}))
            }
            (Fault::NamesOnce, 200, "prepare-batch") => {
                let known = self.prepared.lock().unwrap().insert(call.gid().into(), Instant::now());
                if known.is_some() {
                    body["declined"] = json!([]);
                }
                (200, body)
            }
            (Fault::CountsFromOne, 200, "prepare-batch") => {
                for declined in body["declined"].as_array_mut().into_iter().flatten() {
                    declined["member"] = (declined["member"].as_u64().unwrap() + 1).into();
                }
                (200, body)
            }
            (Fault::LeavesTraces | Fault::TurnsAround, 200, "prepare-batch") => {
                let (_, owners) = self.fault.garbled(call).unwrap();
                let mut named: BTreeMap<usize, Value> = BTreeMap::new();
                for declined in body["declined"].as_array_mut().into_iter().flatten() {
                    let part = usize::try_from(declined["member"].as_u64().unwrap()).unwrap();
                    declined["member"] = owners[part].into();
                    named.insert(owners[part], declined.take());
                }
                body["declined"] = named.into_values().collect();
                (200, body)
            }
            (Fault::TakesAnySize, 400, "prepare-batch") => (200, json!({"vote": "yes"})),
            (Fault::DeniesCommits, 200, "abort") => (200, json!({"state": "aborted"})),
            _ => (status, body),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_fault_fails_by_the_name_of_its_fault() {
    let server = WalletServer::start(&[], &[]);
    let right = failed(&check(&between(server.url(), |_: &Call| Act::Pass).await).await);
    assert_eq!(right, [""; 0], "a middleman that changes nothing");
    for (fault, names) in [
        (Fault::ForgetsTombstones, &["abort-leaves-a-tombstone", "inquiry-leaves-a-tombstone"][..]),
        (Fault::ExpiresYes, &["a-yes-stays"]),
        (Fault::CommitsUnknown, &["unknown-commit-is-404"]),
        (
            Fault::AppliesTwice,
            &["prepare-is-repeatable", "one-phase-is-repeatable", "duplicates-are-one-effect"],
        ),
        (Fault::ChecksNoSignature, &["unsigned-is-refused", "wrong-signature-is-refused"]),
        (Fault::ChecksNoTime, &["wrong-time-is-refused"]),
        (
            Fault::FencesNothing,
            &["older-epochs-are-fenced", "unclaimed-epochs-are-refused", "batch-is-fenced"],
        ),
        (Fault::ChangesIdentity, &["describes-itself"]),
        (Fault::ListsHalf, &["lists-all-prepared"]),
        (Fault::BreaksOnBadInput, &["malformed-is-refused"]),
        (Fault::TakesOtherOperations, &["other-operations-are-refused"]),
        (Fault::AnswersWithoutCode, &["malformed-is-refused", "unknown-commit-is-404"]),
        (Fault::DeniesCommits, &["commit-is-repeatable"]),
        (Fault::HidesDeclines, &["batch-is-a-serial-order", "batch-is-all-or-nothing"]),
        (Fault::DropsUnasked, &["batch-is-all-or-nothing"]),
        (Fault::NamesOnce, &["batch-is-repeatable"]),
        (Fault::CountsFromOne, &["batch-is-a-serial-order", "batch-is-all-or-nothing"]),
        (Fault::LeavesTraces, &["batch-is-a-serial-order"]),
        (Fault::TurnsAround, &["batch-is-a-serial-order"]),
        (Fault::TakesAnySize, &["batch-is-limited"]),
    ] {
        let prepared = Mutex::default();
        let url = between(server.url(), Faulty { fault, prepared }).await;
        let report = check(&url).await;
        let found = failed(&report);
        for name in names {
            assert!(found.contains(name), "{fault:?} is not found by {name}, only by {found:?}");
        }
    }
}

fn conform_command(url: &str, secret: &str, more: &[&str]) -> Output {
    command()
        .args([
            "participants",
            "conform",
            url,
            "--secret-env",
            "SERVICE_SECRET",
            "--pause-ms",
            "100",
        ])
        .args(more)
        .env("SERVICE_SECRET", secret)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_each_check_and_fails_with_the_service() {
    let server = WalletServer::start(&[], &[]);
    let flags =
        ["--give", "credit", "--take", "debit", "--params", r#"{"account": "t", "amount": 1}"#];
    let good = conform_command(&server.url(), SECRET, &flags);
    let text = String::from_utf8(good.stdout).unwrap();
    assert!(good.status.success(), "{text}");
    assert!(
        text.contains(" 1 ok      describes-itself: ") && text.contains("0 failed, 1 skipped"),
        "{text}"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sample.json");
    std::fs::write(&file, serde_json::to_vec(&sample()).unwrap()).unwrap();
    let script = |call: &Call| {
        let answer = json!({"state": "committed"});
        if call.verb() == "commit" { Act::Answer(200, answer) } else { Act::Pass }
    };
    let url = between(server.url(), script).await;
    let more = ["--json", "--operations", file.to_str().unwrap()];
    let bad = conform_command(&url, SECRET, &more);
    assert_eq!(bad.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert!(report["failed"].as_u64().unwrap() > 3, "{report}");
    let unknown =
        report["checks"].as_array().unwrap().iter().find(|c| c["name"] == "unknown-commit-is-404");
    assert_eq!(unknown.unwrap()["result"], "failed", "{report}");

    // What cannot be checked at all says why.
    let steal =
        ["--give", "credit", "--take", "steal", "--params", r#"{"account": "t", "amount": 1}"#];
    for (url, secret, flags, why) in [
        (server.url(), "another secret, long enough", &flags[..], "bad_signature"),
        (server.url(), "short", &flags, "at least 16"),
        ("http://127.0.0.1:1".to_owned(), SECRET, &flags, "onnect"),
        (server.url(), SECRET, &["--give", "credit", "--take", "debit"], "\"account\" is missing"),
        (server.url(), SECRET, &steal, "not one of debit, credit, balance"),
        (server.url(), SECRET, &["--give", "credit"], "--take"),
        (server.url(), SECRET, &["--operations", "nowhere.json"], "nowhere.json"),
        (server.url(), SECRET, &["--give", "a", "--take", "b", "--params", "[1]"], "JSON object"),
    ] {
        let refused = conform_command(&url, secret, flags);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains(why), "{why}: {said}");
    }
}
