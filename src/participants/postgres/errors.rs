//! What each `SQLSTATE` means for a vote and for an acknowledgement.
//!
//! A server that answers a statement with an error has certainly not prepared its branch: it rolls
//! back what fails. So an error is a no; which kind, this table says. An error
//! of the connection, or one by which the server ends it, leaves the last statement unknown.

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::participants::tls;
use crate::txn::Declined;

/// What an error says of the statement that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refused it: not done.
    Refused(Declined),
    /// Done or not, nobody knows.
    Unknown(String),
}

/// Sorts an error by its code.
pub(super) fn failure(error: &Error) -> Failure {
    let Some(db) = error.as_db_error() else { return Failure::Unknown(text(error)) };
    if ends_the_session(db.code()) {
        return Failure::Unknown(text(error));
    }
    Failure::Refused(declined(db))
}

/// The server says what it says and closes: whether the statement before was done is open.
fn ends_the_session(code: &SqlState) -> bool {
    let shutdown =
        [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    shutdown.contains(code) || code.code().starts_with("08") || code.code() == "57P05"
}

fn declined(db: &DbError) -> Declined {
    let detail = match db.constraint() {
        Some(constraint) => format!("{} (constraint {constraint})", db.message()),
        None => db.message().to_owned(),
    };
    let code = db.code();
    if db.schema() == Some("presume") && *code == SqlState::UNIQUE_VIOLATION {
        let detail = "a tombstone stands in the place of its marker".to_owned();
        return Declined::Technical { code: "aborted_before".to_owned(), detail };
    }
    if db.schema() == Some("presume") && *code == SqlState::NOT_NULL_VIOLATION {
        return fenced();
    }
    match business_code(code) {
        Some(business) => Declined::Business { code: business.to_owned(), detail },
        None => Declined::Technical { code: technical_code(code), detail },
    }
}

/// The branch belongs to an epoch that is over.
pub(super) fn fenced() -> Declined {
    let detail = "the database knows another epoch than the branch's".to_owned();
    Declined::Technical { code: "fenced".to_owned(), detail }
}

/// The participant's own rules: a retry changes nothing.
fn business_code(code: &SqlState) -> Option<&'static str> {
    match code.code() {
        "23505" => Some("unique_violation"),
        "23514" => Some("check_violation"),
        "23503" => Some("foreign_key_violation"),
        "P0001" => Some("raised_exception"),
        other if other.starts_with("23") => Some("constraint_violation"),
        other if other.starts_with("22") => Some("bad_value"),
        _ => None,
    }
}

/// What may succeed later, or once an operator has acted.
fn technical_code(code: &SqlState) -> String {
    let name = match code.code() {
        "40001" => "serialization_failure",
        "40P01" => "deadlock",
        "55P03" => "lock_timeout",
        "57014" => "statement_timeout",
        "53200" => "prepared_slots_exhausted",
        "53300" => "too_many_connections",
        "55000" => "prepared_transactions_disabled",
        "42501" => "missing_right",
        "42P01" => "missing_table",
        "0A000" => "not_preparable",
        "25P02" | "25P01" => "transaction_failed",
        other => return format!("sqlstate_{other}"),
    };
    name.to_owned()
}

/// An error with its causes, in one line.
pub(super) fn text(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    if let Some(why) = tls::explain(error) {
        return why;
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether it is this code.
pub(super) fn is(error: &Error, code: &SqlState) -> bool {
    error.code() == Some(code)
}
