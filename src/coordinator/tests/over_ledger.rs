//! Participants over a real ledger, of which a test says only what they do otherwise.
//!
//! Unlike the ledger they announce nothing, and others could claim them.

use super::*;

/// Methods of `Participant` that are those of `self.ledger`.
macro_rules! as_the_ledger {
    ($($method:ident),+) => { $(as_the_ledger!(@ $method);)+ };
    (@ validate) => {
        fn validate(&self, operation: &Operation) -> Result<(), String> {
            self.ledger.validate(operation)
        }
    };
    (@ claim_epoch) => {
        fn claim_epoch(
            &self,
            log: LogId,
            epoch: Epoch,
        ) -> BoxFuture<'_, Result<String, ClaimError>> {
            self.ledger.claim_epoch(log, epoch)
        }
    };
    (@ prepare) => {
        fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
            self.ledger.prepare(gid, operations)
        }
    };
    (@ commit_one_phase) => {
        fn commit_one_phase<'a>(
            &'a self,
            gid: Gid,
            operations: &'a [Operation],
        ) -> BoxFuture<'a, Vote> {
            self.ledger.commit_one_phase(gid, operations)
        }
    };
    (@ commit) => {
        fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
            self.ledger.commit(gid)
        }
    };
    (@ abort) => {
        fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
            self.ledger.abort(gid)
        }
    };
    (@ inquire) => {
        fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
            self.ledger.inquire(gid)
        }
    };
    (@ list_prepared) => {
        fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>> {
            self.ledger.list_prepared()
        }
    };
}
pub(in crate::coordinator) use as_the_ledger;

/// Participant `a` is a ledger as it is, `b` one of these over its own.
pub(in crate::coordinator) fn only_b<P: Participant + 'static>(
    over: impl Fn(Ledger) -> P,
) -> impl Fn(&ParticipantName, Ledger) -> Arc<dyn Participant> {
    move |participant, ledger| match participant.as_str() {
        "a" => Arc::new(ledger),
        _ => Arc::new(over(ledger)),
    }
}
