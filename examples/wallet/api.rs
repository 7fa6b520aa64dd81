//! Paths and bodies: what a request asks of the books, and what is refused before.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{BoxError, Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::books::{Asked, Books, Gid, Phases, Verdict, Work, parse_log};
use crate::{accounts, signature};

/// The largest body.
const BODY_BYTES_MAX: usize = 1 << 18;
/// The most members of a batch; bodies have a limit, too.
const MEMBERS_MAX: usize = 1_000;
/// The most operations in a branch, or of a member.
const OPERATIONS_MAX: usize = 256;
/// The most requests at a time; more are refused.
const REQUESTS_MAX: usize = 256;
/// Outcomes are kept until they are pruned. A service that removes them on its own says when.
const OUTCOME_RETENTION_S: u64 = 365 * 86_400;

pub struct Service {
    pub books: Books,
    pub secret: Option<String>,
    pub one_phase: bool,
    pub batches: bool,
    pub places: Arc<Semaphore>,
}

pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(REQUESTS_MAX))
}

type App = State<Arc<Service>>;
type Answer = Result<Json<Value>, Refusal>;

pub fn router(service: Arc<Service>) -> Router {
    let mut router = Router::new()
        .route("/v1/service", get(describe))
        .route("/v1/claims", post(claim))
        .route("/v1/branches", get(list))
        .route("/v1/branches/{gid}/prepare", post(prepare))
        .route("/v1/branches/{gid}/commit", post(commit))
        .route("/v1/branches/{gid}/abort", post(abort))
        .route("/v1/prunes", post(prune))
        // Not of the protocol: a balance for the curious.
        .route("/accounts/{account}", get(account));
    if service.one_phase {
        router = router
            .route("/v1/branches/{gid}/commit-one-phase", post(commit_one_phase))
            .route("/v1/branches/{gid}/inquire", post(inquire));
    }
    if service.batches {
        router = router.route("/v1/branches/{gid}/prepare-batch", post(prepare_batch));
    }
    // Not `unknown_branch`: whoever asks in the wrong place has learnt nothing about a branch.
    let nowhere =
        || async { Refusal::new(StatusCode::NOT_FOUND, "no_such_path", "see the OpenAPI") };
    router.fallback(nowhere).with_state(service)
}

/// Why a request is refused. A 4xx promises that nothing was done.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    known: Option<u64>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), known: None }
    }

    pub fn stale(known: u64) -> Self {
        let detail = format!("epoch {known} was claimed");
        Self { known: Some(known), ..Self::new(StatusCode::CONFLICT, "stale_epoch", detail) }
    }

    fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Refusal {}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({"code": self.code, "detail": self.detail});
        if let Some(known) = self.known {
            body["known"] = known.into();
        }
        (self.status, Json(body)).into_response()
    }
}

/// A request that was read whole, within the limits, and whose signature is right.
struct Signed {
    key: Option<String>,
    headers: HeaderMap,
    body: Bytes,
    _place: OwnedSemaphorePermit,
}

impl FromRequest<Arc<Service>> for Signed {
    type Rejection = Refusal;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Refusal> {
        let busy =
            || Refusal::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "too many requests");
        let place = service.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let (head, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(unread)?.to_bytes();
        if let Some(secret) = &service.secret {
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            signature::check(secret, &head.method, path, &head.headers, &body)?;
        }
        let key = head.headers.get("idempotency-key");
        let key = key.and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self { key, headers: head.headers, body, _place: place })
    }
}

/// Why a body was not read to its end.
fn unread(error: BoxError) -> Refusal {
    if error.is::<LengthLimitError>() {
        let detail = format!("a body may have {BODY_BYTES_MAX} bytes");
        return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail);
    }
    Refusal::malformed(format!("the body broke off: {error}"))
}

impl Signed {
    /// That it is a change under this key.
    fn is_change(&self, key: &str) -> Result<(), Refusal> {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
            let detail = "the body must be application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::new(status, "media_type", detail));
        }
        if self.key.as_deref() != Some(key) {
            return Err(Refusal::malformed(format!("the idempotency key must be {key}")));
        }
        Ok(())
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| Refusal::malformed(error.to_string()))
    }
}

/// Runs a change of the books, which waits for the disk, apart from the requests.
async fn change<T: Send + 'static>(
    service: Arc<Service>,
    run: impl FnOnce(&Books) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(move || run(&service.books)).await;
    done.unwrap_or_else(|error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Err(Refusal::new(status, "failed", error.to_string()))
    })
}

fn is_for(service: &Service, identity: &str) -> Result<(), Refusal> {
    if service.books.identity == identity {
        return Ok(());
    }
    let detail = format!("this is {}", service.books.identity);
    Err(Refusal::new(StatusCode::CONFLICT, "wrong_service", detail))
}

fn gid(text: &str) -> Result<Gid, Refusal> {
    Gid::parse(text).ok_or_else(|| Refusal::malformed("the path holds no gid"))
}

fn log(text: &str) -> Result<u128, Refusal> {
    parse_log(text).ok_or_else(|| Refusal::malformed("log must have 32 hexadecimal digits"))
}

async fn describe(State(service): App, _: Signed) -> Answer {
    let offered = [("one_phase", service.one_phase), ("batch", service.batches)];
    let capabilities: Vec<_> =
        offered.iter().filter(|(_, yes)| *yes).map(|(name, _)| name).collect();
    Ok(Json(json!({
        "protocol": "presume-participant/1",
        "identity": service.books.identity,
        "outcome_retention_s": OUTCOME_RETENTION_S,
        "capabilities": capabilities,
        "body_bytes_max": BODY_BYTES_MAX,
        "batch_members_max": MEMBERS_MAX,
        "operations": accounts::described(),
    })))
}

