//! Stands between a coordinator and a service: loses requests and replies, and lies.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use presume::participants::http::sign;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::wallet_server::SECRET;

/// A request as it came, and how it is sent on.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: hyper::Method,
    /// With its query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What becomes of a request.
pub enum Act {
    /// It is sent on as it is.
    Pass,
    /// The connection is cut: the service never hears of it.
    CutBefore,
    /// The service carries it out, and the connection is cut before its reply.
    CutAfter,
    /// It is answered in the service's place.
    Answer(u16, Value),
    /// It is sent to another service, by its URL.
    Elsewhere(String),
    /// This is sent instead, newly signed.
    Instead(Call),
    /// This is sent, too, newly signed.
    Also(Call),
}

/// What a middleman does.
pub trait Script: Send + Sync + 'static {
    fn act(&self, call: &Call) -> Act;

    /// What becomes of a reply.
    fn reply(&self, _call: &Call, status: u16, body: Value) -> (u16, Value) {
        (status, body)
    }
}

impl Call {
    /// The verb at the end of a branch's path, such as `commit`.
    pub fn verb(&self) -> &str {
        let branch = self.path.strip_prefix("/v1/branches/");
        branch.and_then(|rest| rest.split_once('/')).map_or("", |(_, verb)| verb)
    }

    /// The branch in the path.
    pub fn gid(&self) -> &str {
        let branch = self.path.strip_prefix("/v1/branches/");
        branch.and_then(|rest| rest.split_once('/')).map_or("", |(gid, _)| gid)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The same for another path, under the key that belongs to it.
    pub fn to(&self, path: String) -> Self {
        let mut other = Self { path, ..self.clone() };
        let key = other.gid().to_owned();
        if !key.is_empty() {
            other.headers.insert("idempotency-key", key.parse().unwrap());
        }
        other
    }

    fn signed(mut self) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = i64::try_from(since.unwrap().as_secs()).unwrap();
        let signature = sign(SECRET.as_bytes(), self.method.as_str(), &self.path, now, &self.body);
        self.headers.insert("presume-timestamp", now.to_string().parse().unwrap());
        self.headers.insert("presume-signature", signature.parse().unwrap());
        self
    }
}

/// Listens for as long as the test's runtime runs; answers its URL.
pub async fn between(service: String, script: impl Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let script: Arc<dyn Script> = Arc::new(script);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (service, script, client) = (service.clone(), script.clone(), client.clone());
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    carry(request, service.clone(), script.clone(), client.clone())
                });
                let io = TokioIo::new(stream);
                // An error is what cuts a connection.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
            });
        }
    });
    url
}

/// Cuts the connection.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

async fn carry(
    request: hyper::Request<Incoming>,
    service: String,
    script: Arc<dyn Script>,
    client: reqwest::Client,
) -> Result<hyper::Response<Full<Bytes>>, Cut> {
    let (head, body) = request.into_parts();
    let mut headers = HeaderMap::new();
    for name in ["content-type", "idempotency-key", "presume-timestamp", "presume-signature"] {
        if let Some(value) = head.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let call = Call { method: head.method, path, headers, body };
    let send_to = async |service: &str, call: &Call| -> Result<(u16, Value), Cut> {
        let request = client
            .request(call.method.clone(), format!("{service}{}", call.path))
            .headers(call.headers.clone())
            .body(call.body.clone());
        let answer = request.send().await.map_err(|_| Cut)?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or_default()))
    };
    let send = async |call: &Call| send_to(&service, call).await;
    let (status, body) = match script.act(&call) {
        Act::Elsewhere(other) => send_to(&other, &call).await?,
        Act::Pass => send(&call).await?,
        Act::CutBefore => return Err(Cut),
        Act::CutAfter => {
            send(&call).await?;
            return Err(Cut);
        }
        Act::Answer(status, body) => (status, body),
        Act::Instead(other) => send(&other.signed()).await?,
        Act::Also(other) => {
            let answer = send(&call).await?;
            send(&other.signed()).await?;
            answer
        }
    };
    let (status, body) = script.reply(&call, status, body);
    let answer =
        hyper::Response::builder().status(status).header("content-type", "application/json");
    Ok(answer.body(Full::new(Bytes::from(body.to_string()))).unwrap())
}

/// A script that is one function.
impl<F: Fn(&Call) -> Act + Send + Sync + 'static> Script for F {
    fn act(&self, call: &Call) -> Act {
        self(call)
    }
}
