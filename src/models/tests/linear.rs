use prost::Message;
use tract_onnx::pb::ModelProto;

use super::*;
use crate::models::PredictError;
use crate::models::calibration::{log_loss, sigmoid};
use crate::models::onnx::{MODEL_BYTES_MAX, Onnx, OnnxError};

/// Extremes that no training row held, and all of the sample's own kinds.
fn rows_to_compare(width: usize) -> Vec<f32> {
    let (mut rows, _) = sample(2_000, width, 42);
    for extreme in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0] {
        rows.extend(std::iter::repeat_n(extreme, width));
    }
    rows
}

fn check_same(trained: &dyn Predictor, graph: &[u8]) {
    let width = trained.width();
    let onnx = Onnx::load(graph, width).unwrap();
    let rows = rows_to_compare(width);
    let count = rows.len() / width;
    let (mut expected, mut batch) = (vec![f64::NAN; count], vec![f64::NAN; count]);
    trained.predict(&rows, &mut expected).unwrap();
    onnx.predict(&rows, &mut batch).unwrap();
    for (index, row) in rows.chunks_exact(width).enumerate() {
        let mut one = [f64::NAN];
        onnx.predict(row, &mut one).unwrap();
        let scale = expected[index].abs().max(1.0);
        assert!((expected[index] - batch[index]).abs() <= 1e-6 * scale, "row {index}");
        assert!((expected[index] - one[0]).abs() <= 1e-6 * scale, "row {index} alone");
    }
}

#[test]
fn the_graph_of_a_logistic_regression_agrees_with_linfa_within_one_millionth() {
    for (width, seed) in [(5, 1), (10, 2), (57, 3)] {
        let model = logistic(width, seed);
        check_same(&model, &encode(&model.linear()).unwrap());
        let (basis, inputs) = model.basis().clone().compact();
        assert!(basis.width() == inputs.len() && basis.width() < width, "constants are left out");
    }
}

#[test]
fn the_graph_of_a_ridge_regression_agrees_with_linfa_within_one_millionth() {
    let model = ridge(10, 4);
    check_same(&model, &encode(&model.linear()).unwrap());
}

#[test]
fn the_probability_is_that_of_the_event_whichever_class_is_the_majority() {
    for event_is_common in [true, false] {
        let (rows, labels) = sample(4_000, 5, 7);
        let labels: Vec<bool> = labels.iter().map(|label| *label == event_is_common).collect();
        let basis = Basis::fit(&rows, 5, &QUANTILES);
        let columns = basis.matrix(&rows, false);
        let sample = Sample { columns: columns.view(), labels: &labels };
        let model = Logistic::fit(basis, sample, 1.0, None).unwrap();
        let mut p = vec![f64::NAN; labels.len()];
        model.predict(&rows, &mut p).unwrap();
        let rate = labels.iter().filter(|label| **label).count() as f64 / labels.len() as f64;
        let majority = log_loss(&vec![rate; labels.len()], &labels);
        assert!(log_loss(&p, &labels) < 0.9 * majority);
        assert!((p.iter().sum::<f64>() / labels.len() as f64 - rate).abs() < 1e-3);
    }
}

#[test]
fn a_warm_start_finds_the_same_minimum() {
    let (rows, labels) = sample(3_000, 5, 8);
    let basis = Basis::fit(&rows, 5, &QUANTILES);
    let columns = basis.matrix(&rows, false);
    let sample = Sample { columns: columns.view(), labels: &labels };
    let cold = Logistic::fit(basis.clone(), sample, 1.0, None).unwrap();
    let strong = Logistic::fit(basis.clone(), sample, 100.0, None).unwrap();
    let warm = Logistic::fit(basis, sample, 1.0, Some(&strong)).unwrap();
    let (a, b) = (cold.probabilities(columns.view()), warm.probabilities(columns.view()));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3));
}

#[test]
fn the_json_form_round_trips_exactly() {
    let model = logistic(10, 5);
    let text = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Logistic>(&text).unwrap(), model);
    let model = ridge(10, 5);
    let text = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Ridge>(&text).unwrap(), model);
}

#[test]
fn one_class_is_an_error_and_not_a_panic() {
    let (rows, _) = sample(100, 5, 1);
    let basis = Basis::fit(&rows, 5, &QUANTILES);
    let columns = basis.matrix(&rows, false);
    let sample = Sample { columns: columns.view(), labels: &[true; 100] };
    assert!(Logistic::fit(basis, sample, 1.0, None).is_err());
}

#[test]
fn a_rare_value_keeps_its_column() {
    let mut rows = vec![0.0_f32; 10_000];
    rows[17] = 5.0;
    let basis = Basis::fit(&rows, 1, &QUANTILES);
    assert_eq!(basis.columns().len(), 1);
    assert_eq!((basis.columns()[0].low, basis.columns()[0].high), (0.0, 5.0));
}

#[test]
fn a_feature_that_is_always_missing_gets_no_column() {
    let rows = vec![f32::NAN; 1_000];
    assert!(Basis::fit(&rows, 1, &QUANTILES).columns().is_empty());
}

