//! The online state: what is remembered, and how events change it.
//!
//! One writer. `apply` is the only way to change it and takes no clock: an event that is older
//! than one before it counts as simultaneous with that. A payment that was rejected never started:
//! it neither succeeded nor failed, and its counterparty was not paid.

use super::bounded::{Bounded, key_of};
use super::calendar::LocalTime;
use super::entities::{
    ARRIVAL_WINDOWS, COUNTERPARTY_ARRIVAL_WINDOWS, COUNTERPARTY_FINISHED_WINDOWS,
    COUNTERPARTY_LABEL_WINDOWS, CUSTOMER_AMOUNT_WINDOW, CUSTOMER_FINISHED_WINDOWS,
    CUSTOMER_LABEL_WINDOWS, Counterparty, Customer, LATENCY_MS_WINDOWS, NEVER, ParticipantHistory,
    add_case,
};
use super::window::{Counters, Moments, Window};
use super::{Calendar, Error, Event, Options};
use crate::txn::{
    CustomerType, FailureClass, HistoryOutcome, Kind, LegRow, LegVote, ParticipantName, Payment,
    Timestamp,
};

/// More would not fit any machine, nor the 32-bit places of the maps.
const ENTRIES_MAX: usize = 100_000_000;
/// Kinds and segments, for tables indexed by them.
pub(super) const KINDS: usize = Kind::ALL.len();
pub(super) const SEGMENTS: usize = CustomerType::ALL.len();
/// Finished and succeeded, over all payments and by kind and segment.
pub(super) const OVERALL_WINDOWS: [Window; 2] = [Window::DAYS_30; 2];
pub(super) const SEGMENT_WINDOWS: [Window; 2] = [Window::DAYS_7; 2];
/// Labelled and fraud, over all payments.
pub(super) const FRAUD_WINDOWS: [Window; 2] = [Window::DAYS_90; 2];
/// Amounts of a kind fade in this window.
const KIND_AMOUNT_WINDOW: Window = Window::DAYS_30;
/// A payment beyond so many deviations of its customer's normal is a large one.
const LARGE_DEVIATION: f64 = 2.0;
/// Amounts beyond so many deviations move a customer's normal no further than these.
const OUTLIER_DEVIATION: f64 = 3.0;

/// Everything remembered of the past, bounded. See the module for its invariants.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) local_time: LocalTime,
    pub(super) customers: Bounded<Customer>,
    pub(super) counterparties: Bounded<Counterparty>,
    pub(super) participants: Bounded<ParticipantHistory>,
    pub(super) overall: Counters<2>,
    pub(super) fraud: Counters<2>,
    pub(super) segments: [[Counters<2>; SEGMENTS]; KINDS],
    /// Finished and technically failed payments of a kind.
    pub(super) kind_technical: [Counters<4>; KINDS],
    kind_amounts: [Moments; KINDS],
}

/// A participant's latency as simple rules use it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LegLatency {
    /// Mean of its known latencies in milliseconds, fading over a day.
    pub mean_ms: f64,
    /// How many have been seen since it is remembered.
    pub samples: u64,
}

/// How full a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Customers remembered.
    pub customers: usize,
    /// Counterparties remembered.
    pub counterparties: usize,
    /// Participants remembered.
    pub participants: usize,
    /// Entries of any of them given up for newer ones.
    pub evicted: u64,
}

/// How an amount compares with what its customer usually pays.
#[derive(Debug, Clone, Copy)]
pub(super) struct AmountView {
    /// ln(1 + minor units).
    pub log: f64,
    /// Deviation from the customer's normal, in standard deviations.
    pub deviation: f64,
    /// `log` less the mean of its kind (zero for the kind's first payment), pulled in to
    /// [`OUTLIER_DEVIATION`] if it is beyond.
    tamed: f64,
}

impl State {
    /// An empty state.
    pub fn new(options: Options) -> Result<Self, Error> {
        let limit = |option, value| match value {
            1..=ENTRIES_MAX => Ok(value),
            _ => Err(Error::Limit { option, value, max: ENTRIES_MAX }),
        };
        Ok(Self {
            customers: Bounded::new(limit("customers_max", options.customers_max)?),
            counterparties: Bounded::new(limit("counterparties_max", options.counterparties_max)?),
            participants: Bounded::new(limit("participants_max", options.participants_max)?),
            local_time: LocalTime::new(options.calendar)?,
            overall: Counters::new(NEVER),
            fraud: Counters::new(NEVER),
            segments: [[Counters::new(NEVER); SEGMENTS]; KINDS],
            kind_technical: [Counters::new(NEVER); KINDS],
            kind_amounts: [Moments::new(NEVER); KINDS],
        })
    }

