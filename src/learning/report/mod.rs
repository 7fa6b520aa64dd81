//! An evaluation as one self-contained HTML page and one JSON file.
//!
//! The page needs no script, no font and no network. It states what was evaluated, whether the
//! champion beats each baseline, with which certainty, on what data, and how to make it again.
//! Nothing is computed here but layout.

mod format;
mod page;
mod plots;
mod tables;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::learning::evaluate::Evaluation;
use crate::txn::Timestamp;

pub use format::{Unit, interval, maybe, name, size};

/// The page's file name.
pub const PAGE_FILE: &str = "index.html";
/// The data's file name.
pub const DATA_FILE: &str = "report.json";

/// Rejected rows that a page lists at most.
pub const REJECTS_SHOWN_MAX: usize = 20;

/// An evaluation and where it comes from: the content of `report.json` and of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The figures.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// When it was made.
    pub made_at: Timestamp,
    /// The command that makes it again.
    pub command: String,
    /// The history file, as it was named.
    pub history: String,
    /// The legs file, as it was named.
    pub legs: Option<String>,
    /// Earlier recorded looks at a window that overlaps this one.
    pub looks_before: usize,
    /// The first rows that could not be read, each with its place and why.
    pub rejects: Vec<String>,
}

/// Where a report was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The data.
    pub data: PathBuf,
}

/// The page.
pub fn html(report: &Report) -> String {
    page::page(report).into_string()
}

/// Writes page and data into `folder`, which is made if needed. Each appears whole or not at all.
pub fn write(folder: &Path, report: &Report) -> io::Result<Written> {
    fs::create_dir_all(folder)?;
    let mut data = serde_json::to_string_pretty(report)?;
    data.push('\n');
    Ok(Written {
        page: replace(folder, PAGE_FILE, html(report).as_bytes())?,
        data: replace(folder, DATA_FILE, data.as_bytes())?,
    })
}

fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    let path = folder.join(name);
    let aside = folder.join(format!(".{name}.new"));
    fs::write(&aside, content)?;
    fs::rename(&aside, &path)?;
    Ok(path)
}
