//! What to do with what an earlier run left behind, or a late prepare. Pure: surveys in, steps out.
//!
//! A logged commit is committed; every other prepared branch of our own log whose execution has
//! ended is aborted (presumed abort); the intent of a one-phase commit is inquired. Branches of
//! other log ids are listed and never touched: they belong to another coordinator, or to a folder
//! of ours that was lost, and undoing half of a transaction cannot be mended.
//!
//! A participant that cannot be asked stops nothing: what concerns it waits until it can.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::decision_log::{DecisionRecord, Intent, RecordedBranch, Recovered};
use crate::mutation::{Mutation, on};
use crate::participants::Prepared;
use crate::txn::{BranchIndex, Decision, Epoch, Gid, LogId, ParticipantName};

/// What one participant said when it was asked at start.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) participant: ParticipantName,
    pub(super) identity: Arc<str>,
    pub(super) prepared: Prepared,
}

/// What recovery will do.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Decisions to carry out everywhere.
    pub(super) commits: Vec<DecisionRecord>,
    /// Prepared branches without a decision.
    pub(super) aborts: Vec<(Gid, RecordedBranch)>,
    /// One-phase commits to inquire.
    pub(super) inquiries: Vec<Intent>,
}

/// What one survey found, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sorted {
    /// Ours, ended and undecided: to be aborted.
    pub(super) orphans: Vec<Gid>,
    /// Ours, all of them.
    pub(super) ours: Vec<String>,
    /// Of other decision logs, or of another form.
    pub(super) foreign: Vec<String>,
}

/// Why start-up cannot go on: only an operator can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A branch in doubt names a participant that the configuration lost.
    #[error(
        "transaction {physical} of epoch {epoch} is in doubt at participant {participant}, which \
         is not configured: put it back, or end it by hand: presume txn list --offline"
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
         was decided, and is {found} now: point it back, or end it by hand: \
         presume txn list --offline"
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

/// What to do at start. `names` are the configured participants, `surveys` come from those of
/// them that could be asked.
pub(super) fn plan(
    log: LogId,
    epoch: Epoch,
    recovered: Recovered,
    names: &[ParticipantName],
    surveys: &[Survey],
) -> Result<Steps, RecoveryError> {
    let mut steps = Steps::default();
    let mut decided = HashSet::new();
    // What operators have ended needs no server any more, and is theirs if it comes back.
    let resolved = recovered.resolutions.iter();
    let resolved: HashMap<_, _> = resolved.map(|r| (r.key(), r.is_of_commit())).collect();
    for record in recovered.decisions {
        for (index, branch) in (0..).map(BranchIndex).zip(&record.branches) {
            if !resolved.contains_key(&(record.epoch, record.physical, index)) {
                check(branch, record.epoch, record.physical.0, names, surveys)?;
            }
        }
        if record.decision == Decision::Commit && !on(Mutation::RecoveryIgnoresDecisions) {
            decided.insert((record.epoch, record.physical));
            steps.commits.push(record);
        }
    }
    for intent in recovered.intents {
        if !resolved.contains_key(&(intent.epoch, intent.physical, BranchIndex(0))) {
            check(&intent.branch, intent.epoch, intent.physical.0, names, surveys)?;
        }
        decided.insert((intent.epoch, intent.physical));
        if on(Mutation::RecoveryIgnoresIntents) {
            continue;
        }
        steps.inquiries.push(intent);
    }
    for survey in surveys {
        let ended = |gid: &Gid| gid.epoch < epoch;
        let decided = |gid: &Gid| {
            decided.contains(&(gid.epoch, gid.physical))
                || resolved.get(&(gid.epoch, gid.physical, gid.branch)) == Some(&true)
        };
        let sorted = sort(log, &survey.prepared, ended, decided);
        let orphan = |gid| {
            let (participant, identity) = (survey.participant.clone(), survey.identity.to_string());
            (gid, RecordedBranch { participant, identity })
        };
        steps.aborts.extend(sorted.orphans.into_iter().map(orphan));
    }
    Ok(steps)
}

/// Sorts out what stands prepared at a participant. `ended` says of a branch of ours whether its
/// execution is certainly over, `decided` whether a decision to commit it may be open: ask in this
/// order, since an execution that ends takes its decision with it.
pub(super) fn sort(
    log: LogId,
    prepared: &Prepared,
    ended: impl Fn(&Gid) -> bool,
    decided: impl Fn(&Gid) -> bool,
) -> Sorted {
    let mut sorted = Sorted { foreign: prepared.others.clone(), ..Sorted::default() };
    for gid in &prepared.branches {
        if gid.log != log {
            sorted.foreign.push(gid.to_string());
            continue;
        }
        sorted.ours.push(gid.to_string());
        let ended = ended(gid) || on(Mutation::ScanAbortsRunning);
        let decided = decided(gid) && !on(Mutation::ScanAbortsDecided);
        if ended && !decided && !on(Mutation::ScanForgetsOrphans) {
            sorted.orphans.push(*gid);
        }
    }
    sorted
}