    /// The calendar that it was made with.
    pub fn calendar(&self) -> &Calendar {
        self.local_time.calendar()
    }

    /// A participant's mean latency; `None` before its first known one.
    pub fn leg_latency(&self, participant: &ParticipantName) -> Option<LegLatency> {
        let history = self.participants.get(key_of(participant.as_str()))?;
        // Numerator and denominator fade alike, so the mean is the same at any instant.
        let [count, sum] = history.latency_ms.read(NEVER, &LATENCY_MS_WINDOWS);
        (count > 0.0).then(|| LegLatency { mean_ms: sum / count, samples: history.latency_samples })
    }

    /// How full it is.
    pub fn stats(&self) -> Stats {
        Stats {
            customers: self.customers.len(),
            counterparties: self.counterparties.len(),
            participants: self.participants.len(),
            evicted: self.customers.evicted()
                + self.counterparties.evicted()
                + self.participants.evicted(),
        }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, event: &Event) {
        match *event {
            Event::Arrived { at, payment } => self.arrived(at, payment),
            Event::Finished { at, payment, outcome, failure_class } => {
                let succeeded = outcome == HistoryOutcome::Committed;
                if !succeeded {
                    self.refused(payment);
                }
                if outcome == HistoryOutcome::Rejected {
                    return;
                }
                let technical = !succeeded && failure_class == Some(FailureClass::Technical);
                self.finished(at, payment, succeeded, technical);
            }
            Event::Leg { at, leg } => self.leg(at, leg),
            Event::Labelled { at, payment, fraud } => self.labelled(at, Who::of(payment), fraud),
        }
    }

    /// How `payment`'s amount compares at `now`, given what is known of its customer.
    pub(super) fn amount_view(
        &self,
        payment: &Payment,
        customer: Option<&Customer>,
        now: Timestamp,
    ) -> AmountView {
        let log = (payment.amount.minor.max(0) as f64).ln_1p();
        let kind = &self.kind_amounts[payment.kind as usize];
        let relative = log - kind.mean().unwrap_or(log);
        // A newcomer's normal is that of the kind, with the weight of two payments.
        let amounts = customer.map(|customer| &customer.amounts);
        let weight = amounts.map_or(0.0, |amounts| amounts.weight(now, CUSTOMER_AMOUNT_WINDOW));
        let own = |moment: Option<f64>| moment.unwrap_or(0.0) * weight;
        let mean = own(amounts.and_then(Moments::mean)) / (weight + 2.0);
        let kind_variance = kind.variance().unwrap_or(0.0).max(AMOUNT_VARIANCE_MIN);
        let variance =
            (own(amounts.and_then(Moments::variance)) + 2.0 * kind_variance) / (weight + 2.0);
        let scale = variance.max(AMOUNT_VARIANCE_MIN).sqrt();
        let deviation = (relative - mean) / scale;
        let tamed = if weight < OUTLIER_WEIGHT_MIN {
            relative
        } else {
            mean + deviation.clamp(-OUTLIER_DEVIATION, OUTLIER_DEVIATION) * scale
        };
        AmountView { log, deviation, tamed }
    }

    fn arrived(&mut self, at: Timestamp, payment: &Payment) {
        let key = key_of(payment.customer.id.as_str());
        let counterparty = payment.counterparty.as_ref().map(|id| key_of(id.as_str()));
        let view = self.amount_view(payment, self.customers.get(key), at);
        self.kind_amounts[payment.kind as usize].add(at, KIND_AMOUNT_WINDOW, view.log);

        let customer = self.customers.entry(key, Customer::new);
        let amount = payment.amount.minor.max(0) as f64;
        let large = f64::from(u8::from(view.deviation > LARGE_DEVIATION));
        let values = [1.0, 1.0, amount, large, 1.0, 1.0, amount];
        customer.arrivals.add(at, &ARRIVAL_WINDOWS, values);
        customer.last_arrival = customer.last_arrival.max(Some(at));
        customer.amounts.add(at, CUSTOMER_AMOUNT_WINDOW, view.tamed);
        if let Some(place) = payment.location
            && customer.last_place.is_none_or(|(_, seen)| seen <= at)
        {
            customer.last_place = Some((place, at));
        }
        if let Some(counterparty) = counterparty {
            customer.payees.add(counterparty, at);
            let counterparty = self.counterparties.entry(counterparty, Counterparty::new);
            counterparty.arrivals.add(at, &COUNTERPARTY_ARRIVAL_WINDOWS, [1.0]);
        }
    }

