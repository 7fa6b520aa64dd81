#![allow(clippy::unwrap_used)]

mod bad_input;
mod legs;
mod mapped;
mod round_trip;

use std::path::{Path, PathBuf};

use super::*;

/// A small valid history, as text.
const HEADER: &str = "txn_id,timestamp,kind,customer_id,amount_minor,outcome,fraud,labelled_at";
const GOOD: &str = "a,2026-01-01T10:00:00Z,UPI,c1,100,committed,false,2026-01-08T10:00:00Z";

/// A folder that goes with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

fn read_text(bytes: impl AsRef<[u8]>) -> Result<History, HistoryError> {
    let folder = Folder::new();
    read(&folder.file("h.csv", bytes), None, &ReadOptions::default())
}

/// Rows with ids n0, n1 ... after the header.
fn many(count: usize) -> String {
    (0..count).fold(format!("{HEADER}\n"), |text, index| {
        text + &GOOD.replacen('a', &format!("n{index}"), 1) + "\n"
    })
}

/// Sets one bad line after a good one aside, and finds it where it is.
fn check_rejected(bad: impl AsRef<[u8]>, column: &str, value: &str, reason: &str) {
    let text = [HEADER.as_bytes(), b"\n", GOOD.as_bytes(), b"\n", bad.as_ref(), b"\n"].concat();
    let history = read_text(&text).unwrap();
    let shown = format!("{:?}", history.rejects);
    assert_eq!((history.rows.len(), history.rejects.len()), (1, 1), "{shown}");
    let reject = &history.rejects[0];
    assert_eq!((reject.line, reject.column.as_str()), (3, column), "{shown}");
    assert!(reject.value.contains(value) && reject.reason.contains(reason), "{shown}");
    assert!(reject.file.ends_with("h.csv"));
    assert_eq!(history.report.rows_rejected, 1);
}

fn message(result: Result<History, HistoryError>) -> String {
    result.unwrap_err().to_string()
}

fn contains_all(text: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
