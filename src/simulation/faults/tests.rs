#![allow(clippy::unwrap_used, clippy::print_stdout)]
//! The simulator itself: that it repeats, finds nothing in the coordinator, and finds every bug.

use super::*;
use crate::mutation::{self, Mutation};

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (first, second) = (run::run(seed, true), run::run(seed, true));
        assert!(first.trace.len() > 10);
        assert_eq!(first.trace, second.trace, "seed {seed}");
        let untraced = run::run(seed, false);
        assert_eq!(first.counts, untraced.counts, "seed {seed}");
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let summary = simulate(0..300, 2, &|| {});
    assert!(summary.failures.is_empty(), "{:#?}", summary.failures);
}

/// The most seeds that a bug may need. When it was set, the slowest needed 209.
const SEEDS_MAX: u64 = 800;

fn caught_at(mutation: Mutation) -> Option<(u64, String)> {
    mutation::with(mutation, || {
        (0..SEEDS_MAX).find_map(|seed| {
            let first = run::run(seed, false).violations.first().cloned()?;
            Some((seed, first))
        })
    })
}

#[test]
fn every_seeded_bug_is_caught_and_shows_within_how_many_seeds() {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&bug) = Mutation::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match caught_at(bug) {
                        Some((seed, how)) => println!("{bug:?}: {} seeds: {how}", seed + 1),
                        None => missed.lock().unwrap().push(bug),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught within {SEEDS_MAX} seeds: {missed:?}");
}

/// 2151: a branch was told to roll back after its commit, since a list of prepared branches was
/// late. 18637: markers were pruned though the log had failed to forget their decision, which came
/// back at restart as a heuristic outcome.
#[test]
fn seeds_that_found_faults_in_the_coordinator_find_none_now() {
    for seed in [2_151, 18_637] {
        let ran = run::run(seed, false);
        assert!(ran.violations.is_empty(), "seed {seed}: {:#?}", ran.violations);
    }
}
