//! A participant that takes as long as the simulated world says, over a real ledger.
//!
//! Only the demo uses it: embedded ledgers vote in microseconds, which would leave nothing to
//! predict. The time stands in a parameter that the demo's own clients put in, and that is taken
//! out before the ledger sees the operation; everything else goes straight through.

use std::time::Duration;

use presume::participants::ledger::Ledger;
use presume::participants::{Ack, BoxFuture, ClaimError, Inquiry, Participant, Prepared};
use presume::txn::{Epoch, Gid, LogId, Operation, Vote};

/// The parameter that says how long to take, in milliseconds.
pub const PARAMETER: &str = "simulated_ms";

/// Longest simulated wait in milliseconds: longer than any prepare timeout.
const WAIT_MS_MAX: f64 = 120_000.0;

pub struct Slowed(pub Ledger);

fn taken_out(operation: &Operation) -> (Operation, Duration) {
    let mut operation = operation.clone();
    let ms = operation.params.remove(PARAMETER).and_then(|v| v.as_f64()).unwrap_or(0.0);
    (operation, Duration::from_secs_f64(ms.clamp(0.0, WAIT_MS_MAX) / 1e3))
}

async fn take(operations: &[Operation]) -> Vec<Operation> {
    let (operations, waits): (Vec<_>, Vec<_>) = operations.iter().map(taken_out).unzip();
    tokio::time::sleep(waits.into_iter().max().unwrap_or_default()).await;
    operations
}

impl Participant for Slowed {
    fn validate(&self, operation: &Operation) -> Result<(), String> {
        self.0.validate(&taken_out(operation).0)
    }

    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>> {
        self.0.claim_epoch(log, epoch)
    }

    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        Box::pin(async move { self.0.prepare(gid, &take(operations).await).await })
    }

    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        Box::pin(async move { self.0.commit_one_phase(gid, &take(operations).await).await })
    }

    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        self.0.commit(gid)
    }

    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        self.0.abort(gid)
    }

    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        self.0.inquire(gid)
    }

    fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>> {
        self.0.list_prepared()
    }
}
