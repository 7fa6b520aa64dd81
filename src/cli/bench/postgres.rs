//! `presume bench commit --participants postgres`: transfers between two PostgreSQL servers, beside
//! the bare protocol on the same servers.
//!
//! The bare protocol is what anybody pays: BEGIN, one UPDATE and PREPARE in one round trip to each
//! server at once, then COMMIT PREPARED on both; no marker, no log, no predictions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use presume::coordinator::Wait;
use presume::participants::postgres::{Options, Postgres};
use presume::participants::{OperationSql, Participant};
use presume::policy::coalescing::{CoalescingOptions, Strategy};
use presume::txn::{OperationName, ParticipantName};
use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, Statement};

use super::commit::{Args, coordinate};
use super::load::{Ended, Run, closed_loop};
use super::workload::{ACCOUNTS, EMPTY_ACCOUNTS, PARTICIPANTS, Workload};
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

/// Clients of the bare protocol: the best of these counts.
const BARE_CLIENTS: [usize; 4] = [1, 8, 32, 64];

/// One number of transfers in flight, in one round.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    in_flight: usize,
    round: usize,
    /// The bare protocol at its best number of clients, and at 64.
    bare_clients: usize,
    bare: Run,
    bare_at_64: Run,
    /// Ours with every transaction alone, with no more in flight than there are sessions.
    uncoalesced_in_flight: usize,
    uncoalesced: Run,
    /// Ours.
    presume: Run,
    /// Transfers a second of `presume` over those of `bare`.
    ratio_to_bare: f64,
    /// The same over `uncoalesced`.
    ratio_to_uncoalesced: f64,
    /// Its answer's median and 99th percentile over those of the bare protocol at 64 clients.
    p50_to_bare_at_64: f64,
    p99_to_bare_at_64: f64,
}

/// Medians over the rounds of one number in flight.
#[derive(Debug, Serialize)]
struct Medians {
    in_flight: usize,
    rounds: usize,
    bare_per_second: f64,
    uncoalesced_per_second: f64,
    presume_per_second: f64,
    ratio_to_bare: f64,
    ratio_to_uncoalesced: f64,
    p50_ms: f64,
    p99_ms: f64,
    p50_to_bare_at_64: f64,
    p99_to_bare_at_64: f64,
    p50_to_uncoalesced: f64,
}

/// Everything that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    predictions: String,
    outcome_log: &'static str,
    medians: Vec<Medians>,
    rounds: Vec<Figures>,
}

pub async fn run(args: &Args, data: &Path) -> anyhow::Result<()> {
    let [left, right] = urls()?;
    let urls = [&left, &right];
    let workload = Arc::new(args.workload());
    for url in urls {
        prepare(url).await?;
    }
    let length = Duration::from_secs(args.seconds.max(1));
    let (mut rounds, mut predictions) = (Vec::new(), String::new());
    for round in 0..args.rounds.max(1) {
        let mut bares = Vec::new();
        for clients in BARE_CLIENTS {
            let _progress = Progress::spinner(format!("bare, {clients} clients"), args.json);
            bares.push((clients, bare(urls, &workload, clients, length).await?));
        }
        let rate = |(_, run): &&(usize, Run)| run.transfers_per_second;
        let best = bares.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)));
        let (bare_clients, bare) = best.cloned().expect("there are four");
        let bare_at_64 = bares.pop().expect("there are four").1;
        for &in_flight in &args.in_flight {
            let _progress = Progress::spinner(format!("{in_flight} in flight"), args.json);
            let alone = CoalescingOptions { strategy: Strategy::Alone, ..args.coalescing() };
            let folder = data.join(format!("alone-{round}-{in_flight}"));
            let alone_in_flight = in_flight.min(CONNECTIONS_MAX);
            let (uncoalesced, _) =
                ours(args, &folder, urls, &workload, alone_in_flight, alone).await?;
            let folder = data.join(format!("presume-{round}-{in_flight}"));
            let (presume, with) =
                ours(args, &folder, urls, &workload, in_flight, args.coalescing()).await?;
            predictions = with;
            let over = |other: &Run| presume.transfers_per_second / other.transfers_per_second;
            rounds.push(Figures {
                in_flight,
                round,
                bare_clients,
                ratio_to_bare: over(&bare),
                ratio_to_uncoalesced: over(&uncoalesced),
                p50_to_bare_at_64: presume.answer_ms_p50 / bare_at_64.answer_ms_p50,
                p99_to_bare_at_64: presume.answer_ms_p99 / bare_at_64.answer_ms_p99,
                bare: bare.clone(),
                bare_at_64: bare_at_64.clone(),
                uncoalesced_in_flight: alone_in_flight,
                uncoalesced,
                presume,
            });
        }
    }
    let medians = args.in_flight.iter().map(|n| medians(*n, &rounds)).collect();
    let report = Report { predictions, outcome_log: "on", medians, rounds };
    if args.json {
        return print_json(&report);
    }
    print(&describe(&report))
}

