//! Whether somebody's service keeps the protocol: numbered checks against the running service.
//!
//! The checks need two operations with parameters: one that *gives* and one that *takes*, such that
//! as many takes succeed as gives were committed, and no more. A credit and a debit of one unit on
//! an account that is empty do. What a branch has done is then counted by taking it back, and the
//! account is empty again at the end. Run it against a test instance: every run leaves a few
//! claimed epochs and ended branches of logs of its own.
//!
//! What it cannot see from outside: whether an answer is durable before it is given. Kill the
//! service and run the check again for that.

mod batches;
mod branches;
mod fences;
mod requests;
mod session;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::messages::Description;
use super::wire::Wire;
use crate::participants::{BoxFuture, ConfigurationError};
use crate::txn::{OperationName, Params};
use session::Session;

/// An operation with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name.
    pub operation: OperationName,
    /// With which parameters.
    #[serde(default)]
    pub params: Params,
}

/// What the checks may ask of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Always succeeds.
    pub give: Step,
    /// Succeeds as often as `give` was committed, and no more.
    pub take: Step,
    /// Changes nothing, if the service has such.
    #[serde(default)]
    pub read: Option<Step>,
}

/// What to check.
#[derive(Clone)]
pub struct Options {
    /// How to reach the service.
    pub service: super::Options,
    /// What may be asked of it.
    pub sample: Sample,
    /// How long a yes is left alone.
    pub pause: Duration,
}

