//! An operator's verbs: ask again at once, and end what can no longer be asked.
//!
//! A statement is made durable by the task that carries the transaction, between two steps of its
//! engine, and only then takes effect: it never crosses an answer, never changes a decision, and
//! nothing is sent because of it. Its transaction ends as heuristic, since nobody can confirm it.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use super::answer::Answer;
use super::members::Standing;
use super::trace::{Order, Trace};
use super::{Coordinator, Inner};
use crate::decision_log::{AnswerRecord, ResolutionRecord};
use crate::protocol::two_phase::{BranchState, Input, Stage, TwoPhase};
use crate::txn::{
    BranchIndex, Claim, Decision, Gid, Outcome, ParticipantName, Reason, ReasonCode, TxnId,
};

/// Longest reason that an operator may give, in bytes.
const REASON_BYTES_MAX: usize = 1_000;
/// Longest name of an operator, in bytes.
const BY_BYTES_MAX: usize = 200;
/// Most transactions that one order to retry wakes, the oldest first.
const RETRY_NOW_MAX: usize = 10_000;

/// What an operator states of a branch, with who and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// How it ended.
    pub claim: Claim,
    /// Who says so.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Statement {
    /// A statement with both texts trimmed and checked.
    pub fn new(claim: Claim, by: &str, reason: &str) -> Result<Self, ResolveError> {
        Ok(Self {
            claim,
            by: checked("by", by, BY_BYTES_MAX)?,
            reason: checked("reason", reason, REASON_BYTES_MAX)?,
        })
    }
}

fn checked(field: &'static str, text: &str, bytes_max: usize) -> Result<String, ResolveError> {
    let text = text.trim();
    let refuse = |detail: String| Err(ResolveError::Text { field, detail });
    if text.is_empty() {
        return refuse("is empty: whoever reads it later asks who and why".to_owned());
    }
    if text.len() > bytes_max {
        return refuse(format!("has {} bytes, the limit is {bytes_max}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return refuse("holds a control character".to_owned());
    }
    Ok(text.to_owned())
}

/// Why a branch is not ended by an operator's word. Nothing was changed, except for `LogFailed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A text is missing or too long. Fix the request.
    #[error("{field} {detail}")]
    Text {
        /// Which.
        field: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// Nothing is known by that id.
    #[error("no transaction {id} is known")]
    Unknown {
        /// What was asked for.
        id: TxnId,
    },
    /// It has no branch there. Fix the request.
    #[error("transaction {id} has no branch at {participant:?}; it has branches at {branches}")]
    NoBranch {
        /// The transaction.
        id: TxnId,
        /// What was asked for.
        participant: ParticipantName,
        /// What there is.
        branches: String,
    },
    /// The claim does not fit what is in doubt. Fix the request.
    #[error("{claim} cannot be said of {what}: say {fitting}")]
    Unfitting {
        /// What was claimed.
        claim: Claim,
        /// Of what.
        what: &'static str,
        /// What can be said.
        fitting: &'static str,
    },
    /// There is nothing to be resolved.
    #[error("transaction {id} is not in doubt there: {detail}")]
    NotInDoubt {
        /// The transaction.
        id: TxnId,
        /// Where it stands.
        detail: String,
    },
    /// The decision log failed: whether it was recorded shows after a restart.
    #[error("the decision log failed, a restart tells whether this was recorded: {detail}")]
    LogFailed {
        /// What failed.
        detail: String,
    },
}

/// What is asked again at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryScope {
    /// Everything that waits.
    All,
    /// What waits for one participant.
    Participant(ParticipantName),
    /// One transaction.
    Transaction(TxnId),
}

/// What an order to retry has woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Woken {
    /// Branches that waited in a backoff and are asked now.
    pub branches: usize,
    /// Participants that were away and are asked now.
    pub participants: usize,
    /// Transactions over the limit of one order: repeat it for them.
    pub left: usize,
}

