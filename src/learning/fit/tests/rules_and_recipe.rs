use super::super::recipe::RulesRecipe;
use super::super::{Recipe, RecipeError, tune};
use super::*;
use crate::features::{TXN_WIDTH, txn_features};
use crate::models::rules::{BUILT_IN, Condition, List, Rule, RulesFile, Side, position};

const RECIPE: RulesRecipe = RulesRecipe { smoothing_rows: 20.0, rows_min: 30, gain_min: 5.0 };

fn input(name: &str) -> usize {
    position(txn_features(), name).unwrap()
}

/// Amounts of 0 to 10; above 8 it nearly always happens, across a border half the time.
fn sample(count: usize) -> (Vec<f32>, Vec<bool>) {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut rows = vec![0.0; count * TXN_WIDTH];
    let mut labels = Vec::new();
    for row in rows.chunks_exact_mut(TXN_WIDTH) {
        let amount: f32 = rng.random_range(0.0..10.0);
        let border = rng.random_bool(0.2);
        row[input("amount_log")] = amount;
        row[input("cross_border")] = f32::from(u8::from(border));
        row[input("speed")] = f32::NAN;
        let p = if amount > 8.0 {
            0.95
        } else if border {
            0.5
        } else {
            0.05
        };
        labels.push(rng.random_bool(p));
    }
    (rows, labels)
}

fn rule(feature: &str, threshold: f32, quantiles: &[f64]) -> Rule {
    let when = vec![Condition {
        feature: feature.to_owned(),
        is: Side::AtLeast,
        threshold,
        quantiles: quantiles.to_vec(),
    }];
    Rule { name: feature.to_owned(), probability: 0.5, rows: 0, when }
}

#[test]
fn tuning_finds_the_order_the_thresholds_and_the_probabilities() {
    let (rows, labels) = sample(5_000);
    let list = List {
        otherwise: 0.5,
        rows: 0,
        rules: vec![
            rule("speed", 1.0, &[0.5]),
            rule("cross_border", 1.0, &[]),
            rule("amount_log", 3.0, &[0.5, 0.8, 0.9]),
            rule("hour_sin", 0.5, &[0.5, 0.9]),
        ],
    };
    let tuned = tune(&list, &rows, &labels, RECIPE);
    let names: Vec<&str> = tuned.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["amount_log", "cross_border"], "what tells nothing is dropped");
    assert!((tuned.rules[0].when[0].threshold - 8.0).abs() < 0.2);
    assert!((tuned.rules[0].probability - 0.95).abs() < 0.03);
    assert!((tuned.rules[1].probability - 0.5).abs() < 0.05);
    assert!((tuned.otherwise - 0.05).abs() < 0.02);
    let counted = tuned.rules.iter().map(|rule| rule.rows).sum::<u64>() + tuned.rows;
    assert_eq!(counted, 5_000, "each row is taken once");
}

#[test]
fn all_conditions_of_a_rule_are_tuned() {
    let (rows, labels) = sample(5_000);
    let border = |row: &[f32]| row[input("cross_border")] > 0.5;
    let both: Vec<bool> = rows
        .chunks_exact(TXN_WIDTH)
        .zip(&labels)
        .map(|(row, label)| *label && border(row) && row[input("amount_log")] > 8.0)
        .collect();
    let mut pair = rule("amount_log", 1.0, &[0.5, 0.8]);
    pair.when.push(rule("cross_border", 1.0, &[]).when[0].clone());
    let tuned = tune(&List { otherwise: 0.5, rows: 0, rules: vec![pair] }, &rows, &both, RECIPE);
    assert!((tuned.rules[0].when[0].threshold - 8.0).abs() < 0.2);
    assert!(tuned.rules[0].probability > 0.8);
}

#[test]
fn a_rule_on_few_rows_is_drawn_to_the_overall_rate_or_dropped() {
    let (mut rows, mut labels) = sample(2_000);
    for row in 0..40 {
        rows[row * TXN_WIDTH + input("weekend")] = 1.0;
        labels[row] = true;
    }
    let list = List { otherwise: 0.5, rows: 0, rules: vec![rule("weekend", 1.0, &[])] };
    let tuned = tune(&list, &rows, &labels, RECIPE);
    assert!(tuned.rules[0].probability < 0.8, "{}", tuned.rules[0].probability);
    let strict = RulesRecipe { rows_min: 41, ..RECIPE };
    assert!(tune(&list, &rows, &labels, strict).rules.is_empty());
}

#[test]
fn tuning_without_rows_gives_probabilities_all_the_same() {
    let list = RulesFile::parse(BUILT_IN).unwrap().success;
    let tuned = tune(&list, &[], &[], RECIPE);
    assert!(tuned.rules.is_empty() && (0.0..=1.0).contains(&tuned.otherwise));
}

#[test]
fn the_recipe_that_ships_is_in_range() {
    Recipe::default().check().unwrap();
}

#[test]
fn a_recipe_out_of_range_is_refused_with_the_number() {
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        recipe.check().unwrap_err().to_string()
    };
    assert!(refused(&|recipe| recipe.calibration_ratio = 0.9).contains("0.9"));
    assert!(refused(&|recipe| recipe.warm_up_ratio = f64::NAN).contains("NaN"));
    assert!(refused(&|recipe| recipe.latency.alpha = 0.0).contains("latency.alpha"));
    assert!(refused(&|recipe| recipe.classifier.l2 = vec![]).contains("penalties"));
    assert!(refused(&|recipe| recipe.classifier.l2 = vec![-1.0]).contains("-1"));
    assert!(refused(&|recipe| recipe.latency.quantiles = vec![0.5, 0.1]).contains("ascending"));
    assert!(matches!(Recipe::parse("nme = 3"), Err(RecipeError::Malformed(_))));
}
