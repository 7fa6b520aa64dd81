//! Requests on their way: connections, TLS, signatures, limits.
//!
//! A request is sent once. Only what certainly did not leave is said to be not sent.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Options, SECRET_BYTES_MIN, sign};
use crate::participants::{ConfigurationError, tls};
use crate::txn::{Epoch, Gid, LogId};

/// The largest answer that is read, in bytes: a batch of the most members in which all decline.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long a connection is kept without work: less than services and proxies usually do, so that
/// it is seldom theirs to close just when a request is sent.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// The requests there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Service,
    Claim,
    Prepare,
    PrepareBatch,
    CommitOnePhase,
    Commit,
    Abort,
    Inquire,
    List,
    Prune,
}

impl Endpoint {
    /// Its method and its path as the OpenAPI document has it.
    pub(super) fn form(self) -> (Method, &'static str) {
        match self {
            Self::Service => (Method::GET, "/v1/service"),
            Self::Claim => (Method::POST, "/v1/claims"),
            Self::Prepare => (Method::POST, "/v1/branches/{gid}/prepare"),
            Self::PrepareBatch => (Method::POST, "/v1/branches/{gid}/prepare-batch"),
            Self::CommitOnePhase => (Method::POST, "/v1/branches/{gid}/commit-one-phase"),
            Self::Commit => (Method::POST, "/v1/branches/{gid}/commit"),
            Self::Abort => (Method::POST, "/v1/branches/{gid}/abort"),
            Self::Inquire => (Method::POST, "/v1/branches/{gid}/inquire"),
            Self::List => (Method::GET, "/v1/branches"),
            Self::Prune => (Method::POST, "/v1/prunes"),
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Below the base, with its query.
    pub(super) path: String,
    /// The idempotency key; reads have none.
    pub(super) key: Option<String>,
    pub(super) body: Vec<u8>,
    pub(super) signing: Signing,
}

/// How a request is signed: the conformance check sends others, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signing {
    /// As it must be.
    Right,
    /// Not at all.
    None,
    /// With another secret.
    Wrong,
    /// As if it were so many seconds later.
    Later(i64),
}

impl Request {
    fn new(endpoint: Endpoint, path: String, key: Option<String>, body: Vec<u8>) -> Self {
        Self { method: endpoint.form().0, path, key, body, signing: Signing::Right }
    }

    pub(super) fn service() -> Self {
        let endpoint = Endpoint::Service;
        Self::new(endpoint, endpoint.form().1.to_owned(), None, Vec::new())
    }

    pub(super) fn branch(endpoint: Endpoint, gid: Gid, body: Vec<u8>) -> Self {
        let gid = gid.to_string();
        Self::new(endpoint, endpoint.form().1.replace("{gid}", &gid), Some(gid), body)
    }

    /// A claim or a prune.
    pub(super) fn of_log(endpoint: Endpoint, log: LogId, epoch: Epoch, body: Vec<u8>) -> Self {
        let key = format!("{log}:{}", epoch.0);
        Self::new(endpoint, endpoint.form().1.to_owned(), Some(key), body)
    }

    pub(super) fn list(after: Option<&str>, limit: usize) -> Self {
        let endpoint = Endpoint::List;
        let mut path = format!("{}?state=prepared&limit={limit}", endpoint.form().1);
        if let Some(after) = after {
            path.push_str("&after=");
            for byte in after.bytes() {
                match byte {
                    b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                        path.push(char::from(byte));
                    }
                    _ => write!(path, "%{byte:02X}").expect("a String takes every write"),
                }
            }
        }
        Self::new(endpoint, path, None, Vec::new())
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The request certainly did not leave.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

impl Trouble {
    pub(super) fn detail(self) -> String {
        match self {
            Self::NotSent(detail) | Self::Lost(detail) => detail,
        }
    }
}

/// Who waits for whom: work never takes the last connections, so that decisions go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Work,
    Settle,
}

/// The way to one service.
pub(super) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Scheme and authority.
    origin: String,
    /// The path of the base, without a slash at its end.
    base: String,
    secret: Option<Arc<[u8]>>,
    horizon: Duration,
    places: Semaphore,
    work_places: Semaphore,
}

impl Wire {
    pub(super) fn new(options: &Options) -> Result<Self, ConfigurationError> {
        let (origin, base) = checked(options)?;
        let max = options.connections_max;
        if max < 2 {
            let detail = format!("{max}, at least 2 are needed");
            return Err(ConfigurationError::Connections { detail });
        }
        let refused = |detail| ConfigurationError::Tls { detail };
        let trusted = if origin.starts_with("https:") {
            tls::certificates(options.tls_ca.as_deref()).map_err(refused)?
        } else {
            Vec::new()
        };
        let tls = tls::client_config(trusted).map_err(refused)?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        connector.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(max)
            .build(connector);
        let reserve = (max / 8).max(1);
        Ok(Self {
            client,
            origin,
            base,
            secret: options.secret.as_ref().map(|secret| secret.as_bytes().into()),
            horizon: options.listening_horizon,
            places: Semaphore::new(max),
            work_places: Semaphore::new(max - reserve),
        })
    }

