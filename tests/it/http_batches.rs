//! Batches of a service over HTTP, against the reference service.

use std::collections::BTreeMap;
use std::sync::Mutex;

use presume::participants::batch::{Batch, Style, Then, Worked};
use presume::participants::http::Http;
use presume::participants::{Ack, Participant};
use presume::txn::{Epoch, Operation, Vote};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use serde_json::json;
use tokio::runtime::Handle;

use crate::batch_banks::{all_done, batch, told};
use crate::batch_oracle::{ACCOUNTS, CASES, Case, Leg, OPENING, case, serial};
use crate::branches::{at, credit, debit, gid, gid_of, log};
use crate::middleman::{Act, Call, between};
use crate::wallet_server::{WalletServer, options};

fn client(url: &str) -> Http {
    let mut options = options(url);
    let locks = vec!["account/$account".to_owned()];
    let named = |name: &str| (name.parse().unwrap(), locks.clone());
    options.locks = BTreeMap::from(["debit", "credit", "balance"].map(named));
    Http::new(&options).unwrap()
}

/// A service with 100 at `a`, and a participant that has claimed epoch 1 there.
async fn open(flags: &[&str]) -> (WalletServer, Http) {
    let server = WalletServer::start(&[("a", 100)], flags);
    let http = client(&server.url());
    http.claim_epoch(log(), Epoch(1)).await.unwrap();
    (server, http)
}

fn of(physical: u64, members: &[Vec<Operation>], then: Then) -> Batch {
    batch(gid(physical), members, Style::Together, then)
}

