//! Batches: the statements of many members, the marker and, if nothing is in doubt, `PREPARE
//! TRANSACTION` in one round trip; or held between the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Client;
use futures_util::TryStreamExt;
use futures_util::future::{BoxFuture, join_all};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::branch::{begin, key, not_begun, roll_back, undo, unmarked};
use super::errors::{Failure, failure};
use super::values::List;
use super::{Claimed, Inner, schema, unavailable};
use crate::participants::batch::{Batch, Batches, Key, Member, Then, Verdict, Worked};
use crate::participants::sql::{self, Group, MEMBER};
use crate::participants::{Ack, BoxFuture as Call};
use crate::txn::{Declined, Gid, Operation, Vote};

/// A branch that is kept open.
pub(super) enum Holding {
    /// Its work is under way.
    Working,
    /// The same, and whoever works must take it back.
    Abandoned,
    /// It can be prepared.
    Open {
        client: Box<Client>,
        /// Whether it has its marker.
        marked: bool,
    },
}

/// By branch.
pub(super) type Holdings = std::sync::Mutex<HashMap<Gid, Holding>>;

impl Batches for super::Postgres {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        let found = sql::find(&self.0.statements, &operation.operation);
        found.is_ok_and(|statement| sql::keys(statement, operation, keys))
    }

    fn work(&self, batch: Batch) -> Call<'_, Worked> {
        let inner = self.0.clone();
        self.0.whole(async move { inner.work(batch).await }, Worked::Unknown)
    }

    fn prepare_held(&self, gid: Gid) -> Call<'_, Vote> {
        let inner = self.0.clone();
        self.0.whole(async move { inner.prepare_held(gid).await }, Vote::Unknown)
    }
}

