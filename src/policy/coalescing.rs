//! Which transactions share a physical commit, and in what shape: the rule.
//!
//! Two shapes carry a batch. In *one trip* work and PREPARE go together everywhere: a round trip
//! less, but one member that declines spoils it, and the rest is done again. *Work first*: the
//! participant where members decline most works alone, the others hear only of those who are left,
//! and then all prepare; a member that declines there costs nothing. So one trip pays where the
//! batch is likely to hold, which is what the predicted votes say, and where what it saves then is
//! more than what is lost otherwise, which is measured; see [`Coalescing::shape`].

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::txn::{ParticipantName, text_enum};

text_enum!(
    /// How batches are carried out.
    Strategy, "strategy", {
        /// As predicted votes and measured costs say.
        Auto => "auto",
        /// Always work and PREPARE together.
        OneTrip => "one_trip",
        /// Always work first.
        WorkFirst => "work_first",
        /// No batches: every transaction travels alone.
        Alone => "alone",
    }
);

/// Limits of coalescing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoalescingOptions {
    /// How batches are carried out, or that there are none.
    pub strategy: Strategy,
    /// The most members of a batch.
    pub members_max: usize,
    /// The most members of a batch that share a key.
    pub chain_max: usize,
    /// The most batches of one set of participants on their way to a decision at a time. As many
    /// again may be carried out beside them.
    pub journeys_max: usize,
    /// The longest that a batch waits for a lock of somebody else, in milliseconds. Then the member
    /// that needs it is looked for, and waits alone.
    pub lock_wait_ms: u64,
    /// The longest that a transaction waits for others before it is aborted, in milliseconds.
    pub wait_ms_max: u64,
}

impl Default for CoalescingOptions {
    fn default() -> Self {
        Self {
            strategy: Strategy::Auto,
            members_max: 256,
            chain_max: 32,
            journeys_max: 4,
            lock_wait_ms: 100,
            wait_ms_max: 5_000,
        }
    }
}

impl CoalescingOptions {
    /// Checks every bound; the error names key, value and bound.
    pub fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(format!("coalescing.{key} is {value}, it must be between 1 and {max}"))
        };
        within("members_max", self.members_max as u64, 4_096)?;
        within("chain_max", self.chain_max as u64, 4_096)?;
        within("journeys_max", self.journeys_max as u64, 64)?;
        within("lock_wait_ms", self.lock_wait_ms, 60_000)?;
        within("wait_ms_max", self.wait_ms_max, 3_600_000)
    }
}

/// What one journey may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The most members.
    pub members_max: usize,
    /// The most of them that share a key.
    pub chain_max: usize,
}

/// How busy the way to one set of participants is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Journeys on their way.
    pub journeys: usize,
    /// Members on their way.
    pub travelling: usize,
    /// Members that wait.
    pub waiting: usize,
}

/// How a batch is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Work and PREPARE together everywhere.
    OneTrip,
    /// The participant in this place works first.
    WorkFirst(usize),
}

/// A batch may be spoilt once in so many times before one trip costs more than it saves, as long as
/// the costs were not measured: a spoilt batch is done twice and taken back once, a round trip more
/// is about an eighth of that.
const SPOILT_SHARE_MAX: f64 = 0.1;
/// Batches of which each outcome of a shape must have been seen before its costs count, and after
/// which a mean cost has taken in most of what is new.
const COSTS_MIN: u32 = 8;
const COSTS_REMEMBERED: u32 = 64;
/// Attempts of that size after which the cost of a shape that was not tried again counts no more:
/// what looked bad in a bad hour is tried again.
const COSTS_KEPT: u32 = 512;
/// Sizes of batches whose costs are told apart, by powers of two.
const SIZES: usize = 13;
/// A batch has this long to vote, beside its wait for locks, whatever is predicted of its members.
const VOTE_MIN: Duration = Duration::from_secs(1);
/// Members after which an observed rate has taken in most of what is new.
const MEMBERS_REMEMBERED: f64 = 2_000.0;

/// Decides how transactions travel together. What it learns is bounded by the participants.
#[derive(Debug)]
pub struct Coalescing {
    options: CoalescingOptions,
    /// The share of members that each participant declines.
    declined: HashMap<ParticipantName, f64>,
    /// Predicted and observed shares of members that decline anywhere.
    predicted: f64,
    observed: f64,
    /// By size.
    costs: [Costs; SIZES],
}

