//! One running coordinator with everything around it, put together from the configuration.
//!
//! `serve`, `demo` and `bench` share it, so that what is measured and shown is what serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use presume::configuration::{Config, Models};
use presume::coordinator::{Clock, Coordinator, Parts, SystemClock};
use presume::decision_log::{self, DecisionLog, Decisions as _};
use presume::features;
use presume::learning::outcome_log::{self, OutcomeLog};
use presume::models::serving::{self, Serving};
use presume::models::{Registry, RegistryError};
use presume::participants::ledger::{self, Ledger};
use presume::participants::{self, Remote};
use presume::policy::Policy;
use presume::policy::coalescing::Coalescing;
use presume::server::{Backend, Service, StoreReading};
use presume::txn::ParticipantName;
use tokio::task::JoinHandle;

/// How often it is asked whether outcomes are due to be sealed.
const SEAL_INTERVAL: Duration = Duration::from_secs(1);
/// How often what is kept only for a time is cleared away.
const MAINTENANCE_INTERVAL: Duration = Duration::from_mins(10);

/// A coordinator over its decision log, its ledgers and its models.
pub struct Node {
    /// Takes transactions.
    pub coordinator: Arc<Coordinator>,
    /// The embedded participants.
    pub ledgers: BTreeMap<ParticipantName, Ledger>,
    /// The durable truth.
    pub log: DecisionLog,
    kinds: BTreeMap<ParticipantName, String>,
    outcomes: Arc<OutcomeLog>,
    maintenance: JoinHandle<()>,
}

/// What a demo puts in place of the usual.
pub struct Fittings {
    /// A warmed-up feature state; an empty one if there is none.
    pub features: Option<features::State>,
    /// What stands before each ledger.
    pub wrap: fn(Ledger) -> Arc<dyn participants::Participant>,
}

impl Default for Fittings {
    fn default() -> Self {
        Self { features: None, wrap: |ledger| Arc::new(ledger) }
    }
}

impl Node {
    /// Opens the stores, loads the models, and settles what the last run left.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        Self::open_with(config, Fittings::default()).await
    }

    /// The same, with other fittings.
    pub async fn open_with(config: &Config, fittings: Fittings) -> anyhow::Result<Self> {
        let folder = config.decision_log_dir();
        let (log, recovered) = DecisionLog::open(&folder, decision_log::Options::default())
            .with_context(|| format!("cannot open the decision log in {}", folder.display()))?;
        let ledgers = open_ledgers(config)?;
        let wrapped = |(name, ledger): (&ParticipantName, &Ledger)| {
            (name.clone(), (fittings.wrap)(ledger.clone()))
        };
        let mut participants: BTreeMap<_, _> = ledgers.iter().map(wrapped).collect();
        let mut kinds: BTreeMap<_, _> =
            ledgers.keys().map(|name| (name.clone(), "embedded".to_owned())).collect();
        for (name, remote) in open_remotes(config)? {
            kinds.insert(name.clone(), remote.kind().to_owned());
            participants.insert(name, remote.participant());
        }
        let features = match fittings.features {
            Some(features) => features,
            None => remembered(config, &log)?,
        };
        let parts = Parts {
            log: Arc::new(log.clone()),
            participants,
            serving: Arc::new(serve_models(&config.models, &config.features.calendar)?),
            features,
            policy: Policy::new(config.policy.clone())?,
            coalescing: Coalescing::new(config.coalescing.clone()),
            clock: Arc::new(SystemClock),
        };
        let coordinator = Coordinator::start(parts, recovered, config.coordinator.clone())
            .await
            .context("the coordinator does not start")?;
        for branch in coordinator.status().foreign_branches {
            tracing::warn!(%branch, "a prepared branch of another decision log is left alone");
        }
        let outcomes = Arc::new(OutcomeLog::open(log.clone(), outcome_log_options(config)).await?);
        let maintenance = tokio::spawn(maintain(log.clone(), outcomes.clone()));
        let coordinator = Arc::new(coordinator);
        Ok(Self { coordinator, ledgers, log, kinds, outcomes, maintenance })
    }

    /// What the HTTP interface shows of it.
    pub fn service(&self) -> Service {
        let (log, ledgers) = (self.log.clone(), self.ledgers.clone());
        Service {
            backend: Arc::clone(&self.coordinator) as Arc<dyn Backend>,
            kinds: self.kinds.clone(),
            ledgers: self.ledgers.iter().map(|(n, l)| (n.to_string(), l.clone())).collect(),
            stores: Box::new(move || store_readings(&log, &ledgers)),
        }
    }

    /// Closes the stores. Call it once nothing is submitted any more: after the server has
    /// drained, or after [`Coordinator::shutdown`].
    pub async fn close(self) -> anyhow::Result<()> {
        self.maintenance.abort();
        while self.outcomes.seal().await.context("the last outcomes are not sealed")?.is_some() {}
        for (name, ledger) in &self.ledgers {
            ledger.close().with_context(|| format!("ledger {name} does not close"))?;
        }
        self.log.close().context("the decision log does not close")
    }
}

