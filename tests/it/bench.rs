//! `presume bench`: what its figures hold, between embedded ledgers.

use std::path::Path;

use serde_json::Value;

use crate::server::{command, root};

fn bench(dir: &Path, args: &[&str]) -> Value {
    let mut bench = command();
    bench.arg("bench").args(args).args(["--seconds", "1", "--json", "--models"]);
    let output = bench.arg(root().join("models")).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, pointer: &str) -> f64 {
    let number = value.pointer(pointer).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("{pointer} is no number in {value:#}"))
}

#[test]
fn bare_alone_and_ours_are_measured_in_one_run_in_an_open_loop() {
    let scratch = tempfile::tempdir().unwrap();
    let rate = ["--rate", "100", "--in-flight", "64", "--declines", "20"];
    let shape = ["--participant-count", "3", "--read-only", "1", "--plot", "rates.svg"];
    let report = bench(scratch.path(), &[&["commit"], &rate[..], &shape].concat());
    assert_eq!(report["arrivals"], "poisson");
    assert_eq!(report["outcome_log"], "on");
    assert!(report["predictions"].as_str().unwrap().starts_with("payments/"), "{report:#}");
    let figures = &report["rounds"][0];
    assert_eq!((number(figures, "/rate"), number(figures, "/in_flight")), (100.0, 64.0));
    for way in ["bare", "uncoalesced", "presume"] {
        let of = |name: &str| number(figures, &format!("/{way}/{name}"));
        assert!(of("committed") > 0.0 && of("declined") > 0.0, "{figures:#}");
        assert!(of("flushes_participants") > 0.0, "{figures:#}");
        assert!(of("answer_ms_p99") >= of("answer_ms_p50"), "{figures:#}");
        // The schedule is the same for all three.
        let arrived = ["committed", "declined", "failed", "refused"].map(of);
        assert_eq!(arrived.iter().sum::<f64>(), number(figures, "/arrival_count"), "{figures:#}");
    }
    for ratio in ["ratio_to_bare", "ratio_to_uncoalesced"] {
        assert!(number(&report, &format!("/medians/0/{ratio}")) > 0.0);
    }
    let svg = std::fs::read_to_string(scratch.path().join("rates.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("arrivals a second"), "{svg}");
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "scratch data are left: {left:?}");
}

#[test]
fn http_is_measured_beside_the_same_in_process() {
    let scratch = tempfile::tempdir().unwrap();
    let report = bench(scratch.path(), &["http", "--in-flight", "8", "--declines", "20"]);
    let figures = &report["rounds"][0];
    for way in ["in_process", "single", "lines"] {
        for name in ["committed", "declined", "answer_ms_p50"] {
            assert!(number(figures, &format!("/{way}/{name}")) > 0.0, "{figures:#}");
        }
    }
    assert!(number(figures, "/single_ratio_to_in_process") > 0.0);
    assert!(number(figures, "/lines_ratio_to_in_process") > 0.0);
}

#[test]
fn loads_that_cannot_be_are_refused_with_their_limits() {
    let refused = |args: &[&str], says: &str| {
        let output = command().args(["bench", "commit"]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{args:?}: {said}");
    };
    refused(&["--participant-count", "4"], "4, not 2, 3 or 5");
    refused(&["--read-only", "2"], "at most 1 of 2");
    refused(&["--rate", "0"], "between 1 and");
    refused(&["--in-flight", "5000"], "between 1 and 4096");
    refused(&["--declines", "101"], "not between 0 and 50");
}
