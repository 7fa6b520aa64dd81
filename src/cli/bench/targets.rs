//! Who holds the money, and the bare protocol that anybody pays there.
//!
//! The bare protocol is work and prepare at every participant at once, then commit at every one; a
//! participant that only reads is not asked again. A database does each phase in one round trip.
//! No marker, no log, no predictions.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use presume::participants::Participant;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use presume::txn::{Ack, BranchIndex, Declined, Epoch, Gid, LogId, PhysicalId, Vote};
use tokio::time::Instant;
use uuid::Uuid;

use super::load::{Ended, Load, Run};
use super::workload::{ACCOUNTS, EMPTY_ACCOUNTS, Leg, OPENING_MINOR, PARTICIPANTS, Workload};
use super::{load, mariadb, postgres};

/// Sessions at each database at most: more would only wait for the processor.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Between what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kinds {
    /// Embedded ledgers
    Embedded,
    /// Databases of two PostgreSQL servers, `LEFT_URL` and `RIGHT_URL`
    Postgres,
    /// Databases of a PostgreSQL and a MariaDB server, `LEFT_URL` and `MARIADB_URL`
    Mixed,
}

/// One participant.
#[derive(Clone)]
pub(super) enum Target {
    Embedded(Ledger),
    Postgres(postgres::Database),
    Mariadb(mariadb::Database),
}

/// How a branch of the bare protocol voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voted {
    Yes,
    /// It only read, and has ended.
    ReadOnly,
    /// A condition was not met.
    No,
    /// Undone for another reason, such as a lock that was waited for too long.
    Undone,
}

/// A session of the bare protocol.
pub(super) enum Side {
    Embedded { ledger: Ledger, log: LogId, participant: usize },
    Postgres(postgres::Side),
    Mariadb(mariadb::Side),
}

impl Kinds {
    /// As many participants, filled with accounts.
    pub(super) async fn open(self, count: usize, data: &Path) -> anyhow::Result<Vec<Target>> {
        let mut targets = Vec::new();
        for (n, name) in PARTICIPANTS.into_iter().enumerate().take(count) {
            // Both servers have participants by turns, each in a database of its own.
            targets.push(match (self, n % 2) {
                (Self::Embedded, _) => Target::Embedded(open_ledger(data, name).await?),
                (Self::Mixed, 1) => {
                    let database = mariadb::Database::open(&url("MARIADB_URL")?, n / 2).await?;
                    Target::Mariadb(database)
                }
                (_, side) => {
                    let server = url(["LEFT_URL", "RIGHT_URL"][side])?;
                    Target::Postgres(postgres::Database::open(&server, n / 2).await?)
                }
            });
        }
        Ok(targets)
    }
}

/// The shared start of every participant's URL.
fn url(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| {
        format!("{name} names no database; try: scripts/with-servers presume bench commit …")
    })
}

