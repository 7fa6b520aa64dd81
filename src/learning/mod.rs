//! Histories, data sets, fitting, evaluation, reports, the outcome log.

pub mod evaluate;
pub mod metrics;
pub mod report;
pub mod history;
