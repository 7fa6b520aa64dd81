use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::task::spawn_blocking;

use super::fake::{Fake, Running, reply, serve, serve_with};
use super::parsing::transfer;
use crate::server::Options;

async fn held(options: Options) -> Running {
    let fake = Fake::new();
    fake.hold.store(true, Ordering::SeqCst);
    serve_with(fake, options).await
}

fn named(id: &str) -> serde_json::Value {
    let mut body = transfer();
    body["id"] = json!(id);
    body
}

/// Sends bytes as they are and reads until the server closes.
async fn raw(server: &Running, bytes: &[u8]) -> String {
    let (stream, bytes) = (open(server.address).await, bytes.to_vec());
    let answer = spawn_blocking(move || {
        let mut stream = stream;
        let mut answer = Vec::new();
        // A reset after the answer is how a server refuses what it does not read.
        let _ = stream.write_all(&bytes).and_then(|()| stream.read_to_end(&mut answer));
        answer
    });
    String::from_utf8_lossy(&answer.await.unwrap()).into_owned()
}

async fn open(address: SocketAddr) -> TcpStream {
    spawn_blocking(move || TcpStream::connect(address).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_announced_or_not() {
    let options = Options { body_bytes_max: 1024, ..Options::default() };
    let server = serve_with(Fake::new(), options).await;
    let mut body = named("big");
    body["operations"][0]["params"]["memo"] = json!("x".repeat(1000));
    server.submit(&body).await.is_problem(413, "too-large", "1024");
    let text = body.to_string();
    let chunked = format!(
        "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
        text.len()
    );
    let answer = raw(&server, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_slow_transaction_is_answered_202_with_a_place_to_ask() {
    let options = Options { request_timeout: Duration::from_millis(30), ..Options::default() };
    let server = held(options).await;
    let later = server.submit(&named("slow/1")).await;
    assert_eq!((later.status, later.json()["status"].as_str()), (202, Some("in_flight")));
    assert_eq!(later.header("location"), "/v1/transactions/slow%2F1");
    assert_eq!(later.header("retry-after"), "1");
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("presume_http_answered_later_total 1"), "{metrics}");
}

#[tokio::test]
async fn requests_over_the_limit_are_429_and_health_still_answers() {
    let server = held(Options { requests_max: 2, ..Options::default() }).await;
    let server = Arc::new(server);
    let mut waiting = Vec::new();
    for n in 0..2 {
        let server = Arc::clone(&server);
        let fake = Arc::clone(&server.fake);
        waiting.push(tokio::spawn(async move { server.submit(&named(&format!("w{n}"))).await }));
        fake.arrived.notified().await;
    }
    let refused = server.submit(&named("w3")).await;
    refused.is_problem(429, "overloaded", "2 requests");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(server.get("/readyz").await.status, 200);
    server.fake.hold.store(false, Ordering::SeqCst);
    server.fake.release.notify_waiters();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap().status, 200);
    }
    assert_eq!(server.submit(&named("w3")).await.status, 200);
}

#[tokio::test]
async fn connections_over_the_limit_hear_503() {
    let server =
        serve_with(Fake::new(), Options { connections_max: 1, ..Options::default() }).await;
    let mut first = open(server.address).await;
    let first = spawn_blocking(move || {
        first.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        first.read_exact(&mut [0; 16]).unwrap();
        first
    });
    let _open = first.await.unwrap();
    let answer = raw(&server, b"").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("connections are open"), "{answer}");
}

#[tokio::test]
async fn slow_heads_and_slow_bodies_are_cut_off() {
    let options = Options {
        header_timeout: Duration::from_millis(50),
        body_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let server = serve_with(Fake::new(), options).await;
    // Both calls end only because the server closes.
    let head = raw(&server, b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-").await;
    assert!(!head.contains("200"), "{head}");
    let body = "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 500\r\n\r\n{\"kind\":";
    let answer = raw(&server, body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn broken_http_is_refused_and_the_server_lives() {
    let server = serve(Fake::new()).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    ] {
        let answer = raw(&server, bytes).await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    }
    let large = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
    let answer = raw(&server, large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_take_its_permit_along() {
    let server = held(Options { requests_max: 1, ..Options::default() }).await;
    let body = named("gone").to_string();
    let head = format!(
        "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = open(server.address).await;
    stream.write_all(head.as_bytes()).unwrap();
    server.fake.arrived.notified().await;
    drop(stream);
    server.fake.hold.store(false, Ordering::SeqCst);
    loop {
        // Ends as soon as the server has noticed.
        if server.submit(&named("next")).await.status == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stopping_refuses_the_new_and_answers_what_runs() {
    let server = held(Options::default()).await;
    let url = server.url("/v1/transactions");
    let running = tokio::spawn(reply(server.http.post(&url).json(&named("last"))));
    server.fake.arrived.notified().await;
    let fake = Arc::clone(&server.fake);
    let stopping = tokio::spawn(server.stop());
    while !fake.stopped.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    fake.release.notify_waiters();
    assert_eq!(running.await.unwrap().status, 200);
    stopping.await.unwrap();
    let refused = reqwest::Client::new().post(&url).json(&named("late")).send().await;
    assert!(refused.is_err(), "{refused:?}");
}
