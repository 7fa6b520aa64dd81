//! Measures against hand-computed values, brute force, and known laws.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bootstrap::{Clusters, Dependence, weighted};
use super::*;

fn close(actual: Option<f64>, expected: f64, tolerance: f64) {
    let actual = actual.unwrap();
    assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected}");
}

/// AUC as it is defined: over all pairs, a tie counting half.
fn auc_of_all_pairs(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let (mut won, mut pairs) = (0.0, 0.0);
    for (a, positive) in scores.iter().zip(labels) {
        for (b, negative) in scores.iter().zip(labels) {
            if *positive && !*negative {
                pairs += 1.0;
                won += if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 };
            }
        }
    }
    (pairs > 0.0).then(|| won / pairs)
}

/// Average precision as it is defined: sum over thresholds of precision times gained recall.
fn precision_of_all_thresholds(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let positives = labels.iter().filter(|y| **y).count() as f64;
    let mut thresholds = scores.to_vec();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let (mut sum, mut recall_before) = (0.0, 0.0);
    for threshold in thresholds {
        let taken = scores.iter().filter(|s| **s >= threshold).count() as f64;
        let hit = scores.iter().zip(labels).filter(|(s, y)| **s >= threshold && **y).count() as f64;
        sum += hit / taken * (hit / positives - recall_before);
        recall_before = hit / positives;
    }
    (positives > 0.0).then_some(sum)
}

proptest! {
    #[test]
    fn ranking_measures_equal_brute_force_with_ties(
        rows in prop::collection::vec((0_u8..6, any::<bool>()), 0..40)
    ) {
        let scores: Vec<f64> = rows.iter().map(|r| f64::from(r.0) / 8.0).collect();
        let labels: Vec<bool> = rows.iter().map(|r| r.1).collect();
        for (fast, slow) in [
            (auc_roc(&scores, &labels), auc_of_all_pairs(&scores, &labels)),
            (average_precision(&scores, &labels), precision_of_all_thresholds(&scores, &labels)),
        ] {
            prop_assert_eq!(fast.is_some(), slow.is_some());
            prop_assert!((fast.unwrap_or(0.0) - slow.unwrap_or(0.0)).abs() < 1e-12);
        }
    }

    #[test]
    fn an_integer_weight_equals_that_many_copies(
        rows in prop::collection::vec((0_u8..6, any::<bool>(), 0_usize..4), 1..30)
    ) {
        let (mut scores, mut labels) = (Vec::new(), Vec::new());
        for (score, label, copies) in &rows {
            scores.extend(std::iter::repeat_n(f64::from(*score), *copies));
            labels.extend(std::iter::repeat_n(*label, *copies));
        }
        let once_scores: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
        let once_labels: Vec<bool> = rows.iter().map(|r| r.1).collect();
        let ranking = Ranking::new(&once_scores, &once_labels);
        let weight = |row: usize| rows[row].2 as f64;
        for (by_weight, by_copies) in [
            (ranking.auc_roc(weight), auc_roc(&scores, &labels)),
            (ranking.average_precision(weight), average_precision(&scores, &labels)),
        ] {
            prop_assert_eq!(by_weight.is_some(), by_copies.is_some());
            prop_assert!((by_weight.unwrap_or(0.0) - by_copies.unwrap_or(0.0)).abs() < 1e-12);
        }
    }

    #[test]
    fn bins_hold_every_row_once_and_never_split_a_probability(
        rows in prop::collection::vec((0_u8..20, any::<bool>()), 1..200)
    ) {
        let p: Vec<f64> = rows.iter().map(|r| f64::from(r.0) / 20.0).collect();
        let y: Vec<bool> = rows.iter().map(|r| r.1).collect();
        let bins = reliability(&p, &y, ECE_BINS);
        prop_assert_eq!(bins.iter().map(|b| b.n).sum::<usize>(), rows.len());
        prop_assert!(bins.len() <= ECE_BINS);
        prop_assert!(bins.windows(2).all(|w| w[0].predicted < w[1].predicted));
        let error = ece(&p, &y).unwrap();
        prop_assert!((0.0..=1.0).contains(&error));
    }
}

#[test]
fn losses_are_those_computed_by_hand() {
    let (p, y) = ([0.9, 0.2, 0.5, 0.5], [true, false, true, false]);
    let expected = -(0.9_f64.ln() + 0.8_f64.ln() + 0.5_f64.ln() + 0.5_f64.ln()) / 4.0;
    close(log_loss(&p, &y), expected, 1e-12);
    close(brier(&p, &y), (0.01 + 0.04 + 0.25 + 0.25) / 4.0, 1e-12);
    // 0.5 counts as a positive prediction.
    close(accuracy(&p, &y), 0.75, 0.0);
    close(base_rate(&y), 0.5, 0.0);
    close(skill(0.3, 0.4), 0.25, 1e-12);
    assert_eq!(skill(0.3, 0.0), None);
}