fn check(
    branch: &RecordedBranch,
    epoch: Epoch,
    physical: u64,
    names: &[ParticipantName],
    surveys: &[Survey],
) -> Result<(), RecoveryError> {
    let participant = branch.participant.clone();
    if !names.contains(&participant) {
        return Err(RecoveryError::MissingParticipant { physical, epoch: epoch.0, participant });
    }
    let survey = surveys.iter().find(|s| s.participant == participant);
    match survey.filter(|survey| *survey.identity != *branch.identity) {
        None => Ok(()),
        Some(survey) => Err(RecoveryError::OtherServer {
            participant,
            recorded: branch.identity.clone(),
            found: survey.identity.to_string(),
            physical,
            epoch: epoch.0,
        }),
    }
}

/// The branches of a decision that must hear it.
pub(super) fn branches_to_commit(
    log: LogId,
    record: &DecisionRecord,
) -> impl Iterator<Item = (&RecordedBranch, Gid)> {
    let indexed = record.branches.iter().enumerate();
    let dropped = usize::from(on(Mutation::RecoveryDropsBranch));
    indexed.skip(dropped).filter_map(move |(index, branch)| {
        let index = u16::try_from(index).expect("an engine has at most u16::MAX branches");
        if record.read_only.contains(&index) {
            return None;
        }
        let gid =
            Gid { log, epoch: record.epoch, physical: record.physical, branch: BranchIndex(index) };
        Some((branch, gid))
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

    fn survey(participant: &str, branches: Vec<Gid>) -> Survey {
        let prepared = Prepared { branches, others: Vec::new() };
        Survey { participant: name(participant), identity: "id".into(), prepared }
    }

    fn decided() -> Recovered {
        Recovered { decisions: vec![record(1, 1, "id")], ..Recovered::default() }
    }

    fn names() -> [ParticipantName; 2] {
        [name("a"), name("b")]
    }

    #[test]
    fn logged_commits_commit_the_rest_aborts_and_foreigners_are_left_alone() {
        let recovered = decided();
        let surveys = [
            survey("a", vec![gid(1, 1, 1, 0), gid(1, 1, 2, 0), gid(9, 1, 1, 0)]),
            survey("b", vec![gid(1, 2, 1, 1)]),
        ];
        let steps = plan(log(1), Epoch(2), recovered, &names(), &surveys).unwrap();
        assert_eq!(steps.commits.len(), 1);
        let aborts: Vec<_> = steps.aborts.iter().map(|(gid, b)| (&b.participant, *gid)).collect();
        assert_eq!(aborts, [(&name("a"), gid(1, 1, 2, 0))]);
        let told = branches_to_commit(log(1), &steps.commits[0]);
        let told: Vec<_> = told.map(|(branch, gid)| (branch.participant.clone(), gid)).collect();
        assert_eq!(told, [(name("a"), gid(1, 1, 1, 0)), (name("b"), gid(1, 1, 1, 1))]);
    }

    #[test]
    fn what_stands_prepared_is_sorted_by_whose_it_is_and_whether_it_can_still_be_decided() {
        let others = vec!["xa-of-somebody".to_owned()];
        let branches = vec![gid(9, 1, 1, 0), gid(1, 2, 1, 0), gid(1, 2, 2, 0), gid(1, 2, 3, 0)];
        let prepared = Prepared { branches, others };
        let sorted =
            sort(log(1), &prepared, |gid| gid.physical.0 < 3, |gid| gid.physical == PhysicalId(2));
        assert_eq!(sorted.orphans, [gid(1, 2, 1, 0)]);
        assert_eq!(sorted.ours.len(), 3);
        assert_eq!(sorted.foreign, ["xa-of-somebody".to_owned(), gid(9, 1, 1, 0).to_string()]);
    }

    #[test]
    fn a_lost_or_swapped_participant_stops_start_up_and_one_that_is_away_does_not() {
        let recovered = decided;
        let here = [survey("a", vec![])];
        let lost = plan(log(1), Epoch(2), recovered(), &[name("a")], &here);
        assert!(matches!(lost, Err(RecoveryError::MissingParticipant { .. })));
        let away = plan(log(1), Epoch(2), recovered(), &names(), &here).unwrap();
        assert_eq!(away.commits.len(), 1);
        let mut other = survey("b", vec![]);
        other.identity = "another".into();
        let swapped = plan(log(1), Epoch(2), recovered(), &names(), &[survey("a", vec![]), other]);
        assert!(matches!(swapped, Err(RecoveryError::OtherServer { .. })));
    }
}
