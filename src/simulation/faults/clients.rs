//! The clients: transfers under idempotency keys, asked again until they are answered.
//!
//! A client that hears nothing asks again under the same key; now and then also with another body,
//! or twice at once, or when it knows the answer already.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::books::ACCOUNTS;
use super::site::Site;
use super::world::World;
use crate::coordinator::{Submission, SubmitError, Wait};
use crate::txn::{
    Currency, Customer, CustomerId, CustomerType, Kind, Money, Operation, OperationName, Outcome,
    Params, ParticipantName, Payment, ProtocolRequest, Transaction, TxnId,
};

/// The longest that a client waits for an answer, in milliseconds.
const PATIENCE_MS_MAX: u64 = 2_000;
/// Most of an amount: some transfers find too little.
const AMOUNT_MAX: i64 = 160;
/// How often a client asks with another body under a key that it used.
const OTHER_BODY_SHARE: f64 = 0.1;
/// How often it asks twice at once.
const TWICE_SHARE: f64 = 0.05;
/// How often it asks again though it has an answer.
const AGAIN_SHARE: f64 = 0.1;

/// One body that was submitted under a key.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) request_hash: String,
    /// What is booked by whoever changes something, as a participant notes it.
    pub(super) note: String,
    /// The participants where it changes something.
    pub(super) changes: Vec<usize>,
    operations: Vec<Operation>,
}

/// Everything that was submitted, by key.
pub(super) type Submitted = BTreeMap<TxnId, Vec<Body>>;

/// All clients of a run.
pub(super) struct Clients {
    world: Arc<World>,
    site: Arc<Site>,
    submitted: Mutex<Submitted>,
}

enum Heard {
    Final,
    /// Nothing, or nothing final.
    Open,
}

impl Clients {
    pub(super) fn new(world: Arc<World>, site: Arc<Site>) -> Arc<Self> {
        Arc::new(Self { world, site, submitted: Mutex::default() })
    }

    pub(super) fn submitted(&self) -> Submitted {
        self.submitted.lock().expect("no panic while held").clone()
    }

    /// One client's day; after heal it only brings to an end what it began.
    pub(super) async fn run(self: Arc<Self>, client: usize) {
        for number in 0..self.world.profile.transfers_each {
            let think_ms_max = self.world.profile.think_ms_max;
            tokio::time::sleep(self.world.milliseconds(1, think_ms_max)).await;
            if self.world.healed() {
                return;
            }
            let burst = self.world.between(1, self.world.profile.burst_max as u64);
            let ids = (0..burst).map(|at| TxnId::new(&format!("c{client}-{number}-{at}")));
            let ids: Vec<_> = ids.map(|id| id.expect("short")).collect();
            futures_util::future::join_all(ids.iter().map(|id| self.transfer(id))).await;
        }
    }

    async fn transfer(self: &Arc<Self>, id: &TxnId) {
        let body = self.draw(id, 0);
        self.note(id, &body);
        loop {
            if self.world.fault(TWICE_SHARE) {
                let (clients, id, body) = (self.clone(), id.clone(), body.clone());
                tokio::spawn(async move { clients.ask(&id, &body).await });
            }
            if self.world.fault(OTHER_BODY_SHARE) {
                let other = self.draw(id, 1);
                self.note(id, &other);
                self.ask(id, &other).await;
            }
            let heard = self.ask(id, &body).await;
            if matches!(heard, Heard::Final) && !self.world.chance(AGAIN_SHARE) {
                return;
            }
            tokio::time::sleep(self.world.milliseconds(5, 200)).await;
        }
    }