/// How an attempt ended, for its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// In one trip, and everybody voted yes.
    OneTripHeld,
    /// In one trip, and somebody declined: all was taken back.
    OneTripSpoilt,
    /// Worked first, and committed.
    WorkedFirst,
}

/// How long attempts with batches of one size took, from their start until every participant had
/// committed or taken back.
#[derive(Debug, Clone, Copy, Default)]
struct Costs {
    held: Mean,
    spoilt: Mean,
    first: Mean,
}

impl Costs {
    /// Up to which share of spoilt batches one trip takes no longer than working first: with `p` of
    /// them spoilt and done again, `(1 - p)·held + p·(spoilt + first)` is at most `first`.
    fn spoilt_share_max(&self) -> f64 {
        let seen = |mean: &Mean| (mean.count >= COSTS_MIN).then_some(mean.seconds);
        let fresh = |mean: &Mean| seen(mean).filter(|_| mean.age <= COSTS_KEPT);
        let (Some(held), Some(first)) = (fresh(&self.held), fresh(&self.first)) else {
            return SPOILT_SHARE_MAX;
        };
        // What a spoilt batch loses is at least one that held, until it was seen. It may be rare, so
        // that what was seen stays.
        let spoilt = seen(&self.spoilt).unwrap_or(held);
        ((first - held) / (spoilt + first - held)).clamp(0.0, 1.0)
    }
}

/// A mean that forgets.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    seconds: f64,
    count: u32,
    /// Attempts since the last that it took in.
    age: u32,
}

impl Mean {
    fn take_in(&mut self, seconds: f64) {
        if self.age > COSTS_KEPT {
            self.count = 0;
        }
        self.age = 0;
        self.count = (self.count + 1).min(COSTS_REMEMBERED);
        self.seconds += (seconds - self.seconds) / f64::from(self.count);
    }
}

impl Coalescing {
    /// A rule that has seen nothing.
    pub fn new(options: CoalescingOptions) -> Self {
        Self {
            options,
            declined: HashMap::new(),
            predicted: 0.0,
            observed: 0.0,
            costs: [Costs::default(); SIZES],
        }
    }

    /// Whether transactions travel together at all.
    pub fn is_on(&self) -> bool {
        self.options.strategy != Strategy::Alone
    }

    /// The most batches of one set of participants on their way to a decision; and the most that are
    /// carried out beside these.
    pub fn journeys_max(&self) -> usize {
        self.options.journeys_max
    }

    /// The longest that a batch waits for somebody else's lock.
    pub fn lock_wait_max(&self) -> Duration {
        Duration::from_millis(self.options.lock_wait_ms)
    }

