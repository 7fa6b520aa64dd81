//! Serving: predictions that always come.
//!
//! The bundle in service can be swapped while others predict. For each target on its own: a model
//! that is missing, fails, is slow, or gives NaN or a number out of range does not serve; the
//! tuned rules of its bundle do, or the built-in ones, and it is counted by target and cause.
//! After a slow answer the model rests for a while. Time comes from the caller's clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::bundle::Bundle;
use super::rules::Rules;
use super::{PredictError, Target};
use crate::features::{Features, LEG_WIDTH};
use crate::txn::text_enum;
use crate::txn::{LatencyPrediction, ParticipantName, Prediction, Probability, ServedBy};

/// Longest median that a model may predict: an hour, in milliseconds.
pub const LATENCY_MS_MAX: f64 = 3_600_000.0;

/// What stands for a bundle where none is in service.
pub const RULES_VERSION: &str = "rules";

text_enum!(
    /// Why rules served.
    FallbackCause, "fallback cause", {
        /// There is no bundle, or it has no such model.
        Missing => "missing",
        /// The model returned an error.
        Failed => "failed",
        /// The model took longer than allowed, just now or shortly before.
        Slow => "slow",
        /// The model gave NaN.
        NotANumber => "nan",
        /// The model gave a number outside its range.
        OutOfRange => "out_of_range",
    }
);

/// A monotonic clock: time since a fixed but arbitrary origin.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What serving is made with.
#[derive(Clone)]
pub struct Options {
    /// A model slower than this for one call rests.
    pub slow_max: Duration,
    /// For how long.
    pub cooldown: Duration,
    /// Where time comes from.
    pub clock: Clock,
}

impl Options {
    /// 20 ms and 1 s: two thousand times the expected latency, so that only a broken model or a
    /// starved machine meets it.
    pub fn with_clock(clock: Clock) -> Self {
        Self { slow_max: Duration::from_millis(20), cooldown: Duration::from_secs(1), clock }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("slow_max", &self.slow_max)
            .field("cooldown", &self.cooldown)
            .finish_non_exhaustive()
    }
}

const TARGETS: usize = Target::ALL.len();
const CAUSES: usize = FallbackCause::ALL.len();

/// How often rules served, by target and cause, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FallbackCounts([[u64; CAUSES]; TARGETS]);

impl FallbackCounts {
    /// One count.
    pub fn get(&self, target: Target, cause: FallbackCause) -> u64 {
        self.0[target as usize][cause as usize]
    }

    /// All counts, also those that are 0.
    pub fn iter(&self) -> impl Iterator<Item = (Target, FallbackCause, u64)> + '_ {
        Target::ALL.iter().flat_map(move |target| {
            let one = move |cause: &FallbackCause| (*target, *cause, self.get(*target, *cause));
            FallbackCause::ALL.iter().map(one)
        })
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, _, count)| count).sum()
    }
}

/// Serves predictions; shared by all tasks.
#[derive(Debug)]
pub struct Serving {
    options: Options,
    built_in: Rules,
    bundle: ArcSwapOption<Bundle>,
    counts: [[AtomicU64; CAUSES]; TARGETS],
    /// Until when a target's model rests, in microseconds of the clock.
    rests_until_us: [AtomicU64; TARGETS],
}

