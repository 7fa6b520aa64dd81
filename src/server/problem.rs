//! Errors as RFC 9457 problem documents: a stable type, and the value and limit in the detail.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::coordinator::SubmitError;
use crate::txn::TxnId;

use super::request::RequestError;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $status:ident, $slug:literal, $title:literal;)+) => {
        /// What went wrong, from a fixed catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name),+ }

        impl Kind {
            /// Every kind, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The HTTP status that carries it.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),+ }
            }

            /// The last part of its type URN; also the `code` label of metrics.
            pub fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug),+ }
            }

            /// One phrase for a person.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),+ }
            }
        }
    };
}

kinds! {
    /// Not JSON, or a broken header.
    Malformed => BAD_REQUEST, "malformed", "The request cannot be read";
    /// A field holds what it must not.
    Invalid => UNPROCESSABLE_ENTITY, "invalid", "The request is not valid";
    /// The configuration has no such participant.
    UnknownParticipant => UNPROCESSABLE_ENTITY, "unknown-participant",
        "No such participant is configured";
    /// A participant refuses the operation as named.
    BadOperation => UNPROCESSABLE_ENTITY, "bad-operation", "A participant refuses the operation";
    /// The idempotency key belongs to another request.
    KeyReused => UNPROCESSABLE_ENTITY, "key-reused", "The key was used for another request";
    /// The same transaction is running.
    InFlight => CONFLICT, "in-flight", "The transaction is in flight";
    /// There is nothing to be resolved there.
    NotInDoubt => CONFLICT, "not-in-doubt", "The transaction is not in doubt there";
    /// Nothing is known by that name.
    NotFound => NOT_FOUND, "not-found", "Not found";
    /// The path has other methods.
    MethodNotAllowed => METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here";
    /// The body is of a type that is not taken there.
    UnsupportedMediaType => UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type",
        "The body's type is not taken";
    /// The body is over the limit.
    TooLarge => PAYLOAD_TOO_LARGE, "too-large", "The body is too large";
    /// The body did not arrive in time.
    BodyTimeout => REQUEST_TIMEOUT, "body-timeout", "The body did not arrive in time";
    /// Too much is running.
    Overloaded => TOO_MANY_REQUESTS, "overloaded", "Too much is in flight";
    /// The server starts or stops, or its log failed before anything was started.
    Unavailable => SERVICE_UNAVAILABLE, "unavailable", "The server takes no transactions now";
    /// A participant is away or drained; nothing was started.
    ParticipantAway => SERVICE_UNAVAILABLE, "participant-away",
        "A participant takes no transactions now";
    /// The log failed: what became of the transaction is known after a restart.
    OutcomeUnknown => SERVICE_UNAVAILABLE, "outcome-unknown", "The outcome is not known yet";
    /// Our own failure.
    Internal => INTERNAL_SERVER_ERROR, "internal", "The server failed";
}

/// One refusal, on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong.
    pub kind: Kind,
    /// The value and the limit.
    pub detail: String,
    /// The field, if one is to blame.
    pub field: Option<String>,
    /// Line and column of malformed JSON.
    pub position: Option<(usize, usize)>,
    /// The transaction that the client can ask for later.
    pub transaction: Option<TxnId>,
}

/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: &str = "1";

impl Problem {
    /// A problem with its detail.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail, field: None, position: None, transaction: None }
    }

    fn at(kind: Kind, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(kind, detail) }
    }

    fn about(kind: Kind, id: TxnId, detail: impl Into<String>) -> Self {
        Self { transaction: Some(id), ..Self::new(kind, detail) }
    }

    /// Whether the same request may succeed later as it is.
    fn retryable(&self) -> bool {
        matches!(
            self.kind,
            Kind::Overloaded
                | Kind::Unavailable
                | Kind::ParticipantAway
                | Kind::OutcomeUnknown
                | Kind::InFlight
        )
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Malformed(error) => {
                let position = Some((error.line, error.column));
                Self { position, ..Self::new(Kind::Malformed, error.to_string()) }
            }
            RequestError::Invalid(invalid) => {
                let detail = invalid.to_string();
                Self::at(Kind::Invalid, invalid.field, detail)
            }
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::KeyReused { .. } => Self::at(Kind::KeyReused, "id", detail),
            SubmitError::InFlight { id } => Self::about(Kind::InFlight, id, detail),
            SubmitError::UnknownParticipant { .. } => {
                Self::at(Kind::UnknownParticipant, "operations", detail)
            }
            SubmitError::BadOperation { .. } => Self::at(Kind::BadOperation, "operations", detail),
            SubmitError::Overloaded { .. } => Self::new(Kind::Overloaded, detail),
            SubmitError::ParticipantAway { .. } => {
                Self::at(Kind::ParticipantAway, "operations", detail)
            }
            SubmitError::ShuttingDown => Self::new(Kind::Unavailable, detail),
            SubmitError::Unavailable { id, .. } => Self::about(Kind::OutcomeUnknown, id, detail),
        }
    }
}

/// A problem as it is written.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a TxnId>,
}

impl Problem {
    /// The document as JSON text.
    pub fn body(&self) -> String {
        serde_json::to_string(&self.document()).expect("texts and numbers always serialise")
    }

    pub(super) fn document(&self) -> Document<'_> {
        Document {
            r#type: format!("urn:presume:problem:{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            field: self.field.as_deref(),
            line: self.position.map(|at| at.0),
            column: self.position.map(|at| at.1),
            id: self.transaction.as_ref(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), self.body()).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert(PROBLEM, HeaderValue::from_static(self.kind.slug()));
        if self.retryable() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if let Some(id) = &self.transaction {
            headers.insert(header::LOCATION, location(id));
        }
        response
    }
}

/// Repeats the type's last part, for proxies' logs and for our own counter of refusals.
pub const PROBLEM: HeaderName = HeaderName::from_static("presume-problem");

/// Where a transaction is asked for, percent-encoded.
pub fn location(id: &TxnId) -> HeaderValue {
    let path = format!("/v1/transactions/{}", encode(id.as_str()));
    HeaderValue::from_str(&path).expect("percent-encoded text is ASCII")
}

/// Percent-encodes everything but unreserved characters (RFC 3986), so that any id fits a path.
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes every write");
        }
        out
    })
}
