//! What goes on beside transactions: bringing in participants that were away, and looking again
//! and again at what stands prepared.
//!
//! One look is never the last: a prepare that was on its way when its coordinator died may land
//! after the first. Branches are listed first and executions asked about before that, so that
//! nothing at work is taken for an orphan.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::members::{Member, Standing};
use super::recovery::{self, Sorted, Survey};
use super::settle::Settling;
use crate::decision_log::RecordedBranch;
use crate::participants::{ClaimError, EndedBelow, GRACE};
use crate::protocol::Backoff;
use crate::txn::{Gid, ParticipantName};

enum Asked {
    StillAway,
    Settled,
}

/// Asks a participant that is away, ever more rarely, until that is settled or the coordinator is
/// gone.
pub(super) async fn bring_in(coordinator: Weak<Inner>, name: ParticipantName, backoff: Backoff) {
    let Some(hurry) = coordinator.upgrade().map(|inner| inner.participants[&name].hurry.clone())
    else {
        return;
    };
    for attempt in 1.. {
        tokio::select! {
            () = tokio::time::sleep(backoff.wait(attempt, 0)) => {}
            () = hurry.notified() => {}
        }
        let Some(inner) = coordinator.upgrade() else { return };
        if let Asked::Settled = inner.ask_again(&name).await {
            return;
        }
    }
}

/// Looks at every participant again and again, until the coordinator is gone.
pub(super) async fn scan(coordinator: Weak<Inner>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(inner) = coordinator.upgrade() else { return };
        inner.alert_the_old();
        for (name, member) in &inner.participants {
            if matches!(member.standing(), Standing::Ready { .. }) {
                inner.scan_one(name, member).await;
            }
        }
    }
}

impl Inner {
    /// Whether a participant has committed what this log does not know, within a bound.
    pub(super) async fn compare(
        &self,
        name: &ParticipantName,
        member: &Member,
    ) -> (ParticipantName, Result<(), ClaimError>) {
        let bound = Duration::from_millis(self.options.claim_timeout_ms);
        let compared = tokio::time::timeout(bound, self.is_not_behind(member)).await;
        let late =
            |_| Err(ClaimError::Unreachable { detail: format!("no answer within {bound:?}") });
        (name.clone(), compared.unwrap_or_else(late))
    }

    async fn is_not_behind(&self, member: &Member) -> Result<(), ClaimError> {
        let newest = self.newest.unwrap_or_default();
        let known = member.participant.newest_commit(self.log.log_id(), self.log.epoch()).await;
        match known.map_err(|detail| ClaimError::Unreachable { detail })? {
            Some(known) if known > newest => Err(ClaimError::Behind {
                known_epoch: known.0.0,
                known_physical: known.1.0,
                epoch: newest.0.0,
                physical: newest.1.0,
            }),
            _ => Ok(()),
        }
    }

    /// Claims our epoch at a participant and lists what stands prepared there, within a bound.
    pub(super) async fn survey(
        &self,
        name: &ParticipantName,
        member: &Member,
    ) -> Result<Survey, ClaimError> {
        // Beside what a claim waits for sessions of older epochs.
        let bound = Duration::from_millis(self.options.claim_timeout_ms) + GRACE;
        let asked = async {
            let participant = &member.participant;
            self.is_not_behind(member).await?;
            let identity = participant.claim_epoch(self.log.log_id(), self.log.epoch()).await?;
            let listed = participant.list_prepared().await;
            let prepared = listed.map_err(|detail| ClaimError::Unreachable { detail })?;
            Ok(Survey { participant: name.clone(), identity: identity.into(), prepared })
        };
        tokio::time::timeout(bound, asked).await.unwrap_or_else(|_| {
            Err(ClaimError::Unreachable { detail: format!("no answer within {bound:?}") })
        })
    }

