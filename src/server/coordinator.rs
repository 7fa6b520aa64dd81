//! The coordinator behind the HTTP interface.

use std::time::Duration;

use crate::coordinator::{
    Answer, Coordinator, Doubts, Page, ParticipantStatus, Predicted, Query, ResolveError,
    RetryScope, Statement, Submission, SubmitError, Unresolved, Woken,
};
use crate::decision_log::ResolutionRecord;
use crate::models::{FallbackCause, Target};
use crate::participants::BoxFuture;
use crate::txn::{ParticipantName, TxnId};

use super::backend::{Backend, NotReady, Reading};

impl Backend for Coordinator {
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Answer, SubmitError>> {
        Box::pin(Coordinator::submit(self, submission))
    }

    fn predict(&self, submission: &Submission) -> Result<Predicted, SubmitError> {
        Coordinator::predict(self, submission)
    }

    fn answer(&self, id: &TxnId) -> Result<Option<Answer>, SubmitError> {
        // Asked first: what finishes in between is found among the answers.
        let running = self.is_in_flight(id);
        match Coordinator::answer(self, id)? {
            None if running => Err(SubmitError::InFlight { id: id.clone() }),
            answer => Ok(answer),
        }
    }

    fn not_ready(&self) -> Option<NotReady> {
        match () {
            () if !self.is_healthy() => Some(NotReady::LogFailed("it takes no writes".into())),
            () if self.is_draining() => Some(NotReady::Draining),
            () if self.is_recovering() => Some(NotReady::Recovering),
            () => None,
        }
    }

    fn reading(&self) -> Reading {
        let status = self.status();
        let fallbacks = self.serving().fallbacks();
        let counted = |(target, cause, count): (Target, FallbackCause, u64)| {
            (target.to_string(), cause.to_string(), count)
        };
        Reading {
            in_flight: status.in_flight as u64,
            unfinished: status.unfinished as u64,
            outcomes: status.outcomes.iter().map(|(o, n)| (o.to_string(), *n)).collect(),
            reasons: status.reasons.into_iter().collect(),
            fallbacks: fallbacks.iter().map(counted).collect(),
            foreign_branches: status.foreign_branches.len() as u64,
            travelled: status.travelled,
            mode: status.mode.to_string(),
            model: self.serving().version(),
        }
    }

    fn participants(&self) -> Vec<ParticipantStatus> {
        self.status().participants
    }

    fn drain(&self, name: &ParticipantName, drained: bool) -> bool {
        Coordinator::drain(self, name, drained)
    }

    fn unresolved(&self, query: &Query) -> Page {
        Coordinator::unresolved(self, query)
    }

    fn unresolved_one(&self, id: &TxnId) -> Option<Unresolved> {
        Coordinator::unresolved_one(self, id)
    }

    fn doubts(&self) -> Doubts {
        Coordinator::doubts(self)
    }

    fn retry_now(&self, scope: &RetryScope) -> Option<Woken> {
        Coordinator::retry_now(self, scope)
    }

    fn resolve<'a>(
        &'a self,
        id: &'a TxnId,
        participant: &'a ParticipantName,
        statement: Statement,
    ) -> BoxFuture<'a, Result<ResolutionRecord, ResolveError>> {
        Box::pin(Coordinator::resolve(self, id, participant, statement))
    }

    fn resolutions(&self, id: &TxnId) -> Vec<ResolutionRecord> {
        Coordinator::resolutions(self, id)
    }

    fn shutdown(&self, bound: Duration) -> BoxFuture<'_, usize> {
        Box::pin(Coordinator::shutdown(self, bound))
    }
}
