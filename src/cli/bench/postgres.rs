//! `presume bench commit --participants postgres`: transfers between two PostgreSQL servers, beside
//! the bare protocol on the same servers.
//!
//! The bare protocol is what anybody pays: BEGIN, one UPDATE and PREPARE in one round trip to each
//! server at once, then COMMIT PREPARED on both; no guard, no marker, no log, no predictions. The
//! steps between it and Presume are measured, too, each for what one thing costs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use presume::coordinator::Wait;
use presume::participants::postgres::{Options, Postgres};
use presume::participants::{OperationSql, Participant};
use presume::txn::{OperationName, ParticipantName};
use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, Statement};

use super::commit::{ACCOUNTS, Args, PARTICIPANTS, Run, closed_loop, coordinate};
use crate::cli::{Progress, print, print_json};

const DEBIT: &str =
    "UPDATE presume_bench SET balance = balance - $1 WHERE id = $2 AND balance >= $1";
const CREDIT: &str = "UPDATE presume_bench SET balance = balance + $1 WHERE id = $2";
const DEBITS: &str = "UPDATE presume_bench b SET balance = b.balance - v.amount
     FROM unnest($member::int[], $amount::bigint[], $account::text[]) AS v(member, amount, account)
     WHERE b.id = v.account AND b.balance >= v.amount RETURNING v.member";
const CREDITS: &str = "UPDATE presume_bench b SET balance = b.balance + v.amount
     FROM unnest($member::int[], $amount::bigint[], $account::text[]) AS v(member, amount, account)
     WHERE b.id = v.account RETURNING v.member";
/// Sessions of ours at each server: more would only wait for the processor.
const CONNECTIONS_MAX: usize = 64;
/// As a branch of ours does it, with a key of its own.
const MARK: &str = "INSERT INTO presume_bench_marker (id, side) VALUES ($1, $2)";

/// One number of clients.
#[derive(Debug, Serialize)]
struct Figures {
    clients: usize,
    bare: Run,
    /// The bare protocol with a marker row in each branch.
    marker: Run,
    /// Presume with everything but predictions, answering when all is applied.
    applied: Run,
    /// Presume with everything, answering at the decision.
    presume: Run,
    /// Transfers a second of `presume` over those of `bare`.
    throughput_ratio: f64,
    /// Median answer of `presume` over that of `bare`.
    p50_ratio: f64,
}

pub async fn run(args: &Args, data: &Path) -> anyhow::Result<()> {
    let [left, right] = urls()?;
    for url in [&left, &right] {
        prepare(url).await?;
    }
    let mut all = Vec::new();
    for &clients in &args.in_flight {
        let progress = Progress::spinner(format!("{clients} clients"), args.json);
        let length = Duration::from_secs(args.seconds.max(1));
        let bare_clients = clients.min(CONNECTIONS_MAX);
        let bare = bare(&left, &right, bare_clients, length, false).await?;
        let marker = self::bare(&left, &right, bare_clients, length, true).await?;
        let folder = data.join(format!("applied-{clients}"));
        let applied = ours(args, &folder, [&left, &right], clients, Wait::Applied).await?;
        let folder = data.join(format!("decision-{clients}"));
        let presume = ours(args, &folder, [&left, &right], clients, Wait::Decision).await?;
        all.push(Figures {
            clients,
            throughput_ratio: presume.transfers_per_second / bare.transfers_per_second,
            p50_ratio: presume.answer_ms_p50 / bare.answer_ms_p50,
            bare,
            marker,
            applied,
            presume,
        });
        drop(progress);
    }
    if args.json {
        return print_json(&all);
    }
    print(&describe(&all))
}

fn describe(all: &[Figures]) -> String {
    let mut table = Table::new();
    table.set_header([
        "clients",
        "bare/s",
        "with marker",
        "applied",
        "presume",
        "ratio",
        "bare p50 ms",
        "presume p50 ms",
        "ratio",
    ]);
    for f in all {
        let rate = |run: &Run| format!("{:.0}", run.transfers_per_second);
        table.add_row([
            f.clients.to_string(),
            rate(&f.bare),
            rate(&f.marker),
            rate(&f.applied),
            rate(&f.presume),
            format!("{:.2}", f.throughput_ratio),
            format!("{:.2}", f.bare.answer_ms_p50),
            format!("{:.2}", f.presume.answer_ms_p50),
            format!("{:.2}", f.p50_ratio),
        ]);
    }
    format!("{table}\nbare: one round trip to PREPARE, one to COMMIT PREPARED, no log, no marker\n")
}

