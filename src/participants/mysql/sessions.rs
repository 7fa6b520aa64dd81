//! The sessions of one epoch: bounded, known to the server by a name, and never reused when
//! something about them is unclear.
//!
//! # Identity
//! Every session holds a lock of the server by the name of its log id and its place
//! (`GET_LOCK('presume:<log id>:<place>')`). The server gives it back when the session has ended,
//! after its branch was detached; so whoever asks for the names knows which sessions of this log
//! are there, and when they are gone. Neither connection attributes (they need the performance
//! schema, off by default in MariaDB) nor a table of sessions (it outlives them, and connection
//! ids come again after a restart of the server) can be relied on. Once it has its name, a session
//! looks whether its epoch is the claimed one: a claim first stores the epoch, then ends whoever
//! has a name.
//!
//! # Capacity
//! A prepared branch keeps its session to itself. So some sessions are reserved for those who
//! commit, abort and inquire: work gets only the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::TryStreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, Params, Row, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::errors::{self, NO_SUCH_SESSION, text};
use super::{Options, connection, schema};
use crate::txn::{Epoch, LogId};

/// Places of a log at a server; a session's name has one. As many as one look asks for.
pub(super) const PLACES: u32 = 512;
/// A session that idled longer is asked whether it is still there.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);

/// How long a server may still be busy with a session whose name is free again: until then nobody
/// else ends its branch (see `settle`).
const DETACHED_AFTER: Duration = Duration::from_millis(200);

/// Places that are taken, and by which session; and when the last session was seen to end.
struct Roster {
    live: BTreeMap<u32, u32>,
    last_end: Instant,
}

type Shared = Arc<Mutex<Roster>>;

fn roster() -> Shared {
    Arc::new(Mutex::new(Roster { live: BTreeMap::new(), last_end: Instant::now() }))
}

/// Sessions of one epoch.
pub(super) struct Sessions {
    opts: Opts,
    settings: String,
    log: LogId,
    epoch: Epoch,
    process: Uuid,
    connect_timeout: Duration,
    /// The longest that an answer may take: the server ends everything before.
    answer_timeout: Duration,
    permits: Arc<Semaphore>,
    /// Permits of branches at work, prepared, or both.
    work: Arc<Semaphore>,
    roster: Shared,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// An open connection and its place.
struct Connection {
    conn: Conn,
    place: Option<u32>,
    roster: Shared,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut roster = self.roster.lock().expect("no panic while held");
            roster.live.remove(&place);
            roster.last_end = Instant::now();
        }
    }
}

/// A session in somebody's hands. Dropped it is closed; [`Session::give_back`] keeps it.
pub(super) struct Session {
    connection: Connection,
    answer_timeout: Duration,
    broken: bool,
    home: Option<Home>,
}

/// What one statement of a message came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// How many rows it changed or found.
    pub(super) rows: u64,
    /// The first value of its first row.
    pub(super) first: Option<String>,
}

struct Home {
    sessions: Arc<Sessions>,
    permit: OwnedSemaphorePermit,
}

impl Sessions {
    pub(super) fn new(
        options: &Options,
        opts: Opts,
        (log, epoch): (LogId, Epoch),
        process: Uuid,
    ) -> Self {
        let work = options.connections_max - options.connections_reserve;
        Self {
            opts,
            settings: connection::settings(options),
            log,
            epoch,
            process,
            connect_timeout: options.connect_timeout,
            answer_timeout: answer_timeout(options),
            permits: Arc::new(Semaphore::new(options.connections_max)),
            work: Arc::new(Semaphore::new(work)),
            roster: roster(),
            idle: Mutex::default(),
        }
    }

    /// Whether these are the sessions of that epoch.
    pub(super) fn are_of(&self, log: LogId, epoch: Epoch) -> bool {
        self.log == log && self.epoch == epoch
    }

