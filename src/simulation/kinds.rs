//! Kinds of payments with their names resolved: which are chosen when, where their branches go.

use rand_chacha::ChaCha8Rng;

use super::laws::Weighted;
use super::population::SimulatedCustomer;
use super::traffic::Local;
use super::world::{KindLaw, World};
use crate::txn::{Kind, ParticipantName};

/// Where one branch of a kind goes: to one of these participants.
#[derive(Debug)]
struct Hop {
    members: Vec<usize>,
    weights: Weighted,
    is_route: bool,
}

/// One kind.
#[derive(Debug)]
pub(super) struct KindTable {
    pub kind: Kind,
    pub law: KindLaw,
    pub log_factor: f64,
    hops: Vec<Hop>,
}

#[derive(Debug)]
pub(super) struct Kinds {
    pub tables: Vec<KindTable>,
    /// By customer type and local hour; `None` where a type has no kind at that hour.
    weights: Vec<Vec<Option<Weighted>>>,
    campaigns: (Vec<usize>, Weighted),
}

impl Kinds {
    pub(super) fn new(world: &World) -> Self {
        let tables = world.kinds.iter().map(|(kind, law)| table(world, *kind, law)).collect();
        let weights = world.customers.types.keys().map(|customer_type| {
            let weight = |law: &KindLaw, hour| {
                let open = if law.is_open(hour) { 1.0 } else { law.outside_ratio };
                law.share * law.types.get(customer_type).unwrap_or(&1.0) * open
            };
            let at = |hour| {
                let weights: Vec<f64> = world.kinds.values().map(|law| weight(law, hour)).collect();
                (weights.iter().sum::<f64>() > 0.0).then(|| Weighted::new(weights))
            };
            (0..24).map(at).collect()
        });
        let position = |kind: &Kind| {
            world.kinds.keys().position(|known| known == kind).expect("checked with the world")
        };
        let campaigns = world.fraud.kinds.keys().map(position).collect();
        let campaign_weights = Weighted::new(world.fraud.kinds.values().copied());
        Self { weights: weights.collect(), tables, campaigns: (campaigns, campaign_weights) }
    }

    /// The kind of a genuine payment; the first kind where the world leaves none.
    pub(super) fn genuine(
        &self,
        customer: &SimulatedCustomer,
        local: Local,
        rng: &mut ChaCha8Rng,
    ) -> usize {
        let weights = &self.weights[customer.type_index][local.hour as usize];
        weights.as_ref().map_or(0, |weights| weights.draw(rng))
    }

    /// The kind of a campaign's payment.
    pub(super) fn campaign(&self, rng: &mut ChaCha8Rng) -> usize {
        self.campaigns.0[self.campaigns.1.draw(rng)]
    }
}

impl KindTable {
    /// The participants of a payment, and which of them was chosen by a route.
    pub(super) fn participants(&self, rng: &mut ChaCha8Rng) -> (Vec<usize>, Option<usize>) {
        let mut route = None;
        let chosen = self.hops.iter().map(|hop| {
            let member = hop.members[hop.weights.draw(rng)];
            if hop.is_route {
                route = Some(member);
            }
            member
        });
        (chosen.collect(), route)
    }
}

fn table(world: &World, kind: Kind, law: &KindLaw) -> KindTable {
    let position = |name: &ParticipantName| {
        world.participants.keys().position(|known| known == name).expect("checked with the world")
    };
    let hop = |name: &ParticipantName| match world.routes.get(name) {
        Some(route) => Hop {
            members: route.members.keys().map(position).collect(),
            weights: Weighted::new(route.members.values().copied()),
            is_route: true,
        },
        None => {
            Hop { members: vec![position(name)], weights: Weighted::new([1.0]), is_route: false }
        }
    };
    let hops = law.participants.iter().map(hop).collect();
    KindTable { kind, law: law.clone(), log_factor: law.amount_factor.ln(), hops }
}
