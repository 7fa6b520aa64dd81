use std::sync::atomic::Ordering;

use serde_json::json;

use super::fake::{Fake, reply, serve, serve_ledgers};
use super::parsing::transfer;
use crate::coordinator::SubmitError;
use crate::participants::ledger::{self, Ledger, Overdraft};
use crate::server::{NotReady, Options, OptionsError, Server, Service};
use crate::txn::Outcome;

#[tokio::test]
async fn a_submitted_transaction_is_answered_and_found_again() {
    let server = serve(Fake::new()).await;
    let answer = server.submit(&transfer()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["outcome"], "committed");
    assert_eq!(answer.json()["participants"], json!(["core", "rail-a"]));
    let found = server.get("/v1/transactions/t1").await;
    assert_eq!((found.status, found.json()), (200, answer.json()));
    server.get("/v1/transactions/t2").await.is_problem(404, "not-found", "t2");
}

#[tokio::test]
async fn every_known_outcome_is_200_and_doubt_is_202() {
    let server = serve(Fake::with(|id| Ok(id.as_str().parse().unwrap()))).await;
    for &outcome in Outcome::ALL {
        let mut body = transfer();
        body["id"] = json!(outcome.as_str());
        let answer = server.submit(&body).await;
        let expected = if outcome == Outcome::InDoubt { 202 } else { 200 };
        assert_eq!(answer.status, expected, "{outcome}");
        assert_eq!(answer.json()["outcome"], outcome.as_str());
        assert_eq!(server.get(&format!("/v1/transactions/{outcome}")).await.status, expected);
    }
}

#[tokio::test]
async fn the_id_comes_from_the_header_the_body_or_the_server() {
    let server = serve(Fake::new()).await;
    let post = |key: &'static str, body: serde_json::Value| {
        let request = server.http.post(server.url("/v1/transactions")).json(&body);
        reply(request.header("Idempotency-Key", key))
    };
    let mut unnamed = transfer();
    unnamed.as_object_mut().unwrap().remove("id");
    assert_eq!(post("k 1", unnamed.clone()).await.json()["id"], "k 1");
    assert_eq!(post("t1", transfer()).await.json()["id"], "t1");
    post("other", transfer()).await.is_problem(422, "invalid", "differs");
    assert_eq!(server.submit(&unnamed).await.json()["id"].as_str().unwrap().len(), 32);
    let long: &'static str = Box::leak("k".repeat(129).into_boxed_str());
    post(long, unnamed).await.is_problem(400, "malformed", "Idempotency-Key");
}

#[tokio::test]
async fn ids_survive_the_path_whatever_they_hold() {
    let server = serve(Fake::new()).await;
    for id in ["a/b", "a b", "a%2Fb", "ü?#&", "…", "{id}", "a:predict"] {
        let mut body = transfer();
        body["id"] = json!(id);
        assert_eq!(server.submit(&body).await.status, 200, "{id}");
        let path = format!("/v1/transactions/{}", crate::server::problem::encode(id));
        assert_eq!(server.get(&path).await.json()["id"], id);
    }
}

#[tokio::test]
async fn each_error_of_the_coordinator_has_its_problem() {
    let server = serve(Fake::with(|id| {
        Err(match id.as_str() {
            "reused" => SubmitError::KeyReused { id: id.clone() },
            "running" => SubmitError::InFlight { id: id.clone() },
            "unknown" => SubmitError::UnknownParticipant { name: "x".into(), known: "core".into() },
            "operation" => SubmitError::BadOperation {
                participant: "core".into(),
                operation: "fly".into(),
                detail: "no such operation".into(),
            },
            "overload" => SubmitError::Overloaded { in_flight: 9, limit: 9 },
            "stopping" => SubmitError::ShuttingDown,
            _ => SubmitError::Unavailable { id: id.clone(), detail: "disk full".into() },
        })
    }))
    .await;
    for (id, status, slug, detail, retry) in [
        ("reused", 422, "key-reused", "another body", ""),
        ("running", 409, "in-flight", "in flight", "1"),
        ("unknown", 422, "unknown-participant", "core", ""),
        ("operation", 422, "bad-operation", "no such operation", ""),
        ("overload", 429, "overloaded", "limit is 9", "1"),
        ("stopping", 503, "unavailable", "shutting down", "1"),
        ("poisoned", 503, "outcome-unknown", "disk full", "1"),
    ] {
        let mut body = transfer();
        body["id"] = json!(id);
        let answer = server.submit(&body).await;
        answer.is_problem(status, slug, detail);
        assert_eq!(answer.header("retry-after"), retry, "{id}");
    }
    let running = server.get("/v1/transactions/running").await;
    assert_eq!((running.status, running.json()["status"].as_str()), (202, Some("in_flight")));
}

