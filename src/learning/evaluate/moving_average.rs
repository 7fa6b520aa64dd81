//! The simple baseline of a probability: decayed rates of the route and of the customer.
//!
//! `p = (s_c + k_c p_r) / (n_c + k_c)` with `p_r = (s_r + k_r g) / (n_r + k_r)`: the customer's
//! decayed count of labels `n_c` and of events among them `s_c`, shrunk towards the route's rate,
//! which is shrunk towards the overall rate `g`; then a logistic recalibration of `p`. The event is
//! success, or fraud. A route is the recorded route, or else the set of participants, alone or
//! together with the kind. Half-lives, strengths and that choice are tuned by log loss on the newer
//! half of the training window, and the recalibration is fitted there. A label counts from the
//! instant at which it became known, never earlier.

use std::collections::HashMap;

use crate::learning::metrics::{Line, calibration_line, log_loss_of};
use crate::txn::{HistoryRow, ParticipantName, Timestamp};

/// Half-lives tried for routes, in seconds: ten minutes (outages) to for ever.
const ROUTE_HALF_LIVES_S: [f64; 6] = [600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, f64::INFINITY];
/// Half-lives tried for customers, in seconds: a day to for ever.
const CUSTOMER_HALF_LIVES_S: [f64; 4] = [86_400.0, 604_800.0, 2_592_000.0, f64::INFINITY];
/// Strengths tried for the overall rate, in attempts.
const ROUTE_STRENGTHS: [f64; 2] = [20.0, 200.0];
/// Strengths tried for the route's rate, in attempts.
const CUSTOMER_STRENGTHS: [f64; 5] = [2.0, 10.0, 50.0, 250.0, 1_250.0];

/// The tuned parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Parameters {
    /// Whether the kind belongs to the route.
    pub by_kind: bool,
    /// Half-life of a route's rate, in seconds.
    pub route_half_life_s: f64,
    /// Strength of the overall rate, in attempts.
    pub route_strength: f64,
    /// Half-life of a customer's rate, in seconds.
    pub customer_half_life_s: f64,
    /// Strength of the route's rate, in attempts.
    pub customer_strength: f64,
    /// The recalibration.
    pub line: Line,
}

/// No recalibration.
const IDENTITY: Line = Line { intercept: 0.0, slope: 1.0 };

impl std::fmt::Display for Parameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let span =
            |s: f64| if s.is_finite() { format!("{} h", s / 3_600.0) } else { "infinite".into() };
        write!(
            f,
            "route {} the kind, half-life {}, strength {} attempts; customer half-life {}, \
             strength {} attempts; recalibrated with slope {:.2}",
            if self.by_kind { "with" } else { "without" },
            span(self.route_half_life_s),
            self.route_strength,
            span(self.customer_half_life_s),
            self.customer_strength,
            self.line.slope,
        )
    }
}

/// Labels and events among them, halved every half-life.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    attempts: f64,
    successes: f64,
    at: i64,
}

impl Rate {
    fn as_of(self, now: i64, half_life_s: f64) -> Self {
        let passed_s = now.saturating_sub(self.at).max(0) as f64 / 1e6;
        let keep = (-passed_s / half_life_s).exp2();
        Self { attempts: self.attempts * keep, successes: self.successes * keep, at: now }
    }

    fn shrunk(self, towards: f64, strength: f64) -> f64 {
        (self.successes + strength * towards) / (self.attempts + strength)
    }

    fn count(&mut self, now: i64, half_life_s: f64, success: bool) {
        *self = self.as_of(now, half_life_s);
        self.attempts += 1.0;
        self.successes += f64::from(u8::from(success));
    }
}

/// A history reduced to what the moving average looks at.
pub(super) struct Attempts {
    /// Submission of each row, in microseconds.
    at: Vec<i64>,
    route: Vec<u32>,
    route_by_kind: Vec<u32>,
    customer: Vec<u32>,
    happened: Vec<Option<bool>>,
    /// (known at, row) of every label, ascending.
    known: Vec<(i64, u32)>,
    routes: usize,
    routes_by_kind: usize,
    customers: usize,
}

