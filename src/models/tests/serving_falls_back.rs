use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::features::{Features, LEG_WIDTH, TXN_WIDTH};
use crate::models::bundle::{BoundModel, Bundle};
use crate::models::serving::{Options, RULES_VERSION};
use crate::models::{FallbackCause, PredictError, Rules, Serving};
use crate::txn::{ParticipantName, ServedBy};

/// Gives what it is told, after moving the clock.
struct Fake {
    answer: Result<f64, PredictError>,
    takes_us: u64,
    clock: Arc<AtomicU64>,
}

impl Predictor for Fake {
    fn width(&self) -> usize {
        1
    }

    fn predict(&self, rows: &[f32], out: &mut [f64]) -> Result<(), PredictError> {
        assert_eq!(rows.len(), out.len());
        self.clock.fetch_add(self.takes_us, Ordering::SeqCst);
        out.fill(self.answer.clone()?);
        Ok(())
    }
}

struct Bench {
    clock: Arc<AtomicU64>,
    serving: Serving,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(AtomicU64::new(0));
        let shared = clock.clone();
        let options = Options::with_clock(Arc::new(move || {
            Duration::from_micros(shared.load(Ordering::SeqCst))
        }));
        Self { clock, serving: Serving::new(options) }
    }

    /// Puts fakes in service; latency with a multiplier of 3.
    fn load(&self, models: &[(Target, Result<f64, PredictError>, u64)]) {
        let mut bound = BTreeMap::new();
        for (target, answer, takes_us) in models.iter().cloned() {
            let predictor = Fake { answer, takes_us, clock: self.clock.clone() };
            bound.insert(target, BoundModel { predictor: Box::new(predictor), inputs: vec![0] });
        }
        let manifest = Manifest { version: 4, ..draft().manifest };
        self.serving.load(Bundle::assemble(manifest, Rules::built_in(), bound));
    }

    fn predict(&self) -> crate::txn::Prediction {
        let features = Features { txn: [0.0; TXN_WIDTH], legs: vec![[5.0; LEG_WIDTH]; 2] };
        self.serving.predict(&features, &participants())
    }

    fn check_fallback(&self, target: Target, cause: FallbackCause, count: u64) {
        assert_eq!(self.serving.fallbacks().get(target, cause), count, "{target} {cause}");
    }
}

fn participants() -> Vec<ParticipantName> {
    ["core", "rail"].map(|name| ParticipantName::new(name).unwrap()).to_vec()
}

fn good() -> Vec<(Target, Result<f64, PredictError>, u64)> {
    vec![
        (Target::Success, Ok(0.875), 10),
        (Target::Fraud, Ok(0.125), 10),
        (Target::Latency, Ok(50.0), 10),
    ]
}

#[test]
fn a_good_bundle_serves_everything() {
    let bench = Bench::new();
    bench.load(&good());
    let prediction = bench.predict();
    assert!((prediction.success.get() - 0.875).abs() < 1e-12);
    assert!((prediction.fraud.get() - 0.125).abs() < 1e-12);
    assert_eq!((prediction.success_by, prediction.fraud_by), (ServedBy::Model, ServedBy::Model));
    assert_eq!(prediction.model_version, "payments/4");
    assert_eq!(prediction.latency.len(), 2);
    for (leg, participant) in prediction.latency.iter().zip(participants()) {
        assert_eq!((&leg.participant, leg.served_by), (&participant, ServedBy::Model));
        assert!((leg.upper_ms - 150.0).abs() < 1e-9 && (leg.median_ms - 50.0).abs() < 1e-9);
    }
    assert_eq!(bench.serving.fallbacks().total(), 0);
}

#[test]
fn without_a_bundle_the_built_in_rules_serve_and_it_is_counted() {
    let bench = Bench::new();
    let prediction = bench.predict();
    let rules = Rules::built_in();
    let row = [0.0; TXN_WIDTH];
    assert!((prediction.success.get() - rules.success(&row)).abs() < 1e-12);
    assert_eq!((prediction.success_by, prediction.fraud_by), (ServedBy::Rules, ServedBy::Rules));
    assert!((prediction.latency[0].median_ms - 5.0_f64.exp()).abs() < 1e-9);
    assert_eq!(prediction.latency[0].served_by, ServedBy::Rules);
    assert_eq!(prediction.model_version, RULES_VERSION);
    for target in Target::ALL {
        bench.check_fallback(*target, FallbackCause::Missing, 1);
    }
}

