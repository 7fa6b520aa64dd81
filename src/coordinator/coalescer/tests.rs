//! Journeys over real ledgers, in a scratch folder.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::tests::{World, fund, off, open_as, operation, posted, submission, transfer};
use super::super::{Answer, Options};
use crate::participants::Participant;
use crate::txn::{Outcome, ReasonCode};

async fn world(data: &Path) -> Arc<World> {
    let wrap = |_: &_, ledger| Arc::new(ledger) as Arc<dyn Participant>;
    Arc::new(open_as(data, off(), &wrap, Options::default()).await)
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
        assert_eq!(declined.reasons[0].code, ReasonCode::BusinessDecline);
        assert!(declined.reasons[0].detail.contains("insufficient_funds"), "{declined:?}");
    }
    // In the order in which they came, the first fifty had the money.
    assert!(answers[..50].iter().all(|answer| answer.outcome == Outcome::Committed));
    assert_eq!((posted(&world, "a", "alice"), posted(&world, "b", "bob")), (0, 50));
    assert!(world.log.writes() - writes < 40, "{} writes", world.log.writes() - writes);
    for answer in &answers {
        assert_eq!(world.coordinator.answer(&answer.id).unwrap().as_ref(), Some(answer));
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
