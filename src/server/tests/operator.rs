use std::time::Duration;

use serde_json::json;

use super::fake::{Fake, Running, STUCK, reply, serve};
use crate::coordinator::{Query, Wanted};

async fn post(server: &Running, path: &str, body: serde_json::Value) -> super::fake::Reply {
    reply(server.http.post(server.url(path)).json(&body)).await
}

#[tokio::test]
async fn the_list_takes_state_age_and_limit_and_refuses_what_it_does_not_know() {
    let server = serve(Fake::new()).await;
    let listed = server.get("/v1/transactions?state=in_doubt&older_than_s=2.5&limit=7").await;
    assert_eq!(listed.status, 200, "{listed:?}");
    let body = listed.json();
    assert_eq!((&body["transactions"][0]["ids"][0], &body["more"]), (&json!(STUCK), &json!(3)));
    assert_eq!(body["transactions"][0]["age_s"], 312.0);
    assert_eq!(server.get("/v1/transactions").await.status, 200);
    assert_eq!(server.get("/v1/transactions?state=stuck").await.status, 200);
    let query = |state, older_than, limit| Query { state, older_than, limit };
    let asked = [
        query(Wanted::InDoubt, Duration::from_millis(2_500), 7),
        query(Wanted::Unresolved, Duration::ZERO, 100),
        query(Wanted::Stuck, Duration::from_secs(30), 100),
    ];
    assert_eq!(*server.fake.queries.lock().unwrap(), asked);
    for (query, field, detail) in [
        ("state=lost", "state", "in_doubt"),
        ("limit=0", "limit", "1 to 1000"),
        ("limit=1001", "limit", "1 to 1000"),
        ("older_than_s=-1", "older_than_s", "must be 0 to"),
        ("older_than_s=NaN", "older_than_s", "must be 0 to"),
        ("age=3", "age", "known are state, older_than_s, limit"),
    ] {
        let refused = server.get(&format!("/v1/transactions?{query}")).await;
        refused.is_problem(422, "invalid", detail);
        assert_eq!(refused.json()["field"], field);
    }
}

#[tokio::test]
async fn retry_now_is_for_one_for_a_participant_or_for_all() {
    let server = serve(Fake::new()).await;
    for (path, body, branches) in [
        ("/v1/transactions/stuck%3A1:retry-now", json!({}), 1),
        ("/v1/transactions:retry-now", json!({"participant": "core"}), 2),
        ("/v1/transactions:retry-now", json!({}), 4),
    ] {
        let woken = post(&server, path, body).await;
        assert_eq!((woken.status, &woken.json()["woken"]["branches"]), (200, &json!(branches)));
    }
    let unknown = post(&server, "/v1/transactions/t9:retry-now", json!({})).await;
    unknown.is_problem(404, "not-found", "t9");
    let unknown = post(&server, "/v1/transactions:retry-now", json!({"participant": "x"})).await;
    unknown.is_problem(404, "not-found", "x");
    let bad = post(&server, "/v1/transactions:retry-now", json!({"who": "core"})).await;
    bad.is_problem(422, "invalid", "participant");
    post(&server, "/v1/transactions/t9:fly", json!({})).await.is_problem(404, "not-found", "fly");
}

#[tokio::test]
async fn a_word_of_an_operator_is_checked_recorded_and_shown() {
    let server = serve(Fake::new()).await;
    let word =
        |reason: &str| json!({"branch": "core", "as": "gone", "reason": reason, "by": "ann"});
    let path = "/v1/transactions/stuck%3A1:resolve";
    let done = post(&server, path, word("the disk burnt")).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(done.json()["resolution"]["claim"], "gone");
    assert_eq!(server.fake.resolved.lock().unwrap()[0].by, "ann");
    for (field, body) in [
        ("reason", word("  ")),
        ("reason", word(&"x".repeat(1_001))),
        ("reason", word("two\nlines")),
        ("reason", json!({"branch": "core", "as": "gone", "by": "ann"})),
        ("as", json!({"branch": "core", "as": "lost", "by": "ann", "reason": "x"})),
        ("by", json!({"branch": "core", "as": "gone", "by": "", "reason": "x"})),
        ("branch", json!({"as": "gone", "by": "ann", "reason": "x"})),
    ] {
        let refused = post(&server, path, body).await;
        refused.is_problem(422, "invalid", "");
        assert_eq!(refused.json()["field"], field);
    }
    let refused = |id: &str| {
        post(
            &server,
            Box::leak(format!("/v1/transactions/{id}:resolve").into_boxed_str()),
            word("x"),
        )
    };
    refused("ended").await.is_problem(409, "not-in-doubt", "over");
    refused("nobody").await.is_problem(404, "not-found", "nobody");
    refused("broken").await.is_problem(503, "outcome-unknown", "disk full");
    let metrics = server.get("/metrics").await.text;
    for line in [
        "presume_transactions_in_doubt 4",
        "presume_transactions_in_doubt_oldest_seconds 312.5",
        "presume_branches_resolved_total 2",
        "presume_transaction_age_alerts_total 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
}

#[tokio::test]
async fn a_transaction_that_is_asked_for_shows_why_it_is_unresolved() {
    let server = serve(Fake::new()).await;
    let mut body = super::parsing::transfer();
    body["id"] = json!(STUCK);
    assert_eq!(server.submit(&body).await.status, 200);
    let shown = server.get("/v1/transactions/stuck%3A1").await.json();
    assert_eq!(shown["outcome"], "committed");
    assert_eq!(shown["unresolved"]["branches"][0]["attempts"], 57);
    assert_eq!(shown.get("resolutions"), None);
    let word = json!({"branch": "core", "as": "done", "reason": "booked by hand", "by": "ann"});
    post(&server, "/v1/transactions/stuck%3A1:resolve", word).await;
    let shown = server.get("/v1/transactions/stuck%3A1").await.json();
    assert_eq!(shown["resolutions"][0]["reason"], "booked by hand");
}
