//! The stream of a history: payments in the order of time, each with the hidden truth.
//!
//! Genuine payments arrive by the world's traffic; retries and campaigns wait on an agenda until
//! their instant. One thread, a fixed order of draws: the same seed gives the same rows. Instants
//! are strictly increasing.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::draft::{Agenda, Draft, Place, What};
use super::fraud::{self, Typology};
use super::kinds::Kinds;
use super::laws::{MICROS_PER_SECOND, Stream, happens, normal, one_of, round_to, stream, uniform};
use super::options::Options;
use super::outcome::{self, Cause, Circumstances, Decliner, Verdict};
use super::participants::{self, Call, ParticipantState};
use super::population::{Counterparty, Population, SimulatedCustomer, Whereabouts};
use super::traffic::{Local, Traffic};
use super::world::{World, WorldError};
use crate::txn::{
    Customer, FailureClass, HistoryOutcome, HistoryRow, LegVote, Money, ParticipantName, Payment,
    Timestamp,
};

/// Share of rows that arrive by traffic, as assumed before any were seen; the rest are retries
/// and campaigns.
const ARRIVALS_RATIO: f64 = 0.955;
/// Weight of that assumption in rows.
const ARRIVALS_RATIO_ROWS: f64 = 2_000.0;

/// What the world knows and no model can: the probabilities behind a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Probability that the transaction commits, given the hidden state at submission.
    pub success: f64,
    /// Probability that it is fraud, given the hidden state: a campaign's purity, or the rate of
    /// insiders among genuine payments.
    pub fraud: f64,
    /// How it is fraud, if it is one.
    pub typology: Option<Typology>,
}

/// One row and its truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The row as a bank would have recorded it, with its legs.
    pub row: HistoryRow,
    /// What is behind it.
    pub truth: Truth,
}

#[derive(Debug)]
struct Streams {
    traffic: ChaCha8Rng,
    payments: ChaCha8Rng,
    outcomes: ChaCha8Rng,
    participants: ChaCha8Rng,
    fraud: ChaCha8Rng,
    labels: ChaCha8Rng,
}

/// Generates a history row by row.
#[derive(Debug)]
pub struct Generator {
    world: World,
    options: Options,
    streams: Streams,
    population: Population,
    participants: Vec<ParticipantState>,
    names: Vec<ParticipantName>,
    kinds: Kinds,
    traffic: Traffic,
    next_arrival: i64,
    agenda: Agenda,
    rows_per_micro: f64,
    now: i64,
    rows: u64,
    arrivals: u64,
}

/// A draft whose blanks are filled in.
struct Settled {
    draft: Draft,
    kind: usize,
    minor: i64,
    whereabouts: Whereabouts,
    cross_border: bool,
    payment: u64,
    attempt: u32,
}

