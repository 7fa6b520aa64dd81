//! The HTTP participant against the reference service: votes, decisions, doubts, fences.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use presume::participants::http::Http;
use presume::participants::{
    Ack, ClaimError, ConfigurationError, EndedBelow, Inquiry, Participant,
};
use presume::txn::{Epoch, Operation, PhysicalId, Vote};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::branches::{code, credit, debit, gid, gid_of, log, operation};
use crate::middleman::{Act, Call, between};
use crate::wallet_server::{WalletServer, options};

fn client(url: &str) -> Http {
    Http::new(&options(url)).unwrap()
}

/// A service with 100 at `a`, and a participant that has claimed epoch 1 there.
async fn open() -> (WalletServer, Http) {
    let server = WalletServer::start(&[("a", 100)], &[]);
    let http = client(&server.url());
    http.claim_epoch(log(), Epoch(1)).await.unwrap();
    (server, http)
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_decisions_and_repeated_calls() {
    let (server, http) = open().await;
    let transfer = [debit("a", 30), credit("b", 30)];
    for _ in 0..2 {
        assert_eq!(http.prepare(gid(1), &transfer).await, Vote::Yes);
    }
    assert_eq!(server.account("a").await, (100, 30, 0));
    assert_eq!(http.list_prepared().await.unwrap().branches, [gid(1)]);
    for _ in 0..2 {
        assert_eq!(http.commit(gid(1)).await, Ack::Done);
    }
    assert_eq!((server.account("a").await, server.account("b").await), ((70, 0, 0), (30, 0, 0)));
    assert!(matches!(http.abort(gid(1)).await, Ack::Heuristic(_)));

    assert_eq!(http.prepare(gid(2), &transfer).await, Vote::Yes);
    for _ in 0..2 {
        assert_eq!(http.abort(gid(2)).await, Ack::Done);
    }
    assert!(matches!(http.commit(gid(2)).await, Ack::Heuristic(_)));
    assert_eq!(server.account("a").await, (70, 0, 0));

    // A commit of what the service never heard of is no success.
    let Ack::Heuristic(why) = http.commit(gid(3)).await else { panic!() };
    assert!(why.contains("does not know"), "{why}");
    // An abort comes first: the prepare that it overtook is refused.
    assert_eq!(http.abort(gid(4)).await, Ack::Done);
    assert_eq!(code(&http.prepare(gid(4), &transfer).await), "technical aborted_before");
    assert_eq!(http.list_prepared().await.unwrap().branches, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_says_whose_rule_it_was_and_leaves_nothing_behind() {
    let (server, http) = open().await;
    for (number, operations, expected) in [
        (1, vec![debit("a", 101)], "business insufficient_funds"),
        (2, vec![debit("nobody", 1)], "business unknown_account"),
        (3, vec![credit("b", 5), debit("b", 5)], "business insufficient_funds"),
        (4, vec![debit("a", 0)], "business bad_parameter"),
        (5, vec![operation("steal", json!({}))], "business bad_parameter"),
        (6, vec![operation("debit", json!({"account": "a"}))], "business bad_parameter"),
        (7, vec![operation("balance", json!({"account": "a"}))], "read-only"),
        (8, vec![operation("balance", json!({"account": "c"}))], "business unknown_account"),
        (9, vec![credit("b", 1); 257], "business too_many_operations"),
        (10, vec![credit(&"x".repeat(300_000), 1)], "business too_large"),
    ] {
        assert_eq!(code(&http.prepare(gid(number), &operations).await), expected, "{number}");
    }
    assert_eq!(server.account("a").await, (100, 0, 0));
    assert_eq!(http.list_prepared().await.unwrap().branches, []);
    let wrong = operation("debit", json!({"account": 7, "amount": 1}));
    assert!(http.validate(&wrong).unwrap_err().contains("not of type string"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phase_commits_are_asked_about_and_whoever_came_first_is_the_truth() {
    for flags in [&[][..], &["--two-phase-only"]] {
        let server = WalletServer::start(&[("a", 100)], flags);
        let http = client(&server.url());
        http.claim_epoch(log(), Epoch(1)).await.unwrap();
        let at_once = async |n, operations: &[Operation]| {
            code(&http.commit_one_phase(gid(n), operations).await)
        };
        assert_eq!(at_once(1, &[debit("a", 30)]).await, "yes");
        assert_eq!(http.inquire(gid(1)).await, Inquiry::Committed);
        assert_eq!(at_once(1, &[debit("a", 30)]).await, "yes");
        assert_eq!(http.inquire(gid(2)).await, Inquiry::Aborted);
        assert_eq!(at_once(2, &[debit("a", 30)]).await, "technical aborted_before");
        assert_eq!(at_once(3, &[debit("a", 71)]).await, "business insufficient_funds");
        assert_eq!(server.account("a").await, (70, 0, 0));
        assert_eq!(http.list_prepared().await.unwrap().branches, []);
    }
}

/// Cuts the first request of each branch with this verb.
pub fn cut_once(verb: &'static str, act: fn() -> Act) -> impl Fn(&Call) -> Act {
    let seen: Mutex<HashSet<String>> = Mutex::default();
    move |call| {
        let first = || seen.lock().unwrap().insert(call.gid().to_owned());
        if call.verb() == verb && first() { act() } else { Act::Pass }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_unknown_and_asking_again_settles_it() {
    let (server, _) = open().await;
    let next = AtomicU64::new(2);
    // Each time a coordinator that starts anew.
    let through = async |verb, act| {
        let http = client(&between(server.url(), cut_once(verb, act)).await);
        let epoch = next.fetch_add(1, Ordering::Relaxed);
        http.claim_epoch(log(), Epoch(epoch)).await.unwrap();
        (http, epoch)
    };
    let cuts: [(fn() -> Act, bool); 2] = [(|| Act::CutBefore, false), (|| Act::CutAfter, true)];
    for (act, arrives) in cuts {
        let (http, epoch) = through("prepare", act).await;
        let lost = gid_of(epoch, 1);
        let vote = http.prepare(lost, &[debit("a", 10)]).await;
        assert!(matches!(vote, Vote::Unknown(_)), "{vote:?}");
        assert_eq!(http.list_prepared().await.unwrap().branches.len(), usize::from(arrives));
        assert_eq!(http.abort(lost).await, Ack::Done);
        assert_eq!(code(&http.prepare(lost, &[debit("a", 10)]).await), "technical aborted_before");

        let (http, epoch) = through("commit", act).await;
        let before = server.account("a").await.0;
        assert_eq!(http.prepare(gid_of(epoch, 2), &[debit("a", 1)]).await, Vote::Yes);
        assert!(matches!(http.commit(gid_of(epoch, 2)).await, Ack::Unknown(_)));
        assert_eq!(http.commit(gid_of(epoch, 2)).await, Ack::Done);
        assert_eq!(server.account("a").await, (before - 1, 0, 0));

        let (http, epoch) = through("abort", act).await;
        assert_eq!(http.prepare(gid_of(epoch, 3), &[debit("a", 1)]).await, Vote::Yes);
        assert!(matches!(http.abort(gid_of(epoch, 3)).await, Ack::Unknown(_)));
        assert_eq!(http.abort(gid_of(epoch, 3)).await, Ack::Done);
        assert_eq!(server.account("a").await, (before - 1, 0, 0));

        let (http, epoch) = through("commit-one-phase", act).await;
        let lost = gid_of(epoch, 4);
        let vote = http.commit_one_phase(lost, &[debit("a", 1)]).await;
        assert!(matches!(vote, Vote::Unknown(_)), "{vote:?}");
        let expected = if arrives { Inquiry::Committed } else { Inquiry::Aborted };
        assert_eq!(http.inquire(lost).await, expected);
        assert_eq!(server.account("a").await.0, before - 1 - u64::from(arrives));

        let (http, epoch) = through("inquire", act).await;
        assert!(matches!(http.inquire(gid_of(epoch, 5)).await, Inquiry::Unknown(_)));
        assert_eq!(http.inquire(gid_of(epoch, 5)).await, Inquiry::Aborted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_epoch_can_neither_prepare_nor_decide() {
    let (server, old) = open().await;
    for n in [1, 2] {
        assert_eq!(old.prepare(gid(n), &[debit("a", 10)]).await, Vote::Yes);
    }
    let new = client(&server.url());
    new.claim_epoch(log(), Epoch(2)).await.unwrap();
    assert_eq!(code(&old.prepare(gid(3), &[debit("a", 10)]).await), "technical stale_epoch");
    assert_eq!(
        code(&old.commit_one_phase(gid(4), &[debit("a", 1)]).await),
        "technical stale_epoch"
    );
    // A copy that wakes later decides nothing: neither half of a transaction, nor its other half.
    for n in [1, 2] {
        assert!(matches!(old.commit(gid(n)).await, Ack::Unknown(_)));
        assert!(matches!(old.abort(gid(n)).await, Ack::Unknown(_)));
        assert!(matches!(old.inquire(gid(n)).await, Inquiry::Unknown(_)));
    }
    assert_eq!(new.list_prepared().await.unwrap().branches, [gid(1), gid(2)]);
    assert_eq!((new.commit(gid(1)).await, new.abort(gid(2)).await), (Ack::Done, Ack::Done));
    assert_eq!(server.account("a").await, (90, 0, 0));

    let stale = old.claim_epoch(log(), Epoch(1)).await.unwrap_err();
    assert!(matches!(stale, ClaimError::Stale { known: 2, claimed: 1, .. }), "{stale}");
    // A copy of the folder that was started at the same epoch.
    let copy = client(&server.url()).claim_epoch(log(), Epoch(2)).await.unwrap_err();
    assert!(matches!(copy, ClaimError::Stale { known: 2, claimed: 2, .. }), "{copy}");
    // Work of a branch that is not of the epoch claimed does not even leave.
    assert_eq!(code(&new.prepare(gid(9), &[debit("a", 1)]).await), "technical fenced");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_by_a_kill() {
    let (mut server, http) = open().await;
    assert_eq!(http.prepare(gid(1), &[debit("a", 10)]).await, Vote::Yes);
    assert_eq!(http.prepare(gid(2), &[debit("a", 20)]).await, Vote::Yes);
    assert_eq!(http.abort(gid(3)).await, Ack::Done);
    assert_eq!(http.commit_one_phase(gid(4), &[credit("b", 5)]).await, Vote::Yes);
    server.kill();
    assert_eq!(
        code(&http.prepare(gid(5), &[debit("a", 1)]).await),
        "technical participant_unavailable"
    );
    assert!(matches!(http.commit(gid(1)).await, Ack::Unknown(_)));
    server.run();
    assert_eq!(http.list_prepared().await.unwrap().branches, [gid(1), gid(2)]);
    assert_eq!((http.commit(gid(1)).await, http.abort(gid(2)).await), (Ack::Done, Ack::Done));
    assert_eq!(code(&http.prepare(gid(3), &[debit("a", 1)]).await), "technical aborted_before");
    assert_eq!(http.inquire(gid(4)).await, Inquiry::Committed);
    assert_eq!((server.account("a").await, server.account("b").await), ((90, 0, 0), (5, 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_forgets_what_has_ended_and_never_what_is_prepared() {
    let (_server, http) = open().await;
    for n in [1, 2] {
        assert_eq!(http.prepare(gid(n), &[debit("a", 10)]).await, Vote::Yes);
    }
    assert_eq!(http.commit(gid(1)).await, Ack::Done);
    let ended = EndedBelow { log: log(), epoch: Epoch(1), physical: PhysicalId(4) };
    // Too young to be forgotten, and refused at once.
    assert_eq!(http.prune(ended).await, Ok(0));
    assert_eq!(code(&http.prepare(gid(3), &[debit("a", 1)]).await), "technical ended");
    assert_eq!(code(&http.prepare(gid(4), &[debit("a", 1)]).await), "yes");
    assert_eq!((http.commit(gid(1)).await, http.commit(gid(2)).await), (Ack::Done, Ack::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_wrong_or_away_is_told_so() {
    let server = WalletServer::start(&[], &[]);
    let claim = async |http: &Http| http.claim_epoch(log(), Epoch(1)).await;
    let mut other = options(&server.url());
    other.secret = Some("another secret, long enough".to_owned());
    let stranger = Http::new(&other).unwrap();
    let Err(ClaimError::Unfit { detail }) = claim(&stranger).await else { panic!() };
    assert!(detail.contains("401 bad_signature"), "{detail}");
    let findings = stranger.check().await.unwrap();
    assert!(findings.iter().any(|f| !f.ok && f.found.contains("bad_signature")), "{findings:?}");

    let findings = client(&server.url()).check().await.unwrap();
    assert!(findings.iter().all(|finding| finding.ok), "{findings:?}");
    assert!(findings.iter().any(|f| f.found == "debit(account string, amount integer)"));
    // Nothing that checks signatures.
    let lax = WalletServer::start(&[], &["--unsigned"]);
    let findings = client(&lax.url()).check().await.unwrap();
    assert!(findings.iter().any(|f| f.what == "signatures" && !f.ok), "{findings:?}");

    let Err(ClaimError::Unfit { detail }) = claim(&client(&format!("{}/x", server.url()))).await
    else {
        panic!()
    };
    assert!(detail.contains("no_such_path"), "{detail}");
    let away = client("http://127.0.0.1:1");
    assert!(matches!(claim(&away).await, Err(ClaimError::Unreachable { .. })));
    assert!(away.check().await.is_err());
    assert_eq!(
        code(&away.prepare(gid(1), &[credit("a", 1)]).await),
        "technical participant_unavailable"
    );
    let long_lived = Http::new(&presume::participants::http::Options::new("https://h.example"));
    assert!(matches!(long_lived, Err(ConfigurationError::Secret { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_behind_the_same_address_is_not_taken_for_it() {
    let (first, second) = (WalletServer::start(&[("a", 100)], &[]), WalletServer::start(&[], &[]));
    let to = Arc::new(Mutex::new(false));
    let switch = to.clone();
    let second_url = second.url();
    let url = between(first.url(), move |_: &Call| {
        if *switch.lock().unwrap() { Act::Elsewhere(second_url.clone()) } else { Act::Pass }
    });
    let http = client(&url.await);
    http.claim_epoch(log(), Epoch(1)).await.unwrap();
    assert_eq!(http.prepare(gid(1), &[debit("a", 10)]).await, Vote::Yes);
    *to.lock().unwrap() = true;
    // It does not know the branch, and must not be believed.
    let Ack::Unknown(why) = http.commit(gid(1)).await else { panic!() };
    assert!(why.contains("wrong_service"), "{why}");
    *to.lock().unwrap() = false;
    assert_eq!(http.commit(gid(1)).await, Ack::Done);
}

/// Sends bytes as they are, and perhaps no more of them: what is answered. To a client that has
/// closed its side the service need not answer what it has read whole.
async fn raw(server: &WalletServer, bytes: &str, breaks_off: bool) -> String {
    let url = server.url();
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let mut answer = Vec::new();
    // What is not read any more may be answered by a reset, after the answer.
    let _ = stream.write_all(bytes.as_bytes()).await;
    if breaks_off {
        let _ = stream.shutdown().await;
    }
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_malformed_and_only_a_long_one_is_too_large() {
    let server = WalletServer::start(&[], &[]);
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    // By one byte: what is left unread is answered by a reset, which may overtake the answer.
    let long = "x".repeat((1 << 18) + 1);
    for (body, status, code) in [
        ("content-length: 500\r\n\r\n{\"log\":".to_owned(), 400, "malformed"),
        (format!("{chunked}ff\r\n{{\"log\":"), 400, "malformed"),
        (format!("{chunked}7\r\n{{\"log\":\r\nno number\r\n"), 400, "malformed"),
        (format!("{chunked}{:x}\r\n{long}\r\n0\r\n\r\n", long.len()), 413, "too_large"),
        (format!("content-length: {}\r\n\r\n{long}", long.len()), 413, "too_large"),
    ] {
        let head = "POST /v1/claims HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                    content-type: application/json\r\n";
        let answer = raw(&server, &format!("{head}{body}"), status == 400).await;
        let begin = format!("HTTP/1.1 {status} ");
        let shown = &body[..body.len().min(60)];
        assert!(answer.starts_with(&begin) && answer.contains(code), "{shown:?}: {answer}");
    }
    assert_eq!(reqwest::get(format!("{}/accounts/a", server.url())).await.unwrap().status(), 404);
}
