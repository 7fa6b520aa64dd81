//! Presume: a transaction coordinator that predicts before it prepares.
//!
//! This page is the map. A module uses only modules of a lower layer; `tests/it/layers.rs` reads
//! the table below and the `use crate::` lines and fails on a breach.
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | 0 | `txn` | values that cross boundaries: ids, payments, votes, outcomes, plans |
//! | 0 | `mutation` | seeded bugs that tests switch on, none in the binary |
//! | 1 | `features` | one extractor, the same online and offline, and its bounded state |
//! | 1 | `protocol` | sans-IO engines: two-phase commit, presumed abort |
//! | 1 | `store` | one durable key-value store behind one writer thread: group commit |
//! | 2 | `policy` | predictions in, plan with reasons out |
//! | 2 | `models` | predictors, calibration, bundles, registry, serving |
//! | 3 | `decision_log` | the durable truth: decisions, answers, outcome rows |
//! | 3 | `participants` | the participant trait, the embedded double-entry ledger, databases |
//! | 4 | `coordinator` | in-flight table, recovery, and the driver that joins it all |
//! | 5 | `learning` | histories, data sets, fitting, evaluation, reports, the outcome log |
//! | 6 | `server` | HTTP interface and metrics |
//! | 6 | `simulation` | worlds, and histories generated from them; the fault simulator |
//! | 7 | `configuration` | file, environment and flags, checked once, with origins |
//!
//! The binary's commands stand in `src/cli/`, one file each.

pub mod configuration;
pub mod coordinator;
pub mod decision_log;
pub mod features;
pub mod learning;
pub mod models;
mod mutation;
pub mod participants;
pub mod policy;
pub mod protocol;
pub mod server;
pub mod simulation;
pub mod store;
pub mod txn;
