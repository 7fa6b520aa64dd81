//! One pass over the history: warms up, predicts the test rows, and sets the labels beside.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use super::classifier::Rows;
use super::latency::Legs;
use super::moving_average::Attempts;
use super::result::{Counts, Tuned, Window};
use super::timeouts::{Heard, RULES};
use super::{Error, Options};
use crate::features::{Features, LEG_WIDTH, Replay, State};
use crate::learning::metrics::Leg;
use crate::learning::metrics::bootstrap::{Clusters, Dependence};
use crate::models::Target;
use crate::models::bundle::Bundle;
use crate::txn::{FailureClass, HistoryOutcome, HistoryRow, LegRow, LegVote, Timestamp};

/// The `k` of `mean_plus_k_sd` where the training window has no votes to tune it on.
const K_DEFAULT: f64 = 3.0;

/// Everything that the figures are made of.
#[derive(Default)]
pub(super) struct Collected {
    pub success: Option<Rows>,
    pub fraud: Option<Rows>,
    pub legs: Option<Legs>,
    pub counts: Counts,
    pub tuned: Tuned,
    pub not_evaluated: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

/// What was predicted for one test row.
struct Predicted {
    row: usize,
    success: [f64; 2],
    fraud: [f64; 2],
}

/// Replays `rows` and gathers what the targets need.
pub(super) fn collect(
    rows: &[HistoryRow],
    champion: &Bundle,
    options: &Options,
    window: &Window,
    progress: &mut dyn FnMut(usize),
) -> Result<Collected, Error> {
    let state = State::new(options.features.clone())?;
    let first = rows.partition_point(|row| row.timestamp < window.from);
    let mut collected = Collected::default();
    collected.counts.rows = rows.len();
    collected.counts.rejects = options.rejects;
    collected.counts.rows_warm_up = first;
    collected.counts.rows_test = rows.len() - first;
    let clock = LocalClock::new(&options.features.calendar)?;
    let mut listener = Listener::new(window, clock.clone(), champion);
    let mut replay = Replay::new(state);
    let mut predicted = Vec::with_capacity(rows.len() - first);
    for (number, row) in rows.iter().enumerate() {
        if number % 1024 == 0 {
            progress(number);
        }
        let features = replay.step(row.clone())?;
        listener.before(row, number >= first, &features, &mut collected.counts);
        if number >= first {
            predicted.push(predict(champion, number, &features, &mut collected.counts));
        }
    }
    progress(rows.len());
    collected.tuned.mean_plus_k_sd = listener.k;
    listener.finish(champion, &mut collected);
    success(rows, &predicted, first, window, &clock, champion, &mut collected);
    fraud(rows, &predicted, first, window, &clock, champion, &mut collected);
    if collected.counts.champion_failures > 0 {
        collected.warnings.push(format!(
            "The champion failed to predict {} times; the rules' probabilities stand in.",
            collected.counts.champion_failures
        ));
    }
    Ok(collected)
}

/// Champion and rules for both classifier targets; the rules stand in for a champion that fails.
fn predict(champion: &Bundle, row: usize, features: &Features, counts: &mut Counts) -> Predicted {
    let mut both = |target: Target| {
        let rules = match target {
            Target::Fraud => champion.rules().fraud(&features.txn),
            Target::Success | Target::Latency => champion.rules().success(&features.txn),
        };
        if !champion.has(target) {
            return [rules, rules];
        }
        let made = match target {
            Target::Fraud => champion.predict_fraud(&features.txn),
            Target::Success | Target::Latency => champion.predict_success(&features.txn),
        };
        match made {
            Ok(p) if (0.0..=1.0).contains(&p) => [p, rules],
            Ok(_) | Err(_) => {
                counts.champion_failures += 1;
                [rules, rules]
            }
        }
    };
    Predicted { row, success: both(Target::Success), fraud: both(Target::Fraud) }
}

fn success(
    rows: &[HistoryRow],
    predicted: &[Predicted],
    first: usize,
    window: &Window,
    clock: &LocalClock,
    champion: &Bundle,
    collected: &mut Collected,
) {
    if !is_trained(champion, Target::Success, collected) {
        return;
    }
    let attempts = Attempts::new(rows, |row| Some((row.succeeded()?, row.finished_at()?)));
    let Some(parameters) = attempts.tune(window.baselines_until) else {
        let why = "no outcome was known before the label cut-off, so there is no baseline";
        collected.not_evaluated.insert("success".to_owned(), why.to_owned());
        return;
    };
    let moving_average = attempts.predict(parameters, first);
    collected.tuned.moving_average.insert("success".to_owned(), parameters.to_string());
    let labelled: Vec<&Predicted> =
        predicted.iter().filter(|p| rows[p.row].succeeded().is_some()).collect();
    collected.counts.success_unlabelled = predicted.len() - labelled.len();
    let label = |row: &HistoryRow| row.succeeded().unwrap_or_default();
    let mut table = table(rows, &labelled, clock, label);
    let known = |row: &HistoryRow| {
        let known_at = row.finished_at().unwrap_or(row.timestamp);
        row.succeeded().filter(|_| known_at <= window.baselines_until)
    };
    table.majority = base_rate(rows, known);
    collected.tuned.majority.insert("success".to_owned(), table.majority);
    let n = labelled.len();
    let models = [
        ("champion", labelled.iter().map(|p| p.success[0]).collect()),
        ("majority", vec![table.majority; n]),
        ("rules", labelled.iter().map(|p| p.success[1]).collect()),
        ("moving_average", labelled.iter().map(|p| moving_average[p.row - first]).collect()),
    ];
    table.models = models.into_iter().map(|(name, p)| (name.to_owned(), p)).collect();
    collected.success = Some(table);
}

fn fraud(
    rows: &[HistoryRow],
    predicted: &[Predicted],
    first: usize,
    window: &Window,
    clock: &LocalClock,
    champion: &Bundle,
    collected: &mut Collected,
) {
    if !is_trained(champion, Target::Fraud, collected) {
        return;
    }
    let delay = Duration::from_secs(window.label_delay_s);
    let as_of = |row: &HistoryRow, until: Timestamp| {
        let mature_at = row.timestamp.after(delay);
        let known = mature_at <= until && row.labelled_at.unwrap_or(mature_at) <= until;
        // A blocked payment was never seen to be genuine.
        let blocked = row.outcome == Some(HistoryOutcome::Rejected);
        row.fraud.filter(|fraud| known && (*fraud || !blocked))
    };
    let attempts = Attempts::new(rows, |row| {
        let fraud = as_of(row, Timestamp::LATEST)?;
        let mature_at = row.timestamp.after(delay);
        Some((fraud, mature_at.max(row.labelled_at.unwrap_or(mature_at))))
    });
    let Some(parameters) = attempts.tune(window.baselines_until) else {
        let why = "no label was known before the label cut-off, so there is no baseline";
        collected.not_evaluated.insert("fraud".to_owned(), why.to_owned());
        return;
    };
    let moving_average = attempts.predict(parameters, first);
    collected.tuned.moving_average.insert("fraud".to_owned(), parameters.to_string());
    let counts = &mut collected.counts;
    for p in predicted {
        let row = &rows[p.row];
        let immature = row.timestamp.after(delay) > window.labels_until;
        counts.fraud_immature += usize::from(immature);
        let unlabelled = !immature && as_of(row, window.labels_until).is_none();
        counts.fraud_unlabelled += usize::from(unlabelled);
    }
    let label = |row: &HistoryRow| as_of(row, window.labels_until);
    let labelled: Vec<&Predicted> =
        predicted.iter().filter(|p| label(&rows[p.row]).is_some()).collect();
    let mut table = table(rows, &labelled, clock, |row| label(row).unwrap_or_default());
    table.majority = base_rate(rows, |row| as_of(row, window.baselines_until));
    collected.tuned.majority.insert("fraud".to_owned(), table.majority);
    let models = [
        ("champion", labelled.iter().map(|p| p.fraud[0]).collect()),
        ("majority", vec![table.majority; labelled.len()]),
        ("rules", labelled.iter().map(|p| p.fraud[1]).collect()),
        ("moving_average", labelled.iter().map(|p| moving_average[p.row - first]).collect()),
    ];
    table.models = models.into_iter().map(|(name, p)| (name.to_owned(), p)).collect();
    collected.fraud = Some(table);
}

fn is_trained(champion: &Bundle, target: Target, collected: &mut Collected) -> bool {
    if champion.has(target) {
        return true;
    }
    let why = champion.manifest().not_trained.get(&target).cloned();
    let why = why.unwrap_or_else(|| "it was not trained".to_owned());
    collected.not_evaluated.insert(target.to_string(), format!("the champion has no model: {why}"));
    false
}

/// The share of positives as known before the test window, kept off 0 and 1 by one half row of
/// each class, so that `majority` is never infinitely surprised.
fn base_rate(rows: &[HistoryRow], known: impl Fn(&HistoryRow) -> Option<bool>) -> f64 {
    let (mut n, mut positives) = (0.0, 0.0);
    for label in rows.iter().filter_map(known) {
        n += 1.0;
        positives += f64::from(u8::from(label));
    }
    (positives + 0.5) / (n + 1.0)
}

fn table(
    rows: &[HistoryRow],
    labelled: &[&Predicted],
    clock: &LocalClock,
    label: impl Fn(&HistoryRow) -> bool,
) -> Rows {
    let of = || labelled.iter().map(|p| &rows[p.row]);
    Rows {
        labels: of().map(label).collect(),
        kind: of().map(|row| row.payment.kind.as_str()).collect(),
        customer_type: of().map(|row| row.payment.customer.customer_type.as_str()).collect(),
        amount_minor: of().map(|row| row.payment.amount.minor).collect(),
        currency: of().map(|row| row.payment.amount.currency).collect(),
        total_ms: of()
            .map(|row| row.total.map_or(0.0, |total| total.as_secs_f64() * 1e3))
            .collect(),
        dependence: Dependence {
            days: Clusters::new(of().map(|row| clock.day(row.timestamp))),
            customers: Clusters::new(of().map(|row| &row.payment.customer.id)),
        },
        majority: 0.0,
        models: BTreeMap::new(),
    }
}

/// Local days and peak hours.
#[derive(Clone)]
struct LocalClock {
    zone: jiff::tz::TimeZone,
    peak_hours: Vec<[u8; 2]>,
}

impl LocalClock {
    fn new(calendar: &crate::features::Calendar) -> Result<Self, Error> {
        let zone = jiff::tz::TimeZone::get(&calendar.time_zone).map_err(|error| {
            Error::Replay(crate::features::Error::TimeZone {
                time_zone: calendar.time_zone.clone(),
                detail: error.to_string(),
            })
        })?;
        Ok(Self { zone, peak_hours: calendar.peak_hours.clone() })
    }

