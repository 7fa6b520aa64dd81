//! A decision log on a model disk, and the coordinator's handle on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::disk::{Content, Disk, Durable};
use super::life::Life;
use super::world::World;
use crate::decision_log::{
    AnswerRecord, DecisionRecord, Decisions, Error, Given, Intent, Recorded, Recovered,
    ResolutionRecord,
};
use crate::mutation::{Mutation, on};
use crate::store;
use crate::txn::{BranchIndex, Epoch, LogId, PhysicalId, TxnId};

/// The identity of the log, the same in every run.
pub(super) const LOG: LogId = LogId(Uuid::from_u128(0x5eed));

/// What the log's disk holds.
#[derive(Clone, Default)]
pub(super) struct Records {
    epoch: Epoch,
    decisions: BTreeMap<(Epoch, PhysicalId), DecisionRecord>,
    intents: BTreeMap<(Epoch, PhysicalId), Intent>,
    answers: BTreeMap<TxnId, AnswerRecord>,
    resolutions: BTreeMap<(Epoch, PhysicalId, BranchIndex), ResolutionRecord>,
}

/// One atomic write of the log.
pub(super) enum Write {
    Opened(Epoch),
    Intent(Box<Intent>),
    Outcome {
        decision: Option<DecisionRecord>,
        answers: Vec<AnswerRecord>,
        intent_done: Option<(Epoch, PhysicalId)>,
    },
    Finished(Epoch, PhysicalId),
    Resolved(Box<ResolutionRecord>, Vec<AnswerRecord>),
}

impl Content for Records {
    type Batch = Write;

    fn apply(&mut self, batch: &Write, world: &World) {
        match batch {
            Write::Opened(epoch) => self.epoch = *epoch,
            Write::Intent(intent) => {
                world.history(|history| history.intent_durable(intent));
                self.intents.insert((intent.epoch, intent.physical), (**intent).clone());
            }
            Write::Outcome { decision, answers, intent_done } => {
                if let Some(decision) = decision {
                    world.history(|history| history.decision_durable(decision));
                    self.decisions.insert((decision.epoch, decision.physical), decision.clone());
                }
                if let Some(key) = intent_done {
                    self.intents.remove(key);
                }
                for answer in answers {
                    world.history(|history| history.outcome_durable(answer));
                    if !on(Mutation::LogLosesAnswers) {
                        self.answers.insert(answer.answer.id.clone(), answer.clone());
                    }
                }
            }
            Write::Finished(epoch, physical) => {
                self.decisions.remove(&(*epoch, *physical));
            }
            Write::Resolved(resolution, answers) => {
                self.resolutions.insert(resolution.key(), (**resolution).clone());
                for answer in answers {
                    world.history(|history| history.outcome_durable(answer));
                    self.answers.insert(answer.answer.id.clone(), answer.clone());
                }
            }
        }
    }
}

/// The log as one coordinator has it open.
pub(super) struct SimulatedLog {
    disk: Arc<Disk<Records>>,
    world: Arc<World>,
    life: Arc<Life>,
    epoch: Epoch,
    next_physical: AtomicU64,
}

impl SimulatedLog {
    /// Opens what the coordinator before left: what it had not synced is kept or lost now.
    pub(super) fn open(
        disk: Arc<Disk<Records>>,
        world: Arc<World>,
        life: Arc<Life>,
    ) -> (Self, Recovered) {
        disk.stop();
        let (last, recovered) = disk.read(|records| {
            let decisions = records.decisions.values().cloned().collect();
            let intents = records.intents.values().cloned().collect();
            let resolutions = records.resolutions.values().cloned().collect();
            (records.epoch, Recovered { decisions, intents, resolutions, newest: None })
        });
        let kept = on(Mutation::LogKeepsEpoch) && last.0 > 0;
        let epoch = if kept { last } else { Epoch(last.0 + 1) };
        disk.write_through(&Write::Opened(epoch));
        let (decisions, intents) = (recovered.decisions.len(), recovered.intents.len());
        world.trace(|| {
            format!("log: open, epoch {}, {decisions} decisions, {intents} intents", epoch.0)
        });
        (Self { disk, world, life, epoch, next_physical: AtomicU64::new(1) }, recovered)
    }

