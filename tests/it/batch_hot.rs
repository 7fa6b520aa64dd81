//! Accounts that everybody wants, between two databases of one `PostgreSQL` server.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use presume::coordinator::{
    self, Answer, Coordinator, Parts, Submission, SubmitError, SystemClock, Wait,
};
use presume::decision_log::{self, DecisionLog};
use presume::features;
use presume::models::serving::{self, Serving};
use presume::participants::postgres::Postgres;
use presume::participants::{OperationSql, Participant};
use presume::policy::coalescing::{Coalescing, CoalescingOptions};
use presume::policy::{self, Policy};
use presume::txn::{
    Currency, Customer, CustomerId, CustomerType, Kind, Mode, Money, Operation, Outcome,
    ParticipantName, Payment, ProtocolRequest, Transaction, TxnId,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::banks::NAMES;
use crate::postgres::Bank;
use crate::postgres_server::PostgresServer;

const ACCOUNTS: usize = 64;
const HOT: usize = 8;
const TRANSFERS: usize = 600;
/// Nobody is to give up here: what waits for long has been forgotten.
const PATIENCE: Duration = Duration::from_mins(5);

/// Takes the place after the one before: out of order it is declined.
const NEXT: &str =
    "UPDATE accounts SET last = $n::bigint WHERE id = $account AND last = $n::bigint - 1";
const NEXT_OF_MANY: &str = "UPDATE accounts SET last = v.n \
    FROM unnest($member::int[], $account::text[], $n::bigint[]) AS v (member, account, n) \
    WHERE id = v.account AND last = v.n - 1 RETURNING v.member";

struct Hot {
    server: PostgresServer,
    coordinator: Coordinator,
    _scratch: tempfile::TempDir,
}

/// Polled once already: it is on its way, after all those before it.
type Underway<'a> = Pin<Box<dyn Future<Output = Result<Arc<Answer>, SubmitError>> + 'a>>;

impl Hot {
    async fn open() -> Option<Self> {
        let server = PostgresServer::start(100, &NAMES)?;
        let scratch = tempfile::tempdir().unwrap();
        let mut participants = BTreeMap::<ParticipantName, Arc<dyn Participant>>::new();
        for name in NAMES {
            let sql = format!(
                "CREATE TABLE accounts (id text PRIMARY KEY, last bigint NOT NULL); \
                 INSERT INTO accounts SELECT 'a' || n, 0 FROM generate_series(0, {}) n",
                TRANSFERS.max(ACCOUNTS)
            );
            server.sql(name, &sql);
            server.sql(name, Postgres::init_statements());
            let next = OperationSql {
                locks: Some(vec!["account/$account".to_owned()]),
                batch_sql: Some(NEXT_OF_MANY.to_owned()),
                ..OperationSql::new(NEXT, Some(1))
            };
            let postgres = Bank::client(&server, |options| {
                options.url = server.url(name);
                options.listening_horizon = PATIENCE;
                options.operations = BTreeMap::from([("next".parse().unwrap(), next)]);
            });
            participants.insert(name.parse().unwrap(), Arc::new(postgres));
        }
        let patience_ms = PATIENCE.as_millis().try_into().unwrap();
        let policy = policy::Options {
            mode: Mode::Off,
            prepare_timeout_ms_default: patience_ms,
            prepare_timeout_ms_max: patience_ms,
            ..policy::Options::default()
        };
        let coalescing =
            CoalescingOptions { wait_ms_max: patience_ms, ..CoalescingOptions::default() };
        let log = scratch.path().join("decisions");
        let (log, recovered) = DecisionLog::open(&log, decision_log::Options::default()).unwrap();
        let clock: serving::Clock = Arc::new(|| Duration::ZERO);
        let parts = Parts {
            log: Arc::new(log),
            participants,
            serving: Arc::new(Serving::new(serving::Options::with_clock(clock))),
            features: features::State::new(features::Options::default()).unwrap(),
            policy: Policy::new(policy).unwrap(),
            coalescing: Coalescing::new(coalescing),
            clock: Arc::new(SystemClock),
        };
        let options = coordinator::Options::default();
        let coordinator = Coordinator::start(parts, recovered, options).await.unwrap();
        Some(Self { server, coordinator, _scratch: scratch })
    }

    /// Sends one on its way, whose part in each bank is the `n`-th of its account.
    async fn send(&self, id: usize, parts: [(usize, i64); 2]) -> Underway<'_> {
        let submission = submission(&format!("t{id}"), parts);
        let mut underway: Underway<'_> = Box::pin(self.coordinator.submit(submission));
        poll_fn(|context| {
            let polled = underway.as_mut().poll(context);
            assert!(polled.is_pending(), "answered at once: {polled:?}");
            Poll::Ready(())
        })
        .await;
        underway
    }

    fn last(&self, name: &str) -> Vec<i64> {
        let sql = "SELECT last FROM accounts ORDER BY substr(id, 2)::int";
        self.server.sql(name, sql).lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Nothing is left, and some travelled together.
    async fn end(self) {
        let travelled = self.coordinator.status().travelled;
        println!("{travelled:?}");
        assert!(travelled.batches > 0 && travelled.members >= 2 * travelled.batches);
        self.coordinator.shutdown(Duration::from_secs(30)).await;
        assert_eq!(self.coordinator.status().unfinished, 0);
        for name in NAMES {
            assert_eq!(self.server.sql(name, "SELECT count(*) FROM pg_prepared_xacts"), "0");
        }
    }
}

fn submission(id: &str, parts: [(usize, i64); 2]) -> Submission {
    let operation = |(name, (account, n)): (&str, (usize, i64))| Operation {
        participant: name.parse().unwrap(),
        ..crate::branches::operation("next", json!({"account": format!("a{account}"), "n": n}))
    };
    let customer = Customer {
        id: CustomerId::new("c1").unwrap(),
        customer_type: CustomerType::Retail,
        since: None,
    };
    let amount = Money { minor: 100, currency: Currency::INR };
    Submission {
        transaction: Transaction {
            id: TxnId::new(id).unwrap(),
            payment: Payment::new(Kind::Upi, customer, amount),
            protocol: ProtocolRequest::Auto,
            operations: NAMES.into_iter().zip(parts).map(operation).collect(),
        },
        request_hash: format!("hash of {id}"),
        event_time: None,
        wait: Wait::Decision,
    }
}

fn assert_all_committed(answers: Vec<Result<Arc<Answer>, SubmitError>>) {
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.outcome, Outcome::Committed, "{answer:?}");
    }
}

