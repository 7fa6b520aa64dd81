use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::fake::{Fake, Reply, Running, reply, serve, serve_with};
use super::parsing::transfer;
use crate::coordinator::SubmitError;
use crate::server::{NotReady, Options};
use crate::txn::{Outcome, ParticipantName};

fn named(id: &str) -> Value {
    let mut body = transfer();
    body["id"] = json!(id);
    body
}

async fn post(server: &Running, kind: &str, body: impl Into<reqwest::Body>) -> Reply {
    let request = server.http.post(server.url("/v1/transactions:batch"));
    reply(request.header("content-type", kind).body(body)).await
}

async fn array(server: &Running, members: &[Value]) -> Reply {
    post(server, "application/json", json!(members).to_string()).await
}

async fn lines(server: &Running, text: impl Into<reqwest::Body>) -> Vec<Value> {
    let reply = post(server, "application/x-ndjson", text).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"));
    parsed(&reply.text)
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn joined(members: &[Value]) -> String {
    members.iter().fold(String::new(), |text, member| text + &member.to_string() + "\n")
}

/// By index; each answers for one member.
fn by_index(answers: &[Value]) -> BTreeMap<u64, &Value> {
    let indexed: BTreeMap<u64, &Value> =
        answers.iter().map(|answer| (answer["index"].as_u64().unwrap(), answer)).collect();
    assert_eq!(indexed.len(), answers.len(), "{answers:?}");
    indexed
}

/// What a problem among answers must say.
fn is_problem(answer: &Value, status: u16, slug: &str, detail: &str) {
    assert_eq!(answer["status"], status, "{answer}");
    assert_eq!(answer["problem"]["status"], status, "{answer}");
    assert_eq!(answer["problem"]["type"], format!("urn:presume:problem:{slug}"), "{answer}");
    assert!(answer["problem"]["detail"].as_str().unwrap().contains(detail), "{answer}");
}

/// A request whose body is open, and its answer.
struct Open {
    body: mpsc::Sender<Bytes>,
    answer: reqwest::Response,
    text: String,
}

impl Open {
    async fn post(server: &Running) -> Self {
        let (body, mut chunks) = mpsc::channel::<Bytes>(1);
        let frames = futures_util::stream::poll_fn(move |context| {
            let chunk = chunks.poll_recv(context);
            chunk.map(|chunk| chunk.map(|chunk| Ok::<_, std::io::Error>(Frame::data(chunk))))
        });
        let request = server.http.post(server.url("/v1/transactions:batch"));
        let request = request.header("content-type", "application/jsonl; charset=utf-8");
        let request = request.body(reqwest::Body::wrap(StreamBody::new(frames)));
        Self { body, answer: request.send().await.unwrap(), text: String::new() }
    }

    async fn send(&self, text: impl Into<String>) {
        self.body.send(Bytes::from(text.into())).await.unwrap();
    }

    /// The next answer; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let line = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(line);
            }
            let chunk = self.answer.chunk().await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn an_array_is_answered_in_its_order_as_single_requests_would_be() {
    let script = |id: &crate::txn::TxnId| match id.as_str() {
        "operation" => Err(SubmitError::BadOperation {
            participant: "core".into(),
            operation: "fly".into(),
            detail: "no such operation".into(),
        }),
        id => Ok(id.parse().unwrap_or(Outcome::Committed)),
    };
    let server = serve(Fake::with(script)).await;
    let mut unnamed = transfer();
    unnamed.as_object_mut().unwrap().remove("id");
    let mut wrong = named("wrong");
    wrong["operations"][1]["params"]["amount"] = json!([]);
    let members =
        [named("aborted"), unnamed, named("t1"), named("operation"), wrong, named("in_doubt")];
    let reply = array(&server, &members).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    let answers = reply.json();
    assert_eq!(answers.as_array().unwrap().len(), members.len());
    assert_eq!(answers[0], server.submit(&named("aborted")).await.json());
    assert_eq!(answers[2], server.submit(&named("t1")).await.json());
    assert_eq!(answers[5]["outcome"], "in_doubt");
    for (index, status, slug, detail) in [
        (1, 422, "invalid", "id: is missing"),
        (3, 422, "bad-operation", "no such operation"),
        (4, 422, "invalid", "an array"),
    ] {
        is_problem(&answers[index], status, slug, detail);
        assert_eq!(answers[index]["index"], index);
    }
    assert_eq!(answers[1]["id"], Value::Null);
    assert_eq!(answers[1]["problem"]["field"], "id");
    assert_eq!(answers[4]["id"], "wrong");
    assert_eq!(answers[4]["problem"]["field"], "operations[1].params.amount");
    let metrics = server.get("/metrics").await.text;
    for line in [
        "presume_http_batch_members_total{status=\"200\"} 2",
        "presume_http_batch_members_total{status=\"202\"} 1",
        "presume_http_batch_members_total{status=\"422\"} 3",
        "presume_http_refused_total{code=\"bad-operation\"} 1",
        "presume_http_requests_total{path=\"/v1/transactions:batch\",method=\"POST\",status=\"200\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn an_array_that_cannot_be_taken_apart_is_refused_as_a_whole() {
    let options = Options {
        batch_members_max: 3,
        batch_body_bytes_max: 4096,
        body_bytes_max: 1024,
        ..Options::default()
    };
    let server = serve_with(Fake::new(), options).await;
    assert_eq!(array(&server, &[]).await.json(), json!([]));
    let four = [named("a"), named("b"), named("c"), named("d")];
    array(&server, &four).await.is_problem(413, "too-large", "more than 3 members");
    assert_eq!(array(&server, &four[..3]).await.json().as_array().unwrap().len(), 3);
    let json = "application/json";
    post(&server, json, " ".repeat(5_000)).await.is_problem(413, "too-large", "4096");
    let broken = post(&server, json, "[{\"id\": \"a\"},\n {\"id\": b}]").await;
    broken.is_problem(400, "malformed", "line 2");
    assert_eq!(
        (broken.json()["line"].clone(), broken.json()["column"].clone()),
        (2.into(), 9.into())
    );
    post(&server, json, "[] []").await.is_problem(400, "malformed", "trailing");
    post(&server, json, "{\"id\": \"a\"}").await.is_problem(
        422,
        "invalid",
        "array of transactions",
    );
    post(&server, "text/plain", "[]").await.is_problem(415, "unsupported-media-type", "text/plain");
    let request = server.http.post(server.url("/v1/transactions:batch")).json(&json!([]));
    let keyed = reply(request.header("Idempotency-Key", "k")).await;
    keyed.is_problem(400, "malformed", "each member has its id");
    let request = server.http.post(server.url("/v1/transactions")).body("{}");
    let single = reply(request.header("content-type", "application/x-ndjson")).await;
    single.is_problem(415, "unsupported-media-type", ":batch only");
    assert_eq!(server.fake.submitted.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_wrong_within_an_array_is_located_in_the_whole() {
    let server =
        serve_with(Fake::new(), Options { body_bytes_max: 1024, ..Options::default() }).await;
    let large = json!({"id": "large", "memo": "x".repeat(2_000)});
    let text =
        format!("[\n  {}, {{\"a\":1,\"a\":2}},\n  {{\"b\":1,\n\"b\":2}}, {large}]", named("t1"));
    let answers = post(&server, "application/json", text.clone()).await.json();
    assert_eq!(answers[0]["outcome"], "committed");
    let place = |n: usize| {
        is_problem(&answers[n], 400, "malformed", "is given twice");
        let place = |key: &str| answers[n]["problem"][key].as_u64().unwrap() as usize;
        (place("line"), place("column"))
    };
    // Behind the second key.
    let second = text.lines().nth(1).unwrap().find("\"a\":2").unwrap() + "\"a\"".len();
    assert_eq!(place(1), (2, second));
    assert_eq!(place(2), (4, "\"b\"".len()));
    is_problem(&answers[3], 413, "too-large", "the limit is 1024");
}

#[tokio::test]
async fn lines_are_answered_one_by_one_and_bad_ones_located() {
    let server =
        serve_with(Fake::new(), Options { body_bytes_max: 1024, ..Options::default() }).await;
    let long = "x".repeat(5_000);
    let mut unnamed = transfer();
    unnamed.as_object_mut().unwrap().remove("id");
    let text = format!(
        "{}\r\n\n{{\"kind\": UPI}}\n{long}\n\u{1}\n[]\n{unnamed}\n  \n{}",
        named("first"),
        named("last")
    );
    let answers = lines(&server, text).await;
    let answers = by_index(&answers);
    assert_eq!(answers.len(), 7);
    for (index, id) in [(0, "first"), (6, "last")] {
        assert_eq!(
            (&answers[&index]["id"], &answers[&index]["outcome"]),
            (&json!(id), &json!("committed"))
        );
    }
    let place = |index: u64| {
        let problem = &answers[&index]["problem"];
        (problem["line"].as_u64(), problem["column"].as_u64())
    };
    is_problem(answers[&1], 400, "malformed", "expected value");
    assert_eq!(place(1), (Some(3), Some(10)));
    is_problem(answers[&2], 413, "too-large", "5000 bytes, the limit is 1024");
    assert_eq!(place(2), (Some(4), Some(1025)));
    is_problem(answers[&3], 400, "malformed", "expected value");
    assert_eq!(place(3), (Some(5), Some(1)));
    is_problem(answers[&4], 422, "invalid", "must be an object");
    is_problem(answers[&5], 422, "invalid", "id: is missing");
    assert_eq!(answers[&1]["id"], Value::Null);
}

#[tokio::test]
async fn an_answer_comes_while_the_body_is_open() {
    let server = serve(Fake::new()).await;
    let mut open = Open::post(&server).await;
    for n in 0..3 {
        // In two pieces, so that a line is not taken before its end.
        let line = named(&format!("t{n}")).to_string();
        open.send(&line[..20]).await;
        open.send(format!("{}\n", &line[20..])).await;
        let answer = open.next().await.unwrap();
        assert_eq!((&answer["index"], &answer["id"]), (&json!(n), &json!(format!("t{n}"))));
    }
    drop(open.body);
    assert!(open.answer.chunk().await.unwrap().is_none());
}

#[tokio::test]
async fn a_member_waits_while_there_is_no_room_and_is_not_lost() {
    let tries: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let server = serve(Fake::with(move |id| {
        let mut tries = tries.lock().unwrap();
        let tried = tries.entry(id.to_string()).or_default();
        *tried += 1;
        match *tried {
            1 => Err(SubmitError::Overloaded { in_flight: 9, limit: 9 }),
            2 => Err(SubmitError::InFlight { id: id.clone() }),
            3 => Err(SubmitError::ParticipantAway {
                name: ParticipantName::new("core").unwrap(),
                detail: "drained".into(),
            }),
            _ => Ok(Outcome::Committed),
        }
    }))
    .await;
    let members: Vec<Value> = (0..50).map(|n| named(&format!("t{n}"))).collect();
    let answers = lines(&server, joined(&members)).await;
    assert_eq!(by_index(&answers).len(), 50);
    assert!(answers.iter().all(|answer| answer["outcome"] == "committed"), "{answers:?}");
    let more: Vec<Value> = (50..60).map(|n| named(&format!("t{n}"))).collect();
    let answers = array(&server, &more).await.json();
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["outcome"] == "committed"));
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("presume_http_batch_waits_total 180"), "{metrics}");
}

#[tokio::test]
async fn waiting_ends_with_the_request_timeout() {
    let options = Options { request_timeout: Duration::from_millis(40), ..Options::default() };
    let server = serve_with(
        Fake::with(|id| match id.as_str() {
            "full" => Err(SubmitError::Overloaded { in_flight: 9, limit: 9 }),
            "stopping" => Err(SubmitError::ShuttingDown),
            _ => Ok(Outcome::Committed),
        }),
        options.clone(),
    )
    .await;
    let answers = lines(&server, joined(&[named("full"), named("stopping"), named("t")])).await;
    let answers = by_index(&answers);
    is_problem(answers[&0], 429, "overloaded", "the limit is 9");
    assert_eq!(answers[&0]["id"], "full");
    is_problem(answers[&1], 503, "unavailable", "shutting down");
    assert_eq!(answers[&2]["outcome"], "committed");

    let fake = Fake::new();
    fake.hold.store(true, Ordering::SeqCst);
    let server = serve_with(fake, options).await;
    let answers = lines(&server, joined(&[named("slow")])).await;
    assert_eq!(answers, [json!({"index": 0, "id": "slow", "status": "in_flight"})]);
    let answers = array(&server, &[named("slow")]).await.json();
    assert_eq!(answers, json!([{"id": "slow", "status": "in_flight"}]));
}

#[tokio::test]
async fn of_two_with_one_id_the_second_waits_and_hears_the_same_or_that_it_is_another() {
    let fake = Fake::new();
    fake.hold.store(true, Ordering::SeqCst);
    let server = serve(fake).await;
    let mut other = named("twin");
    other["amount"]["minor"] = json!(1);
    let mut open = Open::post(&server).await;
    let members = [named("twin"), named("twin"), other, named("end")];
    open.send(joined(&members)).await;
    while server.fake.running.lock().unwrap().1 < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*server.fake.submitted.lock().unwrap(), ["twin", "end"], "only the first runs");
    server.fake.hold.store(false, Ordering::SeqCst);
    server.fake.release.notify_waiters();
    let mut answers = Vec::new();
    for _ in &members {
        answers.push(open.next().await.unwrap());
    }
    let answers = by_index(&answers);
    assert_eq!(answers[&0]["outcome"], "committed");
    let without_index = |n: u64| {
        let mut answer = answers[&n].clone();
        answer.as_object_mut().unwrap().remove("index");
        answer
    };
    assert_eq!(without_index(0), without_index(1));
    is_problem(answers[&2], 422, "key-reused", "another body");
    assert_eq!(*server.fake.submitted.lock().unwrap(), ["twin", "end", "twin", "twin"]);
}

