//! What to do at start with what the last run left behind. Pure: surveys in, steps out.
//!
//! A logged commit is committed; every other prepared branch of our own log from an older epoch is
//! aborted (presumed abort); the intent of a one-phase commit is inquired. Branches of other log
//! ids are listed and never touched: they belong to another coordinator, or to a folder of ours
//! that was lost, and undoing half of a transaction cannot be mended.

use std::collections::HashSet;

use crate::decision_log::{DecisionRecord, Intent, RecordedBranch, Recovered};
use crate::txn::{BranchIndex, Decision, Epoch, Gid, LogId, ParticipantName};

/// What one participant said when it was asked at start.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) participant: ParticipantName,
    pub(super) identity: String,
    pub(super) prepared: Vec<Gid>,
}

/// What recovery will do.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Decisions to carry out everywhere.
    pub(super) commits: Vec<DecisionRecord>,
    /// Prepared branches without a decision.
    pub(super) aborts: Vec<(ParticipantName, Gid)>,
    /// One-phase commits to inquire.
    pub(super) inquiries: Vec<Intent>,
    /// Branches of other decision logs.
    pub(super) foreign: Vec<(ParticipantName, Gid)>,
}

/// Why start-up cannot go on: only an operator can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A branch in doubt names a participant that the configuration lost.
    #[error(
        "transaction {physical} of epoch {epoch} is in doubt at participant {participant}, which \
         is not configured: put it back"
    )]
    MissingParticipant {
        /// The physical execution.
        physical: u64,
        /// Its epoch.
        epoch: u64,
        /// The participant.
        participant: ParticipantName,
    },
    /// A participant's name now points at another server.
    #[error(
        "participant {participant} was {recorded} when transaction {physical} of epoch {epoch} \
         was decided, and is {found} now: point it back"
    )]
    OtherServer {
        /// The participant.
        participant: ParticipantName,
        /// The identity in the record.
        recorded: String,
        /// The identity that answered.
        found: String,
        /// The physical execution.
        physical: u64,
        /// Its epoch.
        epoch: u64,
    },
}

pub(super) fn plan(
    log: LogId,
    epoch: Epoch,
    recovered: Recovered,
    surveys: &[Survey],
) -> Result<Steps, RecoveryError> {
    let mut steps = Steps::default();
    let mut decided = HashSet::new();
    for record in recovered.decisions {
        for branch in &record.branches {
            check(branch, record.epoch, record.physical.0, surveys)?;
        }
        if record.decision == Decision::Commit {
            decided.insert((record.epoch, record.physical));
            steps.commits.push(record);
        }
    }
    for intent in recovered.intents {
        check(&intent.branch, intent.epoch, intent.physical.0, surveys)?;
        decided.insert((intent.epoch, intent.physical));
        steps.inquiries.push(intent);
    }
    for survey in surveys {
        for &gid in &survey.prepared {
            if gid.log != log {
                steps.foreign.push((survey.participant.clone(), gid));
            } else if gid.epoch < epoch && !decided.contains(&(gid.epoch, gid.physical)) {
                steps.aborts.push((survey.participant.clone(), gid));
            }
        }
    }
    Ok(steps)
}

fn check(
    branch: &RecordedBranch,
    epoch: Epoch,
    physical: u64,
    surveys: &[Survey],
) -> Result<(), RecoveryError> {
    let participant = branch.participant.clone();
    let Some(survey) = surveys.iter().find(|s| s.participant == participant) else {
        return Err(RecoveryError::MissingParticipant { physical, epoch: epoch.0, participant });
    };
    if survey.identity != branch.identity {
        return Err(RecoveryError::OtherServer {
            participant,
            recorded: branch.identity.clone(),
            found: survey.identity.clone(),
            physical,
            epoch: epoch.0,
        });
    }
    Ok(())
}

/// The branches of a decision that must hear it.
pub(super) fn branches_to_commit(
    log: LogId,
    record: &DecisionRecord,
) -> impl Iterator<Item = (ParticipantName, Gid)> + '_ {
    let indexed = record.branches.iter().enumerate();
    indexed.filter_map(move |(index, branch)| {
        let index = u16::try_from(index).expect("an engine has at most u16::MAX branches");
        if record.read_only.contains(&index) {
            return None;
        }
        let gid =
            Gid { log, epoch: record.epoch, physical: record.physical, branch: BranchIndex(index) };
        Some((branch.participant.clone(), gid))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::txn::{PhysicalId, Timestamp};

    fn name(text: &str) -> ParticipantName {
        ParticipantName::new(text).unwrap()
    }

    fn log(n: u128) -> LogId {
        LogId(uuid::Uuid::from_u128(n))
    }

    fn gid(log_n: u128, epoch: u64, physical: u64, branch: u16) -> Gid {
        Gid {
            log: log(log_n),
            epoch: Epoch(epoch),
            physical: PhysicalId(physical),
            branch: BranchIndex(branch),
        }
    }

    fn record(epoch: u64, physical: u64, identity: &str) -> DecisionRecord {
        let branch = |participant| RecordedBranch {
            participant: name(participant),
            identity: identity.to_owned(),
        };
        DecisionRecord {
            epoch: Epoch(epoch),
            physical: PhysicalId(physical),
            branches: vec![branch("a"), branch("b")],
            read_only: vec![],
            members: vec![],
            decision: Decision::Commit,
            at: Timestamp::default(),
        }
    }

    fn survey(participant: &str, prepared: Vec<Gid>) -> Survey {
        Survey { participant: name(participant), identity: "id".into(), prepared }
    }

    #[test]
    fn logged_commits_commit_the_rest_aborts_and_foreigners_are_left_alone() {
        let recovered = Recovered { decisions: vec![record(1, 1, "id")], intents: vec![] };
        let surveys = [
            survey("a", vec![gid(1, 1, 1, 0), gid(1, 1, 2, 0), gid(9, 1, 1, 0)]),
            survey("b", vec![gid(1, 2, 1, 1)]),
        ];
        let steps = plan(log(1), Epoch(2), recovered, &surveys).unwrap();
        assert_eq!(steps.commits.len(), 1);
        assert_eq!(steps.aborts, [(name("a"), gid(1, 1, 2, 0))]);
        assert_eq!(steps.foreign, [(name("a"), gid(9, 1, 1, 0))]);
        let told: Vec<_> = branches_to_commit(log(1), &steps.commits[0]).collect();
        assert_eq!(told, [(name("a"), gid(1, 1, 1, 0)), (name("b"), gid(1, 1, 1, 1))]);
    }

    #[test]
    fn a_lost_or_swapped_participant_stops_start_up() {
        let recovered = || Recovered { decisions: vec![record(1, 1, "id")], intents: vec![] };
        let lost = plan(log(1), Epoch(2), recovered(), &[survey("a", vec![])]);
        assert!(matches!(lost, Err(RecoveryError::MissingParticipant { .. })));
        let mut other = survey("b", vec![]);
        other.identity = "another".into();
        let swapped = plan(log(1), Epoch(2), recovered(), &[survey("a", vec![]), other]);
        assert!(matches!(swapped, Err(RecoveryError::OtherServer { .. })));
    }
}
