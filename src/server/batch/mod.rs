//! `POST /v1/transactions:batch`: many transactions in one request, each answered for itself.
//!
//! A batch is no transaction: its members share nothing but the connection, run side by side in no
//! order, and each has its own outcome. What one gets is what `POST /v1/transactions` would have
//! answered, or why not:
//!
//! ```json
//! {"index": 3, "id": "7f3c", "status": 422, "problem": {"type": "urn:presume:problem:invalid", …}}
//! ```
//!
//! `index` counts members from 0, `status` is that of a request of its own, and `id` is null if it
//! could not be read. A member must have an `id`. Two of one id are submitted one after the other,
//! so the second hears the first's answer, or 422 if it is another request.
//!
//! | content type | read | answered |
//! |---|---|---|
//! | `application/json` | an array, at most `batch_members_max` and `batch_body_bytes_max` | 200 and an array in the same order |
//! | `application/x-ndjson`, `application/jsonl` | a line a member, without end | 200 and a line a member, as each ends; every one begins with `index` |
//!
//! At most `batch_in_flight_max` members of all batches are submitted at a time. When that many
//! are, no further line is read: whoever sends lines must read answers meanwhile, or is cut off
//! after `request_timeout`. A member that the coordinator has no room for, whose participant is
//! away, or which runs already, is submitted again until `request_timeout` has passed since it was
//! read. A stream ends early when the server stops, its log fails, or no line comes for
//! `body_timeout` while none is being answered: the answer to the next member then says so, and
//! what follows was not read. When the client goes away, members that have begun go on.

mod lines;
mod member;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use self::member::{Member, Refused, Reply};
use super::api::{App, ContentType, content_type, overloaded, read_body};
use super::backend::NotReady;
use super::listener::Cutter;
use super::problem::{Kind, Problem};
use crate::participants::BoxFuture;
use crate::txn::TxnId;

/// `POST /v1/transactions:batch`
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let permits = Permits::acquire(&app)?;
    let (head, body) = request.into_parts();
    let kind = content_type(&head.headers)?;
    if head.headers.contains_key("idempotency-key") {
        let detail = "a batch has no Idempotency-Key: each member has its id";
        let field = Some("Idempotency-Key".to_owned());
        return Err(Problem { field, ..Problem::new(Kind::Malformed, detail) });
    }
    if let Some(problem) = stopped(&app) {
        return Err(problem);
    }
    if kind == ContentType::Lines {
        let cutter = head.extensions.get::<Cutter>().cloned().unwrap_or_default();
        return Ok(lines::answer(app, permits, body, cutter));
    }
    let body = read_body(&app, &head.headers, body, app.options.batch_body_bytes_max).await?;
    let answers = answer_array(&app, &body).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answers).into_response())
}

/// A place among requests, and one among batches.
struct Permits {
    _request: OwnedSemaphorePermit,
    _batch: OwnedSemaphorePermit,
}

impl Permits {
    fn acquire(app: &App) -> Result<Self, Problem> {
        let request = Arc::clone(&app.requests).try_acquire_owned();
        let batch = Arc::clone(&app.batches).try_acquire_owned().map_err(|_| {
            let limit = app.options.batches_max;
            Problem::new(Kind::Overloaded, format!("{limit} batches are being answered, the limit"))
        })?;
        Ok(Self { _request: request.map_err(|_| overloaded(app))?, _batch: batch })
    }
}

/// Why no member is taken any more, if so.
fn stopped(app: &App) -> Option<Problem> {
    match app.not_ready() {
        // What recovery has not settled stays in flight at the coordinator; the rest may run.
        None | Some(NotReady::Recovering) => None,
        Some(reason) => Some(Problem::new(Kind::Unavailable, reason.detail())),
    }
}

async fn answer_array(app: &Arc<App>, body: &Bytes) -> Result<Vec<u8>, Problem> {
    let places = split(body, app.options.batch_members_max)?;
    let mut answers = vec![Vec::new(); places.len()];
    let mut places = places.into_iter().enumerate().peekable();
    let mut running = Members::new(Arc::clone(app));
    let acquiring = Arc::clone(&app.members).acquire_owned();
    tokio::pin!(acquiring);
    loop {
        tokio::select! {
            biased;
            Some(done) = running.next() => {
                let numbered = matches!(done.reply, Reply::Problem(..)).then_some(done.index);
                answers[done.index as usize] = done.reply.json(numbered);
            }
            permit = &mut acquiring, if places.peek().is_some() => {
                acquiring.set(Arc::clone(&app.members).acquire_owned());
                let permit = permit.expect("the semaphore is never closed");
                let (index, place) = places.next().expect("it was seen");
                let locate = |line, column| located(&body[..place.start], line, column);
                let member = Member::read(app, index as u64, body.slice(place.clone()), locate);
                running.begin(index as u64, member, permit);
            }
            else => break,
        }
    }
    let mut text = Vec::with_capacity(answers.iter().map(|answer| answer.len() + 1).sum());
    text.push(b'[');
    text.extend_from_slice(&answers.join(&b','));
    text.push(b']');
    Ok(text)
}

