//! Participants that fail, are away or answer too late; crashes and stops.

use std::sync::atomic::AtomicU32;

use super::over_ledger::{as_the_ledger, only_b};
use super::*;

/// A participant that answers wrongly on purpose, over a real ledger.
struct Faulty {
    ledger: Ledger,
    fault: Fault,
    calls: AtomicU32,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Never votes.
    Silent,
    /// Votes yes but the reply is lost.
    VoteLost,
    /// Commits in one phase but the reply is lost.
    OnePhaseLost,
    /// The first two acknowledgements of phase two are lost.
    AcksLost,
    /// Cannot be asked at start, as often as the number says.
    AwayFor(u32),
}

impl Faulty {
    fn with(fault: Fault) -> impl Fn(Ledger) -> Self {
        move |ledger| Self { ledger, fault, calls: AtomicU32::new(0) }
    }
}

impl Participant for Faulty {
    as_the_ledger!(validate, abort, inquire, list_prepared);

    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>> {
        if let Fault::AwayFor(times) = self.fault
            && self.calls.fetch_add(1, Ordering::SeqCst) < times
        {
            let detail = "connection refused".to_owned();
            return Box::pin(async { Err(ClaimError::Unreachable { detail }) });
        }
        self.ledger.claim_epoch(log, epoch)
    }
    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        match self.fault {
            Fault::Silent => Box::pin(std::future::pending()),
            Fault::VoteLost => Box::pin(async move {
                self.ledger.prepare(gid, operations).await;
                Vote::Unknown("reply lost".into())
            }),
            Fault::OnePhaseLost | Fault::AcksLost | Fault::AwayFor(_) => {
                self.ledger.prepare(gid, operations)
            }
        }
    }
    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        Box::pin(async move {
            let vote = self.ledger.commit_one_phase(gid, operations).await;
            if self.fault == Fault::OnePhaseLost {
                return Vote::Unknown("reply lost".into());
            }
            vote
        })
    }
    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        Box::pin(async move {
            let ack = self.ledger.commit(gid).await;
            if self.fault == Fault::AcksLost && self.calls.fetch_add(1, Ordering::SeqCst) < 2 {
                return Ack::Unknown("reply lost".into());
            }
            ack
        })
    }
}

async fn open_faulty(data: &Path, fault: Fault) -> World {
    let options = policy::Options { prepare_timeout_ms_default: 60, ..off() };
    let world = open_with(data, options, &only_b(Faulty::with(fault))).await;
    fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    world
}

#[tokio::test]
async fn a_participant_that_never_votes_times_out_and_nothing_stays_prepared() {
    let data = tempfile::tempdir().unwrap();
    let world = open_faulty(data.path(), Fault::Silent).await;
    let answer = world.coordinator.submit(transfer("t1", 300)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Aborted);
    assert_eq!(answer.reasons[0].code, ReasonCode::PrepareTimeout);
    world.coordinator.shutdown(Duration::from_secs(5)).await;
    assert!(world.ledgers[&name("a")].list_prepared().await.unwrap().branches.is_empty());
    assert_eq!(posted(&world, "a", "alice"), 1000);
    // The call that never returned is not counted for ever.
    let silent = &world.coordinator.inner.participants[&name("b")];
    assert_eq!(silent.gauge.context().in_flight, 0);
}

#[tokio::test]
async fn a_lost_vote_aborts_and_rolls_the_prepared_branch_back() {
    let data = tempfile::tempdir().unwrap();
    let world = open_faulty(data.path(), Fault::VoteLost).await;
    let answer = world.coordinator.submit(transfer("t1", 300)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Aborted);
    world.coordinator.shutdown(Duration::from_secs(5)).await;
    assert!(world.ledgers[&name("b")].list_prepared().await.unwrap().branches.is_empty());
    assert_eq!((posted(&world, "a", "alice"), posted(&world, "b", "bob")), (1000, 0));
}

