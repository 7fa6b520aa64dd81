//! One record of the legs file to one leg, joined to its row.

use std::collections::HashMap;

use super::cells::{BadCell, Cells};
use super::columns::Schema;
use super::transactions::Interned;
use super::{LEG_COLUMNS, REQUIRED_LEG_COLUMNS};
use crate::txn::{HistoryRow, LegRow, LegVote, ParticipantName};

pub(super) const SCHEMA: Schema = Schema { columns: &LEG_COLUMNS, required: &REQUIRED_LEG_COLUMNS };

/// Positions in [`LEG_COLUMNS`].
pub(super) mod at {
    pub const TXN_ID: usize = 0;
    pub const PARTICIPANT: usize = 1;
    pub const VOTE: usize = 2;
    pub const PREPARE_MS: usize = 3;
    pub const TIMEOUT_MS: usize = 4;
    pub const LATE_MS: usize = 5;
    pub const IN_FLIGHT: usize = 6;
    pub const HEALTH: usize = 7;
}

/// Ten years in milliseconds.
const MS_MAX: f64 = 3.2e11;
/// Most legs of one transaction.
const LEGS_MAX: usize = 64;

/// Rows by their ids: index in the rows, and line.
pub(super) type Index = HashMap<String, (usize, u64)>;

#[derive(Debug, Default)]
pub(super) struct LegParser {
    participants: Interned<ParticipantName>,
}

impl LegParser {
    /// Parses a leg and appends it to its row, whose participants it extends.
    pub(super) fn join(
        &mut self,
        cells: &Cells<'_>,
        index: &Index,
        rows: &mut [HistoryRow],
    ) -> Result<(), BadCell> {
        let txn_id = cells.required(at::TXN_ID)?;
        let Some((row, _)) = index.get(txn_id) else {
            return Err(cells.bad(at::TXN_ID, "no such transaction in the transactions file"));
        };
        let leg = self.parse(cells)?;
        let row = &mut rows[*row];
        if row.legs.iter().any(|known| known.participant == leg.participant) {
            return Err(cells.bad(at::PARTICIPANT, "a second leg of this transaction"));
        }
        if row.legs.len() >= LEGS_MAX {
            let reason = format!("more than {LEGS_MAX} legs of one transaction");
            return Err(cells.bad(at::PARTICIPANT, reason));
        }
        row.payment.participants.push(leg.participant.clone());
        row.legs.push(leg);
        Ok(())
    }

    fn parse(&mut self, cells: &Cells<'_>) -> Result<LegRow, BadCell> {
        let empty = |column| move || cells.bad(column, "empty");
        let name = self.participants.get(cells, at::PARTICIPANT, ParticipantName::new)?;
        let vote = cells.parsed::<LegVote>(at::VOTE)?.ok_or_else(empty(at::VOTE))?;
        let prepare_ms = cells.number(at::PREPARE_MS, [0.0, MS_MAX])?;
        let late_ms = cells.number(at::LATE_MS, [0.0, MS_MAX])?;
        if late_ms.is_some() && vote != LegVote::Timeout {
            return Err(cells.bad(at::LATE_MS, "given for a vote that was in time"));
        }
        let in_flight = cells.whole(at::IN_FLIGHT, [0, u32::MAX.into()])?;
        Ok(LegRow {
            participant: name.ok_or_else(empty(at::PARTICIPANT))?,
            vote,
            prepare_ms: prepare_ms.ok_or_else(empty(at::PREPARE_MS))?,
            timeout_ms: cells.number(at::TIMEOUT_MS, [0.0, MS_MAX])?,
            late_ms,
            in_flight: in_flight.unwrap_or(0) as u32,
            health: cells.number(at::HEALTH, [0.0, 1.0])?.unwrap_or(1.0),
        })
    }
}
