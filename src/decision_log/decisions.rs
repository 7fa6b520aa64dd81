//! Decisions as they are stored: one for all members of a batch, mostly their ids.
//!
//! A value of an older folder is JSON. Fields, in order: epoch, physical id, branches, read-only
//! branches, members, decision, instant.

use super::packed::{Damaged, Packer, Sheaf, Unpacker};
use super::rows::{unpack_id, unpack_name};
use super::{DECISIONS, DecisionRecord, Error, RecordedBranch};
use crate::store::Store;
use crate::txn::{Decision, Epoch, PhysicalId, Timestamp};

const DECISIONS_KNOWN: &[Decision] = &[Decision::Commit, Decision::Abort];

pub(super) fn encode(record: &DecisionRecord) -> Vec<u8> {
    let mut to = Packer::new(0, record.members.len() * 32 + 256);
    to.whole(record.epoch.0);
    to.whole(record.physical.0);
    to.whole(record.branches.len() as u64);
    for branch in &record.branches {
        to.shared(branch.participant.as_str());
        to.text(&branch.identity);
    }
    to.whole(record.read_only.len() as u64);
    record.read_only.iter().for_each(|index| to.whole(u64::from(*index)));
    to.whole(record.members.len() as u64);
    record.members.iter().for_each(|id| to.id(id.as_str()));
    to.byte(record.decision as u8);
    to.instant(record.at.micros());
    to.end_member();
    to.into_bytes()
}

pub(super) fn decode(value: &[u8]) -> Result<DecisionRecord, String> {
    if value.first() == Some(&b'{') {
        return serde_json::from_slice(value).map_err(|error| error.to_string());
    }
    let record = Sheaf::open(value).and_then(|sheaf| sheaf.nth(0, unpack));
    record.map_err(|damaged| damaged.to_string())
}

fn unpack(from: &mut Unpacker<'_>) -> Result<DecisionRecord, Damaged> {
    let index = |from: &mut Unpacker<'_>| {
        u16::try_from(from.whole()?).map_err(|_| Damaged("the position of a branch"))
    };
    Ok(DecisionRecord {
        epoch: Epoch(from.whole()?),
        physical: PhysicalId(from.whole()?),
        branches: from.list(|from| {
            let participant = unpack_name(from)?;
            Ok(RecordedBranch { participant, identity: from.text()?.to_owned() })
        })?,
        read_only: from.list(index)?,
        members: from.list(unpack_id)?,
        decision: from.one_of(DECISIONS_KNOWN)?,
        at: Timestamp::from_micros(from.instant()?),
    })
}

/// Every decision that is not finished, in the order of executions.
pub(super) fn read_all(store: &Store) -> Result<Vec<DecisionRecord>, Error> {
    let entries = store.prefix(DECISIONS, b"");
    entries
        .map(|entry| {
            let (key, value) = entry?;
            read(store, &key, &value)
        })
        .collect()
}

/// The decision that stands under a key.
pub(super) fn read(store: &Store, key: &[u8], value: &[u8]) -> Result<DecisionRecord, Error> {
    decode(value).map_err(|detail| store.record_error(DECISIONS, key, detail).into())
}
