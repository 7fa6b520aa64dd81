//! What operations touch, by declared names, and how many transactions share statements.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::Statement;
use crate::participants::batch::{Key, KeyMap, Member, Style};
use crate::txn::Operation;

/// The most names that an operation may lock.
const LOCKS_MAX: usize = 16;

/// A declared name with its parameters, such as `account/$account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::participants) struct LockName(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Parameter(String),
}

/// Reads the declared names of an operation, whose parameters may be known; `Err` is one sentence.
pub(in crate::participants) fn parse(
    names: &[String],
    parameters: Option<&[String]>,
) -> Result<Vec<LockName>, String> {
    if names.len() > LOCKS_MAX {
        return Err(format!("{} locks, at most {LOCKS_MAX}", names.len()));
    }
    names.iter().map(|name| parse_one(name, parameters)).collect()
}

fn parse_one(name: &str, parameters: Option<&[String]>) -> Result<LockName, String> {
    let mut pieces = Vec::new();
    let mut rest = name;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            pieces.push(Piece::Text(rest[..at].to_owned()));
        }
        let parameter = super::identifier(&rest[at + 1..]);
        if let Some(known) = parameters.filter(|known| !known.iter().any(|it| it == parameter)) {
            let known = known.join(", ");
            return Err(format!(
                "lock {name:?} names ${parameter}, which the SQL does not have; it has {known}"
            ));
        }
        if parameter.is_empty() {
            return Err(format!("lock {name:?}: a '$' is not followed by the name of a parameter"));
        }
        pieces.push(Piece::Parameter(parameter.to_owned()));
        rest = &rest[at + 1 + parameter.len()..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    if pieces.is_empty() {
        return Err("a lock is empty".to_owned());
    }
    Ok(LockName(pieces))
}

impl LockName {
    pub(in crate::participants) fn key(&self, operation: &Operation) -> Key {
        let mut name = String::with_capacity(64);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Parameter(parameter) => match operation.params.get(parameter) {
                    // Texts that differ in anything else may be one to the database: the same UUID,
                    // or a collation's letters and spaces. Two that are not then share a key, which
                    // only costs time.
                    Some(serde_json::Value::String(text)) if text.is_ascii() => {
                        let spoken = text.bytes().filter(u8::is_ascii_alphanumeric);
                        name.extend(spoken.map(|byte| char::from(byte.to_ascii_lowercase())));
                    }
                    Some(serde_json::Value::String(text)) => {
                        let spoken = text.chars().filter(|c| c.is_alphanumeric());
                        name.extend(spoken.flat_map(char::to_lowercase));
                    }
                    Some(other) => {
                        let _ = write!(name, "{other}");
                    }
                    None => {}
                },
            }
        }
        Key::new(&name)
    }

    pub(in crate::participants) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Parameter(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }
}

/// Adds what an operation touches to `keys`; `false` if that is not declared.
pub(in crate::participants) fn keys(
    statement: &Statement,
    operation: &Operation,
    keys: &mut Vec<Key>,
) -> bool {
    let Some(locks) = &statement.locks else { return false };
    keys.extend(locks.iter().map(|lock| lock.key(operation)));
    true
}

/// Operations that are carried out by one statement.
#[derive(Debug, Clone)]
pub(in crate::participants) struct Group {
    pub(in crate::participants) statement: Arc<Statement>,
    /// Members by their index in the batch, and the operation of each.
    pub(in crate::participants) items: Vec<(usize, usize)>,
}

