//! By a mapping from somebody else's records to ours, one by one: everything after that is the same
//! for both.

use std::collections::{BTreeMap, HashMap};

use super::HistoryError;
use super::cells::{BadCell, shown};
use super::mapping::{Attempts, Mapping, OTHER};
use super::record::Record;
use super::write::instant;
use crate::txn::Timestamp;

/// Payments of which it is first asked whether they are over.
const SWEEP_FIRST: usize = 1 << 16;

/// Makes our records of theirs.
#[derive(Debug)]
pub(super) struct Translator {
    mapping: Mapping,
    /// Our columns, in the order in which they are made.
    outputs: Vec<Output>,
    timestamp: usize,
    /// Where the columns stand that attempts have in common.
    same: Vec<usize>,
    txn_id: Option<usize>,
    payments: Payments,
}

#[derive(Debug)]
struct Output {
    column: &'static str,
    from: From,
}

/// Where a value comes from: a position in their record, mostly.
#[derive(Debug)]
enum From {
    Copied(usize),
    Named(usize, BTreeMap<String, String>),
    Constant(String),
    Time(usize),
    Amount(usize),
    /// So long after the timestamp, where there is a label.
    KnownAfter(usize),
    PaymentId,
    Attempt,
}

/// The newest attempt of each payment.
#[derive(Debug)]
struct Payments {
    known: HashMap<Vec<u8>, Newest>,
    sweep_at: usize,
}

#[derive(Debug, Clone)]
struct Newest {
    at: Timestamp,
    payment: String,
    attempt: u32,
}

impl Translator {
    /// For a file with this header; with the names of its columns that nothing takes.
    pub(super) fn new(
        mapping: &Mapping,
        path: &str,
        header: &Record,
    ) -> Result<(Self, Vec<String>), HistoryError> {
        let theirs: Vec<String> =
            header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        let mut taken = vec![false; theirs.len()];
        let mut find = |wanted: &str, what: &str| {
            let mut places = theirs.iter().enumerate().filter(|(_, name)| *name == wanted);
            let detail = match (places.next(), places.next()) {
                (Some((place, _)), None) => {
                    taken[place] = true;
                    return Ok(place);
                }
                (Some(_), Some(_)) => format!("column {wanted}, mapped to {what}, is there twice"),
                _ => {
                    let names = shown(theirs.join(", ").as_bytes());
                    format!(
                        "no column {wanted}, which the mapping takes for {what}; there are {names}"
                    )
                }
            };
            Err(HistoryError::Header { path: path.to_owned(), detail })
        };
        let mut outputs = Vec::new();
        for (column, name) in &mapping.columns {
            let place = find(name, column)?;
            let from = match (*column, mapping.values.get(column)) {
                (_, Some(values)) => From::Named(place, values.clone()),
                ("timestamp" | "customer_since" | "labelled_at", _) => From::Time(place),
                ("amount_minor", _) if mapping.amount.is_some() => From::Amount(place),
                _ => From::Copied(place),
            };
            outputs.push(Output { column, from });
        }
        let constant = |(column, value): (&&'static str, &String)| Output {
            column,
            from: From::Constant(value.clone()),
        };
        outputs.extend(mapping.constants.iter().map(constant));
        let position = |wanted: &str| outputs.iter().position(|output| output.column == wanted);
        let known_after = mapping.known_after.and(position("fraud")).map(From::KnownAfter);
        let timestamp = find(&mapping.columns["timestamp"], "timestamp")?;
        let txn_id = mapping.columns.get("txn_id").map(|name| find(name, "txn_id")).transpose()?;
        let same = mapping.attempts.iter().flat_map(|attempts| &attempts.same);
        let same: Vec<usize> = same.map(|name| find(name, "attempts")).collect::<Result<_, _>>()?;
        outputs.extend(known_after.map(|from| Output { column: "labelled_at", from }));
        if mapping.attempts.is_some() {
            outputs.push(Output { column: "payment_id", from: From::PaymentId });
            outputs.push(Output { column: "attempt", from: From::Attempt });
        }
        let ignored = theirs.iter().zip(&taken).filter(|(_, taken)| !**taken);
        let ignored = ignored.map(|(name, _)| shown(name.as_bytes())).collect();
        let payments = Payments { known: HashMap::new(), sweep_at: SWEEP_FIRST };
        let mapping = mapping.clone();
        Ok((Self { mapping, outputs, timestamp, same, txn_id, payments }, ignored))
    }

