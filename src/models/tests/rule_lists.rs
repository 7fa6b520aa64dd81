use super::*;
use crate::features::{LEG_WIDTH, TXN_WIDTH};
use crate::models::rules::position;
use crate::models::{Rules, RulesError, RulesFile};

fn file() -> RulesFile {
    RulesFile::parse(BUILT_IN).unwrap()
}

#[test]
fn the_built_in_rules_bind_and_have_at_least_eight_predicates_a_target() {
    let rules = Rules::built_in();
    for target in [Target::Success, Target::Fraud] {
        let list = rules.file().list(target).unwrap();
        assert!(list.rules.len() >= 8);
        let names: std::collections::BTreeSet<_> = list.rules.iter().map(|r| &r.name).collect();
        assert_eq!(names.len(), list.rules.len(), "names are unique");
    }
}

#[test]
fn a_rules_file_round_trips() {
    let file = file();
    assert_eq!(RulesFile::parse(&file.to_toml()).unwrap(), file);
}

#[test]
fn the_first_rule_that_fires_answers_and_a_missing_value_fires_none() {
    let rules = Rules::built_in();
    let list = &rules.file().fraud;
    let row = [f32::NAN; TXN_WIDTH];
    assert!((rules.fraud(&row) - list.otherwise).abs() < 1e-12);
    let mut row = [0.0; TXN_WIDTH];
    for (index, feature) in txn_features().iter().enumerate() {
        row[index] = if feature.default.is_nan() { f32::NAN } else { feature.default };
    }
    for place in [2, 0] {
        let condition = &list.rules[place].when[0];
        let input = position(txn_features(), &condition.feature).unwrap();
        row[input] = condition.threshold;
        assert!((rules.fraud(&row) - list.rules[place].probability).abs() < 1e-12);
    }
}

#[test]
fn latency_follows_the_moving_average_and_is_static_without_one() {
    let rules = Rules::built_in();
    let rule = &rules.file().latency;
    let mut row = [0.0; LEG_WIDTH];
    let input = position(leg_features(), &rule.feature).unwrap();
    row[input] = 400.0_f32.ln();
    let (median, upper) = rules.latency_ms(&row);
    assert!((median - 400.0).abs() < 0.01 && (upper - 400.0 * rule.multiplier).abs() < 0.1);
    row[input] = 1.0_f32.ln();
    assert!((rules.latency_ms(&row).1 - rule.floor_ms).abs() < 1e-9);
    for nonsense in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        row[input] = nonsense;
        assert_eq!(rules.latency_ms(&row), (rule.static_ms, rule.static_ms));
    }
}

#[test]
fn a_rules_file_is_refused_with_the_name_and_the_value() {
    let refused = |change: &dyn Fn(&mut RulesFile)| {
        let mut file = file();
        change(&mut file);
        Rules::bind(file).unwrap_err()
    };
    let error = refused(&|file| file.success.rules[1].when[0].feature = "moon".to_owned());
    assert!(matches!(error, RulesError::UnknownFeature { target: Target::Success, .. }));
    assert!(error.to_string().contains("moon"));
    let error = refused(&|file| file.latency.feature = "moon".to_owned());
    assert!(error.to_string().contains("moon"));
    for (change, part) in [
        (&(|file: &mut RulesFile| file.fraud.otherwise = 1.5) as &dyn Fn(&mut RulesFile), "1.5"),
        (&|file| file.fraud.rules[0].probability = f64::NAN, "NaN"),
        (&|file| file.fraud.rules[0].when[0].threshold = f32::INFINITY, "inf"),
        (&|file| file.fraud.rules[0].when.clear(), "0 conditions"),
        (&|file| file.latency.multiplier = 0.0, "not above 0"),
    ] {
        let error = refused(change);
        assert!(matches!(error, RulesError::OutOfRange { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(matches!(RulesFile::parse("otherwise = 3"), Err(RulesError::Malformed { .. })));
}
