//! The formulas: from a payment and the state to numbers. Reads only.

use std::f64::consts::TAU;

use super::bounded::key_of;
use super::calendar::Local;
use super::entities::{
    ARRIVAL_WINDOWS, COUNTERPARTY_ARRIVAL_WINDOWS, COUNTERPARTY_FINISHED_WINDOWS,
    COUNTERPARTY_LABEL_WINDOWS, CUSTOMER_FINISHED_WINDOWS, CUSTOMER_LABEL_WINDOWS, Counterparty,
    Customer, OUTAGE_WINDOWS, ParticipantHistory,
};
use super::schema::{LEG_DEFAULTS, Leg, TXN_DEFAULTS, Txn};
use super::state::{FRAUD_WINDOWS, OVERALL_WINDOWS, SEGMENT_WINDOWS, Who};
use super::window::{Counters, Moments, Window, log_odds, seconds_between, smoothed};
use super::{Features, LEG_WIDTH, LegContext, State, TXN_WIDTH};
use crate::txn::{CustomerType, Kind, Location, Payment, Timestamp};

/// Times since something are not told apart beyond this.
const LONG_AGO_SECONDS: f64 = 30.0 * 86_400.0;
const EARTH_RADIUS_KM: f64 = 6_371.0;
/// Two payments closer than this in time say nothing of speed beyond their distance.
const TRAVEL_SECONDS_MIN: f64 = 60.0;

impl State {
    /// Computes the features of `payment` as of `now`. `legs` are the circumstances of
    /// `payment.participants`, in their order; a missing one counts as [`LegContext::default`].
    pub fn extract(&self, payment: &Payment, legs: &[LegContext], now: Timestamp) -> Features {
        let known = self.known(payment);
        let local = self.local_time.at(now);
        let mut row = Row { values: TXN_DEFAULTS };
        let legs = self.legs(payment, legs, now, &local, &mut row);
        request(&mut row, payment, now, &local);
        let overall = share_of(&self.overall.read(now, &OVERALL_WINDOWS), 0.5, 2.0);
        let segment = self.segment_success(payment, now, overall);
        row.set(Txn::SegmentSuccess as usize, log_odds(segment));
        row.set(Txn::CustomerSuccess as usize, log_odds(segment));
        let kind_technical = outage_share(&self.kind_technical[payment.kind as usize], now);
        row.set(Txn::KindTechnical as usize, log_odds(kind_technical));
        self.amounts(&mut row, payment, &known, now);
        if let Some(customer) = known.customer {
            velocity(&mut row, payment, customer, now);
            results(&mut row, payment, customer, now, segment);
            travel(&mut row, payment.location, customer.last_place, now);
        }
        self.counterparty(&mut row, known.counterparty, now, overall);
        Features { txn: row.values, legs }
    }

