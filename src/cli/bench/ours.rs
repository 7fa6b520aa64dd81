//! Our own coordinator in this process, under load.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use presume::coordinator::{self, Coordinator, Parts, SystemClock, Wait};
use presume::decision_log::{self, DecisionLog};
use presume::features;
use presume::models::bundle::BoundModel;
use presume::models::registry::Registry;
use presume::models::serving::{self, Serving};
use presume::models::{PredictError, Predictor, Target};
use presume::participants::Participant;
use presume::policy::coalescing::{Coalescing, CoalescingOptions};
use presume::policy::{self, Policy};
use presume::txn::{Mode, Outcome, ParticipantName, Reason, ReasonCode};
use tokio::time::Instant;

use super::commit::Setup;
use super::load::{self, Ended, Load, Run};
use super::targets::{self, CONNECTIONS_MAX, flushes};
use super::workload::{PARTICIPANTS, Workload, submission};

/// Load before the measurement, and its clients at most.
const WARM_UP: Duration = Duration::from_millis(500);
const WARM_UP_CLIENTS_MAX: usize = 64;

/// How it was run, and what was seen.
pub(super) struct Ours {
    pub(super) run: Run,
    pub(super) predictions: String,
    /// Flushes of all stores in the run itself, where all of them are embedded.
    pub(super) flushes: Option<u64>,
}

/// Numbers of the folders of decision logs: what a log that was closed still does in the background
/// must not meet another in its place.
static NEXT_LOG: AtomicU64 = AtomicU64::new(1);

/// Puts load on a coordinator of its own, whose decision log stands in a folder of its own in `data`
/// and is removed.
pub(super) async fn ours(
    setup: &Setup,
    data: &Path,
    targets: &[targets::Target],
    workload: &Arc<Workload>,
    load: Load,
    coalescing: CoalescingOptions,
) -> anyhow::Result<Ours> {
    let in_flight = match load {
        Load::Closed { clients } => clients,
        Load::Open(open) => open.in_flight_max,
    };
    let before = flushes(targets).await?;
    let mut participants = BTreeMap::new();
    for (name, target) in PARTICIPANTS.into_iter().zip(targets) {
        let participant = target.participant(in_flight.clamp(8, CONNECTIONS_MAX)).await?;
        participants.insert(ParticipantName::new(name)?, participant);
    }
    let log = data.join(format!("log-{}", NEXT_LOG.fetch_add(1, Ordering::Relaxed)));
    let bench = coordinate(setup, &log, participants, workload.auc(), coalescing).await?;
    let warm_up = Load::Closed { clients: in_flight.min(WARM_UP_CLIENTS_MAX) };
    let warm = bench.load(workload, warm_up, WARM_UP).await?;
    let embedded = targets.iter().all(|target| matches!(target, targets::Target::Embedded(_)));
    let warmed = if embedded { flushes(targets).await? } else { None };
    let own = bench.coordinator.status().flushes;
    let length = Duration::from_secs(setup.seconds.max(1));
    let mut run = bench.load(workload, load, length).await?;
    let own = bench.coordinator.status().flushes - own;
    // Before the end, which flushes, too.
    let now = if embedded { flushes(targets).await? } else { None };
    bench.coordinator.shutdown(Duration::from_secs(5)).await;
    let predictions = bench.predictions.clone();
    drop(bench);
    // What cannot be removed yet is removed with the scratch folder.
    let _ = std::fs::remove_dir_all(&log);
    run.flushes_own = Some(own as f64 / run.committed.max(1) as f64);
    let within = now.zip(warmed).map(|(now, warmed)| now - warmed);
    run.flushes_participants = match within {
        Some(count) => Some(count as f64 / run.committed.max(1) as f64),
        None => flushes(targets).await?.zip(before).map(|(after, before)| {
            (after - before) as f64 / (warm.committed + run.committed).max(1) as f64
        }),
    };
    Ok(Ours { run, predictions, flushes: within.map(|count| count + own) })
}

/// A model of votes that says what the workload states beforehand.
struct Foreseen;

impl Predictor for Foreseen {
    fn width(&self) -> usize {
        1
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        for (row, out) in rows.iter().zip(out) {
            *out = 1.0 - f64::from(*row);
        }
        Ok(())
    }
}

fn foreseen() -> anyhow::Result<BoundModel> {
    let input = features::txn_features().iter().position(|f| f.name == "system_load");
    let input = input.context("there is no feature system_load")?;
    Ok(BoundModel { predictor: Box::new(Foreseen), inputs: vec![input] })
}

/// A coordinator over `participants`, with its decision log in `data`. With an AUC its votes are
/// predicted as the workload foresees them.
async fn coordinate(
    setup: &Setup,
    data: &Path,
    participants: BTreeMap<ParticipantName, Arc<dyn Participant>>,
    auc: Option<f64>,
    coalescing: CoalescingOptions,
) -> anyhow::Result<Bench> {
    let (log, recovered) =
        DecisionLog::open(&data.join("decisions"), decision_log::Options::default())?;
    let features = features::State::new(features::Options::default())?;
    let origin = Instant::now();
    let serving = Serving::new(serving::Options::with_clock(Arc::new(move || origin.elapsed())));
    let mut options = policy::Options { mode: Mode::Observe, ..policy::Options::default() };
    let predictions = if setup.no_predictions {
        options.mode = Mode::Off;
        "off".to_owned()
    } else {
        let registry = Registry::open(&setup.models);
        let bundle = registry.load_champion(&setup.name, features.calendar())?;
        let id = bundle.id().to_string();
        match auc {
            Some(auc) => {
                serving.load(bundle.with_model(Target::Success, foreseen()?));
                format!("{id}, votes with an AUC of {auc} made up, mode observe")
            }
            None => {
                serving.load(bundle);
                format!("{id}, mode observe")
            }
        }
    };
    let parts = Parts {
        log: Arc::new(log),
        participants,
        serving: Arc::new(serving),
        features,
        policy: Policy::new(options)?,
        coalescing: Coalescing::new(coalescing),
        clock: Arc::new(SystemClock),
    };
    let coordinator = Coordinator::start(parts, recovered, coordinator::Options::default()).await?;
    for participant in coordinator.status().participants {
        let away = participant.away.unwrap_or_default();
        anyhow::ensure!(participant.identity.is_some(), "{} is away: {away}", participant.name);
    }
    Ok(Bench { coordinator: Arc::new(coordinator), predictions })
}

/// A coordinator under load.
struct Bench {
    coordinator: Arc<Coordinator>,
    predictions: String,
}

impl Bench {
    async fn load(
        &self,
        workload: &Arc<Workload>,
        load: Load,
        length: Duration,
    ) -> anyhow::Result<Run> {
        let (coordinator, workload) = (self.coordinator.clone(), workload.clone());
        let work = move |_, n| {
            let (coordinator, workload) = (coordinator.clone(), workload.clone());
            async move {
                let transfer = workload.transfer(n);
                let submission = submission(n, &transfer, Wait::Decision)?;
                let answer = coordinator.submit(submission).await?;
                let declined = |reason: &Reason| reason.code == ReasonCode::BusinessDecline;
                let ended = match answer.outcome {
                    Outcome::Committed if !transfer.declined => Ended::Committed,
                    Outcome::Aborted if !answer.reasons.iter().any(declined) => Ended::Failed,
                    Outcome::Aborted if transfer.declined => Ended::Declined,
                    outcome => anyhow::bail!("{} {outcome}: {:?}", answer.id, answer.reasons),
                };
                Ok((ended, answer.timings_ms.prepare))
            }
        };
        load::run(load, length, work).await
    }
}
