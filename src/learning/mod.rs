//! Histories, data sets, fitting, evaluation, reports, the outcome log.

pub mod dataset;
pub mod evaluate;
pub mod fit;
pub mod history;
pub mod metrics;
pub mod outcome_log;
pub mod report;
