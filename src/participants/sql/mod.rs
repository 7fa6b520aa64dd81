//! Named operations of database participants: SQL with named parameters, never built from data.
//!
//! A client names an operation and gives parameters; the SQL stands in the configuration. `$name`
//! stands for a parameter wherever a value may stand; it is left alone in texts, quoted names and
//! comments. Values travel apart from the SQL, so no value can become SQL.

mod locks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ConfigurationError;
use super::batch::{Batch, Worked};
use crate::txn::{Declined, Operation, OperationName};

pub(super) use locks::{Group, LockName, groups, keys, parse as parse_locks};

/// The most operations in one branch: what one batch of round trips carries.
pub(super) const OPERATIONS_MAX: usize = 256;
/// The longest SQL of an operation in bytes.
const SQL_BYTES_MAX: usize = 64 * 1024;

/// The most operations in a batch.
const BATCH_OPERATIONS_MAX: usize = 10_000;

/// An operation as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationSql {
    /// One statement, with `$name` for each parameter; none of a service's operation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sql: String,
    /// How many rows it must change or find; anything else is a business decline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_rows: Option<u64>,
    /// What it touches, such as `account/$account`: names with `$name` for a parameter. Nothing
    /// else that it reads or changes may be changed by another operation. With it transactions
    /// travel in batches; without it, alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<Vec<String>>,
    /// The same for many transactions at once, of which no two share a lock. `PostgreSQL`: each
    /// parameter is a list, `$member` one of integers, and it gives one row for each row that `sql`
    /// would have changed or found, the member first (`RETURNING`). `MySQL`: `$batch` is a table
    /// with a column for each parameter and `member`; it changes one row for each of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_sql: Option<String>,
    /// `MySQL` only, which has no `UPDATE … RETURNING`: gives, in a column `member`, those rows of
    /// `$batch` for which `sql` would change one, and locks what these find (`FOR UPDATE`);
    /// `batch_sql` then gets only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_check: Option<String>,
}

impl OperationSql {
    /// An operation whose transactions travel alone.
    pub fn new(sql: impl Into<String>, expect_rows: Option<u64>) -> Self {
        Self { sql: sql.into(), expect_rows, locks: None, batch_sql: None, batch_check: None }
    }
}

/// How a database marks parameters in its SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placeholders {
    /// `$1`, `$2`; a parameter that occurs twice is one.
    Numbered,
    /// `?`; a parameter that occurs twice is given twice.
    Positional,
}

/// An operation with its parameters by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) name: OperationName,
    pub(super) sql: String,
    /// Names in the order of their positions; one may stand at several.
    pub(super) parameters: Vec<String>,
    /// What stands before, between and after them.
    pub(super) pieces: Vec<String>,
    pub(super) expect_rows: Option<u64>,
    /// What it touches, if that is declared.
    locks: Option<Vec<LockName>>,
    /// The same for many.
    pub(super) batch: Option<BatchStatement>,
}

/// The statements of an operation for many transactions at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchStatement {
    pub(super) sql: String,
    /// Names in the order of their positions.
    pub(super) parameters: Vec<String>,
    /// What stands before, between and after them.
    pub(super) pieces: Vec<String>,
    /// The same of what is asked first.
    pub(super) check: Option<Vec<String>>,
}

/// The list of members in the SQL of a batch.
pub(super) const MEMBER: &str = "member";
/// The table of a batch's members with their parameters.
pub(super) const BATCH: &str = "batch";

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
        let Rewritten { sql, parameters, pieces } = rewrite(source, placeholders)?;
        let locks = operation.locks.as_deref();
        let locks = locks.map(|names| parse_locks(names, Some(&parameters))).transpose()?;
        let batch = BatchStatement::parse(operation, &parameters, placeholders)?;
        let name = name.clone();
        let expect_rows = operation.expect_rows;
        Ok(Self { name, sql, parameters, pieces, expect_rows, locks, batch })
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
        if let Some(missing) = self.parameters.iter().find(|name| given.get(name).is_none()) {
            return Err(format!("parameter {missing:?} is missing"));
        }
        match given.keys().find(|name| !self.parameters.iter().any(|known| known == name)) {
            None => Ok(()),
            Some(unknown) => {
                let known = self.names();
                Err(format!("parameter {unknown:?} is unknown; known are {known}"))
            }
        }
    }

    /// Its parameters, each once.
    pub(super) fn names(&self) -> String {
        self.distinct().into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Its parameters, each once.
    pub(super) fn distinct(&self) -> BTreeSet<&str> {
        self.parameters.iter().map(String::as_str).collect()
    }

    /// Parameters that stand in the names of what it locks.
    pub(super) fn locking(&self) -> impl Iterator<Item = &str> {
        self.locks.iter().flatten().flat_map(LockName::parameters)
    }
}

