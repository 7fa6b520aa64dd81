//! From the bytes of a request to a checked [`Submission`].
//!
//! Everything that can be refused without knowing the participants is refused here. Whether a
//! participant, an operation or an account exists is the coordinator's and the ledger's to say.

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::coordinator::{Submission, Wait};
use crate::txn::{
    CounterpartyId, Currency, Customer, Kind, Location, Money, Operation, Params, ParticipantName,
    Payment, ProtocolRequest, Timestamp, Transaction, TxnId,
};

use super::fields::{Invalid, Object, Place, boolean, integer, list, number, parsed, text};
use super::json::{Json, JsonError};

/// Longest text that a parameter may hold, in bytes.
const PARAM_BYTES_MAX: usize = 1024;

/// Most parameters of one operation.
const PARAMS_COUNT_MAX: usize = 32;

/// Highest attempt; nobody retries more often.
const ATTEMPT_MAX: i64 = 1_000_000;

/// Every whole number up to here is exact as `f64` (2^53).
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Why a request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is not JSON.
    #[error("the body is not JSON: {0}")]
    Malformed(#[from] JsonError),
    /// It is JSON, but a field is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// What this server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Most operations in one transaction.
    pub operations_count_max: usize,
    /// Whether `timestamp` and `system_load_ratio` are the client's to say.
    pub client_time: bool,
}

/// Reads a request body; `key` is the `Idempotency-Key` header.
pub fn parse(body: &[u8], key: Option<TxnId>, rules: Rules) -> Result<Submission, RequestError> {
    let json = Json::parse(body)?;
    Ok(submission(json, key, rules)?)
}

/// Reads a member of a batch, which must say its id; what is wrong comes with the id, if there is
/// one.
pub fn parse_member(
    body: &[u8],
    rules: Rules,
) -> Result<Submission, (Option<TxnId>, RequestError)> {
    let json = Json::parse(body).map_err(|error| (None, error.into()))?;
    let id = match &json {
        Json::Object(fields) => match fields.get("id") {
            Some(Json::Text(id)) => id.parse().ok(),
            Some(Json::Null) | None => {
                let missing = Place::Key(&Place::Root, "id").invalid(
                    "is missing: a member of a batch has one, so that it can be sent again safely",
                );
                return Err((None, missing.into()));
            }
            Some(_) => None,
        },
        _ => None,
    };
    submission(json, None, rules).map_err(|error| (id, error.into()))
}

const FIELDS: &[&str] = &[
    "id",
    "timestamp",
    "wait",
    "kind",
    "customer",
    "counterparty",
    "amount",
    "cross_border",
    "requires_consistency",
    "location",
    "attempt",
    "system_load_ratio",
    "protocol",
    "operations",
];

fn submission(json: Json, key: Option<TxnId>, rules: Rules) -> Result<Submission, Invalid> {
    let mut body = Object::new(&Place::Root, json, FIELDS)?;
    let id = transaction_id(body.optional("id", parsed)?, key)?;
    let event_time = body.optional("timestamp", |place, json| client_time(rules, place, json))?;
    let load = body.optional("system_load_ratio", |place, json| {
        allowed(rules, place)?;
        number(place, json, 0.0, 1e6)
    })?;
    let wait = body.optional("wait", wait)?.unwrap_or_default();
    let protocol = body.optional("protocol", parsed)?.unwrap_or(ProtocolRequest::Auto);
    let mut payment = payment(&mut body)?;
    payment.system_load_ratio = load;
    let operations = body.required("operations", |place, json| {
        list(place, json, (1, rules.operations_count_max), operation)
    })?;
    payment.participants = participants(&operations);
    let transaction = Transaction { id, payment, protocol, operations };
    let request_hash = hash(&transaction, event_time);
    Ok(Submission { transaction, request_hash, event_time, wait })
}