fn members() -> [Vec<Operation>; 6] {
    [
        vec![debit("b", 1)],
        vec![debit("a", 100), credit("b", 100)],
        vec![debit("a", 1), credit("b", 1)],
        vec![debit("b", 60)],
        vec![debit("b", 60)],
        vec![at("balance", "b")],
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn members_see_those_before_them_and_who_declines_is_named() {
    let (server, http) = open(&[]).await;
    let batches = http.batches().unwrap();
    // Without those who decline nothing is promised.
    let worked = batches.work(of(1, &members(), Then::Prepare)).await;
    assert_eq!(told(&worked), (vec![0, 20, 40], "none".to_owned()));
    assert_eq!(http.list_prepared().await.unwrap().branches, []);
    assert_eq!(server.account("a").await, (100, 0, 0));
    for (physical, committed) in [(2, false), (3, true)] {
        let worked = batches.work(of(physical, &members(), Then::Hold)).await;
        assert_eq!(told(&worked), (vec![0, 20, 40], "none".to_owned()));
        assert_eq!(batches.prepare_held(gid(physical)).await, Vote::Yes);
        assert!(matches!(batches.prepare_held(gid(physical)).await, Vote::No(_)));
        for _ in 0..2 {
            let gid = gid(physical);
            let ended = if committed { http.commit(gid).await } else { http.abort(gid).await };
            assert_eq!(ended, Ack::Done);
        }
    }
    assert_eq!((server.account("a").await, server.account("b").await), ((0, 0, 0), (40, 0, 0)));
    let rest = [vec![credit("a", 5)], vec![debit("b", 40)]];
    let worked = batches.work(of(4, &rest, Then::Prepare)).await;
    assert_eq!(worked, all_done(Some(Vote::Yes)));
    assert_eq!(server.account("b").await, (40, 40, 0));
    assert_eq!(http.commit(gid(4)).await, Ack::Done);
    let looks = [vec![at("balance", "a")], vec![at("balance", "nobody")]];
    let worked = batches.work(of(5, &looks, Then::Hold)).await;
    assert_eq!(told(&worked), (vec![10], "none".to_owned()));
    assert_eq!(batches.prepare_held(gid(5)).await, Vote::ReadOnly);
    // What no member may ask is that member's.
    let wrong = [vec![credit("a", 1)], vec![at("steal", "a")]];
    let worked = batches.work(of(6, &wrong, Then::Prepare)).await;
    assert_eq!(told(&worked), (vec![10], "failed business bad_parameter".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_nothing_to_prepare() {
    let (server, http) = open(&[]).await;
    let batches = http.batches().unwrap();
    let worked = batches.work(of(1, &members(), Then::Hold)).await;
    assert!(matches!(worked, Worked::Done { .. }), "{worked:?}");
    assert_eq!(http.abort(gid(1)).await, Ack::Done);
    assert!(matches!(batches.prepare_held(gid(1)).await, Vote::No(_)));
    // Nor does one that came before its work.
    assert_eq!(http.abort(gid(2)).await, Ack::Done);
    let worked = batches.work(of(2, &members(), Then::Hold)).await;
    assert_eq!(told(&worked), (vec![], "failed technical aborted_before".to_owned()));
    let other = client(&server.url());
    other.claim_epoch(log(), Epoch(2)).await.unwrap();
    for then in [Then::Hold, Then::Prepare] {
        let worked = batches.work(of(3, &members(), then)).await;
        assert_eq!(told(&worked), (vec![], "failed technical stale_epoch".to_owned()));
        let worked = other.batches().unwrap().work(of(3, &members(), then)).await;
        assert_eq!(told(&worked), (vec![], "failed technical fenced".to_owned()));
    }
    assert_eq!(server.account("a").await, (100, 0, 0));
    assert_eq!(other.list_prepared().await.unwrap().branches, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_odd_answer_is_unknown_and_can_be_aborted() {
    let server = WalletServer::start(&[("a", 100)], &[]);
    let good = [vec![debit("a", 1)], vec![credit("b", 1)]];
    let one = |member: u64, class: &str| {
        let declined = json!({"member": member, "class": class, "code": "x", "detail": ""});
        json!({"vote": "yes", "declined": [declined]})
    };
    let odd = [
        one(2, "business"),
        one(0, "technical"),
        json!({"vote": "yes", "declined": [{"member": 0}]}),
        json!({"declined": []}),
    ];
    let mut acts: Vec<Act> = odd.into_iter().map(|answer| Act::Answer(200, answer)).collect();
    acts.extend([Act::CutAfter, Act::CutBefore]);
    for (index, act) in acts.into_iter().enumerate() {
        let act = Mutex::new(Some(act));
        let script = move |call: &Call| match call.verb() {
            "prepare-batch" => act.lock().unwrap().take().unwrap_or(Act::Pass),
            _ => Act::Pass,
        };
        let http = client(&between(server.url(), script).await);
        http.claim_epoch(log(), Epoch(index as u64 + 1)).await.unwrap();
        let gid = gid_of(index as u64 + 1, 1);
        let then = if index % 2 == 0 { Then::Prepare } else { Then::Hold };
        let batches = http.batches().unwrap();
        let worked = batches.work(batch(gid, &good, Style::Together, then)).await;
        assert!(matches!(worked, Worked::Unknown(_)), "{index}: {worked:?}");
        assert!(matches!(batches.prepare_held(gid).await, Vote::No(_)));
        assert_eq!(http.abort(gid).await, Ack::Done);
        assert_eq!(http.list_prepared().await.unwrap().branches, []);
    }
    assert_eq!(server.account("a").await, (100, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_outlives_a_kill_of_the_service_and_hears_the_same_again() {
    let (mut server, http) = open(&[]).await;
    let batches = http.batches().unwrap();
    let worked = batches.work(of(1, &members(), Then::Hold)).await;
    assert_eq!(told(&worked), (vec![0, 20, 40], "none".to_owned()));
    server.kill();
    server.run();
    assert_eq!(batches.work(of(1, &members(), Then::Hold)).await, worked);
    assert_eq!(http.list_prepared().await.unwrap().branches, [gid(1)]);
    assert_eq!(batches.prepare_held(gid(1)).await, Vote::Yes);
    server.kill();
    // Gone before it was asked: nothing was sent, so nobody was heard.
    let worked = batches.work(of(2, &members(), Then::Hold)).await;
    assert_eq!(told(&worked), (vec![], "failed technical participant_unavailable".to_owned()));
    assert!(matches!(http.commit(gid(1)).await, Ack::Unknown(_)));
    server.run();
    for _ in 0..2 {
        assert_eq!(http.commit(gid(1)).await, Ack::Done);
    }
    assert_eq!((server.account("a").await, server.account("b").await), ((0, 0, 0), (40, 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_a_batch_has_opened_and_emptied_is_open() {
    let (server, http) = open(&[]).await;
    let batches = http.batches().unwrap();
    let members = [vec![credit("c", 5)], vec![debit("c", 5)]];
    assert_eq!(batches.work(of(1, &members, Then::Prepare)).await, all_done(Some(Vote::Yes)));
    assert_eq!(http.commit(gid(1)).await, Ack::Done);
    assert_eq!(server.account("c").await, (0, 0, 0));
    assert_eq!(http.prepare(gid(2), &[at("balance", "c")]).await, Vote::ReadOnly);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wallets_batches_equal_a_serial_order_of_their_members() {
    let (server, http) = open(&[]).await;
    let physical = std::cell::Cell::new(0);
    let config = Config { cases: CASES, max_shrink_iters: 100, ..Config::default() };
    let ran = TestRunner::new(config).run(&case(), |case| {
        let run = against_the_oracle(&server, &http, &physical, &case);
        tokio::task::block_in_place(|| Handle::current().block_on(run))
    });
    match ran {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\n{case:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// Each case has accounts of its own; its members are tried held and, as they decline, at once.
async fn against_the_oracle(
    server: &WalletServer,
    http: &Http,
    physical: &std::cell::Cell<u64>,
    case: &Case,
) -> Result<(), TestCaseError> {
    let next = || {
        physical.set(physical.get() + 1);
        physical.get()
    };
    let first = next();
    let name = |account: usize| format!("{first}-{account}");
    let opened: Vec<_> =
        (0..ACCOUNTS).map(|account| vec![credit(&name(account), OPENING)]).collect();
    let batches = http.batches().unwrap();
    let worked = batches.work(of(first, &opened, Then::Prepare)).await;
    prop_assert_eq!(worked, all_done(Some(Vote::Yes)));
    prop_assert_eq!(http.commit(gid(first)).await, Ack::Done);
    let operation = |(account, amount): &Leg| match *amount {
        amount if amount < 0 => debit(&name(*account), -amount),
        amount => credit(&name(*account), amount),
    };
    let members: Vec<Vec<_>> =
        case.members.iter().map(|legs| legs.iter().map(operation).collect()).collect();
    let (balances, declines) = serial(&case.members);
    let places: Vec<usize> = declines.iter().map(|index| index * 10).collect();
    let gid = gid(next());
    if case.ways[0].0 && !declines.is_empty() {
        let worked = batches.work(batch(gid, &members, Style::Together, Then::Prepare)).await;
        prop_assert_eq!(told(&worked), (places, "none".to_owned()));
        prop_assert_eq!(http.list_prepared().await.unwrap().branches, []);
        return Ok(());
    }
    let worked = batches.work(batch(gid, &members, Style::Together, Then::Hold)).await;
    prop_assert_eq!(told(&worked), (places, "none".to_owned()));
    // What comes to nothing is read-only, and all the same for a commit.
    let vote = batches.prepare_held(gid).await;
    prop_assert!(vote == Vote::Yes || balances == [OPENING; ACCOUNTS], "{vote:?}");
    if vote == Vote::Yes {
        let ack = if case.committed { http.commit(gid).await } else { http.abort(gid).await };
        prop_assert_eq!(ack, Ack::Done);
    }
    let expected = if case.committed { balances } else { [OPENING; ACCOUNTS] };
    for (account, balance) in expected.into_iter().enumerate() {
        let balance = u64::try_from(balance).unwrap();
        prop_assert_eq!(server.account(&name(account)).await, (balance, 0, 0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_of_what_is_declared_here_and_offered_there() {
    let keys = |http: &Http, operation: &Operation| {
        let mut keys = Vec::new();
        http.batches().unwrap().keys(operation, &mut keys).then_some(keys.len())
    };
    let (server, http) = open(&[]).await;
    assert_eq!(keys(&http, &debit("a", 1)), Some(1));
    assert_eq!(keys(&http, &at("close", "a")), None);
    let plain = Http::new(&options(&server.url())).unwrap();
    plain.claim_epoch(log(), Epoch(2)).await.unwrap();
    assert_eq!(keys(&plain, &debit("a", 1)), None);
    let (_without, http) = open(&["--no-batches"]).await;
    assert_eq!(keys(&http, &debit("a", 1)), None);
    for (operation, lock, why) in [
        ("debit", "account/$owner", "a lock names $owner"),
        ("close", "account/$account", "the service has no operation close"),
    ] {
        let mut options = options(&server.url());
        options.locks.insert(operation.parse().unwrap(), vec![lock.to_owned()]);
        let http = Http::new(&options).unwrap();
        let error = http.claim_epoch(log(), Epoch(3)).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