fn urls() -> anyhow::Result<[String; 2]> {
    let url = |name| {
        std::env::var(name).with_context(|| {
            format!("{name} names no database; try: scripts/with-postgres presume bench commit …")
        })
    };
    Ok([url("LEFT_URL")?, url("RIGHT_URL")?])
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Tables of our own, filled.
async fn prepare(url: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS presume_bench, presume_bench_marker;
             CREATE TABLE presume_bench (id text PRIMARY KEY, balance bigint NOT NULL)
                 WITH (fillfactor = 50);
             CREATE TABLE presume_bench_marker (id bigint, side int, PRIMARY KEY (id, side));
             INSERT INTO presume_bench SELECT 'a' || n, 1000000000
                 FROM generate_series(0, {ACCOUNTS} - 1) n"
        ))
        .await?;
    Ok(client.batch_execute("VACUUM ANALYZE presume_bench").await?)
}

/// One side of the bare protocol.
struct Side {
    client: Client,
    update: Statement,
    mark: Statement,
    number: i32,
}

impl Side {
    async fn open(url: &str, update: &str, number: i32) -> anyhow::Result<Self> {
        let client = connect(url).await?;
        let update = client.prepare(update).await?;
        let mark = client.prepare(MARK).await?;
        Ok(Self { client, update, mark, number })
    }

    fn gid(&self, n: u64) -> String {
        format!("bare-{n}-{}", self.number)
    }

    async fn prepare(&self, n: u64, account: u64, marker: bool) -> anyhow::Result<()> {
        let (id, account) = (i64::try_from(n)?, format!("a{account}"));
        let last = format!("PREPARE TRANSACTION '{}'", self.gid(n));
        let update = async { self.client.execute(&self.update, &[&100_i64, &account]).await };
        let mark = async {
            if marker {
                self.client.execute(&self.mark, &[&id, &self.number]).await?;
            }
            Ok(())
        };
        // Polled in this order, so sent in this order, in one message.
        let (begin, update, mark, last) = tokio::join!(
            biased;
            self.client.batch_execute("BEGIN"),
            update,
            mark,
            self.client.batch_execute(&last)
        );
        let mark: Result<(), tokio_postgres::Error> = mark;
        begin.and(mark).and(last)?;
        anyhow::ensure!(update? == 1, "an account is missing");
        Ok(())
    }

    async fn commit(&self, n: u64) -> anyhow::Result<()> {
        let commit = format!("COMMIT PREPARED '{}'", self.gid(n));
        Ok(self.client.batch_execute(&commit).await?)
    }
}

async fn bare(
    left: &str,
    right: &str,
    clients: usize,
    length: Duration,
    marker: bool,
) -> anyhow::Result<Run> {
    let mut sides = Vec::new();
    for _ in 0..clients {
        let pair = (Side::open(left, DEBIT, 0).await?, Side::open(right, CREDIT, 1).await?);
        sides.push(Arc::new(pair));
    }
    let transfer = move |client: usize, n: u64| {
        let pair = sides[client].clone();
        async move {
            let (from, to) = super::commit::accounts(n);
            let (left, right) = (&pair.0, &pair.1);
            let started = Instant::now();
            tokio::try_join!(left.prepare(n, from, marker), right.prepare(n, to, marker))?;
            let voted = started.elapsed();
            tokio::try_join!(left.commit(n), right.commit(n))?;
            Ok(voted.as_secs_f64() * 1e3)
        }
    };
    closed_loop(clients, length, transfer).await
}

async fn ours(
    args: &Args,
    data: &Path,
    urls: [&String; 2],
    clients: usize,
    wait: Wait,
) -> anyhow::Result<Run> {
    let mut participants: BTreeMap<ParticipantName, Arc<dyn Participant>> = BTreeMap::new();
    for (name, url) in PARTICIPANTS.into_iter().zip(urls) {
        let operation = |name: &str, sql: &str, batch_sql: &str| -> anyhow::Result<_> {
            let sql = sql.replace("$1", "$amount").replace("$2", "$account");
            let operation = OperationSql {
                locks: Some(vec!["account/$account".to_owned()]),
                batch_sql: Some(batch_sql.to_owned()),
                ..OperationSql::new(sql, Some(1))
            };
            Ok((OperationName::new(name)?, operation))
        };
        let operations =
            [operation("debit", DEBIT, DEBITS)?, operation("credit", CREDIT, CREDITS)?].into();
        let options = Options {
            connections_max: clients.clamp(4, CONNECTIONS_MAX),
            ..Options::new(url, operations)
        };
        let database = Postgres::new(options)?;
        database.init().await.map_err(|why| anyhow::anyhow!("{why}"))?;
        participants.insert(ParticipantName::new(name)?, Arc::new(database));
    }
    let bench = coordinate(args, data, participants, args.coalescing()).await?;
    let length = Duration::from_secs(args.seconds.max(1));
    let run = bench.load(clients, length, wait).await?;
    bench.coordinator.shutdown(Duration::from_secs(5)).await;
    Ok(run)
}
