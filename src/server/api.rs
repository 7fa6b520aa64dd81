//! Routes and handlers: HTTP in, the coordinator's words out.
//!
//! A handler refuses early, bounds what it reads, and never decides anything about a transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

use crate::coordinator::{Answer, Submission, SubmitError};
use crate::participants::ledger::Ledger;
use crate::txn::{Outcome, ParticipantName, TxnId};

use super::backend::{NotReady, Service};
use super::batch;
use super::metrics::Metrics;
use super::operator;
use super::options::Options;
use super::problem::{Kind, PROBLEM, Problem, location};
use super::request;

/// What every handler sees.
pub(super) struct App {
    pub(super) service: Service,
    pub(super) options: Options,
    pub(super) metrics: Metrics,
    pub(super) draining: AtomicBool,
    pub(super) requests: Arc<Semaphore>,
    pub(super) batches: Arc<Semaphore>,
    /// Places for members of all batches together.
    pub(super) members: Arc<Semaphore>,
    /// Whose turn it is among those members that the coordinator had no room for.
    pub(super) turn: Mutex<()>,
}

impl App {
    pub(super) fn new(service: Service, options: Options) -> Self {
        let requests = Arc::new(Semaphore::new(options.requests_max));
        let batches = Arc::new(Semaphore::new(options.batches_max));
        let members = Arc::new(Semaphore::new(options.batch_in_flight_max));
        Self {
            service,
            options,
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            requests,
            batches,
            members,
            turn: Mutex::new(()),
        }
    }

    /// Counts an answer, unless it took longer than this call: then an earlier one made it, and it
    /// was counted then.
    pub(super) fn count_answered(&self, started: Instant, answer: &Answer) {
        if started.elapsed().as_secs_f64() * 1e3 >= answer.timings_ms.total {
            self.metrics.answered(&answer.timings_ms);
        }
    }

    pub(super) fn not_ready(&self) -> Option<NotReady> {
        if self.draining.load(Ordering::Relaxed) {
            return Some(NotReady::Draining);
        }
        self.service.backend.not_ready()
    }