impl BatchStatement {
    fn parse(
        operation: &OperationSql,
        single: &[String],
        placeholders: Placeholders,
    ) -> Result<Option<Self>, String> {
        let Some(source) = &operation.batch_sql else {
            return match &operation.batch_check {
                Some(_) => Err("batch_check stands without batch_sql".to_owned()),
                None => Ok(None),
            };
        };
        if operation.locks.is_none() {
            return Err("batch_sql needs locks: members that share one are kept apart".to_owned());
        }
        if operation.expect_rows.is_none() {
            return Err("batch_sql needs expect_rows: it tells who declines".to_owned());
        }
        if single.iter().any(|name| name == MEMBER || name == BATCH) {
            return Err(format!("batch_sql takes {MEMBER} and {BATCH} for itself"));
        }
        let positional = placeholders == Placeholders::Positional;
        match &operation.batch_check {
            None if positional => {
                return Err("batch_sql needs batch_check at this kind of participant".to_owned());
            }
            Some(_) if !positional => {
                return Err("batch_check has no use at this kind of participant".to_owned());
            }
            Some(_) if operation.expect_rows != Some(1) => {
                return Err(
                    "batch_sql needs expect_rows = 1 at this kind of participant".to_owned()
                );
            }
            Some(check) if !check.to_ascii_uppercase().contains("FOR UPDATE") => {
                let why = "what it found must still be so when batch_sql runs";
                return Err(format!("batch_check needs FOR UPDATE: {why}"));
            }
            _ => {}
        }
        let read = |source: &str, what: &str| {
            let source = source.trim().trim_end_matches(';');
            if source.len() > SQL_BYTES_MAX {
                let bytes = source.len();
                return Err(format!("{what} has {bytes} bytes, at most {SQL_BYTES_MAX}"));
            }
            let read = rewrite(source, placeholders).map_err(|why| format!("{what}: {why}"))?;
            let own = if positional { BATCH } else { MEMBER };
            if !read.parameters.iter().any(|name| name == own) {
                return Err(format!("{what} has no ${own}"));
            }
            let known = |name: &&String| *name != own && (positional || !single.contains(name));
            match read.parameters.iter().find(known) {
                Some(unknown) if positional => {
                    Err(format!("{what} names ${unknown}: write it as a column of $batch"))
                }
                Some(unknown) => Err(format!("{what} names ${unknown}, which sql does not have")),
                None => Ok(read),
            }
        };
        let Rewritten { sql, parameters, pieces } = read(source, "batch_sql")?;
        let check = operation.batch_check.as_deref();
        let check = check.map(|source| read(source, "batch_check")).transpose()?;
        Ok(Some(Self { sql, parameters, pieces, check: check.map(|check| check.pieces) }))
    }
}

/// The operations of a participant.
pub(super) type Statements = BTreeMap<OperationName, Arc<Statement>>;

/// Reads every operation of a participant.
pub(super) fn parse_all(
    operations: &BTreeMap<OperationName, OperationSql>,
    placeholders: Placeholders,
) -> Result<Statements, ConfigurationError> {
    let statement = |(name, operation): (&OperationName, &OperationSql)| {
        let parsed = Statement::parse(name, operation, placeholders);
        let refused = |detail| ConfigurationError::Operation { operation: name.clone(), detail };
        Ok((name.clone(), Arc::new(parsed.map_err(refused)?)))
    };
    operations.iter().map(statement).collect()
}

/// Checks how many operations a batch has; `Err` is what it comes to.
pub(super) fn limit(batch: &Batch) -> Result<(), Worked> {
    let counts = || batch.members.iter().map(|member| member.operations.len());
    if let Some(at) = counts().position(|count| count > OPERATIONS_MAX) {
        let member = &batch.members[at];
        let detail = format!("{} operations, at most {OPERATIONS_MAX}", member.operations.len());
        let why = Declined::Business { code: "too_many_operations".to_owned(), detail };
        return Err(Worked::Failed { why, culprit: Some(member.place) });
    }
    let count: usize = counts().sum();
    if count > BATCH_OPERATIONS_MAX {
        let detail = format!("{count} operations in a batch, at most {BATCH_OPERATIONS_MAX}");
        let why = Declined::Technical { code: "batch_too_large".to_owned(), detail };
        return Err(Worked::Failed { why, culprit: None });
    }
    Ok(())
}