#[test]
fn platt_repairs_an_overconfident_model_and_leaves_a_good_one_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let truth: Vec<f64> = (0..8_000).map(|_| rng.random_range(-3.0..3.0)).collect();
    let labels: Vec<bool> = truth.iter().map(|z| rng.random_bool(sigmoid(*z))).collect();
    let sure: Vec<f64> = truth.iter().map(|z| sigmoid(3.0 * z + 1.0)).collect();
    let chosen = Calibration::choose(&sure, &labels);
    let (slope, intercept) = chosen.as_line();
    assert!((slope - 1.0 / 3.0).abs() < 0.05, "{chosen:?}");
    assert!((intercept + 1.0 / 3.0).abs() < 0.1, "{chosen:?}");
    let repaired: Vec<f64> = sure.iter().map(|p| chosen.apply(*p)).collect();
    let good: Vec<f64> = truth.iter().map(|z| sigmoid(*z)).collect();
    assert!((log_loss(&repaired, &labels) - log_loss(&good, &labels)).abs() < 1e-3);
    let (slope, _) = Calibration::choose(&good, &labels).as_line();
    assert!((slope - 1.0).abs() < 0.1);
}

#[test]
fn calibration_of_one_class_or_few_rows_does_nothing() {
    assert_eq!(Calibration::choose(&[0.3; 1_000], &[true; 1_000]), Calibration::Identity);
    assert_eq!(Calibration::choose(&[0.3, 0.4], &[true, false]), Calibration::Identity);
    assert_eq!(Calibration::choose(&[], &[]), Calibration::Identity);
}

#[test]
fn the_conformal_multiplier_is_the_stated_rank() {
    let check = |count: u32, alpha: f64, expected: f64| {
        let ratios = (1..=count).rev().map(f64::from);
        let conformal = Conformal::measure(ratios, alpha).unwrap();
        assert!((conformal.multiplier - expected).abs() < 1e-12, "{count} {alpha}");
    };
    check(1_000, 0.001, 1_000.0);
    check(1_998, 0.001, 1_998.0);
    check(1_999, 0.001, 1_998.0);
    check(99, 0.1, 90.0);
    check(5, 0.001, 5.0);
    assert!(Conformal::measure([f64::NAN, f64::INFINITY].into_iter(), 0.1).is_none());
    assert!(!Conformal::measure([1.0].into_iter(), 0.001).unwrap().has_enough_rows());
}

#[test]
fn a_row_of_another_width_is_an_error() {
    let model = logistic(5, 1);
    let onnx = Onnx::load(&encode(&model.linear()).unwrap(), 5).unwrap();
    let expected = PredictError::Shape { values: 4, rows: 1, width: 5 };
    assert_eq!(onnx.predict(&[0.0; 4], &mut [0.0]), Err(expected.clone()));
    assert_eq!(model.predict(&[0.0; 4], &mut [0.0]), Err(expected));
    assert_eq!(onnx.predict(&[], &mut []), Ok(()));
}

#[test]
fn a_graph_is_refused_for_its_width_size_garbage_and_what_lies_outside() {
    let bytes = encode(&logistic(5, 1).linear()).unwrap();
    let found = Onnx::load(&bytes, 6).unwrap_err();
    assert_eq!(found, OnnxError::Width { found: 5, expected: 6 });
    let huge = vec![0; MODEL_BYTES_MAX + 1];
    assert!(matches!(Onnx::load(&huge, 5), Err(OnnxError::TooLarge { .. })));
    let unreadable = |bytes: &[u8]| {
        let error = Onnx::load(bytes, 5).unwrap_err();
        assert!(matches!(error, OnnxError::Unreadable { .. }), "{error}");
        error.to_string()
    };
    unreadable(b"");
    unreadable(b"not a graph at all");
    let mut model = ModelProto::decode(&*bytes).unwrap();
    model.graph.as_mut().unwrap().initializer[0].data_location = Some(1);
    assert!(unreadable(&model.encode_to_vec()).contains("outside"));
    let mut model = ModelProto::decode(&*bytes).unwrap();
    model.graph.as_mut().unwrap().node[0].op_type = "Mystery".to_owned();
    unreadable(&model.encode_to_vec());
    let mut model = ModelProto::decode(&*bytes).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.output.push(graph.output[0].clone());
    assert!(unreadable(&model.encode_to_vec()).contains("2 outputs"));
}

#[test]
fn no_prefix_and_no_flipped_byte_of_a_graph_makes_loading_panic() {
    let bytes = encode(&logistic(5, 1).linear()).unwrap();
    for cut in (0..bytes.len()).step_by(bytes.len() / 60 + 1) {
        assert!(Onnx::load(&bytes[..cut], 5).is_err(), "cut at {cut}");
    }
    for place in (0..bytes.len()).step_by(bytes.len() / 60 + 1) {
        let mut changed = bytes.clone();
        changed[place] ^= 0x55;
        let _ = Onnx::load(&changed, 5);
    }
}