    /// The right to a branch; `None` if none became free in time.
    pub(super) async fn work_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = timeout(self.connect_timeout, self.work.clone().acquire_owned()).await;
        permit.ok()?.ok()
    }

    /// A session, or why there is none, in one line.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Session, String> {
        let waiting = self.permits.clone().acquire_owned();
        let permit = timeout(self.answer_timeout, waiting).await;
        let permit = permit.map_err(|_| "no session became free in time".to_owned())?;
        let permit = permit.expect("never closed");
        let home = Some(Home { sessions: self.clone(), permit });
        let answer_timeout = self.answer_timeout;
        loop {
            let idle = self.idle.lock().expect("no panic while held").pop();
            let Some((mut connection, since)) = idle else { break };
            let trusted = since.elapsed() < IDLE_TRUSTED;
            if trusted || answers(&mut connection.conn, self.connect_timeout).await {
                return Ok(Session { connection, answer_timeout, broken: false, home });
            }
        }
        let opened = timeout(self.connect_timeout, self.open()).await;
        let connection = opened.map_err(|_| "no connection in time".to_owned())??;
        Ok(Session { connection, answer_timeout, broken: false, home })
    }

    async fn open(&self) -> Result<Connection, String> {
        let conn = Conn::new(self.opts.clone()).await.map_err(|error| text(&error))?;
        let mut connection = Connection { conn, place: None, roster: self.roster.clone() };
        connection.conn.query_drop(&self.settings).await.map_err(|error| text(&error))?;
        self.name(&mut connection).await?;
        let claimed: Option<(u64, Vec<u8>)> = connection
            .conn
            .query_first(schema::claimed(self.log))
            .await
            .map_err(|error| text(&error))?;
        match claimed {
            Some((epoch, by)) if epoch == self.epoch.0 && by == self.process.as_bytes() => {
                Ok(connection)
            }
            Some((epoch, _)) => Err(format!(
                "the database knows epoch {epoch} of this log, the session is of {}",
                self.epoch.0
            )),
            None => Err("the database does not know this log any more".to_owned()),
        }
    }

    /// Gives a session the first name that is free here and at the server.
    async fn name(&self, connection: &mut Connection) -> Result<(), String> {
        let mut first = 0;
        loop {
            let place = {
                let live = &mut self.roster.lock().expect("no panic while held").live;
                let free = (first..PLACES).find(|place| !live.contains_key(place));
                let place = free.ok_or("every name of a session is taken at the server")?;
                live.insert(place, connection.conn.id());
                place
            };
            connection.place = Some(place);
            let lock = format!("SELECT GET_LOCK('{}{place}', 0)", prefix(self.log));
            let locked: Result<Option<Option<i64>>, Error> =
                connection.conn.query_first(lock).await;
            if locked.map_err(|error| text(&error))? == Some(Some(1)) {
                return Ok(());
            }
            // Another process has it, or a session that is about to end.
            self.roster.lock().expect("no panic while held").live.remove(&place);
            connection.place = None;
            first = place + 1;
        }
    }

    /// Every session of this log that is not one of these.
    pub(super) async fn others(&self, session: &mut Session) -> Result<Vec<u64>, Error> {
        let sql = format!(
            "WITH RECURSIVE places (place) AS \
             (SELECT 0 UNION ALL SELECT place + 1 FROM places WHERE place < {PLACES} - 1) \
             SELECT IS_USED_LOCK(CONCAT('{}', place)) FROM places",
            prefix(self.log)
        );
        // Ours are known before their names are.
        let named = session.rows(&sql).await?;
        let live: Vec<u64> = {
            let live = &self.roster.lock().expect("no panic while held").live;
            live.values().map(|id| u64::from(*id)).collect()
        };
        let ids = named.iter().filter_map(|row| row.get::<Option<u64>, _>(0).flatten());
        Ok(ids.filter(|id| !live.contains(id)).collect())
    }

    /// Tells these sessions to end; answers how many there were.
    pub(super) async fn end_others(&self, session: &mut Session) -> Result<usize, Error> {
        let others = self.others(session).await?;
        for id in &others {
            match session.run(&format!("KILL CONNECTION {id}")).await {
                Err(error) if errors::code(&error) != Some(NO_SUCH_SESSION) => return Err(error),
                _ => {}
            }
        }
        if !others.is_empty() {
            self.roster.lock().expect("no panic while held").last_end = Instant::now();
        }
        Ok(others.len())
    }

    /// Waits until the server has let go of every session that was seen to end.
    pub(super) async fn detached(&self) {
        let last_end = self.roster.lock().expect("no panic while held").last_end;
        tokio::time::sleep_until(last_end + DETACHED_AFTER).await;
    }

    fn keep(&self, connection: Connection) {
        self.idle.lock().expect("no panic while held").push((connection, Instant::now()));
    }

    /// The server was lost: the sessions that idle were, most likely, too.
    fn forget_idle(&self) {
        self.idle.lock().expect("no panic while held").clear();
    }
}

/// What the sessions of a log are called, up to their place.
fn prefix(log: LogId) -> String {
    format!("presume:{log}:")
}