fn medians(in_flight: usize, rounds: &[Figures]) -> Medians {
    let of: Vec<_> = rounds.iter().filter(|figures| figures.in_flight == in_flight).collect();
    let median = |value: &dyn Fn(&Figures) -> f64| {
        let mut all: Vec<f64> = of.iter().map(|figures| value(figures)).collect();
        all.sort_by(f64::total_cmp);
        f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
    };
    Medians {
        in_flight,
        rounds: of.len(),
        bare_per_second: median(&|f| f.bare.transfers_per_second),
        uncoalesced_per_second: median(&|f| f.uncoalesced.transfers_per_second),
        presume_per_second: median(&|f| f.presume.transfers_per_second),
        ratio_to_bare: median(&|f| f.ratio_to_bare),
        ratio_to_uncoalesced: median(&|f| f.ratio_to_uncoalesced),
        p50_ms: median(&|f| f.presume.answer_ms_p50),
        p99_ms: median(&|f| f.presume.answer_ms_p99),
        p50_to_bare_at_64: median(&|f| f.p50_to_bare_at_64),
        p99_to_bare_at_64: median(&|f| f.p99_to_bare_at_64),
        p50_to_uncoalesced: median(&|f| f.presume.answer_ms_p50 / f.uncoalesced.answer_ms_p50),
    }
}

fn describe(report: &Report) -> String {
    let mut table = Table::new();
    table.set_header([
        "in flight",
        "bare/s",
        "alone/s",
        "presume/s",
        "to bare",
        "to alone",
        "p50 ms",
        "p99 ms",
        "p50 to bare at 64",
        "p99 to bare at 64",
    ]);
    for m in &report.medians {
        table.add_row([
            m.in_flight.to_string(),
            format!("{:.0}", m.bare_per_second),
            format!("{:.0}", m.uncoalesced_per_second),
            format!("{:.0}", m.presume_per_second),
            format!("{:.2}", m.ratio_to_bare),
            format!("{:.2}", m.ratio_to_uncoalesced),
            format!("{:.2}", m.p50_ms),
            format!("{:.2}", m.p99_ms),
            format!("{:.2}", m.p50_to_bare_at_64),
            format!("{:.2}", m.p99_to_bare_at_64),
        ]);
    }
    format!(
        "{table}\nmedians; predictions: {}; outcome log: {}\n\
         bare: one round trip to PREPARE, one to COMMIT PREPARED, no log, no marker, at its best of \
         {BARE_CLIENTS:?} clients\n",
        report.predictions, report.outcome_log
    )
}