impl Coordinator {
    /// Takes an operator's word that a branch has ended, which cannot be asked any more. Durable
    /// when it resolves; it goes on to its end even if nobody waits for that.
    pub async fn resolve(
        &self,
        id: &TxnId,
        participant: &ParticipantName,
        statement: Statement,
    ) -> Result<ResolutionRecord, ResolveError> {
        let trace = self.inner.trace_of(id).ok_or_else(|| self.inner.not_unresolved(id))?;
        let position = trace.position(participant).ok_or_else(|| ResolveError::NoBranch {
            id: id.clone(),
            participant: participant.clone(),
            branches: names(&trace.branches()),
        })?;
        let (reply, answer) = oneshot::channel();
        let ended = || ResolveError::NotInDoubt {
            id: id.clone(),
            detail: "it has just ended, or too many orders wait for it: look again".to_owned(),
        };
        // An engine that has given up takes no orders: say why.
        let stage = trace.seen().stage;
        if stage == Stage::InDoubt {
            check(&trace, stage, BranchState::Prepared, position, statement.claim)?;
        }
        trace.order(Order::Resolve(position, statement, reply)).map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Ends the wait of what waits to be asked again. The backoff goes on from where it is, and
    /// nothing is asked twice at a time. `None` if there is no such unresolved transaction or
    /// participant.
    pub fn retry_now(&self, scope: &RetryScope) -> Option<Woken> {
        let inner = &self.inner;
        let traces = match scope {
            RetryScope::Transaction(id) => vec![inner.trace_of(id)?],
            RetryScope::Participant(name) if !inner.participants.contains_key(name) => return None,
            RetryScope::Participant(_) | RetryScope::All => inner.unresolved_oldest_first(),
        };
        let concerns = |name: &ParticipantName, trace: &Trace| match scope {
            RetryScope::All => true,
            RetryScope::Participant(wanted) => wanted == name,
            RetryScope::Transaction(_) => trace.position(name).is_some(),
        };
        let mut woken = Woken::default();
        let mut away = std::collections::BTreeSet::new();
        for trace in &traces {
            let branches = trace.branches();
            let waiting: Vec<usize> = {
                let seen = trace.seen();
                let waits = |(_, branch): &(usize, &super::trace::BranchSeen)| {
                    branch.view.retry_at.is_some()
                };
                seen.branches.iter().enumerate().filter(waits).map(|(at, _)| at).collect()
            };
            let concerned = |at: &usize| concerns(branches[*at].0, trace);
            let waiting: Vec<usize> = waiting.into_iter().filter(concerned).collect();
            away.extend(branches.iter().map(|(name, _)| (*name).clone()));
            if waiting.is_empty() {
                continue;
            }
            if woken.branches >= RETRY_NOW_MAX {
                woken.left += 1;
                continue;
            }
            for at in waiting {
                let position = BranchIndex(u16::try_from(at).expect("an engine's limit"));
                woken.branches += usize::from(trace.order(Order::RetryNow(position)).is_ok());
            }
        }
        if let RetryScope::All = scope {
            away.extend(inner.participants.keys().cloned());
        } else if let RetryScope::Participant(name) = scope {
            away = std::iter::once(name.clone()).collect();
        }
        for member in away.iter().filter_map(|name| inner.participants.get(name)) {
            if let Standing::Away { .. } = member.standing() {
                member.hurry.notify_one();
                woken.participants += 1;
            }
        }
        Some(woken)
    }

    /// What operators ever stated of a transaction's branches.
    pub fn resolutions(&self, id: &TxnId) -> Vec<ResolutionRecord> {
        let resolutions = self.inner.resolutions.lock().expect("no panic while held");
        resolutions.values().filter(|record| record.members.contains(id)).cloned().collect()
    }
}

/// The answers of an execution whose task takes an order, and what an operator forces on it.
pub(super) struct Held<'a> {
    /// The answers that the task holds and the requests' hashes; without any the log's are amended.
    pub(super) answers: Vec<(&'a mut Answer, &'a str)>,
    /// The reason that goes into an answer yet to be made.
    pub(super) forced: &'a mut Option<Reason>,
}

impl Inner {
    /// The unresolved transaction of an id.
    pub(super) fn trace_of(&self, id: &TxnId) -> Option<Arc<Trace>> {
        let running = self.running.lock().expect("no panic while held").of(id);
        if let Some(trace) = running.filter(|trace| !trace.has_ended()) {
            return Some(trace);
        }
        let recoveries = self.recoveries.lock().expect("no panic while held");
        recoveries.values().find(|trace| trace.members().contains(id)).cloned()
    }