impl Attempts {
    /// Reads rows that are sorted by timestamp; `label` gives whether the event happened and when
    /// that became known.
    pub fn new(
        rows: &[HistoryRow],
        label: impl Fn(&HistoryRow) -> Option<(bool, Timestamp)>,
    ) -> Self {
        let (mut routes, mut by_kind) = (Numbers::default(), Numbers::default());
        let mut customers = Numbers::default();
        let mut attempts = Self {
            at: Vec::with_capacity(rows.len()),
            route: Vec::with_capacity(rows.len()),
            route_by_kind: Vec::with_capacity(rows.len()),
            customer: Vec::with_capacity(rows.len()),
            happened: Vec::with_capacity(rows.len()),
            known: Vec::new(),
            routes: 0,
            routes_by_kind: 0,
            customers: 0,
        };
        for (number, row) in rows.iter().enumerate() {
            let route = route(row);
            attempts.at.push(row.timestamp.micros());
            attempts.route_by_kind.push(by_kind.of(format!("{} {route}", row.payment.kind)));
            attempts.route.push(routes.of(route));
            attempts.customer.push(customers.of(row.payment.customer.id.as_str().to_owned()));
            let label = label(row);
            attempts.happened.push(label.map(|(happened, _)| happened));
            if let Some((_, known)) = label {
                attempts.known.push((known.micros(), number as u32));
            }
        }
        attempts.known.sort_unstable();
        attempts.routes = routes.0.len();
        attempts.routes_by_kind = by_kind.0.len();
        attempts.customers = customers.0.len();
        attempts
    }

    /// The parameters with the least log loss on the newer half of the rows before `until`;
    /// `None` where no label was known by then.
    pub fn tune(&self, until: Timestamp) -> Option<Parameters> {
        let until = until.micros();
        let end = self.at.partition_point(|at| *at < until);
        let middle = end / 2;
        let mut known_by_end = vec![false; end];
        for (_, row) in self.known.iter().take_while(|known| known.0 < until) {
            if let Some(known) = known_by_end.get_mut(*row as usize) {
                *known = true;
            }
        }
        let mut losses: Vec<(Parameters, f64)> = grid().map(|p| (p, 0.0)).collect();
        let mut scored = 0_usize;
        let mut state = State::new(self);
        let mut grid_probabilities = Vec::with_capacity(losses.len());
        for (row, known) in known_by_end.iter().enumerate() {
            state.advance(self, self.at[row]);
            let Some(success) = self.happened[row].filter(|_| row >= middle && *known) else {
                continue;
            };
            scored += 1;
            grid_probabilities.clear();
            state.predict_grid(self, row, &mut grid_probabilities);
            for (loss, p) in losses.iter_mut().zip(&grid_probabilities) {
                loss.1 += log_loss_of(*p, success);
            }
        }
        if scored == 0 {
            return None;
        }
        let best = losses.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?.0;
        let (p, y): (Vec<f64>, Vec<bool>) = (middle..end)
            .zip(self.predict(best, middle))
            .filter(|(row, _)| known_by_end[*row])
            .filter_map(|(row, p)| Some((p, self.happened[row]?)))
            .unzip();
        let line = calibration_line(&p, &y).filter(|line| line.slope > 0.0);
        Some(Parameters { line: line.unwrap_or(IDENTITY), ..best })
    }

    /// The probability of each row from `first` on, from what was known before its submission.
    pub fn predict(&self, parameters: Parameters, first: usize) -> Vec<f64> {
        let (routes, count) = if parameters.by_kind {
            (&self.route_by_kind, self.routes_by_kind)
        } else {
            (&self.route, self.routes)
        };
        let mut by_route = vec![Rate::default(); count];
        let mut by_customer = vec![Rate::default(); self.customers];
        let mut overall = Rate::default();
        let mut known = self.known.iter().peekable();
        let mut out = Vec::with_capacity(self.at.len() - first);
        for row in 0..self.at.len() {
            let now = self.at[row];
            while let Some((at, row)) = known.next_if(|known| known.0 < now) {
                let row = *row as usize;
                let success = self.happened[row] == Some(true);
                overall.count(*at, f64::INFINITY, success);
                by_route[routes[row] as usize].count(*at, parameters.route_half_life_s, success);
                by_customer[self.customer[row] as usize].count(
                    *at,
                    parameters.customer_half_life_s,
                    success,
                );
            }
            if row >= first {
                let route = by_route[routes[row] as usize].as_of(now, parameters.route_half_life_s);
                let customer = by_customer[self.customer[row] as usize]
                    .as_of(now, parameters.customer_half_life_s);
                let route = route.shrunk(prior(overall), parameters.route_strength);
                out.push(
                    parameters.line.apply(customer.shrunk(route, parameters.customer_strength)),
                );
            }
        }
        out
    }
}