impl Inner {
    fn holdings(&self) -> std::sync::MutexGuard<'_, HashMap<Gid, Holding>> {
        self.holdings.lock().expect("no panic while held")
    }

    async fn work(&self, batch: Batch) -> Worked {
        let claimed = match self.claimed() {
            Ok(claimed) => claimed,
            Err(detail) => return failed(unavailable(detail)),
        };
        let gid = batch.gid;
        self.slots_held.lock().expect("no panic while held").insert(gid, None);
        if batch.then == Then::Hold {
            self.holdings().insert(gid, Holding::Working);
        }
        let (worked, open) = match begin(self, &claimed, gid).await {
            Ok(client) => self.carry_out(&claimed, client, &batch).await,
            Err(declined) => (failed(declined), None),
        };
        let worked = match (batch.then, open) {
            (Then::Prepare, _) => worked,
            (Then::Hold, open) => self.hold(gid, worked, open).await,
        };
        let nothing_left = match &worked {
            Worked::Done { declined, vote: None } => {
                batch.then == Then::Prepare && !declined.is_empty()
            }
            Worked::Done { vote: Some(vote), .. } => {
                matches!(vote, Vote::No(_) | Vote::ReadOnly)
            }
            Worked::Failed { .. } => true,
            Worked::Unknown(_) => false,
        };
        if nothing_left {
            self.slots_held.lock().expect("no panic while held").remove(&gid);
        }
        worked
    }

    /// Keeps a branch open, unless it was aborted meanwhile.
    async fn hold(&self, gid: Gid, worked: Worked, open: Option<(Client, bool)>) -> Worked {
        let Some((client, marked)) = open else {
            self.holdings().remove(&gid);
            return worked;
        };
        let client = Box::new(client);
        let abandoned = {
            let mut holdings = self.holdings();
            if let Some(Holding::Working) = holdings.remove(&gid) {
                holdings.insert(gid, Holding::Open { client, marked });
                None
            } else {
                Some(client)
            }
        };
        let Some(client) = abandoned else { return worked };
        roll_back(&client).await;
        let detail = "it was aborted while it worked".to_owned();
        failed(Declined::Technical { code: "aborted_before".to_owned(), detail })
    }

    /// The work of a batch on a session, which is given back when the branch is left open; with
    /// whether it has a marker.
    async fn carry_out(
        &self,
        claimed: &Claimed,
        client: Client,
        batch: &Batch,
    ) -> (Worked, Option<(Client, bool)>) {
        if let Err(worked) = sql::limit(batch) {
            return (worked, None);
        }
        let find = |operation: &Operation| {
            self.statements.get(&operation.operation).expect("validated before")
        };
        let groups = sql::groups(&batch.members, batch.style, batch.keys_shared, find);
        let mut calls = Vec::with_capacity(groups.len());
        for group in &groups {
            match bind(claimed, &batch.members, group) {
                Ok(call) => calls.push(call),
                Err(worked) => return (worked, None),
            }
        }
        let texts = groups.iter().zip(&calls).map(|(group, call)| call.sql(group));
        let texts: Vec<&str> = texts.chain([schema::MARK]).collect();
        let prepared = match prepare_each(&client, &texts).await {
            Ok(prepared) => prepared,
            Err(error) => return (failed(not_begun(&error)), None),
        };
        let mut replies = send(&client, batch, &calls, &prepared).await;
        let last = (batch.then == Then::Prepare).then(|| replies.pop().expect("sent last"));
        let judged = judge(&replies, batch, &groups);
        match (last, judged) {
            (None, Ok((declined, marked))) => {
                (Worked::Done { declined, vote: None }, Some((client, marked)))
            }
            (None, Err(Trouble::Unknown(detail))) => {
                // Nothing was asked to be prepared, and the session has ended.
                (failed(unavailable(detail)), None)
            }
            (None, Err(Trouble::Failed(worked))) => {
                roll_back(&client).await;
                (worked, None)
            }
            (Some(Ok(_)), Ok((declined, true))) if declined.is_empty() => {
                (Worked::Done { declined, vote: Some(Vote::Yes) }, None)
            }
            (Some(Ok(_)), Ok((declined, marked))) => {
                let vote = if marked { Vote::ReadOnly } else { unmarked(&client, batch.gid).await };
                let taken_back = undo(&client, batch.gid, vote).await;
                (declined_or_voted(declined, taken_back), None)
            }
            (_, Err(Trouble::Unknown(detail))) => (Worked::Unknown(detail), None),
            // The server rolled back when it was told to prepare what had failed; where a member
            // of several operations declined, it has prepared.
            (Some(Ok(_)), Err(Trouble::Failed(worked))) => {
                if replies.iter().all(Result::is_ok) {
                    let vote = undo(&client, batch.gid, Vote::ReadOnly).await;
                    if let Vote::Unknown(detail) = vote {
                        return (Worked::Unknown(detail), None);
                    }
                }
                (worked, None)
            }
            (Some(Err(error)), judged) => {
                let worked = match (failure(&error), judged) {
                    (Failure::Unknown(detail), _) => return (Worked::Unknown(detail), None),
                    // The cause, not that the PREPARE then failed.
                    (_, Err(Trouble::Failed(worked))) => worked,
                    (Failure::Refused(declined), _) => failed(declined),
                };
                roll_back(&client).await;
                (worked, None)
            }
        }
    }

    async fn prepare_held(&self, gid: Gid) -> Vote {
        let held = self.holdings().remove(&gid);
        let Some(Holding::Open { client, marked }) = held else {
            return Vote::No(unavailable("the branch is not held".to_owned()));
        };
        let vote = if marked {
            match client.batch_execute(&format!("PREPARE TRANSACTION '{gid}'")).await {
                Ok(()) => Vote::Yes,
                Err(error) => match failure(&error) {
                    Failure::Refused(declined) => {
                        roll_back(&client).await;
                        Vote::No(declined)
                    }
                    Failure::Unknown(detail) => Vote::Unknown(detail),
                },
            }
        } else {
            let vote = unmarked(&client, gid).await;
            roll_back(&client).await;
            vote
        };
        if matches!(vote, Vote::No(_) | Vote::ReadOnly) {
            self.slots_held.lock().expect("no panic while held").remove(&gid);
        }
        vote
    }

    /// Ends a branch that is held; `None` if it is not.
    pub(super) async fn let_go(&self, gid: Gid) -> Option<Ack> {
        let client = {
            let mut holdings = self.holdings();
            match holdings.remove(&gid)? {
                Holding::Open { client, .. } => client,
                Holding::Working | Holding::Abandoned => {
                    holdings.insert(gid, Holding::Abandoned);
                    return Some(Ack::Unknown("its work is under way".to_owned()));
                }
            }
        };
        roll_back(&client).await;
        Some(Ack::Done)
    }
}

