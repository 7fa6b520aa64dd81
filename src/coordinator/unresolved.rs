//! What is unresolved, and why: every transaction between its begin and its last acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::members::Standing;
use super::trace::{BranchSeen, Subject, Trace};
use super::{Coordinator, Inner};
use crate::protocol::two_phase::{BranchState, Stage};
use crate::txn::{
    BranchIndex, Decision, Epoch, Gid, ParticipantName, PhysicalId, TxnId, text_enum,
};

/// Which unresolved transactions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Where they stand.
    pub state: Wanted,
    /// Only those at least so old.
    pub older_than: Duration,
    /// The most that are listed; at least 1.
    pub limit: usize,
}

text_enum!(
    /// Which transactions a list shows.
    Wanted, "state", {
        /// All that are not acknowledged everywhere, those at work included.
        Unresolved => "unresolved",
        /// Those past their first phase.
        InDoubt => "in_doubt",
        /// Those in doubt for longer than is usual.
        Stuck => "stuck",
    }
);

impl Wanted {
    /// How old a transaction must be if nothing else is said.
    pub fn older_than(self) -> Duration {
        match self {
            Self::Unresolved | Self::InDoubt => Duration::ZERO,
            Self::Stuck => Duration::from_secs(30),
        }
    }
}

/// Unresolved transactions, the oldest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Page {
    /// As many as were asked for.
    pub transactions: Vec<Unresolved>,
    /// How many more there are.
    pub more: usize,
    /// Prepared branches that are never touched, up to the same limit.
    pub left_alone: Vec<LeftAlone>,
    /// How many more of these there are.
    pub left_alone_more: usize,
}

/// A prepared branch that is a person's to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    /// Where it stands.
    pub participant: ParticipantName,
    /// Its id there.
    pub gid: String,
    /// Why it is left alone.
    pub why: &'static str,
}

/// One transaction that is not acknowledged everywhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unresolved {
    /// Its ids; none if it is a prepared branch that nobody decided.
    pub ids: Vec<TxnId>,
    /// The epoch in which it was begun.
    pub epoch: Epoch,
    /// Its physical execution within that epoch.
    pub physical: PhysicalId,
    /// Where it stands.
    pub state: Progress,
    /// What was decided, durable or about to be.
    pub decision: Option<Decision>,
    /// Whose it is.
    pub origin: Origin,
    /// Seconds since it began, or since an orphan was first seen.
    #[serde(serialize_with = "rounded")]
    pub age_s: f64,
    /// Its branches, in branch order.
    pub branches: Vec<UnresolvedBranch>,
}

text_enum!(
    /// How far a transaction is.
    Progress, "progress", {
        /// In its first phase.
        Working => "working",
        /// A one-phase commit whose end is inquired about.
        Inquiring => "inquiring",
        /// Its decision is being made durable.
        Deciding => "deciding",
        /// Its decision is durable, and branches are told.
        Telling => "telling",
        /// The decision log failed; a restart tells what was decided.
        LogFailed => "log_failed",
    }
);

text_enum!(
    /// Where an unresolved transaction comes from.
    Origin, "origin", {
        /// It was begun by this run.
        Running => "running",
        /// An earlier run left it.
        Recovered => "recovered",
        /// A prepared branch that nobody decided: it is aborted.
        Orphan => "orphan",
    }
);

text_enum!(
    /// How far a branch is.
    BranchProgress, "branch progress", {
        /// Not asked yet.
        Idle => "idle",
        /// Asked for its vote.
        Working => "working",
        /// Voted yes.
        Prepared => "prepared",
        /// Changed nothing, or committed in one phase: it has left.
        Left => "left",
        /// Voted no.
        Declined => "declined",
        /// Its vote, or its commit in one phase, is not known.
        Unclear => "unclear",
        /// The decision is on its way there.
        Told => "told",
        /// Waits to be asked again.
        Waiting => "waiting",
        /// Waits for a participant that is away.
        Away => "away",
        /// Acknowledged the decision, or ended by an operator's word.
        Acknowledged => "acknowledged",
        /// Ended against the decision, or lost by an operator's word.
        Heuristic => "heuristic",
    }
);

/// One branch of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnresolvedBranch {
    /// Its id at the participant: whoever asks there who holds a lock finds this.
    pub gid: Gid,
    /// Where it is.
    pub participant: ParticipantName,
    /// The identity of the server that holds it.
    pub identity: String,
    /// How far it is.
    pub state: BranchProgress,
    /// Calls that got no usable answer.
    pub attempts: u32,
    /// The participant's last words that were no answer.
    pub last_error: Option<String>,
    /// Seconds until it is asked again, if it waits for that.
    #[serde(serialize_with = "rounded_option")]
    pub next_try_s: Option<f64>,
    /// Why it is unresolved, in a sentence; `None` of a branch that has ended.
    pub diagnosis: Option<String>,
    /// The statement by which a person looks at it there.
    pub look: Option<String>,
}

