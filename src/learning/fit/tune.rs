//! Tuning a decision list: order, thresholds and probabilities by log loss.
//!
//! Greedy: among the rules that are left, each with each of its thresholds, the one that saves
//! most log loss on the rows that no rule has taken yet comes next; it takes its rows, and so on
//! until nothing saves enough. A rule with several conditions tunes one after the other, the
//! others held, twice. Probabilities are drawn towards the overall rate.

use super::recipe::RulesRecipe;
use crate::features::{TXN_WIDTH, txn_features};
use crate::models::rules::{Condition, List, Rule, position};

/// Passes over the conditions of one rule.
const PASSES: usize = 2;

/// Tunes `list` on rows of schema width. Its features exist: it was bound before.
pub fn tune(list: &List, rows: &[f32], labels: &[bool], recipe: RulesRecipe) -> List {
    let mut free: Vec<usize> = (0..labels.len()).collect();
    let events = labels.iter().filter(|label| **label).count();
    let overall = (events as f64 + 0.5) / (labels.len() as f64 + 1.0);
    let smoothed = |tally: Tally| {
        let weight = recipe.smoothing_rows;
        (tally.events as f64 + weight * overall) / (tally.rows as f64 + weight).max(1.0)
    };
    let mut left: Vec<Candidate> = list.rules.iter().map(|r| Candidate::new(r, rows)).collect();
    let mut rules = Vec::new();
    while !left.is_empty() {
        let all = Tally::of(&free, labels);
        for candidate in &mut left {
            candidate.tune(rows, labels, &free, all, recipe.rows_min);
        }
        // The first of equals: the file's order breaks ties.
        let (best, gain) = left.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (i, c)| {
            if c.gain > best.1 { (i, c.gain) } else { best }
        });
        if gain < recipe.gain_min.max(f64::MIN_POSITIVE) {
            break;
        }
        let chosen = left.remove(best);
        let (taken, rest) = free.into_iter().partition(|row| chosen.fires(rows, *row));
        free = rest;
        let tally = Tally::of(&taken, labels);
        let when = chosen.conditions();
        let probability = smoothed(tally);
        rules.push(Rule { name: chosen.rule.name, probability, rows: tally.rows, when });
    }
    let rest = Tally::of(&free, labels);
    List { otherwise: smoothed(rest), rows: rest.rows, rules }
}

/// Rows and events among them.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    rows: u64,
    events: u64,
}

impl Tally {
    fn of(rows: &[usize], labels: &[bool]) -> Self {
        let events = rows.iter().filter(|row| labels[**row]).count() as u64;
        Self { rows: rows.len() as u64, events }
    }

    fn add(&mut self, label: bool) {
        self.rows += 1;
        self.events += u64::from(label);
    }

    fn without(self, other: Self) -> Self {
        Self { rows: self.rows - other.rows, events: self.events - other.events }
    }

    /// Log loss in nats of all its rows at their own rate.
    fn loss(self) -> f64 {
        let term = |part: u64| {
            let part = part as f64;
            if part > 0.0 { -part * (part / self.rows as f64).ln() } else { 0.0 }
        };
        term(self.events) + term(self.rows - self.events)
    }
}

struct Candidate {
    rule: Rule,
    inputs: Vec<usize>,
    /// What each condition may choose from.
    grids: Vec<Vec<f32>>,
    thresholds: Vec<f32>,
    /// Log loss saved at `thresholds` on the rows given last.
    gain: f64,
}

impl Candidate {
    fn new(rule: &Rule, rows: &[f32]) -> Self {
        let input = |condition: &Condition| {
            position(txn_features(), &condition.feature).expect("bound before")
        };
        let inputs: Vec<usize> = rule.when.iter().map(input).collect();
        let grids: Vec<Vec<f32>> =
            rule.when.iter().zip(&inputs).map(|(c, input)| grid(c, *input, rows)).collect();
        let thresholds = grids.iter().map(|grid| grid[0]).collect();
        Self { rule: rule.clone(), inputs, grids, thresholds, gain: f64::NEG_INFINITY }
    }

    fn fires(&self, rows: &[f32], row: usize) -> bool {
        (0..self.inputs.len()).all(|place| self.holds(rows, row, place, self.thresholds[place]))
    }

    fn holds(&self, rows: &[f32], row: usize, place: usize, threshold: f32) -> bool {
        let value = rows[row * TXN_WIDTH + self.inputs[place]];
        self.rule.when[place].is.holds(value, threshold)
    }

    fn tune(&mut self, rows: &[f32], labels: &[bool], free: &[usize], all: Tally, rows_min: u64) {
        self.gain = f64::NEG_INFINITY;
        for _ in 0..if self.inputs.len() > 1 { PASSES } else { 1 } {
            for place in 0..self.inputs.len() {
                self.tune_one(place, rows, labels, free, all, rows_min);
            }
        }
    }

    fn tune_one(
        &mut self,
        place: usize,
        rows: &[f32],
        labels: &[bool],
        free: &[usize],
        all: Tally,
        rows_min: u64,
    ) {
        let mut tallies = vec![Tally::default(); self.grids[place].len()];
        for &row in free {
            let others = (0..self.inputs.len()).filter(|other| *other != place);
            if !others.into_iter().all(|other| self.holds(rows, row, other, self.thresholds[other]))
            {
                continue;
            }
            for (tally, threshold) in tallies.iter_mut().zip(&self.grids[place]) {
                if self.holds(rows, row, place, *threshold) {
                    tally.add(labels[row]);
                }
            }
        }
        for (tally, threshold) in tallies.iter().zip(&self.grids[place]) {
            let gain = all.loss() - tally.loss() - all.without(*tally).loss();
            if tally.rows >= rows_min && gain > self.gain {
                self.gain = gain;
                self.thresholds[place] = *threshold;
            }
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let one = |(condition, threshold): (&Condition, &f32)| Condition {
            threshold: *threshold,
            ..condition.clone()
        };
        self.rule.when.iter().zip(&self.thresholds).map(one).collect()
    }
}

/// The stated threshold, then the feature's quantiles over the rows, without repetition.
fn grid(condition: &Condition, input: usize, rows: &[f32]) -> Vec<f32> {
    let mut grid = vec![condition.threshold];
    let mut values: Vec<f32> = rows
        .chunks_exact(TXN_WIDTH)
        .map(|row| row[input])
        .filter(|value| value.is_finite())
        .collect();
    values.sort_by(f32::total_cmp);
    for quantile in &condition.quantiles {
        let place = values.len().saturating_sub(1) as f64 * quantile.clamp(0.0, 1.0);
        if let Some(value) = values.get(place.round() as usize)
            && !grid.contains(value)
        {
            grid.push(*value);
        }
    }
    grid
}
