//! Histories, data sets, fitting, evaluation, reports, the outcome log.

pub mod history;