/// Transactions in doubt, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Doubts {
    /// How many there are.
    pub count: usize,
    /// How old the oldest is, in seconds.
    pub oldest_s: f64,
    /// Branches ended by an operator's word since start.
    pub resolved: u64,
    /// Transactions that grew older than `prepared_age_alert_ms` since start.
    pub age_alerts: u64,
}

impl Coordinator {
    /// Lists what is unresolved.
    pub fn unresolved(&self, query: &Query) -> Page {
        let inner = &self.inner;
        let mut traces = inner.unresolved_oldest_first();
        traces.retain(|trace| {
            trace.age() >= query.older_than
                && (query.state == Wanted::Unresolved || trace.is_in_doubt())
        });
        let more = traces.len().saturating_sub(query.limit);
        let shown = traces.iter().take(query.limit);
        let transactions = shown.filter_map(|trace| inner.describe(trace)).collect();
        let mut left_alone = inner.left_alone();
        let left_alone_more = left_alone.len().saturating_sub(query.limit);
        left_alone.truncate(query.limit);
        Page { transactions, more, left_alone, left_alone_more }
    }

    /// One transaction, while it is unresolved.
    pub fn unresolved_one(&self, id: &TxnId) -> Option<Unresolved> {
        self.inner.describe(&*self.inner.trace_of(id)?)
    }

    /// How much is in doubt.
    pub fn doubts(&self) -> Doubts {
        let mut doubts = Doubts {
            resolved: self.inner.counters.resolved_count(),
            age_alerts: self.inner.counters.age_alerts(),
            ..Doubts::default()
        };
        for trace in self.inner.unresolved_oldest_first() {
            if trace.is_in_doubt() {
                doubts.count += 1;
                doubts.oldest_s = doubts.oldest_s.max(trace.age().as_secs_f64());
            }
        }
        doubts
    }
}

impl Inner {
    /// Everything unresolved, the oldest first.
    pub(super) fn unresolved_oldest_first(&self) -> Vec<Arc<Trace>> {
        let mut traces = self.running.lock().expect("no panic while held").traces();
        let recoveries = self.recoveries.lock().expect("no panic while held");
        traces.extend(recoveries.values().cloned());
        drop(recoveries);
        traces.retain(|trace| !trace.has_ended());
        traces.sort_by_cached_key(|trace| {
            (std::cmp::Reverse(trace.age()), trace.epoch, trace.physical)
        });
        traces
    }

    /// Tells once of each transaction that has grown old.
    pub(super) fn alert_the_old(&self) {
        let age_max = Duration::from_millis(self.options.prepared_age_alert_ms);
        for trace in self.unresolved_oldest_first() {
            if trace.age() <= age_max {
                return;
            }
            if !trace.alert_is_due(age_max) {
                continue;
            }
            self.counters.age_alert();
            let Some(unresolved) = self.describe(&trace) else { continue };
            let why = unresolved.branches.iter().filter_map(|b| b.diagnosis.as_deref());
            let why = why.collect::<Vec<_>>().join("; ");
            let ids = &unresolved.ids;
            tracing::error!(?ids, ?age_max, why, "a transaction stays unresolved");
        }
    }

    /// Prepared branches that are never touched: those of others, and those that came back after
    /// an operator had ended them.
    fn left_alone(&self) -> Vec<LeftAlone> {
        let mut found = Vec::new();
        for (name, member) in &self.participants {
            let status = member.status(name);
            let foreign = status.foreign.into_iter().map(|gid| (gid, "of another coordinator"));
            let ours = status
                .prepared
                .into_keys()
                .filter(|gid| gid.parse().is_ok_and(|gid: Gid| self.is_left_to_operators(&gid)));
            let ours = ours.map(|gid| (gid, "ended by an operator, and prepared all the same"));
            let left = |(gid, why)| LeftAlone { participant: name.clone(), gid, why };
            found.extend(foreign.chain(ours).map(left));
        }
        found
    }

