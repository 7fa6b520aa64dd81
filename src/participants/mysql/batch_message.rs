//! The statements of a batch in one message, and what their answers say of its members.

use std::fmt::Write;
use std::time::Duration;

use mysql_async::{Error, Value};

use super::sessions::{Outcome, Session};
use super::{Claimed, Inner, connection, values};
use crate::participants::batch::{Batch, Member, Verdict, Worked};
use crate::participants::sql::{self, Group, MEMBER, Statement};
use crate::txn::{Declined, Operation};

/// The longest message in bytes; a server takes 4 MB or more.
const MESSAGE_BYTES_MAX: usize = 3 << 20;
/// Keeps who passed a check, as `0,2,5`.
const PASSED: &str = "@presume_passed";

/// What a statement of a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Settings.
    Ours,
    Begin,
    /// An operation of one member, which is in this place of the batch.
    One {
        group: usize,
        member: usize,
    },
    /// Finds and locks what passes.
    Check,
    /// Says who passed.
    Tell {
        group: usize,
    },
    /// The operation of many.
    Many {
        group: usize,
    },
    /// From the marker on.
    End,
}

impl Step {
    /// Whose statement it is, if it is one's alone.
    pub(super) fn member(self) -> Option<usize> {
        match self {
            Self::One { member, .. } => Some(member),
            _ => None,
        }
    }
}

/// The statements of a batch between its beginning and its end.
pub(super) struct Message {
    statements: Vec<(Step, String)>,
    groups: Vec<Group>,
    /// Everything is written as a `SELECT`.
    pub(super) reads: bool,
    limits: String,
}

/// What came of a message.
pub(super) struct Sent {
    steps: Vec<Step>,
    outcomes: Vec<Outcome>,
    pub(super) error: Option<Error>,
    /// The statement that failed, or the last.
    pub(super) step: Step,
}

/// Whether an operation can be part of a message: a procedure answers more than once.
pub(super) fn takes(statement: &Statement) -> bool {
    let verb = statement.sql.split_whitespace().next().unwrap_or_default();
    !verb.eq_ignore_ascii_case("call")
}

impl Message {
    /// `Err` is what the batch comes to.
    pub(super) fn new(inner: &Inner, claimed: &Claimed, batch: &Batch) -> Result<Self, Worked> {
        sql::limit(batch)?;
        let find = |operation: &Operation| {
            inner.statements.get(&operation.operation).expect("validated before")
        };
        let groups = sql::groups(&batch.members, batch.style, batch.keys_shared, find);
        let mut writer = Writer {
            inner,
            members: &batch.members,
            rows: if claimed.mariadb { "" } else { "ROW" },
            statements: Vec::new(),
            reads: true,
        };
        for (at, group) in groups.iter().enumerate() {
            writer.group(at, group)?;
        }
        let Writer { statements, reads, .. } = writer;
        let bytes: usize = statements.iter().map(|(_, sql)| sql.len()).sum();
        if bytes > MESSAGE_BYTES_MAX {
            let detail = format!("its statements have {bytes} bytes, at most {MESSAGE_BYTES_MAX}");
            let why = Declined::Technical { code: "batch_too_large".to_owned(), detail };
            return Err(Worked::Failed { why, culprit: None });
        }
        let limits = patience(inner, batch.lock_wait_max);
        Ok(Self { statements, groups, reads, limits })
    }

    /// Sends everything at once and waits for every answer.
    pub(super) async fn send(
        &self,
        session: &mut Session,
        begin: (Step, String),
        end: Vec<(Step, String)>,
    ) -> Sent {
        let limits = (Step::Ours, self.limits.clone());
        let own = [limits, begin];
        let all = || own.iter().chain(&self.statements).chain(&end);
        let text: Vec<&str> = all().map(|(_, sql)| sql.as_str()).collect();
        let mut steps: Vec<Step> = Vec::with_capacity(text.len());
        for (step, sql) in all() {
            // The end is several.
            let count = if *step == Step::End { sql.split("; ").count() } else { 1 };
            steps.extend(std::iter::repeat_n(*step, count));
        }
        let (outcomes, error) = session.carry(&text.join("; "), steps.len()).await;
        let at = outcomes.len().min(steps.len() - 1);
        let step = steps[at];
        Sent { steps, outcomes, error, step }
    }
}

/// The shortest limits of the server that are no shorter than a batch may wait.
fn patience(inner: &Inner, lock_wait_max: Duration) -> String {
    let options = &inner.options;
    let statement = lock_wait_max.clamp(Duration::from_millis(1), options.listening_horizon);
    let whole_s = statement.as_secs() + u64::from(statement.subsec_nanos() > 0);
    connection::limits(whole_s.min(connection::lock_wait_s(options)), statement)
}

struct Writer<'a> {
    inner: &'a Inner,
    members: &'a [Member],
    /// What stands before a row of values.
    rows: &'static str,
    statements: Vec<(Step, String)>,
    reads: bool,
}

