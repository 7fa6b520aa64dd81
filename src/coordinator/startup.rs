//! Start-up: fence, survey, recover, then take transactions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::answer::{Answer, Timings};
use super::gauges::Gauge;
use super::in_flight::InFlight;
use super::recovery::{self, RecoveryError, Steps, Survey, branches_to_commit};
use super::status::Counters;
use super::{Coordinator, Inner, Member, Options, Parts};
use crate::decision_log::{AnswerRecord, DecisionRecord, Intent, Recovered};
use crate::participants::{Ack, ClaimError, Inquiry};
use crate::txn::{
    FailureClass, Gid, Outcome, ParticipantName, Protocol, Reason, ReasonCode, TxnId,
};

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is out of bounds.
    #[error("{0}")]
    Options(String),
    /// A participant refuses this epoch, or cannot be asked.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// A participant could not list its prepared branches.
    #[error("participant {participant} cannot list its prepared branches: {detail}")]
    Survey {
        /// Which one.
        participant: ParticipantName,
        /// Why.
        detail: String,
    },
    /// What is in doubt does not fit the configuration.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

impl Coordinator {
    /// Fences older epochs at every participant, recovers what the last run left, and starts.
    ///
    /// Recovery that takes longer than `recovery_wait_ms` goes on in the background; the keys it
    /// has not settled stay in flight meanwhile, so nothing runs twice.
    pub async fn start(
        parts: Parts,
        recovered: Recovered,
        options: Options,
    ) -> Result<Self, StartError> {
        options.check().map_err(StartError::Options)?;
        let log = &parts.log;
        let mut surveys = Vec::new();
        for (name, participant) in &parts.participants {
            participant.claim_epoch(log.log_id(), log.epoch()).await?;
            let prepared = participant
                .list_prepared()
                .await
                .map_err(|detail| StartError::Survey { participant: name.clone(), detail })?;
            surveys.push(Survey {
                participant: name.clone(),
                identity: participant.identity(),
                prepared,
            });
        }
        let steps = recovery::plan(log.log_id(), log.epoch(), recovered, &surveys)?;
        let inner = Arc::new(Inner::new(parts, options, &steps));
        let wait = Duration::from_millis(inner.options.recovery_wait_ms);
        let mut task = tokio::spawn(inner.clone().recover(steps));
        if tokio::time::timeout(wait, &mut task).await.is_err() {
            tracing::warn!(?wait, "recovery goes on in the background");
        }
        Ok(Self { inner })
    }
}

impl Inner {
    fn new(parts: Parts, options: Options, steps: &Steps) -> Self {
        let mut in_flight = InFlight::new(options.in_flight_max);
        for intent in &steps.inquiries {
            in_flight.hold(&intent.row.txn_id, &intent.request_hash);
        }
        let foreign = steps.foreign.iter().map(|(name, gid)| format!("{name} {gid}")).collect();
        let member =
            |(name, participant)| (name, Member { participant, gauge: Arc::new(Gauge::default()) });
        let participants: BTreeMap<_, _> = parts.participants.into_iter().map(member).collect();
        Self {
            log: parts.log,
            participants,
            serving: parts.serving,
            features: Mutex::new(parts.features),
            policy: Mutex::new(parts.policy),
            clock: parts.clock,
            options,
            in_flight: Mutex::new(in_flight),
            unfinished: AtomicUsize::new(0),
            counters: Counters::default(),
            recovering: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            foreign,
        }
    }

    /// Each transaction on its own: one that cannot be settled never stops the rest.
    async fn recover(self: Arc<Self>, steps: Steps) {
        let mut tasks = tokio::task::JoinSet::new();
        // Bounded by what one run left behind: at most its limit of unfinished transactions.
        for record in steps.commits {
            let inner = self.clone();
            tasks.spawn(async move { inner.recover_commit(record).await });
        }
        for (name, gid) in steps.aborts {
            let inner = self.clone();
            tasks.spawn(async move {
                inner.tell(&name, gid, Verdict::Abort).await;
            });
        }
        for intent in steps.inquiries {
            let inner = self.clone();
            tasks.spawn(async move { inner.recover_intent(intent).await });
        }
        while let Some(result) = tasks.join_next().await {
            if let Err(error) = result {
                tracing::error!(%error, "a recovery task ended");
            }
        }
        self.recovering.store(false, Ordering::Relaxed);
    }

