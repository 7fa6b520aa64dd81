//! A transaction on its way: predicted and planned, not ended; and how it is told its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer::{Answer, SubmitError, Wait};
use super::coalescer::Waiting;
use super::record::{Draft, LegTrace, timings};
use super::{Branch, Inner, Places};
use crate::decision_log::{Given, OutcomeLeg, OutcomeRow};
use crate::features::Event;
use crate::txn::{
    FailureClass, HistoryOutcome, Outcome, ParticipantName, Reason, ReasonCode, Timestamp, TxnId,
};

/// Where the client waits.
pub(super) type Reply = oneshot::Sender<Result<Arc<Answer>, SubmitError>>;

/// One transaction on its way.
pub(super) struct Submitted {
    pub(super) draft: Draft,
    pub(super) branches: Arc<[Branch]>,
    pub(super) legs: Vec<LegTrace>,
    pub(super) request_hash: String,
    pub(super) wait: Wait,
    pub(super) started: Instant,
    pub(super) predicted: Duration,
    pub(super) reply: Option<Reply>,
    pub(super) places: Places,
    /// What it waits with, or holds, where it travels with others.
    pub(super) waiting: Option<Waiting>,
}

/// How a transaction ends.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    Committed,
    Aborted(Reason, FailureClass),
    Rejected,
}

/// What is made durable, and then told.
pub(super) struct Made {
    pub(super) answer: Arc<Answer>,
    pub(super) row: OutcomeRow,
}

impl Submitted {
    pub(super) fn id(&self) -> &TxnId {
        &self.draft.transaction.id
    }

    /// Its own position of the branch at a participant that it has one at.
    pub(super) fn position(&self, participant: &ParticipantName) -> usize {
        let position = self.branches.iter().position(|branch| branch.name == *participant);
        position.expect("members of a batch have the same participants")
    }

    /// The longest that it waits for a vote.
    pub(super) fn timeout(&self) -> Duration {
        let timeouts = self.draft.plan.branches.iter().map(|branch| branch.prepare_timeout);
        timeouts.max().unwrap_or_default()
    }

    /// The predicted probability that everybody votes yes.
    pub(super) fn success(&self) -> Option<f64> {
        self.draft.prediction.as_ref().map(|prediction| prediction.success.get())
    }

    /// Its answer and its row, as of now. All had voted at `voted`; what an operator states of it
    /// is `forced`.
    pub(super) fn made(&mut self, ending: Ending, voted: Instant, forced: Option<&Reason>) -> Made {
        let voted = voted.saturating_duration_since(self.started);
        let mut reasons = self.draft.plan.reasons.clone();
        let (outcome, failure) = match ending {
            Ending::Committed => (Outcome::Committed, None),
            Ending::Rejected => (Outcome::Rejected, None),
            Ending::Aborted(reason, class) => {
                reasons.push(reason);
                (Outcome::Aborted, Some(class))
            }
        };
        let insights = self.draft.insights();
        let row = self.draft.last_row(outcome, failure, &reasons, &self.legs, voted);
        reasons.extend(forced.cloned());
        let started = outcome != Outcome::Rejected;
        let answer = Answer {
            id: self.id().clone(),
            outcome: if forced.is_some() { Outcome::Heuristic } else { outcome },
            reasons,
            protocol: started.then_some(self.draft.plan.protocol),
            participants: self.draft.transaction.payment.participants.clone(),
            insights,
            timings_ms: timings(self.predicted, voted, voted, voted),
        };
        Made { answer: Arc::new(answer), row }
    }

    /// What is stored of an answer that was made at `at`.
    pub(super) fn given<'a>(&'a self, answer: &'a Answer, at: Timestamp) -> Given<'a> {
        Given { answer, request_hash: &self.request_hash, at }
    }

    /// The outcome is durable: tell the feature state, the counters and the client. With
    /// [`Wait::Applied`] the client hears later.
    pub(super) fn tell(&mut self, made: &mut Made, voted: Instant, inner: &Inner) {
        let (total, voted) = (self.started.elapsed(), voted.duration_since(self.started));
        if made.answer.outcome != Outcome::Rejected {
            Arc::make_mut(&mut made.answer).timings_ms =
                timings(self.predicted, voted, total, total);
        }
        inner.learn(&self.draft, &made.row);
        inner.counters.count(made.answer.outcome, &made.answer.reasons);
        inner.release(self.id());
        if self.wait == Wait::Decision {
            self.reply(Ok(made.answer.clone()));
        }
    }

    /// Tells the client, once. It may have gone; the answer is durable for when it asks again.
    pub(super) fn reply(&mut self, result: Result<Arc<Answer>, SubmitError>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    /// Its client hears that nobody knows. The key stays in flight: until restart nobody may run
    /// it again.
    pub(super) fn reply_in_doubt(&mut self, made: Option<&Made>, inner: &Inner) {
        let detail = "the decision log failed; restart settles it";
        let now = self.started.elapsed();
        let answer = Answer {
            id: self.id().clone(),
            outcome: Outcome::InDoubt,
            reasons: vec![Reason::new(ReasonCode::DecisionUnknown, detail)],
            protocol: Some(self.draft.plan.protocol),
            participants: self.draft.transaction.payment.participants.clone(),
            insights: match made {
                Some(made) => made.answer.insights.clone(),
                None => self.draft.insights(),
            },
            timings_ms: timings(self.predicted, now, now, now),
        };
        inner.counters.count(answer.outcome, &answer.reasons);
        self.reply(Ok(Arc::new(answer)));
    }
}

impl Inner {
    /// Ends transactions of which nothing is prepared or committed anywhere: durably, then told.
    pub(super) async fn conclude(&self, ended: Vec<(Submitted, Ending)>) {
        if ended.is_empty() {
            return;
        }
        let now = Instant::now();
        let end = |(mut submitted, ending): (Submitted, Ending)| {
            let made = submitted.made(ending, now, None);
            (submitted, made)
        };
        let ended: Vec<_> = ended.into_iter().map(end).collect();
        let at = self.clock.now();
        let outcomes: Vec<_> =
            ended.iter().map(|(s, made)| (s.given(&made.answer, at), &made.row)).collect();
        let durable = self.log.record_outcomes(None, &outcomes, None).await;
        for (mut submitted, mut made) in ended {
            match &durable {
                Ok(()) => {
                    submitted.tell(&mut made, now, self);
                    submitted.reply(Ok(made.answer));
                }
                // The key stays in flight: whether this is durable shows at restart.
                Err(error) => {
                    let (id, detail) = (submitted.id().clone(), error.to_string());
                    submitted.reply(Err(SubmitError::Unavailable { id, detail }));
                }
            }
            self.unfinished.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Lets the feature state hear what happened, exactly as a replay of the row would.
    pub(super) fn learn(&self, draft: &Draft, row: &OutcomeRow) {
        let at = row.timestamp.after(Duration::from_micros(row.total_us));
        let outcome = match row.outcome {
            Outcome::Committed => HistoryOutcome::Committed,
            Outcome::Rejected => HistoryOutcome::Rejected,
            _ => HistoryOutcome::Aborted,
        };
        let failure_class = row.failure_class.as_deref().and_then(|class| class.parse().ok());
        let payment = &draft.transaction.payment;
        let mut features = self.features.lock().expect("no panic while held");
        features.apply(&Event::Finished { at, payment, outcome, failure_class });
        for leg in row.legs.iter().filter_map(OutcomeLeg::history) {
            features.apply(&Event::Leg { at, leg: &leg });
        }
    }
}
