//! What a look at a database found, for a person who mends it.

use std::fmt;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// The statement or command that mends it; empty if nothing is to be mended.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; mend it with: {}", self.remedy) }
    }
}

impl Finding {
    pub(super) fn new(
        what: &'static str,
        ok: bool,
        found: impl Into<String>,
        remedy: &str,
    ) -> Self {
        let remedy = if ok { String::new() } else { remedy.to_owned() };
        Self { what, ok, found: found.into(), remedy }
    }
}
