//! What operators ask of transactions that hang: list, ask again at once, end by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query as UrlQuery, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::coordinator::{Query, ResolveError, RetryScope, Statement, Wanted};
use crate::txn::{Claim, ParticipantName, TxnId};

use super::api::{App, check_content_type, read_body};
use super::fields::{Object, Place, parsed, text};
use super::json::Json as Tree;
use super::problem::{Kind, Problem};
use super::request::RequestError;

/// Transactions listed unless something else is asked for.
const LIMIT_DEFAULT: usize = 100;
/// Most transactions in one list.
const LIMIT_MAX: usize = 1_000;
/// Longest age that can be asked for, in seconds: ten years.
const OLDER_THAN_S_MAX: f64 = 315_360_000.0;

type Shared = State<Arc<App>>;
type Parameters = Result<UrlQuery<BTreeMap<String, String>>, QueryRejection>;

/// `GET /v1/transactions?state=…&older_than_s=…&limit=…`
pub(super) async fn list(State(app): Shared, parameters: Parameters) -> Result<Response, Problem> {
    let UrlQuery(parameters) =
        parameters.map_err(|error| Problem::new(Kind::Malformed, error.body_text()))?;
    let query = query(&parameters)?;
    Ok(Json(app.service.backend.unresolved(&query)).into_response())
}

fn query(parameters: &BTreeMap<String, String>) -> Result<Query, Problem> {
    let mut query =
        Query { state: Wanted::Unresolved, older_than: Duration::ZERO, limit: LIMIT_DEFAULT };
    let invalid = |field: &str, detail: String| Problem {
        field: Some(field.to_owned()),
        ..Problem::new(Kind::Invalid, format!("{field} {detail}"))
    };
    if let Some(state) = parameters.get("state") {
        query.state = state.parse().map_err(|error| invalid("state", format!("{error}")))?;
        query.older_than = query.state.older_than();
    }
    for (name, value) in parameters {
        match name.as_str() {
            "state" => {}
            "older_than_s" => {
                let seconds = value.parse().ok().filter(|s| (0.0..=OLDER_THAN_S_MAX).contains(s));
                let seconds: f64 = seconds.ok_or_else(|| {
                    invalid(name, format!("is {value:?}, it must be 0 to {OLDER_THAN_S_MAX}"))
                })?;
                query.older_than = Duration::from_secs_f64(seconds);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n));
                query.limit = limit.ok_or_else(|| {
                    invalid(name, format!("is {value:?}, it must be 1 to {LIMIT_MAX}"))
                })?;
            }
            _ => {
                let detail = "is not known; known are state, older_than_s, limit".to_owned();
                return Err(invalid(name, detail));
            }
        }
    }
    Ok(query)
}

/// `POST /v1/transactions:retry-now`, for all or for one participant.
pub(super) async fn retry_many(State(app): Shared, request: Request) -> Result<Response, Problem> {
    let body = read(&app, request).await?;
    let place = Place::Root;
    let fields = Object::new(&place, body, &["participant"]).map_err(RequestError::from);
    let name = fields?.optional("participant", parsed::<ParticipantName>);
    let scope = match name.map_err(RequestError::from)? {
        Some(name) => RetryScope::Participant(name),
        None => RetryScope::All,
    };
    retry(&app, &scope)
}

/// `POST /v1/transactions/{id}:retry-now` and `…:resolve`.
pub(super) async fn verb(
    State(app): Shared,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let unknown = |detail: String| Problem::new(Kind::NotFound, detail);
    let Some((id, verb)) = path.rsplit_once(':') else {
        return Err(unknown(format!("{path:?} is not ID:retry-now or ID:resolve")));
    };
    let id = TxnId::new(id).map_err(|error| unknown(error.to_string()))?;
    match verb {
        "retry-now" => {
            let body = read(&app, request).await?;
            Object::new(&Place::Root, body, &[]).map_err(RequestError::from)?;
            retry(&app, &RetryScope::Transaction(id))
        }
        "resolve" => {
            let body = read(&app, request).await?;
            let (participant, statement) = statement(body)?;
            let resolution = app.service.backend.resolve(&id, &participant, statement).await?;
            let unresolved = app.service.backend.unresolved_one(&id);
            let body = json!({"id": id, "resolution": resolution, "unresolved": unresolved});
            Ok(Json(body).into_response())
        }
        _ => Err(unknown(format!("{verb:?} is not retry-now or resolve"))),
    }
}

fn statement(body: Tree) -> Result<(ParticipantName, Statement), Problem> {
    let place = Place::Root;
    let fields = Object::new(&place, body, &["branch", "as", "reason", "by"]);
    let mut fields = fields.map_err(RequestError::from)?;
    let mut read = || {
        let participant: ParticipantName = fields.required("branch", parsed)?;
        let claim: Claim = fields.required("as", parsed)?;
        let reason = fields.required("reason", text)?;
        Ok((participant, claim, reason, fields.required("by", text)?))
    };
    let (participant, claim, reason, by) = read().map_err(RequestError::Invalid)?;
    Ok((participant, Statement::new(claim, &by, &reason)?))
}

fn retry(app: &App, scope: &RetryScope) -> Result<Response, Problem> {
    let woken = app.service.backend.retry_now(scope);
    let woken = woken.ok_or_else(|| {
        let detail = match scope {
            RetryScope::Transaction(id) => format!("transaction {id} is not unresolved here"),
            RetryScope::Participant(name) => format!("no participant {name:?} is configured"),
            RetryScope::All => "nothing is unresolved".to_owned(),
        };
        Problem::new(Kind::NotFound, detail)
    })?;
    Ok(Json(json!({"woken": woken})).into_response())
}

async fn read(app: &App, request: Request) -> Result<Tree, Problem> {
    let (head, body) = request.into_parts();
    check_content_type(&head.headers)?;
    let body = read_body(app, &head.headers, body, app.options.body_bytes_max).await?;
    Ok(Tree::parse(&body).map_err(RequestError::from)?)
}

/// Adds what is known of an unresolved or forcibly ended transaction to an answer about it.
pub(super) fn with_details(app: &App, id: &TxnId, mut body: Value) -> Value {
    if let Some(unresolved) = app.service.backend.unresolved_one(id) {
        body["unresolved"] = json!(unresolved);
    }
    let resolutions = app.service.backend.resolutions(id);
    if !resolutions.is_empty() {
        body["resolutions"] = json!(resolutions);
    }
    body
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        let detail = error.to_string();
        let invalid = |field: &str| Self {
            field: Some(field.to_owned()),
            ..Self::new(Kind::Invalid, detail.clone())
        };
        match error {
            ResolveError::Text { field, .. } => invalid(field),
            ResolveError::NoBranch { .. } => invalid("branch"),
            ResolveError::Unfitting { .. } => invalid("as"),
            ResolveError::Unknown { .. } => Self::new(Kind::NotFound, detail),
            ResolveError::NotInDoubt { .. } => Self::new(Kind::NotInDoubt, detail),
            ResolveError::LogFailed { .. } => Self::new(Kind::OutcomeUnknown, detail),
        }
    }
}