    /// Looks up both ends of the payment at once: the memory of neither waits for the other's.
    fn known(&self, payment: &Payment) -> Known<'_> {
        let who = Who::of(payment);
        let customer = self.customers.get(who.customer);
        let counterparty = who.counterparty.and_then(|key| self.counterparties.get(key));
        let paid =
            customer.zip(who.counterparty).is_some_and(|(known, key)| known.payees.contains(key));
        Known { customer, counterparty, paid }
    }

    fn segment_success(&self, payment: &Payment, now: Timestamp, overall: f64) -> f64 {
        let (kind, segment) = (payment.kind as usize, payment.customer.customer_type as usize);
        share_of(&self.segments[kind][segment].read(now, &SEGMENT_WINDOWS), overall, 20.0)
    }

    fn amounts(
        &self,
        row: &mut Row<TXN_WIDTH>,
        payment: &Payment,
        known: &Known<'_>,
        now: Timestamp,
    ) {
        let view = self.amount_view(payment, known.customer, now);
        // Nothing is learnt from beyond a dozen deviations.
        let deviation = view.deviation.clamp(-12.0, 12.0);
        row.set(Txn::AmountLog as usize, view.log);
        row.set(Txn::AmountDeviation as usize, deviation);
        row.set(Txn::AmountExcess as usize, (deviation - 2.0).max(0.0));
        if payment.counterparty.is_some() {
            row.set_if(Txn::CounterpartyKnown as usize, known.paid);
            let excess = if known.paid { 0.0 } else { deviation.max(0.0) };
            row.set(Txn::NewCounterpartyExcess as usize, excess);
        }
        row.set(Txn::Amount1d as usize, view.log);
    }

    fn counterparty(
        &self,
        row: &mut Row<TXN_WIDTH>,
        known: Option<&Counterparty>,
        now: Timestamp,
        overall: f64,
    ) {
        let fraud = share_of(&self.fraud.read(now, &FRAUD_WINDOWS), FRAUD_PRIOR, 10.0);
        row.set(Txn::CounterpartySuccess as usize, log_odds(overall));
        row.set(Txn::CounterpartyFraud as usize, log_odds(fraud));
        let Some(known) = known else { return };
        let [count] = known.arrivals.read(now, &COUNTERPARTY_ARRIVAL_WINDOWS);
        let [finished, failed] = known.finished.read(now, &COUNTERPARTY_FINISHED_WINDOWS);
        let [labelled, frauds, frauds_7d] = known.labels.read(now, &COUNTERPARTY_LABEL_WINDOWS);
        row.set(Txn::CounterpartyCount as usize, count.ln_1p());
        let success = smoothed(finished - failed, finished, overall, 5.0);
        row.set(Txn::CounterpartySuccess as usize, log_odds(success));
        let share = smoothed(frauds, labelled, fraud, 5.0);
        row.set(Txn::CounterpartyFraud as usize, log_odds(share));
        row.set(Txn::CounterpartyFrauds as usize, frauds_7d.ln_1p());
    }

    /// The vectors of the branches, and what of them counts for the whole transaction.
    fn legs(
        &self,
        payment: &Payment,
        contexts: &[LegContext],
        now: Timestamp,
        local: &Local,
        row: &mut Row<TXN_WIDTH>,
    ) -> Vec<[f32; LEG_WIDTH]> {
        let mut worst = Worst::default();
        let amount = (payment.amount.minor.max(0) as f64).ln_1p();
        let legs = payment.participants.iter().enumerate().map(|(index, name)| {
            let context = contexts.get(index).copied().unwrap_or_default();
            let history = self.participants.get(key_of(name.as_str()));
            let mut leg = Row { values: LEG_DEFAULTS };
            participant(&mut leg, context, history, now);
            leg.set_some(Leg::Load as usize, load(payment));
            leg.set_if(Leg::Peak as usize, local.peak);
            leg.set(Leg::Amount as usize, amount);
            worst.take(&leg, history, now);
            leg.values
        });
        let legs: Vec<_> = legs.collect();
        if !legs.is_empty() {
            worst.write(row);
        }
        row.set(Txn::Participants as usize, legs.len().min(100) as f64);
        legs
    }
}

/// What is remembered of both ends of a payment.
struct Known<'a> {
    customer: Option<&'a Customer>,
    counterparty: Option<&'a Counterparty>,
    /// Whether the one has paid the other.
    paid: bool,
}

/// Share of fraud assumed before any label: one in a thousand, with the weight of ten labels.
const FRAUD_PRIOR: f64 = 1e-3;

/// What the request alone says, and the calendar.
fn request(row: &mut Row<TXN_WIDTH>, payment: &Payment, now: Timestamp, local: &Local) {
    match payment.kind {
        Kind::Upi => row.set(Txn::KindUpi as usize, 1.0),
        Kind::Imps => row.set(Txn::KindImps as usize, 1.0),
        Kind::Neft => row.set(Txn::KindNeft as usize, 1.0),
        Kind::Rtgs => row.set(Txn::KindRtgs as usize, 1.0),
        Kind::LoanDisbursement => row.set(Txn::KindLoan as usize, 1.0),
        Kind::PortfolioUpdate => row.set(Txn::KindPortfolio as usize, 1.0),
        Kind::Internal => {}
    }
    match payment.customer.customer_type {
        CustomerType::Regular => row.set(Txn::CustomerRegular as usize, 1.0),
        CustomerType::Premium => row.set(Txn::CustomerPremium as usize, 1.0),
        CustomerType::Corporate => row.set(Txn::CustomerCorporate as usize, 1.0),
        CustomerType::Retail => {}
    }
    let (hour_sin, hour_cos) = (local.hour / 24.0 * TAU).sin_cos();
    let (weekday_sin, weekday_cos) = (f64::from(local.weekday) / 7.0 * TAU).sin_cos();
    row.set(Txn::HourSin as usize, hour_sin);
    row.set(Txn::HourCos as usize, hour_cos);
    row.set(Txn::WeekdaySin as usize, weekday_sin);
    row.set(Txn::WeekdayCos as usize, weekday_cos);
    row.set_if(Txn::Weekend as usize, local.weekend);
    row.set_if(Txn::Holiday as usize, local.holiday);
    row.set_if(Txn::PeakHour as usize, local.peak);
    row.set_if(Txn::CrossBorder as usize, payment.cross_border);
    row.set_if(Txn::RequiresConsistency as usize, payment.requires_consistency);
    row.set(Txn::Retries as usize, f64::from(payment.attempt.saturating_sub(1).min(10)));
    row.set_some(Txn::SystemLoad as usize, load(payment));
    let age = payment.customer.since.map(|since| seconds_between(since, now) / 86_400.0);
    row.set_some(Txn::AccountAge as usize, age.map(f64::ln_1p));
}

