//! Outcome rows as they are stored: those of a batch in one value, under the first's sequence.
//!
//! A value of an older folder is one row as JSON. Fields of a row, in order: id, timestamp, flags,
//! kind, customer, segment, since, counterparty, amount, currency, latitude, longitude, attempt,
//! load, outcome, failure class, reasons, total, features, prediction, plan, legs; those that may
//! be missing are there if their flag is. Features are two bits each, 0 for zero, 1 for a missing
//! one, 2 for one, 3 for any other, and the bytes of those others, little-endian.

use std::time::Duration;

use super::packed::{Damaged, Packer, Sheaf, Unpacker};
use super::{OutcomeLeg, OutcomeRow};
use crate::txn::{
    Admission, BranchPlan, LatencyPrediction, LegVote, Mode, Outcome, ParticipantName, Plan,
    Prediction, Probability, Protocol, Reason, ReasonCode, ServedBy, Timestamp, TxnId,
};

/// Rows of one value at most.
pub(super) const RUN_MAX: usize = 1_024;

const ADMISSIONS: &[Admission] = &[Admission::Admit, Admission::Reject];

const CROSS_BORDER: u64 = 1;
const CONSISTENT: u64 = 1 << 1;
const SINCE: u64 = 1 << 2;
const COUNTERPARTY: u64 = 1 << 3;
const LAT: u64 = 1 << 4;
const LON: u64 = 1 << 5;
const LOAD: u64 = 1 << 6;
const FAILURE: u64 = 1 << 7;
const PREDICTION: u64 = 1 << 8;

const VOTE: u8 = 1;
const PREPARE: u8 = 1 << 1;
/// The timeout is not the plan's of the same branch.
const TIMEOUT: u8 = 1 << 2;
const LATE: u8 = 1 << 3;

/// The value of some rows, at least one and at most [`RUN_MAX`].
pub(super) fn encode<'a>(rows: impl ExactSizeIterator<Item = &'a OutcomeRow>) -> Vec<u8> {
    let mut rows = rows.peekable();
    let base = rows.peek().map_or(0, |row| row.timestamp.micros());
    let mut packer = Packer::new(base, rows.len() * 400);
    for row in rows {
        pack(&mut packer, row);
        packer.end_member();
    }
    packer.into_bytes()
}

/// The rows of a value.
pub(super) fn decode(value: &[u8]) -> Result<Vec<OutcomeRow>, String> {
    if value.first() == Some(&b'{') {
        let row = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        return Ok(vec![row]);
    }
    let sheaf = Sheaf::open(value).map_err(|damaged| damaged.to_string())?;
    sheaf.members(unpack).map_err(|damaged| damaged.to_string())
}

/// How many rows a value holds.
pub(super) fn count(value: &[u8]) -> Result<u64, String> {
    if value.first() == Some(&b'{') {
        return Ok(1);
    }
    Sheaf::count_of(value).map_err(|damaged| damaged.to_string())
}

fn pack<'a>(to: &mut Packer<'a>, row: &'a OutcomeRow) {
    to.id(row.txn_id.as_str());
    to.instant(row.timestamp.micros());
    let flag = |is: bool, flag: u64| if is { flag } else { 0 };
    to.whole(
        flag(row.cross_border, CROSS_BORDER)
            | flag(row.requires_consistency, CONSISTENT)
            | flag(row.customer_since.is_some(), SINCE)
            | flag(row.counterparty_id.is_some(), COUNTERPARTY)
            | flag(row.lat.is_some(), LAT)
            | flag(row.lon.is_some(), LON)
            | flag(row.system_load_ratio.is_some(), LOAD)
            | flag(row.failure_class.is_some(), FAILURE)
            | flag(row.prediction.is_some(), PREDICTION),
    );
    to.shared(&row.kind);
    to.text(&row.customer_id);
    to.shared(&row.customer_type);
    if let Some(since) = row.customer_since {
        to.signed(since.micros());
    }
    if let Some(counterparty) = &row.counterparty_id {
        to.text(counterparty);
    }
    to.signed(row.amount_minor);
    to.shared(&row.currency);
    [row.lat, row.lon].into_iter().flatten().for_each(|degrees| to.real(degrees));
    to.whole(u64::from(row.attempt));
    row.system_load_ratio.into_iter().for_each(|load| to.real(load));
    to.byte(row.outcome as u8);
    row.failure_class.iter().for_each(|class| to.shared(class));
    to.whole(row.reasons.len() as u64);
    row.reasons.iter().for_each(|code| to.shared(code));
    to.whole(row.total_us);
    pack_features(to, &row.features);
    row.prediction.iter().for_each(|prediction| pack_prediction(to, prediction));
    pack_plan(to, &row.plan);
    to.whole(row.legs.len() as u64);
    for (at, leg) in row.legs.iter().enumerate() {
        pack_leg(to, leg, planned_ms(&row.plan, at));
    }
}

