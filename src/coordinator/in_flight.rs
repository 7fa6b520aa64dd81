//! Which transactions are running: the table that makes one key run once. Pure.

use std::collections::HashMap;

use crate::mutation::{Mutation, on};
use crate::txn::TxnId;

/// Keys without a durable answer, with the hash of their request.
#[derive(Debug)]
pub(super) struct InFlight {
    running: HashMap<TxnId, String>,
    count_max: usize,
}

/// Why a key cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The same request runs.
    Running,
    /// Another request runs under this key.
    OtherRequest,
    /// The table is full.
    Full { in_flight: usize },
}

impl InFlight {
    pub(super) fn new(count_max: usize) -> Self {
        Self { running: HashMap::new(), count_max }
    }

    pub(super) fn begin(&mut self, id: &TxnId, request_hash: &str) -> Result<(), Conflict> {
        let running = self.running.get(id).filter(|_| !on(Mutation::KeyRunsTwice));
        if let Some(running) = running {
            let same = running == request_hash;
            return Err(if same { Conflict::Running } else { Conflict::OtherRequest });
        }
        if self.running.len() >= self.count_max {
            return Err(Conflict::Full { in_flight: self.running.len() });
        }
        self.running.insert(id.clone(), request_hash.to_owned());
        Ok(())
    }

    /// Holds a key that recovery has not settled yet; not bounded by the limit, since it is
    /// bounded by what the log held.
    pub(super) fn hold(&mut self, id: &TxnId, request_hash: &str) {
        self.running.insert(id.clone(), request_hash.to_owned());
    }

    pub(super) fn end(&mut self, id: &TxnId) {
        self.running.remove(id);
    }

    pub(super) fn contains(&self, id: &TxnId) -> bool {
        self.running.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_runs_once_and_a_full_table_refuses() {
        let id = |text: &str| TxnId::new(text).unwrap();
        let mut table = InFlight::new(2);
        assert_eq!(table.begin(&id("a"), "h"), Ok(()));
        assert_eq!(table.begin(&id("a"), "h"), Err(Conflict::Running));
        assert_eq!(table.begin(&id("a"), "other"), Err(Conflict::OtherRequest));
        assert_eq!(table.begin(&id("b"), "h"), Ok(()));
        assert_eq!(table.begin(&id("c"), "h"), Err(Conflict::Full { in_flight: 2 }));
        table.end(&id("a"));
        assert_eq!(table.begin(&id("a"), "other"), Ok(()));
    }
}