impl Generator {
    /// Sets a world up. Errors name the option that is out of range.
    pub fn new(world: World, options: Options) -> Result<Self, WorldError> {
        options.check()?;
        let [start, end] = options.span();
        let mut rng = stream(options.seed, Stream::Population);
        let population = Population::new(&world, &options, &mut rng)?;
        let mut streams = Streams {
            traffic: stream(options.seed, Stream::Traffic),
            payments: stream(options.seed, Stream::Payments),
            outcomes: stream(options.seed, Stream::Outcomes),
            participants: stream(options.seed, Stream::Participants),
            fraud: stream(options.seed, Stream::Fraud),
            labels: stream(options.seed, Stream::Labels),
        };
        let participants = participants::all(&world, start, &mut streams.participants);
        let arrivals = options.rows as f64 * ARRIVALS_RATIO;
        let mut traffic = Traffic::new(&world, [start, end], arrivals, &mut streams.traffic);
        let next_arrival = traffic.next_arrival(arrivals, &mut streams.traffic);
        let mut generator = Self {
            kinds: Kinds::new(&world),
            names: participants.iter().map(|of| of.name.clone()).collect(),
            rows_per_micro: options.rows as f64 / (end - start) as f64,
            now: start - 1,
            rows: 0,
            arrivals: 0,
            agenda: Agenda::default(),
            world,
            options,
            streams,
            population,
            participants,
            traffic,
            next_arrival,
        };
        for typology in fraud::CAMPAIGNS {
            generator.plan_campaign(typology, start - fraud::LEAD_MICROS);
        }
        Ok(generator)
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Every customer.
    pub fn customers(&self) -> &[SimulatedCustomer] {
        &self.population.customers
    }

    /// Everybody who is paid.
    pub fn counterparties(&self) -> &[Counterparty] {
        &self.population.counterparties
    }

    /// Every participant, by name.
    pub fn participants(&self) -> &[ParticipantName] {
        &self.names
    }

    fn plan_campaign(&mut self, typology: Typology, now: i64) {
        if let Some(gap) = fraud::campaign_gap(&self.world, typology, self.rows_per_micro) {
            let at = fraud::next_start(now, gap, &mut self.streams.fraud);
            self.agenda.add(at, What::Campaign(typology));
        }
    }

    fn start_campaign(&mut self, typology: Typology, at: i64) {
        let rng = &mut self.streams.fraud;
        let drafts = fraud::campaign(&self.world, &self.population, typology, at, rng);
        for (at, draft) in drafts {
            if at >= self.options.start.micros() {
                self.agenda.add(at, What::Payment(Box::new(draft)));
            }
        }
        self.plan_campaign(typology, at);
    }

    fn take_arrival(&mut self) -> i64 {
        let at = self.next_arrival;
        self.arrivals += 1;
        let seen = self.rows as f64 + ARRIVALS_RATIO_ROWS;
        let share = (self.arrivals as f64 + ARRIVALS_RATIO * ARRIVALS_RATIO_ROWS) / seen;
        let left = (self.options.rows - self.rows) as f64 * share.min(1.0);
        self.next_arrival = self.traffic.next_arrival(left, &mut self.streams.traffic);
        at
    }

    /// A genuine payment that arrives at `at`.
    fn genuine(&mut self, at: i64, local: Local) -> Draft {
        let rng = &mut self.streams.payments;
        let customer = self.population.payer(&self.world, at, local, rng);
        let counterparty = self.population.payee(&self.world, customer, rng);
        let insider = fraud::insider(&self.world, &mut self.streams.fraud);
        let mut draft = Draft::new(customer, counterparty, insider);
        let of = &self.population.customers[customer];
        draft.kind = Some(self.kinds.genuine(of, local, rng));
        draft.log_stretch = of.amount_log_sigma * normal(rng);
        draft
    }

    /// Draws whatever a draft left open.
    fn settle(&mut self, mut draft: Draft, at: i64) -> Settled {
        let rng = &mut self.streams.payments;
        let world = &self.world;
        let kind = draft.kind.unwrap_or_else(|| self.kinds.campaign(rng));
        draft.kind = Some(kind);
        let table = &self.kinds.tables[kind];
        let minor = draft.minor.unwrap_or_else(|| {
            let of = &self.population.customers[draft.customer];
            let amount = (of.log_median + table.log_factor + draft.log_stretch).exp();
            let law = world.customers.types.values().nth(of.type_index).expect("drawn among them");
            let units = &law.amount_round_minor;
            let unit = draft.round_minor.unwrap_or(units[one_of(rng, units.len())]);
            rounded(amount, unit, [table.law.minor_min, table.law.minor_max])
        });
        let whereabouts = match draft.place {
            Place::Own => self.population.whereabouts(world, draft.customer, at, rng),
            Place::At(place) => self.population.at_place(world, place, rng),
            Place::Known(whereabouts) => whereabouts,
        };
        let cross_border = draft.cross_border.unwrap_or_else(|| {
            let ratio = table.law.cross_border_ratio;
            outcome::crosses_border(&world.customers, ratio, whereabouts.abroad, rng)
        });
        draft.minor = Some(minor);
        draft.place = Place::Known(whereabouts);
        draft.cross_border = Some(cross_border);
        let (payment, attempt) = draft.retry_of.unwrap_or((self.rows, 1));
        Settled { draft, kind, minor, whereabouts, cross_border, payment, attempt }
    }

    fn judge(&mut self, of: &Settled, at: i64, local: Local) -> (Verdict, f64) {
        let rng = &mut self.streams.outcomes;
        let world = &self.world;
        let law = &self.kinds.tables[of.kind].law;
        let draft = &of.draft;
        let log_funds = self.population.log_funds(world, draft.customer, (at, local), rng);
        let payee_ratio = self.population.payee_decline(world, draft.counterparty, at, rng);
        let customer = &self.population.customers[draft.customer];
        let over_limit = law.limit_minor.is_some_and(|limit| of.minor > limit);
        let circumstances = Circumstances {
            log_margin: log_funds - draft.log_stretch,
            over_limit_ratio: if over_limit { law.over_limit_ratio } else { 0.0 },
            outside_decline_ratio: if law.is_open(local.hour) {
                0.0
            } else {
                law.outside_decline_ratio
            },
            account_age_micros: at - customer.since.micros(),
            customer_ratio: customer.decline_ratio,
            payee_ratio,
            fraud_control_ratio: draft.fraud.decline_ratio,
            cross_border: of.cross_border,
            abroad: of.whereabouts.abroad,
        };
        (outcome::judge(world, &circumstances, rng), log_funds)
    }

    /// Carries a payment out and records it.
    fn record(&mut self, draft: Draft, at: i64) -> Generated {
        let at = at.max(self.now + 1);
        self.now = at;
        let local = self.traffic.local(at);
        let settled = self.settle(draft, at);
        let (verdict, log_funds) = self.judge(&settled, at, local);
        let load = self.traffic.load(&self.world, at, &mut self.streams.participants);
        let table = &self.kinds.tables[settled.kind];
        let (chosen, route) = table.participants(&mut self.streams.payments);
        let relative_load = load / self.world.load.base;
        let rng = &mut self.streams.participants;
        let mut calls: Vec<Call> = Vec::with_capacity(chosen.len());
        for index in &chosen {
            let participant = &mut self.participants[*index];
            calls.push(participant.call(&self.world.coordinator, at, relative_load, rng));
        }
        let answered: f64 = calls.iter().map(|call| 1.0 - call.failure_probability).product();
        let result = conclude(&verdict, &mut calls);
        let decision_ms = self.world.coordinator.decision_ms.draw(rng);
        let total_ms = decisive_ms(&calls) + decision_ms;
        if result.is_none() {
            let stretch = settled.draft.log_stretch;
            self.population.spend(&self.world, settled.draft.customer, log_funds, stretch);
        }
        self.plan_retry(&settled, result, at + (total_ms * 1e3) as i64);
        self.plan_travel(&settled, at);
        let fraud = settled.draft.fraud;
        let is_fraud = fraud.typology.is_some();
        let label = fraud::label(&self.world, at, is_fraud, &mut self.streams.labels);
        let truth = Truth {
            success: verdict.pass_probability * answered,
            fraud: fraud.probability,
            typology: fraud.typology,
        };
        let row = HistoryRow {
            txn_id: format!("t{:08}", self.rows),
            payment_id: format!("p{:08}", settled.payment),
            timestamp: Timestamp::from_micros(at),
            payment: self.payment(&settled, load, &chosen),
            route: route.map(|index| self.names[index].as_str().to_owned()),
            outcome: Some(match result {
                None => HistoryOutcome::Committed,
                Some(_) => HistoryOutcome::Aborted,
            }),
            failure_class: result.map(Failure::class),
            total: Some(Duration::from_micros((total_ms * 1e3).round() as u64)),
            fraud: label.map(|(_, is_fraud)| is_fraud),
            labelled_at: label.map(|(micros, _)| Timestamp::from_micros(micros)),
            legs: calls.into_iter().map(|call| call.leg).collect(),
        };
        self.rows += 1;
        Generated { row, truth }
    }

    fn payment(&self, of: &Settled, load: f64, chosen: &[usize]) -> Payment {
        let table = &self.kinds.tables[of.kind];
        let customer = &self.population.customers[of.draft.customer];
        Payment {
            kind: table.kind,
            customer: Customer {
                id: customer.id.clone(),
                customer_type: customer.customer_type,
                since: Some(customer.since),
            },
            counterparty: Some(self.population.counterparties[of.draft.counterparty].id.clone()),
            amount: Money { minor: of.minor, currency: self.world.currency },
            cross_border: of.cross_border,
            requires_consistency: table.law.requires_consistency,
            location: of.whereabouts.location,
            attempt: of.attempt,
            system_load_ratio: Some(round_to(load, 4)),
            participants: chosen.iter().map(|index| self.names[*index].clone()).collect(),
        }
    }

    fn plan_retry(&mut self, of: &Settled, failure: Option<Failure>, finished: i64) {
        let Some(failure) = failure else { return };
        let law = &self.world.retries;
        let rng = &mut self.streams.payments;
        let (ratio, delay) = match failure {
            Failure::Business(Cause::Funds) => (law.funds_ratio, &law.delay_minutes),
            Failure::Business(Cause::Other) => (law.other_business_ratio, &law.delay_minutes),
            Failure::Technical => (law.technical_ratio, &law.technical_delay_minutes),
        };
        let factor = if of.draft.fraud.is_campaign { law.campaign_factor } else { 1.0 };
        if of.attempt >= law.attempts_max || !happens(rng, ratio * factor) {
            return;
        }
        let mut draft = of.draft;
        draft.retry_of = Some((of.payment, of.attempt + 1));
        if happens(rng, law.smaller_ratio) {
            let [low, high] = law.smaller_factor;
            let factor = low + (high - low) * uniform(rng);
            let kind = &self.kinds.tables[of.kind].law;
            let smaller = rounded(of.minor as f64 * factor, 100, [kind.minor_min, kind.minor_max]);
            draft.log_stretch += (smaller as f64 / of.minor as f64).ln();
            draft.minor = Some(smaller);
        }
        let wait = delay.draw(rng) * (60 * MICROS_PER_SECOND) as f64;
        self.agenda.add(finished + wait as i64, What::Payment(Box::new(draft)));
    }

    fn plan_travel(&mut self, of: &Settled, at: i64) {
        if of.draft.fraud.is_campaign || of.attempt > 1 {
            return;
        }
        let rng = &mut self.streams.fraud;
        if let Some((at, draft)) =
            fraud::travel(&self.world, &self.population, (at, &of.draft), rng)
        {
            self.agenda.add(at, What::Payment(Box::new(draft)));
        }
    }
}

impl Iterator for Generator {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        if self.rows >= self.options.rows {
            return None;
        }
        loop {
            match self.agenda.pop_until(self.next_arrival) {
                Some((at, What::Campaign(typology))) => self.start_campaign(typology, at),
                Some((at, What::Payment(draft))) => return Some(self.record(*draft, at)),
                None => {
                    let at = self.take_arrival();
                    let draft = self.genuine(at, self.traffic.local(at));
                    return Some(self.record(draft, at));
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.options.rows - self.rows) as usize;
        (left, Some(left))
    }
}

/// Why a payment did not commit.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Business(Cause),
    Technical,
}

impl Failure {
    fn class(self) -> FailureClass {
        match self {
            Self::Business(_) => FailureClass::Business,
            Self::Technical => FailureClass::Technical,
        }
    }
}

/// Puts the verdict into the votes. A decline counts where the declining participant answered.
fn conclude(verdict: &Verdict, calls: &mut [Call]) -> Option<Failure> {
    let technical = calls.iter().any(|call| call.leg.vote != LegVote::Yes);
    let failure = technical.then_some(Failure::Technical);
    let Some((decliner, cause)) = verdict.declined else { return failure };
    let call = match decliner {
        Decliner::Payer => calls.first_mut(),
        Decliner::Payee => calls.last_mut(),
    };
    match call {
        Some(call) if call.leg.vote == LegVote::Yes => {
            call.leg.vote = LegVote::No;
            Some(Failure::Business(cause))
        }
        _ => failure,
    }
}

/// When the decision could be made: at the first no, else at the last vote.
fn decisive_ms(calls: &[Call]) -> f64 {
    let failed = calls.iter().filter(|call| call.leg.vote != LegVote::Yes);
    let first_no = failed.map(|call| call.leg.prepare_ms).fold(f64::INFINITY, f64::min);
    if first_no.is_finite() {
        return first_no;
    }
    calls.iter().map(|call| call.leg.prepare_ms).fold(0.0, f64::max)
}

/// An amount in whole units, within bounds; at least one unit where the bounds allow it.
fn rounded(amount: f64, unit: i64, [min, max]: [i64; 2]) -> i64 {
    let units = (amount / unit as f64).round().max(1.0).min(max as f64);
    (units * unit as f64).clamp(min as f64, max as f64) as i64
}
