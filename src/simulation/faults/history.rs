//! What was seen at the coordinator's boundaries, and the checks that need no more than that.
//!
//! The boundaries are the network, the decision log's disk and the answers to clients: whatever
//! a coordinator believes, these are its deeds. Invariants are numbered as in the design.

use std::collections::{BTreeMap, BTreeSet};

use crate::decision_log::{AnswerRecord, DecisionRecord, Intent};
use crate::txn::{Decision, Epoch, Gid, Outcome, PhysicalId, TxnId};

/// One physical execution.
type Execution = (Epoch, PhysicalId);

/// An outcome under a key, with the request that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) request_hash: String,
    pub(super) outcome: Outcome,
}

/// Deeds of every coordinator of a run.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Executions with a durable decision to commit.
    decided: BTreeSet<Execution>,
    /// Executions with a durable intent to commit in one phase.
    intended: BTreeSet<Execution>,
    /// Executions of which some branch was told to roll back.
    rolled_back: BTreeSet<Execution>,
    /// The durable outcome of each key.
    outcomes: BTreeMap<TxnId, Told>,
    /// What clients heard.
    told: BTreeMap<TxnId, Told>,
    violations: Vec<String>,
}

fn execution(gid: Gid) -> Execution {
    (gid.epoch, gid.physical)
}

impl History {
    pub(super) fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(super) fn told(&self) -> &BTreeMap<TxnId, Told> {
        &self.told
    }

    /// Invariants 2 and 9: a commit goes out after its durable decision, and nobody rolled back.
    pub(super) fn commit_sent(&mut self, gid: Gid) {
        if !self.decided.contains(&execution(gid)) {
            self.violation(format!("2: {gid} is told to commit before the decision is durable"));
        }
        if self.rolled_back.contains(&execution(gid)) {
            self.violation(format!("9: {gid} is told to commit after a branch was rolled back"));
        }
    }

    /// Invariant 9: nothing that was decided to commit is rolled back by anybody.
    pub(super) fn abort_sent(&mut self, gid: Gid) {
        if self.decided.contains(&execution(gid)) {
            self.violation(format!("9: {gid} is rolled back, and was decided to commit"));
        }
        self.rolled_back.insert(execution(gid));
    }

    /// Invariant 2, for the commit that decides itself.
    pub(super) fn one_phase_sent(&mut self, gid: Gid) {
        if !self.intended.contains(&execution(gid)) {
            self.violation(format!("2: {gid} commits in one phase before its intent is durable"));
        }
    }

    pub(super) fn intent_durable(&mut self, intent: &Intent) {
        self.intended.insert((intent.epoch, intent.physical));
    }

    /// Invariant 9, seen from the log.
    pub(super) fn decision_durable(&mut self, record: &DecisionRecord) {
        let execution = (record.epoch, record.physical);
        if record.decision != Decision::Commit {
            return;
        }
        if self.rolled_back.contains(&execution) {
            let (epoch, physical) = (record.epoch.0, record.physical.0);
            self.violation(format!(
                "9: execution {physical} of epoch {epoch} is decided after a rollback"
            ));
        }
        self.decided.insert(execution);
    }

    /// Invariants 1, 2 and 8: one outcome a key, of one request, for ever; and never a heuristic
    /// one, since no participant here decides alone.
    pub(super) fn outcome_durable(&mut self, record: &AnswerRecord) {
        let answer = &record.answer;
        let (id, outcome) = (&answer.id, answer.outcome);
        if outcome == Outcome::Heuristic {
            let reasons: Vec<_> = answer.reasons.iter().map(ToString::to_string).collect();
            self.violation(format!("1: {id} is heuristic: {}", reasons.join("; ")));
            return;
        }
        let found = Told { request_hash: record.request_hash.clone(), outcome };
        let known = self.outcomes.entry(id.clone()).or_insert_with(|| found.clone());
        if *known != found {
            let text = format!("2: {id} was {known:?} and is {found:?}");
            self.violation(text);
        }
    }

    /// Invariants 3 and 8: what a client hears is durable, and the same every time.
    pub(super) fn answered(&mut self, id: &TxnId, request_hash: &str, outcome: Outcome) {
        if outcome == Outcome::InDoubt {
            return;
        }
        let heard = Told { request_hash: request_hash.to_owned(), outcome };
        if self.outcomes.get(id) != Some(&heard) {
            let durable = self.outcomes.get(id);
            let text = format!("3: {id} is answered {heard:?}, durable is {durable:?}");
            self.violation(text);
        }
        let first = self.told.entry(id.clone()).or_insert_with(|| heard.clone());
        if *first != heard {
            let text = format!("8: {id} was answered {first:?} and then {heard:?}");
            self.violation(text);
        }
    }
}
