//! What each answer means: yes, no, read-only, done, heuristic, or unknown.
//!
//! | answer | to work | to commit | to abort, inquire |
//! |---|---|---|---|
//! | 200 as documented | its vote | `committed` done, `aborted` heuristic | its state |
//! | not sent at all | technical no | unknown | unknown |
//! | 400 401 403 409 413 415 429 with a code | technical no: nothing was done | unknown | unknown |
//! | 404 `unknown_branch` | unknown | heuristic | unknown |
//! | anything else, or none | unknown | unknown | unknown |
//!
//! A status alone means nothing: proxies have theirs, without our codes.

use serde::de::DeserializeOwned;

use super::messages::{BatchAnswer, Listing, Pruned, Refusal, State, StateAnswer, VoteAnswer};
use super::unavailable;
use super::wire::{Reply, Trouble};
use crate::participants::{Ack, Inquiry};
use crate::txn::{Declined, Vote};

/// A service's answer, or none.
pub(super) type Told = Result<Reply, Trouble>;

/// Longest text of a service that is passed on, in characters.
const SHOWN_MAX: usize = 300;

/// A text of a service, bounded and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A service's code, if it is one.
fn code(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&text.len()).then_some(()).filter(|()| text.chars().all(plain))?;
    Some(text.to_owned())
}

/// What a reply says.
pub(super) enum Sorted<T> {
    /// 200 with a body as documented.
    Answer(T),
    /// A refusal that says why.
    Refused(u16, Refusal),
    /// Nothing that can be relied on.
    Unclear(String),
}

/// Sorts a reply by its status and body.
pub(super) fn sort<T: DeserializeOwned>(reply: &Reply) -> Sorted<T> {
    let status = reply.status;
    if status == 200 {
        return match serde_json::from_slice(&reply.body) {
            Ok(answer) => Sorted::Answer(answer),
            Err(error) => Sorted::Unclear(format!("its answer cannot be read: {error}")),
        };
    }
    let refusal = serde_json::from_slice::<Refusal>(&reply.body).ok();
    let refusal = refusal.and_then(|r| Some(Refusal { code: code(&r.code)?, ..r }));
    match (status, refusal) {
        (400..=499, Some(refusal)) => {
            Sorted::Refused(status, Refusal { detail: shown(&refusal.detail), ..refusal })
        }
        (_, Some(Refusal { code, detail, .. })) => {
            Sorted::Unclear(format!("it answered {status} {code}: {}", shown(&detail)))
        }
        (_, None) => Sorted::Unclear(format!("it answered {status}")),
    }
}

/// Whether a refusal with this status means that nothing was done.
fn nothing_done(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 409 | 413 | 415 | 429)
}

fn refused(status: u16, refusal: &Refusal) -> String {
    format!("it refused with {status} {}: {}", refusal.code, refusal.detail)
}

pub(super) fn vote(told: Told) -> Vote {
    match worked::<VoteAnswer>(told) {
        Ok(VoteAnswer::Yes) => Vote::Yes,
        Ok(VoteAnswer::ReadOnly) => Vote::ReadOnly,
        Ok(VoteAnswer::No(declined)) => Vote::No(bounded(declined)),
        Err(vote) => vote,
    }
}

/// The vote on a batch, and who declined by place in the request.
pub(super) fn batch(told: Told) -> Result<(VoteAnswer, Vec<(usize, Declined)>), Vote> {
    let BatchAnswer { vote, declined } = worked(told)?;
    let vote = match vote {
        VoteAnswer::No(declined) => VoteAnswer::No(bounded(declined)),
        vote => vote,
    };
    Ok((vote, declined.into_iter().map(|one| (one.member, bounded(one.why))).collect()))
}

/// An answer to work; `Err` is a no or unknown.
fn worked<T: DeserializeOwned>(told: Told) -> Result<T, Vote> {
    let reply = match told {
        Ok(reply) => reply,
        Err(Trouble::NotSent(detail)) => return Err(Vote::No(unavailable(detail))),
        Err(Trouble::Lost(detail)) => return Err(Vote::Unknown(detail)),
    };
    match sort(&reply) {
        Sorted::Answer(answer) => Ok(answer),
        Sorted::Refused(status, refusal) if nothing_done(status) => {
            let Refusal { code, detail, .. } = refusal;
            let detail = format!("{detail} ({status})");
            Err(Vote::No(Declined::Technical { code, detail }))
        }
        Sorted::Refused(status, refusal) => Err(Vote::Unknown(refused(status, &refusal))),
        Sorted::Unclear(detail) => Err(Vote::Unknown(detail)),
    }
}

fn bounded(declined: Declined) -> Declined {
    let named = |text: &str| code(text).unwrap_or_else(|| "declined".to_owned());
    match declined {
        Declined::Business { code, detail } => {
            Declined::Business { code: named(&code), detail: shown(&detail) }
        }
        Declined::Technical { code, detail } => {
            Declined::Technical { code: named(&code), detail: shown(&detail) }
        }
    }
}

/// How a branch stands after a verdict, or why nobody knows; of a refusal its status and code, too.
fn state(told: Told) -> Result<State, (Option<(u16, String)>, String)> {
    let reply = told.map_err(|trouble| (None, trouble.detail()))?;
    match sort::<StateAnswer>(&reply) {
        Sorted::Answer(answer) => Ok(answer.state),
        Sorted::Refused(status, refusal) => {
            let text = refused(status, &refusal);
            Err((Some((status, refusal.code)), text))
        }
        Sorted::Unclear(detail) => Err((None, detail)),
    }
}

pub(super) fn commit(told: Told) -> Ack {
    match state(told) {
        Ok(State::Committed) => Ack::Done,
        Ok(State::Aborted) => Ack::Heuristic("the branch was aborted".to_owned()),
        Ok(State::Prepared) => Ack::Unknown("it is still prepared".to_owned()),
        Err((Some((404, code)), _)) if code == "unknown_branch" => {
            Ack::Heuristic("the service does not know the branch".to_owned())
        }
        Err((_, detail)) => Ack::Unknown(detail),
    }
}

pub(super) fn abort(told: Told) -> Ack {
    match state(told) {
        Ok(State::Aborted) => Ack::Done,
        Ok(State::Committed) => Ack::Heuristic("the branch was committed".to_owned()),
        Ok(State::Prepared) => Ack::Unknown("it is still prepared".to_owned()),
        Err((_, detail)) => Ack::Unknown(detail),
    }
}

pub(super) fn inquiry(told: Told) -> Inquiry {
    match state(told) {
        Ok(State::Committed) => Inquiry::Committed,
        Ok(State::Aborted) => Inquiry::Aborted,
        Ok(State::Prepared) => Inquiry::Unknown("it is prepared".to_owned()),
        Err((_, detail)) => Inquiry::Unknown(detail),
    }
}

pub(super) fn listing(told: Told) -> Result<Listing, String> {
    answer(told)
}

pub(super) fn pruned(told: Told) -> Result<u64, String> {
    answer::<Pruned>(told).map(|pruned| pruned.removed)
}

fn answer<T: DeserializeOwned>(told: Told) -> Result<T, String> {
    match sort(&told.map_err(Trouble::detail)?) {
        Sorted::Answer(answer) => Ok(answer),
        Sorted::Refused(status, refusal) => Err(refused(status, &refusal)),
        Sorted::Unclear(detail) => Err(detail),
    }
}