    fn refused(&mut self, payment: &Payment) {
        if let Some(id) = &payment.counterparty {
            let key = key_of(payment.customer.id.as_str());
            self.customers.entry(key, Customer::new).payees.refuse(key_of(id.as_str()));
        }
    }

    fn finished(&mut self, at: Timestamp, payment: &Payment, succeeded: bool, technical: bool) {
        let one_if = |yes: bool| f64::from(u8::from(yes));
        let (kind, segment) = (payment.kind as usize, payment.customer.customer_type as usize);
        self.overall.add(at, &OVERALL_WINDOWS, [1.0, one_if(succeeded)]);
        self.segments[kind][segment].add(at, &SEGMENT_WINDOWS, [1.0, one_if(succeeded)]);
        add_case(&mut self.kind_technical[kind], at, technical);

        let failed = one_if(!succeeded);
        let customer = self.customers.entry(key_of(payment.customer.id.as_str()), Customer::new);
        // What broke elsewhere says nothing about the customer's own success rate.
        let own = one_if(!technical);
        let values = [failed, failed, own, one_if(succeeded)];
        customer.finished.add(at, &CUSTOMER_FINISHED_WINDOWS, values);
        if !succeeded {
            customer.last_failure = customer.last_failure.max(Some(at));
            if !technical && customer.last_decline.is_none_or(|(_, seen)| seen <= at) {
                customer.last_decline = Some((payment.amount.minor, at));
            }
        }
        if let Some(id) = &payment.counterparty {
            let counterparty = self.counterparties.entry(key_of(id.as_str()), Counterparty::new);
            counterparty.finished.add(at, &COUNTERPARTY_FINISHED_WINDOWS, [1.0, failed]);
        }
        for name in &payment.participants {
            let key = key_of(name.as_str());
            let history = self.participants.entry(key, ParticipantHistory::new);
            add_case(&mut history.technical, at, technical);
        }
    }

    fn leg(&mut self, at: Timestamp, leg: &LegRow) {
        let key = key_of(leg.participant.as_str());
        let history = self.participants.entry(key, ParticipantHistory::new);
        if let Some(ms) = leg.latency_ms() {
            history.add_latency(at, ms);
        }
        if leg.vote == LegVote::Timeout && leg.late_ms.is_some() {
            return; // Its failure was counted when it was given up.
        }
        add_case(&mut history.refusals, at, matches!(leg.vote, LegVote::No | LegVote::Timeout));
        history.in_flight.add(at, Window::DAY, f64::from(leg.in_flight).ln_1p());
    }

    /// What a label teaches; of its payment it takes only who was in it.
    pub(super) fn labelled(&mut self, at: Timestamp, who: Who, fraud: bool) {
        let fraud = f64::from(u8::from(fraud));
        self.fraud.add(at, &FRAUD_WINDOWS, [1.0, fraud]);
        let customer = self.customers.entry(who.customer, Customer::new);
        customer.labels.add(at, &CUSTOMER_LABEL_WINDOWS, [fraud]);
        if let Some(key) = who.counterparty {
            let counterparty = self.counterparties.entry(key, Counterparty::new);
            counterparty.labels.add(at, &COUNTERPARTY_LABEL_WINDOWS, [1.0, fraud, fraud]);
        }
    }
}

/// Customer and counterparty of a payment, as keys of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who {
    pub customer: u64,
    pub counterparty: Option<u64>,
}

impl Who {
    pub(super) fn of(payment: &Payment) -> Self {
        Self {
            customer: key_of(payment.customer.id.as_str()),
            counterparty: payment.counterparty.as_ref().map(|id| key_of(id.as_str())),
        }
    }
}

/// Below a tenth in the logarithm amounts do not differ; it also keeps deviations finite.
const AMOUNT_VARIANCE_MIN: f64 = 0.01;
/// With fewer payments than these a customer has no normal to be an outlier of.
const OUTLIER_WEIGHT_MIN: f64 = 3.0;
