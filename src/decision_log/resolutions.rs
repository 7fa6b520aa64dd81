//! What operators stated of branches that could not be asked any more, and the log of a stopped
//! coordinator, where they may state it too.
//!
//! A resolution is durable before it takes effect and stays for ever: who forced an end, and why,
//! is asked long after. The first one of a branch holds.

use std::path::Path;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    AnswerRecord, DecisionLog, Error, Options, RESOLUTIONS, Recovered, encode, execution_key,
    read_all,
};
use crate::store::{Batch, Store};
use crate::txn::{
    BranchIndex, Claim, Decision, Epoch, ParticipantName, PhysicalId, Timestamp, TxnId,
};

/// Version of [`ResolutionRecord`]; a later one is refused.
const VERSION: u32 = 1;

/// How an operator ended a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolutionRecord {
    /// Version of this record.
    #[serde(deserialize_with = "known_version")]
    pub version: u32,
    /// The epoch of the execution.
    pub epoch: Epoch,
    /// The physical execution.
    pub physical: PhysicalId,
    /// The branch.
    pub branch: BranchIndex,
    /// Its participant's configured name.
    pub participant: ParticipantName,
    /// The identity of the server that held it.
    pub identity: String,
    /// The transactions that it belongs to.
    pub members: Vec<TxnId>,
    /// What had been decided; `None` for a one-phase commit, whose end nobody knew.
    pub decision: Option<Decision>,
    /// What the operator states.
    pub claim: Claim,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl ResolutionRecord {
    /// The version that is written.
    pub const VERSION: u32 = VERSION;

    /// The branch that it ends, within its log.
    pub fn key(&self) -> (Epoch, PhysicalId, BranchIndex) {
        (self.epoch, self.physical, self.branch)
    }

    /// Whether a commit was decided that this branch may never have carried out.
    pub fn is_of_commit(&self) -> bool {
        self.decision == Some(Decision::Commit)
    }
}

fn known_version<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<u32, D::Error> {
    let version = u32::deserialize(reader)?;
    if version > VERSION {
        let text = format!("version {version}, this program knows up to {VERSION}");
        return Err(serde::de::Error::custom(text));
    }
    Ok(version)
}

impl DecisionLog {
    /// Opens the log of a stopped coordinator without starting an epoch: to look at what is in
    /// doubt, and to record resolutions. Refused while the coordinator runs.
    pub fn open_stopped(path: &Path) -> Result<(Self, Recovered), Error> {
        if !Store::exists(path) {
            return Err(Error::Missing { folder: path.to_owned() });
        }
        Self::open_at(path, Options::default(), |last| last)
    }

    pub(super) fn write_resolution(
        &self,
        resolution: &ResolutionRecord,
        answers: &[AnswerRecord],
    ) -> BoxFuture<'static, Result<(), Error>> {
        let mut batch = Batch::new();
        let mut key = execution_key(resolution.epoch, resolution.physical);
        key.extend(resolution.branch.0.to_be_bytes());
        batch.put(RESOLUTIONS, key, encode(resolution));
        self.put_answers(&mut batch, answers.iter().map(AnswerRecord::given));
        self.write(batch)
    }

    pub(super) fn read_resolutions(&self) -> Result<Vec<ResolutionRecord>, Error> {
        read_all(self.store(), RESOLUTIONS)
    }
}
