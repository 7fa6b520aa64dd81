//! Fraud: campaigns that add payments to the stream of genuine ones.
//!
//! Of a campaign's payments the share `purity` is fraud; the rest look the same and are genuine.
//! `insider` adds nothing: it marks genuine payments, so nothing can tell them.

use rand_chacha::ChaCha8Rng;

use super::draft::{Draft, FraudDraw, Place};
use super::laws::{
    LogNormalLaw, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, between, happens, one_of,
    uniform,
};
use super::population::Population;
use super::world::World;
use crate::txn::text_enum;

text_enum!(
    /// How a fraud works.
    Typology, "typology", {
        /// A payee's data leaked: strangers' accounts pay it for weeks.
        CompromisedCounterparty => "compromised_counterparty",
        /// Large amounts to new payees, for days.
        AccountTakeover => "account_takeover",
        /// A burst of small amounts, then a large one.
        CardTesting => "card_testing",
        /// Far away, soon after a genuine payment.
        ImpossibleTravel => "impossible_travel",
        /// Several payees collect round sums from many customers.
        MuleRing => "mule_ring",
        /// Like genuine payments in every respect.
        Insider => "insider",
    }
);

/// The typologies that come as campaigns of their own.
pub(super) const CAMPAIGNS: [Typology; 4] = [
    Typology::CompromisedCounterparty,
    Typology::AccountTakeover,
    Typology::CardTesting,
    Typology::MuleRing,
];

/// Campaigns are started this long before the history, so that they are in full swing at its
/// start.
pub(super) const LEAD_MICROS: i64 = 45 * MICROS_PER_DAY;

/// Mean time between two campaigns of a typology, in microseconds; `None` if there are none.
pub(super) fn campaign_gap(world: &World, typology: Typology, rows_per_micro: f64) -> Option<f64> {
    let fraud = &world.fraud;
    let (share, purity, rows) = match typology {
        Typology::CompromisedCounterparty => {
            let law = &fraud.compromised_counterparty;
            (law.share, law.purity, law.rows)
        }
        Typology::AccountTakeover => {
            let law = &fraud.account_takeover;
            (law.share, law.purity, law.rows)
        }
        Typology::CardTesting => {
            (fraud.card_testing.share, fraud.card_testing.purity, fraud.card_testing.rows)
        }
        Typology::MuleRing => (fraud.mule_ring.share, fraud.mule_ring.purity, fraud.mule_ring.rows),
        Typology::ImpossibleTravel | Typology::Insider => return None,
    };
    let rows_mean = f64::from(rows[0] + rows[1]) / 2.0;
    (share > 0.0).then(|| rows_mean * purity / (share * rows_per_micro))
}

/// Plans the payments of one campaign that starts at `start`.
pub(super) fn campaign(
    world: &World,
    population: &Population,
    typology: Typology,
    start: i64,
    rng: &mut ChaCha8Rng,
) -> Vec<(i64, Draft)> {
    let payees = population.counterparties.len();
    match typology {
        Typology::CompromisedCounterparty => {
            let law = &world.fraud.compromised_counterparty;
            let payee = one_of(rng, payees);
            let mut plan = Plan::new(typology, law.purity, law.decline_ratio);
            for at in instants(law.rows, &law.duration_hours, start, rng) {
                let victim = population.victim(at, rng);
                plan.add(at, (victim, payee), law.amount_factor.draw(rng), rng);
            }
            plan.drafts
        }
        Typology::AccountTakeover => {
            let law = &world.fraud.account_takeover;
            let victim = population.victim(start, rng);
            let mut plan = Plan::new(typology, law.purity, law.decline_ratio);
            if happens(rng, law.elsewhere_ratio) {
                plan.place = Place::At(population.any_place(rng));
            }
            for at in instants(law.rows, &law.duration_hours, start, rng) {
                let payee = population.stranger(victim, rng);
                plan.add(at, (victim, payee), law.amount_factor.draw(rng), rng);
            }
            plan.drafts
        }
        Typology::CardTesting => {
            let law = &world.fraud.card_testing;
            let victim = population.victim(start, rng);
            let mut plan = Plan::new(typology, law.purity, law.decline_ratio);
            let mut instants = instants(law.rows, &law.duration_hours, start, rng);
            instants.sort_unstable();
            let last = instants.len() - 1;
            for (index, at) in instants.into_iter().enumerate() {
                let factor = if index == last { &law.large_factor } else { &law.amount_factor };
                let payee = population.stranger(victim, rng);
                plan.add(at, (victim, payee), factor.draw(rng), rng);
            }
            plan.drafts
        }
        Typology::MuleRing => {
            let law = &world.fraud.mule_ring;
            let mut plan = Plan::new(typology, law.purity, law.decline_ratio);
            plan.round_minor = Some(law.round_minor);
            let members = between(rng, law.members);
            let members: Vec<usize> = (0..members).map(|_| one_of(rng, payees)).collect();
            for at in instants(law.rows, &law.duration_hours, start, rng) {
                let victim = population.victim(at, rng);
                let payee = members[one_of(rng, members.len())];
                plan.add(at, (victim, payee), law.amount_factor.draw(rng), rng);
            }
            plan.drafts
        }
        Typology::ImpossibleTravel | Typology::Insider => Vec::new(),
    }
}