fn unpack(from: &mut Unpacker<'_>) -> Result<OutcomeRow, Damaged> {
    let txn_id = unpack_id(from)?;
    let timestamp = Timestamp::from_micros(from.instant()?);
    let flags = from.whole()?;
    let has = |flag: u64| flags & flag != 0;
    let mut row = OutcomeRow {
        txn_id,
        timestamp,
        kind: from.shared()?.to_owned(),
        customer_id: from.text()?.to_owned(),
        customer_type: from.shared()?.to_owned(),
        customer_since: has(SINCE)
            .then(|| from.signed().map(Timestamp::from_micros))
            .transpose()?,
        counterparty_id: has(COUNTERPARTY).then(|| from.text().map(str::to_owned)).transpose()?,
        amount_minor: from.signed()?,
        currency: from.shared()?.to_owned(),
        cross_border: has(CROSS_BORDER),
        requires_consistency: has(CONSISTENT),
        lat: has(LAT).then(|| from.real()).transpose()?,
        lon: has(LON).then(|| from.real()).transpose()?,
        attempt: from.whole32()?,
        system_load_ratio: has(LOAD).then(|| from.real()).transpose()?,
        outcome: from.one_of(Outcome::ALL)?,
        failure_class: has(FAILURE).then(|| from.shared().map(str::to_owned)).transpose()?,
        reasons: from.list(|from| from.shared().map(str::to_owned))?,
        total_us: from.whole()?,
        features: unpack_features(from)?,
        prediction: has(PREDICTION).then(|| unpack_prediction(from)).transpose()?,
        plan: unpack_plan(from)?,
        legs: Vec::new(),
    };
    for at in 0..from.length()? {
        row.legs.push(unpack_leg(from, planned_ms(&row.plan, at))?);
    }
    Ok(row)
}

pub(super) fn unpack_id(from: &mut Unpacker<'_>) -> Result<TxnId, Damaged> {
    TxnId::new(&from.id()?).map_err(|_| Damaged("a transaction id"))
}

pub(super) fn unpack_name(from: &mut Unpacker<'_>) -> Result<ParticipantName, Damaged> {
    ParticipantName::new(from.shared()?).map_err(|_| Damaged("a participant's name"))
}

pub(super) fn unpack_probability(from: &mut Unpacker<'_>) -> Result<Probability, Damaged> {
    Probability::new(from.real()?).ok_or(Damaged("a probability"))
}

const ZERO: u8 = 0;
const MISSING: u8 = 1;
const ONE: u8 = 2;
const OTHER: u8 = 3;

fn pack_features(to: &mut Packer<'_>, features: &[f32]) {
    let class = |value: f32| match value.to_bits() {
        bits if bits == 0f32.to_bits() => ZERO,
        bits if bits == f32::NAN.to_bits() => MISSING,
        bits if bits == 1f32.to_bits() => ONE,
        _ => OTHER,
    };
    to.whole(features.len() as u64);
    for four in features.chunks(4) {
        let classes = four.iter().enumerate();
        to.byte(classes.fold(0, |byte, (at, value)| byte | class(*value) << (2 * at)));
    }
    for value in features.iter().filter(|value| class(**value) == OTHER) {
        to.raw(&value.to_le_bytes());
    }
}

fn unpack_features(from: &mut Unpacker<'_>) -> Result<Vec<f32>, Damaged> {
    let count = usize::try_from(from.whole()?).unwrap_or(usize::MAX);
    let classes = from.take(count.div_ceil(4))?;
    let value = |at: usize| match classes[at / 4] >> (2 * (at % 4)) & 3 {
        ZERO => Ok(0.0),
        MISSING => Ok(f32::NAN),
        ONE => Ok(1.0),
        _ => from.bytes4().map(f32::from_le_bytes),
    };
    (0..count).map(value).collect()
}

fn pack_prediction<'a>(to: &mut Packer<'a>, prediction: &'a Prediction) {
    to.real(prediction.success.get());
    to.byte(prediction.success_by as u8);
    to.real(prediction.fraud.get());
    to.byte(prediction.fraud_by as u8);
    to.whole(prediction.latency.len() as u64);
    for leg in &prediction.latency {
        to.shared(leg.participant.as_str());
        to.real(leg.median_ms);
        to.real(leg.upper_ms);
        to.byte(leg.served_by as u8);
    }
    to.shared(&prediction.model_version);
}

