use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::features::{LEG_WIDTH, TXN_WIDTH};
use crate::models::bundle::{MANIFEST, hex_sha256};
use crate::models::onnx::MODEL_BYTES_MAX;
use crate::models::{Bundle, LoadError};

/// A bundle on disk.
fn folder(draft: &Draft) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in draft.sealed(3) {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn load(dir: &Path) -> Result<Bundle, LoadError> {
    Bundle::load(dir, &Calendar::default())
}

/// The message with which a changed draft is refused.
fn refused(change: impl Fn(&mut Draft)) -> LoadError {
    let mut draft = draft();
    change(&mut draft);
    load(folder(&draft).path()).unwrap_err()
}

/// The message with which a changed folder is refused.
fn refused_after(change: impl Fn(&Path)) -> LoadError {
    let dir = folder(&draft());
    change(dir.path());
    load(dir.path()).unwrap_err()
}

#[test]
fn a_bundle_loads_and_predicts_from_whole_schema_rows() {
    let dir = folder(&draft());
    let bundle = load(dir.path()).unwrap();
    assert_eq!(bundle.id(), "payments/3");
    assert_eq!(bundle.manifest().version, 3);
    assert!((bundle.conformal_multiplier() - 3.0).abs() < 1e-12);
    let golden: BTreeMap<Target, Golden> =
        serde_json::from_slice(&std::fs::read(dir.path().join(GOLDEN)).unwrap()).unwrap();
    for (input, expected) in
        golden[&Target::Success].inputs.iter().zip(&golden[&Target::Success].outputs)
    {
        let mut row = [0.0; TXN_WIDTH];
        for (place, value) in input.iter().enumerate() {
            row[place] = value.unwrap_or(f32::NAN);
        }
        assert!((bundle.predict_success(&row).unwrap() - expected).abs() < 1e-6);
    }
    assert!(bundle.predict_fraud(&[0.0; TXN_WIDTH]).unwrap() > 0.0);
    assert!(bundle.predict_latency_ms(&[0.0; LEG_WIDTH]).unwrap() > 0.0);
    assert!(bundle.predict_rules(Target::Fraud, &[0.0; TXN_WIDTH]).is_some());
    assert!(bundle.predict_rules(Target::Latency, &[0.0; TXN_WIDTH]).is_none());
}

#[test]
fn a_folder_without_a_manifest_is_no_bundle() {
    let error = load(TempDir::new().unwrap().path()).unwrap_err();
    assert!(matches!(error, LoadError::ManifestMissing { .. }), "{error}");
    assert!(error.to_string().contains("not a bundle"));
}

#[test]
fn an_unreadable_manifest_is_refused() {
    for text in [&b"format = "[..], b"format = 1\nname = 3", b"\xff\xfe", b""] {
        let error = refused_after(|dir| std::fs::write(dir.join(MANIFEST), text).unwrap());
        assert!(matches!(error, LoadError::ManifestMalformed { .. }), "{error}");
    }
}

#[test]
fn a_newer_format_is_refused_even_if_nothing_else_is_understood() {
    let error =
        refused_after(|dir| std::fs::write(dir.join(MANIFEST), "format = 99\nx = 1").unwrap());
    assert!(matches!(error, LoadError::FormatTooNew { found: 99 }), "{error}");
    assert!(error.to_string().contains("upgrade"));
}

#[test]
fn a_wrong_fingerprint_is_refused_naming_the_feature_and_both_values() {
    let error = refused(|draft| {
        let target = draft.manifest.targets.get_mut(&Target::Fraud).unwrap();
        target.features[2].fingerprint = "0123456789abcdef".to_owned();
    });
    assert!(matches!(error, LoadError::Fingerprint { target: Target::Fraud, .. }), "{error}");
    let text = error.to_string();
    let feature = &txn_features()[2];
    let here = feature.fingerprint(&Calendar::default());
    assert!([feature.name, "0123456789abcdef", &here].iter().all(|part| text.contains(part)));
}

#[test]
fn another_calendar_is_a_wrong_fingerprint_for_what_depends_on_it() {
    let mut draft = draft();
    let hour = txn_features().iter().find(|feature| feature.name == "hour_sin").unwrap();
    let target = draft.manifest.targets.get_mut(&Target::Success).unwrap();
    target.features[0] = BoundFeature {
        name: hour.name.to_owned(),
        fingerprint: hour.fingerprint(&Calendar::default()),
    };
    let dir = folder(&draft);
    assert!(load(dir.path()).is_ok());
    let elsewhere = Calendar { time_zone: "Europe/Paris".to_owned(), ..Calendar::default() };
    let error = Bundle::load(dir.path(), &elsewhere).unwrap_err();
    assert!(matches!(error, LoadError::Fingerprint { .. }), "{error}");
}

#[test]
fn an_unknown_feature_is_refused() {
    let error = refused(|draft| {
        let target = draft.manifest.targets.get_mut(&Target::Latency).unwrap();
        target.features[0].name = "moon_phase".to_owned();
    });
    assert!(matches!(error, LoadError::UnknownFeature { .. }), "{error}");
    assert!(error.to_string().contains("moon_phase"));
}

#[test]
fn a_wrong_width_is_refused() {
    let error = refused(|draft| {
        draft.manifest.targets.get_mut(&Target::Success).unwrap().features.pop();
    });
    assert!(matches!(error, LoadError::Graph { target: Target::Success, .. }), "{error}");
    assert!(error.to_string().contains("rows of 10 features, 9 are bound"), "{error}");
}

#[test]
fn a_truncated_file_is_refused_as_truncated() {
    let error = refused_after(|dir| {
        let path = dir.join("success.onnx");
        let content = std::fs::read(&path).unwrap();
        std::fs::write(path, &content[..content.len() / 2]).unwrap();
    });
    assert!(matches!(error, LoadError::Truncated { .. }), "{error}");
    assert!(error.to_string().contains("success.onnx is truncated"), "{error}");
}

#[test]
fn a_changed_file_is_refused_with_both_hashes() {
    let original = draft().files["success.onnx"].clone();
    let error = refused_after(|dir| {
        let mut content = original.clone();
        content[100] ^= 1;
        std::fs::write(dir.join("success.onnx"), content).unwrap();
    });
    assert!(matches!(error, LoadError::Changed { .. }), "{error}");
    assert!(error.to_string().contains(&hex_sha256(&original)), "{error}");
}

#[test]
fn a_graph_that_cannot_be_parsed_is_refused_even_with_the_right_hash() {
    let error = refused(|draft| {
        let graph = draft.files.get_mut("success.onnx").unwrap();
        graph.truncate(graph.len() / 2);
    });
    assert!(matches!(error, LoadError::Graph { .. }), "{error}");
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

#[test]
fn failing_golden_vectors_are_refused_with_both_numbers() {
    let error = refused(|draft| {
        let other = draft.files["fraud.onnx"].clone();
        draft.files.insert("success.onnx".to_owned(), other);
    });
    assert!(matches!(error, LoadError::Golden { target: Target::Success, .. }), "{error}");
    assert!(error.to_string().contains("the trained model gave"), "{error}");
}

#[test]
fn malformed_or_missing_golden_vectors_are_refused() {
    for text in ["{", "{}", r#"{"success":{"inputs":[],"outputs":[]}}"#] {
        let error = refused(|draft| {
            draft.files.insert(GOLDEN.to_owned(), text.as_bytes().to_vec());
        });
        assert!(matches!(error, LoadError::GoldenMalformed { .. }), "{error}");
    }
}

#[test]
fn a_file_beyond_the_limit_is_refused_unread() {
    let error = refused_after(|dir| {
        let file = std::fs::File::create(dir.join("success.onnx")).unwrap();
        file.set_len(MODEL_BYTES_MAX as u64 + 1).unwrap();
    });
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("the limit is"), "{error}");
}

#[test]
fn a_missing_file_is_refused_with_its_path() {
    let error = refused_after(|dir| std::fs::remove_file(dir.join("fraud.onnx")).unwrap());
    assert!(matches!(error, LoadError::File { .. }), "{error}");
    assert!(error.to_string().contains("fraud.onnx"), "{error}");
}

#[test]
fn bad_rules_are_refused() {
    let error = refused(|draft| {
        draft.files.insert(RULES.to_owned(), b"x = 1".to_vec());
    });
    assert!(matches!(error, LoadError::Rules(_)), "{error}");
}

#[test]
fn a_manifest_cannot_name_files_outside_its_folder() {
    let error = refused_after(|dir| {
        let path = dir.join(MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = text.replace("\"success.json\"", "\"../success.json\"");
        assert_ne!(text, changed);
        std::fs::write(path, changed).unwrap();
    });
    assert!(error.to_string().contains("leaves the folder"), "{error}");
}

#[test]
fn a_bundle_without_latency_loads_and_says_what_is_missing() {
    let mut draft = draft();
    draft.manifest.targets.remove(&Target::Latency);
    draft.manifest.not_trained.insert(Target::Latency, "no legs".to_owned());
    let bundle = load(folder(&draft).path()).unwrap();
    assert!(!bundle.has(Target::Latency) && bundle.conformal().is_none());
    assert!(bundle.predict_latency_ms(&[0.0; LEG_WIDTH]).is_err());
}

#[test]
fn a_trained_form_serves_and_gives_what_its_graph_gives() {
    let dir = folder(&draft());
    let served = load(dir.path()).unwrap();
    let graphs = Bundle::load_graphs(dir.path(), &Calendar::default()).unwrap();
    let mut without = draft();
    without.files.remove("fraud.json");
    let other = folder(&without);
    let by_graph = load(other.path()).unwrap();
    let (rows, _) = sample(200, TXN_WIDTH, 9);
    for row in rows.chunks_exact(TXN_WIDTH) {
        let row: &[f32; TXN_WIDTH] = row.try_into().unwrap();
        let fraud = served.predict_fraud(row).unwrap();
        assert!((fraud - graphs.predict_fraud(row).unwrap()).abs() < 1e-6);
        assert!((fraud - by_graph.predict_fraud(row).unwrap()).abs() < 1e-6);
    }
}

#[test]
fn a_trained_form_that_is_malformed_or_another_is_refused() {
    let error = refused(|draft| {
        draft.files.insert("fraud.json".to_owned(), b"{}".to_vec());
    });
    assert!(matches!(error, LoadError::Form { target: Target::Fraud, .. }), "{error}");
    let error = refused(|draft| {
        let other = draft.files["success.json"].clone();
        draft.files.insert("fraud.json".to_owned(), other);
    });
    assert!(matches!(error, LoadError::Golden { target: Target::Fraud, .. }), "{error}");
    let error = refused(|draft| {
        let text = String::from_utf8(draft.files["latency.json"].clone()).unwrap();
        let reaches_out = text.replacen("\"input\":0", "\"input\":99", 1);
        assert_ne!(reaches_out, text);
        draft.files.insert("latency.json".to_owned(), reaches_out.into_bytes());
    });
    assert!(error.to_string().contains("input 99"), "{error}");
}