#[tokio::test]
async fn bad_requests_are_refused_with_place_and_reason() {
    let server = serve(Fake::new()).await;
    let post = |body: &'static str| {
        let request = server.http.post(server.url("/v1/transactions"));
        reply(request.header("content-type", "application/json").body(body))
    };
    let malformed = post("{\n\"kind\": UPI}").await;
    malformed.is_problem(400, "malformed", "line 2");
    assert_eq!(malformed.json()["line"], 2);
    assert_eq!(malformed.json()["column"], 9);
    let mut body = transfer();
    body["operations"][1]["params"]["amount"] = json!([]);
    let invalid = server.submit(&body).await;
    invalid.is_problem(422, "invalid", "an array");
    assert_eq!(invalid.json()["field"], "operations[1].params.amount");
}

#[tokio::test]
async fn only_plain_json_in_utf_8_is_taken() {
    let server = serve(Fake::new()).await;
    let post = |kind: Option<&str>, encoding: Option<&str>| {
        let mut request =
            server.http.post(server.url("/v1/transactions")).body(transfer().to_string());
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        reply(request)
    };
    for kind in ["application/json", "Application/JSON; charset=UTF-8"] {
        assert_eq!(post(Some(kind), None).await.status, 200, "{kind}");
    }
    for kind in [None, Some("text/plain"), Some("application/json; charset=utf-16"), Some("")] {
        post(kind, None).await.is_problem(415, "unsupported-media-type", "");
    }
    let gzip = post(Some("application/json"), Some("gzip")).await;
    gzip.is_problem(415, "unsupported-media-type", "gzip");
}

#[tokio::test]
async fn wrong_paths_and_methods_are_told() {
    let server = serve(Fake::new()).await;
    server.get("/v2/nothing").await.is_problem(404, "not-found", "/v2/nothing");
    let wrong = server.get("/v1/transactions:predict").await;
    wrong.is_problem(405, "method-not-allowed", "GET");
    assert_eq!(wrong.header("allow"), "POST");
    let put = reply(server.http.put(server.url("/healthz"))).await;
    put.is_problem(405, "method-not-allowed", "PUT");
}

#[tokio::test]
async fn prediction_does_nothing() {
    let server = serve(Fake::new()).await;
    let url = server.url("/v1/transactions:predict");
    let answer = reply(server.http.post(url).json(&transfer())).await;
    assert_eq!((answer.status, answer.json()["plan"]["admission"].as_str()), (200, Some("admit")));
    assert_eq!(server.get("/v1/transactions/t1").await.status, 404);
}