    fn day(&self, at: Timestamp) -> jiff::civil::Date {
        self.zone.to_datetime(at.to_jiff()).date()
    }

    fn is_peak(&self, at: Timestamp) -> bool {
        let hour = self.zone.to_datetime(at.to_jiff()).hour() as u8;
        self.peak_hours.iter().any(|[from, to]| (*from..*to).contains(&hour))
    }
}

/// Hears votes when they became known, and asks every timeout rule before each test row.
struct Listener<'a> {
    clock: LocalClock,
    champion: &'a Bundle,
    baselines_until: Timestamp,
    numbers: HashMap<String, u32>,
    heard: Vec<Heard>,
    /// (known at, order, participant, latency bits).
    coming: BinaryHeap<Reverse<(i64, u64, u32, u64)>>,
    order: u64,
    excesses: Vec<f64>,
    k: Option<f64>,
    legs: Vec<Leg>,
    participant: Vec<u32>,
    days: Vec<jiff::civil::Date>,
    customers: Vec<crate::txn::CustomerId>,
    timeouts: Vec<Vec<f64>>,
    champion_timeouts: Vec<f64>,
    late_recorded: bool,
}

impl<'a> Listener<'a> {
    fn new(window: &Window, clock: LocalClock, champion: &'a Bundle) -> Self {
        Self {
            clock,
            champion,
            baselines_until: window.baselines_until,
            numbers: HashMap::new(),
            heard: Vec::new(),
            coming: BinaryHeap::new(),
            order: 0,
            excesses: Vec::new(),
            k: None,
            legs: Vec::new(),
            participant: Vec::new(),
            days: Vec::new(),
            customers: Vec::new(),
            timeouts: vec![Vec::new(); RULES.len()],
            champion_timeouts: Vec::new(),
            late_recorded: false,
        }
    }