/// The overall rate, never quite 0 or 1: one half success in one attempt before the first.
fn prior(overall: Rate) -> f64 {
    overall.shrunk(0.5, 1.0)
}

/// Every combination, in the order in which [`State::predict_grid`] answers.
fn grid() -> impl Iterator<Item = Parameters> {
    let mut all = Vec::new();
    for by_kind in [false, true] {
        for route_half_life_s in ROUTE_HALF_LIVES_S {
            for route_strength in ROUTE_STRENGTHS {
                for customer_half_life_s in CUSTOMER_HALF_LIVES_S {
                    for customer_strength in CUSTOMER_STRENGTHS {
                        all.push(Parameters {
                            by_kind,
                            route_half_life_s,
                            route_strength,
                            customer_half_life_s,
                            customer_strength,
                            line: IDENTITY,
                        });
                    }
                }
            }
        }
    }
    all.into_iter()
}

/// Rates for every half-life at once, so that the whole grid is tuned in one pass.
struct State {
    routes: [Vec<[Rate; ROUTE_HALF_LIVES_S.len()]>; 2],
    customers: Vec<[Rate; CUSTOMER_HALF_LIVES_S.len()]>,
    overall: Rate,
    next: usize,
}

impl State {
    fn new(attempts: &Attempts) -> Self {
        let empty = |count| vec![[Rate::default(); ROUTE_HALF_LIVES_S.len()]; count];
        Self {
            routes: [empty(attempts.routes), empty(attempts.routes_by_kind)],
            customers: vec![[Rate::default(); CUSTOMER_HALF_LIVES_S.len()]; attempts.customers],
            overall: Rate::default(),
            next: 0,
        }
    }

    /// Counts every label known before `now`.
    fn advance(&mut self, attempts: &Attempts, now: i64) {
        while let Some((at, row)) = attempts.known.get(self.next).filter(|known| known.0 < now) {
            let row = *row as usize;
            let success = attempts.happened[row] == Some(true);
            self.overall.count(*at, f64::INFINITY, success);
            let routes = [attempts.route[row], attempts.route_by_kind[row]];
            for (rates, route) in self.routes.iter_mut().zip(routes) {
                for (rate, life) in rates[route as usize].iter_mut().zip(ROUTE_HALF_LIVES_S) {
                    rate.count(*at, life, success);
                }
            }
            let rates = &mut self.customers[attempts.customer[row] as usize];
            for (rate, life) in rates.iter_mut().zip(CUSTOMER_HALF_LIVES_S) {
                rate.count(*at, life, success);
            }
            self.next += 1;
        }
    }

    fn predict_grid(&self, attempts: &Attempts, row: usize, out: &mut Vec<f64>) {
        let now = attempts.at[row];
        let global = prior(self.overall);
        let mut customers = self.customers[attempts.customer[row] as usize];
        for (rate, life) in customers.iter_mut().zip(CUSTOMER_HALF_LIVES_S) {
            *rate = rate.as_of(now, life);
        }
        let routes = [attempts.route[row], attempts.route_by_kind[row]];
        for (rates, route) in self.routes.iter().zip(routes) {
            for (rate, life) in rates[route as usize].iter().zip(ROUTE_HALF_LIVES_S) {
                let rate = rate.as_of(now, life);
                for strength in ROUTE_STRENGTHS {
                    let of_route = rate.shrunk(global, strength);
                    for customer in customers {
                        for strength in CUSTOMER_STRENGTHS {
                            out.push(customer.shrunk(of_route, strength));
                        }
                    }
                }
            }
        }
    }
}

/// Numbers texts in order of appearance.
#[derive(Default)]
struct Numbers(HashMap<String, u32>);

impl Numbers {
    fn of(&mut self, text: String) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(text).or_insert(next)
    }
}

/// The recorded route, or else the participants in branch order.
fn route(row: &HistoryRow) -> String {
    row.route.clone().unwrap_or_else(|| {
        let names: Vec<&str> =
            row.payment.participants.iter().map(ParticipantName::as_str).collect();
        names.join("+")
    })
}
