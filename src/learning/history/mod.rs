//! Histories as files: the canonical CSV, its legs, Parquet, and what is wrong with a row.
//!
//! [`read`] sets bad rows aside, located, and stops above a limit; [`write`] gives the canonical
//! form, which reads back as the same rows. Nothing is silently dropped: what was ignored,
//! sorted, assumed or set aside is told in [`History`].

mod write;

pub use write::{HistoryWriter, LegsWriter, write};

/// The columns of the transactions file, in canonical order.
pub const COLUMNS: [&str; 22] = [
    "txn_id",
    "payment_id",
    "attempt",
    "timestamp",
    "kind",
    "customer_id",
    "customer_type",
    "customer_since",
    "counterparty_id",
    "amount_minor",
    "currency",
    "cross_border",
    "requires_consistency",
    "lat",
    "lon",
    "route",
    "system_load_ratio",
    "outcome",
    "failure_class",
    "total_ms",
    "fraud",
    "labelled_at",
];

/// The columns of the legs file, in canonical order: a row a participant.
pub const LEG_COLUMNS: [&str; 8] =
    ["txn_id", "participant", "vote", "prepare_ms", "timeout_ms", "late_ms", "in_flight", "health"];
