//! Bad input at the command line: a clear error that names file, line and value; never a panic.

use std::path::Path;
use std::process::Output;

use crate::server::{Served, command, root};

fn run(dir: &Path, args: &[&str]) -> Output {
    command().current_dir(dir).args(args).output().unwrap()
}

/// The command fails with exit code 1, does not panic, and says all of `parts`.
fn check_fails(dir: &Path, args: &[&str], parts: &[&str]) {
    let output = run(dir, args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{args:?} does not say {part:?}:\n{text}");
    }
}

fn sample_with(lines: usize, edit: impl Fn(usize, String) -> String) -> Vec<u8> {
    let text = std::fs::read_to_string(root().join("data/sample.csv")).unwrap();
    let lines = text.lines().take(lines).enumerate();
    lines.map(|(i, line)| edit(i, line.to_owned()) + "\n").collect::<String>().into_bytes()
}

#[test]
fn histories_that_cannot_be_trained_on_are_refused_with_the_place() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    let train = |name: &'static str| ["train", "--history", name, "--models", "m"];
    write("empty.csv", b"");
    check_fails(dir, &train("empty.csv"), &["empty.csv"]);
    write("header.csv", &sample_with(1, |_, line| line));
    check_fails(dir, &train("header.csv"), &["header.csv"]);
    write("binary.csv", &[0xff, 0xfe, 0, 1, 2, 3]);
    check_fails(dir, &train("binary.csv"), &["binary.csv"]);
    write(
        "kinds.csv",
        &sample_with(2_000, |i, l| if i > 0 { l.replace(",UPI,", ",CASH,") } else { l }),
    );
    check_fails(dir, &train("kinds.csv"), &["kinds.csv", "CASH", "kind"]);
    check_fails(dir, &train("missing.csv"), &["missing.csv"]);
    write(
        "one_class.csv",
        &sample_with(3_000, |i, line| {
            let line = line.replace(",aborted,business,", ",committed,,");
            let line = line.replace(",aborted,technical,", ",committed,,");
            if i > 0 { line.replace(",true,2026", ",false,2026") } else { line }
        }),
    );
    let output = run(dir, &train("one_class.csv"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("panicked") && text.contains("success"), "{text}");
}

#[test]
fn a_store_has_one_process_and_must_be_ours() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let served = Served::start(dir, &["--set", "policy.mode=off"]);
    check_fails(
        dir,
        &["serve", "--address", "127.0.0.1:0", "--data-dir", "data"],
        &["decision", "data"],
    );
    check_fails(dir, &["ledger", "verify", "--data", "data"], &["server"]);
    assert!(served.stop().success());
    assert!(run(dir, &["ledger", "verify", "--data", "data"]).status.success());
    // A folder of somebody else's.
    std::fs::create_dir_all(dir.join("foreign/decision-log")).unwrap();
    std::fs::write(dir.join("foreign/decision-log/photo.jpg"), b"x").unwrap();
    check_fails(
        dir,
        &["serve", "--address", "127.0.0.1:0", "--data-dir", "foreign"],
        &["decision-log"],
    );
}

#[test]
fn a_broken_model_does_not_stop_transactions_and_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let models = dir.join("models/payments");
    std::fs::create_dir_all(models.join("1")).unwrap();
    let shipped = root().join("models/payments/1");
    for entry in std::fs::read_dir(shipped).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), models.join("1").join(entry.file_name())).unwrap();
    }
    std::fs::copy(root().join("models/payments/champion"), models.join("champion")).unwrap();
    let graph = models.join("1/success.onnx");
    let whole = std::fs::read(&graph).unwrap();
    std::fs::write(&graph, &whole[..whole.len() / 2]).unwrap();
    check_fails(dir, &["bench", "predict", "--models", "models"], &["success.onnx"]);
    let served = Served::start(dir, &[]);
    let log = std::fs::read_to_string(dir.join("serve.log")).unwrap();
    assert!(log.contains("success.onnx") && log.contains("rules serve"), "{log}");
    assert!(served.stop().success());
}

#[test]
fn bad_configuration_names_key_value_and_origin() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    std::fs::write(dir.join("presume.toml"), "[policy]\nfraud_reject_above = 7\n").unwrap();
    let output = run(dir, &["config", "check"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    for part in ["fraud_reject_above", "7", "presume.toml"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