/// Line and column of the batch, from those within a member that begins after `before`.
fn located(before: &[u8], line: usize, column: usize) -> (usize, usize) {
    let (lines, last) = before
        .split(|byte| *byte == b'\n')
        .fold((0, 0), |(lines, _), text| (lines + 1, text.len()));
    (lines - 1 + line, if line == 1 { last + column } else { column })
}

/// Where each member of an array stands. Only where it ends is looked for: the members are read
/// one by one when their turn comes, so that no more than a few are ever held as trees.
fn split(body: &Bytes, count_max: usize) -> Result<Vec<Range<usize>>, Problem> {
    let mut places = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Places { origin: body.as_ptr().addr(), found: &mut places, count_max };
    let read = seed.deserialize(&mut reader).and_then(|()| reader.end());
    let Err(error) = read else { return Ok(places) };
    if places.len() >= count_max && error.is_data() {
        let detail = format!("the array has more than {count_max} members, the limit: send lines");
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    let kind = if error.is_data() { Kind::Invalid } else { Kind::Malformed };
    let position = Some((error.line(), error.column()));
    Err(Problem { position, ..Problem::new(kind, format!("the body cannot be read: {error}")) })
}

struct Places<'a> {
    /// Where the body begins in memory.
    origin: usize,
    found: &'a mut Vec<Range<usize>>,
    count_max: usize,
}

impl<'de> DeserializeSeed<'de> for Places<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Places<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of transactions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&'de RawValue>()? {
            if self.found.len() == self.count_max {
                return Err(A::Error::custom("too many members"));
            }
            let text = item.get();
            let start = text.as_ptr().addr() - self.origin;
            self.found.push(start..start + text.len());
        }
        Ok(())
    }
}

/// The members of one batch that are being submitted.
struct Members {
    app: Arc<App>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Ids that are running, each with the members behind it that have the same.
    behind: HashMap<TxnId, VecDeque<Begun>>,
}

/// A member with its place and its time.
struct Begun {
    member: Member,
    permit: OwnedSemaphorePermit,
    deadline: Instant,
}

/// A member with its answer.
struct Done {
    index: u64,
    reply: Reply,
    /// Under which it ran.
    id: Option<TxnId>,
}

impl Members {
    fn new(app: Arc<App>) -> Self {
        Self { app, running: FuturesUnordered::new(), behind: HashMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    fn begin(&mut self, index: u64, member: Result<Member, Refused>, permit: OwnedSemaphorePermit) {
        let member = match member {
            Ok(member) => member,
            Err(refused) => {
                let done = Done { index, reply: refused.into(), id: None };
                self.running.push(Box::pin(std::future::ready(done)));
                return;
            }
        };
        let deadline = Instant::now() + self.app.options.request_timeout;
        let begun = Begun { member, permit, deadline };
        if let Some(behind) = self.behind.get_mut(begun.member.id()) {
            behind.push_back(begun);
            return;
        }
        self.behind.insert(begun.member.id().clone(), VecDeque::new());
        self.run(begun);
    }

    fn run(&mut self, begun: Begun) {
        let Begun { member, permit, deadline } = begun;
        let (app, index, id) = (Arc::clone(&self.app), member.index, Some(member.id().clone()));
        self.running.push(Box::pin(async move {
            let reply = member.submit(app, deadline).await;
            drop(permit);
            Done { index, reply, id }
        }));
    }

    /// The next answer; `None` while no member is running.
    async fn next(&mut self) -> Option<Done> {
        let done = self.running.next().await?;
        self.app.metrics.batch_member(done.reply.status().as_u16());
        if let Reply::Problem(_, problem) = &done.reply {
            self.app.metrics.refused(problem.kind.slug());
        }
        if let Some(id) = &done.id {
            let behind = self.behind.get_mut(id).expect("it stands there while it runs");
            match behind.pop_front() {
                Some(begun) => self.run(begun),
                None => drop(self.behind.remove(id)),
            }
        }
        Some(done)
    }
}
