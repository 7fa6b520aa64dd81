//! Whether a payment succeeds: every source of declines with its probability, so that the true
//! probability of success can be told beside the outcome.

use rand_chacha::ChaCha8Rng;

use super::laws::{MICROS_PER_DAY, happens, sigmoid};
use super::world::{CustomersLaw, World};

/// Who says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decliner {
    /// The customer's side: the first participant.
    Payer,
    /// The other side: the last participant.
    Payee,
}

/// Why somebody says no; retries depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Funds,
    Other,
}

/// What the laws of decline look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// Funds over amount, logarithm.
    pub log_margin: f64,
    pub over_limit_ratio: f64,
    pub outside_decline_ratio: f64,
    pub account_age_micros: i64,
    pub customer_ratio: f64,
    pub payee_ratio: f64,
    pub fraud_control_ratio: f64,
    pub cross_border: bool,
    pub abroad: bool,
}

/// The verdict of the business rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    /// Probability that nobody declines.
    pub pass_probability: f64,
    pub declined: Option<(Decliner, Cause)>,
}

pub(super) fn judge(world: &World, of: &Circumstances, rng: &mut ChaCha8Rng) -> Verdict {
    let law = &world.declines;
    let is_new = (of.account_age_micros as f64) < law.new_account_days * MICROS_PER_DAY as f64;
    let when = |holds: bool, ratio: f64| if holds { ratio } else { 0.0 };
    let (payer, payee) = (Decliner::Payer, Decliner::Payee);
    let sources = [
        (1.0 - sigmoid(world.funds.sharpness * of.log_margin), payer, Cause::Funds),
        (of.over_limit_ratio, payer, Cause::Other),
        (when(is_new, law.new_account_ratio), payer, Cause::Other),
        (of.customer_ratio, payer, Cause::Other),
        (when(of.abroad, law.abroad_ratio), payer, Cause::Other),
        (of.outside_decline_ratio, payee, Cause::Other),
        (of.payee_ratio, payee, Cause::Other),
        (when(of.cross_border, law.cross_border_ratio), payee, Cause::Other),
        (of.fraud_control_ratio, payee, Cause::Other),
    ];
    let mut verdict = Verdict { pass_probability: 1.0, declined: None };
    for (ratio, decliner, cause) in sources {
        verdict.pass_probability *= 1.0 - ratio;
        // Drawn also when already declined, so that the stream of draws keeps its step.
        if happens(rng, ratio) && verdict.declined.is_none() {
            verdict.declined = Some((decliner, cause));
        }
    }
    verdict
}

/// Whether a payment crosses the border, given its kind's own ratio.
pub(super) fn crosses_border(
    law: &CustomersLaw,
    kind_ratio: f64,
    abroad: bool,
    rng: &mut ChaCha8Rng,
) -> bool {
    happens(rng, if abroad { kind_ratio.max(law.abroad_cross_border_ratio) } else { kind_ratio })
}