impl Writer<'_> {
    fn group(&mut self, at: usize, group: &Group) -> Result<(), Worked> {
        let batch = group.statement.batch.as_ref().filter(|_| group.items.len() > 1);
        if let Some((batch, check)) = batch.and_then(|b| Some((b, b.check.as_ref()?)))
            && let Some(table) = self.table(group)?
        {
            self.reads = false;
            let check = check.join(&table);
            let passed = format!(
                "(SELECT * FROM {table} presume_members WHERE FIND_IN_SET({MEMBER}, {PASSED}))"
            );
            self.statements.extend([
                (Step::Check, format!("SET {PASSED} = ({})", who_passes(&check))),
                (Step::Tell { group: at }, format!("SELECT {PASSED}")),
                (Step::Many { group: at }, batch.pieces.join(&passed)),
            ]);
            return Ok(());
        }
        group.items.iter().try_for_each(|item| self.one(at, *item))
    }

    fn one(&mut self, group: usize, item: (usize, usize)) -> Result<(), Worked> {
        let (member, which) = item;
        let bound = self.inner.bind_one(&self.members[member].operations[which]);
        let bound = bound.map_err(|why| self.refused(item, why))?;
        self.reads &= bound.reads;
        let mut sql = bound.statement.pieces[0].clone();
        for (value, piece) in bound.values.iter().zip(&bound.statement.pieces[1..]) {
            let _ = write!(sql, " {} {piece}", values::literal(value));
        }
        self.statements.push((Step::One { group, member }, sql));
        Ok(())
    }

    /// A group's members with their parameters as a table; `None` where one parameter has values of
    /// several kinds, which would become one.
    fn table(&self, group: &Group) -> Result<Option<String>, Worked> {
        let names = group.statement.distinct();
        let mut kinds = vec![None; names.len()];
        let mut table = String::with_capacity(group.items.len() * 40);
        for (position, item) in group.items.iter().enumerate() {
            let operation = &self.members[item.0].operations[item.1];
            let first = position == 0;
            let _ = match position {
                0 => write!(table, "(SELECT 0 AS {MEMBER}"),
                1 => write!(table, " UNION ALL VALUES {}(1", self.rows),
                _ => write!(table, ",{}({position}", self.rows),
            };
            for (name, kind) in names.iter().zip(&mut kinds) {
                let value =
                    values::value(operation.params.get(name).unwrap_or(&serde_json::Value::Null))
                        .map_err(|why| self.refused(*item, format!("parameter {name:?} {why}")))?;
                if value != Value::NULL {
                    let found = std::mem::discriminant(&value);
                    if *kind.get_or_insert(found) != found {
                        return Ok(None);
                    }
                }
                let _ = write!(table, ",{}", values::literal(&value));
                if first {
                    let _ = write!(table, " AS `{name}`");
                }
            }
            if !first {
                table.push(')');
            }
        }
        table.push(')');
        Ok(Some(table))
    }

    fn refused(&self, item: (usize, usize), detail: String) -> Worked {
        let why = Declined::Business { code: "bad_parameter".to_owned(), detail };
        Worked::Failed { why, culprit: Some(self.members[item.0].place) }
    }
}

/// The members that a check gives, as one text.
fn who_passes(check: &str) -> String {
    format!("SELECT GROUP_CONCAT(presume_passed.{MEMBER}) FROM ({check}) presume_passed")
}

/// The statements of an operation for many, with one member that has no values: to be prepared, or
/// explained, and never executed. The first is its check.
pub(super) fn samples(statement: &Statement) -> Option<[String; 2]> {
    let batch = statement.batch.as_ref()?;
    let mut table = format!("(SELECT 0 AS {MEMBER}");
    for name in statement.distinct() {
        let _ = write!(table, ", NULL AS `{name}`");
    }
    table.push(')');
    let check = batch.check.as_ref()?.join(&table);
    Some([who_passes(&check), batch.pieces.join(&table)])
}

impl Sent {
    /// What the answers up to the first error say; `Err` is what the batch came to.
    pub(super) fn verdict(&self, batch: &Batch, message: &Message) -> Result<Verdict, Worked> {
        let mut verdict = Verdict::default();
        let mut passed = 0;
        for (step, outcome) in self.steps.iter().zip(&self.outcomes) {
            match *step {
                Step::One { group, member } => {
                    let judged = message.groups[group].statement.judge(outcome.rows);
                    verdict.note(&batch.members, member, judged, outcome.rows);
                }
                Step::Tell { group } => {
                    let group = &message.groups[group];
                    let counts = counts(outcome.first.as_deref(), group.items.len())?;
                    passed = counts.iter().sum();
                    for ((member, _), rows) in group.items.iter().zip(counts) {
                        let judged = group.statement.judge(rows);
                        verdict.note(&batch.members, *member, judged, rows);
                    }
                }
                Step::Many { group } if outcome.rows != passed => {
                    let name = &message.groups[group].statement.name;
                    let rows = outcome.rows;
                    return Err(bad_batch(format!(
                        "{name} met {rows} rows for {passed} members: two of them mean one"
                    )));
                }
                _ => {}
            }
        }
        Ok(verdict)
    }
}

/// How often each position stands in a list such as `0,2,5`.
fn counts(told: Option<&str>, count: usize) -> Result<Vec<u64>, Worked> {
    let mut counts = vec![0; count];
    for position in told.unwrap_or_default().split(',').filter(|piece| !piece.is_empty()) {
        let known = position.parse().ok().and_then(|at: usize| counts.get_mut(at));
        let Some(counted) = known else {
            return Err(bad_batch("batch_check gave a member that it was not given".to_owned()));
        };
        *counted += 1;
    }
    Ok(counts)
}

fn bad_batch(detail: String) -> Worked {
    let why = Declined::Technical { code: "bad_batch_sql".to_owned(), detail };
    Worked::Failed { why, culprit: None }
}
