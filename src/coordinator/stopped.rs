//! The same view and the same word of an operator, on the decision log of a stopped coordinator.
//!
//! A start is refused when something in doubt names a participant that the configuration lost:
//! then there is no server to ask. What is stated here takes effect at the next start.

use std::collections::BTreeMap;

use super::operator::{ResolveError, Statement, amended, fits, reason_of};
use super::unresolved::{BranchProgress, Origin, Progress, Unresolved, UnresolvedBranch};
use crate::decision_log::{
    AnswerRecord, DecisionLog, Decisions as _, RecordedBranch, Recovered, ResolutionRecord,
};
use crate::txn::{
    BranchIndex, Decision, Epoch, Gid, LogId, ParticipantName, PhysicalId, Timestamp, TxnId,
};

/// The log of a stopped coordinator and what is in doubt there.
pub struct Stopped {
    log: DecisionLog,
    recovered: Recovered,
}

/// An execution of an earlier run.
struct Left<'a> {
    epoch: Epoch,
    physical: PhysicalId,
    members: &'a [TxnId],
    decision: Option<Decision>,
    since: Timestamp,
    branches: Vec<(BranchIndex, &'a RecordedBranch)>,
}

type Key = (Epoch, PhysicalId, BranchIndex);

impl Stopped {
    /// Takes what [`DecisionLog::open_stopped`] gives.
    pub fn new((log, recovered): (DecisionLog, Recovered)) -> Self {
        Self { log, recovered }
    }

    /// Everything in doubt, in the order of executions.
    pub fn unresolved(&self, now: Timestamp) -> Vec<Unresolved> {
        let resolved = self.resolved();
        self.left().iter().map(|left| left.describe(self.log.log_id(), &resolved, now)).collect()
    }

    /// Records an operator's word on a branch, durably.
    pub async fn resolve(
        &mut self,
        id: &TxnId,
        participant: &ParticipantName,
        statement: Statement,
        now: Timestamp,
    ) -> Result<ResolutionRecord, ResolveError> {
        let resolution = self.resolution(id, participant, statement, now)?;
        let failed = |detail: String| ResolveError::LogFailed { detail };
        let mut answers = Vec::new();
        // The answer of a one-phase commit is made when the next start takes it up.
        for id in resolution.members.iter().filter(|_| resolution.decision.is_some()) {
            let found = self.log.answer(id).map_err(|error| failed(error.to_string()))?;
            let Some(record) = found else { continue };
            let answer = amended(&record.answer, &reason_of(&resolution));
            answers.push(AnswerRecord { answer, at: now, ..record });
        }
        let written = self.log.record_resolution(&resolution, &answers).await;
        written.map_err(|error| failed(error.to_string()))?;
        self.recovered.resolutions.push(resolution.clone());
        Ok(resolution)
    }

    /// Releases the folder.
    pub fn close(self) -> Result<(), crate::decision_log::Error> {
        self.log.close()
    }

    fn resolution(
        &self,
        id: &TxnId,
        participant: &ParticipantName,
        statement: Statement,
        now: Timestamp,
    ) -> Result<ResolutionRecord, ResolveError> {
        let left = self.left();
        let Some(left) = left.iter().find(|left| left.members.contains(id)) else {
            let known = self.log.answer(id);
            let known = known.map_err(|e| ResolveError::LogFailed { detail: e.to_string() })?;
            let (id, detail) = (id.clone(), "it has ended everywhere".to_owned());
            return Err(match known {
                Some(_) => ResolveError::NotInDoubt { id, detail },
                None => ResolveError::Unknown { id },
            });
        };
        let found = left.branches.iter().find(|(_, b)| b.participant == *participant);
        let Some(&(branch, recorded)) = found else {
            let names = left.branches.iter().map(|(_, b)| b.participant.as_str());
            return Err(ResolveError::NoBranch {
                id: id.clone(),
                participant: participant.clone(),
                branches: names.collect::<Vec<_>>().join(", "),
            });
        };
        fits(left.decision, statement.claim)?;
        if let Some(earlier) = self.resolved().get(&(left.epoch, left.physical, branch)) {
            let detail = format!("{} has said that it is {}", earlier.by, earlier.claim);
            return Err(ResolveError::NotInDoubt { id: id.clone(), detail });
        }
        Ok(ResolutionRecord {
            version: ResolutionRecord::VERSION,
            epoch: left.epoch,
            physical: left.physical,
            branch,
            participant: participant.clone(),
            identity: recorded.identity.clone(),
            members: left.members.to_vec(),
            decision: left.decision,
            claim: statement.claim,
            by: statement.by,
            reason: statement.reason,
            at: now,
        })
    }

    fn resolved(&self) -> BTreeMap<Key, &ResolutionRecord> {
        self.recovered.resolutions.iter().map(|record| (record.key(), record)).collect()
    }

    fn left(&self) -> Vec<Left<'_>> {
        let index = |at: usize| BranchIndex(u16::try_from(at).expect("an engine's limit"));
        let decisions = self.recovered.decisions.iter().map(|record| {
            let told = |(branch, _): &(BranchIndex, _)| !record.read_only.contains(&branch.0);
            let branches = record.branches.iter().enumerate();
            Left {
                epoch: record.epoch,
                physical: record.physical,
                members: &record.members,
                decision: Some(record.decision),
                since: record.at,
                branches: branches.map(|(at, b)| (index(at), b)).filter(told).collect(),
            }
        });
        let intents = self.recovered.intents.iter().map(|intent| Left {
            epoch: intent.epoch,
            physical: intent.physical,
            members: std::slice::from_ref(&intent.row.txn_id),
            decision: None,
            since: intent.row.timestamp,
            branches: vec![(BranchIndex(0), &intent.branch)],
        });
        decisions.chain(intents).collect()
    }
}

impl Left<'_> {
    fn describe(
        &self,
        log: LogId,
        resolved: &BTreeMap<Key, &ResolutionRecord>,
        now: Timestamp,
    ) -> Unresolved {
        let branch = |&(branch, recorded): &(BranchIndex, &RecordedBranch)| {
            let name = &recorded.participant;
            let resolution = resolved.get(&(self.epoch, self.physical, branch));
            let diagnosis = match (resolution, self.decision) {
                (Some(by), _) => {
                    format!("{} by the word of {}; the next start ends it", by.claim, by.by)
                }
                (None, Some(_)) => format!("the next start tells {name} to commit"),
                (None, None) => format!("the next start asks {name} whether it committed"),
            };
            UnresolvedBranch {
                gid: Gid { log, epoch: self.epoch, physical: self.physical, branch },
                participant: name.clone(),
                identity: recorded.identity.clone(),
                state: match resolution {
                    Some(_) => BranchProgress::Acknowledged,
                    None if self.decision.is_some() => BranchProgress::Prepared,
                    None => BranchProgress::Unclear,
                },
                attempts: 0,
                last_error: None,
                next_try_s: None,
                diagnosis: Some(diagnosis),
                look: None,
            }
        };
        Unresolved {
            ids: self.members.to_vec(),
            epoch: self.epoch,
            physical: self.physical,
            state: if self.decision.is_some() { Progress::Telling } else { Progress::Inquiring },
            decision: self.decision,
            origin: Origin::Recovered,
            age_s: now.since(self.since).as_secs_f64(),
            branches: self.branches.iter().map(branch).collect(),
        }
    }
}