fn answer_timeout(options: &Options) -> Duration {
    options.listening_horizon * 2 + options.connect_timeout
}

async fn answers(conn: &mut Conn, within: Duration) -> bool {
    matches!(timeout(within, conn.ping()).await, Ok(Ok(())))
}

impl Session {
    /// A session without name and epoch, for a look around.
    pub(super) async fn visit(options: &Options, opts: Opts) -> Result<Self, String> {
        let opened = async {
            let mut conn = Conn::new(opts).await?;
            conn.query_drop(connection::settings(options)).await?;
            Ok::<_, Error>(Connection { conn, place: None, roster: roster() })
        };
        let opened = timeout(options.connect_timeout, opened).await;
        let connection = opened
            .map_err(|_| "no connection in time".to_owned())?
            .map_err(|error| text(&error))?;
        let answer_timeout = answer_timeout(options);
        Ok(Self { connection, answer_timeout, broken: false, home: None })
    }

    /// Keeps the session for others, if it is as it was found.
    pub(super) fn give_back(self) {
        let Self { connection, broken, home, .. } = self;
        let Some(home) = home else { return };
        if broken {
            return;
        }
        // First the session, then the permit: else another one could be opened in between.
        home.sessions.keep(connection);
        drop(home.permit);
    }

    /// Runs statements of ours in one message, up to the first that fails.
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Error> {
        let ended = timeout(self.answer_timeout, self.connection.conn.query_drop(sql)).await;
        self.note(ended.unwrap_or_else(|_| Err(errors::late())))
    }

    /// The rows of a statement of ours.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        let rows = timeout(self.answer_timeout, self.connection.conn.query(sql)).await;
        self.note(rows.unwrap_or_else(|_| Err(errors::late())))
    }

    /// Whether the server takes a statement.
    pub(super) async fn try_statement(&mut self, sql: &str) -> Result<(), Error> {
        let prepared = timeout(self.answer_timeout, self.connection.conn.prep(sql)).await;
        self.note(prepared.unwrap_or_else(|_| Err(errors::late())).map(drop))
    }

    /// Executes an operation: how many rows it changed or found.
    pub(super) async fn execute(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, Error> {
        let conn = &mut self.connection.conn;
        let executed = timeout(self.answer_timeout, async {
            let params = if values.is_empty() { Params::Empty } else { Params::Positional(values) };
            let mut result = conn.exec_iter(sql, params).await?;
            let rows = if result.columns_ref().is_empty() {
                result.affected_rows()
            } else {
                let mut found = 0;
                result.for_each(|_| found += 1).await?;
                found
            };
            result.drop_result().await?;
            Ok(rows)
        });
        let executed = executed.await;
        self.note(executed.unwrap_or_else(|_| Err(errors::late())))
    }

    /// Runs so many statements in one message, up to the first that fails: what each came to, and
    /// that error.
    pub(super) async fn carry(&mut self, sql: &str, count: usize) -> (Vec<Outcome>, Option<Error>) {
        let mut outcomes = Vec::with_capacity(count);
        let conn = &mut self.connection.conn;
        let carried = timeout(self.answer_timeout, carry(conn, sql, count, &mut outcomes)).await;
        let carried = self.note(carried.unwrap_or_else(|_| Err(errors::late())));
        (outcomes, carried.err())
    }

    /// Nobody gets it again.
    pub(super) fn distrust(&mut self) {
        self.broken = true;
    }

    /// After an error of the connection nobody gets it again.
    fn note<T>(&mut self, answer: Result<T, Error>) -> Result<T, Error> {
        if answer.as_ref().is_err_and(errors::ends_the_session) {
            self.broken = true;
            if let Some(home) = &self.home {
                home.sessions.forget_idle();
            }
        }
        answer
    }
}

async fn carry(
    conn: &mut Conn,
    sql: &str,
    count: usize,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Error> {
    let mut result = conn.query_iter(sql).await?;
    while let Some(mut answer) = result.stream::<Row>().await? {
        let mut outcome = Outcome::default();
        if answer.columns_ref().is_empty() {
            outcome.rows = answer.affected_rows();
        }
        while let Some(row) = answer.try_next().await? {
            if outcome.rows == 0 {
                outcome.first = row.get::<Option<String>, _>(0).flatten();
            }
            outcome.rows += 1;
        }
        outcomes.push(outcome);
    }
    if outcomes.len() == count { Ok(()) } else { Err(errors::out_of_step()) }
}