    /// What a trace shows now; `None` if it has ended.
    fn describe(&self, trace: &Trace) -> Option<Unresolved> {
        let (names, now) = (trace.branches(), trace.began.elapsed());
        let seen = trace.seen();
        let (state, decision) = match seen.stage {
            Stage::Working => (Progress::Working, None),
            Stage::Inquiring => (Progress::Inquiring, None),
            Stage::Deciding(decision) => (Progress::Deciding, Some(decision)),
            Stage::Completing(decision) => (Progress::Telling, Some(decision)),
            Stage::InDoubt => (Progress::LogFailed, None),
            Stage::Done => return None,
        };
        let since = now.saturating_sub(seen.stage_since);
        let branch = |(at, branch): (usize, &BranchSeen)| {
            let position = BranchIndex(u16::try_from(at).expect("an engine's limit"));
            let (name, identity) = names[at];
            let gid = trace.gid(self.log.log_id(), position);
            let away = self.away(name, identity);
            let next = branch.view.retry_at.map(|at| at.saturating_sub(now));
            let look = self.participants.get(name).and_then(|m| m.participant.inspection(gid));
            UnresolvedBranch {
                gid,
                participant: name.clone(),
                identity: identity.to_owned(),
                state: progress(seen.stage, branch, away.is_some()),
                attempts: branch.view.attempts,
                last_error: branch.error.clone(),
                next_try_s: next.map(|next| next.as_secs_f64()),
                diagnosis: diagnosis(name, seen.stage, since, branch, away.as_deref(), next),
                look,
            }
        };
        Some(Unresolved {
            ids: trace.members().to_vec(),
            epoch: trace.epoch,
            physical: trace.physical,
            state,
            decision,
            origin: match trace.subject {
                Subject::Live { .. } => Origin::Running,
                Subject::Decided(_) | Subject::Intended(_) => Origin::Recovered,
                Subject::Orphan(..) => Origin::Orphan,
            },
            age_s: trace.age().as_secs_f64(),
            branches: seen.branches.iter().enumerate().map(branch).collect(),
        })
    }

    /// Why the server that holds a branch cannot be asked, if so.
    fn away(&self, name: &ParticipantName, identity: &str) -> Option<String> {
        match self.participants.get(name)?.standing() {
            Standing::Away { detail } => Some(detail),
            Standing::Ready { identity: found } if *found != *identity => Some(format!(
                "the branch is at {identity}, and the name points at {found} now: point it back"
            )),
            Standing::Ready { .. } => None,
        }
    }
}

fn is_untold(state: BranchState) -> bool {
    matches!(state, BranchState::Prepared | BranchState::Unclear | BranchState::Preparing)
}

fn progress(stage: Stage, branch: &BranchSeen, away: bool) -> BranchProgress {
    let told = matches!(stage, Stage::Completing(_) | Stage::Inquiring);
    match branch.view.state {
        state if told && is_untold(state) && away => BranchProgress::Away,
        state if told && is_untold(state) && branch.view.retry_at.is_some() => {
            BranchProgress::Waiting
        }
        state if matches!(stage, Stage::Completing(_)) && is_untold(state) => BranchProgress::Told,
        BranchState::Idle => BranchProgress::Idle,
        BranchState::Preparing => BranchProgress::Working,
        BranchState::Prepared => BranchProgress::Prepared,
        BranchState::ReadOnly => BranchProgress::Left,
        BranchState::Declined => BranchProgress::Declined,
        BranchState::Unclear => BranchProgress::Unclear,
        BranchState::Acked => BranchProgress::Acknowledged,
        BranchState::Heuristic => BranchProgress::Heuristic,
    }
}

/// What holds a branch up, in a sentence.
fn diagnosis(
    name: &ParticipantName,
    stage: Stage,
    since: Duration,
    branch: &BranchSeen,
    away: Option<&str>,
    next: Option<Duration>,
) -> Option<String> {
    let state = branch.view.state;
    let begin = match stage {
        Stage::Working if state == BranchState::Preparing => {
            return Some(format!("{name} is at work, its vote is awaited"));
        }
        Stage::Working | Stage::Done => return None,
        Stage::Deciding(_) => return Some("the decision is being made durable".to_owned()),
        Stage::InDoubt => {
            return Some(
                "the decision log failed, and a restart tells what was decided".to_owned(),
            );
        }
        Stage::Inquiring => format!("whether {name} committed is not known for {} s", secs(since)),
        Stage::Completing(_) if !is_untold(state) => return None,
        Stage::Completing(Decision::Commit) => {
            format!("{name} has not acknowledged the commit for {} s", secs(since))
        }
        Stage::Completing(Decision::Abort) => {
            format!("{name} has not acknowledged the abort for {} s", secs(since))
        }
    };
    if let Some(away) = away {
        return Some(format!("{begin}: it is away: {away}"));
    }
    let mut text = begin;
    if let Some(error) = &branch.error {
        text = format!("{text}: {error}");
    }
    match branch.view.attempts {
        0 => {}
        1 => text.push_str("; 1 attempt"),
        attempts => text = format!("{text}; {attempts} attempts"),
    }
    match next {
        Some(next) => Some(format!("{text}; next in {} s", secs(next))),
        None => Some(format!("{text}; an answer is awaited")),
    }
}

fn secs(duration: Duration) -> u64 {
    (duration.as_secs_f64().round()) as u64
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference to the field")]
fn rounded<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((seconds * 1e3).round() / 1e3)
}

#[allow(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn rounded_option<S: Serializer>(seconds: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match seconds {
        Some(seconds) => rounded(seconds, to),
        None => to.serialize_none(),
    }
}
