//! The configured participants: who can be asked, who is drained, and who stands prepared where.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::gauges::Gauge;
use super::trace::Trace;
use super::watched::Watched;
use crate::decision_log::RecordedBranch;
use crate::participants::Participant;
use crate::txn::{ParticipantName, PhysicalId, TxnId};

/// A configured participant with its live counters.
pub(super) struct Member {
    pub(super) participant: Arc<dyn Participant>,
    pub(super) gauge: Arc<Gauge>,
    /// Told when it is to be asked at once, if it is away.
    pub(super) hurry: Arc<Notify>,
    standing: Watched<Standing>,
    drained: AtomicBool,
    prepared: Mutex<PreparedSeen>,
}

/// Whether it can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not accepted this epoch yet.
    Away { detail: String },
    /// It has, under this identity.
    Ready { identity: Arc<str> },
}

/// What the last scan found prepared there, and since when each is known.
#[derive(Debug, Default)]
struct PreparedSeen {
    since: BTreeMap<String, Sight>,
    foreign: Vec<String>,
}

/// When a branch was first seen, and whether somebody was told that it is old.
#[derive(Debug, Clone, Copy)]
struct Sight {
    first: Instant,
    told: bool,
}

/// A participant as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParticipantStatus {
    /// Its configured name.
    pub name: ParticipantName,
    /// Its own identity; `None` while it is away.
    pub identity: Option<String>,
    /// Why it cannot be asked, if so.
    pub away: Option<String>,
    /// Whether an operator keeps new transactions from it.
    pub drained: bool,
    /// Calls on their way there.
    pub in_flight: u32,
    /// Share of recent calls that it answered, 0 to 1.
    pub health: f64,
    /// Branches found prepared by the last scan, with the seconds since the first sight of each.
    pub prepared: BTreeMap<String, f64>,
    /// Prepared there and not of this decision log: left alone.
    pub foreign: Vec<String>,
}

impl Member {
    pub(super) fn new(participant: Arc<dyn Participant>) -> Self {
        let detail = "it has not been asked yet".to_owned();
        Self {
            participant,
            gauge: Arc::default(),
            hurry: Arc::default(),
            standing: Watched::new(Standing::Away { detail }),
            drained: AtomicBool::new(false),
            prepared: Mutex::default(),
        }
    }

    pub(super) fn stand(&self, standing: Standing) {
        self.standing.set(standing);
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// Waits until the very server that `branch` was recorded at can be asked. A name that points
    /// at another server now is never asked: it is an operator's to point it back.
    pub(super) async fn ready_as(&self, branch: &RecordedBranch) {
        let recorded = &branch.identity;
        let is_it = |standing: &Standing| {
            let Standing::Ready { identity } = standing else { return false };
            if **identity != **recorded {
                tracing::error!(participant = %branch.participant, recorded, found = %identity,
                    "a branch in doubt waits for another server than this name points at now");
            }
            **identity == **recorded
        };
        self.standing.until(is_it).await;
    }

    pub(super) fn drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(super) fn drain(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    /// Takes in what a scan found; answers, once, those of ours that are older than `age_max`.
    pub(super) fn saw(
        &self,
        ours: &[String],
        foreign: Vec<String>,
        age_max: std::time::Duration,
    ) -> Vec<String> {
        let now = Instant::now();
        let mut seen = self.prepared.lock().expect("no panic while held");
        let known: HashSet<&String> = ours.iter().collect();
        seen.since.retain(|gid, _| known.contains(gid));
        for gid in ours {
            seen.since.entry(gid.clone()).or_insert(Sight { first: now, told: false });
        }
        seen.foreign = foreign;
        let old = |(gid, sight): (&String, &mut Sight)| {
            let old = now.duration_since(sight.first) > age_max;
            (old && !std::mem::replace(&mut sight.told, true)).then(|| gid.clone())
        };
        seen.since.iter_mut().filter_map(old).collect()
    }

    pub(super) fn foreign(&self) -> Vec<String> {
        self.prepared.lock().expect("no panic while held").foreign.clone()
    }

    pub(super) fn status(&self, name: &ParticipantName) -> ParticipantStatus {
        let context = self.gauge.context();
        let (identity, away) = match self.standing() {
            Standing::Ready { identity } => (Some(identity.to_string()), None),
            Standing::Away { detail } => (None, Some(detail)),
        };
        let seen = self.prepared.lock().expect("no panic while held");
        let age =
            |(gid, sight): (&String, &Sight)| (gid.clone(), sight.first.elapsed().as_secs_f64());
        ParticipantStatus {
            name: name.clone(),
            identity,
            away,
            drained: self.drained(),
            in_flight: context.in_flight,
            health: context.health,
            prepared: seen.since.iter().map(age).collect(),
            foreign: seen.foreign.clone(),
        }
    }
}

/// The physical executions that run, so that a scan can tell an orphan from a branch at work.
#[derive(Default)]
pub(super) struct Running {
    physicals: HashMap<PhysicalId, Arc<Trace>>,
    ids: HashMap<TxnId, PhysicalId>,
    highest: PhysicalId,
}

impl Running {
    pub(super) fn begin(&mut self, trace: Arc<Trace>) {
        let physical = trace.physical;
        for id in trace.members() {
            self.ids.insert(id.clone(), physical);
        }
        self.physicals.insert(physical, trace);
        self.highest = self.highest.max(physical);
    }

    pub(super) fn end(&mut self, physical: PhysicalId) {
        let Some(trace) = self.physicals.remove(&physical) else { return };
        for id in trace.members() {
            self.ids.remove(id);
        }
    }

    /// The execution of a transaction.
    pub(super) fn of(&self, id: &TxnId) -> Option<Arc<Trace>> {
        self.physicals.get(self.ids.get(id)?).cloned()
    }

    /// Every execution that runs.
    pub(super) fn traces(&self) -> Vec<Arc<Trace>> {
        self.physicals.values().cloned().collect()
    }

    /// The lowest execution that runs, or would be the next.
    pub(super) fn lowest(&self) -> PhysicalId {
        let running = self.physicals.keys().min().copied();
        running.unwrap_or(PhysicalId(self.highest.0 + 1))
    }

    /// What had ended by now, whatever is begun later.
    pub(super) fn ended(&self) -> Ended {
        Ended { running: self.physicals.keys().copied().collect(), highest: self.highest }
    }
}

/// Executions that had ended at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended {
    running: HashSet<PhysicalId>,
    highest: PhysicalId,
}

impl Ended {
    pub(super) fn contains(&self, physical: PhysicalId) -> bool {
        physical <= self.highest && !self.running.contains(&physical)
    }
}
