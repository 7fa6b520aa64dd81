//! Named operations of database participants: SQL with named parameters, never built from data.
//!
//! A client names an operation and gives parameters; the SQL stands in the configuration. `$name`
//! stands for a parameter wherever a value may stand; it is left alone in texts, quoted names and
//! comments. Values travel apart from the SQL, so no value can become SQL.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::txn::{Declined, Operation, OperationName};

/// The most operations in one branch: what one batch of round trips carries.
pub(super) const OPERATIONS_MAX: usize = 256;
/// The longest SQL of an operation in bytes.
const SQL_BYTES_MAX: usize = 64 * 1024;

/// An operation as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationSql {
    /// One statement, with `$name` for each parameter.
    pub sql: String,
    /// How many rows it must change or find; anything else is a business decline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_rows: Option<u64>,
}

/// How a database marks parameters in its SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placeholders {
    /// `$1`, `$2`; a parameter that occurs twice is one.
    Numbered,
}

/// An operation with its parameters by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) name: OperationName,
    pub(super) sql: String,
    /// Names in the order of their positions.
    pub(super) parameters: Vec<String>,
    pub(super) expect_rows: Option<u64>,
}

impl Statement {
    /// `Err` is one sentence.
    pub(super) fn parse(
        name: &OperationName,
        operation: &OperationSql,
        placeholders: Placeholders,
    ) -> Result<Self, String> {
        let source = operation.sql.trim().trim_end_matches(';');
        if source.is_empty() {
            return Err("the SQL is empty".to_owned());
        }
        if source.len() > SQL_BYTES_MAX {
            return Err(format!("the SQL has {} bytes, at most {SQL_BYTES_MAX}", source.len()));
        }
        let (sql, parameters) = rewrite(source, placeholders)?;
        Ok(Self { name: name.clone(), sql, parameters, expect_rows: operation.expect_rows })
    }

    /// Checks the number of rows that it changed or found.
    pub(super) fn judge(&self, rows: u64) -> Result<(), Declined> {
        match self.expect_rows {
            Some(expected) if expected != rows => Err(Declined::Business {
                code: self.name.to_string(),
                detail: format!("{} met {rows} rows, {expected} expected", self.name),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that `operation` gives exactly the parameters of this statement.
    pub(super) fn check_names(&self, operation: &Operation) -> Result<(), String> {
        let given = &operation.params;
        if let Some(missing) = self.parameters.iter().find(|name| !given.contains_key(*name)) {
            return Err(format!("parameter {missing:?} is missing"));
        }
        match given.keys().find(|name| !self.parameters.contains(name)) {
            None => Ok(()),
            Some(unknown) => {
                let known = self.parameters.join(", ");
                Err(format!("parameter {unknown:?} is unknown; known are {known}"))
            }
        }
    }
}

/// Finds an operation among those of a participant; `Err` is one sentence.
pub(super) fn find<'a, T>(
    known: &'a BTreeMap<OperationName, T>,
    name: &OperationName,
) -> Result<&'a T, String> {
    known.get(name).ok_or_else(|| {
        let known: Vec<_> = known.keys().map(ToString::to_string).collect();
        format!("operation {:?} is not one of {}", name.as_str(), known.join(", "))
    })
}

fn rewrite(source: &str, placeholders: Placeholders) -> Result<(String, Vec<String>), String> {
    let mut sql = String::with_capacity(source.len());
    let mut parameters: Vec<String> = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\'' | '"' | '`' => quoted(rest, first)?,
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => {
                let end = rest.find("*/").ok_or("a comment does not end")?;
                end + 2
            }
            ';' => return Err("the SQL holds more than one statement".to_owned()),
            '$' => {
                let name = identifier(&rest[1..]);
                if name.is_empty() {
                    return Err("a '$' is not followed by the name of a parameter".to_owned());
                }
                let Placeholders::Numbered = placeholders;
                let place = parameters.iter().position(|known| known == name);
                let place = place.unwrap_or_else(|| {
                    parameters.push(name.to_owned());
                    parameters.len() - 1
                });
                write!(sql, "${}", place + 1).expect("a String takes every write");
                rest = &rest[1 + name.len()..];
                continue;
            }
            // A '$' within a name is part of it.
            c if c.is_alphanumeric() || c == '_' => identifier_with_dollars(rest),
            c => c.len_utf8(),
        };
        sql.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Ok((sql, parameters))
}

/// The length of a quoted piece; a doubled quote is part of it.
fn quoted(text: &str, quote: char) -> Result<usize, String> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote != '"' {
            return Err("a backslash in a text means different things to databases".to_owned());
        }
        if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + 1);
        }
    }
    Err(format!("a {quote} is not closed"))
}

fn identifier(text: &str) -> &str {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let length = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if starts { &text[..length] } else { "" }
}

fn identifier_with_dollars(text: &str) -> usize {
    let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    text.find(|c: char| !inside(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn parse(sql: &str) -> Result<Statement, String> {
        let operation = OperationSql { sql: sql.to_owned(), expect_rows: Some(1) };
        Statement::parse(&"debit".parse().unwrap(), &operation, Placeholders::Numbered)
    }

    #[test]
    fn names_become_positions_and_texts_names_and_comments_are_left_alone() {
        let parsed = parse(
            "UPDATE a SET b = b - $amount, n = '$amount it''s' -- $x\n \
             WHERE id = $account::text AND b >= $amount AND \"$q\" = a$b /* $y */;",
        );
        let parsed = parsed.unwrap();
        assert_eq!(
            parsed.sql,
            "UPDATE a SET b = b - $1, n = '$amount it''s' -- $x\n \
             WHERE id = $2::text AND b >= $1 AND \"$q\" = a$b /* $y */"
        );
        assert_eq!(parsed.parameters, ["amount", "account"]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (sql, why) in [
            ("", "empty"),
            (";", "empty"),
            ("SELECT 1; DROP TABLE a", "more than one"),
            ("SELECT $1", "not followed by the name"),
            ("SELECT $$x$$", "not followed by the name"),
            ("SELECT 'x", "not closed"),
            ("SELECT 'a\\'b'", "backslash"),
            ("SELECT /* x", "does not end"),
        ] {
            let error = parse(sql).unwrap_err();
            assert!(error.contains(why), "{sql}: {error}");
        }
    }

    #[test]
    fn the_wrong_number_of_rows_is_a_decline_in_the_operations_name() {
        let debit = parse("UPDATE a SET b = 1").unwrap();
        assert_eq!(debit.judge(1), Ok(()));
        let Err(Declined::Business { code, detail }) = debit.judge(0) else { panic!() };
        assert_eq!((code.as_str(), detail.as_str()), ("debit", "debit met 0 rows, 1 expected"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(sql in "\\PC{0,80}") {
            let _ = parse(&sql);
        }
    }
}
