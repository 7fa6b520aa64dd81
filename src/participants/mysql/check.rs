//! What a database needs to take part, what it lacks, and the statement that mends it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mysql_async::{Error, Row};

use super::errors::{self, text};
use super::sessions::Session;
use super::{Mysql, Options, batch_message, schema};
use crate::participants::Finding;
use crate::participants::sql::Statement;
use crate::txn::{Epoch, LogId, OperationName, PhysicalId};

/// The oldest servers whose prepared branches outlive their sessions and can be ended by others.
const MARIADB_MIN: (u32, u32, u32) = (10, 5, 0);
const MYSQL_MIN: (u32, u32, u32) = (8, 0, 29);

/// Everything that a claim insists on, but the operations.
pub(super) async fn server(
    session: &mut Session,
    options: &Options,
) -> Result<Vec<Finding>, Error> {
    let sql = "SELECT @@version, @@read_only, @@log_bin, @@binlog_format, \
                      @@innodb_flush_log_at_trx_commit, @@sync_binlog";
    let rows = session.rows(sql).await?;
    let row = rows.first().expect("one row");
    let read_only = column(row, 1) != "0";
    let mut findings = vec![
        version(&column(row, 0)),
        Finding::new(
            "writable",
            !read_only,
            if read_only { "it is read only" } else { "it takes writes" },
            "the URL of the primary",
        ),
    ];
    let flush = column(row, 4);
    findings.push(durable("innodb_flush_log_at_trx_commit", &flush, options));
    if column(row, 2) == "1" {
        findings.push(durable("sync_binlog", &column(row, 5), options));
        let format = column(row, 3);
        let ok = format != "STATEMENT";
        findings.push(Finding::new("binlog_format", ok, format, "SET GLOBAL binlog_format = ROW;"));
    }
    findings.push(recover_right(session).await?);
    let tables = tables(session).await?;
    let there = tables.ok;
    findings.push(tables);
    if there {
        findings.push(table_version(session).await?);
        findings.push(rights(session).await?);
    }
    Ok(findings)
}

pub(super) async fn is_mariadb(session: &mut Session) -> Result<bool, Error> {
    let rows = session.rows("SELECT @@version").await?;
    Ok(rows.first().is_some_and(|row| column(row, 0).contains("MariaDB")))
}

fn version(found: &str) -> Finding {
    let mut numbers = found.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    let mariadb = found.contains("MariaDB");
    let ok = version >= if mariadb { MARIADB_MIN } else { MYSQL_MIN };
    let found = format!("{found}, MariaDB 10.5 or MySQL 8.0.29 or later is needed");
    Finding::new("version", ok, found, "an upgrade")
}

fn durable(name: &'static str, value: &str, options: &Options) -> Finding {
    let allowed = options.allow_unsafe.iter().any(|allowed| allowed == name);
    let remedy = format!("SET GLOBAL {name} = 1; and the same line in the server's options file");
    Finding::new(name, value == "1" || allowed, value, &remedy)
}

async fn recover_right(session: &mut Session) -> Result<Finding, Error> {
    let remedy = "GRANT XA_RECOVER_ADMIN ON *.* TO CURRENT_USER";
    match session.rows("XA RECOVER").await {
        Ok(_) => Ok(Finding::new("XA RECOVER", true, "it is answered", "")),
        Err(Error::Server(error)) => {
            Ok(Finding::new("XA RECOVER", false, text(&Error::Server(error)), remedy))
        }
        Err(error) => Err(error),
    }
}

async fn tables(session: &mut Session) -> Result<Finding, Error> {
    let rows = session.rows(schema::TABLES).await?;
    let remedy = "presume participants init NAME (or the statements of `init --print`)";
    if rows.len() < schema::TABLE_COUNT {
        let found = "presume_server, presume_epoch and presume_marker are not all there";
        return Ok(Finding::new("tables", false, found, remedy));
    }
    match rows.iter().find(|row| !column(row, 1).eq_ignore_ascii_case("InnoDB")) {
        None => Ok(Finding::new("tables", true, "there", remedy)),
        Some(row) => Ok(engine(row)),
    }
}

fn engine(row: &Row) -> Finding {
    let (table, engine) = (column(row, 0), column(row, 1));
    let remedy = format!("ALTER TABLE {table} ENGINE = InnoDB;");
    let found = format!("table {table} is {engine}, which takes no part in transactions");
    Finding::new("engine", false, found, &remedy)
}

async fn table_version(session: &mut Session) -> Result<Finding, Error> {
    let rows = session.rows(schema::SERVER).await?;
    let remedy = "presume participants init NAME";
    Ok(match rows.first().and_then(|row| row.get::<i64, _>(1)) {
        Some(version) => {
            let ours = schema::VERSION;
            let found = format!("version {version}, this program knows {ours}");
            Finding::new("tables' version", version == ours, found, remedy)
        }
        None => Finding::new("tables' version", false, "presume_server is empty", remedy),
    })
}