#[tokio::test]
async fn a_lost_reply_to_a_one_phase_commit_is_answered_with_the_truth() {
    let data = tempfile::tempdir().unwrap();
    let world = open_faulty(data.path(), Fault::OnePhaseLost).await;
    let credit = submission("one", vec![operation("b", "credit", "bob", 5)]);
    let answer = world.coordinator.submit(credit).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    assert_eq!(posted(&world, "b", "bob"), 5);
}

#[tokio::test]
async fn phase_two_is_told_again_until_it_is_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let world = open_faulty(data.path(), Fault::AcksLost).await;
    let mut applied = transfer("t1", 300);
    applied.wait = Wait::Applied;
    let answer = world.coordinator.submit(applied).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    assert_eq!(posted(&world, "b", "bob"), 300);
    assert_eq!(world.coordinator.shutdown(Duration::from_secs(5)).await, 0);
}

/// Leaves one decided and one undecided transfer of 100 prepared on both ledgers, as a crash
/// between prepare and commit does.
async fn crash_between_prepare_and_commit(data: &Path) {
    {
        let world = open(data, off()).await;
        fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
        let log = &world.log;
        let gid = |physical, branch| Gid {
            log: log.log_id(),
            epoch: log.epoch(),
            physical: crate::txn::PhysicalId(physical),
            branch: crate::txn::BranchIndex(branch),
        };
        let (decided, undecided) = ([gid(900, 0), gid(900, 1)], [gid(901, 0), gid(901, 1)]);
        let (a, b) = (&world.ledgers[&name("a")], &world.ledgers[&name("b")]);
        for gids in [decided, undecided] {
            let debit = operation("a", "debit", "alice", 100);
            assert_eq!(a.prepare(gids[0], &[debit]).await, Vote::Yes);
            let credit = operation("b", "credit", "bob", 100);
            assert_eq!(b.prepare(gids[1], &[credit]).await, Vote::Yes);
        }
        let branch = |participant: &str| decision_log::RecordedBranch {
            participant: name(participant),
            identity: world.ledgers[&name(participant)].identity(),
        };
        let record = decision_log::DecisionRecord {
            epoch: log.epoch(),
            physical: crate::txn::PhysicalId(900),
            branches: vec![branch("a"), branch("b")],
            read_only: vec![],
            members: vec![TxnId::new("t900").unwrap()],
            decision: crate::txn::Decision::Commit,
            at: SystemClock.now(),
        };
        let answer = crate::txn::Answer {
            id: TxnId::new("t900").unwrap(),
            outcome: Outcome::Committed,
            reasons: vec![],
            protocol: None,
            participants: vec![],
            insights: None,
            timings_ms: crate::txn::Timings::default(),
        };
        let given =
            decision_log::Given { answer: &answer, request_hash: "h", at: SystemClock.now() };
        let draft = Draft {
            transaction: transfer("t900", 100).transaction,
            timestamp: SystemClock.now(),
            features: features::Features { txn: [0.0; features::TXN_WIDTH], legs: vec![] },
            prediction: None,
            plan: Policy::new(off()).unwrap().plan(&[], None),
        };
        let row = draft.row(Outcome::Committed, None, &[], &[], Duration::ZERO);
        log.record_outcomes(Some(&record), &[(given, &row)], None).await.unwrap();
    }
}

fn assert_transferred_once(world: &World) {
    assert_eq!((posted(world, "a", "alice"), posted(world, "b", "bob")), (900, 100));
}

async fn prepared(world: &World) -> usize {
    let mut count = 0;
    for ledger in world.ledgers.values() {
        count += ledger.list_prepared().await.unwrap().branches.len();
    }
    count
}

#[tokio::test]
async fn recovery_commits_what_was_decided_and_aborts_the_rest() {
    let data = tempfile::tempdir().unwrap();
    crash_between_prepare_and_commit(data.path()).await;
    let world = open(data.path(), off()).await;
    assert!(!world.coordinator.status().recovering);
    assert_transferred_once(&world);
    assert_eq!(prepared(&world).await, 0);
}

