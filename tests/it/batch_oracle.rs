//! Batches against an oracle: members one after the other, on balances in memory.

use std::collections::BTreeSet;

use presume::participants::batch::{Then, Worked};
use presume::participants::{Ack, Participant};
use presume::txn::{Declined, Operation, Vote};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use tokio::runtime::Handle;

use crate::batch_banks::{BatchBank, STYLES, batch};
use crate::branches::{credit, debit, gid};

pub const ACCOUNTS: usize = 5;
pub const OPENING: i64 = 100;
pub const CASES: u32 = 60;

/// What happens to an account: an amount that comes or, below zero, goes.
pub type Leg = (usize, i64);

#[derive(Debug, Clone)]
pub struct Case {
    pub members: Vec<Vec<Leg>>,
    /// For each attempt: together or not, held or not.
    pub ways: Vec<(bool, bool)>,
    pub committed: bool,
}

pub fn case() -> impl Strategy<Value = Case> {
    let leg = || (0..ACCOUNTS, prop_oneof![-120_i64..-1, -30_i64..-1, 1_i64..60]);
    let member = prop_oneof![
        4 => proptest::collection::vec(leg(), 1),
        1 => proptest::collection::vec(leg(), 2..4),
    ];
    let members = proptest::collection::vec(member, 1..25);
    let ways = proptest::collection::vec(any::<(bool, bool)>(), 4);
    let cases = (members, ways, prop::bool::weighted(0.8));
    cases.prop_map(|(members, ways, committed)| Case { members, ways, committed })
}

fn operations(legs: &[Leg]) -> Vec<Operation> {
    let one = |(account, amount): &Leg| {
        let account = format!("a{account}");
        if *amount < 0 { debit(&account, -amount) } else { credit(&account, *amount) }
    };
    legs.iter().map(one).collect()
}

/// The balances after everybody in turn, and who declines: for those nothing happens.
pub fn serial(members: &[Vec<Leg>]) -> ([i64; ACCOUNTS], BTreeSet<usize>) {
    let (mut balances, mut declined) = ([OPENING; ACCOUNTS], BTreeSet::new());
    for (index, legs) in members.iter().enumerate() {
        let mut after = balances;
        let carried_out = legs.iter().all(|(account, amount)| {
            after[*account] += amount;
            after[*account] >= 0
        });
        if carried_out {
            balances = after;
        } else {
            declined.insert(index);
        }
    }
    (balances, declined)
}

pub fn batches_equal_a_serial_order_of_their_members<B: BatchBank>(bank: &B) {
    let names: Vec<String> = (0..ACCOUNTS).map(|account| format!("a{account}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bank.open_accounts(&names, OPENING);
    let physical = std::cell::Cell::new(0);
    let config = Config { cases: CASES, max_shrink_iters: 100, ..Config::default() };
    let ran = TestRunner::new(config).run(&case(), |case| {
        let run = run(bank, &physical, &case);
        tokio::task::block_in_place(|| Handle::current().block_on(run))
    });
    match ran {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\n{case:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

async fn run<B: BatchBank>(
    bank: &B,
    physical: &std::cell::Cell<u64>,
    case: &Case,
) -> Result<(), TestCaseError> {
    bank.sql(&format!("UPDATE accounts SET balance = {OPENING} WHERE id LIKE 'a_'"));
    let (balances, declines) = serial(&case.members);
    let mut declined: BTreeSet<usize> = BTreeSet::new();
    let mut ways = case.ways.iter().cycle();
    loop {
        physical.set(physical.get() + 1);
        let gid = gid(physical.get());
        let left: Vec<usize> =
            (0..case.members.len()).filter(|index| !declined.contains(index)).collect();
        let members: Vec<_> = left.iter().map(|index| operations(&case.members[*index])).collect();
        let (together, held) = *ways.next().expect("it cycles");
        let style = STYLES[usize::from(!together)];
        let then = if held { Then::Hold } else { Then::Prepare };
        let worked = bank.batches().work(batch(gid, &members, style, then)).await;
        let decision = if case.committed { "commit" } else { "abort" };
        match worked {
            Worked::Done { declined: more, vote } => {
                let kept = vote.is_some() || held;
                prop_assert!(kept != (!held && !more.is_empty()), "{vote:?} {more:?}");
                declined.extend(more.iter().map(|(place, _)| left[place / 10]));
                if !kept {
                    continue;
                }
                let vote = match vote {
                    Some(vote) => vote,
                    None => bank.batches().prepare_held(gid).await,
                };
                prop_assert_eq!(&declined, &declines);
                // Where nobody is left there may be nothing to commit.
                let nobody = declines.len() == case.members.len();
                prop_assert!(vote == Vote::Yes || nobody && vote == Vote::ReadOnly, "{vote:?}");
                if vote == Vote::Yes {
                    let ack = match decision {
                        "commit" => bank.database().commit(gid).await,
                        _ => bank.database().abort(gid).await,
                    };
                    prop_assert_eq!(ack, Ack::Done);
                }
                break;
            }
            Worked::Failed { why: Declined::Business { .. }, culprit: Some(place) } => {
                let culprit = left[place / 10];
                prop_assert!(case.members[culprit].len() > 1, "{style:?}: {culprit}");
                declined.insert(culprit);
            }
            other => prop_assert!(false, "{style:?}: {other:?}"),
        }
        prop_assert!(declined.is_subset(&declines), "{declined:?}, not of {declines:?}");
        if declined.len() == case.members.len() {
            break;
        }
    }
    let expected = if case.committed { balances } else { [OPENING; ACCOUNTS] };
    let found: Vec<i64> = (0..ACCOUNTS).map(|n| bank.balance(&format!("a{n}"))).collect();
    prop_assert_eq!(&found[..], &expected[..]);
    Ok(())
}