    /// Queues a write. A process that is dead, or that lost the disk to another, waits for ever.
    fn write(&self, batch: Write) -> BoxFuture<'static, Result<(), Error>> {
        let (world, life) = (self.world.clone(), self.life.clone());
        if life.crash_point(&world) || life.has_lost_disk() {
            return Box::pin(std::future::pending());
        }
        let early = on(Mutation::LogAnswersBeforeFlush);
        let durable = self.disk.write(Some(batch));
        Box::pin(async move {
            if early {
                return Ok(());
            }
            let result = settled(durable, &life).await;
            life.gate().await;
            if life.crash_point(&world) {
                return std::future::pending().await;
            }
            result
        })
    }

    fn readable(&self) -> Result<(), Error> {
        if self.life.has_lost_disk() || self.life.is_dead() {
            return Err(store::Error::Closed.into());
        }
        Ok(())
    }
}

async fn settled(durable: Durable, life: &Life) -> Result<(), Error> {
    match durable.await {
        Ok(Ok(())) if !life.has_lost_disk() => Ok(()),
        Ok(Err(_)) => Err(store::Error::Poisoned { cause: "a sync failed".into() }.into()),
        // The machine has stopped, or the disk belongs to another: nobody hears of it.
        Ok(Ok(())) | Err(_) => std::future::pending().await,
    }
}

impl Decisions for SimulatedLog {
    fn log_id(&self) -> LogId {
        LOG
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn next_physical(&self) -> PhysicalId {
        let next = self.next_physical.fetch_add(1, Ordering::Relaxed);
        PhysicalId(if on(Mutation::PhysicalIdReused) { next.div_ceil(2) } else { next })
    }

    fn record_intent(&self, intent: &Intent) -> BoxFuture<'static, Result<(), Error>> {
        self.write(Write::Intent(Box::new(intent.clone())))
    }

    fn record_outcomes(
        &self,
        decision: Option<&DecisionRecord>,
        outcomes: &[Recorded<'_>],
        intent_done: Option<(Epoch, PhysicalId)>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let mut decision = decision.cloned();
        let answers = outcomes.iter().map(|(given, _)| given.to_record()).collect();
        if on(Mutation::LogTearsBatches) {
            let answers = Vec::new();
            let half = Write::Outcome { decision: decision.take(), answers, intent_done };
            drop(self.write(half));
        }
        self.write(Write::Outcome { decision, answers, intent_done })
    }

    fn finish(&self, epoch: Epoch, physical: PhysicalId) -> BoxFuture<'static, Result<(), Error>> {
        self.write(Write::Finished(epoch, physical))
    }

    fn update_answer(&self, answer: Given<'_>) -> BoxFuture<'static, Result<(), Error>> {
        let answers = vec![answer.to_record()];
        self.write(Write::Outcome { decision: None, answers, intent_done: None })
    }

    fn record_resolution(
        &self,
        resolution: &ResolutionRecord,
        answers: &[AnswerRecord],
    ) -> BoxFuture<'static, Result<(), Error>> {
        self.write(Write::Resolved(Box::new(resolution.clone()), answers.to_vec()))
    }

    fn resolutions(&self) -> Result<Vec<ResolutionRecord>, Error> {
        self.readable()?;
        Ok(self.disk.read(|records| records.resolutions.values().cloned().collect()))
    }

    fn answer(&self, id: &TxnId) -> Result<Option<AnswerRecord>, Error> {
        self.readable()?;
        Ok(self.disk.read(|records| records.answers.get(id).cloned()))
    }

    fn decision(
        &self,
        epoch: Epoch,
        physical: PhysicalId,
    ) -> Result<Option<DecisionRecord>, Error> {
        self.readable()?;
        Ok(self.disk.read(|records| records.decisions.get(&(epoch, physical)).cloned()))
    }

    fn flushes(&self) -> u64 {
        0
    }

    fn healthy(&self) -> bool {
        !self.disk.poisoned()
    }
}