    /// The longest that a transaction waits for others.
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.options.wait_ms_max)
    }

    /// How long a batch's votes are waited for, if its most patient member waits `longest` for its
    /// own: what is predicted of one is too short for many.
    pub fn timeout(&self, longest: Duration) -> Duration {
        longest.max(self.lock_wait_max() + VOTE_MIN)
    }

    /// Whether a journey may begin now, and what it may take; there are no timers. One goes at once
    /// where nobody travels; a second when as many wait as travel; more only when they are full:
    /// few large batches cost less than many small ones.
    /// A batch has at most `members_max`, what all of its participants take.
    pub fn room(&self, load: Load, members_max: usize) -> Option<Room> {
        let full = self.options.members_max.min(members_max).max(1);
        let enough = match load.journeys {
            0 => 1,
            1 => load.travelling.min(full),
            _ => full,
        };
        let goes = load.journeys < self.options.journeys_max && load.waiting >= enough.max(1);
        goes.then_some(Room { members_max: full, chain_max: self.options.chain_max })
    }

    /// How a batch travels whose members have these predicted probabilities of yes votes only, where
    /// there are predictions.
    pub fn shape(&self, successes: &[Option<f64>], participants: &[ParticipantName]) -> Shape {
        let share = |name| self.declined.get(name).copied().unwrap_or_default();
        let most = (0..participants.len()).reduce(|best, at| {
            if share(&participants[at]) > share(&participants[best]) { at } else { best }
        });
        let first = Shape::WorkFirst(most.unwrap_or_default());
        match self.options.strategy {
            Strategy::OneTrip => Shape::OneTrip,
            Strategy::WorkFirst => first,
            Strategy::Auto | Strategy::Alone => {
                let costs = &self.costs[size(successes.len())];
                if self.spoilt(successes) <= costs.spoilt_share_max() {
                    Shape::OneTrip
                } else {
                    first
                }
            }
        }
    }

    /// The probability that somebody declines, votes taken as independent. Of whom nothing is
    /// predicted, as many decline as of all that were seen.
    fn spoilt(&self, successes: &[Option<f64>]) -> f64 {
        // A model that is off by a factor is put right by what was seen.
        let factor = if self.predicted > 0.0 { self.observed / self.predicted } else { 1.0 };
        let declines = |yes: &Option<f64>| match yes {
            Some(yes) => ((1.0 - yes) * factor).clamp(0.0, 1.0),
            None => self.observed,
        };
        let holds: f64 = successes.iter().map(|yes| 1.0 - declines(yes)).product();
        1.0 - holds
    }

    /// Learns from a batch: how many of its members a participant declined.
    pub fn observe(&mut self, participant: &ParticipantName, members: usize, declined: usize) {
        let share = self.declined.entry(participant.clone()).or_default();
        blend(share, declined, members);
    }

    /// Learns from a batch: what was predicted of its members, and how many declined.
    pub fn observe_batch(&mut self, successes: &[Option<f64>], declined: usize) {
        let known = successes.iter().flatten().count();
        if known > 0 {
            let predicted: f64 = successes.iter().flatten().map(|success| 1.0 - success).sum();
            let known = u32::try_from(known).unwrap_or(u32::MAX);
            self.predicted += weight(known) * (predicted / f64::from(known) - self.predicted);
        }
        blend(&mut self.observed, declined, successes.len());
    }

    /// Learns how long an attempt with so many members took.
    pub fn observe_cost(&mut self, attempt: Attempt, members: usize, took: Duration) {
        let costs = &mut self.costs[size(members)];
        for mean in [&mut costs.held, &mut costs.first] {
            mean.age = mean.age.saturating_add(1);
        }
        let mean = match attempt {
            Attempt::OneTripHeld => &mut costs.held,
            Attempt::OneTripSpoilt => &mut costs.spoilt,
            Attempt::WorkedFirst => &mut costs.first,
        };
        mean.take_in(took.as_secs_f64());
    }
}

fn size(members: usize) -> usize {
    (members.max(1).ilog2() as usize).min(SIZES - 1)
}

fn weight(members: u32) -> f64 {
    let members = f64::from(members);
    members / (members + MEMBERS_REMEMBERED)
}

