//! PostgreSQL in `presume bench commit`: tables, operations, and sessions of the bare protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presume::participants::postgres::{Options, Postgres};
use presume::participants::{OperationSql, Participant};
use presume::txn::{LogId, OperationName};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Statement};

use super::targets::{Voted, with_database};
use super::workload::{ACCOUNTS, Action, EMPTY_ACCOUNTS, Leg, OPENING_MINOR};

const DEBIT: &str =
    "UPDATE presume_bench SET balance = balance - $1 WHERE id = $2 AND balance >= $1";
const CREDIT: &str = "UPDATE presume_bench SET balance = balance + $1 WHERE id = $2";
const READ: &str = "SELECT 1 FROM presume_bench WHERE balance >= $1 AND id = $2";
const DEBITS: &str = "UPDATE presume_bench b SET balance = b.balance - v.amount
     FROM unnest($member::int[], $amount::bigint[], $account::text[]) AS v(member, amount, account)
     WHERE b.id = v.account AND b.balance >= v.amount RETURNING v.member";
const CREDITS: &str = "UPDATE presume_bench b SET balance = b.balance + v.amount
     FROM unnest($member::int[], $amount::bigint[], $account::text[]) AS v(member, amount, account)
     WHERE b.id = v.account RETURNING v.member";
const READS: &str = "SELECT v.member
     FROM unnest($member::int[], $at_least::bigint[], $account::text[])
         AS v(member, at_least, account)
     JOIN presume_bench b ON b.id = v.account WHERE b.balance >= v.at_least";
/// How long sessions that were closed may take to go, and with them the count of their flushes.
const GONE_MAX: Duration = Duration::from_secs(5);

/// A database with the accounts of the bench.
#[derive(Clone)]
pub(super) struct Database {
    url: String,
    server: String,
}

impl Database {
    /// That of the n-th participant at a server, made and filled.
    pub(super) async fn open(server: &str, n: usize) -> anyhow::Result<Self> {
        let (url, name) = with_database(server, n)?;
        if let Some(name) = name {
            let client = connect(server).await?;
            match client.batch_execute(&format!("CREATE DATABASE {name}")).await {
                Err(error) if error.code() != Some(&SqlState::DUPLICATE_DATABASE) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        let client = connect(&url).await?;
        let accounts = format!(
            "DROP TABLE IF EXISTS presume_bench;
             CREATE TABLE presume_bench (id text PRIMARY KEY, balance bigint NOT NULL)
                 WITH (fillfactor = 50);
             INSERT INTO presume_bench SELECT 'a' || n, {OPENING_MINOR}
                 FROM generate_series(0, {ACCOUNTS} - 1) n;
             INSERT INTO presume_bench SELECT 'e' || n, 0
                 FROM generate_series(0, {EMPTY_ACCOUNTS} - 1) n"
        );
        client.batch_execute(&accounts).await?;
        client.batch_execute("VACUUM ANALYZE presume_bench").await?;
        Ok(Self { url, server: server.to_owned() })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Flushes of the server's journal. A session tells of its own at the latest when it ends, so
    /// these are waited for.
    pub(super) async fn flushes(&self) -> anyhow::Result<Option<u64>> {
        let client = connect(&self.server).await?;
        let others = "SELECT count(*) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let until = tokio::time::Instant::now() + GONE_MAX;
        while client.query_one(others, &[]).await?.get::<_, i64>(0) > 0 {
            if tokio::time::Instant::now() > until {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match client.query_one("SELECT wal_sync FROM pg_stat_wal", &[]).await {
            Ok(row) => Ok(u64::try_from(row.get::<_, i64>(0)).ok()),
            // Before version 14.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn operations() -> anyhow::Result<BTreeMap<OperationName, OperationSql>> {
        let operation = |name: &str, sql: &str, amount: &str, batch_sql: &str| {
            let sql = sql.replace("$1", amount).replace("$2", "$account");
            let operation = OperationSql {
                locks: Some(vec!["account/$account".to_owned()]),
                batch_sql: Some(batch_sql.to_owned()),
                ..OperationSql::new(sql, Some(1))
            };
            anyhow::Ok((OperationName::new(name)?, operation))
        };
        Ok(BTreeMap::from([
            operation("debit", DEBIT, "$amount", DEBITS)?,
            operation("credit", CREDIT, "$amount", CREDITS)?,
            operation("assert_balance", READ, "$at_least", READS)?,
        ]))
    }

    pub(super) async fn participant(
        &self,
        connections_max: usize,
    ) -> anyhow::Result<Arc<dyn Participant>> {
        let options = Options { connections_max, ..Options::new(&self.url, Self::operations()?) };
        let database = Postgres::new(options)?;
        database.init().await.map_err(|why| anyhow::anyhow!("{why}"))?;
        Ok(Arc::new(database))
    }

    /// A session of the bare protocol.
    pub(super) async fn side(&self, participant: usize, run: LogId) -> anyhow::Result<Side> {
        let client = connect(&self.url).await?;
        // Two transfers over the same two accounts may wait for each other at different servers.
        client.batch_execute("SET lock_timeout = '200ms'").await?;
        let debit = client.prepare(DEBIT).await?;
        let credit = client.prepare(CREDIT).await?;
        let read = client.prepare(READ).await?;
        Ok(Side { client, debit, credit, read, participant, run })
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// One session.
pub(super) struct Side {
    client: Client,
    debit: Statement,
    credit: Statement,
    read: Statement,
    participant: usize,
    run: LogId,
}

impl Side {
    fn gid(&self, n: u64) -> String {
        format!("bare:{}:{n}:{}", self.run, self.participant)
    }

    pub(super) async fn prepare(&self, n: u64, leg: &Leg) -> anyhow::Result<Voted> {
        let (statement, last) = match leg.action {
            Action::Debit => (&self.debit, format!("PREPARE TRANSACTION '{}'", self.gid(n))),
            Action::Credit => (&self.credit, format!("PREPARE TRANSACTION '{}'", self.gid(n))),
            Action::Read => (&self.read, "COMMIT".to_owned()),
        };
        // Polled in this order, so sent in this order, in one message.
        let (begin, work, last) = tokio::join!(
            biased;
            self.client.batch_execute("BEGIN"),
            async { self.client.execute(statement, &[&leg.amount_minor, &leg.account]).await },
            self.client.batch_execute(&last)
        );
        begin.and(last)?;
        match work {
            Ok(1) if leg.action == Action::Read => Ok(Voted::ReadOnly),
            Ok(1) => Ok(Voted::Yes),
            Ok(_) => Ok(Voted::No),
            // The last statement has rolled back.
            Err(error) if undone(&error) => Ok(Voted::Undone),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn end(&self, n: u64, commit: bool) -> anyhow::Result<()> {
        let verb = if commit { "COMMIT" } else { "ROLLBACK" };
        Ok(self.client.batch_execute(&format!("{verb} PREPARED '{}'", self.gid(n))).await?)
    }
}

fn undone(error: &tokio_postgres::Error) -> bool {
    let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| codes.contains(code))
}