/// Puts the operations of a batch into as few statements as keep the members' order: operations
/// that share a key come in different statements, the earlier member's first.
///
/// `statement` finds the statement of an operation, which was validated. Keys are only looked at if
/// they may be shared.
pub(in crate::participants) fn groups<'a>(
    members: &'a [Member],
    style: Style,
    keys_shared: bool,
    statement: impl Fn(&'a Operation) -> &'a Arc<Statement>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // By key, the group after which the next operation on it must come.
    let mut after: KeyMap<usize> = KeyMap::default();
    // The groups of one statement, in order.
    let mut open: HashMap<*const Statement, Vec<usize>> = HashMap::new();
    let mut touched = Vec::new();
    for (index, member) in members.iter().enumerate() {
        for (which, operation) in member.operations.iter().enumerate() {
            let statement = statement(operation);
            touched.clear();
            let declared = if keys_shared {
                keys(statement, operation, &mut touched)
            } else {
                statement.locks.is_some()
            };
            let together = style == Style::Together && statement.batch.is_some() && declared;
            let earliest =
                touched.iter().filter_map(|key| after.get(key)).max().map_or(0, |last| last + 1);
            let known = open.entry(Arc::as_ptr(statement)).or_default();
            let joined = known.iter().find(|at| together && **at >= earliest).copied();
            let at = joined.unwrap_or_else(|| {
                groups.push(Group { statement: statement.clone(), items: Vec::new() });
                if together {
                    known.push(groups.len() - 1);
                }
                groups.len() - 1
            });
            groups[at].items.push((index, which));
            for key in &touched {
                after.insert(*key, at);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{OperationSql, Placeholders, Statements, parse_all};
    use super::*;

    fn statements() -> Statements {
        let sql = OperationSql {
            locks: Some(vec!["account/$account".to_owned()]),
            batch_sql: Some("SELECT $member, $account".to_owned()),
            ..OperationSql::new("SELECT $account", Some(1))
        };
        let single = OperationSql {
            locks: Some(vec!["account/$account".to_owned()]),
            ..OperationSql::new("SELECT $account", Some(1))
        };
        let operations = BTreeMap::from([
            ("debit".parse().unwrap(), sql.clone()),
            ("credit".parse().unwrap(), sql),
            ("single".parse().unwrap(), single),
        ]);
        parse_all(&operations, Placeholders::Numbered).unwrap()
    }

    fn operation(name: &str, account: usize) -> Operation {
        Operation {
            participant: "p".parse().unwrap(),
            operation: name.parse().unwrap(),
            params: serde_json::from_value(json!({"account": format!("a{account}")})).unwrap(),
        }
    }

    fn members(steps: &[Vec<(&str, usize)>]) -> Vec<Member> {
        let member = |(place, steps): (usize, &Vec<(&str, usize)>)| Member {
            place,
            operations: steps.iter().map(|(name, account)| operation(name, *account)).collect(),
        };
        steps.iter().enumerate().map(member).collect()
    }

    fn shape(steps: &[Vec<(&str, usize)>], style: Style) -> Vec<String> {
        let (statements, members) = (statements(), members(steps));
        let groups = groups(&members, style, true, |operation| &statements[&operation.operation]);
        let shown = |group: &Group| {
            let items: Vec<_> = group.items.iter().map(|(at, _)| at.to_string()).collect();
            format!("{} {}", group.statement.name, items.join(","))
        };
        groups.iter().map(shown).collect()
    }

    #[test]
    fn operations_share_a_statement_unless_they_share_a_key() {
        let distinct =
            [vec![("debit", 1)], vec![("debit", 2)], vec![("credit", 3)], vec![("debit", 4)]];
        assert_eq!(shape(&distinct, Style::Together), ["debit 0,1,3", "credit 2"]);
        let (statements, members) = (statements(), members(&distinct));
        let find = |operation: &'_ Operation| &statements[&operation.operation];
        let of = |shared| groups(&members, Style::Together, shared, find);
        let items = |groups: Vec<Group>| groups.into_iter().map(|group| group.items);
        assert!(items(of(false)).eq(items(of(true))), "keys that nobody shares need no look");
        let hot = [vec![("debit", 1)], vec![("debit", 1)], vec![("debit", 2)], vec![("credit", 1)]];
        assert_eq!(shape(&hot, Style::Together), ["debit 0,2", "debit 1", "credit 3"]);
        let single = [vec![("single", 1)], vec![("debit", 1)], vec![("debit", 2)]];
        assert_eq!(shape(&single, Style::Together), ["single 0", "debit 1,2"]);
        assert_eq!(shape(&hot, Style::OneByOne).len(), 4);
    }

    #[test]
    fn a_lock_names_parameters_of_its_statement() {
        let parse = |name: &str| parse(&[name.to_owned()], Some(&["account".to_owned()]));
        let error = parse("account/$acount").unwrap_err();
        assert!(error.contains("names $acount") && error.contains("it has account"), "{error}");
        assert!(parse("").is_err());
        let lock = &parse("account/$account").unwrap()[0];
        let key = |account: &str| {
            let params = serde_json::from_value(json!({"account": account})).unwrap();
            lock.key(&Operation { params, ..operation("debit", 0) })
        };
        assert_ne!(key("ab"), key("ac"));
        assert_eq!(key("Ab"), key("aB "), "they may be one row");
        let uuid = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
        assert_eq!(key(uuid), key("{a0eebc999c0b4ef8bb6d6bb9bd380a11}"));
    }

    proptest! {
        #[test]
        fn members_that_share_a_key_keep_their_order(
            steps in proptest::collection::vec(
                proptest::collection::vec(
                    (prop_oneof![Just("debit"), Just("credit"), Just("single")], 0_usize..6),
                    1..4,
                ),
                1..40,
            ),
            one_by_one: bool,
        ) {
            let (statements, members) = (statements(), members(&steps));
            let style = if one_by_one { Style::OneByOne } else { Style::Together };
            let groups = groups(&members, style, true, |operation| &statements[&operation.operation]);
            let mut seen: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
            let mut count = 0;
            for group in &groups {
                let mut within = std::collections::BTreeSet::new();
                for (member, which) in &group.items {
                    let account = steps[*member][*which].1;
                    prop_assert!(within.insert(account) , "a key twice in one statement");
                    let place = (*member, *which);
                    if let Some(before) = seen.insert(account, place) {
                        prop_assert!(before < place, "{before:?} came before {place:?}");
                    }
                    count += 1;
                }
            }
            prop_assert_eq!(count, steps.iter().map(Vec::len).sum::<usize>());
        }
    }
}
