//! One member of a batch: read, submitted, waited for, and answered as a single request would be.
//!
//! Whatever is wrong with a member is its own answer. A member without an id is refused: its id is
//! what makes it safe to send a batch again, and a client whose connection breaks would never hear
//! of one that was made here.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::future::poll_immediate;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use crate::coordinator::{Answer, Submission, SubmitError};
use crate::protocol::Backoff;
use crate::server::api::App;
use crate::server::backend::NotReady;
use crate::server::problem::{self, Kind, Problem};
use crate::server::request::{self, RequestError};
use crate::txn::{Outcome, TxnId};

/// Waits of the one member that asks for room; all others are behind it. Rooms get free every
/// millisecond or so, and who asks seldom finds them taken again.
const ROOM: Backoff = Backoff { first: Duration::from_micros(500), max: Duration::from_millis(4) };

/// Waits of a member for itself. With the longest, a thousand of them ask some 1,400 times a second,
/// which takes a few hundredths of a processor.
const OTHERS: Backoff = Backoff { first: Duration::from_millis(5), max: Duration::from_secs(1) };

/// A member that has been read.
pub(super) struct Member {
    pub(super) index: u64,
    /// Kept to be read again if the coordinator has no room: rare, and cheaper than a copy each.
    bytes: Bytes,
    submission: Submission,
}

/// A member that cannot be submitted.
pub(super) struct Refused {
    pub(super) id: Option<TxnId>,
    pub(super) problem: Problem,
}

/// What became of a member.
pub(super) enum Reply {
    /// The coordinator's answer.
    Answered(Arc<Answer>),
    /// It takes longer than a request may: to be asked for by its id.
    InFlight(TxnId),
    /// Nothing has happened, or nobody knows.
    Problem(Option<TxnId>, Problem),
}

impl Member {
    /// Reads a member. `locate` turns line and column within it into those of the whole batch.
    pub(super) fn read(
        app: &App,
        index: u64,
        bytes: Bytes,
        locate: impl FnOnce(usize, usize) -> (usize, usize),
    ) -> Result<Self, Refused> {
        let limit = app.options.body_bytes_max;
        if bytes.len() > limit {
            let (line, column) = locate(1, limit + 1);
            return Err(too_long(bytes.len() as u64, limit, line, column));
        }
        match request::parse_member(&bytes, app.options.rules()) {
            Ok(submission) => Ok(Self { index, bytes, submission }),
            Err((_, RequestError::Malformed(error))) => {
                let detail = format!("it is not JSON: {}", error.reason);
                let position = Some(locate(error.line, error.column));
                let problem = Problem { position, ..Problem::new(Kind::Malformed, detail) };
                Err(Refused { id: None, problem })
            }
            Err((id, error)) => Err(Refused { id, problem: error.into() }),
        }
    }

    pub(super) fn id(&self) -> &TxnId {
        &self.submission.transaction.id
    }

    /// Submits it, again and again while the coordinator does not take it, until `deadline`.
    pub(super) async fn submit(self, app: Arc<App>, deadline: Instant) -> Reply {
        let Self { index, bytes, submission } = self;
        let id = submission.transaction.id.clone();
        let mut next = Some(submission);
        // Behind those that wait for room already.
        let mut turn = match app.turn.try_lock() {
            Ok(_) => None,
            Err(_) => timeout_at(deadline, app.turn.lock()).await.ok(),
        };
        for attempt in 1.. {
            match app.not_ready() {
                None | Some(NotReady::Recovering) => {}
                Some(reason) => {
                    let problem = Problem::new(Kind::Unavailable, reason.detail());
                    return Reply::Problem(Some(id), problem);
                }
            }
            let rules = app.options.rules();
            let submission = next.take().map_or_else(|| request::parse_member(&bytes, rules), Ok);
            let submission = submission.unwrap_or_else(|_| unreachable!("it was read before"));
            let started = Instant::now();
            let mut submitted = app.service.backend.submit(submission);
            let answer = match poll_immediate(&mut submitted).await {
                Some(answer) => answer,
                None => {
                    // It was taken: what is refused is refused at once.
                    drop(turn.take());
                    let Ok(answer) = timeout_at(deadline, submitted).await else {
                        app.metrics.answered_later();
                        return Reply::InFlight(id);
                    };
                    answer
                }
            };
            let error = match answer {
                Ok(answer) => {
                    app.count_answered(started, &answer);
                    return Reply::Answered(answer);
                }
                Err(error) => error,
            };
            let backoff = match waits(&error) {
                Some(Waits::ForRoom) => {
                    if turn.is_none() {
                        turn = timeout_at(deadline, app.turn.lock()).await.ok();
                    }
                    ROOM
                }
                Some(Waits::ForOthers) => {
                    drop(turn.take());
                    OTHERS
                }
                None => return Reply::Problem(Some(id), error.into()),
            };
            let wait = backoff.wait(attempt, index);
            if Instant::now() + wait >= deadline {
                return Reply::Problem(Some(id), error.into());
            }
            app.metrics.batch_member_waited();
            sleep(wait).await;
        }
        unreachable!("attempts do not end")
    }
}

/// What a member waits for that may be taken in a moment.
enum Waits {
    /// For room at the coordinator, as all others do.
    ForRoom,
    /// For a participant that is away, or for its own earlier run.
    ForOthers,
}

fn waits(error: &SubmitError) -> Option<Waits> {
    match error {
        SubmitError::Overloaded { .. } => Some(Waits::ForRoom),
        SubmitError::ParticipantAway { .. } | SubmitError::InFlight { .. } => {
            Some(Waits::ForOthers)
        }
        _ => None,
    }
}

/// The refusal of a member over the limit.
pub(super) fn too_long(bytes: u64, limit: usize, line: usize, column: usize) -> Refused {
    let detail = format!("it has {bytes} bytes, the limit is {limit}");
    let problem =
        Problem { position: Some((line, column)), ..Problem::new(Kind::TooLarge, detail) };
    Refused { id: None, problem }
}

impl From<Refused> for Reply {
    fn from(refused: Refused) -> Self {
        Self::Problem(refused.id, refused.problem)
    }
}

impl Reply {
    /// The status that a request of its own would have had.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Answered(answer) if answer.outcome == Outcome::InDoubt => StatusCode::ACCEPTED,
            Self::Answered(_) => StatusCode::OK,
            Self::InFlight(_) => StatusCode::ACCEPTED,
            Self::Problem(_, problem) => problem.kind.status(),
        }
    }

    /// The object that answers for it, with its index in front where that is not told by its place.
    pub(super) fn json(&self, index: Option<u64>) -> Vec<u8> {
        let text = match self {
            Self::Answered(answer) => serde_json::to_vec(&**answer),
            Self::InFlight(id) => serde_json::to_vec(&json!({"id": id, "status": "in_flight"})),
            Self::Problem(id, problem) => serde_json::to_vec(&Failed {
                id: id.as_ref(),
                status: self.status().as_u16(),
                problem: problem.document(),
            }),
        };
        let text = text.expect("answers always serialise");
        let Some(index) = index else { return text };
        let mut numbered = format!("{{\"index\":{index},").into_bytes();
        numbered.extend_from_slice(&text[1..]);
        numbered
    }
}

#[derive(Serialize)]
struct Failed<'a> {
    id: Option<&'a TxnId>,
    status: u16,
    problem: problem::Document<'a>,
}