    /// Asks a participant that is away once more. When it accepts our epoch, what an earlier run
    /// left there undecided is aborted; decisions wait for it on their own.
    async fn ask_again(self: &Arc<Self>, name: &ParticipantName) -> Asked {
        let member = &self.participants[name];
        match self.survey(name, member).await {
            Ok(survey) => {
                tracing::info!(participant = %name, identity = %survey.identity, "is here");
                let sorted = self.sort(&survey, |gid| gid.epoch < self.log.epoch());
                self.take_in(name, &survey.identity, sorted);
                member.stand(Standing::Ready { identity: survey.identity });
                Asked::Settled
            }
            Err(error @ (ClaimError::Stale { .. } | ClaimError::Behind { .. })) => {
                // It will never take us: a newer copy of this log runs, or ran.
                tracing::error!(participant = %name, "{error}");
                self.note_overtaken(name, &error).await;
                member.stand(Standing::Away { detail: error.to_string() });
                Asked::Settled
            }
            Err(error) => {
                tracing::warn!(participant = %name, "{error}");
                member.stand(Standing::Away { detail: error.to_string() });
                Asked::StillAway
            }
        }
    }

    async fn scan_one(self: &Arc<Self>, name: &ParticipantName, member: &Member) {
        let over = self.running.lock().expect("no panic while held").ended();
        let bound = Duration::from_millis(self.options.claim_timeout_ms);
        let prepared = match tokio::time::timeout(bound, member.participant.list_prepared()).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(detail)) => {
                tracing::warn!(participant = %name, detail, "prepared branches are not listed");
                return;
            }
            Err(_) => {
                tracing::warn!(participant = %name, ?bound, "prepared branches are not listed");
                return;
            }
        };
        let Standing::Ready { identity } = member.standing() else { return };
        let survey = Survey { participant: name.clone(), identity, prepared };
        let epoch = self.log.epoch();
        let ended =
            |gid: &Gid| gid.epoch < epoch || (gid.epoch == epoch && over.contains(gid.physical));
        let sorted = self.sort(&survey, ended);
        self.take_in(name, &survey.identity, sorted);
        self.prune(name, member).await;
    }

    /// Lets a participant forget what has ended. While an earlier run is not settled it forgets
    /// nothing.
    async fn prune(&self, name: &ParticipantName, member: &Member) {
        if self.unsettled.load(Ordering::Relaxed) > 0 || self.recovering.load(Ordering::Relaxed) {
            return;
        }
        // What a broken log failed to forget comes back at restart, and then needs its markers.
        if !self.log.healthy() {
            return;
        }
        let physical = self.running.lock().expect("no panic while held").lowest();
        let ended = EndedBelow { log: self.log.log_id(), epoch: self.log.epoch(), physical };
        if let Err(detail) = member.participant.prune(ended).await {
            tracing::warn!(participant = %name, detail, "markers are not pruned");
        }
    }

    fn sort(&self, survey: &Survey, ended: impl Fn(&Gid) -> bool) -> Sorted {
        // What cannot be read may be a decision.
        let decided = |gid: &Gid| {
            self.recovered.contains(&(gid.epoch, gid.physical))
                || self.is_left_to_operators(gid)
                || !matches!(self.log.decision(gid.epoch, gid.physical), Ok(None))
        };
        recovery::sort(self.log.log_id(), &survey.prepared, ended, decided)
    }

    fn take_in(self: &Arc<Self>, name: &ParticipantName, identity: &str, sorted: Sorted) {
        for gid in sorted.orphans {
            let (participant, identity) = (name.clone(), identity.to_owned());
            let branch = RecordedBranch { participant, identity };
            // Bounded by the slots that a participant has: one at a time for each of them.
            let Some(settling) = Settling::orphan(self, gid, branch) else { continue };
            tracing::warn!(participant = %name, %gid, "aborts a branch that nobody decided");
            tokio::spawn(settling.carry_out());
        }
        let age_max = Duration::from_millis(self.options.prepared_age_alert_ms);
        for gid in self.participants[name].saw(&sorted.ours, sorted.foreign, age_max) {
            tracing::error!(participant = %name, gid, ?age_max, "a branch stays prepared");
        }
    }
}
