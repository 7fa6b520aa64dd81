//! What travels, as JSON. Answers may hold more than is read here: later versions add.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::PROTOCOL;
use crate::participants::EndedBelow;
use crate::participants::batch::{Batch, Then};
use crate::txn::{Declined, Epoch, LogId, Operation, OperationName, Params};

/// Longest identity in bytes.
const IDENTITY_BYTES_MAX: usize = 100;
/// The capability of one-phase commits and inquiries.
const ONE_PHASE: &str = "one_phase";
/// The capability of batches.
const BATCH: &str = "batch";

/// A service about itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Description {
    pub(super) protocol: String,
    pub(super) identity: String,
    pub(super) outcome_retention_s: u64,
    #[serde(default)]
    pub(super) capabilities: Vec<String>,
    pub(super) body_bytes_max: usize,
    /// The most members of a batch, if the service has a limit of its own.
    #[serde(default)]
    pub(super) batch_members_max: Option<usize>,
    pub(super) operations: Vec<OperationDescription>,
}

/// An operation that a service offers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct OperationDescription {
    pub(super) name: OperationName,
    #[serde(default)]
    pub(super) parameters: Vec<Parameter>,
}

/// A parameter of an operation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Parameter {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: ParameterKind,
    #[serde(default = "yes")]
    pub(super) required: bool,
}

fn yes() -> bool {
    true
}

/// What a parameter may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ParameterKind {
    String,
    Integer,
    Number,
    Boolean,
    Any,
}

impl ParameterKind {
    fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Any => "any",
        }
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Any => true,
        }
    }
}

impl OperationDescription {
    /// Such as `debit(account string, amount integer)`.
    pub(super) fn signature(&self) -> String {
        let one = |parameter: &Parameter| {
            let optional = if parameter.required { "" } else { "?" };
            format!("{}{optional} {}", parameter.name, parameter.kind.name())
        };
        let parameters: Vec<String> = self.parameters.iter().map(one).collect();
        format!("{}({})", self.name, parameters.join(", "))
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        for parameter in &self.parameters {
            let (name, kind) = (&parameter.name, parameter.kind);
            match params.get(name) {
                None if parameter.required => return Err(format!("parameter {name:?} is missing")),
                Some(value) if !kind.takes(value) => {
                    return Err(format!(
                        "parameter {name:?} is {value}, not of type {}",
                        kind.name()
                    ));
                }
                _ => {}
            }
        }
        let known = |name: &str| self.parameters.iter().any(|p| p.name == name);
        match params.keys().find(|name| !known(name)) {
            None => Ok(()),
            Some(unknown) => {
                let known: Vec<_> = self.parameters.iter().map(|p| p.name.as_str()).collect();
                Err(format!("parameter {unknown:?} is unknown; known are {}", known.join(", ")))
            }
        }
    }
}

impl Description {
    /// Checks an operation's name and parameters; `Err` is one sentence.
    pub(super) fn validate(&self, operation: &Operation) -> Result<(), String> {
        let name = &operation.operation;
        match self.operations.iter().find(|known| known.name == *name) {
            Some(known) => known.check(&operation.params),
            None => {
                let known: Vec<_> = self.operations.iter().map(|o| o.name.to_string()).collect();
                Err(format!("operation {:?} is not one of {}", name.as_str(), known.join(", ")))
            }
        }
    }

    pub(super) fn commits_in_one_phase(&self) -> bool {
        self.has(ONE_PHASE)
    }

    pub(super) fn takes_batches(&self) -> bool {
        self.has(BATCH)
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|offered| offered == capability)
    }

    pub(super) fn speaks_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// Whether its identity fits our records: visible ASCII, not too long.
    pub(super) fn has_identity(&self) -> bool {
        (1..=IDENTITY_BYTES_MAX).contains(&self.identity.len())
            && self.identity.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

/// A message as it is sent.
pub(super) trait Message: Serialize {
    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always serialise")
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ClaimRequest {
    log: String,
    epoch: u64,
    process: String,
}

impl ClaimRequest {
    pub(super) fn new(log: LogId, epoch: Epoch, process: Uuid) -> Self {
        Self { log: log.to_string(), epoch: epoch.0, process: process.simple().to_string() }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct WorkRequest<'a> {
    service: &'a str,
    epoch: u64,
    operations: Vec<Work<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct BatchRequest<'a> {
    service: &'a str,
    epoch: u64,
    /// Whether the rest is prepared when some decline.
    drop_declined: bool,
    /// Operations by member, in order.
    members: Vec<Vec<Work<'a>>>,
}

#[derive(Debug, Serialize)]
struct Work<'a> {
    operation: &'a str,
    params: &'a Params,
}

impl<'a> Work<'a> {
    fn of(operations: &'a [Operation]) -> Vec<Self> {
        let one = |o: &'a Operation| Self { operation: o.operation.as_str(), params: &o.params };
        operations.iter().map(one).collect()
    }
}

impl<'a> WorkRequest<'a> {
    pub(super) fn new(service: &'a str, epoch: Epoch, operations: &'a [Operation]) -> Self {
        Self { service, epoch: epoch.0, operations: Work::of(operations) }
    }
}

impl<'a> BatchRequest<'a> {
    pub(super) fn new(service: &'a str, epoch: Epoch, batch: &'a Batch) -> Self {
        let members = batch.members.iter().map(|member| Work::of(&member.operations)).collect();
        Self { service, epoch: epoch.0, drop_declined: batch.then == Then::Hold, members }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct VerdictRequest<'a> {
    service: &'a str,
    epoch: u64,
}

impl<'a> VerdictRequest<'a> {
    pub(super) fn new(service: &'a str, epoch: Epoch) -> Self {
        Self { service, epoch: epoch.0 }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PruneRequest<'a> {
    service: &'a str,
    log: String,
    epoch: u64,
    physical: u64,
    older_than_s: u64,
}

impl<'a> PruneRequest<'a> {
    pub(super) fn new(service: &'a str, ended: EndedBelow, older_than_s: u64) -> Self {
        let (log, epoch, physical) = (ended.log.to_string(), ended.epoch.0, ended.physical.0);
        Self { service, log, epoch, physical, older_than_s }
    }
}

impl Message for ClaimRequest {}
impl Message for WorkRequest<'_> {}
impl Message for BatchRequest<'_> {}
impl Message for VerdictRequest<'_> {}
impl Message for PruneRequest<'_> {}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct ClaimAnswer {
    pub(super) identity: String,
    pub(super) epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "vote", rename_all = "snake_case")]
pub(super) enum VoteAnswer {
    Yes,
    ReadOnly,
    No(Declined),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct BatchAnswer {
    #[serde(flatten)]
    pub(super) vote: VoteAnswer,
    #[serde(default)]
    pub(super) declined: Vec<DeclinedMember>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct DeclinedMember {
    /// Its place in the request, from 0.
    pub(super) member: usize,
    #[serde(flatten)]
    pub(super) why: Declined,
}

/// How a branch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Prepared,
    Committed,
    Aborted,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct StateAnswer {
    pub(super) state: State,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Listing {
    pub(super) branches: Vec<String>,
    #[serde(default)]
    pub(super) next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Pruned {
    pub(super) removed: u64,
}

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Refusal {
    pub(super) code: String,
    #[serde(default)]
    pub(super) detail: String,
    /// The epoch that is known, with `stale_epoch`.
    #[serde(default)]
    pub(super) known: Option<u64>,
}