/// Binds every operation of a branch by `one`, whose `Err` is one sentence.
pub(super) fn bind_all<T>(
    operations: &[Operation],
    one: impl Fn(&Operation) -> Result<T, String>,
) -> Result<Vec<T>, Declined> {
    let business = |code: &str, detail| Declined::Business { code: code.to_owned(), detail };
    if operations.len() > OPERATIONS_MAX {
        let detail = format!("{} operations, at most {OPERATIONS_MAX}", operations.len());
        return Err(business("too_many_operations", detail));
    }
    let bound = operations.iter().map(one).collect::<Result<_, String>>();
    bound.map_err(|detail| business("bad_parameter", detail))
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

/// SQL with marks in the places of its parameters.
struct Rewritten {
    sql: String,
    /// By position.
    parameters: Vec<String>,
    /// What stands before, between and after the marks.
    pieces: Vec<String>,
}

fn rewrite(source: &str, placeholders: Placeholders) -> Result<Rewritten, String> {
    let mut sql = String::with_capacity(source.len());
    let mut parameters: Vec<String> = Vec::new();
    let mut pieces: Vec<String> = Vec::new();
    let mut piece = 0;
    let mut rest = source;
    let positional = placeholders == Placeholders::Positional;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\'' | '"' | '`' => quoted(rest, first, placeholders)?,
            '-' if rest.starts_with("--") => line_comment(rest, placeholders)?,
            '#' if positional => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest, placeholders)?,
            '?' if positional => {
                return Err("a '?' would be taken for a parameter".to_owned());
            }
            ';' => return Err("the SQL holds more than one statement".to_owned()),
            '$' => {
                let name = identifier(&rest[1..]);
                if name.is_empty() {
                    return Err("a '$' is not followed by the name of a parameter".to_owned());
                }
                pieces.push(sql[piece..].to_owned());
                sql.push_str(&placeholder(name, placeholders, &mut parameters));
                piece = sql.len();
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
    pieces.push(sql[piece..].to_owned());
    Ok(Rewritten { sql, parameters, pieces })
}

/// What stands in the SQL for a parameter, which gets its place.
fn placeholder(name: &str, placeholders: Placeholders, parameters: &mut Vec<String>) -> String {
    let known = parameters.iter().position(|known| known == name);
    match (placeholders, known) {
        (Placeholders::Numbered, Some(place)) => format!("${}", place + 1),
        (Placeholders::Numbered, None) => {
            parameters.push(name.to_owned());
            format!("${}", parameters.len())
        }
        (Placeholders::Positional, _) => {
            parameters.push(name.to_owned());
            "?".to_owned()
        }
    }
}

/// The length of a comment up to the end of its line.
fn line_comment(text: &str, placeholders: Placeholders) -> Result<usize, String> {
    let spaced = text[2..].chars().next().is_none_or(char::is_whitespace);
    if placeholders == Placeholders::Positional && !spaced {
        return Err("'--' means two things to MySQL unless a space follows".to_owned());
    }
    Ok(text.find('\n').unwrap_or(text.len()))
}

/// The length of a comment in `/*` and `*/`.
fn comment(text: &str, placeholders: Placeholders) -> Result<usize, String> {
    let executed = text.starts_with("/*!") || text.starts_with("/*M!");
    if placeholders == Placeholders::Positional && executed {
        return Err("a comment that MySQL executes depends on its version".to_owned());
    }
    let end = text.find("*/").ok_or("a comment does not end")?;
    Ok(end + 2)
}

/// The length of a quoted piece; a doubled quote is part of it.
fn quoted(text: &str, quote: char, placeholders: Placeholders) -> Result<usize, String> {
    // Between double quotes stands a name, or a text to MySQL.
    let name = quote == '"' && placeholders == Placeholders::Numbered;
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && !name {
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

    fn parse_as(sql: &str, placeholders: Placeholders) -> Result<Statement, String> {
        let operation = OperationSql::new(sql, Some(1));
        Statement::parse(&"debit".parse().unwrap(), &operation, placeholders)
    }

    fn parse(sql: &str) -> Result<Statement, String> {
        parse_as(sql, Placeholders::Numbered)
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
        assert_eq!(parsed.pieces.len(), 4, "before, between and after three marks");
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
    fn a_parameter_without_a_number_is_given_as_often_as_it_occurs() {
        let sql = "UPDATE a SET b = b - $x # $y\n WHERE b >= $x AND c = $z -- $y";
        let parsed = parse_as(sql, Placeholders::Positional).unwrap();
        assert_eq!(parsed.sql, "UPDATE a SET b = b - ? # $y\n WHERE b >= ? AND c = ? -- $y");
        assert_eq!(parsed.parameters, ["x", "x", "z"]);
        assert_eq!(parsed.pieces.join("?"), parsed.sql);
        let given = |params: serde_json::Value| Operation {
            participant: "p".parse().unwrap(),
            operation: "debit".parse().unwrap(),
            params: serde_json::from_value(params).unwrap(),
        };
        let check = |params| parsed.check_names(&given(params));
        assert_eq!(check(serde_json::json!({"x": 1, "z": 2})), Ok(()));
        let error = check(serde_json::json!({"x": 1, "z": 2, "w": 3})).unwrap_err();
        assert_eq!(error, "parameter \"w\" is unknown; known are x, z");
    }

    #[test]
    fn what_mysql_alone_reads_otherwise_is_refused() {
        for (sql, why) in [
            ("SELECT ?", "taken for a parameter"),
            ("SELECT 5--$x", "two things"),
            ("SELECT /*!80000 $x */ 1", "depends on its version"),
            ("SELECT /*M! $x */ 1", "depends on its version"),
            ("SELECT \"a\\\"\", $x", "backslash"),
        ] {
            let error = parse_as(sql, Placeholders::Positional).unwrap_err();
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
            let _ = parse_as(&sql, Placeholders::Positional);
        }
    }
}