#[test]
fn log_loss_is_clipped_to_a_finite_price() {
    close(log_loss(&[0.0], &[true]), -LOG_LOSS_CLIP.ln(), 1e-9);
    close(log_loss(&[1.0], &[false]), -LOG_LOSS_CLIP.ln(), 0.2);
    close(log_loss(&[0.0], &[false]), 0.0, 1e-14);
}

#[test]
fn measures_without_rows_or_with_one_class_are_undefined() {
    assert_eq!(log_loss(&[], &[]), None);
    assert_eq!(brier(&[], &[]), None);
    assert_eq!(ece(&[], &[]), None);
    assert_eq!(auc_roc(&[0.1, 0.9], &[true, true]), None);
    assert_eq!(average_precision(&[0.1, 0.9], &[false, false]), None);
    assert_eq!(calibration_line(&[0.1, 0.9], &[true, true]), None);
    assert!(Ranking::new(&[], &[]).roc_curve(10).is_empty());
}

#[test]
fn average_precision_is_that_computed_by_hand() {
    // Ranks of the positives: 1 and 3, so (1/1 + 2/3) / 2.
    close(average_precision(&[0.9, 0.8, 0.7], &[true, false, true]), 5.0 / 6.0, 1e-12);
    // All tied: the base rate.
    close(average_precision(&[0.5; 4], &[true, false, false, false]), 0.25, 1e-12);
}

#[test]
fn expected_calibration_error_of_a_constant_is_its_distance_from_the_base_rate() {
    close(
        ece(&[0.3; 10], &[true, false, false, false, false, true, true, true, true, true]),
        0.3,
        1e-12,
    );
}

#[test]
fn expected_calibration_error_is_that_computed_by_hand() {
    // 30 rows, two a bin: the lower half of every bin negative, the upper positive.
    let p: Vec<f64> = (0..30).map(|i| f64::from(i / 2) / 15.0).collect();
    let y: Vec<bool> = (0..30).map(|i| i % 2 == 1).collect();
    let expected = (0..15).map(|bin| (f64::from(bin) / 15.0 - 0.5).abs()).sum::<f64>() / 15.0;
    close(ece(&p, &y), expected, 1e-12);
}

#[test]
fn curves_end_in_their_corners() {
    let (p, y) = draws(2_000, 7, 1.0);
    let ranking = Ranking::new(&p, &y);
    let roc = ranking.roc_curve(100);
    assert_eq!((roc[0], *roc.last().unwrap()), ((0.0, 0.0), (1.0, 1.0)));
    assert!(roc.len() <= 110 && roc.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
    let curve = ranking.precision_recall_curve(100);
    assert_eq!(curve.last().unwrap().0, 1.0);
}

/// Labels drawn from probabilities whose logit is `1 / extremity` of the stated ones.
fn draws(n: usize, seed: u64, extremity: f64) -> (Vec<f64>, Vec<bool>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|_| {
            let z: f64 = random.random_range(-3.0..3.0);
            let truth = 1.0 / (1.0 + (-z).exp());
            (1.0 / (1.0 + (-z * extremity).exp()), random.random_bool(truth))
        })
        .unzip()
}

#[test]
fn calibration_slope_finds_the_exaggeration_that_was_put_in() {
    for (extremity, slope) in [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)] {
        let (p, y) = draws(40_000, 11, extremity);
        let line = calibration_line(&p, &y).unwrap();
        assert!((line.slope - slope).abs() < 0.05 * slope, "{line:?} for {extremity}");
        assert!(line.intercept.abs() < 0.05, "{line:?} for {extremity}");
    }
}

#[test]
fn calibration_line_of_two_groups_is_exact() {
    // Observed log-odds are ln(1/3) at p = 0.4 and ln(3) at p = 0.6: a line through both.
    let p: Vec<f64> = [[0.4; 4], [0.6; 4]].concat();
    let y = [true, false, false, false, true, true, true, false];
    let line = calibration_line(&p, &y).unwrap();
    close(Some(line.slope), 3.0_f64.ln() / 1.5_f64.ln(), 1e-8);
    close(Some(line.intercept), 0.0, 1e-8);
}

#[test]
fn calibration_line_is_undefined_for_a_constant_and_for_separated_classes() {
    assert_eq!(calibration_line(&[0.3; 4], &[true, false, false, true]), None);
    assert_eq!(calibration_line(&[0.1, 0.2, 0.8, 0.9], &[false, false, true, true]), None);
}

#[test]
fn an_interval_of_dependent_rows_covers_as_often_as_it_says() {
    // Twelve days, each with its own level and forty rows that share it: rows drawn one by one
    // would cover about a third of the time.
    let (mut covered, runs) = (0, 200);
    for run in 0..runs {
        let mut random = ChaCha8Rng::seed_from_u64(run);
        let mut values = Vec::new();
        for _ in 0..12 {
            let level = (0..12).map(|_| random.random::<f64>() - 0.5).sum::<f64>();
            values.extend((0..40).map(|_| level + random.random::<f64>() - 0.5));
        }
        let days = Clusters::new((0..480).map(|i| i / 40));
        let sums = days.sums(|row| [values[row], 1.0]);
        let [interval] = days.intervals(400, run, |weights| {
            let [sum, n] = weighted(&sums, weights);
            [Some(sum / n)]
        });
        let [low, high] = interval.unwrap();
        covered += u32::from(low <= 0.0 && 0.0 <= high);
    }
    assert!((184..=198).contains(&covered), "{covered} of {runs} intervals hold the true mean");
}