fn failed(why: Declined) -> Worked {
    Worked::Failed { why, culprit: None }
}

fn declined_or_voted(declined: Vec<(usize, Declined)>, vote: Vote) -> Worked {
    match vote {
        Vote::Unknown(detail) => Worked::Unknown(detail),
        Vote::No(why) => failed(why),
        vote if declined.is_empty() => Worked::Done { declined, vote: Some(vote) },
        _ => Worked::Done { declined, vote: None },
    }
}

/// A group's statement with its values.
enum Bound {
    /// The operation's own, of one member.
    One(Vec<super::values::Parameter>),
    /// That for many.
    Many(Vec<List>),
}

impl Bound {
    fn sql<'a>(&self, group: &'a Group) -> &'a str {
        match (self, &group.statement.batch) {
            (Self::Many(_), Some(batch)) => &batch.sql,
            _ => &group.statement.sql,
        }
    }
}

/// The statements, each prepared once a session, however often it occurs.
async fn prepare_each(
    client: &Client,
    texts: &[&str],
) -> Result<Vec<tokio_postgres::Statement>, tokio_postgres::Error> {
    let distinct: BTreeSet<&str> = texts.iter().copied().collect();
    let prepared = join_all(distinct.iter().map(|sql| client.prepare_cached(sql))).await;
    let prepared: Vec<_> = prepared.into_iter().collect::<Result<_, _>>()?;
    let known: BTreeMap<&str, _> = distinct.into_iter().zip(prepared).collect();
    Ok(texts.iter().map(|sql| known[sql].clone()).collect())
}

/// `Err` is what the batch comes to.
fn bind(claimed: &Claimed, members: &[Member], group: &Group) -> Result<Bound, Worked> {
    let refused = |item: &(usize, usize), detail: String| {
        let why = Declined::Business { code: "bad_parameter".to_owned(), detail };
        Worked::Failed { why, culprit: Some(members[item.0].place) }
    };
    let operation = |(member, which): &(usize, usize)| &members[*member].operations[*which];
    let statement = &group.statement;
    let first = &group.items[0];
    let understood = sql::find(&claimed.operations, &statement.name);
    let understood = understood.map_err(|why| refused(first, why))?;
    let Some(batch) = statement.batch.as_ref().filter(|_| group.items.len() > 1) else {
        let bound = super::parameters(&understood.types, statement, operation(first));
        return bound.map(Bound::One).map_err(|why| refused(first, why));
    };
    let list = |name: &String| {
        let mut list = List::with_capacity(group.items.len());
        if name == MEMBER {
            for position in 0..group.items.len() {
                list.push_integer(position as u64);
            }
            return Ok(list);
        }
        let at = statement.parameters.iter().position(|known| known == name);
        let element = &understood.types[at.expect("checked when it was read")];
        for item in &group.items {
            let value = operation(item).params.get(name).unwrap_or(&serde_json::Value::Null);
            let pushed = list.push(value, element);
            pushed.map_err(|why| refused(item, format!("parameter {name:?} {why}")))?;
        }
        Ok(list)
    };
    batch.parameters.iter().map(list).collect::<Result<_, Worked>>().map(Bound::Many)
}

/// What one statement of a batch gave.
enum Reply {
    Done,
    /// Rows changed or found, of one member.
    Rows(u64),
    /// The same of many, by their position in the group.
    Positions(Vec<Row>),
    /// Whether the marker was inserted.
    Marked(bool),
}

type Replies = Vec<Result<Reply, tokio_postgres::Error>>;