fn unpack_prediction(from: &mut Unpacker<'_>) -> Result<Prediction, Damaged> {
    Ok(Prediction {
        success: unpack_probability(from)?,
        success_by: from.one_of(ServedBy::ALL)?,
        fraud: unpack_probability(from)?,
        fraud_by: from.one_of(ServedBy::ALL)?,
        latency: from.list(|from| {
            Ok(LatencyPrediction {
                participant: unpack_name(from)?,
                median_ms: from.real()?,
                upper_ms: from.real()?,
                served_by: from.one_of(ServedBy::ALL)?,
            })
        })?,
        model_version: from.shared()?.to_owned(),
    })
}

fn pack_plan<'a>(to: &mut Packer<'a>, plan: &'a Plan) {
    to.byte(plan.admission as u8);
    to.byte(plan.protocol as u8);
    to.byte(plan.mode as u8);
    to.whole(plan.branches.len() as u64);
    for branch in &plan.branches {
        to.shared(branch.participant.as_str());
        to.whole(branch.prepare_timeout.as_secs());
        to.whole(u64::from(branch.prepare_timeout.subsec_nanos()));
    }
    pack_reasons(to, &plan.reasons);
}

fn unpack_plan(from: &mut Unpacker<'_>) -> Result<Plan, Damaged> {
    Ok(Plan {
        admission: from.one_of(ADMISSIONS)?,
        protocol: from.one_of(Protocol::ALL)?,
        mode: from.one_of(Mode::ALL)?,
        branches: from.list(|from| {
            let participant = unpack_name(from)?;
            let (seconds, nanos) = (from.whole()?, from.whole32()?);
            if nanos >= 1_000_000_000 {
                return Err(Damaged("a part of a second"));
            }
            Ok(BranchPlan { participant, prepare_timeout: Duration::new(seconds, nanos) })
        })?,
        reasons: unpack_reasons(from)?,
    })
}

pub(super) fn pack_reasons(to: &mut Packer<'_>, reasons: &[Reason]) {
    to.whole(reasons.len() as u64);
    for reason in reasons {
        to.byte(reason.code as u8);
        to.text(&reason.detail);
    }
}

pub(super) fn unpack_reasons(from: &mut Unpacker<'_>) -> Result<Vec<Reason>, Damaged> {
    from.list(|from| Ok(Reason::new(from.one_of(ReasonCode::ALL)?, from.text()?)))
}

/// What the leg's timeout is, if it is the plan's.
fn planned_ms(plan: &Plan, at: usize) -> Option<f64> {
    Some(plan.branches.get(at)?.prepare_timeout.as_secs_f64() * 1e3)
}

fn pack_leg<'a>(to: &mut Packer<'a>, leg: &'a OutcomeLeg, planned_ms: Option<f64>) {
    let timeout = planned_ms.map(f64::to_bits) != Some(leg.timeout_ms.to_bits());
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    to.shared(leg.participant.as_str());
    to.byte(
        flag(leg.vote.is_some(), VOTE)
            | flag(leg.prepare_ms.is_some(), PREPARE)
            | flag(timeout, TIMEOUT)
            | flag(leg.late_ms.is_some(), LATE),
    );
    leg.vote.into_iter().for_each(|vote| to.byte(vote as u8));
    leg.prepare_ms.into_iter().for_each(|ms| to.real(ms));
    timeout.then_some(leg.timeout_ms).into_iter().for_each(|ms| to.real(ms));
    leg.late_ms.into_iter().for_each(|ms| to.real(ms));
    to.whole(u64::from(leg.in_flight));
    to.real(leg.health);
}

fn unpack_leg(from: &mut Unpacker<'_>, planned_ms: Option<f64>) -> Result<OutcomeLeg, Damaged> {
    let participant = unpack_name(from)?;
    let flags = from.byte()?;
    let has = |flag: u8| flags & flag != 0;
    Ok(OutcomeLeg {
        participant,
        vote: has(VOTE).then(|| from.one_of(LegVote::ALL)).transpose()?,
        prepare_ms: has(PREPARE).then(|| from.real()).transpose()?,
        timeout_ms: match planned_ms {
            Some(planned) if !has(TIMEOUT) => planned,
            None if !has(TIMEOUT) => return Err(Damaged("a leg with a timeout")),
            _ => from.real()?,
        },
        late_ms: has(LATE).then(|| from.real()).transpose()?,
        in_flight: from.whole32()?,
        health: from.real()?,
    })
}
