//! The record of looks: every evaluation of a test window leaves a line.
//!
//! A window that was looked at often is no longer a test. One JSON object a line is appended to
//! `looks.jsonl` beside the report; nothing is ever taken out.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Evaluation;
use crate::txn::Timestamp;

/// The record's file name.
pub const LOOKS_FILE: &str = "looks.jsonl";

/// Bytes of the record that are read back at most.
const BYTES_MAX: u64 = 16 << 20;

/// One look at a test window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// When.
    pub at: Timestamp,
    /// Which model.
    pub model: String,
    /// First instant of the window.
    pub from: Timestamp,
    /// Last row of the window.
    pub to: Timestamp,
    /// Rows in it.
    pub rows: usize,
}

impl Look {
    /// The look that an evaluation was.
    pub fn of(evaluation: &Evaluation, at: Timestamp) -> Self {
        Self {
            at,
            model: evaluation.model.clone(),
            from: evaluation.window.from,
            to: evaluation.window.to,
            rows: evaluation.counts.rows_test,
        }
    }

    /// Appends the look to the record in `folder`, and returns how many earlier ones overlap its
    /// window. Lines that cannot be read are kept and not counted.
    pub fn record(&self, folder: &Path) -> std::io::Result<usize> {
        let path = folder.join(LOOKS_FILE);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        let mut bytes = Vec::new();
        (&mut file).take(BYTES_MAX).read_to_end(&mut bytes)?;
        text.push_str(&String::from_utf8_lossy(&bytes));
        let overlaps = |look: &Self| look.from <= self.to && self.from <= look.to;
        let earlier = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Self>(line).ok())
            .filter(overlaps)
            .count();
        let mut line = serde_json::to_string(self)?;
        // A line that a crash cut short stays alone.
        if !text.is_empty() && !text.ends_with('\n') {
            line.insert(0, '\n');
        }
        line.push('\n');
        file.write_all(line.as_bytes())?;
        Ok(earlier)
    }
}
