#![allow(clippy::unwrap_used)]
//! Against the real log and real ledgers in a scratch folder.

mod faults;
mod forgetting;
mod operator;
pub(in crate::coordinator) mod over_ledger;
mod overtaken;

use std::path::Path;

use super::record::Draft;
use super::*;
use crate::decision_log::{self, DecisionLog};
use crate::participants::ledger::{self, Ledger, NewAccount, Overdraft};
use crate::participants::{Ack, BoxFuture, ClaimError, Inquiry, Prepared};
use crate::policy;
use crate::policy::coalescing::CoalescingOptions;
use crate::txn::{
    Customer, CustomerId, CustomerType, Epoch, Gid, Kind, LogId, Money, OperationName, Outcome,
    Params, Payment, ProtocolRequest, ReasonCode, Transaction, Vote,
};

pub(in crate::coordinator) struct World {
    pub(in crate::coordinator) log: DecisionLog,
    pub(in crate::coordinator) coordinator: Coordinator,
    pub(in crate::coordinator) ledgers: BTreeMap<ParticipantName, Ledger>,
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).unwrap()
}

fn serving() -> Arc<Serving> {
    let clock: crate::models::serving::Clock = Arc::new(|| Duration::ZERO);
    Arc::new(Serving::new(crate::models::serving::Options::with_clock(clock)))
}

async fn open(data: &Path, options: policy::Options) -> World {
    open_with(data, options, &|_, ledger| Arc::new(ledger)).await
}

pub(in crate::coordinator) type Wrap = dyn Fn(&ParticipantName, Ledger) -> Arc<dyn Participant>;

async fn open_with(data: &Path, options: policy::Options, wrap: &Wrap) -> World {
    open_as(data, options, wrap, Options::default()).await
}

pub(in crate::coordinator) async fn open_as(
    data: &Path,
    policy: policy::Options,
    wrap: &Wrap,
    options: Options,
) -> World {
    let coalescing = CoalescingOptions::default();
    open_on(data, policy, wrap, options, (coalescing, &|log| Arc::new(log))).await
}

/// Without predictions.
pub(in crate::coordinator) async fn open_coalescing(
    data: &Path,
    coalescing: CoalescingOptions,
) -> World {
    let wrap = |_: &ParticipantName, ledger| Arc::new(ledger) as Arc<dyn Participant>;
    open_on(data, off(), &wrap, Options::default(), (coalescing, &|log| Arc::new(log))).await
}

pub(in crate::coordinator) async fn open_on(
    data: &Path,
    policy: policy::Options,
    wrap: &Wrap,
    options: Options,
    (coalescing, wrap_log): (CoalescingOptions, &dyn Fn(DecisionLog) -> Arc<dyn Decisions>),
) -> World {
    let (log, recovered) =
        DecisionLog::open(&data.join("decisions"), decision_log::Options::default()).unwrap();
    let mut ledgers = BTreeMap::new();
    let mut participants: BTreeMap<ParticipantName, Arc<dyn Participant>> = BTreeMap::new();
    for text in ["a", "b"] {
        let folder = ledger::folder(data, text).unwrap();
        let ledger = Ledger::open(&folder, ledger::Options::default()).unwrap();
        ledgers.insert(name(text), ledger.clone());
        participants.insert(name(text), wrap(&name(text), ledger));
    }
    let parts = Parts {
        log: wrap_log(log.clone()),
        participants,
        serving: serving(),
        features: features::State::new(features::Options::default()).unwrap(),
        policy: Policy::new(policy).unwrap(),
        coalescing: Coalescing::new(coalescing),
        clock: Arc::new(SystemClock),
    };
    let coordinator = Coordinator::start(parts, recovered, options).await.unwrap();
    World { log, coordinator, ledgers }
}

pub(in crate::coordinator) fn off() -> policy::Options {
    policy::Options { mode: Mode::Off, ..policy::Options::default() }
}

pub(in crate::coordinator) async fn fund(world: &World, accounts: &[(&str, &str, i64)]) {
    for (ledger, account, opening_minor) in accounts {
        let account = NewAccount {
            id: (*account).to_owned(),
            opening_minor: *opening_minor,
            overdraft: Overdraft::Refused,
        };
        world.ledgers[&name(ledger)].open_accounts(&[account]).await.unwrap();
    }
}