/// The account of rank `k` as often as Zipf's law says.
fn zipf(rng: &mut ChaCha8Rng) -> usize {
    let weight = |rank: usize| 1.0 / (rank + 1) as f64;
    let mut left = rng.random_range(0.0..(0..ACCOUNTS).map(weight).sum::<f64>());
    (0..ACCOUNTS - 1)
        .find(|rank| {
            left -= weight(*rank);
            left < 0.0
        })
        .unwrap_or(ACCOUNTS - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_hot_accounts_everybody_ends_in_the_order_of_arrival() {
    let Some(hot) = Hot::open().await else { return };
    let seed = rand::random::<u64>();
    println!("seed of the accounts: {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut counts, mut underway) = ([[0_i64; ACCOUNTS]; 2], Vec::new());
    for id in 0..TRANSFERS {
        let parts = [0, 1].map(|side: usize| {
            let account = zipf(&mut rng);
            counts[side][account] += 1;
            (account, counts[side][account])
        });
        underway.push(hot.send(id, parts).await);
    }
    let hottest: i64 = counts[0][..HOT].iter().sum();
    assert!(hottest * 2 > TRANSFERS as i64, "{HOT} accounts have {hottest} of {TRANSFERS}");
    assert_all_committed(join_all(underway).await);
    for (name, counts) in NAMES.into_iter().zip(counts) {
        assert_eq!(hot.last(name)[..ACCOUNTS], counts, "{name}");
    }
    hot.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outsiders_lock_stalls_those_who_need_that_row_and_nobody_else() {
    let Some(hot) = Hot::open().await else { return };
    let url = hot.server.url("left");
    let (outsider, connection) =
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    outsider.batch_execute("BEGIN; SELECT FROM accounts WHERE id = 'a3' FOR UPDATE").await.unwrap();
    let (mut stalled, mut others) = (Vec::new(), Vec::new());
    for id in 0..TRANSFERS {
        let (account, n) = (id % HOT, (id / HOT + 1) as i64);
        // On the other side nobody meets.
        let underway = hot.send(id, [(account, n), (id, 1)]).await;
        if account == 3 { stalled.push(underway) } else { others.push(underway) }
    }
    assert_all_committed(join_all(others).await);
    let each = (TRANSFERS / HOT) as i64;
    let due = |of_the_row: i64| -> Vec<i64> {
        (0..HOT).map(|account| if account == 3 { of_the_row } else { each }).collect()
    };
    assert_eq!(hot.last("left")[..HOT], due(0), "the outsider has the row still");
    drop(outsider);
    assert_all_committed(join_all(stalled).await);
    assert_eq!(hot.last("left")[..HOT], due(each));
    hot.end().await;
}
