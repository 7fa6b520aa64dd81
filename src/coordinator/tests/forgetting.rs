//! A decision that the log cannot forget keeps its markers.

use std::sync::atomic::AtomicU64;

use super::over_ledger::as_the_ledger;
use super::*;
use crate::decision_log::{
    AnswerRecord, DecisionRecord, Error, Given, Intent, Recorded, ResolutionRecord,
};
use crate::participants::EndedBelow;

type Written = BoxFuture<'static, Result<(), Error>>;

/// A real log that refuses to forget decisions for want of space in its queue.
struct Unforgetting(DecisionLog);

impl Decisions for Unforgetting {
    fn log_id(&self) -> LogId {
        self.0.log_id()
    }
    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }
    fn next_physical(&self) -> PhysicalId {
        self.0.next_physical()
    }
    fn record_intent(&self, intent: &Intent) -> Written {
        self.0.record_intent(intent)
    }
    fn record_outcomes(
        &self,
        decision: Option<&DecisionRecord>,
        outcomes: &[Recorded<'_>],
        intent_done: Option<(Epoch, PhysicalId)>,
    ) -> Written {
        self.0.record_outcomes(decision, outcomes, intent_done)
    }
    fn finish(&self, _: Epoch, _: PhysicalId) -> Written {
        let full = crate::store::Error::Full { queued: 1, limit: 1 };
        Box::pin(std::future::ready(Err(full.into())))
    }
    fn update_answer(&self, answer: Given<'_>) -> Written {
        self.0.update_answer(answer)
    }
    fn record_resolution(&self, word: &ResolutionRecord, answers: &[AnswerRecord]) -> Written {
        self.0.record_resolution(word, answers)
    }
    fn resolutions(&self) -> Result<Vec<ResolutionRecord>, Error> {
        self.0.resolutions()
    }
    fn answer(&self, id: &TxnId) -> Result<Option<AnswerRecord>, Error> {
        self.0.answer(id)
    }
    fn decision(&self, epoch: Epoch, at: PhysicalId) -> Result<Option<DecisionRecord>, Error> {
        self.0.decision(epoch, at)
    }
    fn flushes(&self) -> u64 {
        self.0.flushes()
    }
    fn healthy(&self) -> bool {
        self.0.healthy()
    }
}

/// A real ledger that notes below which execution it was last told to forget.
struct Noting {
    ledger: Ledger,
    below: Arc<AtomicU64>,
    told: Arc<tokio::sync::Notify>,
}

impl Participant for Noting {
    as_the_ledger!(
        validate,
        claim_epoch,
        prepare,
        commit_one_phase,
        commit,
        abort,
        inquire,
        list_prepared
    );

    fn prune(&self, ended: EndedBelow) -> BoxFuture<'_, Result<u64, String>> {
        self.below.store(ended.physical.0, Ordering::SeqCst);
        self.told.notify_one();
        Box::pin(std::future::ready(Ok(0)))
    }
}

/// Settles three transfers everywhere and lets participants be told what they may forget, until
/// `enough` says so of the number of times and of the execution below which all is ended.
async fn pruned_below(
    wrap_log: impl Fn(DecisionLog) -> Arc<dyn Decisions>,
    enough: impl Fn(u32, u64) -> bool,
) -> u64 {
    let data = tempfile::tempdir().unwrap();
    let (below, told) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Notify::new()));
    let seen = (below.clone(), told.clone());
    let noting = move |_: &ParticipantName, ledger: Ledger| -> Arc<dyn Participant> {
        let (below, told) = seen.clone();
        Arc::new(Noting { ledger, below, told })
    };
    let often = Options { scan_interval_ms: 5, ..Options::default() };
    let coalescing = CoalescingOptions::default();
    let world = open_on(data.path(), off(), &noting, often, (coalescing, &wrap_log)).await;
    fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    for id in ["t1", "t2", "t3"] {
        let applied = Submission { wait: Wait::Applied, ..transfer(id, 1) };
        assert_eq!(world.coordinator.submit(applied).await.unwrap().outcome, Outcome::Committed);
    }
    for times in 1.. {
        let next = tokio::time::timeout(Duration::from_mins(1), told.notified()).await;
        next.expect("scans go on");
        if enough(times, below.load(Ordering::SeqCst)) {
            break;
        }
    }
    below.load(Ordering::SeqCst)
}

#[tokio::test]
async fn markers_of_a_decision_that_could_not_be_forgotten_are_kept() {
    // Forgetting is lazy, so this takes a flush.
    assert_eq!(pruned_below(|log| Arc::new(log), |_, below| below > 3).await, 4);
    let unforgetting = |log| Arc::new(Unforgetting(log)) as Arc<dyn Decisions>;
    assert_eq!(pruned_below(unforgetting, |times, _| times > 50).await, 1);
}