    fn not_unresolved(&self, id: &TxnId) -> ResolveError {
        match self.stored(id) {
            Ok(Some(record)) => ResolveError::NotInDoubt {
                id: id.clone(),
                detail: format!("it has ended everywhere, {}", record.answer.outcome),
            },
            Ok(None) => ResolveError::Unknown { id: id.clone() },
            Err(error) => ResolveError::LogFailed { detail: error.to_string() },
        }
    }

    /// Whether an operator has ended this branch, in this run or before.
    pub(super) fn is_resolved(&self, gid: Gid) -> bool {
        let resolutions = self.resolutions.lock().expect("no panic while held");
        resolutions.contains_key(&(gid.epoch, gid.physical, gid.branch))
    }

    /// Whether an operator has ended this branch of a commit: then it is a person's, for good.
    pub(super) fn is_left_to_operators(&self, gid: &Gid) -> bool {
        let resolutions = self.resolutions.lock().expect("no panic while held");
        let found = resolutions.get(&(gid.epoch, gid.physical, gid.branch));
        found.is_some_and(ResolutionRecord::is_of_commit)
    }

    /// Takes an order, between two steps; answers the input that gives it effect.
    pub(super) async fn obey(
        &self,
        order: Order,
        trace: &Trace,
        engine: &TwoPhase,
        mut held: Held<'_>,
    ) -> Option<Input> {
        let (position, statement, reply) = match order {
            Order::RetryNow(position) => return Some(Input::RetryNow(position)),
            Order::Resolve(position, statement, reply) => (position, statement, reply),
        };
        let claim = statement.claim;
        let state = engine.branch_state(position);
        let checked = check(trace, engine.stage(), state, position, claim);
        let recorded = match checked {
            Ok(decision) => {
                let resolution = self.resolution(trace, position, decision, statement);
                self.record(resolution, &mut held).await
            }
            Err(refused) => Err(refused),
        };
        let effect = recorded.is_ok().then_some(Input::Resolved(position, claim));
        // Whoever asked may have gone; it is recorded all the same.
        let _ = reply.send(recorded);
        effect
    }

    fn resolution(
        &self,
        trace: &Trace,
        position: BranchIndex,
        decision: Option<Decision>,
        statement: Statement,
    ) -> ResolutionRecord {
        let (participant, identity) = trace.branches()[usize::from(position.0)];
        ResolutionRecord {
            version: ResolutionRecord::VERSION,
            epoch: trace.epoch,
            physical: trace.physical,
            branch: trace.gid(self.log.log_id(), position).branch,
            participant: participant.clone(),
            identity: identity.to_owned(),
            members: trace.members().to_vec(),
            decision,
            claim: statement.claim,
            by: statement.by,
            reason: statement.reason,
            at: self.clock.now(),
        }
    }

    async fn record(
        &self,
        resolution: ResolutionRecord,
        held: &mut Held<'_>,
    ) -> Result<ResolutionRecord, ResolveError> {
        let reason = reason_of(&resolution);
        let amend =
            |(answer, hash): &(&mut Answer, &str)| (amended(answer, &reason), (*hash).to_owned());
        let amended: Vec<_> = match &resolution.decision {
            // Its answer is yet to be made.
            None => Vec::new(),
            Some(_) if held.answers.is_empty() => self.amended_of_log(&resolution.members, &reason),
            Some(_) => held.answers.iter().map(amend).collect(),
        };
        let record = |(answer, hash): &(Answer, String)| AnswerRecord {
            answer: answer.clone(),
            request_hash: hash.clone(),
            at: resolution.at,
        };
        let records: Vec<AnswerRecord> = amended.iter().map(record).collect();
        let written = self.log.record_resolution(&resolution, &records).await;
        written.map_err(|error| ResolveError::LogFailed { detail: error.to_string() })?;
        let mut mine = held.answers.iter_mut();
        for (answer, _) in amended {
            self.counters.count(Outcome::Heuristic, std::slice::from_ref(&reason));
            if let Some((mine, _)) = mine.next() {
                **mine = answer;
            }
        }
        if resolution.decision.is_none() {
            *held.forced = Some(reason);
        }
        self.counters.resolved();
        let ResolutionRecord { members, participant, claim, by, reason, .. } = &resolution;
        tracing::warn!(?members, %participant, %claim, by, reason, "an operator ends a branch");
        let mut resolutions = self.resolutions.lock().expect("no panic while held");
        resolutions.insert(resolution.key(), resolution.clone());
        Ok(resolution)
    }

