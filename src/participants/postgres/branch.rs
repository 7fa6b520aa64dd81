//! The first phase: work, marker and `PREPARE TRANSACTION` in one round trip.

use std::sync::Arc;

use deadpool_postgres::Client;
use futures_util::future::{BoxFuture, join_all};
use tokio_postgres::types::ToSql;

use super::errors::{Failure, failure, fenced, text};
use super::{Bound, Claimed, Inner, connection, schema, unavailable};
use crate::txn::{Declined, Gid, Vote};

/// What one statement of a branch gave.
enum Reply {
    Done,
    /// Rows changed or found.
    Rows(u64),
    /// Whether the marker was inserted.
    Marked(bool),
}

type Replies = Vec<Result<Reply, tokio_postgres::Error>>;

/// A branch that reached its end, before it is ended.
enum Worked {
    /// It changed something.
    Changed,
    /// It has no marker: it changed nothing, or its epoch is over.
    Unmarked,
}

pub(super) async fn prepare(
    inner: Arc<Inner>,
    claimed: Arc<Claimed>,
    gid: Gid,
    bound: Vec<Bound>,
) -> Vote {
    inner.slots_held.lock().expect("no panic while held").insert(gid, None);
    let vote = match begin(&inner, &claimed, gid).await {
        Ok(client) => send_and_judge(&client, gid, &bound).await,
        Err(declined) => Vote::No(declined),
    };
    if matches!(vote, Vote::No(_) | Vote::ReadOnly) {
        inner.slots_held.lock().expect("no panic while held").remove(&gid);
    }
    vote
}

/// Waits for a slot and a session, unless the branch is aborted meanwhile: then nobody would give
/// its slot back.
pub(super) async fn begin(inner: &Inner, claimed: &Claimed, gid: Gid) -> Result<Client, Declined> {
    let technical = |code: &str, detail: &str| Declined::Technical {
        code: code.to_owned(),
        detail: detail.to_owned(),
    };
    let slot = claimed.slots.clone().acquire_owned();
    let Ok(Ok(slot)) = tokio::time::timeout(inner.options.connect_timeout, slot).await else {
        let detail = "no prepared transaction became free in time";
        return Err(technical("prepared_slots_exhausted", detail));
    };
    let client = connection::session(&claimed.pool).await.map_err(unavailable)?;
    match inner.slots_held.lock().expect("no panic while held").get_mut(&gid) {
        Some(held) => *held = Some(slot),
        None => return Err(technical("aborted_before", "it was aborted while it waited")),
    }
    Ok(client)
}

async fn send_and_judge(client: &Client, gid: Gid, bound: &[Bound]) -> Vote {
    let statements = match statements(client, bound).await {
        Ok(statements) => statements,
        Err(error) => return Vote::No(not_begun(&error)),
    };
    let last = format!("PREPARE TRANSACTION '{gid}'");
    let mut replies = send(client, gid, bound, &statements, Some(last)).await;
    let prepared = replies.pop().expect("the last statement");
    // The server rolled back when it was told to prepare what had failed.
    let rolled_back = prepared.is_ok() && replies.iter().any(Result::is_err);
    match (judge(&replies, bound), prepared) {
        (Ok(Worked::Changed), Ok(_)) => Vote::Yes,
        (Ok(Worked::Unmarked), Ok(_)) => {
            let vote = unmarked(client, gid).await;
            undo(client, gid, vote).await
        }
        (Err(Failure::Refused(declined)), Ok(_)) if rolled_back => Vote::No(declined),
        (Err(Failure::Refused(declined)), Ok(_)) => undo(client, gid, Vote::No(declined)).await,
        (Err(Failure::Unknown(detail)), _) => Vote::Unknown(detail),
        (worked, Err(error)) => {
            let why = match (worked, failure(&error)) {
                // The cause, not that the PREPARE then failed.
                (Err(Failure::Refused(declined)), Failure::Refused(_)) => declined,
                (_, Failure::Refused(declined)) => declined,
                (_, Failure::Unknown(detail)) => return Vote::Unknown(detail),
            };
            roll_back(client).await;
            Vote::No(why)
        }
    }
}

/// Takes back what was prepared only to be looked at; the vote counts if that is certain.
pub(super) async fn undo(client: &Client, gid: Gid, vote: Vote) -> Vote {
    match client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await {
        Ok(()) => vote,
        Err(error) => Vote::Unknown(format!("not rolled back: {}", text(&error))),
    }
}

pub(super) async fn commit_one_phase(claimed: Arc<Claimed>, gid: Gid, bound: Vec<Bound>) -> Vote {
    let client = match connection::session(&claimed.pool).await {
        Ok(client) => client,
        Err(detail) => return Vote::No(unavailable(detail)),
    };
    let statements = match statements(&client, &bound).await {
        Ok(statements) => statements,
        Err(error) => return Vote::No(not_begun(&error)),
    };
    let replies = send(&client, gid, &bound, &statements, None).await;
    match judge(&replies, &bound) {
        Ok(Worked::Changed) => match client.batch_execute("COMMIT").await {
            Ok(()) => Vote::Yes,
            Err(error) => match failure(&error) {
                // A deferred constraint, say: the server has rolled back.
                Failure::Refused(declined) => Vote::No(declined),
                Failure::Unknown(detail) => Vote::Unknown(detail),
            },
        },
        Ok(Worked::Unmarked) => {
            let vote = unmarked(&client, gid).await;
            roll_back(&client).await;
            vote
        }
        Err(Failure::Refused(declined)) => {
            roll_back(&client).await;
            Vote::No(declined)
        }
        // Not committed: COMMIT was never sent, and the server rolls back when the session ends.
        Err(Failure::Unknown(detail)) => Vote::No(unavailable(detail)),
    }
}

