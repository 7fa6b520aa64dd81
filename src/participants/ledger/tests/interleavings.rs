//! Any order of calls, reopenings and crashes against a plain model.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Prepare(u64, Vec<(u8, u8, u8, i64)>),
    OnePhase(u64, Vec<(u8, u8, u8, i64)>),
    Commit(u64),
    Abort(u64),
    Inquire(u64),
    Reopen,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    let operations = || prop::collection::vec((0..3_u8, 0..4_u8, 0..4_u8, 1..70_i64), 1..4);
    prop_oneof![
        6 => (0..14_u64, operations()).prop_map(|(n, o)| Action::Prepare(n, o)),
        2 => (0..14_u64, operations()).prop_map(|(n, o)| Action::OnePhase(n, o)),
        5 => (0..14_u64).prop_map(Action::Commit),
        3 => (0..14_u64).prop_map(Action::Abort),
        1 => (0..14_u64).prop_map(Action::Inquire),
        1 => Just(Action::Reopen),
        1 => Just(Action::Crash),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "nobody"];

fn operations(raw: &[(u8, u8, u8, i64)]) -> Vec<Operation> {
    let name = |n: u8| NAMES[usize::from(n)];
    let one = |(kind, x, y, amount): &(u8, u8, u8, i64)| match kind {
        0 => debit(name(*x), *amount),
        1 => credit(name(*x), *amount),
        _ => transfer(name(*x), name(*y), *amount),
    };
    raw.iter().map(one).collect()
}

/// What a ledger must do, in the plainest terms.
#[derive(Default)]
struct Model {
    balances: BTreeMap<&'static str, i64>,
    branches: HashMap<u64, Branch>,
}

#[derive(Clone, PartialEq, Debug)]
enum Branch {
    Prepared(Vec<(&'static str, i64)>),
    Committed,
    Aborted,
    Declined,
}

impl Model {
    fn postings(raw: &[(u8, u8, u8, i64)]) -> Option<Vec<(&'static str, i64)>> {
        let mut postings = Vec::new();
        for (kind, x, y, amount) in raw {
            let (from, to) = match kind {
                0 => (NAMES[usize::from(*x)], "settlement"),
                1 => ("settlement", NAMES[usize::from(*x)]),
                _ => (NAMES[usize::from(*x)], NAMES[usize::from(*y)]),
            };
            if from == "nobody" || to == "nobody" {
                return None;
            }
            postings.extend([(from, -amount), (to, *amount)]);
        }
        Some(postings)
    }

    fn available(&self, account: &str) -> i64 {
        let held = self.branches.values().filter_map(|branch| match branch {
            Branch::Prepared(postings) => Some(postings),
            _ => None,
        });
        let held = held.flatten().filter(|(name, amount)| *name == account && *amount < 0);
        self.balances[account] + held.map(|(_, amount)| amount).sum::<i64>()
    }

    /// Whether it votes yes.
    fn prepare(&mut self, n: u64, raw: &[(u8, u8, u8, i64)]) -> bool {
        match self.branches.get(&n) {
            Some(Branch::Prepared(_) | Branch::Committed) => return true,
            Some(Branch::Aborted | Branch::Declined) => return false,
            None => {}
        }
        let fits = |postings: &Vec<(&'static str, i64)>| {
            ["a", "b", "c"].iter().all(|name| {
                let taken = postings.iter().filter(|(n, amount)| n == name && *amount < 0);
                let taken: i64 = taken.map(|(_, amount)| -amount).sum();
                taken == 0 || self.available(name) >= taken
            })
        };
        let postings = Self::postings(raw).filter(fits);
        let yes = postings.is_some();
        self.branches.insert(n, postings.map_or(Branch::Declined, Branch::Prepared));
        yes
    }

    fn commit(&mut self, n: u64) -> &'static str {
        match self.branches.get(&n).cloned() {
            Some(Branch::Prepared(postings)) => {
                for (name, amount) in postings {
                    *self.balances.get_mut(name).unwrap() += amount;
                }
                self.branches.insert(n, Branch::Committed);
                "done"
            }
            Some(Branch::Committed) => "done",
            _ => "heuristic",
        }
    }

    fn abort(&mut self, n: u64) -> &'static str {
        if self.branches.get(&n) == Some(&Branch::Committed) {
            return "heuristic";
        }
        self.branches.insert(n, Branch::Aborted);
        "done"
    }

