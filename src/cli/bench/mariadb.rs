//! MariaDB in `presume bench commit`: tables, operations, and sessions of the bare protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use presume::participants::mysql::{Mysql, Options};
use presume::participants::{OperationSql, Participant};
use presume::txn::{LogId, OperationName};
use tokio::sync::Mutex;

use super::targets::{Voted, with_database};
use super::workload::{ACCOUNTS, Action, EMPTY_ACCOUNTS, Leg, OPENING_MINOR};

const DEBIT: &str = "UPDATE presume_bench SET balance = balance - $amount \
     WHERE id = $account AND balance >= $amount";
const CREDIT: &str = "UPDATE presume_bench SET balance = balance + $amount WHERE id = $account";
const READ: &str = "SELECT 1 FROM presume_bench WHERE id = $account AND balance >= $at_least";
const DEBIT_CHECK: &str = "SELECT v.member FROM $batch v \
     STRAIGHT_JOIN presume_bench b FORCE INDEX (PRIMARY) ON b.id = v.account \
     WHERE b.balance >= v.amount FOR UPDATE";
const CREDIT_CHECK: &str = "SELECT v.member FROM $batch v \
     STRAIGHT_JOIN presume_bench b FORCE INDEX (PRIMARY) ON b.id = v.account FOR UPDATE";
const DEBITS: &str = "UPDATE $batch v \
     STRAIGHT_JOIN presume_bench b FORCE INDEX (PRIMARY) ON b.id = v.account \
     SET b.balance = b.balance - v.amount";
const CREDITS: &str = "UPDATE $batch v \
     STRAIGHT_JOIN presume_bench b FORCE INDEX (PRIMARY) ON b.id = v.account \
     SET b.balance = b.balance + v.amount";
/// Waited too long for a lock; deadlock.
const UNDONE: [u16; 2] = [1205, 1213];

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
            let mut server = connect(server).await?;
            server.query_drop(format!("CREATE DATABASE IF NOT EXISTS {name}")).await?;
            server.disconnect().await?;
        }
        let mut client = connect(&url).await?;
        let filled = |letter: char, count: u64, balance: i64| {
            format!(
                "INSERT INTO presume_bench SELECT CONCAT('{letter}', seq), {balance}
                 FROM seq_0_to_{}",
                count - 1
            )
        };
        for sql in [
            "DROP TABLE IF EXISTS presume_bench".to_owned(),
            "CREATE TABLE presume_bench (id varchar(20) PRIMARY KEY, balance bigint NOT NULL)
                 ENGINE InnoDB CHARACTER SET ascii COLLATE ascii_bin"
                .to_owned(),
            filled('a', ACCOUNTS, OPENING_MINOR),
            filled('e', EMPTY_ACCOUNTS, 0),
        ] {
            client.query_drop(sql).await?;
        }
        client.disconnect().await?;
        Ok(Self { url, server: server.to_owned() })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Flushes of the server's journal since it started; MariaDB counts them no more since 10.8.
    pub(super) async fn flushes(&self) -> anyhow::Result<Option<u64>> {
        let mut client = connect(&self.server).await?;
        let sql = "SHOW GLOBAL STATUS LIKE 'Innodb_os_log_fsyncs'";
        let row: Option<(String, u64)> = client.query_first(sql).await?;
        client.disconnect().await?;
        Ok(row.map(|(_, count)| count))
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn operations() -> anyhow::Result<BTreeMap<OperationName, OperationSql>> {
        let operation = |name: &str, sql: &str, many: Option<(&str, &str)>| {
            let operation = OperationSql {
                locks: Some(vec!["account/$account".to_owned()]),
                batch_check: many.map(|(check, _)| check.to_owned()),
                batch_sql: many.map(|(_, sql)| sql.to_owned()),
                ..OperationSql::new(sql, Some(1))
            };
            anyhow::Ok((OperationName::new(name)?, operation))
        };
        Ok(BTreeMap::from([
            operation("debit", DEBIT, Some((DEBIT_CHECK, DEBITS)))?,
            operation("credit", CREDIT, Some((CREDIT_CHECK, CREDITS)))?,
            operation("assert_balance", READ, None)?,
        ]))
    }

    pub(super) async fn participant(
        &self,
        connections_max: usize,
    ) -> anyhow::Result<Arc<dyn Participant>> {
        let options = Options { connections_max, ..Options::new(&self.url, Self::operations()?) };
        let database = Mysql::new(options)?;
        database.init().await.map_err(|why| anyhow::anyhow!("{why}"))?;
        Ok(Arc::new(database))
    }

    /// A session of the bare protocol.
    pub(super) async fn side(&self, participant: usize, run: LogId) -> anyhow::Result<Side> {
        let mut client = connect(&self.url).await?;
        // Two transfers over the same two accounts may wait for each other at different servers.
        client.query_drop("SET innodb_lock_wait_timeout = 1").await?;
        Ok(Side { client: Mutex::new(client), participant, run })
    }
}

