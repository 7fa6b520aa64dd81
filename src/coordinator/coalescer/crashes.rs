//! Batches in which replies are lost and the coordinator dies, held against a serial oracle.
//!
//! Participants are real ledgers behind a script that counts the calls to both. In its second life
//! the coordinator stands on the same log and ledgers, and every client asks again by its key.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::watch;

use super::super::tests::over_ledger::as_the_ledger;
use super::super::tests::{World, fund, off, open_on, posted};
use super::super::{Answer, Options};
use super::tests::{OPENING, Step, asked, run, steps, strategies};
use crate::participants::batch::{Batch, Batches, Key, Worked};
use crate::participants::ledger::Ledger;
use crate::participants::{Ack, BoxFuture, ClaimError, Inquiry, Participant, Prepared};
use crate::policy::coalescing::{self, CoalescingOptions};
use crate::txn::{
    Declined, Epoch, Gid, LogId, Operation, Outcome, ParticipantName, ReasonCode, Vote,
};

/// What happens to the calls to both participants, counted from 0.
#[derive(Debug, Default)]
struct Script {
    calls: AtomicUsize,
    /// These are carried out, and their replies are lost.
    lost: BTreeSet<usize>,
    /// Here the coordinator dies, from its participants' point of view: no call comes after.
    dies_at: Option<Death>,
    dead: watch::Sender<bool>,
    works: AtomicUsize,
    /// These batches, counted from 0, are refused, and not a word whose fault it is.
    refused: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Death {
    call: usize,
    /// Whether the call arrives.
    after: bool,
}

impl Script {
    async fn call<T>(&self, work: impl Future<Output = T>, lost: fn(String) -> T) -> T {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let death = self.dies_at.filter(|death| death.call <= call);
        if death.is_some_and(|death| death.call < call || !death.after) {
            return self.die().await;
        }
        let answer = work.await;
        if death.is_some() {
            return self.die().await;
        }
        if self.lost.contains(&call) { lost("the reply was lost".to_owned()) } else { answer }
    }

    async fn die<T>(&self) -> T {
        self.dead.send_replace(true);
        std::future::pending().await
    }
}

struct Scripted {
    ledger: Ledger,
    script: Arc<Script>,
}

impl Participant for Scripted {
    as_the_ledger!(validate, claim_epoch, commit_one_phase, inquire, list_prepared);

    fn is_shared(&self) -> bool {
        false
    }
    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        let work = async move { self.ledger.prepare(gid, operations).await };
        Box::pin(self.script.call(work, Vote::Unknown))
    }
    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        let work = async move { self.ledger.commit(gid).await };
        Box::pin(self.script.call(work, Ack::Unknown))
    }
    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        let work = async move { self.ledger.abort(gid).await };
        Box::pin(self.script.call(work, Ack::Unknown))
    }
    fn batches(&self) -> Option<&dyn Batches> {
        Some(self)
    }
}

impl Batches for Scripted {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        Batches::keys(&self.ledger, operation, keys)
    }
    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked> {
        let refused =
            self.script.refused.contains(&self.script.works.fetch_add(1, Ordering::SeqCst));
        let work = async move {
            if refused {
                let (code, detail) = ("refused".to_owned(), "all of them".to_owned());
                return Worked::Failed { why: Declined::Technical { code, detail }, culprit: None };
            }
            self.ledger.work(batch).await
        };
        Box::pin(self.script.call(work, Worked::Unknown))
    }
    fn prepare_held(&self, gid: Gid) -> BoxFuture<'_, Vote> {
        let work = async move { self.ledger.prepare_held(gid).await };
        Box::pin(self.script.call(work, Vote::Unknown))
    }
}

async fn open(data: &Path, strategy: coalescing::Strategy, script: &Arc<Script>) -> Arc<World> {
    let coalescing =
        CoalescingOptions { strategy, chain_max: 1_000, journeys_max: 1, ..Default::default() };
    let options = Options { retry_ms_first: 1, retry_ms_max: 5, ..Options::default() };
    let script = script.clone();
    let wrap = move |_: &ParticipantName, ledger| -> Arc<dyn Participant> {
        Arc::new(Scripted { ledger, script: script.clone() })
    };
    Arc::new(open_on(data, off(), &wrap, options, (coalescing, &|log| Arc::new(log))).await)
}

/// What clients have heard, by step.
type Heard = BTreeMap<usize, Arc<Answer>>;

/// Asks for all of these at once, in this order; ends when everybody was answered, or at death.
async fn ask(world: &Arc<World>, script: &Script, steps: &[(usize, Step)]) -> Heard {
    let heard = Arc::new(Mutex::new(Heard::new()));
    let mut clients = tokio::task::JoinSet::new();
    for (n, step) in steps {
        let (world, heard, n, step) = (world.clone(), heard.clone(), *n, *step);
        clients.spawn(async move {
            let answer = world.coordinator.submit(asked(n, step)).await.unwrap();
            heard.lock().unwrap().insert(n, answer);
        });
    }
    let all = async { while clients.join_next().await.is_some_and(|client| client.is_ok()) {} };
    let mut dead = script.dead.subscribe();
    tokio::select! {
        () = all => {}
        _ = dead.wait_for(|dead| *dead) => {}
    }
    clients.abort_all();
    heard.lock().unwrap().clone()
}

#[derive(Debug, Clone)]
struct Case {
    steps: Vec<Step>,
    strategy: coalescing::Strategy,
    /// In the first life and in the second.
    lost: [BTreeSet<usize>; 2],
    refused: [BTreeSet<usize>; 2],
    death: Option<Death>,
}

