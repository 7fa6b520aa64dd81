//! Journeys over real ledgers, in a scratch folder.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::Answer;
use super::super::tests::{World, fund, open_coalescing, operation, posted, submission, transfer};
use crate::mutation::{self, Mutation};
use crate::participants::Participant;
use crate::policy::coalescing::{self, CoalescingOptions};
use crate::txn::{Outcome, ReasonCode};

async fn world(data: &Path) -> Arc<World> {
    Arc::new(open_coalescing(data, CoalescingOptions::default()).await)
}

/// Submits all at once, and answers in their order.
async fn all_at_once(world: &Arc<World>, transfers: Vec<super::super::Submission>) -> Vec<Answer> {
    let mut tasks = Vec::new();
    for transfer in transfers {
        let world = world.clone();
        tasks.push(tokio::spawn(async move { world.coordinator.submit(transfer).await.unwrap() }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn outcomes(answers: &[Answer]) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.outcome).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn those_who_wait_share_a_commit_and_each_hears_its_own_end() {
    let data = tempfile::tempdir().unwrap();
    let world = world(data.path()).await;
    fund(&world, &[("a", "alice", 50), ("b", "bob", 0)]).await;
    let writes = world.log.writes();
    let transfers = (0..100).map(|n| transfer(&format!("t{n}"), 1)).collect();
    let answers = all_at_once(&world, transfers).await;
    let counts = outcomes(&answers);
    assert_eq!((counts[&Outcome::Committed], counts[&Outcome::Aborted]), (50, 50));
    for declined in answers.iter().filter(|answer| answer.outcome == Outcome::Aborted) {
        assert_eq!(declined.reasons[0].code, ReasonCode::BusinessDecline, "{declined:?}");
        assert!(declined.reasons[0].detail.contains("insufficient_funds"), "{declined:?}");
    }
    // In the order in which they came, the first fifty had the money.
    assert!(answers[..50].iter().all(|answer| answer.outcome == Outcome::Committed));
    assert_eq!((posted(&world, "a", "alice"), posted(&world, "b", "bob")), (0, 50));
    assert!(world.log.writes() - writes < 80, "{} writes", world.log.writes() - writes);
    for answer in &answers {
        let stored = world.coordinator.answer(&answer.id).unwrap().unwrap();
        assert_eq!((stored.outcome, &stored.reasons), (answer.outcome, &answer.reasons));
    }
    world.coordinator.shutdown(Duration::from_secs(5)).await;
    assert_eq!(world.coordinator.status().unfinished, 0);
    for ledger in world.ledgers.values() {
        assert!(ledger.verify().await.unwrap().problems.is_empty());
        assert!(ledger.list_prepared().await.unwrap().branches.is_empty());
    }
}

#[tokio::test]
async fn whoever_is_declined_where_nobody_expected_it_is_dropped_and_the_rest_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let world = world(data.path()).await;
    fund(&world, &[("a", "alice", 1_000), ("b", "bob", 0)]).await;
    let to = |n: usize| if n % 10 == 3 { "nobody" } else { "bob" };
    let transfers = (0..60).map(|n| {
        let debit = operation("a", "debit", "alice", 1);
        submission(&format!("t{n}"), vec![debit, operation("b", "credit", to(n), 1)])
    });
    let answers = all_at_once(&world, transfers.collect()).await;
    for (n, answer) in answers.iter().enumerate() {
        let expected = if to(n) == "bob" { Outcome::Committed } else { Outcome::Aborted };
        assert_eq!(answer.outcome, expected, "{answer:?}");
    }
    assert_eq!((posted(&world, "a", "alice"), posted(&world, "b", "bob")), (946, 54));
    world.coordinator.shutdown(Duration::from_secs(5)).await;
    assert_eq!(world.coordinator.status().unfinished, 0);
    for ledger in world.ledgers.values() {
        assert!(ledger.verify().await.unwrap().problems.is_empty());
    }
}

/// Random transfers over few accounts, arriving in one order; those to nobody are declined where
/// they are credited, wherever they stand in the order. Who declines in two places at once because
/// of others goes alone, in an order of its own: that does not occur here.
fn steps() -> impl Strategy<Value = Vec<(usize, usize, i64)>> {
    proptest::collection::vec((0_usize..3, 0_usize..4, 1_i64..40), 1..40)
}

const OPENING: i64 = 60;

/// What one transaction after the other would come to.
fn serially(steps: &[(usize, usize, i64)]) -> (Vec<Outcome>, [i64; 3], [i64; 3]) {
    let (mut left, mut right) = ([OPENING; 3], [0; 3]);
    let outcome = |(from, to, amount): &(usize, usize, i64)| {
        if *to == 3 || left[*from] < *amount {
            return Outcome::Aborted;
        }
        left[*from] -= amount;
        right[*to] += amount;
        Outcome::Committed
    };
    (steps.iter().map(outcome).collect(), left, right)
}

/// What they come to together.
async fn together(
    steps: &[(usize, usize, i64)],
    strategy: coalescing::Strategy,
) -> (Vec<Outcome>, [i64; 3], [i64; 3]) {
    let data = tempfile::tempdir().unwrap();
    let coalescing =
        CoalescingOptions { strategy, chain_max: 1_000, journeys_max: 1, ..Default::default() };
    let world = Arc::new(open_coalescing(data.path(), coalescing).await);
    for n in 0..3 {
        fund(&world, &[("a", &format!("a{n}"), OPENING), ("b", &format!("b{n}"), 0)]).await;
    }
    // One goes alone and keeps the road busy until everybody else is there.
    let first = submission(
        "first",
        vec![operation("a", "debit", "a0", 1_000), operation("b", "credit", "b0", 1)],
    );
    let transfers = steps.iter().enumerate().map(|(n, (from, to, amount))| {
        let to = if *to == 3 { format!("nobody{n}") } else { format!("b{to}") };
        let debit = operation("a", "debit", &format!("a{from}"), *amount);
        submission(&format!("t{n}"), vec![debit, operation("b", "credit", &to, *amount)])
    });
    let answers = all_at_once(&world, std::iter::once(first).chain(transfers).collect()).await;
    world.coordinator.shutdown(Duration::from_secs(5)).await;
    for ledger in world.ledgers.values() {
        assert!(ledger.verify().await.unwrap().problems.is_empty());
        assert!(ledger.list_prepared().await.unwrap().branches.is_empty());
    }
    let balances =
        |ledger: &str| [0, 1, 2].map(|n| posted(&world, ledger, &format!("{ledger}{n}")));
    let outcomes = answers[1..].iter().map(|answer| answer.outcome).collect();
    (outcomes, balances("a"), balances("b"))
}

fn strategies() -> impl Strategy<Value = coalescing::Strategy> {
    use coalescing::Strategy as S;
    prop_oneof![Just(S::Auto), Just(S::OneTrip), Just(S::WorkFirst)]
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Invariant 11.
    #[test]
    fn a_batch_equals_its_members_one_after_the_other(
        steps in steps(),
        strategy in strategies(),
    ) {
        prop_assert_eq!(run(together(&steps, strategy)), serially(&steps));
    }
}

#[test]
fn a_decline_that_rested_on_what_was_taken_back_would_be_found() {
    // The first takes everything and cannot arrive; the second could have had it.
    let steps = [(1, 3, OPENING), (1, 0, OPENING), (2, 1, 1)];
    let strategy = coalescing::Strategy::WorkFirst;
    assert_eq!(run(together(&steps, strategy)), serially(&steps));
    let wrong = mutation::with(Mutation::DeclineOnTakenBack, || run(together(&steps, strategy)));
    assert_ne!(wrong, serially(&steps));
}
