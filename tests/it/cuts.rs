//! The connection to a database is cut at every step of a transfer to another one.

use std::time::Duration;

use crate::house::{House, OPENING, across, within};
use crate::load::Transfer;
use crate::pair::{Side, eventually};
use crate::proxy::{Moment, Outage};

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Commit,
    /// Because the other one declines.
    Rollback,
    /// Of the only participant.
    OnePhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed,
    Aborted,
    Either,
}

/// An answer that takes longer waits for those who are cut off.
const LATE: Duration = Duration::from_secs(10);
const STEPS: [Step; 4] = [Step::Prepare, Step::Commit, Step::Rollback, Step::OnePhase];
const MOMENTS: [Moment; 3] =
    [Moment::BeforeItIsSent, Moment::OnceItIsSent, Moment::BeforeItIsAnswered];
const OUTAGES: [Outage; 2] = [Outage::OneConnection, Outage::UntilHealed];

impl Step {
    /// What the message holds that is cut.
    pub fn bytes(self, side: Side) -> &'static str {
        match (self, side) {
            (Self::Prepare, Side::Left) => "PREPARE TRANSACTION",
            (Self::Prepare, Side::Right) => "XA PREPARE",
            (Self::Commit, Side::Left) => "COMMIT PREPARED",
            (Self::Commit, Side::Right) => "XA COMMIT",
            (Self::Rollback, Side::Left) => "ROLLBACK PREPARED",
            (Self::Rollback, Side::Right) => "XA ROLLBACK",
            (Self::OnePhase, Side::Left) => "COMMIT\0",
            (Self::OnePhase, Side::Right) => "ONE PHASE",
        }
    }

    fn transfer(self, id: &str, side: Side, account: usize) -> Transfer {
        match self {
            Self::Prepare | Self::Commit => across(id, account, 1),
            Self::Rollback => {
                let (gives, takes) = (side.other().name(), side.name());
                let much = OPENING + 1;
                let legs = vec![(takes, account, much), (gives, account, -much)];
                Transfer { id: id.to_owned(), legs }
            }
            Self::OnePhase => within(id, side, account, 1),
        }
    }

    fn outcome(self, moment: Moment) -> Outcome {
        match (self, moment) {
            (Self::Commit, _) | (Self::OnePhase, Moment::BeforeItIsAnswered) => Outcome::Committed,
            (Self::OnePhase, Moment::OnceItIsSent) => Outcome::Either,
            _ => Outcome::Aborted,
        }
    }

    /// Waits until the server has done what its lost answer would say.
    async fn done(self, house: &House, side: Side, account: usize) {
        let prepared = || !house.pair.prepared(side).is_empty();
        let changed = || house.pair.balance(side, account) != OPENING;
        match self {
            Self::Prepare => eventually("prepared", prepared).await,
            Self::Commit | Self::Rollback => eventually("ended", || !prepared()).await,
            Self::OnePhase => eventually("committed", changed).await,
        }
    }
}

/// The answer is one of those that may be, the money is where it says, and nothing is left.
async fn check(house: &House, answer: &str, expected: Outcome, step: Step, at: (Side, usize)) {
    let (side, account) = at;
    let what = format!("{step:?} of {side:?}, account {account}, answered {answer}");
    match expected {
        Outcome::Committed => assert_eq!(answer, "committed", "{what}"),
        Outcome::Aborted => assert_eq!(answer, "aborted", "{what}"),
        Outcome::Either => assert!(["committed", "aborted"].contains(&answer), "{what}"),
    }
    house.settled(&what).await;
    let moved = i64::from(answer == "committed");
    if step == Step::OnePhase {
        assert_eq!(house.pair.balance(side, account), OPENING + moved, "{what}");
    } else {
        house.assert_moved(account, moved, &what);
    }
}

async fn cut_everywhere(side: Side) {
    let Some(house) = House::open("").await else { return };
    let mut account = 0;
    let mut deposited = 0;
    for outage in OUTAGES {
        for (step, moment) in STEPS.iter().flat_map(|s| MOMENTS.map(|moment| (*s, moment))) {
            let id = format!("{outage:?}-{step:?}-{moment:?}");
            house.works().await;
            let proxy = house.proxy(side);
            proxy.set(step.bytes(side), moment, outage);
            let transfer = step.transfer(&id, side, account);
            let here = account;
            let cut = async {
                proxy.sprung().await;
                if moment == Moment::BeforeItIsAnswered {
                    step.done(&house, side, here).await;
                    proxy.cut(outage);
                }
                // One participant alone must be asked before there is an answer.
                if step == Step::OnePhase {
                    proxy.heal();
                }
            };
            // The answer comes while the connection is cut, unless a slow disk lets it wait for those
            // who cannot obey.
            let mut both = std::pin::pin!(async { tokio::join!(house.answer(&transfer), cut).0 });
            let answer = match tokio::time::timeout(LATE, &mut both).await {
                Ok(answer) => answer,
                Err(_) => {
                    proxy.heal();
                    both.await
                }
            };
            proxy.heal();
            let answer = answer["outcome"].as_str().unwrap();
            check(&house, answer, step.outcome(moment), step, (side, account)).await;
            if step == Step::OnePhase {
                deposited += i64::from(answer == "committed");
            }
            account += 1;
        }
    }
    let opened = 2 * OPENING * i64::try_from(crate::house::ACCOUNTS).unwrap();
    assert_eq!(house.pair.money(), opened + deposited, "money is conserved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_whole_whatever_step_of_postgresql_is_cut() {
    cut_everywhere(Side::Left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_whole_whatever_step_of_mariadb_is_cut() {
    cut_everywhere(Side::Right).await;
}

/// The server lives, and other connections work: only this answer never comes, nor any error.
async fn lose_answers(side: Side) {
    let short = |sections: String| {
        sections.replace("listening_horizon_ms = 2000", "listening_horizon_ms = 1000")
    };
    let Some(mut house) = House::build("", short).await else { return };
    house.start();
    for (account, step) in STEPS.into_iter().enumerate() {
        let id = format!("lost-{step:?}");
        house.proxy(side).set(step.bytes(side), Moment::BeforeItIsAnswered, Outage::OneConnection);
        let answer = house.answer(&step.transfer(&id, side, account)).await;
        let answer = answer["outcome"].as_str().unwrap();
        let expected = step.outcome(Moment::BeforeItIsAnswered);
        check(&house, answer, expected, step, (side, account)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_postgresql_that_never_comes_is_not_waited_for_for_ever() {
    lose_answers(Side::Left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_mariadb_that_never_comes_is_not_waited_for_for_ever() {
    lose_answers(Side::Right).await;
}