async fn rights(session: &mut Session) -> Result<Finding, Error> {
    for statement in schema::RIGHTS {
        if let Err(error) = session.try_statement(statement).await {
            let Error::Server(_) = error else { return Err(error) };
            let remedy = "GRANT SELECT, INSERT, UPDATE, DELETE ON the database's tables presume_* \
                          TO CURRENT_USER";
            return Ok(Finding::new("rights", false, text(&error), remedy));
        }
    }
    Ok(Finding::new("rights", true, "on our tables", ""))
}

/// Whether the server takes each operation, and none of them names a table outside transactions.
pub(super) async fn operations(
    session: &mut Session,
    statements: &BTreeMap<OperationName, Arc<Statement>>,
) -> Result<Vec<Finding>, Error> {
    let outside = session.rows(schema::NOT_TRANSACTIONAL).await?;
    let mut findings = Vec::new();
    for (name, statement) in statements {
        let parameters = statement.names();
        let many = batch_message::samples(statement);
        let texts = [vec![statement.sql.clone()], many.map(Vec::from).unwrap_or_default()].concat();
        let mut refused = None;
        for (sql, what) in texts.iter().zip(["", "batch_check: ", "batch_sql: "]) {
            let tried = match what {
                // Prepared alone, it may name columns that are not there.
                "batch_sql: " => session.rows(&format!("EXPLAIN {sql}")).await.map(drop),
                _ => session.try_statement(sql).await,
            };
            if let Err(error) = tried {
                let Error::Server(_) = error else { return Err(error) };
                refused = Some(format!("operation {name}: {what}{}", text(&error)));
                break;
            }
        }
        let known = refused.is_none();
        let found = refused.unwrap_or_else(|| format!("{name}({parameters})"));
        let remedy = format!("the SQL of operation {name} in the configuration");
        findings.push(Finding::new("operation", known, found, &remedy));
        let named = |row: &&Row| texts.iter().any(|sql| names(sql, &column(row, 0)));
        findings.extend(outside.iter().filter(named).map(engine));
    }
    Ok(findings)
}

/// Whether a word of the SQL is this table's name; a column of that name is taken for it.
fn names(sql: &str, table: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    sql.split(|c| !part(c)).any(|word| word.eq_ignore_ascii_case(table))
}

fn column(row: &Row, index: usize) -> String {
    row.get::<Option<String>, _>(index).flatten().unwrap_or_default()
}

impl Mysql {
    /// Looks at everything that taking part needs, the operations included; claims nothing.
    pub async fn check(&self) -> Result<Vec<Finding>, String> {
        let mut session = self.visit().await?;
        let failed = |error: Error| text(&error);
        let mut findings = server(&mut session, &self.0.options).await.map_err(failed)?;
        findings.extend(operations(&mut session, &self.0.statements).await.map_err(failed)?);
        Ok(findings)
    }

    /// Makes our tables where they are missing.
    pub async fn init(&self) -> Result<(), String> {
        let mut session = self.visit().await?;
        session.run(schema::CREATE).await.map_err(|error| text(&error))
    }

    /// The statements of [`Mysql::init`], for a person who has the rights.
    pub fn init_statements() -> &'static str {
        schema::CREATE
    }

    /// See [`Participant::newest_commit`](crate::participants::Participant::newest_commit).
    pub(super) async fn newest(
        &self,
        log: LogId,
        before: Epoch,
    ) -> Result<Option<(Epoch, PhysicalId)>, String> {
        let mut session = self.visit().await?;
        match session.rows(&schema::newest(log, before)).await {
            Ok(rows) => Ok(rows.first().map(|row| {
                let number = |at| row.get::<u64, _>(at).unwrap_or_default();
                (Epoch(number(0)), PhysicalId(number(1)))
            })),
            // A claim says so.
            Err(error) if errors::code(&error) == Some(errors::NO_SUCH_TABLE) => Ok(None),
            Err(error) => Err(text(&error)),
        }
    }

    async fn visit(&self) -> Result<Session, String> {
        Session::visit(&self.0.options, self.0.opts.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_whose_branches_die_with_their_session_are_too_old() {
        for (version, expected) in [
            ("10.11.19-MariaDB-0+deb12u1", true),
            ("11.4.2-MariaDB", true),
            ("10.4.33-MariaDB", false),
            ("8.0.36", true),
            ("8.4.0-commercial", true),
            ("8.0.28", false),
            ("5.7.44-log", false),
            ("", false),
        ] {
            assert_eq!(super::version(version).ok, expected, "{version}");
        }
    }

    #[test]
    fn a_tables_name_is_found_as_a_word() {
        assert!(names("UPDATE `Accounts` SET a = 1", "accounts"));
        assert!(!names("UPDATE accounts_old SET a = 1", "accounts"));
    }
}