    /// Whether requests are signed.
    pub(super) fn signs(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether answers can be relied on, in words: TLS, or this machine.
    pub(super) fn transport(&self) -> String {
        let scheme = self.origin.split(':').next().unwrap_or_default();
        format!("{scheme}, requests {}", if self.signs() { "signed" } else { "not signed" })
    }

    /// Sends a request when a connection is free, within the horizon.
    pub(super) async fn call(&self, lane: Lane, request: Request) -> Result<Reply, Trouble> {
        let places = async {
            let work = match lane {
                Lane::Work => Some(self.work_places.acquire().await),
                Lane::Settle => None,
            };
            (work, self.places.acquire().await)
        };
        let horizon = self.horizon;
        let Ok(_places) = timeout(horizon, places).await else {
            return Err(Trouble::NotSent(format!("no connection became free within {horizon:?}")));
        };
        timeout(horizon, self.send(request)).await.unwrap_or_else(|_| {
            Err(Trouble::Lost(format!("the service did not answer within {horizon:?}")))
        })
    }

    async fn send(&self, request: Request) -> Result<Reply, Trouble> {
        let path = format!("{}{}", self.base, request.path);
        let mut head = hyper::Request::builder()
            .method(&request.method)
            .uri(format!("{}{path}", self.origin))
            .header(ACCEPT, "application/json");
        if request.method == Method::POST {
            head = head.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &request.key {
            head = head.header("idempotency-key", key);
        }
        if let Some((timestamp, signature)) = self.signature(&request, &path) {
            head = head.header("presume-timestamp", timestamp);
            head = head.header("presume-signature", signature);
        }
        let built = head.body(Full::new(Bytes::from(request.body)));
        let built = built.map_err(|error| Trouble::NotSent(error.to_string()))?;
        let answer = self.client.request(built).await.map_err(|error| {
            let detail = text(&error);
            // TLS included: nothing of the request leaves before.
            if error.is_connect() { Trouble::NotSent(detail) } else { Trouble::Lost(detail) }
        })?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        match body {
            Ok(body) => Ok(Reply { status, body: body.to_bytes() }),
            Err(error) => {
                Err(Trouble::Lost(format!("its answer ({status}) broke off: {}", text(&*error))))
            }
        }
    }

    fn signature(&self, request: &Request, path: &str) -> Option<(i64, String)> {
        let later = match request.signing {
            Signing::None => return None,
            Signing::Later(seconds) => seconds,
            Signing::Right | Signing::Wrong => 0,
        };
        let secret = self.secret.as_deref()?;
        let other = [secret, b"?"].concat();
        let secret = if request.signing == Signing::Wrong { &other } else { secret };
        let timestamp = now_s() + later;
        Some((timestamp, sign(secret, request.method.as_str(), path, timestamp, &request.body)))
    }
}

/// Origin and base path of a URL that may be used as it is.
fn checked(options: &Options) -> Result<(String, String), ConfigurationError> {
    let refused = |detail: &str| ConfigurationError::Url { detail: detail.to_owned() };
    let uri: Uri = options.url.parse().map_err(|_| refused("it is not a URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refused("it must be https://HOST:PORT/BASE"));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(refused("it must begin with https:// or http://"));
    }
    if authority.as_str().contains('@') {
        return Err(refused("it holds a user or password; services know us by the `secret`"));
    }
    if uri.query().is_some() || options.url.contains('#') {
        return Err(refused("it must end with the path of the base"));
    }
    let allowed = |name: &str| options.allow_unsafe.iter().any(|allowed| allowed == name);
    let here = tls::is_this_machine(authority.host());
    let asked = Some(scheme == "https");
    tls::wanted(asked, options.tls_ca.as_deref(), here).map_err(|detail| refused(&detail))?;
    if scheme == "http" && !here && !allowed("plain_http") {
        return Err(refused(
            "http is for this machine: answers travel unprotected; use https, or accept it with \
             allow_unsafe = [\"plain_http\"]",
        ));
    }
    match &options.secret {
        None if !here && !allowed("unsigned") => Err(ConfigurationError::Secret {
            detail: "is needed beyond this machine: requests would not be signed; set it, or \
                     accept that with allow_unsafe = [\"unsigned\"]"
                .to_owned(),
        }),
        Some(secret) if secret.len() < SECRET_BYTES_MIN => Err(ConfigurationError::Secret {
            detail: format!("has {} bytes, at least {SECRET_BYTES_MIN}", secret.len()),
        }),
        _ => {
            let base = uri.path().trim_end_matches('/').to_owned();
            Ok((format!("{scheme}://{authority}"), base))
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "dates signatures; decisions never look at it")]
fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// An error with its causes, in one line.
fn text(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(why) = tls::explain(error) {
        return why;
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            write!(text, ": {cause_text}").expect("a String takes every write");
        }
        source = cause.source();
    }
    text
}