#[test]
fn nonsense_from_one_target_falls_back_for_it_alone() {
    let failed = || Err(PredictError::Failed { detail: "broken".to_owned() });
    let cases = [
        (Target::Success, Ok(f64::NAN), FallbackCause::NotANumber),
        (Target::Success, Ok(1.0001), FallbackCause::OutOfRange),
        (Target::Fraud, Ok(-0.1), FallbackCause::OutOfRange),
        (Target::Fraud, Ok(f64::INFINITY), FallbackCause::OutOfRange),
        (Target::Fraud, failed(), FallbackCause::Failed),
        (Target::Latency, failed(), FallbackCause::Failed),
        (Target::Latency, Ok(f64::NAN), FallbackCause::NotANumber),
        (Target::Latency, Ok(0.0), FallbackCause::OutOfRange),
        (Target::Latency, Ok(1e12), FallbackCause::OutOfRange),
    ];
    for (target, answer, cause) in cases {
        let bench = Bench::new();
        let mut models = good();
        models[target as usize].1 = answer;
        bench.load(&models);
        let prediction = bench.predict();
        let by = [prediction.success_by, prediction.fraud_by, prediction.latency[1].served_by];
        for other in Target::ALL {
            let expected = if *other == target { ServedBy::Rules } else { ServedBy::Model };
            assert_eq!(by[*other as usize], expected, "{target} {cause}: {other}");
        }
        bench.check_fallback(target, cause, 1);
        assert_eq!(bench.serving.fallbacks().total(), 1);
    }
}

#[test]
fn a_slow_model_rests_and_is_tried_again_after_the_cooldown() {
    let bench = Bench::new();
    let mut models = good();
    models[Target::Fraud as usize].2 = 30_000;
    bench.load(&models);
    assert_eq!(bench.predict().fraud_by, ServedBy::Rules);
    let before = bench.clock.load(Ordering::SeqCst);
    assert_eq!(bench.predict().fraud_by, ServedBy::Rules);
    let after = bench.clock.load(Ordering::SeqCst);
    assert!(after - before < 30_000, "a resting model is not asked");
    bench.check_fallback(Target::Fraud, FallbackCause::Slow, 2);
    assert_eq!(bench.predict().success_by, ServedBy::Model);
    bench.clock.fetch_add(2_000_000, Ordering::SeqCst);
    let before = bench.clock.load(Ordering::SeqCst);
    bench.predict();
    assert!(bench.clock.load(Ordering::SeqCst) - before >= 30_000, "it is asked again");
    bench.load(&good());
    assert_eq!(bench.predict().fraud_by, ServedBy::Model, "a new bundle starts rested");
}

#[test]
fn a_bundle_without_a_target_and_an_unloaded_one_fall_back_to_rules() {
    let bench = Bench::new();
    bench.load(&good()[..2]);
    let prediction = bench.predict();
    assert_eq!(prediction.latency[0].served_by, ServedBy::Rules);
    bench.check_fallback(Target::Latency, FallbackCause::Missing, 1);
    bench.serving.unload();
    assert_eq!(bench.serving.version(), RULES_VERSION);
    assert_eq!(bench.predict().success_by, ServedBy::Rules);
}

#[test]
fn more_participants_than_vectors_get_the_static_bound() {
    let bench = Bench::new();
    bench.load(&good());
    let features = Features { txn: [0.0; TXN_WIDTH], legs: vec![[5.0; LEG_WIDTH]] };
    let prediction = bench.serving.predict(&features, &participants());
    assert_eq!(prediction.latency[0].served_by, ServedBy::Model);
    assert_eq!(prediction.latency[1].served_by, ServedBy::Rules);
    assert!((prediction.latency[1].upper_ms - 5_000.0).abs() < 1e-9);
    let none = Features { txn: [0.0; TXN_WIDTH], legs: Vec::new() };
    assert!(bench.serving.predict(&none, &[]).latency.is_empty());
}

#[test]
fn predictions_go_on_while_bundles_are_swapped() {
    let bench = Bench::new();
    bench.load(&good());
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| (0..50).for_each(|_| bench.load(&good())));
        while !swap.is_finished() {
            assert_eq!(bench.predict().success_by, ServedBy::Model);
        }
    });
}
