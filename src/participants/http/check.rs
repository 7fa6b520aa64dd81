//! Taking a service into use: is it fit, who is it, and nobody of an older epoch can act.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::answers::{self, Sorted, sort};
use super::batch::Room;
use super::messages::{ClaimAnswer, ClaimRequest, Description, Message, ParameterKind};
use super::wire::{Endpoint, Lane, Reply, Request, Signing, Trouble};
use super::{Claimed, Http, Inner, PROTOCOL, RETENTION_S_MIN};
use crate::participants::sql::LockName;
use crate::participants::{ClaimError, Finding};
use crate::txn::{Epoch, LogId, OperationName};

impl Inner {
    /// Claims an epoch. The caller bounds the time.
    pub(super) async fn claim(&self, log: LogId, epoch: Epoch) -> Result<String, ClaimError> {
        let service = self.describe().await?;
        let locks = locks(&service, &self.locks);
        if let Some(fault) = findings(&service).into_iter().chain(locks).find(|found| !found.ok) {
            return Err(ClaimError::Unfit { detail: fault.to_string() });
        }
        let identity = format!("http:{}", service.identity);
        let body = ClaimRequest::new(log, epoch, self.process).bytes();
        let request = Request::of_log(Endpoint::Claim, log, epoch, body);
        let answer: ClaimAnswer = match sort(&self.ask(request).await?) {
            Sorted::Answer(answer) => answer,
            Sorted::Refused(409, refusal) if refusal.code == "stale_epoch" => {
                let known = refusal.known.unwrap_or_default();
                return Err(ClaimError::Stale { participant: identity, known, claimed: epoch.0 });
            }
            other => return Err(unfit(other)),
        };
        if answer.identity != service.identity || answer.epoch != epoch.0 {
            // Another instance has answered: behind one address there are two services.
            let detail = format!(
                "{} was asked to take epoch {}, and {} took {}",
                service.identity,
                epoch.0,
                answers::shown(&answer.identity),
                answer.epoch
            );
            return Err(ClaimError::Unfit { detail });
        }
        let room = Room::at(&service);
        self.claimed.store(Some(Arc::new(Claimed { epoch, service, room })));
        Ok(identity)
    }

    /// What the service says of itself.
    async fn describe(&self) -> Result<Description, ClaimError> {
        match sort(&self.ask(Request::service()).await?) {
            Sorted::Answer(description) => Ok(description),
            other => Err(unfit(other)),
        }
    }

    /// Asks something that must be answered well; 5xx and silence may pass.
    async fn ask(&self, request: Request) -> Result<Reply, ClaimError> {
        let unreachable = |detail| ClaimError::Unreachable { detail };
        let reply = self.wire.call(Lane::Settle, request).await;
        match reply.map_err(Trouble::detail).map_err(unreachable)? {
            Reply { status, .. } if status >= 500 => {
                Err(unreachable(format!("it answered {status}")))
            }
            reply => Ok(reply),
        }
    }
}

/// It answers, and not as it must.
fn unfit<T>(sorted: Sorted<T>) -> ClaimError {
    let detail = match sorted {
        Sorted::Answer(_) => "it answered something else".to_owned(),
        Sorted::Refused(status, refusal) => {
            format!("it refused with {status} {}: {}", refusal.code, refusal.detail)
        }
        Sorted::Unclear(detail) => {
            format!("{detail}; is it a participant's base URL? `presume participants openapi`")
        }
    };
    ClaimError::Unfit { detail }
}

