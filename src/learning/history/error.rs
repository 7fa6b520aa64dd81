//! Why a history as a whole cannot be used.

use super::Reject;

/// A history that cannot be used. Every kind names the file and asks for a better one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HistoryError {
    /// A file could not be opened, read or written.
    #[error("{path}: {detail}")]
    File {
        /// Which file.
        path: String,
        /// What the system says.
        detail: String,
    },
    /// Not even a header.
    #[error("{path} is empty: a header with at least {required} is needed")]
    Empty {
        /// Which file.
        path: String,
        /// The columns that must be there.
        required: String,
    },
    /// The header cannot be understood.
    #[error("{path}: header: {detail}")]
    Header {
        /// Which file.
        path: String,
        /// Why.
        detail: String,
    },
    /// Required columns are missing.
    #[error(
        "{path} has no column {missing}; required are {required}; a file of another form needs a mapping"
    )]
    MissingColumns {
        /// Which file.
        path: String,
        /// What is missing.
        missing: String,
        /// What must be there.
        required: String,
    },
    /// A header and nothing after it, or bad rows only.
    #[error("{path} has no usable rows: {rejected} of {rows} are bad{}", listed(.first))]
    NoRows {
        /// Which file.
        path: String,
        /// Rows after the header.
        rows: u64,
        /// How many of them are bad.
        rejected: u64,
        /// The first of these.
        first: Vec<Reject>,
    },
    /// More bad rows than allowed.
    #[error(
        "{path}: {rejected} of {rows} rows are bad, at most the share {max_ratio} is tolerated{}",
        listed(.first)
    )]
    TooManyRejects {
        /// Which file.
        path: String,
        /// Bad rows.
        rejected: u64,
        /// Rows read until then.
        rows: u64,
        /// The limit.
        max_ratio: f64,
        /// The first few bad rows.
        first: Vec<Reject>,
    },
    /// A record beyond any reason.
    #[error(
        "{path}:{line}: the record that begins here is longer than {limit} bytes; is a quote \
         left open?"
    )]
    RecordTooLong {
        /// Which file.
        path: String,
        /// Where the record begins.
        line: u64,
        /// The limit.
        limit: usize,
    },
    /// More rows than are read.
    #[error("{path} has more than {limit} rows; split it")]
    TooManyRows {
        /// Which file.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// An option out of range.
    #[error("{option} is {value}, it must be {limit}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would have been right.
        limit: &'static str,
    },
}

/// How many rejects an error message shows.
pub(super) const SHOWN_MAX: usize = 5;

fn listed(rejects: &[Reject]) -> String {
    rejects.iter().take(SHOWN_MAX).fold(String::new(), |mut text, reject| {
        text.push_str("\n  ");
        text.push_str(&reject.to_string());
        text
    })
}
