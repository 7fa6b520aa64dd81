//! How well scores order positives before negatives; ties are handled exactly.

/// Rows sorted by score once, so that resampled measures cost one pass each.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// Row numbers by descending score.
    rows: Vec<u32>,
    /// Labels in that order.
    labels: Vec<bool>,
    /// Whether the row is the last of those with its score.
    ends: Vec<bool>,
    /// Scores in that order.
    scores: Vec<f64>,
}

impl Ranking {
    /// Sorts the rows. At most 2³² rows.
    pub fn new(scores: &[f64], labels: &[bool]) -> Self {
        assert_eq!(scores.len(), labels.len(), "one label a score");
        let count = u32::try_from(scores.len()).expect("a test window has fewer than 2^32 rows");
        let mut rows: Vec<u32> = (0..count).collect();
        rows.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let sorted: Vec<f64> = rows.iter().map(|row| scores[*row as usize]).collect();
        let ends = (0..sorted.len())
            .map(|i| sorted.get(i + 1).is_none_or(|next| *next < sorted[i]))
            .collect();
        let labels = rows.iter().map(|row| labels[*row as usize]).collect();
        Self { rows, labels, ends, scores: sorted }
    }

    /// Area under the ROC curve with row weights: the probability that a positive scores above a
    /// negative, a tie counting half. `None` unless both classes have weight.
    pub fn auc_roc(&self, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut positives, mut negatives, mut area) = (0.0, 0.0, 0.0);
        self.groups(weight, |positive, negative| {
            area += negative * (positives + positive / 2.0);
            positives += positive;
            negatives += negative;
        });
        (positives > 0.0 && negatives > 0.0).then(|| area / (positives * negatives))
    }

    /// Average precision with row weights: the mean of precision over the positives, as a step
    /// function of the threshold, rows of one score entering together. `None` without positives.
    pub fn average_precision(&self, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut positives, mut all, mut sum) = (0.0, 0.0, 0.0);
        self.groups(weight, |positive, negative| {
            positives += positive;
            all += positive + negative;
            if positive > 0.0 {
                sum += positive * positives / all;
            }
        });
        (positives > 0.0).then(|| sum / positives)
    }

    /// The ROC curve as (false positive rate, true positive rate), from (0, 0) to (1, 1), thinned
    /// to about `points_max` points. Empty unless both classes occur.
    pub fn roc_curve(&self, points_max: usize) -> Vec<(f64, f64)> {
        let positives = self.labels.iter().filter(|y| **y).count() as f64;
        let negatives = self.labels.len() as f64 - positives;
        if positives == 0.0 || negatives == 0.0 {
            return Vec::new();
        }
        let (mut tp, mut fp) = (0.0, 0.0);
        let mut curve = vec![(0.0, 0.0)];
        self.groups(
            |_| 1.0,
            |positive, negative| {
                tp += positive;
                fp += negative;
                curve.push((fp / negatives, tp / positives));
            },
        );
        thin(&curve, points_max)
    }

    /// The precision-recall curve as (recall, precision) by falling threshold, thinned to about
    /// `points_max` points. Empty without positives.
    pub fn precision_recall_curve(&self, points_max: usize) -> Vec<(f64, f64)> {
        let positives = self.labels.iter().filter(|y| **y).count() as f64;
        if positives == 0.0 {
            return Vec::new();
        }
        let (mut tp, mut all) = (0.0, 0.0);
        let mut curve = Vec::new();
        self.groups(
            |_| 1.0,
            |positive, negative| {
                tp += positive;
                all += positive + negative;
                // Between positives precision only falls: the curve is read at the positives.
                if positive > 0.0 {
                    curve.push((tp / positives, tp / all));
                }
            },
        );
        thin(&curve, points_max)
    }

    /// Row numbers by descending score, in groups of equal score: the ends of equal-mass bins.
    pub(super) fn sorted(&self) -> impl DoubleEndedIterator<Item = (usize, f64, bool, bool)> + '_ {
        (0..self.rows.len())
            .map(|i| (self.rows[i] as usize, self.scores[i], self.labels[i], self.ends[i]))
    }

    /// Weight of positives and of negatives for each distinct score, descending.
    fn groups(&self, weight: impl Fn(usize) -> f64, mut each: impl FnMut(f64, f64)) {
        let (mut positive, mut negative) = (0.0, 0.0);
        for i in 0..self.rows.len() {
            let w = weight(self.rows[i] as usize);
            if self.labels[i] {
                positive += w;
            } else {
                negative += w;
            }
            if self.ends[i] {
                each(positive, negative);
                (positive, negative) = (0.0, 0.0);
            }
        }
    }
}

/// Area under the ROC curve, see [`Ranking::auc_roc`].
pub fn auc_roc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    Ranking::new(scores, labels).auc_roc(|_| 1.0)
}

/// Average precision, see [`Ranking::average_precision`].
pub fn average_precision(scores: &[f64], labels: &[bool]) -> Option<f64> {
    Ranking::new(scores, labels).average_precision(|_| 1.0)
}

/// Keeps the first, the last, and points that lie visibly apart from the one kept before.
fn thin(curve: &[(f64, f64)], points_max: usize) -> Vec<(f64, f64)> {
    let step = 2.0 / points_max.max(2) as f64;
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for (i, point) in curve.iter().enumerate() {
        let far = kept.last().is_none_or(|last: &(f64, f64)| {
            (point.0 - last.0).abs() + (point.1 - last.1).abs() >= step
        });
        if far || i + 1 == curve.len() {
            kept.push(*point);
        }
    }
    kept
}
