//! A coordinator that does as it is told, behind a real listener.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::coordinator::{
    Answer, BranchProgress, Doubts, Origin, Page, ParticipantStatus, Predicted, Progress, Query,
    ResolveError, RetryScope, Statement, Submission, SubmitError, Timings, Unresolved,
    UnresolvedBranch, Woken,
};
use crate::decision_log::ResolutionRecord;
use crate::participants::BoxFuture;
use crate::participants::ledger::Ledger;
use crate::server::{Backend, NotReady, Options, Reading, Server, Service, StoreReading};
use crate::txn::{
    Admission, BranchIndex, Decision, Epoch, Gid, LogId, Mode, Outcome, ParticipantName,
    PhysicalId, Plan, Protocol, Timestamp, TxnId,
};

type Script = Box<dyn Fn(&TxnId) -> Result<Outcome, SubmitError> + Send + Sync>;

pub struct Fake {
    /// What a submission comes to, by its id.
    pub script: Script,
    /// While set, submissions wait for `release`.
    pub hold: AtomicBool,
    pub release: Notify,
    /// Told when a submission has arrived.
    pub arrived: Notify,
    pub stopped: AtomicBool,
    pub drained: AtomicBool,
    pub not_ready: Mutex<Option<NotReady>>,
    /// How often all counters were read.
    pub readings: AtomicUsize,
    /// What was asked for when unresolved transactions were listed.
    pub queries: Mutex<Vec<Query>>,
    /// What operators have ended.
    pub resolved: Mutex<Vec<ResolutionRecord>>,
    answers: Mutex<BTreeMap<TxnId, Answer>>,
}

/// The one transaction that the fake has in doubt.
pub const STUCK: &str = "stuck:1";

fn stuck() -> Unresolved {
    let (epoch, physical) = (Epoch(1), PhysicalId(7));
    let log = LogId(uuid::Uuid::from_u128(1));
    Unresolved {
        ids: vec![TxnId::new(STUCK).unwrap()],
        epoch,
        physical,
        state: Progress::Telling,
        decision: Some(Decision::Commit),
        origin: Origin::Running,
        age_s: 312.0004,
        branches: vec![UnresolvedBranch {
            gid: Gid { log, epoch, physical, branch: BranchIndex(0) },
            participant: name("core"),
            identity: "0001".into(),
            state: BranchProgress::Waiting,
            attempts: 57,
            last_error: Some("connection refused".into()),
            next_try_s: Some(4.0),
            diagnosis: Some("core has not acknowledged the commit for 312 s".into()),
            look: None,
        }],
    }
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).unwrap()
}

impl Fake {
    pub fn new() -> Self {
        Self::with(|_| Ok(Outcome::Committed))
    }

    pub fn with(
        script: impl Fn(&TxnId) -> Result<Outcome, SubmitError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            script: Box::new(script),
            hold: AtomicBool::new(false),
            release: Notify::new(),
            arrived: Notify::new(),
            stopped: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            not_ready: Mutex::new(None),
            readings: AtomicUsize::new(0),
            queries: Mutex::default(),
            resolved: Mutex::default(),
            answers: Mutex::new(BTreeMap::new()),
        }
    }
}

impl Backend for Fake {
    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Answer, SubmitError>> {
        Box::pin(async move {
            let transaction = submission.transaction;
            self.arrived.notify_one();
            if self.hold.load(Ordering::SeqCst) {
                self.release.notified().await;
            }
            let answer = Answer {
                id: transaction.id.clone(),
                outcome: (self.script)(&transaction.id)?,
                reasons: Vec::new(),
                protocol: Some(Protocol::TwoPhase),
                participants: transaction.payment.participants,
                insights: None,
                timings_ms: Timings::default(),
            };
            self.answers.lock().unwrap().insert(transaction.id, answer.clone());
            Ok(answer)
        })
    }

    fn predict(&self, submission: &Submission) -> Result<Predicted, SubmitError> {
        (self.script)(&submission.transaction.id)?;
        let plan = Plan {
            admission: Admission::Admit,
            protocol: Protocol::TwoPhase,
            branches: Vec::new(),
            reasons: Vec::new(),
            mode: Mode::Off,
        };
        Ok(Predicted { insights: None, plan })
    }

    fn answer(&self, id: &TxnId) -> Result<Option<Answer>, SubmitError> {
        if id.as_str() == "running" {
            return Err(SubmitError::InFlight { id: id.clone() });
        }
        Ok(self.answers.lock().unwrap().get(id).cloned())
    }

    fn not_ready(&self) -> Option<NotReady> {
        self.not_ready.lock().unwrap().clone()
    }

    fn reading(&self) -> Reading {
        self.readings.fetch_add(1, Ordering::SeqCst);
        Reading {
            in_flight: 3,
            unfinished: 5,
            travelled: crate::coordinator::Travelled::default(),
            foreign_branches: 0,
            mode: "observe".into(),
            outcomes: vec![("committed".into(), 41), ("aborted".into(), 2)],
            reasons: vec![("business_decline".into(), 2)],
            fallbacks: vec![("success".into(), "missing".into(), 7)],
            model: "payments/3".into(),
        }
    }