    async fn recover_commit(&self, record: DecisionRecord) {
        let told: Vec<_> = branches_to_commit(self.log.log_id(), &record).collect();
        for (name, gid) in told {
            if let Some(detail) = self.tell(&name, gid, Verdict::Commit).await {
                for id in &record.members {
                    self.mark_heuristic(id, &detail).await;
                }
            }
        }
        if let Err(error) = self.log.finish(record.epoch, record.physical).await {
            tracing::error!(%error, "a recovered decision was not removed");
        }
    }

    /// Repeats a verdict until it is acknowledged; answers the detail of a heuristic end.
    async fn tell(&self, name: &ParticipantName, gid: Gid, verdict: Verdict) -> Option<String> {
        let member = self.participants.get(name)?;
        let mut attempt = 0;
        loop {
            let ack = match verdict {
                Verdict::Commit => member.participant.commit(gid).await,
                Verdict::Abort => member.participant.abort(gid).await,
            };
            match ack {
                Ack::Done => return None,
                Ack::Heuristic(detail) => {
                    tracing::error!(participant = %name, %gid, detail, "heuristic end");
                    return Some(format!("{name}: {detail}"));
                }
                Ack::Unknown(detail) => {
                    attempt += 1;
                    tracing::warn!(participant = %name, %gid, attempt, detail, "will be told again");
                    let wait = self.options.backoff().wait(attempt, gid.physical.0);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn mark_heuristic(&self, id: &TxnId, detail: &str) {
        let Ok(Some((mut answer, mut record))) = self.stored(id) else { return };
        answer.outcome = Outcome::Heuristic;
        answer.reasons.push(Reason::new(ReasonCode::HeuristicDecision, detail));
        record.body = AnswerRecord::body(&answer);
        self.counters.count(Outcome::Heuristic, &answer.reasons);
        if let Err(error) = self.log.update_answer(&record).await {
            tracing::error!(txn = %id, %error, "a heuristic outcome was not recorded");
        }
    }

    async fn recover_intent(&self, intent: Intent) {
        let Some(member) = self.participants.get(&intent.branch.participant) else { return };
        let gid = Gid {
            log: self.log.log_id(),
            epoch: intent.epoch,
            physical: intent.physical,
            branch: crate::txn::BranchIndex(0),
        };
        let mut attempt = 0;
        let committed = loop {
            match member.participant.inquire(gid).await {
                Inquiry::Committed => break true,
                Inquiry::Aborted => break false,
                Inquiry::Unknown(detail) => {
                    attempt += 1;
                    tracing::warn!(%gid, attempt, detail, "will be inquired again");
                    let wait = self.options.backoff().wait(attempt, gid.physical.0);
                    tokio::time::sleep(wait).await;
                }
            }
        };
        let id = intent.row.txn_id.clone();
        if let Err(error) = self.settle_intent(intent, committed).await {
            // The key stays in flight; the log is broken and restart settles it.
            tracing::error!(txn = %id, %error, "a recovered outcome was not recorded");
            return;
        }
        self.release(&id);
    }

    async fn settle_intent(
        &self,
        intent: Intent,
        committed: bool,
    ) -> Result<(), crate::decision_log::Error> {
        let mut row = intent.row;
        let mut reasons = row.plan.reasons.clone();
        if committed {
            row.outcome = Outcome::Committed;
        } else {
            row.outcome = Outcome::Aborted;
            row.failure_class = Some(FailureClass::Technical.to_string());
            let detail = "the coordinator stopped before the participant committed";
            reasons.push(Reason::new(ReasonCode::TechnicalFailure, detail));
        }
        let now = self.clock.now();
        row.total_us = u64::try_from(now.since(row.timestamp).as_micros()).unwrap_or(u64::MAX);
        row.reasons = reasons.iter().map(|r| r.code.to_string()).collect();
        let answer = Answer {
            id: row.txn_id.clone(),
            outcome: row.outcome,
            reasons,
            protocol: Some(Protocol::TwoPhase),
            participants: row.plan.branches.iter().map(|b| b.participant.clone()).collect(),
            insights: row.prediction.as_ref().map(|p| super::insights(p, &row.plan)),
            timings_ms: Timings { total: row.total_us as f64 / 1e3, ..Timings::default() },
        };
        let record = AnswerRecord {
            id: row.txn_id.clone(),
            request_hash: intent.request_hash,
            body: AnswerRecord::body(&answer),
            at: now,
        };
        let done = Some((intent.epoch, intent.physical));
        self.log.record_outcome(None, &record, &row, done).await
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Commit,
    Abort,
}