#[derive(Deserialize)]
struct ClaimBody {
    log: String,
    epoch: u64,
    process: String,
}

async fn claim(State(service): App, request: Signed) -> Answer {
    let ClaimBody { log: id, epoch, process } = request.json()?;
    request.is_change(&format!("{id}:{epoch}"))?;
    let log = log(&id)?;
    let identity = service.books.identity.clone();
    change(service, move |books| books.claim(log, epoch, process)).await?;
    Ok(Json(json!({"identity": identity, "epoch": epoch})))
}

#[derive(Deserialize)]
struct Page {
    state: String,
    limit: Option<usize>,
    after: Option<String>,
}

async fn list(State(service): App, page: Result<Query<Page>, QueryRejection>, _: Signed) -> Answer {
    let Query(page) = page.map_err(|error| Refusal::malformed(error.body_text()))?;
    let limit = page.limit.unwrap_or(1_000);
    if page.state != "prepared" || !(1..=1_000).contains(&limit) {
        return Err(Refusal::malformed("state must be prepared, limit 1 to 1000"));
    }
    let after = page.after.as_deref().map(gid).transpose()?;
    let (branches, next) = change(service, move |books| books.prepared(after, limit)).await?;
    Ok(Json(json!({"branches": branches, "next": next})))
}

#[derive(Deserialize)]
struct WorkBody {
    service: String,
    epoch: u64,
    operations: Vec<Work>,
}

async fn prepare(app: App, Path(path): Path<String>, request: Signed) -> Answer {
    work(app, path, request, Phases::Two).await
}

async fn commit_one_phase(app: App, Path(path): Path<String>, request: Signed) -> Answer {
    work(app, path, request, Phases::One).await
}

async fn work(State(service): App, path: String, request: Signed, phases: Phases) -> Answer {
    let gid = gid(&path)?;
    request.is_change(&path)?;
    let WorkBody { service: identity, epoch, operations } = request.json()?;
    is_for(&service, &identity)?;
    if !(1..=OPERATIONS_MAX).contains(&operations.len()) {
        return Err(Refusal::malformed(format!("a branch has 1 to {OPERATIONS_MAX} operations")));
    }
    let asked = Asked::Alone(operations);
    let vote = change(service, move |books| books.work(gid, epoch, asked, phases)).await?;
    Ok(Json(json!(vote)))
}

#[derive(Deserialize)]
struct BatchBody {
    service: String,
    epoch: u64,
    drop_declined: bool,
    members: Vec<Vec<Work>>,
}

async fn prepare_batch(State(service): App, Path(path): Path<String>, request: Signed) -> Answer {
    let gid = gid(&path)?;
    request.is_change(&path)?;
    let BatchBody { service: identity, epoch, drop_declined, members } = request.json()?;
    is_for(&service, &identity)?;
    let counts = || members.iter().map(Vec::len);
    if !(1..=MEMBERS_MAX).contains(&members.len())
        || !counts().all(|count| (1..=OPERATIONS_MAX).contains(&count))
    {
        let detail = format!(
            "a batch has 1 to {MEMBERS_MAX} members, each of 1 to {OPERATIONS_MAX} operations"
        );
        return Err(Refusal::malformed(detail));
    }
    let asked = Asked::Batch { members, drop_declined };
    let work = move |books: &Books| books.work(gid, epoch, asked, Phases::Two);
    Ok(Json(json!(change(service, work).await?)))
}

#[derive(Deserialize)]
struct VerdictBody {
    service: String,
    epoch: u64,
}

async fn commit(app: App, Path(path): Path<String>, request: Signed) -> Answer {
    end(app, path, request, Verdict::Commit).await
}

async fn abort(app: App, Path(path): Path<String>, request: Signed) -> Answer {
    end(app, path, request, Verdict::Abort).await
}

async fn inquire(app: App, Path(path): Path<String>, request: Signed) -> Answer {
    end(app, path, request, Verdict::Inquire).await
}

async fn end(State(service): App, path: String, request: Signed, verdict: Verdict) -> Answer {
    let gid = gid(&path)?;
    request.is_change(&path)?;
    let VerdictBody { service: identity, epoch } = request.json()?;
    is_for(&service, &identity)?;
    let state = change(service, move |books| books.verdict(gid, epoch, verdict)).await?;
    Ok(Json(json!({"state": state})))
}

#[derive(Deserialize)]
struct PruneBody {
    service: String,
    log: String,
    epoch: u64,
    physical: u64,
    older_than_s: u64,
}

async fn prune(State(service): App, request: Signed) -> Answer {
    let PruneBody { service: identity, log: id, epoch, physical, older_than_s } = request.json()?;
    request.is_change(&format!("{id}:{epoch}"))?;
    is_for(&service, &identity)?;
    let log = log(&id)?;
    let run = move |books: &Books| books.prune(log, epoch, physical, older_than_s);
    let removed = change(service, run).await?;
    Ok(Json(json!({"removed": removed})))
}

async fn account(State(service): App, Path(account): Path<String>) -> Answer {
    match change(service, move |books| books.account(&account)).await? {
        Some(account) => Ok(Json(json!(account))),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_account", "no such account")),
    }
}