    fn ledger(&self, name: &str) -> Result<&Ledger, Problem> {
        self.service.ledgers.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.service.ledgers.keys().map(String::as_str).collect();
            let known = known.join(", ");
            Problem::new(Kind::NotFound, format!("no embedded ledger {name:?}; there are {known}"))
        })
    }
}

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/transactions", post(submit).get(operator::list))
        .route("/v1/transactions:batch", post(batch::submit))
        .route("/v1/transactions:predict", post(predict))
        .route("/v1/transactions:retry-now", post(operator::retry_many))
        .route("/v1/transactions/{id}", get(show).post(operator::verb))
        .route("/v1/participants", get(participants))
        .route("/v1/participants/{verb}", post(participant))
        .route("/v1/ledgers/{ledger}/accounts/{account}", get(account))
        .route("/v1/ledgers/{ledger}/verify", get(verify))
        .route("/healthz", get(|| async { Json(json!({"status": "alive"})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

type Shared = State<Arc<App>>;

async fn submit(State(app): Shared, request: Request) -> Result<Response, Problem> {
    let _permit = app.requests.try_acquire().map_err(|_| overloaded(&app))?;
    let submission = read(&app, request).await?;
    match app.not_ready() {
        // What recovery has not settled stays in flight at the coordinator; the rest may run.
        None | Some(NotReady::Recovering) => {}
        Some(reason) => return Err(Problem::new(Kind::Unavailable, reason.detail())),
    }
    let id = submission.transaction.id.clone();
    let started = Instant::now();
    let answer = timeout(app.options.request_timeout, app.service.backend.submit(submission)).await;
    let Ok(answer) = answer else {
        app.metrics.answered_later();
        return Ok(in_flight(&id));
    };
    let answer = answer?;
    app.count_answered(started, &answer);
    Ok(answered(&answer))
}

async fn predict(State(app): Shared, request: Request) -> Result<Response, Problem> {
    let _permit = app.requests.try_acquire().map_err(|_| overloaded(&app))?;
    let submission = read(&app, request).await?;
    Ok(Json(app.service.backend.predict(&submission)?).into_response())
}

async fn show(State(app): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = TxnId::new(&id).map_err(|error| Problem::new(Kind::NotFound, error.to_string()))?;
    match app.service.backend.answer(&id) {
        Ok(Some(answer)) => {
            let body = operator::with_details(&app, &id, json!(answer));
            Ok(shown(&answer, body))
        }
        Ok(None) => Err(Problem::new(Kind::NotFound, format!("no transaction {id} is known"))),
        Err(SubmitError::InFlight { .. }) => {
            let body = json!({"id": id, "status": "in_flight"});
            Ok(in_flight_with(&id, operator::with_details(&app, &id, body)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn participants(State(app): Shared) -> Response {
    Json(json!({"participants": app.service.participants()})).into_response()
}

/// `NAME:drain` and `NAME:resume`.
async fn participant(
    State(app): Shared,
    Path(verb): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_content_type(&headers)?;
    let unknown = |detail: String| Problem::new(Kind::NotFound, detail);
    let (name, drained) = match verb.rsplit_once(':') {
        Some((name, "drain")) => (name, true),
        Some((name, "resume")) => (name, false),
        _ => return Err(unknown(format!("{verb:?} is not NAME:drain or NAME:resume"))),
    };
    let known = ParticipantName::new(name);
    if known.is_ok_and(|name| app.service.backend.drain(&name, drained)) {
        return Ok(Json(json!({"name": name, "drained": drained})).into_response());
    }
    Err(unknown(format!("no participant {name:?} is configured")))
}

async fn account(
    State(app): Shared,
    Path((ledger, account)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let Some(balance) = app.ledger(&ledger)?.balance(&account) else {
        let detail = format!("ledger {ledger:?} has no account {account:?}");
        return Err(Problem::new(Kind::NotFound, detail));
    };
    Ok(Json(json!({"id": account, "amounts": balance})).into_response())
}

async fn verify(State(app): Shared, Path(ledger): Path<String>) -> Result<Response, Problem> {
    let _permit = app.requests.try_acquire().map_err(|_| overloaded(&app))?;
    let ledger = app.ledger(&ledger)?.clone();
    // It reads the whole ledger: not on a thread that others' requests wait for.
    let here = tokio::runtime::Handle::current();
    let read = tokio::task::spawn_blocking(move || here.block_on(ledger.verify())).await;
    let failed = |detail: String| Problem::new(Kind::Internal, detail);
    let report = read.map_err(|error| failed(error.to_string()))?;
    let report = report.map_err(|error| failed(error.to_string()))?;
    Ok(Json(json!({"sound": report.is_sound(), "report": report})).into_response())
}

async fn ready(State(app): Shared) -> Response {
    let model = app.service.backend.reading().model;
    match app.not_ready() {
        None => Json(json!({"status": "ready", "model": model})).into_response(),
        Some(reason) => {
            let body = json!({
                "status": "not_ready", "reason": reason.code(), "detail": reason.detail(),
            });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(app): Shared) -> Response {
    app.metrics.ready(app.not_ready().is_none());
    let (reading, doubts) = (app.service.backend.reading(), app.service.backend.doubts());
    let text = app.metrics.render(&reading, &doubts, &(app.service.stores)());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn not_found(request: Request) -> Problem {
    Problem::new(Kind::NotFound, format!("no resource at {}", request.uri().path()))
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(Kind::MethodNotAllowed, format!("{method} is not allowed at {path}"))
}

/// Counts every request and every refusal.
async fn observe(State(app): Shared, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let path = path.as_ref().map_or("other", MatchedPath::as_str);
    // Method names are the client's to invent; only the common ones become label values.
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => known,
        _ => "other",
    };
    app.metrics.request(path, method, response.status().as_u16());
    if let Some(code) = response.headers().get(PROBLEM).and_then(|code| code.to_str().ok()) {
        app.metrics.refused(code);
    }
    response
}

fn answered(answer: &Answer) -> Response {
    shown(answer, json!(answer))
}

fn shown(answer: &Answer, body: Value) -> Response {
    if answer.outcome == Outcome::InDoubt {
        let headers = [(header::LOCATION, location(&answer.id)), retry_after()];
        return (StatusCode::ACCEPTED, headers, Json(body)).into_response();
    }
    Json(body).into_response()
}

fn in_flight(id: &TxnId) -> Response {
    in_flight_with(id, json!({"id": id, "status": "in_flight"}))
}

fn in_flight_with(id: &TxnId, body: Value) -> Response {
    let headers = [(header::LOCATION, location(id)), retry_after()];
    (StatusCode::ACCEPTED, headers, Json(body)).into_response()
}

fn retry_after() -> (header::HeaderName, HeaderValue) {
    (header::RETRY_AFTER, HeaderValue::from_static("1"))
}

pub(super) fn overloaded(app: &App) -> Problem {
    let limit = app.options.requests_max;
    Problem::new(Kind::Overloaded, format!("{limit} requests are being answered, the limit"))
}

async fn read(app: &App, request: Request) -> Result<Submission, Problem> {
    let (head, body) = request.into_parts();
    check_content_type(&head.headers)?;
    let key = idempotency_key(&head.headers)?;
    let body = read_body(app, &head.headers, body, app.options.body_bytes_max).await?;
    Ok(request::parse(&body, key, app.options.rules())?)
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentType {
    Json,
    /// JSON, a value a line.
    Lines,
}

/// Only `application/json`: see [`content_type`].
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    match content_type(headers)? {
        ContentType::Json => Ok(()),
        ContentType::Lines => {
            let detail = "lines are taken at /v1/transactions:batch only; send application/json";
            Err(Problem::new(Kind::UnsupportedMediaType, detail))
        }
    }
}

/// Only JSON, or lines of it, in UTF-8, not compressed: a web page elsewhere cannot send that
/// without asking first, and no small body grows large.
pub(super) fn content_type(headers: &HeaderMap) -> Result<ContentType, Problem> {
    let refuse = |detail: String| Err(Problem::new(Kind::UnsupportedMediaType, detail));
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = String::from_utf8_lossy(given);
    let (kind, parameters) = given.split_once(';').unwrap_or((&given, ""));
    let charset = parameters.trim().to_ascii_lowercase();
    let utf8 = ["", "charset=utf-8", "charset=\"utf-8\""].contains(&charset.as_str());
    let known = match kind.trim().to_ascii_lowercase().as_str() {
        "application/json" => ContentType::Json,
        "application/x-ndjson" | "application/jsonl" => ContentType::Lines,
        _ => return refuse(format!("content type {given:?} is not application/json")),
    };
    if !utf8 {
        return refuse(format!("content type {given:?} is not in UTF-8"));
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            refuse(format!("content encoding {encoding:?} is not taken"))
        }
        _ => Ok(known),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<TxnId>, Problem> {
    let bad = |detail: String| {
        let field = Some("Idempotency-Key".to_owned());
        Problem { field, ..Problem::new(Kind::Malformed, detail) }
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("Idempotency-Key is given more than once".into()));
    }
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| bad("Idempotency-Key is not UTF-8".into()))?;
    TxnId::new(text).map(Some).map_err(|error| bad(format!("Idempotency-Key: {error}")))
}

pub(super) async fn read_body(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("the limit is {limit} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    let wait = app.options.body_timeout;
    match timeout(wait, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
        Ok(Err(error)) => {
            Err(Problem::new(Kind::Malformed, format!("the body broke off: {error}")))
        }
        Err(_) => {
            let detail = format!("the body did not arrive within {} ms", wait.as_millis());
            Err(Problem::new(Kind::BodyTimeout, detail))
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = cause.source();
    }
    false
}
