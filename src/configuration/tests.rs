#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::keys::{KEYS, example, flatten};
use super::*;
use crate::txn::Mode;

/// A file with this text, in a folder of its own.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("presume.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn read(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let (_folder, path) = file(text);
    let overlay = |(key, value): &(&str, &str)| Overlay {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
        origin: format!("flag --{key}"),
    };
    load(&Sources {
        file: Some(path),
        env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(overlay).collect(),
    })
}

/// Every part stands in the message.
fn wrong(text: &str, parts: &[&str]) {
    let message = read(text, &[], &[]).expect_err(text).to_string();
    for part in parts {
        assert!(message.contains(part), "{text}\ngave {message}\nwithout {part:?}");
    }
}

fn origin<'a>(loaded: &'a Loaded, key: &str) -> &'a str {
    &loaded.settings.iter().find(|setting| setting.key == key).unwrap().origin
}

#[test]
fn an_empty_file_is_the_defaults() {
    let loaded = read("", &[], &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.set().count(), 0);
}

#[test]
fn the_table_of_keys_is_complete() {
    let flat = flatten(&Config::default());
    let listed: BTreeSet<String> = KEYS.iter().map(keys::Key::path).collect();
    // Unset by default, so absent when flattened.
    let unset = ["outcome_log.dir".to_owned()];
    let real: BTreeSet<String> = flat.into_keys().chain(unset).collect();
    assert_eq!(listed, real);
    assert_eq!(listed.len(), KEYS.len(), "a key stands twice");
}

#[test]
fn the_example_is_a_valid_file_of_the_defaults() {
    let loaded = read(&example(), &[], &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    let uncommented: String = example()
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|l| l.starts_with("[participants.core]") || l.starts_with("kind"))
                .unwrap_or(line)
        })
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(read(&uncommented, &[], &[]).unwrap().config.participants.len(), 1);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let text = "[policy]\nmode = \"off\"\nfraud_reject_above = 0.9\nsuccess_reject_below = 0.2\n";
    let env = [("PRESUME_POLICY__MODE", "observe"), ("PRESUME_POLICY__FRAUD_REJECT_ABOVE", "0.91")];
    let loaded = read(text, &env, &[("policy.mode", "enforce")]).unwrap();
    assert_eq!(loaded.config.policy.mode, Mode::Enforce);
    assert!((loaded.config.policy.fraud_reject_above - 0.91).abs() < 1e-12);
    assert_eq!(origin(&loaded, "policy.mode"), "flag --policy.mode");
    let variable = "environment PRESUME_POLICY__FRAUD_REJECT_ABOVE";
    assert_eq!(origin(&loaded, "policy.fraud_reject_above"), variable);
    assert!(origin(&loaded, "policy.success_reject_below").starts_with("file "));
    assert_eq!(origin(&loaded, "policy.timeout_step"), "default");
}

#[test]
fn variables_of_others_are_left_alone() {
    let env = [("PATH", "/bin"), ("PRESUME_CONFIG", "x"), ("PRESUME_LOG", "debug")];
    assert_eq!(read("", &env, &[]).unwrap().set().count(), 0);
}

#[test]
fn unknown_keys_are_all_named_with_a_guess() {
    wrong("[server]\nadress = \"x\"\n", &["server.adress", "server.address", "presume.toml"]);
    wrong("[polcy]\nmode = \"off\"\n", &["polcy.mode", "policy.mode"]);
    wrong("address = \"127.0.0.1:1\"\n", &["address", "did you mean server.address"]);
    wrong("[participants.core]\nkind = \"embedded\"\nurl = \"x\"\n", &["participants.core.url"]);
    wrong("zzz = 1\n", &["zzz", "config show --example"]);
    wrong("server = 3\n", &["server", "is a section"]);
    wrong("[server]\nfoo = 1\n[policy]\nbar = 2\n", &["server.foo", "policy.bar"]);
    let error = read("", &[("PRESUME_SERVR__ADDRESS", "x")], &[]).unwrap_err().to_string();
    assert!(
        error.contains("PRESUME_SERVR__ADDRESS") && error.contains("server.address"),
        "{error}"
    );
}

#[test]
fn values_of_the_wrong_type_are_named() {
    wrong("[server]\naddress = \"localhost\"\n", &["server.address", "presume.toml"]);
    wrong("[server]\nrequests_max = \"many\"\n", &["server.requests_max", "many"]);
    wrong("[server]\nrequests_max = -1\n", &["server.requests_max", "-1"]);
    wrong("[policy]\nmode = \"maybe\"\n", &["mode", "maybe", "observe"]);
    wrong("[participants.core]\nkind = \"oracle\"\n", &["oracle", "embedded"]);
    wrong("[participants.core]\n", &["participants.core", "kind"]);
    wrong("[server\n", &["line 1"]);
    wrong("[server]\nclient_time = true\nclient_time = false\n", &["client_time"]);
}