fn load(payment: &Payment) -> Option<f64> {
    payment.system_load_ratio.filter(|load| load.is_finite()).map(|load| load.clamp(0.0, 10.0))
}

/// How much and how often the customer paid lately.
fn velocity(row: &mut Row<TXN_WIDTH>, payment: &Payment, customer: &Customer, now: Timestamp) {
    let [in_hour, in_day, spent_in_day, large, in_week, in_month, spent_in_month] =
        customer.arrivals.read(now, &ARRIVAL_WINDOWS);
    let amount = payment.amount.minor.max(0) as f64;
    row.set(Txn::Count1h as usize, in_hour.ln_1p());
    row.set(Txn::Count1d as usize, in_day.ln_1p());
    row.set(Txn::Count7d as usize, in_week.ln_1p());
    row.set(Txn::Count30d as usize, in_month.ln_1p());
    row.set_some(Txn::SincePayment as usize, customer.last_arrival.map(|at| log_age(at, now)));
    row.set(Txn::Amount1d as usize, (spent_in_day + amount).ln_1p());
    // Faded to nothing, a mean is only noise.
    if in_month > 1e-6 {
        let mean = spent_in_month / in_month;
        row.set(Txn::AmountRatio as usize, ((amount + 1.0) / (mean + 1.0)).ln());
    }
    row.set(Txn::Large3d as usize, large.ln_1p());
    let counterparties = customer.payees.paid_in_7_days(now) as f64;
    row.set(Txn::Counterparties7d as usize, counterparties.ln_1p());
}

/// How the customer's payments ended.
fn results(
    row: &mut Row<TXN_WIDTH>,
    payment: &Payment,
    customer: &Customer,
    now: Timestamp,
    segment: f64,
) {
    let [failed_in_hour, failed_in_day, finished, succeeded] =
        customer.finished.read(now, &CUSTOMER_FINISHED_WINDOWS);
    let success = smoothed(succeeded, finished, segment, 3.0);
    row.set(Txn::CustomerSuccess as usize, log_odds(success));
    row.set(Txn::Failures1h as usize, failed_in_hour.ln_1p());
    row.set(Txn::Failures1d as usize, failed_in_day.ln_1p());
    row.set_some(Txn::SinceFailure as usize, customer.last_failure.map(|at| log_age(at, now)));
    if let Some((amount, at)) = customer.last_decline {
        let recency = (-seconds_between(at, now) / 86_400.0).exp();
        let sign = if payment.amount.minor >= amount { 1.0 } else { -1.0 };
        row.set(Txn::DeclinedAmount as usize, sign * recency);
    }
    let [frauds] = customer.labels.read(now, &CUSTOMER_LABEL_WINDOWS);
    row.set(Txn::CustomerFrauds as usize, frauds.ln_1p());
}

fn travel(
    row: &mut Row<TXN_WIDTH>,
    here: Option<Location>,
    last: Option<(Location, Timestamp)>,
    now: Timestamp,
) {
    let (Some(here), Some((there, at))) = (here, last) else { return };
    let km = distance_km(here, there);
    let hours = seconds_between(at, now).max(TRAVEL_SECONDS_MIN) / 3_600.0;
    row.set(Txn::Distance as usize, km.ln_1p());
    row.set(Txn::Speed as usize, (km / hours).ln_1p());
}

/// Along the great circle, by the haversine formula.
fn distance_km(from: Location, to: Location) -> f64 {
    let half_sine_squared = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let chord = half_sine_squared(to.lat - from.lat)
        + from.lat.to_radians().cos()
            * to.lat.to_radians().cos()
            * half_sine_squared(to.lon - from.lon);
    2.0 * EARTH_RADIUS_KM * chord.clamp(0.0, 1.0).sqrt().asin()
}

