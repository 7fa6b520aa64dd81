//! Training is repeatable: the committed sample gives the committed metrics.

use serde_json::Value;

use crate::server::{command, root};

/// The fit is deterministic on one machine; another's floating-point kernels may differ in the
/// last digits, which a minimiser carries to about this much of a metric.
const TOLERANCE: f64 = 0.005;

#[test]
fn the_sample_retrains_to_the_committed_metrics() {
    let scratch = tempfile::tempdir().unwrap();
    let output = command()
        .current_dir(root())
        .args(["train", "--history", "data/sample.csv", "--legs", "data/sample_legs.csv"])
        .arg("--models")
        .arg(scratch.path())
        .arg("--json")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trained: Value = serde_json::from_slice(&output.stdout).unwrap();
    let path = root().join("training/reports/sample.json");
    let committed: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut compared = 0;
    for (target, metrics) in committed.as_object().unwrap() {
        for (metric, committed) in metrics.as_object().unwrap() {
            let trained = &trained["manifest"]["targets"][target]["metrics"][metric];
            let (trained, committed) = (trained.as_f64().unwrap(), committed.as_f64().unwrap());
            // The multipliers of timeouts are far from one: their tolerance is relative.
            let tolerance = TOLERANCE * committed.abs().max(1.0);
            let difference = (trained - committed).abs();
            assert!(difference <= tolerance, "{target} {metric}: {trained}, was {committed}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared} metrics compared");
}

#[test]
fn the_shipped_bundle_loads_and_is_small() {
    let output = command()
        .current_dir(root())
        .args(["models", "show", "payments", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes: u64 = std::fs::read_dir(root().join("models/payments/1"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 2_000_000, "{bytes} bytes");
}