/// Perhaps a payment from far away, soon after a genuine one.
pub(super) fn travel(
    world: &World,
    population: &Population,
    (now, genuine): (i64, &Draft),
    rng: &mut ChaCha8Rng,
) -> Option<(i64, Draft)> {
    let law = &world.fraud.impossible_travel;
    if !happens(rng, law.share / law.purity) {
        return None;
    }
    let Place::Known(whereabouts) = genuine.place else { return None };
    let from = whereabouts.location?;
    let place = population.far_from(world, from, law.distance_degrees_min, rng)?;
    let mut plan = Plan::new(Typology::ImpossibleTravel, law.purity, law.decline_ratio);
    plan.place = Place::At(place);
    let gap = law.gap_minutes.draw(rng) * (60 * MICROS_PER_SECOND) as f64;
    let payee = population.stranger(genuine.customer, rng);
    let ends = (genuine.customer, payee);
    plan.add(now + gap as i64, ends, law.amount_factor.draw(rng), rng);
    plan.drafts.pop()
}

/// Whether a genuine-looking payment is an insider's, and how likely that was.
pub(super) fn insider(world: &World, rng: &mut ChaCha8Rng) -> FraudDraw {
    let probability = world.fraud.insider.share;
    let typology = happens(rng, probability).then_some(Typology::Insider);
    FraudDraw { typology, probability, decline_ratio: 0.0, is_campaign: false }
}

/// When a payment's label becomes known, and what it says; `None` if never.
pub(super) fn label(
    world: &World,
    now: i64,
    is_fraud: bool,
    rng: &mut ChaCha8Rng,
) -> Option<(i64, bool)> {
    let law = &world.fraud;
    let never = happens(rng, law.never_labelled_ratio);
    let days = if is_fraud { law.labelled_days.draw(rng) } else { law.genuine_label_days };
    (!never).then_some((now + (days * MICROS_PER_DAY as f64) as i64, is_fraud))
}

fn instants(
    rows: [u32; 2],
    duration_hours: &LogNormalLaw,
    start: i64,
    rng: &mut ChaCha8Rng,
) -> Vec<i64> {
    let length = duration_hours.draw(rng) * MICROS_PER_HOUR as f64;
    let count = between(rng, rows);
    (0..count).map(|_| start + (uniform(rng) * length) as i64).collect()
}

/// The next start of a campaign: after a quarter of the mean gap to seven quarters of it. More
/// regular than chance, so that the shares of a short history come near the world's.
pub(super) fn next_start(now: i64, gap: f64, rng: &mut ChaCha8Rng) -> i64 {
    now.saturating_add(((gap * (0.25 + 1.5 * uniform(rng))) as i64).max(1))
}

/// A campaign's payments in the making.
struct Plan {
    typology: Typology,
    purity: f64,
    decline_ratio: f64,
    place: Place,
    round_minor: Option<i64>,
    drafts: Vec<(i64, Draft)>,
}

impl Plan {
    fn new(typology: Typology, purity: f64, decline_ratio: f64) -> Self {
        let (place, round_minor, drafts) = (Place::Own, None, Vec::new());
        Self { typology, purity, decline_ratio, place, round_minor, drafts }
    }

    fn add(
        &mut self,
        at: i64,
        (customer, counterparty): (usize, usize),
        amount_factor: f64,
        rng: &mut ChaCha8Rng,
    ) {
        let fraud = FraudDraw {
            typology: happens(rng, self.purity).then_some(self.typology),
            probability: self.purity,
            decline_ratio: self.decline_ratio,
            is_campaign: true,
        };
        let mut draft = Draft::new(customer, counterparty, fraud);
        draft.log_stretch = amount_factor.ln();
        draft.place = self.place;
        draft.round_minor = self.round_minor;
        self.drafts.push((at, draft));
    }
}