#[tokio::test]
async fn readiness_gives_its_reason_and_submissions_are_refused() {
    let server = serve(Fake::new()).await;
    assert_eq!(server.get("/readyz").await.json()["model"], "payments/3");
    for (reason, code) in [
        (NotReady::Recovering, "recovering"),
        (NotReady::LogFailed("disk full".into()), "decision_log_failed"),
        (NotReady::Draining, "draining"),
    ] {
        *server.fake.not_ready.lock().unwrap() = Some(reason);
        let ready = server.get("/readyz").await;
        assert_eq!((ready.status, ready.json()["reason"].as_str()), (503, Some(code)));
        assert!(server.get("/metrics").await.text.contains("presume_ready 0"));
        let answer = server.submit(&transfer()).await;
        if code == "recovering" {
            assert_eq!(answer.status, 200, "recovery of some stops no others");
        } else {
            answer.is_problem(503, "unavailable", "");
        }
        assert_eq!(server.get("/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn a_submission_takes_no_reading() {
    let server = serve(Fake::new()).await;
    assert_eq!(server.submit(&transfer()).await.status, 200);
    assert_eq!(server.fake.readings.load(Ordering::SeqCst), 0);
    server.get("/metrics").await;
    assert_eq!(server.fake.readings.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn participants_and_ledgers_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path(), ledger::Options::default()).unwrap();
    ledger.open_account("a/1", 5, Overdraft::Refused).await.unwrap();
    let ledgers = [("core".to_owned(), ledger)].into();
    let server = serve_ledgers(Fake::new(), Options::default(), ledgers).await;
    let list = server.get("/v1/participants").await.json();
    assert_eq!(list["participants"][0]["name"], "core");
    assert_eq!(list["participants"][0]["kind"], "embedded");
    let drained = server.post("/v1/participants/core:drain").await.json();
    assert_eq!(drained["drained"], true);
    let list = server.get("/v1/participants").await.json();
    assert_eq!(list["participants"][0]["drained"], true);
    // A page elsewhere cannot send it without asking first.
    let plain = reply(server.http.post(server.url("/v1/participants/core:resume"))).await;
    plain.is_problem(415, "unsupported-media-type", "application/json");
    server.post("/v1/participants/x:drain").await.is_problem(404, "not-found", "x");
    server.post("/v1/participants/core:paint").await.is_problem(404, "not-found", "paint");
    let account = server.get("/v1/ledgers/core/accounts/a%2F1").await;
    assert_eq!(account.json()["amounts"]["balance_minor"], 5);
    server.get("/v1/ledgers/core/accounts/zz").await.is_problem(404, "not-found", "zz");
    server.get("/v1/ledgers/none/verify").await.is_problem(404, "not-found", "core");
    let verified = server.get("/v1/ledgers/core/verify").await.json();
    assert_eq!(verified["sound"], true, "{verified}");
}

#[tokio::test]
async fn metrics_show_what_operators_watch() {
    let server = serve(Fake::new()).await;
    server.submit(&transfer()).await;
    server.submit(&json!({})).await;
    let text = server.get("/metrics").await.text;
    for line in [
        "presume_transactions_total{outcome=\"committed\"} 41",
        "presume_transaction_reasons_total{reason=\"business_decline\"} 2",
        "presume_model_fallbacks_total{target=\"success\",cause=\"missing\"} 7",
        "presume_store_flushes_total{store=\"decision_log\"} 9",
        "presume_store_writes_total{store=\"decision_log\"} 81",
        "presume_store_healthy{store=\"decision_log\"} 1",
        "presume_transactions_unfinished 5",
        "presume_mode_info{mode=\"observe\"} 1",
        "presume_transactions_in_flight 3",
        "presume_transaction_seconds_count 1",
        "presume_transaction_seconds_bucket{le=\"0.0001\"} 1",
        "presume_http_refused_total{code=\"invalid\"} 1",
        "presume_ready 1",
        "presume_model_info{version=\"payments/3\"} 1",
        "# TYPE presume_prepare_seconds histogram",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let requests = "presume_http_requests_total{path=\"/v1/transactions\",method=\"POST\",status=";
    assert!(text.contains(&format!("{requests}\"200\"}} 1")), "{text}");
    assert!(text.contains(&format!("{requests}\"422\"}} 1")), "{text}");
}

#[tokio::test]
async fn an_address_beyond_loopback_needs_an_explicit_word() {
    let fake = || Service::new(std::sync::Arc::new(Fake::new()));
    let options = Options { address: ([0, 0, 0, 0], 0).into(), ..Options::default() };
    let refused = Server::bind(fake(), options.clone()).await.err().unwrap();
    assert!(refused.to_string().contains("allow_remote"), "{refused}");
    assert!(matches!(options.validate(), Err(OptionsError::Remote { .. })));
    let allowed = Options { allow_remote: true, ..options };
    assert!(Server::bind(fake(), allowed).await.is_ok());
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let server = serve(Fake::new()).await;
    let options = Options { address: server.address, ..Options::default() };
    let service = Service::new(std::sync::Arc::new(Fake::new()));
    let error = Server::bind(service, options).await.err().unwrap().to_string();
    assert!(error.contains(&server.address.to_string()), "{error}");
    assert_eq!(server.get("/healthz").await.status, 200);
}