pub(in crate::coordinator) fn posted(world: &World, ledger: &str, account: &str) -> i64 {
    world.ledgers[&name(ledger)].balance(account).unwrap().balance_minor
}

pub(in crate::coordinator) fn operation(
    participant: &str,
    operation: &str,
    account: &str,
    amount: i64,
) -> Operation {
    Operation {
        participant: name(participant),
        operation: OperationName::new(operation).unwrap(),
        params: Params::from([
            ("account".to_owned(), account.into()),
            ("amount".to_owned(), amount.into()),
        ]),
    }
}

pub(in crate::coordinator) fn submission(id: &str, operations: Vec<Operation>) -> Submission {
    let customer = Customer {
        id: CustomerId::new("c1").unwrap(),
        customer_type: CustomerType::Retail,
        since: None,
    };
    let amount = Money { minor: 100, currency: crate::txn::Currency::INR };
    Submission {
        transaction: Transaction {
            id: TxnId::new(id).unwrap(),
            payment: Payment::new(Kind::Upi, customer, amount),
            protocol: ProtocolRequest::Auto,
            operations,
        },
        request_hash: format!("hash of {id}"),
        event_time: None,
        wait: Wait::Decision,
    }
}

pub(in crate::coordinator) fn transfer(id: &str, amount: i64) -> Submission {
    let debit = operation("a", "debit", "alice", amount);
    submission(id, vec![debit, operation("b", "credit", "bob", amount)])
}

#[tokio::test]
async fn a_transfer_commits_on_both_ledgers_and_its_key_answers_the_same() {
    let data = tempfile::tempdir().unwrap();
    let world = open(data.path(), off()).await;
    fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    let first = world.coordinator.submit(transfer("t1", 300)).await.unwrap();
    assert_eq!(first.outcome, Outcome::Committed);
    assert_eq!((posted(&world, "a", "alice"), posted(&world, "b", "bob")), (700, 300));
    let again = world.coordinator.submit(transfer("t1", 300)).await.unwrap();
    assert_eq!((again.outcome, &again.id), (first.outcome, &first.id));
    assert_eq!(posted(&world, "b", "bob"), 300);
    let mut other = transfer("t1", 300);
    other.request_hash = "another".into();
    let refused = world.coordinator.submit(other).await;
    assert!(matches!(refused, Err(SubmitError::KeyReused { .. })));
}

#[tokio::test]
async fn a_decline_aborts_everywhere_and_says_who_and_why() {
    let data = tempfile::tempdir().unwrap();
    let world = open(data.path(), off()).await;
    fund(&world, &[("a", "alice", 100), ("b", "bob", 0)]).await;
    let answer = world.coordinator.submit(transfer("t1", 300)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Aborted);
    assert_eq!(answer.reasons[0].code, ReasonCode::BusinessDecline);
    assert!(answer.reasons[0].detail.contains("insufficient_funds"), "{:?}", answer.reasons);
    assert_eq!((posted(&world, "a", "alice"), posted(&world, "b", "bob")), (100, 0));
    world.coordinator.shutdown(Duration::from_secs(5)).await;
    for ledger in world.ledgers.values() {
        assert!(ledger.list_prepared().await.unwrap().branches.is_empty());
    }
}

