//! Answers as they are stored: those of a batch in one value, each found by its transaction's id.
//!
//! A batch is a sheaf (see [`super::packed`]) under a number of its own; an id leads to number and
//! position. An answer that is replaced becomes a batch of its own, and its id leads there. Fields
//! of an answer, in order: id, request hash, instant, outcome, flags, protocol, reasons,
//! participants, insights, timings.
//!
//! Folders of format 1 hold answers one by one, as JSON under the id as text. They are read until
//! they are pruned.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Deserialize;

use super::packed::{Damaged, Packer, Sheaf, Unpacker, put_id, put_varint};
use super::rows::{pack_reasons, unpack_id, unpack_name, unpack_probability, unpack_reasons};
use super::{
    ANSWER_BATCHES, ANSWER_IDS, ANSWERS, AnswerRecord, DecisionLog, Error, Given, PRUNE_COUNT_MAX,
};
use crate::store::{Batch, Store};
use crate::txn::{Answer, Insights, Outcome, Protocol, Timestamp, Timings, TxnId};

/// Version of what an id leads to.
const POINTER_VERSION: u8 = 1;

const PROTOCOL: u8 = 1;
const INSIGHTS: u8 = 1 << 1;
/// The confidence is not what follows from the probability of success.
const CONFIDENCE: u8 = 1 << 2;

/// Where an answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    number: u64,
    position: u64,
}

impl Place {
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12);
        bytes.push(POINTER_VERSION);
        put_varint(&mut bytes, self.number);
        put_varint(&mut bytes, self.position);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut from = Unpacker::new(bytes);
        if from.byte()? != POINTER_VERSION {
            return Err(Damaged("of a version that is known"));
        }
        let place = Self { number: from.whole()?, position: from.whole()? };
        from.end()?;
        Ok(place)
    }
}

/// The number that the next batch of answers gets: none that is there or was handed out has it.
pub(super) fn next_number(store: &Store) -> Result<u64, Error> {
    let last = store.last_within(ANSWER_BATCHES, &[0; 8], &[0xff; 8])?;
    let Some((key, _)) = last else { return Ok(1) };
    Ok(number_of(store, &key)? + 1)
}

fn number_of(store: &Store, key: &[u8]) -> Result<u64, Error> {
    let number = <[u8; 8]>::try_from(key);
    let number = number.map_err(|_| store.record_error(ANSWER_BATCHES, key, "not a number"))?;
    Ok(u64::from_be_bytes(number))
}

/// Whether answers of format 1 are there.
pub(super) fn any_old(store: &Store) -> Result<bool, Error> {
    Ok(store.prefix(ANSWERS, b"").next().transpose()?.is_some())
}

