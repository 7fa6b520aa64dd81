//! What operators see of transactions that hang, and what they may do to them.

use std::sync::atomic::{AtomicBool, AtomicU32};

use super::over_ledger::{as_the_ledger, only_b};
use super::*;
use crate::coordinator::Wait;
use crate::decision_log::ResolutionRecord;
use crate::txn::{Claim, Decision};

/// A ledger whose second phase, and whose one-phase answers, are lost while it is cut off.
struct Severed {
    ledger: Ledger,
    cut: Arc<AtomicBool>,
    commits: Arc<AtomicU32>,
}

impl Severed {
    fn lost(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

impl Participant for Severed {
    as_the_ledger!(validate, claim_epoch, prepare, list_prepared);

    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        if self.lost() {
            return Box::pin(async { Vote::Unknown("connection reset".into()) });
        }
        self.ledger.commit_one_phase(gid, operations)
    }
    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        if self.lost() {
            return Box::pin(async { Ack::Unknown("connection refused".into()) });
        }
        self.ledger.commit(gid)
    }
    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        if self.lost() {
            return Box::pin(async { Ack::Unknown("connection refused".into()) });
        }
        self.ledger.abort(gid)
    }
    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        if self.lost() {
            return Box::pin(async { Inquiry::Unknown("connection refused".into()) });
        }
        self.ledger.inquire(gid)
    }
}

struct Site {
    world: World,
    cut: Arc<AtomicBool>,
    commits: Arc<AtomicU32>,
}

/// Participant `b` is cut off; nothing is asked again by itself for an hour.
async fn open_cut(data: &Path, cut: bool) -> Site {
    let (cut, commits) = (Arc::new(AtomicBool::new(cut)), Arc::new(AtomicU32::new(0)));
    let (shared, counted) = (cut.clone(), commits.clone());
    let severed = move |ledger| Severed { ledger, cut: shared.clone(), commits: counted.clone() };
    let hour = 3_600_000;
    let options = Options {
        retry_ms_first: hour,
        retry_ms_max: hour,
        recovery_wait_ms: 10,
        scan_interval_ms: 5,
        prepared_age_alert_ms: 1,
        ..Options::default()
    };
    let world = open_as(data, off(), &only_b(severed), options).await;
    Site { world, cut, commits }
}

fn id(text: &str) -> TxnId {
    TxnId::new(text).unwrap()
}

fn word(claim: Claim) -> Statement {
    Statement::new(claim, "ann", "the server burnt").unwrap()
}

fn all() -> Query {
    Query { state: Wanted::InDoubt, older_than: Duration::ZERO, limit: 10 }
}

/// Runs a coordinator and stops it with all that it has begun, as a crash does.
fn run_and_crash<F: Future<Output = ()>>(run: impl FnOnce() -> F + Send) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run());
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