/// Sends everything at once and waits for every reply, in order.
async fn send(
    client: &Client,
    batch: &Batch,
    bound: &[Bound],
    prepared: &[tokio_postgres::Statement],
) -> Replies {
    let (epoch, physical, branch) = &key(batch.gid);
    let marker: [&(dyn ToSql + Sync); 4] = [&batch.gid.log.0, epoch, physical, branch];
    let patience_ms = batch.lock_wait_max.as_millis().max(1);
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {patience_ms}");
    let end = format!("PREPARE TRANSACTION '{}'", batch.gid);
    let mut calls: Vec<BoxFuture<'_, Result<Reply, tokio_postgres::Error>>> = Vec::new();
    calls.push(Box::pin(async { client.batch_execute(&begin).await.map(|()| Reply::Done) }));
    for (bound, statement) in bound.iter().zip(prepared) {
        calls.push(match bound {
            Bound::One(values) => Box::pin(async move {
                let values = values.iter().map(|value| value as &(dyn ToSql + Sync));
                client.execute_raw(statement, values).await.map(Reply::Rows)
            }),
            Bound::Many(lists) => Box::pin(async move {
                let lists = lists.iter().map(|list| list as &(dyn ToSql + Sync));
                let rows = client.query_raw(statement, lists).await?;
                Ok(Reply::Positions(rows.try_collect().await?))
            }),
        });
    }
    let mark = prepared.last().expect("the marker's stands last");
    calls.push(Box::pin(async move {
        client.execute(mark, &marker).await.map(|rows| Reply::Marked(rows > 0))
    }));
    if batch.then == Then::Prepare {
        let end = &end;
        calls.push(Box::pin(async move { client.batch_execute(end).await.map(|()| Reply::Done) }));
    }
    join_all(calls).await
}

/// Why a batch came to nothing.
enum Trouble {
    /// The connection broke.
    Unknown(String),
    /// It did not work out.
    Failed(Worked),
}

/// Who declined, and whether there is a marker.
fn judge(
    replies: &Replies,
    batch: &Batch,
    groups: &[Group],
) -> Result<(Vec<(usize, Declined)>, bool), Trouble> {
    let mut verdict = Verdict::default();
    let mut marked = false;
    let mut left = groups.iter();
    for reply in replies {
        let group = match reply {
            Ok(Reply::Done) => continue,
            Ok(Reply::Marked(yes)) => {
                marked = *yes;
                continue;
            }
            Ok(Reply::Rows(_) | Reply::Positions(_)) => left.next().expect("a reply a group"),
            Err(error) => {
                let why = match failure(error) {
                    Failure::Unknown(detail) => return Err(Trouble::Unknown(detail)),
                    Failure::Refused(why) => why,
                };
                // None of BEGIN, nor of the marker.
                let begun = replies.first().is_some_and(Result::is_ok);
                let group = if begun { left.next() } else { None };
                let at = group.map(|group| group.items[0].0);
                return Err(Trouble::Failed(verdict.failed(batch, at, why)));
            }
        };
        let Ok(reply) = reply else { continue };
        for ((member, _), rows) in group.items.iter().zip(rows_of(reply, group.items.len())?) {
            verdict.note(&batch.members, *member, group.statement.judge(rows), rows);
        }
    }
    verdict.declined(batch).map(|declined| (declined, marked)).map_err(Trouble::Failed)
}

/// Rows changed or found by each of a group's items.
fn rows_of(reply: &Reply, count: usize) -> Result<Vec<u64>, Trouble> {
    let rows = match reply {
        Reply::Rows(rows) => return Ok(vec![*rows]),
        Reply::Positions(rows) => rows,
        Reply::Done | Reply::Marked(_) => return Ok(Vec::new()),
    };
    let mut counts = vec![0; count];
    for row in rows {
        let position = match *row.columns()[0].type_() {
            Type::INT8 => row.try_get::<_, i64>(0),
            _ => row.try_get::<_, i32>(0).map(i64::from),
        };
        let position = position.ok().and_then(|position| usize::try_from(position).ok());
        let Some(counted) = position.and_then(|position| counts.get_mut(position)) else {
            let detail = "batch_sql answered with a member that it was not given".to_owned();
            let why = Declined::Technical { code: "bad_batch_sql".to_owned(), detail };
            return Err(Trouble::Failed(failed(why)));
        };
        *counted += 1;
    }
    Ok(counts)
}
