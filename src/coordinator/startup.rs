//! Start-up: fence, survey, recover, then take transactions.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::answer::{Answer, Timings};
use super::in_flight::InFlight;
use super::members::{Member, Standing};
use super::recovery::{self, RecoveryError, Steps, Survey, branches_to_commit};
use super::scan::{bring_in, scan};
use super::status::Counters;
use super::watched::Watched;
use super::{Coordinator, Inner, Options, Parts};
use crate::decision_log::{AnswerRecord, DecisionRecord, Intent, Recovered};
use crate::mutation::{Mutation, on};
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
    /// A participant has seen a later epoch of this log.
    #[error("participant {name}: {error}")]
    Claim {
        /// Its configured name.
        name: ParticipantName,
        /// What it knows.
        error: ClaimError,
    },
    /// What is in doubt does not fit the configuration.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

impl Coordinator {
    /// Fences older epochs at every participant, recovers what the last run left, and starts.
    ///
    /// A participant that cannot be asked stops nothing: transactions that need it are refused,
    /// and what is in doubt there waits, until it can. Recovery that takes longer than
    /// `recovery_wait_ms` goes on in the background; the keys it has not settled stay in flight
    /// meanwhile, so nothing runs twice.
    pub async fn start(
        parts: Parts,
        recovered: Recovered,
        options: Options,
    ) -> Result<Self, StartError> {
        options.check().map_err(StartError::Options)?;
        let inner = Arc::new(Inner::new(parts, options, &recovered));
        let surveys = inner.survey_all().await?;
        let names: Vec<_> = inner.participants.keys().cloned().collect();
        let log = &inner.log;
        let steps = recovery::plan(log.log_id(), log.epoch(), recovered, &names, &surveys)?;
        for survey in &surveys {
            let sorted = recovery::sort(log.log_id(), &survey.prepared, |_| false, |_| true);
            let member = &inner.participants[&survey.participant];
            member.saw(&sorted.ours, sorted.foreign, Duration::MAX);
            member.stand(Standing::Ready { identity: survey.identity.clone() });
        }
        for name in names {
            if !surveys.iter().any(|survey| survey.participant == name) {
                tokio::spawn(bring_in(Arc::downgrade(&inner), name, inner.options.backoff()));
            }
        }
        let wait = Duration::from_millis(inner.options.recovery_wait_ms);
        let mut task = tokio::spawn(inner.clone().recover(steps));
        if tokio::time::timeout(wait, &mut task).await.is_err() {
            tracing::warn!(?wait, "recovery goes on in the background");
            inner.recovering.store(false, Ordering::Relaxed);
        }
        let interval = Duration::from_millis(inner.options.scan_interval_ms);
        tokio::spawn(scan(Arc::downgrade(&inner), interval));
        Ok(Self { inner })
    }
}

impl Inner {
    fn new(parts: Parts, options: Options, recovered: &Recovered) -> Self {
        let mut in_flight = InFlight::new(options.in_flight_max);
        for intent in recovered.intents.iter().filter(|_| !on(Mutation::RecoveryFreesKeys)) {
            in_flight.hold(&intent.row.txn_id, &intent.request_hash);
        }
        let member = |(name, participant)| (name, Member::new(participant));
        Self {
            log: parts.log,
            participants: parts.participants.into_iter().map(member).collect(),
            serving: parts.serving,
            features: Mutex::new(parts.features),
            policy: Mutex::new(parts.policy),
            clock: parts.clock,
            options,
            in_flight: Mutex::new(in_flight),
            running: Mutex::default(),
            unfinished: AtomicUsize::new(0),
            recovered: recovered.decisions.iter().map(|d| (d.epoch, d.physical)).collect(),
            unsettled: AtomicUsize::new(0),
            counters: Counters::default(),
            recovering: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            stop: Watched::new(false),
        }
    }

    /// Asks all participants at once; those that cannot be asked are left out.
    async fn survey_all(&self) -> Result<Vec<Survey>, StartError> {
        let asked = self.participants.iter().map(|(name, member)| self.survey(name, member));
        let answers = futures_util::future::join_all(asked).await;
        let mut surveys = Vec::new();
        for (answer, (name, member)) in answers.into_iter().zip(&self.participants) {
            match answer {
                Ok(survey) => surveys.push(survey),
                Err(error @ ClaimError::Stale { .. }) => {
                    self.note_overtaken(name, &error).await;
                    return Err(StartError::Claim { name: name.clone(), error });
                }
                Err(error) => {
                    tracing::warn!(participant = %name, "{error}");
                    member.stand(Standing::Away { detail: error.to_string() });
                }
            }
        }
        Ok(surveys)
    }

    /// The next start would be an epoch later, and perhaps be taken.
    pub(super) async fn note_overtaken(&self, name: &ParticipantName, error: &ClaimError) {
        if let Err(failed) = self.log.overtaken(&format!("participant {name}: {error}")).await {
            tracing::error!(%failed, "it is not noted that this log is an old copy");
        }
    }

    /// Each transaction on its own: one that cannot be settled never stops the rest.
    async fn recover(self: Arc<Self>, steps: Steps) {
        let mut tasks = tokio::task::JoinSet::new();
        let count = steps.commits.len() + steps.aborts.len() + steps.inquiries.len();
        self.unsettled.store(count, Ordering::Relaxed);
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
            self.unsettled.fetch_sub(1, Ordering::Relaxed);
            if let Err(error) = result {
                tracing::error!(%error, "a recovery task ended");
            }
        }
        self.recovering.store(false, Ordering::Relaxed);
    }

    async fn recover_commit(&self, record: DecisionRecord) {
        let told = branches_to_commit(self.log.log_id(), &record).map(|(branch, gid)| async move {
            let member = self.participants.get(&branch.participant)?;
            member.ready_as(branch).await;
            self.tell(&branch.participant, gid, Verdict::Commit).await
        });
        // At once: a branch that waits for its participant keeps no other from hearing.
        let details = futures_util::future::join_all(told).await;
        for detail in details.into_iter().flatten() {
            for id in &record.members {
                self.mark_heuristic(id, &detail).await;
            }
        }
        if let Err(error) = self.log.finish(record.epoch, record.physical).await {
            tracing::error!(%error, "a recovered decision was not removed");
        }
    }

    /// Repeats a verdict until it is acknowledged; answers the detail of a heuristic end.
    pub(super) async fn tell(
        &self,
        name: &ParticipantName,
        gid: Gid,
        verdict: Verdict,
    ) -> Option<String> {
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
        member.ready_as(&intent.branch).await;
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
                Inquiry::Unknown(_) if on(Mutation::RecoveryGuessesInquiry) => break false,
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
        if committed && !on(Mutation::RecoveredIntentAborts) {
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
pub(super) enum Verdict {
    Commit,
    Abort,
}