    fn one_phase(&mut self, n: u64, raw: &[(u8, u8, u8, i64)]) -> &'static str {
        if matches!(self.branches.get(&n), Some(Branch::Prepared(_))) {
            return "unknown";
        }
        if !self.prepare(n, raw) {
            return "no";
        }
        self.commit(n);
        "yes"
    }

    fn inquire(&mut self, n: u64) -> Inquiry {
        match self.branches.get(&n) {
            Some(Branch::Prepared(_)) => Inquiry::Unknown(String::new()),
            Some(Branch::Committed) => Inquiry::Committed,
            _ => {
                self.abort(n);
                Inquiry::Aborted
            }
        }
    }

    /// In memory alone: nothing is flushed by looking.
    fn check(&self, ledger: &Ledger) {
        for (name, balance) in &self.balances {
            let found = ledger.balance(name).unwrap();
            assert_eq!(found.balance_minor, *balance, "{name}");
            assert_eq!(found.available_minor, self.available(name), "{name}");
            assert!(found.available_minor >= 0 || *name == "settlement", "{name} overdrawn");
        }
        let prepared = self.branches.values().filter(|b| matches!(b, Branch::Prepared(_)));
        assert_eq!(run(ledger.list_prepared()).unwrap().branches.len(), prepared.count());
    }
}

fn shape(ack: &Ack) -> &'static str {
    match ack {
        Ack::Done => "done",
        Ack::Heuristic(_) => "heuristic",
        Ack::Unknown(_) => "unknown",
    }
}

/// Starts from an image of the folder as a crash now would leave it; what was begun and not
/// acknowledged may be missing there, and is told again, as a coordinator does.
fn crash(path: &Path, model: &Model) {
    let image = tempfile::tempdir().unwrap();
    copy(path, image.path());
    let ledger = Ledger::open(image.path(), quick()).unwrap();
    assert_sound(&ledger);
    for (n, branch) in &model.branches {
        match branch {
            Branch::Committed => assert_eq!(run(ledger.commit(gid(*n))), Ack::Done, "{n}"),
            Branch::Aborted => assert_eq!(run(ledger.abort(gid(*n))), Ack::Done, "{n}"),
            Branch::Prepared(_) | Branch::Declined => {}
        }
    }
    model.check(&ledger);
    assert_sound(&ledger);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_conserves_money_is_atomic_and_repeatable(
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path(), never_lazily()).unwrap();
        let mut model = Model::default();
        model.balances.insert("settlement", 0);
        for name in ["a", "b", "c"] {
            run(ledger.open_account(name, 100, Overdraft::Refused)).unwrap();
            model.balances.insert(name, 100);
        }
        for action in actions {
            match action {
                Action::Prepare(n, raw) => {
                    let expected = model.prepare(n, &raw);
                    let vote = run(ledger.prepare(gid(n), &operations(&raw)));
                    prop_assert_eq!(vote == Vote::Yes, expected, "{:?}", vote);
                }
                Action::OnePhase(n, raw) => {
                    let expected = model.one_phase(n, &raw);
                    let vote = run(ledger.commit_one_phase(gid(n), &operations(&raw)));
                    let found = match vote {
                        Vote::Yes => "yes",
                        Vote::No(_) => "no",
                        Vote::ReadOnly | Vote::Unknown(_) => "unknown",
                    };
                    prop_assert_eq!(found, expected);
                }
                Action::Commit(n) => {
                    let expected = model.commit(n);
                    if expected == "done" {
                        begin(ledger.commit(gid(n)));
                    } else {
                        prop_assert_eq!(shape(&run(ledger.commit(gid(n)))), expected);
                    }
                }
                Action::Abort(n) => {
                    let expected = model.abort(n);
                    if expected == "done" {
                        begin(ledger.abort(gid(n)));
                    } else {
                        prop_assert_eq!(shape(&run(ledger.abort(gid(n)))), expected);
                    }
                }
                Action::Inquire(n) => {
                    let expected = model.inquire(n);
                    let found = run(ledger.inquire(gid(n)));
                    prop_assert_eq!(
                        std::mem::discriminant(&found), std::mem::discriminant(&expected)
                    );
                }
                Action::Reopen => {
                    assert_sound(&ledger);
                    drop(ledger);
                    ledger = Ledger::open(dir.path(), never_lazily()).unwrap();
                    model.branches.retain(|_, branch| *branch != Branch::Declined);
                }
                Action::Crash => crash(dir.path(), &model),
            }
            model.check(&ledger);
        }
        assert_sound(&ledger);
    }
}
