//! Losses of probabilities against labels, each a mean over rows.

/// Probabilities are clipped to `[1e-15, 1 - 1e-15]` before a logarithm is taken, so that one
/// certain and wrong prediction costs 34.5 nats and not infinity.
pub const LOG_LOSS_CLIP: f64 = 1e-15;

/// The log loss of one prediction in nats.
pub fn log_loss_of(probability: f64, label: bool) -> f64 {
    let p = probability.clamp(LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP);
    if label { -p.ln() } else { -(-p).ln_1p() }
}

/// The squared error of one prediction.
pub fn squared_error(probability: f64, label: bool) -> f64 {
    (probability - f64::from(u8::from(label))).powi(2)
}

/// Mean log loss in nats; `None` without rows.
pub fn log_loss(probabilities: &[f64], labels: &[bool]) -> Option<f64> {
    mean(probabilities, labels, log_loss_of)
}

/// Brier score, the mean squared error of the probability; `None` without rows.
pub fn brier(probabilities: &[f64], labels: &[bool]) -> Option<f64> {
    mean(probabilities, labels, squared_error)
}

/// Share of rows where "at least 0.5" agrees with the label; `None` without rows.
pub fn accuracy(probabilities: &[f64], labels: &[bool]) -> Option<f64> {
    mean(probabilities, labels, |p, y| f64::from(u8::from((p >= 0.5) == y)))
}

/// Share of positive labels; `None` without rows.
pub fn base_rate(labels: &[bool]) -> Option<f64> {
    let positives = labels.iter().filter(|y| **y).count();
    (!labels.is_empty()).then(|| positives as f64 / labels.len() as f64)
}

/// Skill: `1 - loss / reference`, 1 for perfect, 0 for no better, negative for worse than the
/// reference. `None` where the reference loses nothing.
pub fn skill(loss: f64, reference: f64) -> Option<f64> {
    (reference > 0.0).then(|| 1.0 - loss / reference)
}

fn mean(probabilities: &[f64], labels: &[bool], loss: impl Fn(f64, bool) -> f64) -> Option<f64> {
    assert_eq!(probabilities.len(), labels.len(), "one label a prediction");
    if labels.is_empty() {
        return None;
    }
    let sum: f64 = probabilities.iter().zip(labels).map(|(p, y)| loss(*p, *y)).sum();
    Some(sum / labels.len() as f64)
}