#[tokio::test]
async fn one_participant_alone_commits_in_one_phase() {
    let data = tempfile::tempdir().unwrap();
    let world = open(data.path(), off()).await;
    fund(&world, &[("a", "alice", 1000), ("a", "carol", 0), ("b", "bob", 0)]).await;
    let operations =
        vec![operation("a", "debit", "alice", 10), operation("a", "credit", "carol", 10)];
    let answer = world.coordinator.submit(submission("one", operations)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    assert_eq!(posted(&world, "a", "carol"), 10);
}

#[tokio::test]
async fn bad_requests_are_refused_before_anything_starts() {
    let data = tempfile::tempdir().unwrap();
    let world = open(data.path(), off()).await;
    let unknown = submission("t", vec![operation("nowhere", "debit", "x", 1)]);
    let error = world.coordinator.submit(unknown).await.unwrap_err();
    assert_eq!(error.to_string(), "participant \"nowhere\" is not configured; configured are a, b");
    let unknown = submission("t", vec![operation("a", "teleport", "x", 1)]);
    let error = world.coordinator.submit(unknown).await.unwrap_err();
    assert!(matches!(error, SubmitError::BadOperation { .. }), "{error}");
    assert_eq!(world.coordinator.status().unfinished, 0);
}

#[test]
fn limits_of_zero_are_refused_with_key_and_value() {
    let limit = Options { in_flight_max: 0, ..Options::default() };
    assert_eq!(
        limit.check(),
        Err("coordinator.in_flight_max is 0, it must be at least 1".to_owned())
    );
}

#[tokio::test]
async fn a_rejection_is_durable_answers_the_same_and_starts_nothing() {
    let data = tempfile::tempdir().unwrap();
    // A threshold that no probability is above: every transaction is turned away.
    let options = policy::Options {
        mode: Mode::Enforce,
        success_reject_below: 1.0,
        ..policy::Options::default()
    };
    let answer = {
        let world = open(data.path(), options.clone()).await;
        fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
        world.coordinator.submit(transfer("t1", 300)).await.unwrap()
    };
    assert_eq!(answer.outcome, Outcome::Rejected);
    let world = open(data.path(), options).await;
    let again = world.coordinator.submit(transfer("t1", 300)).await.unwrap();
    assert_eq!(again, answer);
    assert_eq!(posted(&world, "a", "alice"), 1000);
}

fn assert_balance(participant: &str, account: &str, at_least: i64) -> Operation {
    Operation {
        participant: name(participant),
        operation: OperationName::new("assert_balance").unwrap(),
        params: Params::from([
            ("account".to_owned(), account.into()),
            ("at_least".to_owned(), at_least.into()),
        ]),
    }
}

#[tokio::test]
async fn a_participant_that_only_read_hears_no_decision_and_writes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let world = open(data.path(), off()).await;
    fund(&world, &[("a", "alice", 1000), ("a", "carol", 0), ("b", "bob", 50)]).await;
    let [a, b] = ["a", "b"].map(|ledger| &world.ledgers[&name(ledger)]);
    let (writes_a, writes_b) = (a.writes(), b.writes());
    let applied = |id: &str, operations| {
        let submission = Submission { wait: Wait::Applied, ..submission(id, operations) };
        world.coordinator.submit(submission)
    };

    let mixed = vec![
        operation("a", "debit", "alice", 10),
        operation("a", "credit", "carol", 10),
        assert_balance("b", "bob", 50),
    ];
    let answer = applied("mixed", mixed).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    assert_eq!(posted(&world, "a", "carol"), 10);
    assert!(a.writes() > writes_a);
    assert_eq!(b.writes(), writes_b);

    let writes_a = a.writes();
    let reads = vec![assert_balance("a", "carol", 10), assert_balance("b", "bob", 1)];
    assert_eq!(applied("reads", reads).await.unwrap().outcome, Outcome::Committed);
    assert_eq!((a.writes(), b.writes()), (writes_a, writes_b));

    let too_much = vec![operation("a", "debit", "alice", 10), assert_balance("b", "bob", 51)];
    let answer = applied("too-much", too_much).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Aborted);
    assert_eq!(answer.reasons[0].code, ReasonCode::BusinessDecline);
    assert_eq!(posted(&world, "a", "alice"), 990);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_in_step_share_the_flushes_of_every_store() {
    let data = tempfile::tempdir().unwrap();
    let world = Arc::new(open(data.path(), off()).await);
    fund(&world, &[("a", "alice", 1_000_000), ("b", "bob", 0)]).await;
    let flushes = |world: &World| {
        let ledgers: u64 = world.ledgers.values().map(Ledger::flushes).sum();
        world.log.flushes() + ledgers
    };
    let before = flushes(&world);
    let (clients, rounds) = (64, 20);
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let world = world.clone();
        tasks.spawn(async move {
            for round in 0..rounds {
                let answer = world.coordinator.submit(transfer(&format!("{client}-{round}"), 1));
                assert_eq!(answer.await.unwrap().outcome, Outcome::Committed);
            }
        });
    }
    tasks.join_all().await;
    let flushes = flushes(&world) - before;
    let transfers = clients * rounds;
    // In step it is 21 a flush of any store; alone three flushes a transfer.
    assert!(flushes * 4 < transfers, "{flushes} flushes for {transfers} transfers");
}
