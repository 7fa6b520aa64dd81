//! The durable truth: what was decided, what was answered, what happened.
//!
//! # What is stored
//! One embedded store, five keyspaces, one writer thread:
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `identity` | name | log id, epoch, format version |
//! | `decisions` | epoch, physical id | [`DecisionRecord`], until phase two is done everywhere |
//! | `intents` | epoch, physical id | [`Intent`] of a one-phase commit, until its outcome is known |
//! | `answers` | transaction id | [`AnswerRecord`]: request hash and the answer as given |
//! | `outcomes` | sequence | [`OutcomeRow`], until sealed into Parquet |
//!
//! # Invariants
//! - No record of a decision means abort (presumed abort).
//! - Answer, idempotency key, outcome row and commit decision go in one durable batch, before the
//!   client hears anything.
//! - A failed write poisons the log: it refuses everything until the process starts again.

mod records;

pub use records::{
    AnswerRecord, DecisionRecord, Intent, OutcomeLeg, OutcomeRow, RecordedBranch, Recovered,
};