/// Statements of a branch, prepared once a session.
struct Statements {
    operations: Vec<tokio_postgres::Statement>,
    marked: MarkedBy,
}

/// What leaves the marker.
enum MarkedBy {
    /// The operation in this place.
    Operation(usize),
    /// A statement of its own: no operation can.
    Own(tokio_postgres::Statement),
}

async fn statements(client: &Client, bound: &[Bound]) -> Result<Statements, tokio_postgres::Error> {
    let marking = bound.iter().rposition(|bound| bound.marking.is_some());
    let sql = bound.iter().enumerate().map(|(place, bound)| match &bound.marking {
        Some(sql) if Some(place) == marking => &**sql,
        _ => bound.statement.sql.as_str(),
    });
    let own = marking.is_none().then_some(schema::MARK);
    let prepared = join_all(sql.chain(own).map(|sql| client.prepare_cached(sql))).await;
    let mut operations = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
    let marked = match marking {
        Some(place) => MarkedBy::Operation(place),
        None => MarkedBy::Own(operations.pop().expect("the marker's stands last")),
    };
    Ok(Statements { operations, marked })
}

/// Sends everything at once and waits for every reply, in order.
async fn send(
    client: &Client,
    gid: Gid,
    bound: &[Bound],
    statements: &Statements,
    last: Option<String>,
) -> Replies {
    let (epoch, physical, branch) = &key(gid);
    let key: [&(dyn ToSql + Sync); 4] = [&gid.log.0, epoch, physical, branch];
    let mut calls: Vec<BoxFuture<'_, Result<Reply, tokio_postgres::Error>>> = Vec::new();
    calls.push(Box::pin(async { client.batch_execute("BEGIN").await.map(|()| Reply::Done) }));
    for (place, (bound, statement)) in bound.iter().zip(&statements.operations).enumerate() {
        let marks = matches!(statements.marked, MarkedBy::Operation(marking) if marking == place);
        let marker = if marks { &key[..] } else { &[] };
        let parameters = bound.parameters.iter().map(|value| value as &(dyn ToSql + Sync));
        let parameters: Vec<_> = parameters.chain(marker.iter().copied()).collect();
        calls.push(Box::pin(async move {
            let rows = client.execute_raw(statement, parameters).await?;
            Ok(Reply::Rows(rows))
        }));
    }
    if let MarkedBy::Own(mark) = &statements.marked {
        calls.push(Box::pin(async move {
            let rows = client.execute(mark, &key).await?;
            Ok(Reply::Marked(rows > 0))
        }));
    }
    if let Some(last) = last {
        calls
            .push(Box::pin(async move { client.batch_execute(&last).await.map(|()| Reply::Done) }));
    }
    join_all(calls).await
}

/// Epoch, physical id and branch as the marker has them.
pub(super) fn key(gid: Gid) -> (i64, i64, i32) {
    let whole = |number: u64| i64::try_from(number).expect("counted from 1, one a transaction");
    (whole(gid.epoch.0), whole(gid.physical.0), i32::from(gid.branch.0))
}

/// What the work came to: the first failure, else the first expectation that was not met.
fn judge(replies: &Replies, bound: &[Bound]) -> Result<Worked, Failure> {
    if let Some(error) = replies.iter().find_map(|reply| reply.as_ref().err()) {
        return Err(failure(error));
    }
    let mut operations = bound.iter();
    let mut worked = Worked::Changed;
    for reply in replies.iter().flatten() {
        match reply {
            Reply::Done => {}
            Reply::Rows(rows) => {
                let bound = operations.next().expect("one reply an operation");
                bound.statement.judge(*rows).map_err(Failure::Refused)?;
            }
            Reply::Marked(false) => worked = Worked::Unmarked,
            Reply::Marked(true) => {}
        }
    }
    Ok(worked)
}

/// What a branch without a marker votes: nothing was changed, unless its epoch is over. The session
/// may be within its transaction.
pub(super) async fn unmarked(client: &Client, gid: Gid) -> Vote {
    match client.query_opt(schema::CLAIMED, &[&gid.log.0]).await {
        Ok(row) => {
            let known: Option<i64> = row.map(|row| row.get(0));
            if known == Some(key(gid).0) { Vote::ReadOnly } else { Vote::No(fenced()) }
        }
        Err(error) => Vote::Unknown(text(&error)),
    }
}

/// Nothing was begun, whatever went wrong.
pub(super) fn not_begun(error: &tokio_postgres::Error) -> Declined {
    match failure(error) {
        Failure::Refused(declined) => declined,
        Failure::Unknown(detail) => unavailable(detail),
    }
}

/// Leaves the session as it was found. If it cannot be, it has ended, and the pool drops it.
pub(super) async fn roll_back(client: &Client) {
    if let Err(error) = client.batch_execute("ROLLBACK").await {
        tracing::debug!(error = %text(&error), "a session ended before its rollback");
    }
}
