//! Start-up: fence, survey, recover, then take transactions.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::coalescer::{Coalescer, expire};
use super::in_flight::InFlight;
use super::members::{Member, Standing};
use super::recovery::{self, RecoveryError, Steps, Survey};
use super::scan::{bring_in, scan};
use super::settle::Settling;
use super::status::Counters;
use super::watched::Watched;
use super::{Coordinator, Inner, Options, Parts};
use crate::decision_log::Recovered;
use crate::mutation::{Mutation, on};
use crate::participants::ClaimError;
use crate::txn::ParticipantName;

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
        tokio::spawn(expire(Arc::downgrade(&inner)));
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
            newest: recovered.newest,
            recoveries: Mutex::default(),
            resolutions: {
                let keyed = recovered.resolutions.iter().map(|r| (r.key(), r.clone()));
                Mutex::new(keyed.collect())
            },
            unsettled: AtomicUsize::new(0),
            counters: Counters::default(),
            recovering: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            stop: Watched::new(false),
            coalescer: Coalescer::new(parts.coalescing),
        }
    }

    /// Asks all participants at once; those that cannot be asked are left out. None is claimed
    /// before all were asked what this log does not know.
    async fn survey_all(&self) -> Result<Vec<Survey>, StartError> {
        let asked = self.participants.iter().map(|(name, member)| self.compare(name, member));
        for (name, compared) in futures_util::future::join_all(asked).await {
            if let Err(error @ ClaimError::Behind { .. }) = compared {
                self.note_overtaken(&name, &error).await;
                return Err(StartError::Claim { name, error });
            }
        }
        let asked = self.participants.iter().map(|(name, member)| self.survey(name, member));
        let answers = futures_util::future::join_all(asked).await;
        let mut surveys = Vec::new();
        for (answer, (name, member)) in answers.into_iter().zip(&self.participants) {
            match answer {
                Ok(survey) => surveys.push(survey),
                Err(error @ (ClaimError::Stale { .. } | ClaimError::Behind { .. })) => {
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
        // Bounded by what one run left behind: at most its limit of unfinished transactions.
        for record in steps.commits {
            tasks.spawn(Settling::decided(&self, record).carry_out());
        }
        for (gid, branch) in steps.aborts {
            if let Some(settling) = Settling::orphan(&self, gid, branch) {
                tasks.spawn(settling.carry_out());
            }
        }
        for intent in steps.inquiries {
            tasks.spawn(Settling::intended(&self, intent).carry_out());
        }
        self.unsettled.store(tasks.len(), Ordering::Relaxed);
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(true) => {
                    self.unsettled.fetch_sub(1, Ordering::Relaxed);
                }
                // The next start takes it up again, and needs the participants' markers for it.
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "a recovery task ended"),
            }
        }
        self.recovering.store(false, Ordering::Relaxed);
    }
}