fn participant(
    leg: &mut Row<LEG_WIDTH>,
    context: LegContext,
    history: Option<&ParticipantHistory>,
    now: Timestamp,
) {
    let in_flight = f64::from(context.in_flight).ln_1p();
    leg.set(Leg::InFlight as usize, in_flight);
    leg.set(Leg::Health as usize, context.health.clamp(0.0, 1.0));
    let Some(history) = history else { return };
    if let Some(usual) = history.in_flight.mean() {
        leg.set(Leg::InFlightExcess as usize, in_flight - usual);
    }
    leg.set(Leg::Refused as usize, log_odds(outage_share(&history.refusals, now)));
    if let (Some(recent), Some(day)) = (history.latency_recent.mean(), history.latency_day.mean()) {
        let weight = history.latency_recent.weight(now, Window::MINUTES_10);
        leg.set(Leg::LatencyRecent as usize, (recent * weight + day) / (weight + 1.0));
        leg.set(Leg::LatencyDay as usize, day);
    }
    leg.set_some(Leg::LatencySpread as usize, spread(&history.latency_day));
}

fn spread(moments: &Moments) -> Option<f64> {
    moments.variance().map(f64::sqrt)
}

/// The worst of the participants: one of them is enough to fail.
#[derive(Default)]
struct Worst {
    ill: Option<f64>,
    in_flight: Option<f64>,
    latency: Option<f64>,
    refused: Option<f64>,
    technical: Option<f64>,
}

impl Worst {
    fn take(&mut self, leg: &Row<LEG_WIDTH>, history: Option<&ParticipantHistory>, now: Timestamp) {
        let value = |position: Leg| Some(f64::from(leg.values[position as usize]));
        // An unknown latency, NaN, gives way to a known one.
        let most = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b)).or(b);
        // Of health the least is the worst: the largest of its negative.
        let ill = value(Leg::Health).map(|health| -health);
        self.ill = most(self.ill, ill);
        self.in_flight = most(self.in_flight, value(Leg::InFlight));
        self.latency = most(self.latency, value(Leg::LatencyRecent));
        self.refused = most(self.refused, value(Leg::Refused));
        if let Some(history) = history {
            let technical = log_odds(outage_share(&history.technical, now));
            self.technical = most(self.technical, Some(technical));
        }
    }

    fn write(&self, row: &mut Row<TXN_WIDTH>) {
        row.set_some(Txn::HealthWorst as usize, self.ill.map(|ill| -ill));
        row.set_some(Txn::InFlightMost as usize, self.in_flight);
        row.set_some(Txn::LatencyMost as usize, self.latency);
        row.set_some(Txn::RefusedMost as usize, self.refused);
        row.set_some(Txn::TechnicalMost as usize, self.technical);
    }
}

/// The share of hits lately, drawn towards that of a day, which itself is drawn towards one in a
/// hundred: the neutral guess for a participant of which little is known.
fn outage_share(counters: &Counters<4>, now: Timestamp) -> f64 {
    let [recent, recent_hits, day, day_hits] = counters.read(now, &OUTAGE_WINDOWS);
    let usual = smoothed(day_hits, day, 0.01, 5.0);
    smoothed(recent_hits, recent, usual, 1.0)
}

/// The share of the second sum in the first.
fn share_of([count, hits]: &[f64; 2], prior: f64, prior_count: f64) -> f64 {
    smoothed(*hits, *count, prior, prior_count)
}

fn log_age(at: Timestamp, now: Timestamp) -> f64 {
    seconds_between(at, now).min(LONG_AGO_SECONDS).ln_1p()
}

/// A vector that starts from the documented defaults.
struct Row<const N: usize> {
    values: [f32; N],
}

impl<const N: usize> Row<N> {
    /// Writes a value; one that is no finite number leaves the default.
    fn set(&mut self, position: usize, value: f64) {
        let value = value as f32;
        if value.is_finite() {
            self.values[position] = value;
        }
    }

    fn set_some(&mut self, position: usize, value: Option<f64>) {
        if let Some(value) = value {
            self.set(position, value);
        }
    }

    fn set_if(&mut self, position: usize, yes: bool) {
        self.values[position] = f32::from(u8::from(yes));
    }
}