/// Sessions count the rows that an update finds, as our participant's do.
async fn connect(url: &str) -> anyhow::Result<Conn> {
    let options = OptsBuilder::from_opts(Opts::from_url(url)?).client_found_rows(true);
    Ok(Conn::new(options).await?)
}

/// One session. Its client does one thing at a time.
pub(super) struct Side {
    client: Mutex<Conn>,
    participant: usize,
    run: LogId,
}

impl Side {
    fn xid(&self, n: u64) -> String {
        // At most 64 bytes.
        format!("'bare:{}:{n}:{}'", self.run.0.simple(), self.participant)
    }

    /// One message with all statements: accounts are ours, numbers behind a letter.
    pub(super) async fn prepare(&self, n: u64, leg: &Leg) -> anyhow::Result<Voted> {
        let (xid, account) = (self.xid(n), format!("'{}'", leg.account));
        let amount = leg.amount_minor.to_string();
        let filled = |sql: &str| {
            let sql = sql.replace("$account", &account);
            sql.replace("$amount", &amount).replace("$at_least", &amount)
        };
        let sql = match leg.action {
            Action::Debit => filled(DEBIT),
            Action::Credit => filled(CREDIT),
            Action::Read => format!("START TRANSACTION READ ONLY; {}; COMMIT", filled(READ)),
        };
        let mut client = self.client.lock().await;
        if leg.action == Action::Read {
            let mut results = client.query_iter(sql).await?;
            let mut found = 0;
            while !results.is_empty() {
                found += results.collect::<u8>().await?.len();
            }
            return Ok(if found == 1 { Voted::ReadOnly } else { Voted::No });
        }
        let sql = format!("XA START {xid}; {sql}; XA END {xid}; XA PREPARE {xid}");
        match changed(&mut client, sql).await {
            Ok(1) => Ok(Voted::Yes),
            Ok(_) => Ok(Voted::No),
            Err(mysql_async::Error::Server(error)) if UNDONE.contains(&error.code) => {
                // The server leaves the branch open, or has marked it to be rolled back.
                let _ = client.query_drop(format!("XA END {xid}")).await;
                client.query_drop(format!("XA ROLLBACK {xid}")).await?;
                Ok(Voted::Undone)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn end(&self, n: u64, commit: bool) -> anyhow::Result<()> {
        let verb = if commit { "COMMIT" } else { "ROLLBACK" };
        let sql = format!("XA {verb} {}", self.xid(n));
        Ok(self.client.lock().await.query_drop(sql).await?)
    }
}

/// Rows that all of the statements have found.
async fn changed(client: &mut Conn, sql: String) -> mysql_async::Result<u64> {
    let mut results = client.query_iter(sql).await?;
    let mut rows = results.affected_rows();
    // Each call goes on to the next statement's result.
    for _ in 1..4 {
        results.for_each(drop).await?;
        rows += results.affected_rows();
    }
    results.drop_result().await?;
    Ok(rows)
}
