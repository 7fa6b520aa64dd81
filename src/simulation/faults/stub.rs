//! The coordinator's side of a simulated participant: the trait, over the faulty network.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::books::Work;
use super::life::Life;
use super::network::{Lost, Network};
use super::server::{Reply, Request};
use crate::participants::batch::{Batch, Batches, Key, Style, Then, Worked};
use crate::participants::{Ack, ClaimError, EndedBelow, Inquiry, Participant, Prepared};
use crate::txn::{Declined, Epoch, Gid, LogId, Operation, Vote};

/// One participant as one process sees it.
pub(super) struct Stub {
    pub(super) network: Arc<Network>,
    pub(super) life: Arc<Life>,
    pub(super) to: usize,
}

impl Stub {
    async fn call(&self, request: Request) -> Result<Reply, Lost> {
        self.network.call(&self.life, self.to, request).await
    }

    async fn vote(&self, request: Request) -> Vote {
        match self.call(request).await {
            Ok(Reply::Voted(vote)) => vote,
            Ok(other) => unreachable!("a vote was asked for, not {other:?}"),
            Err(Lost::Unsent) => {
                let detail = "connection refused".to_owned();
                let code = "participant_unavailable".to_owned();
                Vote::No(Declined::Technical { code, detail })
            }
            Err(Lost::Unknown(detail)) => Vote::Unknown(detail.to_owned()),
        }
    }

    async fn acknowledge(&self, request: Request) -> Ack {
        match self.call(request).await {
            Ok(Reply::Acked(ack)) => ack,
            Ok(other) => unreachable!("an acknowledgement was asked for, not {other:?}"),
            Err(lost) => Ack::Unknown(lost.to_string()),
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unsent => "connection refused",
            Self::Unknown(detail) => detail,
        })
    }
}

/// What a branch's operations come to.
fn work(operations: &[Operation]) -> Work {
    let mut work = Work::nothing();
    for operation in operations {
        let number = |name: &str| operation.params.get(name).and_then(serde_json::Value::as_i64);
        let account = number("account").and_then(|account| u32::try_from(account).ok());
        let account = account.expect("the clients give an account");
        let amount = number("amount").expect("the clients give an amount");
        match operation.operation.as_str() {
            "debit" => work.postings.push((account, -amount)),
            "credit" => work.postings.push((account, amount)),
            _ => work.checks.push((account, amount)),
        }
        if let Some(note) = operation.params.get("note").and_then(serde_json::Value::as_str) {
            work.notes = vec![note.into()];
        }
    }
    work
}

impl Batches for Stub {
    fn keys(&self, operation: &Operation, keys: &mut Vec<Key>) -> bool {
        let account = operation.params.get("account").expect("the clients give an account");
        keys.push(Key::new(&account.to_string()));
        true
    }

    fn work(&self, batch: Batch) -> BoxFuture<'_, Worked> {
        let members = batch.members.iter();
        let members = members.map(|member| (member.place, work(&member.operations))).collect();
        let request = Request::Work {
            gid: batch.gid,
            members,
            one_by_one: batch.style == Style::OneByOne,
            holds: batch.then == Then::Hold,
        };
        Box::pin(async move {
            match self.call(request).await {
                Ok(Reply::Worked(worked)) => worked,
                Ok(other) => unreachable!("work was asked for, not {other:?}"),
                Err(Lost::Unsent) => {
                    let detail = "connection refused".to_owned();
                    let code = "participant_unavailable".to_owned();
                    let why = Declined::Technical { code, detail };
                    Worked::Failed { why, culprit: None }
                }
                Err(Lost::Unknown(detail)) => Worked::Unknown(detail.to_owned()),
            }
        })
    }

    fn prepare_held(&self, gid: Gid) -> BoxFuture<'_, Vote> {
        Box::pin(self.vote(Request::PrepareHeld(gid)))
    }
}

impl Participant for Stub {
    fn validate(&self, _operation: &Operation) -> Result<(), String> {
        Ok(())
    }

    fn claim_epoch(&self, log: LogId, epoch: Epoch) -> BoxFuture<'_, Result<String, ClaimError>> {
        let process = self.life.number;
        Box::pin(async move {
            match self.call(Request::Claim { log, epoch, process }).await {
                Ok(Reply::Claimed(claimed)) => claimed,
                Ok(other) => unreachable!("a claim was made, not {other:?}"),
                Err(lost) => Err(ClaimError::Unreachable { detail: lost.to_string() }),
            }
        })
    }

    fn prepare<'a>(&'a self, gid: Gid, operations: &'a [Operation]) -> BoxFuture<'a, Vote> {
        Box::pin(self.vote(Request::Prepare(gid, work(operations))))
    }

    fn commit_one_phase<'a>(
        &'a self,
        gid: Gid,
        operations: &'a [Operation],
    ) -> BoxFuture<'a, Vote> {
        Box::pin(self.vote(Request::OnePhase(gid, work(operations))))
    }

    fn commit(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        Box::pin(self.acknowledge(Request::Commit(gid)))
    }

    fn abort(&self, gid: Gid) -> BoxFuture<'_, Ack> {
        Box::pin(self.acknowledge(Request::Abort(gid)))
    }

    fn inquire(&self, gid: Gid) -> BoxFuture<'_, Inquiry> {
        Box::pin(async move {
            match self.call(Request::Inquire(gid)).await {
                Ok(Reply::Inquired(inquiry)) => inquiry,
                Ok(other) => unreachable!("an inquiry was made, not {other:?}"),
                Err(lost) => Inquiry::Unknown(lost.to_string()),
            }
        })
    }

    fn batches(&self) -> Option<&dyn Batches> {
        Some(self)
    }

    fn prune(&self, ended: EndedBelow) -> BoxFuture<'_, Result<u64, String>> {
        Box::pin(async move {
            match self.call(Request::Prune(ended)).await {
                Ok(Reply::Pruned(count)) => Ok(count),
                Ok(other) => unreachable!("pruning was asked for, not {other:?}"),
                Err(lost) => Err(lost.to_string()),
            }
        })
    }

    fn list_prepared(&self) -> BoxFuture<'_, Result<Prepared, String>> {
        Box::pin(async move {
            match self.call(Request::List).await {
                Ok(Reply::Listed(branches)) => Ok(Prepared { branches, others: Vec::new() }),
                Ok(other) => unreachable!("a list was asked for, not {other:?}"),
                Err(lost) => Err(lost.to_string()),
            }
        })
    }
}