impl DecisionLog {
    /// Adds answers to a batch of writes.
    pub(super) fn put_answers<'a>(
        &self,
        batch: &mut Batch,
        answers: impl ExactSizeIterator<Item = Given<'a>> + Clone,
    ) {
        if answers.len() == 0 {
            return;
        }
        let number = self.0.next_answers.fetch_add(1, Ordering::Relaxed);
        for (position, given) in (0..).zip(answers.clone()) {
            let place = Place { number, position };
            let id = key_of(&given.answer.id);
            self.0.seen.add(&id);
            batch.put(ANSWER_IDS, id, place.encode());
        }
        batch.put(ANSWER_BATCHES, number.to_be_bytes().to_vec(), encode(answers));
    }

    pub(super) fn read_answer(&self, id: &TxnId) -> Result<Option<AnswerRecord>, Error> {
        let store = self.store();
        let key = key_of(id);
        let perhaps = self.0.seen.perhaps(&key);
        let mut place = if perhaps { store.get(ANSWER_IDS, &key)? } else { None };
        while let Some(value) = place {
            let found = Place::decode(&value);
            let found = found.map_err(|error| store.record_error(ANSWER_IDS, &key, error))?;
            if let Some(record) = self.answer_at(found, id)? {
                return Ok(Some(record));
            }
            // It may have been replaced or removed since the id was read.
            place = store.get(ANSWER_IDS, &key)?;
            if place.as_ref() == Some(&value) {
                let detail = format!("leads to answers {}, which are not there", found.number);
                return Err(store.record_error(ANSWER_IDS, &key, detail).into());
            }
        }
        if self.0.old_answers.load(Ordering::Relaxed) { self.old_answer(id) } else { Ok(None) }
    }

    fn answer_at(&self, place: Place, id: &TxnId) -> Result<Option<AnswerRecord>, Error> {
        let (store, key) = (self.store(), place.number.to_be_bytes());
        let damaged = |detail: Damaged| store.record_error(ANSWER_BATCHES, &key, detail);
        let Some(value) = store.get(ANSWER_BATCHES, &key)? else { return Ok(None) };
        let record = decode_one(&value, place.position).map_err(damaged)?;
        if record.answer.id != *id {
            return Err(damaged(Damaged("the answer that its id leads to")).into());
        }
        Ok(Some(record))
    }

    fn old_answer(&self, id: &TxnId) -> Result<Option<AnswerRecord>, Error> {
        let (store, key) = (self.store(), id.as_str().as_bytes());
        let Some(value) = store.get(ANSWERS, key)? else { return Ok(None) };
        decode_old(store, key, &value).map(Some)
    }

    /// Removes answers older than the retention and gives their number. They leave in the order in
    /// which they were recorded, so one that was replaced lately stays longer. An answer stays
    /// while it is in doubt, or while its decision or intent is open.
    pub async fn prune_answers(&self, now: Timestamp) -> Result<u64, Error> {
        let before = now.before(self.0.answer_retention);
        let unresolved = self.unresolved()?;
        let stays = |record: &AnswerRecord| {
            record.at >= before
                || record.answer.outcome == Outcome::InDoubt
                || unresolved.contains(&record.answer.id)
        };
        let mut pruned = self.prune_old_answers(stays).await?;
        let store = self.store();
        let (mut batch, mut count) = (Batch::new(), 0);
        for entry in store.prefix(ANSWER_BATCHES, b"") {
            let (key, value) = entry?;
            let number = number_of(store, &key)?;
            let records = decode(&value);
            let records =
                records.map_err(|error| store.record_error(ANSWER_BATCHES, &key, error))?;
            if records.iter().any(|record| record.at >= before) {
                break;
            }
            let mut empty = true;
            for (position, record) in (0..).zip(&records) {
                let id = key_of(&record.answer.id);
                let place = Place { number, position }.encode();
                let current = store.get(ANSWER_IDS, &id)?.as_ref() == Some(&place);
                if current && stays(record) {
                    empty = false;
                } else if current {
                    batch.delete(ANSWER_IDS, id);
                    count += 1;
                }
            }
            if empty {
                batch.delete(ANSWER_BATCHES, key);
            }
            if count >= PRUNE_COUNT_MAX {
                pruned += std::mem::take(&mut count) as u64;
                store.write_lazy(std::mem::take(&mut batch)).await?;
            }
        }
        store.write_lazy(batch).await?;
        pruned += count as u64;
        Ok(pruned)
    }

    async fn prune_old_answers(&self, stays: impl Fn(&AnswerRecord) -> bool) -> Result<u64, Error> {
        if !self.0.old_answers.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let store = self.store();
        let (mut batch, mut pruned, mut left) = (Batch::new(), 0, false);
        for entry in store.prefix(ANSWERS, b"") {
            let (key, value) = entry?;
            let record = decode_old(store, &key, &value)?;
            let replaced = store.get(ANSWER_IDS, &key_of(&record.answer.id))?.is_some();
            if !replaced && stays(&record) {
                left = true;
                continue;
            }
            batch.delete(ANSWERS, key);
            pruned += u64::from(!replaced);
            if batch.len() >= PRUNE_COUNT_MAX {
                store.write_lazy(std::mem::take(&mut batch)).await?;
            }
        }
        store.write_lazy(batch).await?;
        // Nothing of that format is written any more.
        self.0.old_answers.store(left, Ordering::Relaxed);
        Ok(pruned)
    }
}

pub(super) fn key_of(id: &TxnId) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.as_str().len() + 1);
    put_id(&mut key, id.as_str());
    key
}

/// An answer of format 1.
#[derive(Deserialize)]
struct OldAnswer {
    request_hash: String,
    body: Answer,
    at: Timestamp,
}

fn decode_old(store: &Store, key: &[u8], value: &[u8]) -> Result<AnswerRecord, Error> {
    let old: OldAnswer = super::decode(store, ANSWERS, key, value)?;
    Ok(AnswerRecord { answer: old.body, request_hash: old.request_hash, at: old.at })
}