/// A committed transfer whose branch at `b` waits in a backoff.
async fn stuck_transfer(site: &Site) {
    fund(&site.world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    let answer = site.world.coordinator.submit(transfer("t1", 100)).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    wait_for_retry(site, "t1").await;
}

async fn wait_for_retry(site: &Site, text: &str) {
    let waits = |site: &Site| {
        let found = site.world.coordinator.unresolved_one(&id(text))?;
        let waiting = |b: &UnresolvedBranch| b.state == BranchProgress::Waiting;
        let settled = |b: &UnresolvedBranch| b.state != BranchProgress::Told;
        let ready = found.branches.iter().any(waiting) && found.branches.iter().all(settled);
        ready.then_some(())
    };
    while waits(site).is_none() {
        tokio::task::yield_now().await;
    }
}

async fn wait_for_end(site: &Site, text: &str) {
    while site.world.coordinator.unresolved_one(&id(text)).is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_hangs_is_listed_with_its_reason_and_retry_now_ends_the_wait() {
    let data = tempfile::tempdir().unwrap();
    let site = open_cut(data.path(), true).await;
    stuck_transfer(&site).await;
    let page = site.world.coordinator.unresolved(&all());
    let [found] = &page.transactions[..] else { panic!("{page:?}") };
    assert_eq!((&found.ids[..], found.decision), (&[id("t1")][..], Some(Decision::Commit)));
    assert_eq!(found.branches[0].state, BranchProgress::Acknowledged);
    let b = &found.branches[1];
    assert_eq!((b.attempts, b.last_error.as_deref()), (1, Some("connection refused")));
    assert!(b.next_try_s.unwrap() > 1_000.0);
    let why = b.diagnosis.as_deref().unwrap();
    assert!(why.contains("b has not acknowledged the commit") && why.contains("refused"), "{why}");
    let young = Query { older_than: Duration::from_hours(1), ..all() };
    assert_eq!(site.world.coordinator.unresolved(&young).transactions, []);
    while site.world.coordinator.doubts().age_alerts == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    // Still cut off: asked once more, and the backoff goes on.
    let (scope, before) = (RetryScope::Participant(name("b")), site.commits.load(Ordering::SeqCst));
    assert_eq!(site.world.coordinator.retry_now(&scope).unwrap().branches, 1);
    while site.commits.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
    wait_for_retry(&site, "t1").await;
    let again = site.world.coordinator.unresolved_one(&id("t1")).unwrap();
    assert_eq!(again.branches[1].attempts, 2);
    assert_eq!(site.world.coordinator.doubts().age_alerts, 1);

    site.cut.store(false, Ordering::SeqCst);
    assert_eq!(site.world.coordinator.retry_now(&RetryScope::All).unwrap().branches, 1);
    wait_for_end(&site, "t1").await;
    assert_eq!(posted(&site.world, "b", "bob"), 100);
    let answer = site.world.coordinator.answer(&id("t1")).unwrap().unwrap();
    assert_eq!(answer.outcome, Outcome::Committed);
    assert_eq!(site.world.coordinator.retry_now(&RetryScope::Transaction(id("t1"))), None);
}

#[tokio::test]
async fn a_branch_of_a_commit_that_an_operator_ended_is_never_aborted_when_it_comes_back() {
    let data = tempfile::tempdir().unwrap();
    run_and_crash(|| async {
        let site = open_cut(data.path(), true).await;
        stuck_transfer(&site).await;
        let resolve = |at: &str, claim| {
            let (id, at) = (id("t1"), name(at));
            let coordinator = &site.world.coordinator;
            async move { coordinator.resolve(&id, &at, word(claim)).await }
        };
        let text =
            |refused: Result<ResolutionRecord, ResolveError>| refused.unwrap_err().to_string();
        assert!(text(resolve("a", Claim::Gone).await).contains("a has ended as decided"));
        assert!(text(resolve("b", Claim::Aborted).await).contains("say done"));
        assert!(text(resolve("c", Claim::Gone).await).contains("it has branches at a, b"));
        let recorded = resolve("b", Claim::Gone).await.unwrap();
        assert_eq!((recorded.by.as_str(), recorded.decision), ("ann", Some(Decision::Commit)));
        wait_for_end(&site, "t1").await;
        assert!(text(resolve("b", Claim::Gone).await).contains("not in doubt"));
        let nobody = site.world.coordinator.resolve(&id("t9"), &name("b"), word(Claim::Gone)).await;
        assert_eq!(nobody, Err(ResolveError::Unknown { id: id("t9") }));
        let answer = site.world.coordinator.answer(&id("t1")).unwrap().unwrap();
        assert_eq!(answer.outcome, Outcome::Heuristic);
        assert_eq!(answer.reasons.last().unwrap().code, ReasonCode::OperatorResolved);
        // It is here and prepared: a scan must leave it to the operator.
        while site.world.coordinator.unresolved(&all()).left_alone.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(site.world.ledgers[&name("b")].list_prepared().await.unwrap().branches.len(), 1);
    });
    let site = open_cut(data.path(), false).await;
    while site.world.coordinator.unresolved(&all()).left_alone.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(site.world.ledgers[&name("b")].list_prepared().await.unwrap().branches.len(), 1);
    assert_eq!(site.world.coordinator.resolutions(&id("t1"))[0].reason, "the server burnt");
    let answer = site.world.coordinator.answer(&id("t1")).unwrap().unwrap();
    assert_eq!(answer.outcome, Outcome::Heuristic);
}

#[tokio::test]
async fn an_abort_that_cannot_be_told_may_be_ended_by_hand() {
    let data = tempfile::tempdir().unwrap();
    let site = open_cut(data.path(), true).await;
    fund(&site.world, &[("a", "alice", 1), ("b", "bob", 0)]).await;
    let mut applied = transfer("t1", 100);
    applied.wait = Wait::Applied;
    let submitted = site.world.coordinator.submit(applied);
    let resolved = async {
        wait_for_retry(&site, "t1").await;
        let word = word(Claim::Gone);
        site.world.coordinator.resolve(&id("t1"), &name("b"), word).await.unwrap()
    };
    let (answer, resolution) = tokio::join!(submitted, resolved);
    assert_eq!(resolution.decision, Some(Decision::Abort));
    assert_eq!(answer.unwrap().outcome, Outcome::Heuristic);
    // Its prepared branch comes back: nobody decided it, so it is aborted.
    site.cut.store(false, Ordering::SeqCst);
    while !site.world.ledgers[&name("b")].list_prepared().await.unwrap().branches.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        site.world.coordinator.retry_now(&RetryScope::All);
    }
    assert_eq!((posted(&site.world, "a", "alice"), posted(&site.world, "b", "bob")), (1, 0));
}

#[tokio::test]
async fn a_one_phase_commit_whose_end_nobody_knows_ends_by_an_operators_word() {
    let data = tempfile::tempdir().unwrap();
    let site = open_cut(data.path(), true).await;
    fund(&site.world, &[("b", "bob", 0)]).await;
    let credit = submission("one", vec![operation("b", "credit", "bob", 5)]);
    let submitted = site.world.coordinator.submit(credit);
    let resolved = async {
        wait_for_retry(&site, "one").await;
        let wrong = site.world.coordinator.resolve(&id("one"), &name("b"), word(Claim::Done)).await;
        assert!(wrong.unwrap_err().to_string().contains("say committed or aborted"));
        site.world.coordinator.resolve(&id("one"), &name("b"), word(Claim::Aborted)).await.unwrap()
    };
    let (answer, resolution) = tokio::join!(submitted, resolved);
    assert_eq!((answer.unwrap().outcome, resolution.decision), (Outcome::Heuristic, None));
    wait_for_end(&site, "one").await;
    assert_eq!(site.world.coordinator.status().in_flight, 0);
}

#[tokio::test]
async fn a_start_that_lost_a_participant_goes_on_after_a_word_to_the_stopped_log() {
    let data = tempfile::tempdir().unwrap();
    run_and_crash(|| async {
        let site = open_cut(data.path(), true).await;
        stuck_transfer(&site).await;
    });
    let folder = data.path().join("decisions");
    let opened = |log: DecisionLog, recovered| {
        let folder = ledger::folder(data.path(), "a").unwrap();
        let only = Ledger::open(&folder, ledger::Options::default()).unwrap();
        let parts = Parts {
            log: Arc::new(log),
            participants: BTreeMap::from([(name("a"), Arc::new(only) as Arc<dyn Participant>)]),
            serving: serving(),
            features: features::State::new(features::Options::default()).unwrap(),
            policy: Policy::new(off()).unwrap(),
            coalescing: Coalescing::new(CoalescingOptions::default()),
            clock: Arc::new(SystemClock),
        };
        Coordinator::start(parts, recovered, Options::default())
    };
    let open = || DecisionLog::open(&folder, decision_log::Options::default()).unwrap();
    {
        let (log, recovered) = open();
        let error = opened(log, recovered).await.err().unwrap().to_string();
        assert!(error.contains("participant b, which is not configured"), "{error}");
    }
    let mut stopped = Stopped::new(DecisionLog::open_stopped(&folder).unwrap());
    let now = SystemClock.now();
    let listed = stopped.unresolved(now);
    assert_eq!((listed.len(), &listed[0].ids[..]), (1, &[id("t1")][..]));
    let (t1, b) = (id("t1"), name("b"));
    stopped.resolve(&t1, &b, word(Claim::Gone), now).await.unwrap();
    let twice = stopped.resolve(&t1, &b, word(Claim::Done), now).await.unwrap_err();
    assert!(twice.to_string().contains("ann has said"), "{twice}");
    stopped.close().unwrap();
    let (log, recovered) = open();
    let coordinator = opened(log, recovered).await.unwrap();
    let answer = coordinator.answer(&t1).unwrap().unwrap();
    assert_eq!(answer.outcome, Outcome::Heuristic);
    assert_eq!(coordinator.unresolved(&all()).transactions, []);
    assert_eq!(coordinator.resolutions(&t1).len(), 1);
}
