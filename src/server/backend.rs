//! What the HTTP interface stands in front of, as one small trait.
//!
//! The coordinator implements it beside this file; tests put something slow or broken there,
//! which a healthy coordinator cannot be made to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::coordinator::{
    Answer, Doubts, Page, ParticipantStatus, Predicted, Query, ResolveError, RetryScope, Statement,
    Submission, SubmitError, Travelled, Unresolved, Woken,
};
use crate::decision_log::ResolutionRecord;
use crate::participants::BoxFuture;
use crate::participants::ledger::Ledger;
use crate::txn::{ParticipantName, TxnId};

/// Takes transactions and answers for them.
pub trait Backend: Send + Sync + 'static {
    /// Runs a transaction. Dropping the future stops the waiting, not the transaction.
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Answer, SubmitError>>;

    /// What would be predicted and planned, without doing it.
    fn predict(&self, submission: &Submission) -> Result<Predicted, SubmitError>;

    /// A finished transaction's answer; [`SubmitError::InFlight`] while it runs.
    fn answer(&self, id: &TxnId) -> Result<Option<Answer>, SubmitError>;

    /// Why no transactions are taken, if so. Asked with every submission: it must be cheap.
    fn not_ready(&self) -> Option<NotReady>;

    /// Counters as of now.
    fn reading(&self) -> Reading;

    /// The participants, as of now.
    fn participants(&self) -> Vec<ParticipantStatus>;

    /// Keeps new transactions from a participant, or lets them come again; `false` if there is no
    /// such participant.
    fn drain(&self, name: &ParticipantName, drained: bool) -> bool;

    /// What is not acknowledged everywhere, the oldest first.
    fn unresolved(&self, query: &Query) -> Page;

    /// One transaction, while it is not acknowledged everywhere.
    fn unresolved_one(&self, id: &TxnId) -> Option<Unresolved>;

    /// How much is in doubt.
    fn doubts(&self) -> Doubts;

    /// Asks at once what waits to be asked again; `None` if there is no such transaction or
    /// participant.
    fn retry_now(&self, scope: &RetryScope) -> Option<Woken>;

    /// Takes an operator's word that a branch has ended.
    fn resolve<'a>(
        &'a self,
        id: &'a TxnId,
        participant: &'a ParticipantName,
        statement: Statement,
    ) -> BoxFuture<'a, Result<ResolutionRecord, ResolveError>>;

    /// What operators ever stated of a transaction.
    fn resolutions(&self, id: &TxnId) -> Vec<ResolutionRecord>;

    /// Refuses new transactions and finishes those that run, for at most `bound`; gives how many
    /// were left to recovery.
    fn shutdown(&self, bound: Duration) -> BoxFuture<'_, usize>;
}

/// Why no transactions are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// What an earlier run left is being settled.
    Recovering,
    /// The process is about to stop.
    Draining,
    /// The decision log refused a write; only a restart helps.
    LogFailed(String),
}

impl NotReady {
    /// The reason as a short code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Recovering => "recovering",
            Self::Draining => "draining",
            Self::LogFailed(_) => "decision_log_failed",
        }
    }

    /// One sentence for the operator.
    pub fn detail(&self) -> String {
        match self {
            Self::Recovering => "transactions of an earlier run are being settled".into(),
            Self::Draining => "the server is stopping".into(),
            Self::LogFailed(detail) => format!("the decision log has failed: {detail}; restart"),
        }
    }
}

/// Counters at one moment. Counts run since start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Transactions that run now.
    pub in_flight: u64,
    /// Transactions that are not applied everywhere yet, those in flight included.
    pub unfinished: u64,
    /// Transactions by outcome.
    pub outcomes: Vec<(String, u64)>,
    /// Transactions by reason code.
    pub reasons: Vec<(String, u64)>,
    /// Predictions that rules made in a model's place, by target and cause.
    pub fallbacks: Vec<(String, String, u64)>,
    /// Prepared branches of other decision logs, found at start and left alone.
    pub foreign_branches: u64,
    /// What travelled together.
    pub travelled: Travelled,
    /// Policy's mode.
    pub mode: String,
    /// What serves predictions.
    pub model: String,
}

/// Counters of one durable store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreReading {
    /// The store's name: `decision_log` or a participant.
    pub store: String,
    /// Flushes to disk since start.
    pub flushes: u64,
    /// Writes made durable since start.
    pub writes: u64,
    /// Whether it takes writes.
    pub healthy: bool,
}

/// A participant as `GET /v1/participants` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParticipantView {
    /// What it is, such as `embedded`.
    pub kind: String,
    /// How it stands.
    #[serde(flatten)]
    pub status: ParticipantStatus,
}

/// Reads the counters of every store.
pub type StoreReader = Box<dyn Fn() -> Vec<StoreReading> + Send + Sync>;

/// Everything that a server shows.
pub struct Service {
    /// What takes transactions.
    pub backend: Arc<dyn Backend>,
    /// What each participant is, such as `embedded`.
    pub kinds: BTreeMap<ParticipantName, String>,
    /// The embedded ones, to be looked into.
    pub ledgers: BTreeMap<String, Ledger>,
    /// The stores' counters.
    pub stores: StoreReader,
}

impl Service {
    /// The participants as they stand.
    pub fn participants(&self) -> Vec<ParticipantView> {
        let view = |status: ParticipantStatus| ParticipantView {
            kind: self.kinds.get(&status.name).cloned().unwrap_or_default(),
            status,
        };
        self.backend.participants().into_iter().map(view).collect()
    }

    /// A service with neither participants nor stores to show.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            kinds: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            stores: Box::new(Vec::new),
        }
    }
}
