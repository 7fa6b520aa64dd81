//! The connection to the server: one request whose body and answer are both open.
//!
//! It breaks, and is made again after a pause; what was sent and not answered is then sent again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use presume::server::lines::{Content, Line, Lines};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Lines that are sent together, at most: a few writes to a socket.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest answer to one line.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A server answers a batch before it has read it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// However long a server wants to be left alone, it is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// How things stand with the server.
pub enum Link {
    /// To be connected to, once there is something to send.
    Away { until: Instant },
    /// Waiting for the head of its answer.
    Connecting(Pin<Box<dyn Future<Output = Connected>>>),
    /// Open both ways.
    Open(Box<Connection>),
}

pub type Connected = anyhow::Result<Result<Box<Connection>, Unready>>;

/// The server cannot be reached, or takes no batches now.
#[derive(Debug)]
pub struct Unready {
    pub reason: String,
    /// How long it asked to be left alone.
    pub retry_after: Duration,
}

impl From<String> for Unready {
    fn from(reason: String) -> Self {
        Self { reason, retry_after: Duration::ZERO }
    }
}

/// What happens at a link.
pub enum Event {
    /// It is time to connect.
    Due,
    /// The server's head is here.
    Connected(Connected),
    /// More can be sent.
    Room,
    /// Lines of answers; nothing if it is over.
    Answers(anyhow::Result<Vec<Line>>),
}

impl Link {
    /// Waits for what happens next. Dropping the future loses nothing.
    pub async fn next(&mut self, sending: bool) -> Event {
        match self {
            Self::Away { until } => {
                if !sending {
                    return std::future::pending().await;
                }
                sleep_until(*until).await;
                Event::Due
            }
            Self::Connecting(connecting) => Event::Connected(connecting.await),
            Self::Open(connection) => connection.next(sending).await,
        }
    }
}

/// One open request.
pub struct Connection {
    body: mpsc::Sender<Bytes>,
    answers: reqwest::Response,
    lines: Lines,
    /// Lines sent so far.
    count: u64,
    /// What was sent and not answered, by its index there.
    sent: HashMap<u64, u64>,
}

impl Connection {
    /// Opens a request; the error is for good, such as a path that is not known there.
    pub fn open(client: &reqwest::Client, url: String) -> Pin<Box<dyn Future<Output = Connected>>> {
        let (body, mut chunks) = mpsc::channel::<Bytes>(1);
        let frames = stream::poll_fn(move |context| {
            chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| anyhow::Ok(Frame::data(chunk))))
        });
        let request = client.post(&url).header(CONTENT_TYPE, "application/x-ndjson");
        let request = request.body(reqwest::Body::wrap(StreamBody::new(frames)));
        Box::pin(async move {
            let answers = match timeout(HEAD_TIMEOUT, request.send()).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) if error.is_builder() => {
                    return Err(error).with_context(|| format!("{url} is no address of a server"));
                }
                Ok(Err(error)) => return Ok(Err(describe(&error).into())),
                Err(_) => {
                    let seconds = HEAD_TIMEOUT.as_secs();
                    return Ok(Err(format!("{url} says nothing for {seconds} s").into()));
                }
            };
            let status = answers.status();
            if status.is_success() {
                let lines = Lines::new(ANSWER_BYTES_MAX);
                let sent = HashMap::new();
                return Ok(Ok(Box::new(Self { body, answers, lines, count: 0, sent })));
            }
            let retry_after = retry_after(&answers);
            let text = answers.bytes().await.unwrap_or_default();
            let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("no detail given");
            let reason = format!("the server answers {status}: {detail}");
            // Too much to do, starting, stopping, or something before it that cannot reach it.
            if status.as_u16() == 429 || status.is_server_error() {
                return Ok(Err(Unready { reason, retry_after }));
            }
            Err(anyhow::Error::msg(reason))
        })
    }

    async fn next(&mut self, sending: bool) -> Event {
        let chunk = tokio::select! {
            biased;
            chunk = self.answers.chunk() => chunk,
            Ok(_) = self.body.reserve(), if sending => return Event::Room,
        };
        Event::Answers(self.take(chunk))
    }

    fn take(&mut self, chunk: reqwest::Result<Option<Bytes>>) -> anyhow::Result<Vec<Line>> {
        let Some(chunk) = chunk.map_err(|error| anyhow::Error::msg(describe(&error)))? else {
            anyhow::bail!("the server has ended the answer");
        };
        self.lines.push(chunk);
        Ok(std::iter::from_fn(|| self.lines.next_ended()).collect())
    }

    /// Sends as many of `jobs`, numbers with texts, as go together; room must have been told of.
    pub fn send<'a>(&mut self, jobs: impl Iterator<Item = (u64, &'a Bytes)>) -> usize {
        let mut chunk = BytesMut::new();
        let mut count = 0;
        for (number, text) in jobs {
            chunk.extend_from_slice(text);
            chunk.extend_from_slice(b"\n");
            self.sent.insert(self.count, number);
            self.count += 1;
            count += 1;
            if chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
        // Where the other end has gone, the answers say so.
        let _ = self.body.try_send(chunk.freeze());
        count
    }

    /// The number of the job that an answer is for.
    pub fn answered(&mut self, index: u64) -> Option<u64> {
        self.sent.remove(&index)
    }

    /// What was sent and not answered.
    pub fn unanswered(self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.sent.into_values().collect();
        numbers.sort_unstable();
        numbers
    }
}

/// How long the server asks to be left alone; dates are not understood.
fn retry_after(answers: &reqwest::Response) -> Duration {
    let value = answers.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = value.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds).min(RETRY_AFTER_MAX)
}

/// An error with its causes: reqwest's own text says only what was tried.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The text of an answer that is one.
pub fn text(line: &Line) -> anyhow::Result<&str> {
    match &line.content {
        Content::Whole(text) => Ok(std::str::from_utf8(text)?),
        Content::TooLong(bytes) => anyhow::bail!("an answer has {bytes} bytes"),
    }
}
