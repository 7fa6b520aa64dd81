//! What each error code means for a vote and for an acknowledgement.
//!
//! A server that answers with an error has not done what it was asked: that is a no, and this table
//! says of which kind. An error of the connection, or one by which the server ends it, leaves the
//! last message unknown.

use std::io;

use mysql_async::{Error, ServerError};

use crate::participants::tls;
use crate::txn::Declined;

/// The branch is not known, or another session owns it.
pub(super) const UNKNOWN_XID: u16 = 1397;
/// The branch was rolled back: nothing had been changed in it.
pub(super) const ROLLED_BACK: u16 = 1402;
/// A branch of this id is there.
pub(super) const DUPLICATE_XID: u16 = 1440;
/// A key is there already.
pub(super) const DUPLICATE_KEY: u16 = 1062;
/// A column may not be null.
pub(super) const NOT_NULL: u16 = 1048;
/// A change in a transaction that only reads.
pub(super) const READ_ONLY_TRANSACTION: u16 = 1792;
/// No such table.
pub(super) const NO_SUCH_TABLE: u16 = 1146;
/// No such session.
pub(super) const NO_SUCH_SESSION: u16 = 1094;

/// What an error says of the message that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refused it: not done.
    Refused(Declined),
    /// Done or not, nobody knows.
    Unknown(String),
}

/// Sorts an error by its code.
pub(super) fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(server) if !ends_the_session(error) => Failure::Refused(declined(server)),
        _ => Failure::Unknown(text(error)),
    }
}

/// Whether the session cannot be used after it.
pub(super) fn ends_the_session(error: &Error) -> bool {
    // Shutdown, connection killed, and what the server says of a connection that breaks.
    code(error).is_none_or(|code| matches!(code, 1053 | 1927 | 1152..=1161 | 1184 | 4031))
}

/// The server's code, unless the error is the connection's.
pub(super) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Server(server) => Some(server.code),
        _ => None,
    }
}

/// An answer that did not come in time.
pub(super) fn late() -> Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into()
}

/// More answers than statements, or fewer.
pub(super) fn out_of_step() -> Error {
    io::Error::new(io::ErrorKind::InvalidData, "not one answer a statement").into()
}

fn declined(error: &ServerError) -> Declined {
    let detail = error.message.clone();
    match business_code(error) {
        Some(business) => Declined::Business { code: business.to_owned(), detail },
        None => Declined::Technical { code: technical_code(error.code), detail },
    }
}

/// The participant's own rules: a retry changes nothing.
fn business_code(error: &ServerError) -> Option<&'static str> {
    match (error.code, error.state.as_str()) {
        (DUPLICATE_KEY | 1586, _) => Some("unique_violation"),
        // Out of range of a calculation, whose state speaks of anything, and of a column.
        (1690 | 1264, _) => Some("bad_value"),
        // MariaDB and MySQL.
        (4025 | 3819, _) => Some("check_violation"),
        (1451 | 1452 | 1216 | 1217, _) => Some("foreign_key_violation"),
        (1644, _) | (_, "45000") => Some("raised_exception"),
        // Text or truncated values, in states that also hold other things.
        (1265 | 1366 | 1364, _) => Some("bad_value"),
        (_, state) if state.starts_with("22") => Some("bad_value"),
        (_, state) if state.starts_with("23") => Some("constraint_violation"),
        _ => None,
    }
}

/// What may succeed later, or once an operator has acted.
fn technical_code(code: u16) -> String {
    let name = match code {
        1205 => "lock_timeout",
        1213 | 1614 => "deadlock",
        1020 => "serialization_failure",
        1969 | 3024 | 1613 => "statement_timeout",
        1317 => "interrupted",
        1040 | 1203 | 1226 => "too_many_connections",
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 => "missing_right",
        1146 => "missing_table",
        1290 | READ_ONLY_TRANSACTION | 1836 => "read_only_server",
        // A statement that commits by itself, such as the making of a table.
        1399 => "not_preparable",
        DUPLICATE_XID => "duplicate_gid",
        ROLLED_BACK => "rolled_back",
        other => return format!("mysql_{other}"),
    };
    name.to_owned()
}

/// An error with its causes, in one line.
pub(super) fn text(error: &Error) -> String {
    if let Error::Server(server) = error {
        return format!("{} ({})", server.message, server.code);
    }
    if let Some(why) = tls::explain(error) {
        return why;
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16, state: &str) -> Error {
        ServerError { code, message: "why".to_owned(), state: state.to_owned() }.into()
    }

    #[test]
    fn codes_are_declines_of_their_kind_or_unknown() {
        for (code, state, expected) in [
            (1062, "23000", "business unique_violation"),
            (4025, "23000", "business check_violation"),
            (1452, "23000", "business foreign_key_violation"),
            (1048, "23000", "business constraint_violation"),
            (1264, "22003", "business bad_value"),
            (1292, "22007", "business bad_value"),
            (1644, "45000", "business raised_exception"),
            (1205, "HY000", "technical lock_timeout"),
            (1213, "40001", "technical deadlock"),
            (1969, "70100", "technical statement_timeout"),
            (1399, "XAE07", "technical not_preparable"),
            (1440, "XAE08", "technical duplicate_gid"),
            (9999, "HY000", "technical mysql_9999"),
            (1053, "08S01", "unknown"),
            (1927, "70100", "unknown"),
        ] {
            let found = match failure(&server(code, state)) {
                Failure::Refused(Declined::Business { code, .. }) => format!("business {code}"),
                Failure::Refused(Declined::Technical { code, .. }) => format!("technical {code}"),
                Failure::Unknown(_) => "unknown".to_owned(),
            };
            assert_eq!(found, expected, "{code}");
        }
        assert!(matches!(failure(&late()), Failure::Unknown(_)));
    }
}