    /// Asks once more for every key, with every body that was ever submitted under it.
    pub(super) async fn audit(self: &Arc<Self>) {
        for (id, bodies) in self.submitted() {
            for body in bodies {
                while let Heard::Open = self.ask(&id, &body).await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn note(&self, id: &TxnId, body: &Body) {
        let mut submitted = self.submitted.lock().expect("no panic while held");
        let bodies = submitted.entry(id.clone()).or_default();
        if bodies.iter().all(|known| known.request_hash != body.request_hash) {
            bodies.push(body.clone());
        }
    }

    /// Asks the coordinator and waits for a while; what it answers is noted when it leaves there,
    /// whether the client hears it or not.
    async fn ask(self: &Arc<Self>, id: &TxnId, body: &Body) -> Heard {
        let Some((life, coordinator)) = self.site.running() else { return Heard::Open };
        if self.world.fault(self.world.profile.lost) {
            return Heard::Open;
        }
        let wait = if self.world.chance(0.2) { Wait::Applied } else { Wait::Decision };
        let submission = submission(id, body, wait);
        let (clients, id, body) = (self.clone(), id.clone(), body.clone());
        let asked = tokio::spawn(async move {
            life.gate().await;
            let result = coordinator.submit(submission).await;
            life.gate().await;
            clients.world.trace(|| format!("{id}: {}", shown(&result)));
            clients.heard(&id, &body, result)
        });
        let patience = self.world.milliseconds(50, PATIENCE_MS_MAX);
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(heard)) if !self.world.fault(self.world.profile.lost) => heard,
            _ => Heard::Open,
        }
    }

    fn heard(
        &self,
        id: &TxnId,
        body: &Body,
        result: Result<crate::coordinator::Answer, SubmitError>,
    ) -> Heard {
        match result {
            Ok(answer) => {
                let hash = &body.request_hash;
                self.world.history(|history| history.answered(id, hash, answer.outcome));
                if answer.outcome == Outcome::InDoubt { Heard::Open } else { Heard::Final }
            }
            Err(SubmitError::KeyReused { .. }) => {
                let alone = self.submitted()[id].len() == 1;
                if alone {
                    let text = format!("8: {id} is refused as reused, and has one body only");
                    self.world.history(|history| history.violation(text));
                }
                Heard::Final
            }
            Err(_) => Heard::Open,
        }
    }

    /// A transfer: between two or three participants, within one, or only a look at balances.
    fn draw(&self, id: &TxnId, variant: usize) -> Body {
        let world = &self.world;
        let count = world.profile.participants;
        let account = || world.between(0, u64::from(ACCOUNTS) - 1) as i64;
        let first = world.between(0, count as u64 - 1) as usize;
        let second = (first + world.between(1, count as u64 - 1) as usize) % count;
        let amount = world.between(1, AMOUNT_MAX as u64) as i64;
        let mut steps = Vec::new();
        match world.between(0, 9) {
            0..=5 => {
                steps.push((first, "debit", account(), amount));
                steps.push((second, "credit", account(), amount));
                if count > 2 && world.chance(0.5) {
                    let third = 3 - first - second;
                    let step = if world.chance(0.5) { "check" } else { "credit" };
                    let part = amount / 3;
                    steps.push((third, step, account(), part));
                    if step == "credit" {
                        steps[1].3 -= part;
                    }
                } else if world.chance(0.3) {
                    // One that only looks at the second participant, and moves within the first.
                    steps[1] = (second, "check", account(), amount);
                    steps.push((first, "credit", account(), amount));
                }
            }
            6..=8 => {
                let from = account();
                steps.push((first, "debit", from, amount));
                steps.push((first, "credit", (from + 1) % i64::from(ACCOUNTS), amount));
            }
            _ => {
                steps.push((first, "check", account(), amount));
                steps.push((second, "check", account(), amount));
            }
        }
        let note = format!("{id}/{variant}-{:08x}", world.between(0, u64::from(u32::MAX)));
        let mut changes: Vec<usize> =
            steps.iter().filter(|step| step.1 != "check").map(|step| step.0).collect();
        changes.sort_unstable();
        changes.dedup();
        let operations = steps
            .into_iter()
            .map(|(at, name, account, amount)| operation(at, name, account, amount, &note))
            .collect();
        Body { request_hash: format!("hash of {note}"), note, changes, operations }
    }
}

fn operation(at: usize, name: &str, account: i64, amount: i64, note: &str) -> Operation {
    Operation {
        participant: ParticipantName::new(&format!("p{at}")).expect("short"),
        operation: OperationName::new(name).expect("short"),
        params: Params::from([
            ("account".to_owned(), account.into()),
            ("amount".to_owned(), amount.into()),
            ("note".to_owned(), note.into()),
        ]),
    }
}

fn submission(id: &TxnId, body: &Body, wait: Wait) -> Submission {
    let customer = Customer {
        id: CustomerId::new("customer").expect("short"),
        customer_type: CustomerType::Retail,
        since: None,
    };
    let amount = Money { minor: 100, currency: Currency::INR };
    let transaction = Transaction {
        id: id.clone(),
        payment: Payment::new(Kind::Upi, customer, amount),
        protocol: ProtocolRequest::Auto,
        operations: body.operations.clone(),
    };
    Submission { transaction, request_hash: body.request_hash.clone(), event_time: None, wait }
}

fn shown(result: &Result<crate::coordinator::Answer, SubmitError>) -> String {
    match result {
        Ok(answer) => {
            let reasons: Vec<_> = answer.reasons.iter().map(ToString::to_string).collect();
            format!("is answered {}: {}", answer.outcome, reasons.join("; "))
        }
        Err(error) => format!("is refused: {error}"),
    }
}