/// The id is the idempotency key: header and body must agree, and the server makes one if both
/// are silent.
fn transaction_id(id: Option<TxnId>, key: Option<TxnId>) -> Result<TxnId, Invalid> {
    match (id, key) {
        (Some(id), Some(key)) if id != key => {
            Err(Place::Key(&Place::Root, "id").invalid(format_args!(
                "{id:?} differs from the Idempotency-Key {key:?}; they are the same thing"
            )))
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Ok(TxnId::from_uuid(Uuid::now_v7())),
    }
}

fn payment(body: &mut Object<'_>) -> Result<Payment, Invalid> {
    let integer_attempt = |place: &Place<'_>, json| integer(place, json, 1, ATTEMPT_MAX);
    let attempt = body.optional("attempt", integer_attempt)?.unwrap_or(1);
    Ok(Payment {
        kind: body.required("kind", parsed::<Kind>)?,
        customer: body.required("customer", customer)?,
        counterparty: body.optional("counterparty", parsed)?,
        amount: body.required("amount", amount)?,
        cross_border: body.optional("cross_border", boolean)?.unwrap_or(false),
        requires_consistency: body.optional("requires_consistency", boolean)?.unwrap_or(true),
        location: body.optional("location", location)?,
        attempt: u32::try_from(attempt).expect("between 1 and a million"),
        system_load_ratio: None,
        participants: Vec::new(),
    })
}

fn allowed(rules: Rules, place: &Place<'_>) -> Result<(), Invalid> {
    if rules.client_time {
        return Ok(());
    }
    Err(place.invalid("is the server's to say, unless server.client_time = true"))
}

fn client_time(rules: Rules, place: &Place<'_>, json: Json) -> Result<Timestamp, Invalid> {
    allowed(rules, place)?;
    parsed(place, json)
}

fn wait(place: &Place<'_>, json: Json) -> Result<Wait, Invalid> {
    match text(place, json)?.as_str() {
        "decision" => Ok(Wait::Decision),
        "applied" => Ok(Wait::Applied),
        other => Err(place.invalid(format_args!("{other:?} is not one of decision applied"))),
    }
}

fn customer(place: &Place<'_>, json: Json) -> Result<Customer, Invalid> {
    let mut fields = Object::new(place, json, &["id", "type", "since"])?;
    Ok(Customer {
        id: fields.required("id", parsed)?,
        customer_type: fields.required("type", parsed)?,
        since: fields.optional("since", parsed)?,
    })
}

fn amount(place: &Place<'_>, json: Json) -> Result<Money, Invalid> {
    let mut fields = Object::new(place, json, &["minor", "currency"])?;
    Ok(Money {
        minor: fields.required("minor", |place, json| integer(place, json, 0, i64::MAX))?,
        currency: fields.required("currency", parsed::<Currency>)?,
    })
}

fn location(place: &Place<'_>, json: Json) -> Result<Location, Invalid> {
    let mut fields = Object::new(place, json, &["lat", "lon"])?;
    Ok(Location {
        lat: fields.required("lat", |place, json| number(place, json, -90.0, 90.0))?,
        lon: fields.required("lon", |place, json| number(place, json, -180.0, 180.0))?,
    })
}

fn operation(place: &Place<'_>, json: Json) -> Result<Operation, Invalid> {
    let mut fields = Object::new(place, json, &["participant", "operation", "params"])?;
    Ok(Operation {
        participant: fields.required("participant", parsed)?,
        operation: fields.required("operation", parsed)?,
        params: fields.optional("params", params)?.unwrap_or_default(),
    })
}

fn params(place: &Place<'_>, json: Json) -> Result<Params, Invalid> {
    let Json::Object(entries) = json else {
        return Err(place.invalid(format_args!("is {}, must be an object", json.type_name())));
    };
    if entries.len() > PARAMS_COUNT_MAX {
        let count = entries.len();
        let detail = format!("has {count} parameters, at most {PARAMS_COUNT_MAX} are allowed");
        return Err(place.invalid(detail));
    }
    entries
        .into_iter()
        .map(|(name, value)| {
            let place = Place::Key(place, &name);
            let value = param(&place, value)?;
            Ok((name.into(), value))
        })
        .collect()
}

/// A parameter is a scalar; what it means is the participant's to say.
fn param(place: &Place<'_>, json: Json) -> Result<serde_json::Value, Invalid> {
    match json {
        Json::Text(text) if text.len() > PARAM_BYTES_MAX => {
            let bytes = text.len();
            Err(place.invalid(format_args!("has {bytes} bytes, the limit is {PARAM_BYTES_MAX}")))
        }
        Json::Text(text) if text.contains('\0') => {
            Err(place.invalid("holds a NUL character, which no database takes"))
        }
        Json::Float(value) if value.abs() > EXACT_MAX => {
            Err(place.invalid(format_args!("{value:?} is too large to be carried exactly")))
        }
        Json::Text(text) => Ok(text.into()),
        Json::Bool(value) => Ok(value.into()),
        Json::Integer(value) => Ok(value.into()),
        Json::Float(value) => Ok((value + 0.0).into()),
        Json::Null | Json::List(_) | Json::Object(_) => Err(place.invalid(format_args!(
            "is {}, must be a text, a number, true or false",
            json.type_name()
        ))),
    }
}

/// Each participant once, in the order in which the operations first name it.
fn participants(operations: &[Operation]) -> Vec<ParticipantName> {
    let mut names: Vec<ParticipantName> = Vec::new();
    for operation in operations {
        if !names.contains(&operation.participant) {
            names.push(operation.participant.clone());
        }
    }
    names
}

/// What the hash is taken over: the meaning of a request, in a fixed order, without its id and
/// without how long the client waits. Defaults count as if they had been written.
#[derive(Serialize)]
struct Canonical<'a> {
    form: u32,
    kind: Kind,
    customer: &'a Customer,
    counterparty: Option<&'a str>,
    amount: Money,
    cross_border: bool,
    requires_consistency: bool,
    location: Option<Location>,
    attempt: u32,
    system_load_ratio: Option<f64>,
    protocol: ProtocolRequest,
    operations: Vec<CanonicalOperation<'a>>,
    timestamp: Option<Timestamp>,
}

#[derive(Serialize)]
struct CanonicalOperation<'a> {
    participant: &'a str,
    operation: &'a str,
    params: &'a Params,
}

/// SHA-256 of the canonical form, in lower-case hex.
fn hash(transaction: &Transaction, timestamp: Option<Timestamp>) -> String {
    let payment = &transaction.payment;
    let canonical = Canonical {
        form: 1,
        kind: payment.kind,
        customer: &payment.customer,
        counterparty: payment.counterparty.as_ref().map(CounterpartyId::as_str),
        amount: payment.amount,
        cross_border: payment.cross_border,
        requires_consistency: payment.requires_consistency,
        location: payment.location,
        attempt: payment.attempt,
        system_load_ratio: payment.system_load_ratio,
        protocol: transaction.protocol,
        operations: transaction
            .operations
            .iter()
            .map(|operation| CanonicalOperation {
                participant: operation.participant.as_str(),
                operation: operation.operation.as_str(),
                params: &operation.params,
            })
            .collect(),
        timestamp,
    };
    let bytes = serde_json::to_vec(&canonical).expect("checked values always serialise");
    hex::encode(Sha256::digest(&bytes))
}
