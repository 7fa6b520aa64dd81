//! A batch as lines: read as they come, answered as they end, in bounded memory.
//!
//! One task reads, submits and writes. It reads on only while there is room to submit and while
//! its answers are taken, so a client that reads nothing is read from no more.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, interval};

use super::member::{Member, Reply, too_long};
use super::{Members, Permits, stopped};
use crate::server::api::App;
use crate::server::lines::{Content, Line, Lines};
use crate::server::listener::Cutter;
use crate::server::problem::{Kind, Problem};

/// Answers that may wait to be sent before no further line is read: a few hundred.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// How often timeouts are looked at, at most: none of them is short.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

type Chunk = Result<Bytes, BrokenOff>;

/// Ends the answer so that the client sees that it is not whole.
#[derive(Debug, thiserror::Error)]
#[error("the request broke off")]
struct BrokenOff;

/// Begins to answer; a task goes on.
pub(super) fn answer(app: Arc<App>, permits: Permits, body: Body, cutter: Cutter) -> Response {
    // One place for answers, and one that is kept for the last word.
    let (sender, receiver) = mpsc::channel::<Chunk>(2);
    let last = sender.clone().try_reserve_owned().expect("it is empty");
    let batch = Batch {
        input: Input {
            body: body.into_data_stream(),
            lines: Lines::new(app.options.body_bytes_max),
            ended: false,
        },
        members: Members::new(Arc::clone(&app)),
        app,
        index: 0,
        waiting: Vec::new(),
        cutter,
    };
    tokio::spawn(async move {
        batch.run(sender, last).await;
        drop(permits);
    });
    let chunks = stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(chunks)).into_response()
}

struct Batch {
    app: Arc<App>,
    input: Input,
    members: Members,
    /// Of the next member.
    index: u64,
    /// Answers that are not sent yet.
    waiting: Vec<u8>,
    cutter: Cutter,
}

impl Batch {
    async fn run(mut self, sender: mpsc::Sender<Chunk>, last: mpsc::OwnedPermit<Chunk>) {
        let app = Arc::clone(&self.app);
        let line_max = app.options.body_timeout;
        let taking_max = app.options.request_timeout;
        let mut look = interval(LOOK_INTERVAL.min(line_max).min(taking_max));
        let (mut moved_at, mut waiting_since) = (Instant::now(), Instant::now());
        let mut line = None;
        // Why it ends before its end.
        let mut early: Option<Result<Problem, BrokenOff>> = None;
        let acquiring = Arc::clone(&app.members).acquire_owned();
        tokio::pin!(acquiring);
        loop {
            let open = early.is_none() && !self.input.ended;
            if !open && line.is_none() && self.members.is_empty() && self.waiting.is_empty() {
                break;
            }
            let reading = open && line.is_none() && self.waiting.len() < WAITING_BYTES_MAX;
            tokio::select! {
                biased;
                // Answers that are there are gathered first, so that they travel together.
                Some(done) = self.members.next() => {
                    // Whoever waits for an answer may say nothing meanwhile.
                    moved_at = Instant::now();
                    if self.waiting.is_empty() {
                        waiting_since = moved_at;
                    }
                    self.tell(done.index, &done.reply);
                }
                () = sender.closed() => return,
                Ok(place) = sender.reserve(), if !self.waiting.is_empty() => {
                    place.send(Ok(std::mem::take(&mut self.waiting).into()));
                }
                permit = &mut acquiring, if line.is_some() => {
                    acquiring.set(Arc::clone(&app.members).acquire_owned());
                    let permit = permit.expect("the semaphore is never closed");
                    moved_at = Instant::now();
                    self.begin(line.take().expect("it was seen"), permit);
                }
                read = self.input.next(), if reading => match read {
                    Ok(read) => line = read,
                    Err(broken) => early = Some(Err(broken)),
                },
                _ = look.tick() => {
                    if !self.waiting.is_empty() && waiting_since.elapsed() >= taking_max {
                        self.cutter.cut();
                        return;
                    }
                    if reading && self.members.is_empty() && moved_at.elapsed() >= line_max {
                        let detail = format!("no line ended within {} ms", line_max.as_millis());
                        early = Some(Ok(Problem::new(Kind::BodyTimeout, detail)));
                    }
                }
            }
            if open && early.is_none() {
                early = stopped(&app).map(Ok);
            }
            if early.is_some() {
                line = None;
            }
        }
        match early {
            Some(Ok(problem)) => {
                app.metrics.refused(problem.kind.slug());
                self.tell(self.index, &Reply::Problem(None, problem));
                last.send(Ok(self.waiting.into()));
            }
            Some(Err(broken)) => drop(last.send(Err(broken))),
            None => {}
        }
    }

    fn begin(&mut self, line: Line, permit: OwnedSemaphorePermit) {
        let number = usize::try_from(line.number).unwrap_or(usize::MAX);
        let member = match line.content {
            Content::Whole(bytes) => {
                let locate = |_, column| (number, column);
                Member::read(&self.app, self.index, bytes, locate)
            }
            Content::TooLong(bytes) => {
                let limit = self.app.options.body_bytes_max;
                Err(too_long(bytes, limit, number, limit + 1))
            }
        };
        self.members.begin(self.index, member, permit);
        self.index += 1;
    }

    fn tell(&mut self, index: u64, reply: &Reply) {
        self.waiting.extend_from_slice(&reply.json(Some(index)));
        self.waiting.push(b'\n');
    }
}

/// The lines of a body.
struct Input {
    body: BodyDataStream,
    lines: Lines,
    ended: bool,
}

impl Input {
    /// The next line; `None` at the end. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Option<Line>, BrokenOff> {
        loop {
            if let Some(line) = self.lines.next_ended() {
                return Ok(Some(line));
            }
            match self.body.next().await {
                Some(Ok(chunk)) => self.lines.push(chunk),
                // A line that broke off is none.
                Some(Err(_)) => return Err(BrokenOff),
                None => {
                    self.ended = true;
                    return Ok(self.lines.last());
                }
            }
        }
    }
}