impl Serving {
    /// Serving with the built-in rules, until a bundle is put in service.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            built_in: Rules::built_in(),
            bundle: ArcSwapOption::empty(),
            counts: Default::default(),
            rests_until_us: Default::default(),
        }
    }

    /// Puts a bundle in service, in place of the one before.
    pub fn load(&self, bundle: Bundle) {
        self.bundle.store(Some(Arc::new(bundle)));
        for rest in &self.rests_until_us {
            rest.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the bundle out of service.
    pub fn unload(&self) {
        self.bundle.store(None);
    }

    /// The bundle in service.
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.bundle.load_full()
    }

    /// `name/version` of the bundle in service, or `rules`.
    pub fn version(&self) -> String {
        self.bundle.load().as_ref().map_or(RULES_VERSION, |bundle| bundle.id().as_str()).to_owned()
    }

    /// How often rules served.
    pub fn fallbacks(&self) -> FallbackCounts {
        FallbackCounts(std::array::from_fn(|target| {
            std::array::from_fn(|cause| self.counts[target][cause].load(Ordering::Relaxed))
        }))
    }

    /// Predicts; never fails. `features.legs` are those of `participants`, in the same order.
    pub fn predict(&self, features: &Features, participants: &[ParticipantName]) -> Prediction {
        let loaded = self.bundle.load();
        let bundle = loaded.as_deref();
        let rules = bundle.map_or(&self.built_in, Bundle::rules);
        let probability = |target| {
            let mut out = [f64::NAN];
            let served = self.serve(bundle, target, &features.txn, &mut out, |p| p <= 1.0);
            // Rules are checked when they are bound: their numbers are probabilities.
            let by_rules =
                || rules.list(target).map_or(0.5, |list| list.probability(&features.txn));
            let value = if served == ServedBy::Model { out[0] } else { by_rules() };
            (Probability::new(value).expect("checked to be within 0 and 1"), served)
        };
        let (success, success_by) = probability(Target::Success);
        let (fraud, fraud_by) = probability(Target::Fraud);
        Prediction {
            success,
            success_by,
            fraud,
            fraud_by,
            latency: self.latency(bundle, rules, features, participants),
            model_version: bundle.map_or(RULES_VERSION.into(), |bundle| bundle.id().clone()),
        }
    }

    fn latency(
        &self,
        bundle: Option<&Bundle>,
        rules: &Rules,
        features: &Features,
        participants: &[ParticipantName],
    ) -> Vec<LatencyPrediction> {
        let rows: &[[f32; LEG_WIDTH]] = &features.legs;
        let mut medians = vec![f64::NAN; rows.len()];
        let fits = |ms: f64| ms > 0.0 && ms <= LATENCY_MS_MAX;
        let mut served_by =
            self.serve(bundle, Target::Latency, rows.as_flattened(), &mut medians, fits);
        let multiplier = bundle.and_then(Bundle::conformal).map(|conformal| conformal.multiplier);
        if multiplier.is_none() {
            served_by = ServedBy::Rules;
        }
        let one = |(index, participant): (usize, &ParticipantName)| {
            let (median_ms, upper_ms) = match (served_by, multiplier, rows.get(index)) {
                (ServedBy::Model, Some(multiplier), Some(_)) => {
                    (medians[index], medians[index] * multiplier)
                }
                (_, _, Some(row)) => rules.latency_ms(row),
                (_, _, None) => (rules.file().latency.static_ms, rules.file().latency.static_ms),
            };
            let served_by = if rows.get(index).is_some() { served_by } else { ServedBy::Rules };
            LatencyPrediction { participant: participant.clone(), median_ms, upper_ms, served_by }
        };
        participants.iter().enumerate().map(one).collect()
    }

    /// Asks the model; on `Rules` the cause is counted and `out` means nothing.
    fn serve(
        &self,
        bundle: Option<&Bundle>,
        target: Target,
        rows: &[f32],
        out: &mut [f64],
        fits: impl Fn(f64) -> bool,
    ) -> ServedBy {
        if out.is_empty() {
            return if bundle.is_some_and(|bundle| bundle.has(target)) {
                ServedBy::Model
            } else {
                ServedBy::Rules
            };
        }
        match self.ask(bundle, target, rows, out, fits) {
            None => ServedBy::Model,
            Some(cause) => {
                self.counts[target as usize][cause as usize].fetch_add(1, Ordering::Relaxed);
                ServedBy::Rules
            }
        }
    }

    fn ask(
        &self,
        bundle: Option<&Bundle>,
        target: Target,
        rows: &[f32],
        out: &mut [f64],
        fits: impl Fn(f64) -> bool,
    ) -> Option<FallbackCause> {
        let Some(bundle) = bundle.filter(|bundle| bundle.has(target)) else {
            return Some(FallbackCause::Missing);
        };
        let rest = &self.rests_until_us[target as usize];
        let started = (self.options.clock)();
        if micros(started) < rest.load(Ordering::Relaxed) {
            return Some(FallbackCause::Slow);
        }
        let answer = bundle.predict_rows(target, rows, out);
        let now = (self.options.clock)();
        if now.saturating_sub(started) > self.options.slow_max {
            rest.store(micros(now + self.options.cooldown), Ordering::Relaxed);
            return Some(FallbackCause::Slow);
        }
        match answer {
            Err(PredictError::Missing { .. }) => Some(FallbackCause::Missing),
            Err(_) => Some(FallbackCause::Failed),
            Ok(()) if out.iter().any(|x| x.is_nan()) => Some(FallbackCause::NotANumber),
            Ok(()) if out.iter().any(|x| *x < 0.0 || !fits(*x)) => Some(FallbackCause::OutOfRange),
            Ok(()) => None,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
