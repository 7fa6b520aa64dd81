#![allow(clippy::unwrap_used)]

mod batches;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::messages::ClaimRequest;
use super::wire::{Reply, Trouble};
use super::*;
use crate::txn::{BranchIndex, PhysicalId};

fn options(url: &str, change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::new(url);
    change(&mut options);
    options
}

fn gid() -> Gid {
    let log = LogId(Uuid::from_u128(7));
    Gid { log, epoch: Epoch(1), physical: PhysicalId(1), branch: BranchIndex(0) }
}

fn vote_of(told: answers::Told) -> String {
    match answers::vote(told) {
        Vote::Yes => "yes".to_owned(),
        Vote::ReadOnly => "read-only".to_owned(),
        Vote::No(Declined::Business { code, .. }) => format!("business {code}"),
        Vote::No(Declined::Technical { code, .. }) => format!("technical {code}"),
        Vote::Unknown(_) => "unknown".to_owned(),
    }
}

fn ack(ack: Ack) -> &'static str {
    match ack {
        Ack::Done => "done",
        Ack::Heuristic(_) => "heuristic",
        Ack::Unknown(_) => "unknown",
    }
}

#[test]
fn only_what_is_certain_is_a_no() {
    let reply = |status, body: &str| Ok(Reply { status, body: Bytes::from(body.to_owned()) });
    let refusal = r#"{"code": "x-1", "detail": "why", "more": 1}"#;
    for (status, body, expected) in [
        (200, r#"{"vote": "yes", "more": [1]}"#, "yes"),
        (200, r#"{"vote": "read_only"}"#, "read-only"),
        (
            200,
            r#"{"vote": "no", "class": "business", "code": "funds", "detail": ""}"#,
            "business funds",
        ),
        (
            200,
            r#"{"vote": "no", "class": "technical", "code": "busy", "detail": ""}"#,
            "technical busy",
        ),
        // A code is a word, or it is not passed on.
        (
            200,
            r#"{"vote": "no", "class": "business", "code": "a b", "detail": ""}"#,
            "business declined",
        ),
        (200, r#"{"vote": "no"}"#, "unknown"),
        (200, r#"{"vote": "maybe"}"#, "unknown"),
        (200, r#"{"vote": "yes""#, "unknown"),
        (200, "", "unknown"),
        (201, r#"{"vote": "yes"}"#, "unknown"),
        (301, refusal, "unknown"),
        (400, refusal, "technical x-1"),
        (401, refusal, "technical x-1"),
        (403, refusal, "technical x-1"),
        (409, refusal, "technical x-1"),
        (413, refusal, "technical x-1"),
        (415, refusal, "technical x-1"),
        (429, refusal, "technical x-1"),
        // A proxy's own, which says nothing about the service.
        (400, "<html>", "unknown"),
        (429, "{}", "unknown"),
        (404, refusal, "unknown"),
        (408, refusal, "unknown"),
        (422, refusal, "unknown"),
        (500, refusal, "unknown"),
        (503, refusal, "unknown"),
    ] {
        assert_eq!(vote_of(reply(status, body)), expected, "{status} {body}");
    }
    let sent = |trouble: fn(String) -> Trouble| vote_of(Err(trouble("why".to_owned())));
    assert_eq!(sent(Trouble::NotSent), "technical participant_unavailable");
    assert_eq!(sent(Trouble::Lost), "unknown");
}

#[test]
fn a_verdict_is_done_heuristic_or_to_be_repeated() {
    let state = |state: &str| (200, format!("{{\"state\": \"{state}\"}}"));
    let refusal = |status, code: &str| (status, json!({"code": code, "detail": ""}).to_string());
    for ((status, body), committing, aborting, inquired) in [
        (state("committed"), "done", "heuristic", "committed"),
        (state("aborted"), "heuristic", "done", "aborted"),
        (state("prepared"), "unknown", "unknown", "unknown"),
        (state("lost"), "unknown", "unknown", "unknown"),
        (refusal(404, "unknown_branch"), "heuristic", "unknown", "unknown"),
        (refusal(404, "no_such_path"), "unknown", "unknown", "unknown"),
        ((404, String::new()), "unknown", "unknown", "unknown"),
        (refusal(409, "stale_epoch"), "unknown", "unknown", "unknown"),
        (refusal(401, "bad_signature"), "unknown", "unknown", "unknown"),
        (refusal(500, "unknown_branch"), "unknown", "unknown", "unknown"),
    ] {
        let told = || Ok(Reply { status, body: Bytes::from(body.clone()) });
        assert_eq!(ack(answers::commit(told())), committing, "{status} {body}");
        assert_eq!(ack(answers::abort(told())), aborting, "{status} {body}");
        let inquiry = match answers::inquiry(told()) {
            Inquiry::Committed => "committed",
            Inquiry::Aborted => "aborted",
            Inquiry::Unknown(_) => "unknown",
        };
        assert_eq!(inquiry, inquired, "{status} {body}");
    }
    for trouble in [Trouble::NotSent, Trouble::Lost] {
        assert_eq!(ack(answers::commit(Err(trouble("why".to_owned())))), "unknown");
    }
}

#[test]
fn a_url_is_used_only_where_it_is_safe() {
    let secret = || Some("0123456789abcdef".to_owned());
    let fault = |url: &str, change: fn(&mut Options), secret: Option<String>| {
        let options = options(url, |options| {
            options.secret = secret;
            change(options);
        });
        Http::new(&options).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let usual = |_: &mut Options| {};
    for url in ["http://127.0.0.1:1", "http://[::1]:1/a/b/", "http://localhost:1/"] {
        assert_eq!(fault(url, usual, None), "", "{url}");
    }
    assert_eq!(fault("https://wallet.example/base", usual, secret()), "");
    for (url, why) in [
        ("", "not a URL"),
        ("wallet", "must be https"),
        ("/path", "must be https"),
        ("ftp://127.0.0.1", "begin with https"),
        ("https://u:p@wallet.example", "user or password"),
        ("https://wallet.example/?x", "end with the path"),
        ("http://wallet.example", "plain_http"),
        ("http://127.0.0.1.example", "plain_http"),
    ] {
        let found = fault(url, usual, secret());
        assert!(found.contains(why), "{url}: {found}");
    }
    assert!(fault("https://wallet.example", usual, None).contains("allow_unsafe"));
    let allowed = |options: &mut Options| {
        options.allow_unsafe = vec!["plain_http".to_owned(), "unsigned".to_owned()];
    };
    assert_eq!(fault("http://wallet.example", allowed, None), "");
    let short = fault("http://127.0.0.1", usual, Some("short-secret".to_owned()));
    assert!(short.contains("12 bytes, at least 16") && !short.contains("short-secret"), "{short}");
    let one = |options: &mut Options| options.connections_max = 1;
    assert!(fault("http://127.0.0.1", one, None).contains("at least 2"));
}

/// Answers every request on every connection with these bytes, and closes.
async fn canned(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer).await;
        }
    });
    url
}

async fn called(url: &str, horizon: Duration) -> answers::Told {
    let wire = Wire::new(&options(url, |options| options.listening_horizon = horizon)).unwrap();
    wire.call(Lane::Work, Request::branch(Endpoint::Prepare, gid(), b"{}".to_vec())).await
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unknown_and_a_request_that_never_left_is_a_no() {
    let long = Duration::from_secs(20);
    for broken in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"vote\": \"yes\"}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n",
    ] {
        let told = called(&canned(broken).await, long).await;
        assert_eq!(vote_of(told), "unknown", "{broken:?}");
    }
    let good = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"vote\": \"yes\"}";
    assert_eq!(vote_of(called(&canned(good).await, long).await), "yes");

    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    assert_eq!(vote_of(called(&gone, long).await), "technical participant_unavailable");
    // It takes the request and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    assert_eq!(vote_of(called(&silent, Duration::from_millis(50)).await), "unknown");
}

#[test]
fn a_page_of_branches_is_asked_for_by_an_escaped_cursor() {
    let request = Request::list(Some("a b:&é"), 5);
    assert_eq!(request.path, "/v1/branches?state=prepared&limit=5&after=a%20b%3A%26%C3%A9");
}

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn every_request_and_status_that_counts_stands_in_the_document() {
    let document = document();
    let (read, change) = (vec![200, 401, 403, 429], vec![200, 400, 401, 403, 409, 413, 415, 429]);
    let with = |more: &[u16], to: &[u16]| [to, more].concat();
    let work = with(&[422], &change);
    let used = [
        (Endpoint::Service, read.clone()),
        (Endpoint::Claim, change.clone()),
        (Endpoint::Prepare, work.clone()),
        (Endpoint::PrepareBatch, work.clone()),
        (Endpoint::CommitOnePhase, work),
        (Endpoint::Commit, with(&[404], &change)),
        (Endpoint::Abort, change.clone()),
        (Endpoint::Inquire, change.clone()),
        (Endpoint::List, with(&[400], &read)),
        (Endpoint::Prune, change),
    ];
    let mut forms = BTreeSet::new();
    for (endpoint, statuses) in used {
        let (method, path) = endpoint.form();
        let method = method.as_str().to_lowercase();
        let responses = document["paths"][path][&method]["responses"].as_object().unwrap();
        let listed: BTreeSet<&str> = responses.keys().map(String::as_str).collect();
        let statuses: Vec<String> = statuses.iter().map(u16::to_string).collect();
        let mut expected: BTreeSet<&str> = statuses.iter().map(String::as_str).collect();
        expected.insert("default");
        assert_eq!(listed, expected, "{method} {path}");
        forms.insert((path, method));
    }
    let paths = document["paths"].as_object().unwrap();
    let count: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(forms.len(), count, "the document has requests that nobody sends");
}

#[test]
fn what_is_sent_and_read_has_the_form_of_the_document() {
    let document = document();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let ended = EndedBelow { log: gid().log, epoch: Epoch(1), physical: PhysicalId(1) };
    for (name, sent) in [
        ("Claim", ClaimRequest::new(gid().log, Epoch(1), Uuid::from_u128(1)).bytes()),
        ("Work", WorkRequest::new("wallet:1", Epoch(1), &[]).bytes()),
        ("Verdict", VerdictRequest::new("wallet:1", Epoch(1)).bytes()),
        ("Prune", PruneRequest::new("wallet:1", ended, 600).bytes()),
    ] {
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let sent: BTreeSet<&str> = sent.as_object().unwrap().keys().map(String::as_str).collect();
        let (required, properties) = (&schema(name)["required"], &schema(name)["properties"]);
        let required: BTreeSet<&str> =
            required.as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        let properties: BTreeSet<&str> =
            properties.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((&sent, &sent), (&required, &properties), "{name}");
    }
    let service = &schema("Service")["properties"];
    assert_eq!(service["protocol"]["const"], PROTOCOL);
    assert_eq!(service["outcome_retention_s"]["minimum"], RETENTION_S_MIN);
    // Every reference leads somewhere.
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let path = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(path).is_some(), "{reference}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("$ref", Value::String(to)) => references.push(to.clone()),
                    _ => collect(value, references),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

#[test]
fn operations_are_checked_by_the_services_own_words() {
    let service: Description = serde_json::from_value(json!({
        "protocol": PROTOCOL, "identity": "wallet:1", "outcome_retention_s": 86_400,
        "body_bytes_max": 4096, "later": "ignored", "operations": [{
            "name": "debit", "parameters": [
                {"name": "account", "type": "string"}, {"name": "amount", "type": "integer"},
                {"name": "note", "type": "any", "required": false},
            ]}, {"name": "look"}],
    }))
    .unwrap();
    assert!(service.speaks_ours() && service.has_identity() && !service.commits_in_one_phase());
    let check = |name: &str, params: Value| {
        let operation = Operation {
            participant: "wallet".parse().unwrap(),
            operation: name.parse().unwrap(),
            params: serde_json::from_value(params).unwrap(),
        };
        service.validate(&operation).err().unwrap_or_default()
    };
    assert_eq!(check("debit", json!({"account": "a", "amount": 5})), "");
    assert_eq!(check("debit", json!({"account": "a", "amount": 5, "note": [null]})), "");
    assert_eq!(check("look", json!({})), "");
    for (name, params, why) in [
        ("credit", json!({}), "not one of debit, look"),
        ("debit", json!({"account": "a"}), "\"amount\" is missing"),
        ("debit", json!({"account": "a", "amount": 1.5}), "is 1.5, not of type integer"),
        ("debit", json!({"account": "a", "amount": 1, "x": 1}), "\"x\" is unknown"),
    ] {
        let found = check(name, params);
        assert!(found.contains(why), "{name}: {found}");
    }
    assert_eq!(
        service.operations[0].signature(),
        "debit(account string, amount integer, note? any)"
    );
}

#[test]
fn a_finding_names_what_is_needed_only_where_it_is_lacking() {
    let found = |protocol: &str, identity: &str, retention_s: u64| {
        let service: Description = serde_json::from_value(json!({
            "protocol": protocol, "identity": identity, "outcome_retention_s": retention_s,
            "body_bytes_max": 4096, "operations": [],
        }))
        .unwrap();
        let findings = check::findings(&service);
        findings.iter().map(|f| format!("{} {f}", f.ok)).collect::<Vec<_>>()
    };
    assert_eq!(
        found(PROTOCOL, "wallet:1", 86_400),
        [
            "true protocol: presume-participant/1",
            "true identity: \"wallet:1\"",
            "true retention: outcomes are kept for 86400 s",
        ]
    );
    assert_eq!(
        found("presume-participant/2", "", 3_600),
        [
            "false protocol: it speaks \"presume-participant/2\", presume-participant/1 is needed; \
             mend it with: another version of the service",
            "false identity: \"\"; mend it with: an identity of 1 to 100 visible ASCII characters, \
             made with the service's data",
            "false retention: outcomes are kept for 3600 s, at least 86400 s are needed; \
             mend it with: a longer retention at the service",
        ]
    );
}