fn open_ledgers(config: &Config) -> anyhow::Result<BTreeMap<ParticipantName, Ledger>> {
    let open = |(name, dir): (ParticipantName, std::path::PathBuf)| {
        let ledger = Ledger::open(&dir, ledger::Options::default())
            .with_context(|| format!("cannot open ledger {name} in {}", dir.display()))?;
        Ok((name, ledger))
    };
    config.ledger_dirs().into_iter().map(open).collect()
}

/// The configured databases and services, not connected to yet.
pub fn open_remotes(config: &Config) -> anyhow::Result<BTreeMap<ParticipantName, Remote>> {
    let mut remotes = BTreeMap::new();
    for (name, participant) in &config.participants {
        let secret = |variable: &str| std::env::var(variable).ok();
        let remote = participant.remote(&secret).map_err(|fault| {
            anyhow::anyhow!("participants.{name}.{}: {}", fault.key, fault.problem)
        })?;
        if let Some(remote) = remote {
            remotes.insert(ParticipantName::new(name)?, remote);
        }
    }
    Ok(remotes)
}

/// A feature state that has seen the newest outcomes of this coordinator.
fn remembered(config: &Config, log: &DecisionLog) -> anyhow::Result<features::State> {
    let rows_max = usize::try_from(config.outcome_log.warm_up_rows_max).unwrap_or(usize::MAX);
    let recent = outcome_log::recent(&config.outcome_log_dir(), log, rows_max)?;
    for fault in &recent.faults {
        tracing::warn!("features are rebuilt without these outcomes: {fault}");
    }
    if let Some(first) = &recent.unreadable_first {
        let rows = recent.unreadable;
        tracing::warn!(rows, first, "features are rebuilt without unreadable outcomes");
    }
    tracing::info!(rows = recent.rows.len(), "features are rebuilt from the newest outcomes");
    Ok(recent.warm_up(features::State::new(config.features.clone())?)?)
}

/// The champion, or rules where there is none that can be used: models may be missing or broken,
/// and transactions go on.
fn serve_models(models: &Models, calendar: &features::Calendar) -> anyhow::Result<Serving> {
    let slow_max = Duration::try_from_secs_f64(models.slow_ms_max / 1e3)
        .context("models.slow_ms_max is not a length of time")?;
    let serving = Serving::new(serving::Options {
        slow_max,
        cooldown: Duration::from_millis(models.cooldown_ms),
        clock: monotonic(),
    });
    match Registry::open(&models.dir).load_champion(&models.name, calendar) {
        Ok(bundle) => {
            tracing::info!(model = bundle.id(), "models serve");
            serving.load(bundle);
        }
        Err(error @ RegistryError::NoChampion { .. }) => {
            tracing::warn!("{error}: rules serve");
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::error!("model {} is not loaded, rules serve: {error:#}", models.name);
        }
    }
    Ok(serving)
}

#[allow(clippy::disallowed_methods, reason = "the shell hands the clock to those who have none")]
fn monotonic() -> serving::Clock {
    let origin = std::time::Instant::now();
    Arc::new(move || origin.elapsed())
}

fn store_readings(
    log: &DecisionLog,
    ledgers: &BTreeMap<ParticipantName, Ledger>,
) -> Vec<StoreReading> {
    let first = StoreReading {
        store: "decision_log".to_owned(),
        flushes: log.flushes(),
        writes: log.writes(),
        healthy: log.healthy(),
    };
    let others = ledgers.iter().map(|(name, ledger)| StoreReading {
        store: format!("ledger:{name}"),
        flushes: ledger.flushes(),
        writes: ledger.writes(),
        healthy: ledger.healthy(),
    });
    std::iter::once(first).chain(others).collect()
}

fn outcome_log_options(config: &Config) -> outcome_log::Options {
    outcome_log::Options {
        rows_max: usize::try_from(config.outcome_log.seal_rows_max).unwrap_or(usize::MAX),
        age_max: Duration::from_secs(config.outcome_log.seal_age_s_max),
        ..outcome_log::Options::new(config.outcome_log_dir())
    }
}

/// Seals outcomes that are due, and removes answers whose time is over; the unresolved stay.
async fn maintain(log: DecisionLog, outcomes: Arc<OutcomeLog>) {
    let mut seals = tokio::time::interval(SEAL_INTERVAL);
    let mut prunes = tokio::time::interval(MAINTENANCE_INTERVAL);
    loop {
        tokio::select! {
            _ = seals.tick() => match outcomes.seal_if_due(SystemClock.now()).await {
                Ok(None) => {}
                Ok(Some(sealed)) => {
                    let (first, last) = (sealed.range.first, sealed.range.last);
                    tracing::info!(first, last, "sealed outcomes");
                }
                // The rows stay in the decision log; the next tick tries again.
                Err(error) => tracing::warn!(%error, "outcomes are not sealed"),
            },
            _ = prunes.tick() => match log.prune_answers(SystemClock.now()).await {
                Ok(0) => {}
                Ok(pruned) => tracing::info!(pruned, "removed answers past their retention"),
                Err(error) => tracing::warn!(%error, "answers past their retention stay"),
            },
        }
    }
}