pub(super) fn urls() -> anyhow::Result<[String; 2]> {
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
pub(super) async fn prepare(url: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS presume_bench;
             CREATE TABLE presume_bench (id text PRIMARY KEY, balance bigint NOT NULL)
                 WITH (fillfactor = 50);
             INSERT INTO presume_bench SELECT 'a' || n, 1000000000
                 FROM generate_series(0, {ACCOUNTS} - 1) n;
             INSERT INTO presume_bench SELECT 'e' || n, 0
                 FROM generate_series(0, {EMPTY_ACCOUNTS} - 1) n"
        ))
        .await?;
    Ok(client.batch_execute("VACUUM ANALYZE presume_bench").await?)
}

/// One side of the bare protocol.
struct Side {
    client: Client,
    update: Statement,
    number: i32,
}

impl Side {
    async fn open(url: &str, update: &str, number: i32) -> anyhow::Result<Self> {
        let client = connect(url).await?;
        let update = client.prepare(update).await?;
        Ok(Self { client, update, number })
    }

    fn gid(&self, n: u64) -> String {
        format!("bare-{n}-{}", self.number)
    }

    /// Whether the row was changed.
    async fn prepare(&self, n: u64, account: &str) -> anyhow::Result<bool> {
        let last = format!("PREPARE TRANSACTION '{}'", self.gid(n));
        // Polled in this order, so sent in this order, in one message.
        let (begin, update, last) = tokio::join!(
            biased;
            self.client.batch_execute("BEGIN"),
            async { self.client.execute(&self.update, &[&100_i64, &account]).await },
            self.client.batch_execute(&last)
        );
        begin.and(last)?;
        Ok(update? == 1)
    }

    async fn end(&self, n: u64, verb: &str) -> anyhow::Result<()> {
        Ok(self.client.batch_execute(&format!("{verb} PREPARED '{}'", self.gid(n))).await?)
    }
}

async fn bare(
    [left, right]: [&String; 2],
    workload: &Arc<Workload>,
    clients: usize,
    length: Duration,
) -> anyhow::Result<Run> {
    let mut sides = Vec::new();
    for _ in 0..clients {
        let pair = (Side::open(left, DEBIT, 0).await?, Side::open(right, CREDIT, 1).await?);
        sides.push(Arc::new(pair));
    }
    let workload = workload.clone();
    let transfer = move |client: usize, n: u64| {
        let (pair, transfer) = (sides[client].clone(), workload.transfer(n));
        async move {
            let (left, right) = (&pair.0, &pair.1);
            let started = Instant::now();
            let prepared =
                tokio::try_join!(left.prepare(n, &transfer.from), right.prepare(n, &transfer.to))?;
            let voted = started.elapsed();
            let expected = (!transfer.short, !transfer.unknown);
            anyhow::ensure!(prepared == expected, "an account is missing");
            let verb = if transfer.declined() { "ROLLBACK" } else { "COMMIT" };
            tokio::try_join!(left.end(n, verb), right.end(n, verb))?;
            let ended = if transfer.declined() { Ended::Declined } else { Ended::Committed };
            Ok((ended, voted.as_secs_f64() * 1e3))
        }
    };
    closed_loop(clients, length, transfer).await
}

pub(super) async fn ours(
    args: &Args,
    data: &Path,
    urls: [&String; 2],
    workload: &Arc<Workload>,
    in_flight: usize,
    coalescing: CoalescingOptions,
) -> anyhow::Result<(Run, String)> {
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
        let connections_max = in_flight.clamp(4, CONNECTIONS_MAX);
        let options = Options { connections_max, ..Options::new(url, operations) };
        let database = Postgres::new(options)?;
        database.init().await.map_err(|why| anyhow::anyhow!("{why}"))?;
        participants.insert(ParticipantName::new(name)?, Arc::new(database));
    }
    let bench = coordinate(args, data, participants, coalescing).await?;
    let length = Duration::from_secs(args.seconds.max(1));
    bench.load(workload, in_flight, Duration::from_millis(500), Wait::Decision).await?;
    let run = bench.load(workload, in_flight, length, Wait::Decision).await?;
    bench.coordinator.shutdown(Duration::from_secs(5)).await;
    Ok((run, bench.predictions))
}