    fn amended_of_log(&self, members: &[TxnId], reason: &Reason) -> Vec<(Answer, String)> {
        let amend = |id| match self.stored(id) {
            Ok(Some(record)) => Some((amended(&record.answer, reason), record.request_hash)),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(txn = %id, %error, "its answer stays as it is");
                None
            }
        };
        members.iter().filter_map(amend).collect()
    }
}

/// Whether this may be said of a branch now; answers what was decided.
pub(super) fn check(
    trace: &Trace,
    stage: Stage,
    state: BranchState,
    position: BranchIndex,
    claim: Claim,
) -> Result<Option<Decision>, ResolveError> {
    let not_in_doubt = |detail: &str| {
        let id = trace.members().first().cloned();
        let id = id.expect("an orphan is found by no id");
        Err(ResolveError::NotInDoubt { id, detail: detail.to_owned() })
    };
    match stage {
        Stage::Working => not_in_doubt("it is in its first phase, which ends by itself"),
        Stage::Deciding(_) => not_in_doubt("its decision is being made durable: look again"),
        Stage::Done => not_in_doubt("it has ended everywhere"),
        Stage::InDoubt => not_in_doubt(
            "the decision log failed, and only a restart tells what was decided: restart, then \
             look again",
        ),
        Stage::Inquiring => fits(None, claim).map(|()| None),
        Stage::Completing(decision) => {
            fits(Some(decision), claim)?;
            let (name, _) = trace.branches()[usize::from(position.0)];
            match state {
                BranchState::Prepared | BranchState::Unclear | BranchState::Preparing => {
                    Ok(Some(decision))
                }
                BranchState::Acked => not_in_doubt(&format!("{name} has ended as decided")),
                BranchState::Heuristic => {
                    not_in_doubt(&format!("{name} has ended against the decision"))
                }
                BranchState::Idle | BranchState::ReadOnly | BranchState::Declined => {
                    not_in_doubt(&format!("{name} holds nothing of it"))
                }
            }
        }
    }
}

/// Whether a claim fits a branch that waits for a decision, or a one-phase commit.
pub(super) fn fits(decision: Option<Decision>, claim: Claim) -> Result<(), ResolveError> {
    match (decision, claim) {
        (None, Claim::Committed | Claim::Aborted) | (Some(_), Claim::Done | Claim::Gone) => Ok(()),
        (None, Claim::Done | Claim::Gone) => Err(ResolveError::Unfitting {
            claim,
            what: "a one-phase commit, which nobody decided but its participant",
            fitting: "committed or aborted",
        }),
        (Some(_), Claim::Committed | Claim::Aborted) => Err(ResolveError::Unfitting {
            claim,
            what: "a branch whose decision is durable and never changes",
            fitting: "done (the decision was carried out by hand) or gone (it is lost)",
        }),
    }
}

/// The reason that an answer gives for a resolution.
pub(super) fn reason_of(resolution: &ResolutionRecord) -> Reason {
    let ResolutionRecord { participant, claim, by, reason, decision, .. } = resolution;
    let state = match decision {
        Some(Decision::Commit) => "was decided to commit and is",
        Some(Decision::Abort) => "was decided to abort and is",
        None => "was not known to have ended and is",
    };
    let detail =
        format!("the branch at {participant} {state} {claim} by the word of {by}: {reason}");
    Reason::new(ReasonCode::OperatorResolved, detail)
}

/// An answer as it is after an operator's word.
pub(super) fn amended(answer: &Answer, reason: &Reason) -> Answer {
    let mut answer = answer.clone();
    answer.outcome = Outcome::Heuristic;
    answer.reasons.push(reason.clone());
    answer
}

fn names(branches: &[(&ParticipantName, &str)]) -> String {
    branches.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}