    /// Our header.
    pub(super) fn header(&self) -> Record {
        let mut header = Record::default();
        for output in &self.outputs {
            header.push(output.column.as_bytes());
        }
        header
    }

    /// Their record as one of ours.
    pub(super) fn translate(
        &mut self,
        theirs: &Record,
        line: u64,
        ours: &mut Record,
    ) -> Result<(), BadCell> {
        ours.clear();
        let at = self.instant(theirs, self.timestamp, "timestamp")?;
        let newest = match (&self.mapping.attempts, at) {
            (Some(attempts), Some(at)) => {
                let id = self.txn_id.and_then(|place| theirs.get(place));
                let id = id.map(|id| String::from_utf8_lossy(id).into_owned());
                let id = id.unwrap_or_else(|| format!("row-{line}"));
                let key: Vec<_> =
                    self.same.iter().map(|at| theirs.get(*at).unwrap_or_default()).collect();
                Some(self.payments.next(key.join(&0), at, id, attempts))
            }
            _ => None,
        };
        for output in &self.outputs {
            let bad = |place: usize, reason: String| BadCell {
                column: output.column,
                value: shown(theirs.get(place).unwrap_or_default()),
                reason,
            };
            match &output.from {
                From::Copied(place) => ours.push(theirs.get(*place).unwrap_or_default()),
                From::Constant(value) => ours.push(value.as_bytes()),
                From::Named(place, values) => {
                    let text = trimmed(theirs, *place);
                    let value = values.get(text.as_ref()).or_else(|| values.get(OTHER));
                    match value {
                        Some(value) => ours.push(value.as_bytes()),
                        None if text.is_empty() => ours.push(b""),
                        None => {
                            let known: Vec<_> = values.keys().map(String::as_str).collect();
                            let known = known.join(", ");
                            return Err(bad(*place, format!("the mapping knows only {known}")));
                        }
                    }
                }
                From::Time(place) if *place == self.timestamp => push_instant(ours, at),
                From::Time(place) => {
                    let at = self.instant(theirs, *place, output.column)?;
                    push_instant(ours, at);
                }
                From::Amount(place) => {
                    let text = trimmed(theirs, *place);
                    let amount = self.mapping.amount.expect("checked when it was made");
                    match text.as_ref() {
                        "" => ours.push(b""),
                        text => {
                            let minor = amount.minor(text).map_err(|why| bad(*place, why))?;
                            ours.push(minor.to_string().as_bytes());
                        }
                    }
                }
                From::KnownAfter(fraud) => {
                    let delay = self.mapping.known_after.unwrap_or_default();
                    let labelled = ours.get(*fraud).is_some_and(|label| !label.is_empty());
                    push_instant(ours, at.filter(|_| labelled).map(|at| at.after(delay)));
                }
                From::PaymentId => {
                    ours.push(newest.as_ref().map_or(b"", |newest| newest.payment.as_bytes()));
                }
                From::Attempt => {
                    let attempt = newest.as_ref().map(|newest| newest.attempt.to_string());
                    ours.push(attempt.unwrap_or_default().as_bytes());
                }
            }
        }
        Ok(())
    }

    fn instant(
        &self,
        theirs: &Record,
        place: usize,
        column: &'static str,
    ) -> Result<Option<Timestamp>, BadCell> {
        let text = trimmed(theirs, place);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |reason| BadCell { column, value: shown(text.as_bytes()), reason };
        self.mapping.time.parse(&text).map(Some).map_err(bad)
    }
}

fn trimmed(record: &Record, place: usize) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(record.get(place).unwrap_or_default().trim_ascii())
}

fn push_instant(record: &mut Record, at: Option<Timestamp>) {
    match at {
        Some(at) => record.push(&instant(at)),
        None => record.push(b""),
    }
}

impl Payments {
    /// The payment of an attempt at an instant, with this one as its newest.
    fn next(&mut self, key: Vec<u8>, at: Timestamp, id: String, attempts: &Attempts) -> Newest {
        let goes_on = |newest: &Newest| newest.at <= at && at.since(newest.at) <= attempts.within;
        let newest = match self.known.get(&key).filter(|newest| goes_on(newest)) {
            Some(newest) => Newest { at, attempt: newest.attempt + 1, ..newest.clone() },
            None => Newest { at, payment: id, attempt: 1 },
        };
        self.known.insert(key, newest.clone());
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, newest| goes_on(newest));
            self.sweep_at = SWEEP_FIRST.max(2 * self.known.len());
        }
        newest
    }
}