/// Everything that a claim insists on.
pub(super) fn findings(service: &Description) -> Vec<Finding> {
    let mut protocol = answers::shown(&service.protocol);
    if !service.speaks_ours() {
        protocol = format!("it speaks {protocol:?}, {PROTOCOL} is needed");
    }
    let kept_s = service.outcome_retention_s;
    let keeps_long_enough = kept_s >= RETENTION_S_MIN;
    let mut retention = format!("outcomes are kept for {kept_s} s");
    if !keeps_long_enough {
        retention = format!("{retention}, at least {RETENTION_S_MIN} s are needed");
    }
    let identity = answers::shown(&service.identity);
    let mut findings = vec![
        Finding::new("protocol", service.speaks_ours(), protocol, "another version of the service"),
        Finding::new(
            "identity",
            service.has_identity(),
            format!("{identity:?}"),
            "an identity of 1 to 100 visible ASCII characters, made with the service's data",
        ),
        Finding::new(
            "retention",
            keeps_long_enough,
            retention,
            "a longer retention at the service",
        ),
    ];
    if service.batch_members_max == Some(0) {
        let found = "it takes batches of at most 0 members (batch_members_max)";
        let remedy = "at least 1, or no capability batch";
        findings.push(Finding::new("batches", false, found, remedy));
    }
    findings
}

/// What is wrong with the names of what operations touch.
fn locks(service: &Description, locks: &BTreeMap<OperationName, Vec<LockName>>) -> Vec<Finding> {
    let remedy = "locks of that operation in the configuration";
    let wrong = |detail: String| Finding::new("locks", false, detail, remedy);
    let mut findings = Vec::new();
    for (name, locks) in locks {
        let Some(operation) = service.operations.iter().find(|known| known.name == *name) else {
            findings.push(wrong(format!("the service has no operation {name}")));
            continue;
        };
        for used in locks.iter().flat_map(LockName::parameters) {
            let known = operation.parameters.iter().find(|parameter| parameter.name == used);
            let plain = [ParameterKind::String, ParameterKind::Integer, ParameterKind::Boolean];
            if !known.is_some_and(|parameter| plain.contains(&parameter.kind)) {
                let signature = operation.signature();
                findings.push(wrong(format!(
                    "a lock names ${used}, which is no text or whole number of {signature}"
                )));
            }
        }
    }
    findings
}

fn batches(service: &Description, without_locks: bool) -> String {
    match Room::at(service).members() {
        0 => "not offered".to_owned(),
        _ if without_locks => "offered; not used without operations.NAME.locks here".to_owned(),
        members => format!("offered, of up to {members} members"),
    }
}

impl Http {
    /// Looks at everything that taking part needs, the operations included; claims nothing.
    pub async fn check(&self) -> Result<Vec<Finding>, String> {
        let inner = &self.0;
        let service = match inner.describe().await {
            Ok(service) => service,
            Err(ClaimError::Unfit { detail }) => {
                let remedy = "the url and the secret, here or at the service";
                return Ok(vec![Finding::new("service", false, detail, remedy)]);
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut found = vec![Finding::new("transport", true, inner.wire.transport(), "")];
        found.extend(findings(&service));
        if inner.wire.signs() {
            found.push(self.unsigned_is_refused().await?);
        }
        let phases = if service.commits_in_one_phase() {
            "offered"
        } else {
            "not offered: a branch on its own takes two phases"
        };
        found.push(Finding::new("one-phase commit", true, phases, ""));
        found.push(Finding::new("batches", true, batches(&service, inner.locks.is_empty()), ""));
        found.extend(locks(&service, &inner.locks));
        let offered = service
            .operations
            .iter()
            .map(|operation| Finding::new("operation", true, operation.signature(), ""));
        found.extend(offered);
        if service.operations.is_empty() {
            let remedy = "operations in the service's description";
            found.push(Finding::new("operations", false, "it offers none", remedy));
        }
        Ok(found)
    }

    async fn unsigned_is_refused(&self) -> Result<Finding, String> {
        let request = Request { signing: Signing::None, ..Request::service() };
        let reply = self.0.wire.call(Lane::Settle, request).await.map_err(Trouble::detail)?;
        let found = format!("an unsigned request is answered with {}", reply.status);
        let remedy = "a secret at the service";
        Ok(Finding::new("signatures", reply.status == 401, found, remedy))
    }
}