    /// Takes one row in: what was known before it, then its legs, whose votes come later.
    fn before(&mut self, row: &HistoryRow, test: bool, features: &Features, counts: &mut Counts) {
        let now = row.timestamp.micros();
        while self.coming.peek().is_some_and(|next| next.0.0 < now) {
            if let Some(Reverse((_, _, participant, bits))) = self.coming.pop() {
                self.heard[participant as usize].hear(f64::from_bits(bits));
            }
        }
        if test && self.k.is_none() {
            self.k = Some(quantile(&mut self.excesses, 0.999).unwrap_or(K_DEFAULT));
        }
        for (position, leg) in row.legs.iter().enumerate() {
            let participant = self.number(leg);
            let latency = leg.latency_ms().filter(|ms| ms.is_finite() && *ms >= 0.0);
            self.late_recorded |= leg.late_ms.is_some();
            if test {
                self.judge(row, leg, participant, position, features, counts);
            } else if row.timestamp < self.baselines_until {
                let excess = latency.and_then(|ms| self.heard[participant as usize].excess(ms));
                self.excesses.extend(excess);
            }
            if let (Some(ms), Some(finished)) = (latency, row.finished_at()) {
                let arrived = row
                    .timestamp
                    .after(Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::MAX));
                let known = finished.max(arrived).micros();
                self.order += 1;
                self.coming.push(Reverse((known, self.order, participant, ms.to_bits())));
            }
        }
    }

    fn number(&mut self, leg: &LegRow) -> u32 {
        if let Some(number) = self.numbers.get(leg.participant.as_str()) {
            return *number;
        }
        let number = self.heard.len() as u32;
        self.numbers.insert(leg.participant.as_str().to_owned(), number);
        self.heard.push(Heard::default());
        number
    }

    fn judge(
        &mut self,
        row: &HistoryRow,
        leg: &LegRow,
        participant: u32,
        position: usize,
        features: &Features,
        counts: &mut Counts,
    ) {
        let latency_ms = leg.latency_ms().filter(|ms| ms.is_finite() && *ms >= 0.0);
        let technical = row.failure_class == Some(FailureClass::Technical);
        counts.legs += 1;
        counts.legs_never_answered += usize::from(latency_ms.is_none());
        self.legs.push(Leg {
            latency_ms,
            could_commit: leg.vote != LegVote::No,
            dead: latency_ms.is_none() || (leg.vote == LegVote::No && technical),
        });
        self.participant.push(participant);
        self.days.push(self.clock.day(row.timestamp));
        self.customers.push(row.payment.customer.id.clone());
        let peak = self.clock.is_peak(row.timestamp);
        let k = self.k.unwrap_or(K_DEFAULT);
        let timeouts = self.heard[participant as usize].timeouts_ms(peak, k);
        for (column, timeout) in self.timeouts.iter_mut().zip(timeouts) {
            column.push(timeout);
        }
        let of_leg = participants_position(row, leg, position).and_then(|at| features.legs.get(at));
        self.champion_timeouts.push(champion_timeout(self.champion, of_leg, counts));
    }

    fn finish(self, champion: &Bundle, collected: &mut Collected) {
        if !is_trained(champion, Target::Latency, collected) {
            return;
        }
        if self.legs.is_empty() {
            let why = "the test window has no legs: give the legs file";
            collected.not_evaluated.insert("latency".to_owned(), why.to_owned());
            return;
        }
        if collected.counts.legs_never_answered > 0 && !self.late_recorded {
            collected.warnings.push(
                "latency: the legs record no late vote, so nobody listened after a timeout: \
                 coverage is overstated for every rule that waits longer than was waited."
                    .to_owned(),
            );
        }
        if champion.conformal().is_some_and(|conformal| !conformal.has_enough_rows()) {
            collected.warnings.push(
                "latency: the champion's multiplier rests on too few legs for its level."
                    .to_owned(),
            );
        }
        let mut names = vec![String::new(); self.heard.len()];
        for (name, number) in self.numbers {
            names[number as usize] = name;
        }
        let mut rules: BTreeMap<String, Vec<f64>> =
            RULES.iter().map(|rule| (*rule).to_owned()).zip(self.timeouts).collect();
        rules.insert("champion".to_owned(), self.champion_timeouts);
        collected.legs = Some(Legs {
            legs: self.legs,
            participant: self.participant,
            names,
            dependence: Dependence {
                days: Clusters::new(self.days),
                customers: Clusters::new(self.customers),
            },
            rules,
        });
    }
}

/// Where the leg's features stand: in the order of the payment's participants.
fn participants_position(row: &HistoryRow, leg: &LegRow, position: usize) -> Option<usize> {
    let participants = &row.payment.participants;
    if participants.get(position) == Some(&leg.participant) {
        return Some(position);
    }
    participants.iter().position(|name| *name == leg.participant)
}

/// Median × conformal multiplier, or the rules' upper bound where the model fails.
fn champion_timeout(
    champion: &Bundle,
    features: Option<&[f32; LEG_WIDTH]>,
    counts: &mut Counts,
) -> f64 {
    let Some(features) = features.filter(|_| champion.has(Target::Latency)) else {
        return super::timeouts::STATIC_MS;
    };
    match champion.predict_latency_ms(features) {
        Ok(median) if median.is_finite() && median > 0.0 => {
            median * champion.conformal_multiplier()
        }
        Ok(_) | Err(_) => {
            counts.champion_failures += 1;
            champion.rules().latency_ms(features).1
        }
    }
}

/// The value with `ceil(level * n)` values at or below it; sorts them.
fn quantile(values: &mut [f64], level: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = ((level * values.len() as f64).ceil() as usize).max(1);
    values.get(rank - 1).copied()
}