fn confidence(insights: &Insights) -> f64 {
    (2.0 * insights.success_probability.get() - 1.0).abs()
}

/// The value of some answers, at least one.
pub(super) fn encode<'a>(answers: impl ExactSizeIterator<Item = Given<'a>>) -> Vec<u8> {
    let mut answers = answers.peekable();
    let base = answers.peek().map_or(0, |first| first.at.micros());
    let mut packer = Packer::new(base, answers.len() * 160);
    for given in answers {
        pack(&mut packer, &given);
        packer.end_member();
    }
    packer.into_bytes()
}

/// The answers of a value.
pub(super) fn decode(value: &[u8]) -> Result<Vec<AnswerRecord>, Damaged> {
    Sheaf::open(value)?.members(unpack)
}

/// The answer at a position of a value.
pub(super) fn decode_one(value: &[u8], position: u64) -> Result<AnswerRecord, Damaged> {
    Sheaf::open(value)?.nth(position, unpack)
}

fn pack<'a>(to: &mut Packer<'a>, given: &Given<'a>) {
    let answer = given.answer;
    to.id(answer.id.as_str());
    to.hash(given.request_hash);
    to.instant(given.at.micros());
    to.byte(answer.outcome as u8);
    let confident =
        answer.insights.as_ref().is_none_or(|i| confidence(i).to_bits() == i.confidence.to_bits());
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    to.byte(
        flag(answer.protocol.is_some(), PROTOCOL)
            | flag(answer.insights.is_some(), INSIGHTS)
            | flag(!confident, CONFIDENCE),
    );
    answer.protocol.into_iter().for_each(|protocol| to.byte(protocol as u8));
    pack_reasons(to, &answer.reasons);
    to.whole(answer.participants.len() as u64);
    answer.participants.iter().for_each(|name| to.shared(name.as_str()));
    if let Some(insights) = &answer.insights {
        to.real(insights.success_probability.get());
        to.real(insights.fraud_probability.get());
        to.real(insights.timeout_ms);
        if !confident {
            to.real(insights.confidence);
        }
        to.whole(insights.latency_ms.len() as u64);
        for (name, ms) in &insights.latency_ms {
            to.shared(name);
            to.real(*ms);
        }
        to.whole(insights.models.len() as u64);
        for (target, model) in &insights.models {
            to.shared(target);
            to.shared(model);
        }
    }
    let Timings { predict, prepare, commit, total } = answer.timings_ms;
    for ms in [predict, prepare, commit, total] {
        to.real(ms);
    }
}

fn unpack(from: &mut Unpacker<'_>) -> Result<AnswerRecord, Damaged> {
    let (id, request_hash) = (unpack_id(from)?, from.hash()?);
    let at = Timestamp::from_micros(from.instant()?);
    let (outcome, flags) = (from.one_of(Outcome::ALL)?, from.byte()?);
    let has = |flag: u8| flags & flag != 0;
    let answer = Answer {
        id,
        outcome,
        protocol: has(PROTOCOL).then(|| from.one_of(Protocol::ALL)).transpose()?,
        reasons: unpack_reasons(from)?,
        participants: from.list(unpack_name)?,
        insights: has(INSIGHTS).then(|| unpack_insights(from, has(CONFIDENCE))).transpose()?,
        timings_ms: Timings {
            predict: from.real()?,
            prepare: from.real()?,
            commit: from.real()?,
            total: from.real()?,
        },
    };
    Ok(AnswerRecord { answer, request_hash, at })
}

fn unpack_insights(from: &mut Unpacker<'_>, own_confidence: bool) -> Result<Insights, Damaged> {
    let mut insights = Insights {
        success_probability: unpack_probability(from)?,
        fraud_probability: unpack_probability(from)?,
        timeout_ms: from.real()?,
        confidence: 0.0,
        latency_ms: BTreeMap::new(),
        models: BTreeMap::new(),
    };
    insights.confidence = if own_confidence { from.real()? } else { confidence(&insights) };
    let latency = from.list(|from| Ok((from.shared()?.to_owned(), from.real()?)))?;
    insights.latency_ms = latency.into_iter().collect();
    let models = from.list(|from| Ok((from.shared()?.to_owned(), from.shared()?.to_owned())))?;
    insights.models = models.into_iter().collect();
    Ok(insights)
}