#[tokio::test]
async fn a_participant_that_is_away_at_start_stops_nothing_and_is_settled_when_it_comes() {
    let data = tempfile::tempdir().unwrap();
    crash_between_prepare_and_commit(data.path()).await;
    let quick = Options { recovery_wait_ms: 10, retry_ms_first: 1, ..Options::default() };
    let away = only_b(Faulty::with(Fault::AwayFor(4)));
    let world = open_as(data.path(), off(), &away, quick).await;
    let status = world.coordinator.status();
    assert!(!status.recovering);
    let away = status.participants.iter().find(|p| p.name == name("b")).unwrap();
    if away.away.is_some() {
        let refused = world.coordinator.submit(transfer("t1", 1)).await;
        assert!(matches!(refused, Err(SubmitError::ParticipantAway { .. })), "{refused:?}");
    }
    let alone = submission("alone", vec![assert_balance("a", "alice", 1)]);
    assert_eq!(world.coordinator.submit(alone).await.unwrap().outcome, Outcome::Committed);
    while world.coordinator.status().unsettled > 0 || prepared(&world).await > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_transferred_once(&world);
    let answer = world.coordinator.submit(transfer("t2", 100)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
}

#[tokio::test]
async fn a_prepare_that_lands_after_its_transaction_ended_is_found_and_aborted() {
    let data = tempfile::tempdir().unwrap();
    let often = Options { scan_interval_ms: 5, ..Options::default() };
    let whole = |_: &ParticipantName, ledger: Ledger| -> Arc<dyn Participant> { Arc::new(ledger) };
    let world = open_as(data.path(), off(), &whole, often).await;
    fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    let answer = world.coordinator.submit(transfer("t1", 100)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    let (log, epoch) = (world.log.log_id(), world.log.epoch());
    let branch = crate::txn::BranchIndex(7);
    let late = Gid { log, epoch, physical: crate::txn::PhysicalId(1), branch };
    let ahead = Gid { physical: crate::txn::PhysicalId(1_000), ..late };
    let foreign = Gid { log: LogId(uuid::Uuid::from_u128(7)), ..late };
    let ledger = &world.ledgers[&name("a")];
    for gid in [late, ahead, foreign] {
        let debit = operation("a", "debit", "alice", 1);
        assert_eq!(ledger.prepare(gid, &[debit]).await, Vote::Yes);
    }
    while prepared(&world).await > 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let left = ledger.list_prepared().await.unwrap().branches;
    assert!(left.contains(&ahead) && left.contains(&foreign), "{left:?}");
    while world.coordinator.status().foreign_branches.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.coordinator.status().foreign_branches, [format!("a {foreign}")]);
}

#[tokio::test]
async fn a_drained_participant_takes_nothing_new_until_it_is_resumed() {
    let data = tempfile::tempdir().unwrap();
    let world = open(data.path(), off()).await;
    fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    assert!(world.coordinator.drain(&name("b"), true));
    let refused = world.coordinator.submit(transfer("t1", 1)).await.unwrap_err();
    assert_eq!(refused.to_string(), "participant b takes no transactions now: it is drained");
    assert!(world.coordinator.drain(&name("b"), false));
    let answer = world.coordinator.submit(transfer("t1", 1)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    assert!(!world.coordinator.drain(&name("nobody"), true));
}

#[tokio::test]
async fn shutdown_refuses_new_transactions_and_ends_what_runs() {
    let data = tempfile::tempdir().unwrap();
    let world = open_faulty(data.path(), Fault::Silent).await;
    let coordinator = Arc::new(world.coordinator);
    let running = {
        let coordinator = coordinator.clone();
        tokio::spawn(async move { coordinator.submit(transfer("t1", 1)).await })
    };
    while coordinator.status().in_flight == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(coordinator.shutdown(Duration::from_secs(5)).await, 0);
    assert_eq!(running.await.unwrap().unwrap().outcome, Outcome::Aborted);
    let refused = coordinator.submit(transfer("t2", 1)).await;
    assert!(matches!(refused, Err(SubmitError::ShuttingDown)));
}