#[test]
fn the_one_step_slope_interval_agrees_with_refitting() {
    let (p, y) = draws(1_500, 5, 1.3);
    let line = calibration_line(&p, &y).unwrap();
    let rows = Dependence { days: Clusters::new(0..1_500), customers: Clusters::default() };
    let one_step = rows.slope_interval(300, 3, line, &p, &y).unwrap();
    let [refitted] = rows.days.intervals(300, 3, |weights| {
        let (mut drawn_p, mut drawn_y) = (Vec::new(), Vec::new());
        for (row, weight) in weights.iter().enumerate() {
            drawn_p.extend(std::iter::repeat_n(p[row], *weight as usize));
            drawn_y.extend(std::iter::repeat_n(y[row], *weight as usize));
        }
        [calibration_line(&drawn_p, &drawn_y).map(|line| line.slope)]
    });
    for (a, b) in one_step.iter().zip(refitted.unwrap()) {
        assert!((a - b).abs() < 0.02, "{one_step:?} and {refitted:?}");
    }
}

#[test]
fn an_interval_repeats_with_its_seed_and_needs_five_clusters() {
    let interval = |days: usize, seed| {
        let clusters = Clusters::new((0..days * 10).map(|i| i / 10));
        let sums = clusters.sums(|row| [(row % 7) as f64, 1.0]);
        let [found] = clusters.intervals(200, seed, |weights| {
            let [sum, n] = weighted(&sums, weights);
            [Some(sum / n)]
        });
        found
    };
    assert_eq!(interval(9, 1), interval(9, 1));
    assert_ne!(interval(9, 1), interval(9, 2));
    assert_eq!(interval(4, 1), None);
}

#[test]
fn a_measure_that_is_often_undefined_has_no_interval() {
    let clusters = Clusters::new(0..10);
    let [interval] =
        clusters.intervals(100, 1, |weights| [(weights[0] > 0.0).then_some(weights[0])]);
    assert_eq!(interval, None);
}

#[test]
fn dependence_takes_the_wider_interval_of_days_and_customers() {
    let rows = Dependence {
        days: Clusters::new((0..100).map(|i| i / 10)),
        customers: Clusters::new((0..100).map(|i| i % 50)),
    };
    let value = |row: usize| [f64::from(u8::from(row >= 50)), 1.0];
    let measure = |clusters: &Clusters| {
        let sums = clusters.sums(value);
        move |weights: &[f64]| {
            let [sum, n] = weighted(&sums, weights);
            [Some(sum / n)]
        }
    };
    let [both] = rows.intervals(200, 1, measure);
    let [days] = rows.days.intervals(200, 1, measure(&rows.days));
    let [customers] = rows.customers.intervals(200, 1, measure(&rows.customers));
    let (both, days, customers) = (both.unwrap(), days.unwrap(), customers.unwrap());
    assert!(both[0] <= days[0].min(customers[0]) && both[1] >= days[1].max(customers[1]));
}

#[test]
fn pinball_is_least_at_the_quantile() {
    assert_eq!(pinball(0.9, 100.0, 110.0), 9.0);
    close(Some(pinball(0.9, 100.0, 90.0)), 1.0, 1e-12);
    let actual: Vec<f64> = (1..=1000).map(f64::from).collect();
    let loss = |q: f64| actual.iter().map(|a| pinball(0.9, q, *a)).sum::<f64>();
    assert!(loss(900.5) < loss(850.0) && loss(900.5) < loss(950.0));
}

#[test]
fn timeouts_are_scored_as_by_hand() {
    let leg = |latency_ms, could_commit, dead| Leg { latency_ms, could_commit, dead };
    let legs = [
        leg(Some(50.0), true, false),     // in time
        leg(Some(150.0), true, false),    // a false abort
        leg(Some(90_000.0), true, false), // beyond the horizon: late, but nobody would have heard
        leg(Some(400.0), false, true),    // a useless no, cut off at the timeout
        leg(Some(20.0), false, true),     // a useless no, heard at once
        leg(None, false, true),           // never came
    ];
    let score = score_timeouts(&legs, &[100.0; 6], 0.999, 60_000.0);
    assert_eq!((score.n, score.arrived, score.false_aborts, score.dead), (6, 5, 1, 3));
    close(score.coverage, 2.0 / 5.0, 1e-12);
    close(score.false_abort_ratio, 1.0 / 2.0, 1e-12);
    close(score.dead_wait_ms, (100.0 + 20.0 + 100.0) / 3.0, 1e-12);
    let late = 0.999 * (50.0 + 89_900.0 + 300.0);
    close(score.pinball, (late + 0.001 * (50.0 + 80.0)) / 5.0, 1e-9);
    let none = score_timeouts(&[], &[], 0.999, 60_000.0);
    assert_eq!((none.coverage, none.pinball, none.dead_wait_ms), (None, None, None));
}