/// The same server's database for the n-th participant there.
pub(super) fn with_database(url: &str, n: usize) -> anyhow::Result<(String, Option<String>)> {
    if n == 0 {
        return Ok((url.to_owned(), None));
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (server, database) = base.rsplit_once('/').context("a URL names no database")?;
    anyhow::ensure!(!server.ends_with('/'), "{server:?} names no database");
    let name = format!("{database}_presume_bench_{n}");
    let mark = if query.is_empty() { "" } else { "?" };
    Ok((format!("{server}/{name}{mark}{query}"), Some(name)))
}

/// A ledger in `data`, with accounts.
pub(super) async fn open_ledger(data: &Path, name: &str) -> anyhow::Result<Ledger> {
    let ledger = Ledger::open(&ledger::folder(data, name)?, ledger::Options::default())?;
    let account = |i| NewAccount {
        id: format!("a{i}"),
        opening_minor: OPENING_MINOR,
        overdraft: Overdraft::Refused,
    };
    let empty = |i| NewAccount { id: format!("e{i}"), opening_minor: 0, ..account(0) };
    let accounts = (0..ACCOUNTS).map(account).chain((0..EMPTY_ACCOUNTS).map(empty));
    ledger.open_accounts(&accounts.collect::<Vec<_>>()).await?;
    Ok(ledger)
}

impl Target {
    /// For a coordinator, with so many sessions.
    pub(super) async fn participant(
        &self,
        connections_max: usize,
    ) -> anyhow::Result<Arc<dyn Participant>> {
        Ok(match self {
            Self::Embedded(ledger) => Arc::new(ledger.clone()),
            Self::Postgres(database) => database.participant(connections_max).await?,
            Self::Mariadb(database) => database.participant(connections_max).await?,
        })
    }

    /// The same for a server process, which has ledgers of its own: what its configuration says.
    pub(super) fn section(&self) -> anyhow::Result<toml::Table> {
        let (kind, url, operations) = match self {
            Self::Embedded(_) => return Ok(toml::Table::from_iter([kind("embedded")])),
            Self::Postgres(database) => {
                ("postgres", database.url(), postgres::Database::operations()?)
            }
            Self::Mariadb(database) => ("mysql", database.url(), mariadb::Database::operations()?),
        };
        Ok(toml::Table::from_iter([
            self::kind(kind),
            ("url".to_owned(), url.into()),
            ("connections_max".to_owned(), toml::Value::try_from(CONNECTIONS_MAX)?),
            ("operations".to_owned(), toml::Value::try_from(operations)?),
        ]))
    }

    async fn side(&self, participant: usize, log: LogId) -> anyhow::Result<Side> {
        Ok(match self {
            Self::Embedded(ledger) => Side::Embedded { ledger: ledger.clone(), log, participant },
            Self::Postgres(database) => Side::Postgres(database.side(participant, log).await?),
            Self::Mariadb(database) => Side::Mariadb(database.side(participant, log).await?),
        })
    }

    /// Sees to it that the books balance, where there are books.
    pub(super) async fn verify(&self) -> anyhow::Result<()> {
        let Self::Embedded(ledger) = self else { return Ok(()) };
        let problems = ledger.verify().await?.problems;
        anyhow::ensure!(problems.is_empty(), "a ledger does not balance: {problems:?}");
        Ok(())
    }
}

fn kind(name: &str) -> (String, toml::Value) {
    ("kind".to_owned(), name.into())
}

/// Flushes of all participants since they started; each server once. `None` where a server does
/// not tell, or has sessions whose flushes it does not know yet.
pub(super) async fn flushes(targets: &[Target]) -> anyhow::Result<Option<u64>> {
    let (mut sum, mut servers) = (0, std::collections::HashSet::new());
    for target in targets {
        let counted = match target {
            Target::Embedded(ledger) => Some(ledger.flushes()),
            Target::Postgres(database) if servers.insert(database.server().to_owned()) => {
                database.flushes().await?
            }
            Target::Mariadb(database) if servers.insert(database.server().to_owned()) => {
                database.flushes().await?
            }
            Target::Postgres(_) | Target::Mariadb(_) => Some(0),
        };
        let Some(counted) = counted else { return Ok(None) };
        sum += counted;
    }
    Ok(Some(sum))
}

impl Side {
    async fn prepare(&self, n: u64, leg: &Leg) -> anyhow::Result<Voted> {
        match self {
            Self::Embedded { ledger, log, participant } => {
                let operations = [leg.operation(*participant)];
                match ledger.prepare(gid(*log, n, *participant), &operations).await {
                    Vote::Yes => Ok(Voted::Yes),
                    Vote::ReadOnly => Ok(Voted::ReadOnly),
                    Vote::No(Declined::Business { .. }) => Ok(Voted::No),
                    vote => anyhow::bail!("the ledger votes {vote:?}"),
                }
            }
            Self::Postgres(side) => side.prepare(n, leg).await,
            Self::Mariadb(side) => side.prepare(n, leg).await,
        }
    }

    async fn end(&self, n: u64, voted: Voted, commit: bool) -> anyhow::Result<()> {
        match (self, voted) {
            (_, Voted::ReadOnly | Voted::Undone) | (Self::Embedded { .. }, Voted::No) => Ok(()),
            (Self::Embedded { ledger, log, participant }, Voted::Yes) => {
                let gid = gid(*log, n, *participant);
                let ack = if commit { ledger.commit(gid).await } else { ledger.abort(gid).await };
                anyhow::ensure!(ack == Ack::Done, "the ledger answers {ack:?}");
                Ok(())
            }
            (Self::Postgres(side), _) => side.end(n, commit).await,
            (Self::Mariadb(side), _) => side.end(n, commit).await,
        }
    }
}

fn gid(log: LogId, n: u64, participant: usize) -> Gid {
    let branch = BranchIndex(participant as u16);
    Gid { log, epoch: Epoch(1), physical: PhysicalId(n), branch }
}

/// The bare protocol by `clients` clients, each with a session at every participant.
pub(super) async fn bare(
    targets: &[Target],
    workload: &Arc<Workload>,
    clients: usize,
    load: Load,
    length: Duration,
) -> anyhow::Result<Run> {
    let log = LogId(Uuid::new_v4());
    for target in targets {
        if let Target::Embedded(ledger) = target {
            ledger.claim_epoch(log, Epoch(1)).await.map_err(|why| anyhow::anyhow!("{why:?}"))?;
        }
    }
    let before = flushes(targets).await?;
    let mut sessions = Vec::new();
    for _ in 0..clients {
        let mut sides = Vec::new();
        for (participant, target) in targets.iter().enumerate() {
            sides.push(target.side(participant, log).await?);
        }
        sessions.push(Arc::new(sides));
    }
    let workload = workload.clone();
    let work = move |client: usize, n: u64| {
        let (sides, transfer) = (sessions[client].clone(), workload.transfer(n));
        async move {
            let started = Instant::now();
            let legs = sides.iter().zip(&transfer.legs);
            let votes = legs.map(|(side, leg)| side.prepare(n, leg));
            let votes = futures_util::future::try_join_all(votes).await?;
            let voted = started.elapsed();
            let commit = votes.iter().all(|vote| matches!(vote, Voted::Yes | Voted::ReadOnly));
            let ends = sides.iter().zip(&votes).map(|(side, vote)| side.end(n, *vote, commit));
            futures_util::future::try_join_all(ends).await?;
            let undone = votes.contains(&Voted::Undone);
            let ended = match (undone, commit, transfer.declined) {
                (true, ..) => Ended::Failed,
                (_, true, false) => Ended::Committed,
                (_, false, true) => Ended::Declined,
                (.., declined) => anyhow::bail!("transfer {n} was to be declined: {declined}"),
            };
            Ok((ended, voted.as_secs_f64() * 1e3))
        }
    };
    let mut run = load::run(load, length, work).await?;
    let flushed = flushes(targets).await?.zip(before).map(|(after, before)| after - before);
    run.flushes_participants = flushed.map(|count| count as f64 / run.committed.max(1) as f64);
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn a_server_has_a_database_for_each_participant() {
        let check = |url: &str, n, expected: Option<&str>| {
            let got = with_database(url, n).ok().map(|(url, _)| url);
            assert_eq!(got.as_deref(), expected, "{url}");
        };
        check(
            "postgres://u@h:1/bank?sslmode=disable",
            0,
            Some("postgres://u@h:1/bank?sslmode=disable"),
        );
        let second = "postgres://u@h:1/bank_presume_bench_1?sslmode=disable";
        check("postgres://u@h:1/bank?sslmode=disable", 1, Some(second));
        check("mysql://u:p@h/bank", 2, Some("mysql://u:p@h/bank_presume_bench_2"));
        check("mysql://h", 1, None);
    }
}