fn blend(share: &mut f64, count: usize, members: usize) {
    let all = u32::try_from(members.max(1)).unwrap_or(u32::MAX);
    *share += weight(all) * (count as f64 / f64::from(all) - *share);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rule(strategy: Strategy) -> Coalescing {
        Coalescing::new(CoalescingOptions { strategy, ..CoalescingOptions::default() })
    }

    #[test]
    fn one_goes_at_once_and_more_only_when_many_wait() {
        let rule = rule(Strategy::Auto);
        let goes = |journeys, travelling, waiting| {
            rule.room(Load { journeys, travelling, waiting }, usize::MAX).is_some()
        };
        assert!(!goes(0, 0, 0));
        assert!(goes(0, 0, 1));
        assert!(goes(1, 10, 10) && !goes(1, 10, 9));
        assert!(goes(2, 300, 256) && !goes(2, 300, 255));
        assert!(!goes(4, 1_000, 4_000));
        let taken = |waiting, members_max| {
            let room = rule.room(Load { journeys: 2, travelling: 20, waiting }, members_max);
            room.map(|room| room.members_max)
        };
        assert_eq!((taken(9, 10), taken(10, 10), taken(1, 0)), (None, Some(10), Some(1)));
    }

    #[test]
    fn a_batch_that_is_likely_to_hold_goes_in_one_trip_and_others_work_first() {
        let names: Vec<ParticipantName> = ["a", "b"].map(|n| n.parse().unwrap()).into();
        let mut rule = rule(Strategy::Auto);
        let shape = |rule: &Coalescing, n, success| rule.shape(&vec![Some(success); n], &names);
        assert_eq!(shape(&rule, 2, 0.99), Shape::OneTrip);
        assert_eq!(shape(&rule, 128, 0.99), Shape::WorkFirst(0));
        for _ in 0..100 {
            rule.observe(&names[1], 100, 2);
            rule.observe_batch(&[Some(0.9999); 100], 2);
        }
        assert_eq!(shape(&rule, 128, 0.9999), Shape::WorkFirst(1), "the model is too sure");
    }

    #[test]
    fn without_predictions_those_who_declined_before_tell() {
        let names: Vec<ParticipantName> = ["a", "b"].map(|n| n.parse().unwrap()).into();
        let mut rule = rule(Strategy::Auto);
        assert_eq!(rule.shape(&[None; 128], &names), Shape::OneTrip, "nobody ever declined");
        for _ in 0..100 {
            rule.observe(&names[1], 100, 1);
            rule.observe_batch(&[None; 100], 1);
        }
        assert_eq!(rule.shape(&[None; 128], &names), Shape::WorkFirst(1));
        assert_eq!(rule.shape(&[None; 4], &names), Shape::OneTrip);
        assert_eq!(rule.shape(&[Some(1.0); 128], &names), Shape::OneTrip, "of these it is known");
    }

    #[test]
    fn costs_decide_once_they_were_measured() {
        let names: Vec<ParticipantName> = ["a", "b"].map(|n| n.parse().unwrap()).into();
        let mut rule = rule(Strategy::Auto);
        let seen = |rule: &mut Coalescing, attempt, millis| {
            for _ in 0..COSTS_MIN {
                rule.observe_cost(attempt, 20, Duration::from_millis(millis));
            }
        };
        let shape = |rule: &Coalescing, n| rule.shape(&vec![Some(0.99); n], &names);
        // One in 100 declines, so 18 % of these batches are spoilt.
        assert_eq!(shape(&rule, 20), Shape::WorkFirst(0));
        seen(&mut rule, Attempt::OneTripHeld, 5);
        assert_eq!(shape(&rule, 20), Shape::WorkFirst(0), "one cost says nothing");
        seen(&mut rule, Attempt::WorkedFirst, 8);
        seen(&mut rule, Attempt::OneTripSpoilt, 4);
        assert_eq!(shape(&rule, 20), Shape::OneTrip, "3 ms are saved or 4 lost");
        seen(&mut rule, Attempt::OneTripSpoilt, 60);
        assert_eq!(shape(&rule, 20), Shape::WorkFirst(0), "some 30 ms are lost");
        assert_eq!(shape(&rule, 5), Shape::OneTrip, "5 % of others, whose costs nobody knows");
        seen(&mut rule, Attempt::OneTripHeld, 500);
        assert_eq!(rule.shape(&[Some(1.0); 20], &names), Shape::OneTrip, "nothing is ever spoilt");
    }

    #[test]
    fn a_shape_that_was_slow_long_ago_is_tried_again() {
        let names: Vec<ParticipantName> = ["a", "b"].map(|n| n.parse().unwrap()).into();
        let mut rule = rule(Strategy::Auto);
        for attempt in [Attempt::OneTripHeld, Attempt::WorkedFirst] {
            for _ in 0..COSTS_MIN {
                let slow = if attempt == Attempt::OneTripHeld { 900 } else { 8 };
                rule.observe_cost(attempt, 20, Duration::from_millis(slow));
            }
        }
        // Some 4 in 100 of these batches are spoilt.
        let shape = |rule: &Coalescing| rule.shape(&[Some(0.998); 20], &names);
        for _ in 0..COSTS_KEPT - COSTS_MIN {
            assert_eq!(shape(&rule), Shape::WorkFirst(0));
            rule.observe_cost(Attempt::WorkedFirst, 20, Duration::from_millis(8));
        }
        rule.observe_cost(Attempt::WorkedFirst, 20, Duration::from_millis(8));
        assert_eq!(shape(&rule), Shape::OneTrip, "nobody remembers");
        for _ in 0..COSTS_MIN {
            assert_eq!(shape(&rule), Shape::OneTrip);
            rule.observe_cost(Attempt::OneTripHeld, 20, Duration::from_millis(9));
        }
        assert_eq!(shape(&rule), Shape::WorkFirst(0), "new costs, and not the old ones");
    }

    #[test]
    fn limits_are_checked_with_key_value_and_bound() {
        let options = CoalescingOptions { members_max: 0, ..CoalescingOptions::default() };
        let error = options.check().unwrap_err();
        assert_eq!(error, "coalescing.members_max is 0, it must be between 1 and 4096");
    }
}