fn cases() -> impl Strategy<Value = Case> {
    let some = |most: usize| proptest::collection::btree_set(0_usize..24, 0..most);
    let death = (0_usize..16, any::<bool>()).prop_map(|(call, after)| Death { call, after });
    let death = proptest::option::weighted(0.8, death);
    let faults = ([some(4), some(4)], [some(8), some(8)], death);
    (steps(), strategies(), faults).prop_map(|(steps, strategy, (lost, refused, death))| Case {
        steps,
        strategy,
        lost,
        refused,
        death,
    })
}

/// What all cases came to.
#[derive(Debug, Default)]
struct Coverage {
    deaths: usize,
    replies_lost: usize,
    refused: usize,
    batches: u64,
    /// Decided in the first life.
    decided: usize,
    /// Of these, heard of in the second life only: answers go out as soon as a decision is durable,
    /// so there are few.
    recovered: usize,
    /// Not decided in the first life.
    begun_again: usize,
    failed: usize,
}

/// Every step's place in the one order that is claimed, and its answer.
struct Told {
    order: Vec<(Step, Arc<Answer>)>,
    left: [i64; 3],
    right: [i64; 3],
}

fn two_lives(case: &Case, coverage: &mut Coverage) -> Told {
    let data = tempfile::tempdir().unwrap();
    let all: Vec<_> = case.steps.iter().copied().enumerate().collect();
    let script = |life: usize, dies_at| {
        let (lost, refused) = (case.lost[life].clone(), case.refused[life].clone());
        Arc::new(Script { lost, dies_at, refused, ..Script::default() })
    };
    let first = script(0, case.death);
    // A runtime ends all that runs on it, as a process does.
    let heard = run(async {
        let world = open(data.path(), case.strategy, &first).await;
        for n in 0..3 {
            fund(&world, &[("a", &format!("a{n}"), OPENING), ("b", &format!("b{n}"), 0)]).await;
        }
        let heard = ask(&world, &first, &all).await;
        coverage.batches += world.coordinator.status().travelled.batches;
        heard
    });
    coverage.deaths += usize::from(*first.dead.borrow());
    let second = script(1, None);
    run(async {
        let world = open(data.path(), case.strategy, &second).await;
        assert!(!world.coordinator.status().recovering);
        let decided = |n: &usize| {
            world.coordinator.answer(&asked(*n, case.steps[*n]).transaction.id).unwrap()
        };
        let (before, after): (Vec<_>, Vec<_>) =
            all.iter().copied().partition(|(n, _)| decided(n).is_some());
        let again = ask(&world, &second, &all).await;
        assert_eq!(again.len(), all.len(), "somebody was not answered");
        for (n, answer) in &heard {
            assert_eq!(again[n].outcome, answer.outcome, "t{n} has heard something else");
        }
        coverage.decided += before.len();
        coverage.recovered += before.iter().filter(|(n, _)| !heard.contains_key(n)).count();
        coverage.begun_again += after.len();
        world.coordinator.shutdown(Duration::from_secs(5)).await;
        assert_eq!(world.coordinator.status().unfinished, 0);
        for ledger in world.ledgers.values() {
            assert!(ledger.verify().await.unwrap().problems.is_empty());
            assert!(ledger.list_prepared().await.unwrap().branches.is_empty());
        }
        for (script, lost) in [&first, &second].into_iter().zip(&case.lost) {
            let calls = script.calls.load(Ordering::SeqCst);
            coverage.replies_lost += lost.range(..calls).count();
            let works = script.works.load(Ordering::SeqCst);
            coverage.refused += script.refused.range(..works).count();
        }
        let balances =
            |ledger: &str| [0, 1, 2].map(|n| posted(&world, ledger, &format!("{ledger}{n}")));
        let order = before.into_iter().chain(after).map(|(n, step)| (step, again[&n].clone()));
        Told { order: order.collect(), left: balances("a"), right: balances("b") }
    })
}

/// One after the other in that order comes to the same, where those whose transaction failed have
/// done nothing.
fn explain(told: &Told, coverage: &mut Coverage) {
    let (mut left, mut right) = ([OPENING; 3], [0; 3]);
    for ((from, to, amount), answer) in &told.order {
        let declined = answer.reasons.first().map(|reason| reason.code);
        if answer.outcome == Outcome::Aborted && declined != Some(ReasonCode::BusinessDecline) {
            coverage.failed += 1;
            continue;
        }
        let possible = *to < 3 && left[*from] >= *amount;
        assert_eq!(answer.outcome == Outcome::Committed, possible, "{answer:?}");
        if possible {
            left[*from] -= amount;
            right[*to] += amount;
        }
    }
    assert_eq!((told.left, told.right), (left, right));
}

/// Invariant 11, whatever is lost and whenever the coordinator dies.
#[test]
fn a_batch_equals_its_members_one_after_the_other_over_crashes_and_lost_replies() {
    let coverage = RefCell::new(Coverage::default());
    let config = Config { cases: 48, source_file: Some(file!()), ..Config::default() };
    let checked = TestRunner::new(config).run(&cases(), |case| {
        let mut coverage = coverage.borrow_mut();
        let told = two_lives(&case, &mut coverage);
        explain(&told, &mut coverage);
        Ok(())
    });
    assert!(checked.is_ok(), "{}", checked.unwrap_err());
    let coverage = coverage.into_inner();
    println!("{coverage:?}");
    let Coverage { deaths, replies_lost, refused, batches, decided, begun_again, .. } = coverage;
    let counts = [deaths, replies_lost, refused, decided, begun_again, coverage.failed];
    assert!(batches > 0 && counts.iter().all(|count| *count > 0), "{coverage:?}");
}