/// What became of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "why", rename_all = "snake_case")]
pub enum Outcome {
    /// The service keeps to it.
    Ok,
    /// It does not.
    Failed(String),
    /// It could not be asked.
    Skipped(String),
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// From 1, always the same for the same check.
    pub number: usize,
    /// Its short name.
    pub name: &'static str,
    /// What a service must hold to.
    pub claim: &'static str,
    /// Whether it does.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Why a check ends early.
enum Stop {
    Failed(String),
    Skipped(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

type Verdict = Result<(), Stop>;
type Run = for<'a> fn(&'a Session) -> BoxFuture<'a, Verdict>;

macro_rules! checks {
    ($($name:literal, $claim:literal => $run:path;)+) => {
        /// Every check, in its order.
        const CHECKS: &[(&str, &str, Run)] = &[$(($name, $claim, |s| Box::pin($run(s)))),+];
    };
}

checks! {
    "describes-itself", "it says who it is, always the same, and offers the operations"
        => fences::describes_itself;
    "claims-an-epoch", "an epoch can be claimed, and claimed again by the same process"
        => fences::claims_an_epoch;
    "unsigned-is-refused", "a request without a signature is refused with 401"
        => requests::unsigned;
    "wrong-signature-is-refused", "a request signed with another secret is refused with 401"
        => requests::wrong_signature;
    "wrong-time-is-refused", "a request signed an hour ago, or ahead, is refused with 401"
        => requests::wrong_time;
    "malformed-is-refused", "what cannot be read is refused with 400, and never a 5xx"
        => requests::malformed;
    "too-large-is-refused", "a body over the limit is refused with 413"
        => requests::too_large;
    "declines", "what its rules forbid is declined, and declined the same when repeated"
        => branches::declines;
    "unknown-operation-is-declined", "an operation that it does not offer is declined"
        => branches::unknown_operation;
    "prepare-is-repeatable", "a prepare that is repeated hears yes again, and is one effect"
        => branches::prepare_twice;
    "commit-is-repeatable", "a commit that is repeated is one effect, and no abort undoes it"
        => branches::commit_twice;
    "abort-undoes", "an abort leaves no effect, and no commit revives it"
        => branches::abort_undoes;
    "prepared-is-held", "what a prepared branch has taken nobody else gets"
        => branches::held;
    "abort-leaves-a-tombstone", "a prepare that comes after its abort is refused"
        => branches::tombstone;
    "unknown-commit-is-404", "a commit of a branch it does not know is 404 `unknown_branch`"
        => branches::unknown_commit;
    "one-phase-is-repeatable", "a one-phase commit that is repeated is one effect"
        => branches::one_phase;
    "inquiry-tells-the-truth", "an inquiry answers how a branch stands, and spares the prepared"
        => branches::inquiry;
    "inquiry-leaves-a-tombstone", "work that comes after its inquiry is refused"
        => branches::inquiry_tombstone;
    "reads-only", "work that changes nothing votes read_only and leaves nothing prepared"
        => branches::reads_only;
    "a-yes-stays", "a yes is still there after a pause, and can be committed"
        => branches::yes_stays;
    "duplicates-are-one-effect", "requests that come eight times at once are one effect"
        => branches::duplicates;
    "other-operations-are-refused", "a prepare repeated with other operations is refused with 422"
        => branches::other_operations;
    "batch-is-a-serial-order", "members of a batch see those before them, and who declines is named"
        => batches::serial_order;
    "batch-is-all-or-nothing", "a batch that may drop nobody is prepared whole or not at all"
        => batches::all_or_nothing;
    "batch-is-repeatable", "a batch that is repeated hears the same; with other members, 422"
        => batches::repeatable;
    "batch-is-limited", "a batch with no, too many or empty members is refused with 400 or 413"
        => batches::limited;
    "batch-is-fenced", "a batch of another epoch or for another identity is refused with 409"
        => batches::fenced;
    "lists-all-prepared", "every prepared branch of every log is listed, once, in pages"
        => fences::lists_all;
    "older-epochs-are-fenced", "prepare, commit and abort by an older epoch are refused with 409"
        => fences::older_epochs;
    "unclaimed-epochs-are-refused", "an epoch that was not claimed is refused with 409"
        => fences::unclaimed;
    "one-process-an-epoch", "an epoch that another process has claimed is refused with 409"
        => fences::one_process;
    "another-service-is-refused", "a request for another identity is refused with 409"
        => fences::another_service;
    "prunes", "work below a prune is refused, and what is prepared stays"
        => fences::prunes;
    "leaves-nothing", "nothing of all this is prepared at the end, and the account is empty"
        => branches::leaves_nothing;
}

/// Runs every check, in order; tells of each when it is done. `Err` if the service cannot be asked
/// at all.
pub async fn run(
    options: &Options,
    mut tell: impl FnMut(&Checked),
) -> Result<Vec<Checked>, Failure> {
    let wire = Wire::new(&options.service)?;
    let service = Session::describe(&wire).await.map_err(Failure::Service)?;
    offers(&service, &options.sample).map_err(Failure::Sample)?;
    let session = Session::new(wire, service, options);
    let mut report = Vec::with_capacity(CHECKS.len());
    for (index, (name, claim, check)) in CHECKS.iter().enumerate() {
        session.clear().await;
        let outcome = match check(&session).await {
            Ok(()) => Outcome::Ok,
            Err(Stop::Failed(why)) => Outcome::Failed(why),
            Err(Stop::Skipped(why)) => Outcome::Skipped(why),
        };
        let checked = Checked { number: index + 1, name, claim, outcome };
        tell(&checked);
        report.push(checked);
    }
    Ok(report)
}

/// Why nothing could be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The options cannot be used.
    #[error(transparent)]
    Options(#[from] ConfigurationError),
    /// The service did not say who it is.
    #[error("{0}")]
    Service(String),
    /// The operations do not fit the service.
    #[error("{0}")]
    Sample(String),
}

fn offers(service: &Description, sample: &Sample) -> Result<(), String> {
    let participant = "service".parse().expect("a plain name");
    let mut operation = crate::txn::Operation {
        participant,
        operation: sample.give.operation.clone(),
        params: Params::none(),
    };
    for step in [Some(&sample.give), Some(&sample.take), sample.read.as_ref()].into_iter().flatten()
    {
        operation.operation = step.operation.clone();
        operation.params = step.params.clone();
        service
            .validate(&operation)
            .map_err(|why| format!("operation {}: {why}", step.operation))?;
    }
    Ok(())
}