#[tokio::test]
async fn no_more_than_the_limit_run_at_a_time_over_all_batches() {
    let options = Options { batch_in_flight_max: 4, ..Options::default() };
    let fake = Fake::with(|_| Ok(Outcome::Committed));
    fake.hold.store(true, Ordering::SeqCst);
    let server = serve_with(fake, options).await;
    let members =
        |letter: char| -> Vec<Value> { (0..100).map(|n| named(&format!("{letter}{n}"))).collect() };
    let (a, b) = (members('a'), members('b'));
    let opened = async {
        while server.fake.running.lock().unwrap().0 < 4 {
            tokio::task::yield_now().await;
        }
        server.fake.hold.store(false, Ordering::SeqCst);
        server.fake.release.notify_waiters();
    };
    let (a, b, ()) = tokio::join!(array(&server, &a), lines(&server, joined(&b)), opened);
    assert_eq!(a.json().as_array().unwrap().len(), 100);
    assert_eq!(by_index(&b).len(), 100);
    assert_eq!(*server.fake.running.lock().unwrap(), (0, 4));
}

#[tokio::test]
async fn batches_over_the_limit_are_429() {
    let options = Options { batches_max: 1, ..Options::default() };
    let server = serve_with(Fake::new(), options).await;
    let mut open = Open::post(&server).await;
    open.send(joined(&[named("t")])).await;
    open.next().await.unwrap();
    array(&server, &[]).await.is_problem(429, "overloaded", "1 batches");
    drop(open);
    // Ends as soon as the server has noticed.
    while array(&server, &[]).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn when_the_client_goes_away_what_has_begun_goes_on_and_no_more_is_begun() {
    let options = Options { batches_max: 1, ..Options::default() };
    let server = serve_with(Fake::new(), options).await;
    let mut open = Open::post(&server).await;
    open.send(joined(&[named("t0")])).await;
    assert_eq!(open.next().await.unwrap()["outcome"], "committed");
    server.fake.hold.store(true, Ordering::SeqCst);
    open.send(joined(&[named("t1"), named("t2"), named("t1")]) + &named("t3").to_string()).await;
    while server.fake.running.lock().unwrap().0 < 2 {
        tokio::task::yield_now().await;
    }
    drop(open);
    // Ends as soon as the server has noticed, while both still run at the coordinator.
    while array(&server, &[]).await.status != 200 {
        tokio::task::yield_now().await;
    }
    server.fake.hold.store(false, Ordering::SeqCst);
    server.fake.release.notify_waiters();
    // The coordinator's tasks outlive this; of what only waited for its turn, nothing is begun.
    assert_eq!(server.submit(&named("last")).await.status, 200);
    assert_eq!(*server.fake.submitted.lock().unwrap(), ["t0", "t1", "t2", "last"]);
}

#[tokio::test]
async fn a_line_that_broke_off_is_not_taken() {
    let server = serve(Fake::new()).await;
    let (whole, broken) = (format!("{}\n", named("whole")), named("broken").to_string());
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    let sent = spawn_blocking(move || {
        let head = "POST /v1/transactions:batch HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
                    content-type: application/x-ndjson\r\n\r\n";
        // The second is whole JSON, but neither its line nor the body has ended.
        let text = format!("{whole}{broken}");
        write!(stream, "{head}{:x}\r\n{text}\r\n", text.len()).unwrap();
        let mut answer = [0; 4096];
        let mut heard = String::new();
        while !heard.contains("committed") {
            let count = stream.read(&mut answer).unwrap();
            heard.push_str(std::str::from_utf8(&answer[..count]).unwrap());
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // It ends, and not as a whole answer does.
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        heard + &rest
    });
    let heard = sent.await.unwrap();
    assert!(!heard.ends_with("0\r\n\r\n"), "{heard}");
    assert_eq!(*server.fake.submitted.lock().unwrap(), ["whole"]);
}

#[tokio::test]
async fn a_stream_without_lines_ends_and_says_why() {
    let options = Options { body_timeout: Duration::from_millis(50), ..Options::default() };
    let server = serve_with(Fake::new(), options).await;
    let mut open = Open::post(&server).await;
    open.send(joined(&[named("t")])).await;
    open.send("{\"id\": ").await;
    assert_eq!(open.next().await.unwrap()["outcome"], "committed");
    let last = open.next().await.unwrap();
    is_problem(&last, 408, "body-timeout", "within 50 ms");
    assert_eq!((&last["index"], &last["id"]), (&json!(1), &Value::Null));
    assert_eq!(open.next().await, None);
}

#[tokio::test]
async fn while_an_answer_is_awaited_a_stream_may_be_silent() {
    let options = Options { body_timeout: Duration::from_millis(20), ..Options::default() };
    let fake = Fake::new();
    fake.hold.store(true, Ordering::SeqCst);
    let server = serve_with(fake, options).await;
    let mut open = Open::post(&server).await;
    open.send(joined(&[named("slow")])).await;
    server.fake.arrived.notified().await;
    // Not to wait for something: several times as long as a line may take.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.fake.release.notify_waiters();
    assert_eq!(open.next().await.unwrap()["outcome"], "committed");
}

#[tokio::test]
async fn a_stream_ends_in_order_when_the_server_stops() {
    let server = serve(Fake::new()).await;
    let mut open = Open::post(&server).await;
    open.send(joined(&[named("t")])).await;
    assert_eq!(open.next().await.unwrap()["outcome"], "committed");
    let stopping = tokio::spawn(server.stop());
    let last = open.next().await.unwrap();
    is_problem(&last, 503, "unavailable", "stopping");
    assert_eq!(last["index"], 1);
    assert_eq!(open.next().await, None);
    stopping.await.unwrap();
}

#[tokio::test]
async fn nothing_is_begun_once_the_log_has_failed() {
    let server = serve(Fake::new()).await;
    let mut open = Open::post(&server).await;
    open.send(joined(&[named("t")])).await;
    assert_eq!(open.next().await.unwrap()["outcome"], "committed");
    *server.fake.not_ready.lock().unwrap() = Some(NotReady::LogFailed("disk full".into()));
    open.send(joined(&[named("u"), named("v")])).await;
    is_problem(&open.next().await.unwrap(), 503, "unavailable", "disk full");
    assert_eq!(open.next().await, None);
    array(&server, &[named("w")]).await.is_problem(503, "unavailable", "disk full");
    *server.fake.not_ready.lock().unwrap() = Some(NotReady::Recovering);
    assert_eq!(array(&server, &[named("x")]).await.json()[0]["outcome"], "committed");
    assert_eq!(*server.fake.submitted.lock().unwrap(), ["t", "x"]);
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_read_from_no_more_and_cut_off() {
    let options = Options { request_timeout: Duration::from_millis(100), ..Options::default() };
    let server = serve_with(Fake::new(), options).await;
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    // Ends only because the server closes: it sends without end, and reads nothing.
    let ended = spawn_blocking(move || {
        let head = "POST /v1/transactions:batch HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
                    content-type: application/x-ndjson\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for n in 0u64.. {
            let line = format!("{}\n", named(&format!("t{n}")));
            if let Err(error) = write!(stream, "{:x}\r\n{line}\r\n", line.len()) {
                return error.kind();
            }
        }
        unreachable!("there is always a next")
    });
    let kind = ended.await.unwrap();
    let expected = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(expected.contains(&kind), "{kind:?}");
    assert_eq!(server.get("/healthz").await.status, 200);
}
