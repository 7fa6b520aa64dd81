//! What is decided long after the participants promised it may have been undone by a copy of us.

use tokio::sync::watch;

use super::over_ledger::as_the_ledger;
use super::*;
use crate::coordinator::Progress;
use crate::participants::LEASE;

/// A ledger that others could claim, whose votes come after a while and whose commits wait.
struct Shared {
    ledger: Ledger,
    vote_after: Duration,
    open: watch::Receiver<bool>,
}

impl Participant for Shared {
    as_the_ledger!(validate, claim_epoch, commit_one_phase, abort, inquire, list_prepared);

    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        Box::pin(async move {
            let vote = self.ledger.prepare(gid, operations).await;
            tokio::time::sleep(self.vote_after).await;
            vote
        })
    }
    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        Box::pin(async move {
            self.open.clone().wait_for(|open| *open).await.unwrap();
            self.ledger.commit(gid).await
        })
    }
}

async fn open_shared(data: &Path, vote_after: Duration) -> (World, watch::Sender<bool>) {
    let (gate, open) = watch::channel(false);
    let wrap = move |_: &ParticipantName, ledger: Ledger| -> Arc<dyn Participant> {
        Arc::new(Shared { ledger, vote_after, open: open.clone() })
    };
    let world = open_with(data, off(), &wrap).await;
    fund(&world, &[("a", "alice", 1000), ("b", "bob", 0)]).await;
    (world, gate)
}

#[tokio::test]
async fn a_commit_is_answered_at_its_decision_while_the_votes_vouch_for_it() {
    let data = tempfile::tempdir().unwrap();
    let (world, gate) = open_shared(data.path(), Duration::ZERO).await;
    assert_eq!(
        world.coordinator.submit(transfer("t1", 1)).await.unwrap().outcome,
        Outcome::Committed
    );
    assert!(world.coordinator.unresolved_one(&TxnId::new("t1").unwrap()).is_some());
    gate.send_replace(true);
}

#[tokio::test]
async fn a_commit_that_was_promised_long_ago_is_answered_once_it_is_obeyed() {
    let data = tempfile::tempdir().unwrap();
    let (world, gate) = open_shared(data.path(), LEASE * 2).await;
    let id = TxnId::new("t1").unwrap();
    let mut answer = std::pin::pin!(world.coordinator.submit(transfer("t1", 1)));
    let decided = async {
        loop {
            let found = world.coordinator.unresolved_one(&id);
            if found.is_some_and(|found| found.state == Progress::Telling) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = decided => {}
        answer = &mut answer => panic!("answered {answer:?}"),
    }
    assert!(world.log.answer(&id).unwrap().is_some(), "it is durable");
    assert_eq!(world.coordinator.answer(&id).unwrap(), None);
    let again = world.coordinator.submit(transfer("t1", 1)).await;
    assert!(matches!(again, Err(SubmitError::InFlight { .. })), "{again:?}");
    gate.send_replace(true);
    assert_eq!(answer.await.unwrap().outcome, Outcome::Committed);
    assert_eq!(world.coordinator.answer(&id).unwrap().unwrap().outcome, Outcome::Committed);
    assert_eq!(posted(&world, "b", "bob"), 1);
}