#[test]
fn of_a_services_operations_only_locks_stand_here() {
    let service = "[participants.w]\nkind = \"http\"\nurl = \"http://127.0.0.1:1\"\n";
    let debit = |keys: &str| format!("{service}[participants.w.operations.debit]\n{keys}");
    assert!(read(&debit("locks = [\"account/$account\"]\n"), &[], &[]).is_ok());
    for keys in ["", "sql = \"SELECT 1\"\nlocks = [\"a\"]\n", "expect_rows = 1\n"] {
        wrong(&debit(keys), &["participants.w.operations.debit", "only `locks`"]);
    }
    wrong(
        &debit("locks = [\"account/$\"]\n"),
        &["participants.w.operations.debit.locks", "\"account/$\"", "'$'"],
    );
    let embedded = "[participants.core]\nkind = \"embedded\"\n\
                    [participants.core.operations.debit]\nlocks = [\"a\"]\n";
    wrong(embedded, &["participants.core.operations", "databases and services"]);
    let database = "[participants.core]\nkind = \"postgres\"\nurl = \"postgres://u@127.0.0.1/x\"\n\
                    [participants.core.operations.debit]\nlocks = [\"a\"]\n";
    wrong(database, &["participants.core.operations.debit.sql", "the SQL is empty"]);
}

#[test]
fn values_out_of_bounds_name_value_limit_and_origin() {
    wrong(
        "[policy]\nfraud_reject_above = 1.5\n",
        &["policy.fraud_reject_above = 1.5", "between 0 and 1", "presume.toml"],
    );
    wrong("[server]\nbody_bytes_max = 1\n", &["server.body_bytes_max = 1", "1024", "16777216"]);
    wrong("[server]\naddress = \"0.0.0.0:80\"\n", &["server.address", "allow_remote"]);
    wrong("[coordinator]\nin_flight_max = 0\n", &["coordinator.in_flight_max = 0", "at least 1"]);
    wrong("[models]\nslow_ms_max = nan\n", &["models.slow_ms_max"]);
    wrong("[models]\nname = \"../secret\"\n", &["models.name", "../secret"]);
    wrong("[features.calendar]\ntime_zone = \"Asia/Atlantis\"\n", &["time_zone", "Atlantis"]);
    wrong("[features.calendar]\npeak_hours = [[12, 10]]\n", &["peak_hours", "12 to 10"]);
    wrong("[outcome_log]\nseal_rows_max = 0\n", &["outcome_log.seal_rows_max = 0"]);
    wrong("[policy]\ntimeout_step = 7\n[models]\nname = \"\"\n", &["policy.t", "models.name"]);
}

#[test]
fn participants_cannot_leave_their_folder_or_share_one() {
    for name in ["../up", "a/b", ".", "", "-x", "ä"] {
        wrong(&format!("[participants.\"{name}\"]\nkind = \"embedded\"\n"), &["participants"]);
    }
    let two = "[participants.a]\nkind = \"embedded\"\ndir = \"x\"\n\
               [participants.b]\nkind = \"embedded\"\ndir = \"x\"\n";
    wrong(two, &["participants.b.dir", "a's already"]);
}

#[test]
fn ledgers_stand_in_the_data_folder_unless_told_otherwise() {
    let dirs = |config: &Config| -> Vec<String> {
        config.ledger_dirs().iter().map(|(n, d)| format!("{n}={}", d.display())).collect()
    };
    assert_eq!(
        dirs(&Config::default()),
        [
            "core=presume-data/ledgers/core",
            "rail-a=presume-data/ledgers/rail-a",
            "rail-b=presume-data/ledgers/rail-b",
        ]
    );
    let text = "[data]\ndir = \"d\"\n[participants.x]\nkind = \"embedded\"\n\
                [participants.y]\nkind = \"embedded\"\ndir = \"/srv/y\"\n";
    assert_eq!(dirs(&read(text, &[], &[]).unwrap().config), ["x=d/ledgers/x", "y=/srv/y"]);
}

#[test]
fn a_named_file_must_be_there_and_be_a_file() {
    let load = |path: &str| load(&Sources { file: Some(path.into()), ..Sources::default() });
    assert!(load("/nonexistent/presume.toml").unwrap_err().to_string().contains("/nonexistent"));
    assert!(load("/").unwrap_err().to_string().contains("is not a file"));
}

#[test]
fn unusable_folders_are_named_and_usable_ones_left_untouched() {
    let (folder, path) = file("x");
    let data = |dir: PathBuf| Config { data: Data { dir }, ..Config::default() };
    let below_a_file = unusable_folders(&data(path.join("below")), &[]);
    assert!(below_a_file[0].to_string().contains("is not a folder"), "{below_a_file:?}");
    assert_eq!(unusable_folders(&data(folder.path().join("new/deep")), &[]), []);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