    fn participants(&self) -> Vec<ParticipantStatus> {
        vec![ParticipantStatus {
            name: name("core"),
            identity: Some("0001".into()),
            away: None,
            drained: self.drained.load(Ordering::SeqCst),
            in_flight: 0,
            health: 1.0,
            prepared: BTreeMap::new(),
            foreign: Vec::new(),
        }]
    }

    fn drain(&self, participant: &ParticipantName, drained: bool) -> bool {
        self.drained.store(drained, Ordering::SeqCst);
        *participant == name("core")
    }

    fn unresolved(&self, query: &Query) -> Page {
        self.queries.lock().unwrap().push(*query);
        Page { transactions: vec![stuck()], more: 3, ..Page::default() }
    }

    fn unresolved_one(&self, id: &TxnId) -> Option<Unresolved> {
        (id.as_str() == STUCK).then(stuck)
    }

    fn doubts(&self) -> Doubts {
        Doubts { count: 4, oldest_s: 312.5, resolved: 2, age_alerts: 1 }
    }

    fn retry_now(&self, scope: &RetryScope) -> Option<Woken> {
        match scope {
            RetryScope::All => Some(Woken { branches: 4, participants: 1, left: 0 }),
            RetryScope::Participant(known) if *known == name("core") => {
                Some(Woken { branches: 2, participants: 0, left: 0 })
            }
            RetryScope::Transaction(id) if id.as_str() == STUCK => {
                Some(Woken { branches: 1, participants: 0, left: 0 })
            }
            _ => None,
        }
    }

    fn resolve<'a>(
        &'a self,
        id: &'a TxnId,
        participant: &'a ParticipantName,
        statement: Statement,
    ) -> BoxFuture<'a, Result<ResolutionRecord, ResolveError>> {
        Box::pin(async move {
            let id = id.clone();
            match id.as_str() {
                STUCK => {}
                "ended" => return Err(ResolveError::NotInDoubt { id, detail: "over".into() }),
                "broken" => return Err(ResolveError::LogFailed { detail: "disk full".into() }),
                _ => return Err(ResolveError::Unknown { id }),
            }
            let record = ResolutionRecord {
                version: ResolutionRecord::VERSION,
                epoch: Epoch(1),
                physical: PhysicalId(7),
                branch: BranchIndex(0),
                participant: participant.clone(),
                identity: "0001".into(),
                members: vec![id],
                decision: Some(Decision::Commit),
                claim: statement.claim,
                by: statement.by,
                reason: statement.reason,
                at: Timestamp::from_micros(0),
            };
            self.resolved.lock().unwrap().push(record.clone());
            Ok(record)
        })
    }

    fn resolutions(&self, id: &TxnId) -> Vec<ResolutionRecord> {
        let resolved = self.resolved.lock().unwrap();
        resolved.iter().filter(|record| record.members.contains(id)).cloned().collect()
    }

    fn shutdown(&self, _bound: Duration) -> BoxFuture<'_, usize> {
        Box::pin(async {
            self.stopped.store(true, Ordering::SeqCst);
            0
        })
    }
}

pub struct Running {
    pub address: SocketAddr,
    pub fake: Arc<Fake>,
    pub http: reqwest::Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Reply {
        reply(self.http.get(self.url(path))).await
    }

    /// Posts an empty object.
    pub async fn post(&self, path: &str) -> Reply {
        reply(self.http.post(self.url(path)).json(&serde_json::json!({}))).await
    }

    pub async fn submit(&self, body: &serde_json::Value) -> Reply {
        reply(self.http.post(self.url("/v1/transactions")).json(body)).await
    }

    pub async fn stop(self) -> Arc<Fake> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        self.fake
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Asserts status, the problem's type, and that its detail says `detail`.
    pub fn is_problem(&self, status: u16, slug: &str, detail: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!(body["type"], format!("urn:presume:problem:{slug}"));
        assert_eq!(body["status"], status);
        assert!(body["detail"].as_str().unwrap().contains(detail), "{body} should say {detail:?}");
    }
}

pub async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Reply { status, headers, text: response.text().await.unwrap() }
}

pub async fn serve(fake: Fake) -> Running {
    serve_with(fake, Options::default()).await
}

pub async fn serve_with(fake: Fake, options: Options) -> Running {
    serve_ledgers(fake, options, BTreeMap::new()).await
}

pub async fn serve_ledgers(
    fake: Fake,
    options: Options,
    ledgers: BTreeMap<String, Ledger>,
) -> Running {
    let fake = Arc::new(fake);
    let options = Options { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..options };
    let service = Service {
        kinds: BTreeMap::from([(name("core"), "embedded".into())]),
        ledgers,
        stores: Box::new(|| {
            vec![StoreReading {
                store: "decision_log".into(),
                flushes: 9,
                writes: 81,
                healthy: true,
            }]
        }),
        ..Service::new(Arc::clone(&fake) as Arc<dyn Backend>)
    };
    let server = Server::bind(service, options).await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    Running { address, fake, http, stop, task }
}
