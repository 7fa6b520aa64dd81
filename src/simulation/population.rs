//! Customers and counterparties: what anybody may know of them, and their hidden state.
//!
//! Hidden states move lazily, when their owner is next seen; instants must not go back.

use rand_chacha::ChaCha8Rng;

use super::laws::{
    MICROS_PER_DAY, MICROS_PER_HOUR, Wander, Weighted, between, exponential, happens, normal,
    one_of, round_to, uniform,
};
use super::options::Options;
use super::traffic::{Local, day_of_month};
use super::world::{World, WorldError};
use crate::txn::{CounterpartyId, CustomerId, CustomerType, Location, Timestamp};

/// A customer of the world, as a bank would know them.
#[derive(Debug, Clone)]
pub struct SimulatedCustomer {
    /// The id.
    pub id: CustomerId,
    /// The segment.
    pub customer_type: CustomerType,
    /// When the account was opened.
    pub since: Timestamp,
    /// Half of the customer's ordinary payments are smaller, in minor units.
    pub amount_minor_median: f64,
    pub(super) type_index: usize,
    pub(super) log_median: f64,
    pub(super) amount_log_sigma: f64,
    pub(super) decline_ratio: f64,
    home: (usize, f64, f64),
    hour_centre: f64,
    log_cushion: f64,
    salary_day: u32,
    usual: Vec<u32>,
}

/// Somebody who is paid.
#[derive(Debug, Clone)]
pub struct Counterparty {
    /// The id.
    pub id: CounterpartyId,
    decline_ratio: f64,
    /// Declines during a bad spell; `None` for those that have none.
    bad_decline_ratio: Option<f64>,
}

/// What changes about a customer and cannot be seen.
#[derive(Debug, Clone)]
struct Hidden {
    funds: Wander,
    salary_seen: i64,
    trip: Option<(usize, i64)>,
    last_seen: i64,
}

/// A counterparty's spells, good and bad in turn.
#[derive(Debug, Clone, Copy)]
struct Spell {
    bad: bool,
    until: i64,
}

/// Where a payment is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Whereabouts {
    pub location: Option<Location>,
    pub abroad: bool,
}

#[derive(Debug)]
pub(super) struct Population {
    pub customers: Vec<SimulatedCustomer>,
    pub counterparties: Vec<Counterparty>,
    activity: Weighted,
    popularity: Weighted,
    usual: Weighted,
    places: Weighted,
    hidden: Vec<Hidden>,
    spells: Vec<Spell>,
    spend_scale: f64,
}

/// Tries to find a customer who likes the hour, before taking one who does not.
const HOUR_TRIES_MAX: usize = 8;

impl Population {
    pub(super) fn new(
        world: &World,
        options: &Options,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self, WorldError> {
        let count = options.customers;
        let [start, end] = options.span();
        let law = &world.counterparties;
        let payees = (f64::from(count) * law.per_customer).ceil().max(f64::from(law.count_min));
        let popularity = Weighted::zipf(payees as usize, law.zipf);
        let counterparties = (0..payees as u32)
            .map(|rank| counterparty(world, rank, rng))
            .collect::<Result<Vec<_>, _>>()?;
        let spells = counterparties.iter().map(|of| first_spell(world, of, start, rng)).collect();
        let places = Weighted::new(world.places.iter().map(|place| place.weight));
        let types = Weighted::new(world.customers.types.values().map(|law| law.share));
        let mut activity = Vec::with_capacity(count as usize);
        let mut customers = Vec::with_capacity(count as usize);
        let mut hidden = Vec::with_capacity(count as usize);
        for index in 0..count {
            let drawn = (types.draw(rng), places.draw(rng));
            let customer = customer(world, index, drawn, &popularity, [start, end], rng)?;
            let law = world.customers.types.values().nth(customer.type_index);
            let weight = law.expect("drawn among the types").activity;
            activity.push(weight * (world.customers.activity_log_sigma * normal(rng)).exp());
            customers.push(customer);
            hidden.push(Hidden {
                funds: Wander::start(&world.funds.wander, start, rng),
                salary_seen: i64::MIN,
                trip: None,
                last_seen: start,
            });
        }
        let usual_max = world.customers.usual_counterparties[1] as usize;
        let usual = Weighted::zipf(usual_max, world.customers.usual_zipf);
        let activity = Weighted::new(activity);
        let per_day = options.rows as f64 / f64::from(count) / f64::from(options.days);
        let spend_scale = (world.funds.spend_reference_per_day / per_day).min(1.0);
        Ok(Self {
            customers,
            counterparties,
            activity,
            popularity,
            usual,
            places,
            hidden,
            spells,
            spend_scale,
        })
    }

    /// Somebody who pays now: active, of that hour, and with an account.
    pub(super) fn payer(
        &self,
        world: &World,
        now: i64,
        local: Local,
        rng: &mut ChaCha8Rng,
    ) -> usize {
        let law = &world.customers;
        let mut found = 0;
        for _ in 0..HOUR_TRIES_MAX {
            let index = self.activity.draw(rng);
            let customer = &self.customers[index];
            let accepts = uniform(rng);
            if customer.since.micros() > now {
                continue;
            }
            found = index;
            let apart = (local.hours - customer.hour_centre).rem_euclid(24.0);
            let apart = apart.min(24.0 - apart) / law.hour_width;
            let willing = law.hour_floor + (1.0 - law.hour_floor) * (-0.5 * apart * apart).exp();
            if accepts < willing {
                break;
            }
        }
        found
    }

    /// Somebody with an account then, in whose name a campaign pays.
    pub(super) fn victim(&self, now: i64, rng: &mut ChaCha8Rng) -> usize {
        let mut drawn = (0..HOUR_TRIES_MAX).map(|_| self.activity.draw(rng));
        drawn.find(|index| self.customers[*index].since.micros() <= now).unwrap_or(0)
    }

    /// Whom a customer pays: mostly one of their own few, sometimes anybody.
    pub(super) fn payee(&self, world: &World, customer: usize, rng: &mut ChaCha8Rng) -> usize {
        let usual = &self.customers[customer].usual;
        if happens(rng, world.customers.new_counterparty_ratio) {
            return self.popularity.draw(rng);
        }
        usual[self.usual.draw_below(rng, usual.len())] as usize
    }

    /// A payee that the customer does not usually pay; popularity plays no part.
    pub(super) fn stranger(&self, customer: usize, rng: &mut ChaCha8Rng) -> usize {
        let mut index = one_of(rng, self.counterparties.len());
        if self.customers[customer].usual.contains(&(index as u32)) {
            index = (index + 1) % self.counterparties.len();
        }
        index
    }

    /// Where the customer is, who may have left on a trip or come home since they were last seen.
    pub(super) fn whereabouts(
        &mut self,
        world: &World,
        customer: usize,
        now: i64,
        rng: &mut ChaCha8Rng,
    ) -> Whereabouts {
        let law = &world.customers;
        let hidden = &mut self.hidden[customer];
        let gap = (now - hidden.last_seen).max(0) as f64;
        if gap >= law.trip_gap_hours_min * MICROS_PER_HOUR as f64 {
            if hidden.trip.is_some_and(|(_, end)| end <= now) {
                hidden.trip = None;
            }
            let trips = law.trips_per_30_days / 30.0 * gap / MICROS_PER_DAY as f64;
            if hidden.trip.is_none() && happens(rng, 1.0 - (-trips).exp()) {
                let length = law.trip_days.draw(rng) * MICROS_PER_DAY as f64;
                hidden.trip = Some((self.places.draw(rng), now + length as i64));
            }
        }
        hidden.last_seen = hidden.last_seen.max(now);
        let home = self.customers[customer].home;
        let trip = hidden.trip.map(|(place, _)| place);
        let (place, lat, lon) =
            trip.map_or(home, |place| (place, world.places[place].lat, world.places[place].lon));
        self.near(world, place, (lat, lon), rng)
    }

    /// Somewhere in a place.
    pub(super) fn at_place(
        &self,
        world: &World,
        place: usize,
        rng: &mut ChaCha8Rng,
    ) -> Whereabouts {
        self.near(world, place, (world.places[place].lat, world.places[place].lon), rng)
    }

    #[allow(clippy::unused_self, reason = "one of three ways to a place")]
    fn near(
        &self,
        world: &World,
        place: usize,
        (lat, lon): (f64, f64),
        rng: &mut ChaCha8Rng,
    ) -> Whereabouts {
        let scatter = world.customers.location_scatter_degrees;
        let known = !happens(rng, world.customers.location_missing_ratio);
        let lat = round_to((lat + scatter * normal(rng)).clamp(-90.0, 90.0), 5);
        let lon = round_to((lon + scatter * normal(rng)).clamp(-180.0, 180.0), 5);
        let location = known.then_some(Location { lat, lon });
        Whereabouts { location, abroad: world.places[place].abroad }
    }

    /// A place at least so many degrees away from a location, if there is one.
    pub(super) fn far_from(
        &self,
        world: &World,
        from: Location,
        degrees_min: f64,
        rng: &mut ChaCha8Rng,
    ) -> Option<usize> {
        (0..HOUR_TRIES_MAX).map(|_| self.places.draw(rng)).find(|place| {
            let place = &world.places[*place];
            (place.lat - from.lat).abs() + (place.lon - from.lon).abs() >= degrees_min
        })
    }

    pub(super) fn any_place(&self, rng: &mut ChaCha8Rng) -> usize {
        self.places.draw(rng)
    }

    /// Logarithm of the customer's funds in units of their own median payment.
    pub(super) fn log_funds(
        &mut self,
        world: &World,
        index: usize,
        (now, local): (i64, Local),
        rng: &mut ChaCha8Rng,
    ) -> f64 {
        let law = &world.funds;
        let customer = &self.customers[index];
        let hidden = &mut self.hidden[index];
        let (day, last_length) = day_of_month(local.day);
        let since = (day + last_length - customer.salary_day) % last_length;
        let salary = local.day - i64::from(since);
        let wander = hidden.funds.step(&law.wander, now, rng);
        if hidden.salary_seen < salary {
            if hidden.salary_seen > i64::MIN && wander < 0.0 {
                hidden.funds.push(-law.salary_relief * wander);
            }
            hidden.salary_seen = salary;
        }
        let eaten = ((f64::from(since) + local.hours / 24.0) / 30.0).powf(law.cycle_power);
        customer.log_cushion - law.cycle_drop * eaten + hidden.funds.value()
    }

    /// Lowers the funds by a committed payment, both in logarithms of the median payment.
    pub(super) fn spend(
        &mut self,
        world: &World,
        customer: usize,
        log_funds: f64,
        log_amount: f64,
    ) {
        let share = (log_amount - log_funds).exp().min(0.9);
        let impact = world.funds.spend_impact * self.spend_scale;
        self.hidden[customer].funds.push(impact * (1.0 - share).ln());
    }

    /// Probability that the counterparty's side declines now.
    pub(super) fn payee_decline(
        &mut self,
        world: &World,
        counterparty: usize,
        now: i64,
        rng: &mut ChaCha8Rng,
    ) -> f64 {
        let of = &self.counterparties[counterparty];
        let Some(bad_decline_ratio) = of.bad_decline_ratio else {
            return of.decline_ratio;
        };
        let spell = &mut self.spells[counterparty];
        while spell.until <= now {
            spell.bad = !spell.bad;
            spell.until += spell_length(world, spell.bad, rng);
        }
        if spell.bad { bad_decline_ratio } else { of.decline_ratio }
    }
}

fn spell_length(world: &World, bad: bool, rng: &mut ChaCha8Rng) -> i64 {
    let law = &world.counterparties;
    let mean = if bad { law.bad_spell_days } else { law.good_spell_days };
    // At least a minute, so that catching up with the clock stays cheap.
    ((exponential(rng, mean) * MICROS_PER_DAY as f64) as i64).max(60_000_000)
}

fn first_spell(world: &World, of: &Counterparty, start: i64, rng: &mut ChaCha8Rng) -> Spell {
    let law = &world.counterparties;
    let share = law.bad_spell_days / (law.bad_spell_days + law.good_spell_days);
    let bad = of.bad_decline_ratio.is_some() && happens(rng, share);
    Spell { bad, until: start + spell_length(world, bad, rng) }
}

fn counterparty(
    world: &World,
    rank: u32,
    rng: &mut ChaCha8Rng,
) -> Result<Counterparty, WorldError> {
    let law = &world.counterparties;
    let id = CounterpartyId::new(&format!("{}{rank}", law.id_prefix));
    let id = id.map_err(|error| bad_id("counterparties.id_prefix", &error))?;
    let bad = happens(rng, law.bad_share) && rank >= law.safe_top;
    let [low, high] = law.bad_decline_ratio;
    let ratio = low + (high - low) * uniform(rng);
    let decline_ratio = law.decline_ratio.draw(rng).min(1.0);
    Ok(Counterparty { id, decline_ratio, bad_decline_ratio: bad.then_some(ratio) })
}

fn customer(
    world: &World,
    index: u32,
    (type_index, place): (usize, usize),
    popularity: &Weighted,
    [start, end]: [i64; 2],
    rng: &mut ChaCha8Rng,
) -> Result<SimulatedCustomer, WorldError> {
    let law = &world.customers;
    let (customer_type, of_type) = law.types.iter().nth(type_index).expect("drawn among the types");
    let id = CustomerId::new(&format!("{}{index}", law.id_prefix));
    let id = id.map_err(|error| bad_id("customers.id_prefix", &error))?;
    let amount_minor_median = of_type.amount_minor.draw(rng).max(1.0);
    let usual_count = between(rng, law.usual_counterparties);
    let usual = (0..usual_count).map(|_| popularity.draw(rng) as u32).collect();
    let scatter = law.home_scatter_degrees;
    let at = &world.places[place];
    let days = &world.funds.salary_days;
    Ok(SimulatedCustomer {
        id,
        customer_type: *customer_type,
        since: opened(world, index, [start, end], rng),
        amount_minor_median,
        type_index,
        log_median: amount_minor_median.ln(),
        amount_log_sigma: of_type.amount_log_sigma,
        decline_ratio: world.declines.customer_ratio.draw(rng).min(1.0),
        home: (place, at.lat + scatter * normal(rng), at.lon + scatter * normal(rng)),
        hour_centre: (law.hour_centre.mean + law.hour_centre.sd * normal(rng)).rem_euclid(24.0),
        log_cushion: of_type.cushion.draw(rng).ln(),
        salary_day: days[one_of(rng, days.len())],
        usual,
    })
}

/// When an account was opened: on a whole day. The first customer's is always open at the start,
/// so that somebody can pay.
fn opened(world: &World, index: u32, [start, end]: [i64; 2], rng: &mut ChaCha8Rng) -> Timestamp {
    let law = &world.customers;
    let (class, part) = (uniform(rng), uniform(rng));
    let age_days = if class < law.new_share {
        law.new_age_days.draw(rng)
    } else {
        law.account_age_days.draw(rng)
    };
    let during = class >= law.new_share && class < law.new_share + law.opened_during_share;
    let micros = if during && index > 0 {
        start + ((end - start) as f64 * part) as i64
    } else {
        start - (age_days * MICROS_PER_DAY as f64) as i64
    };
    Timestamp::from_micros(micros.div_euclid(MICROS_PER_DAY) * MICROS_PER_DAY)
}

fn bad_id(key: &str, error: &dyn std::fmt::Display) -> WorldError {
    WorldError::Range { key: key.to_owned(), value: error.to_string(), limit: "an id".to_owned() }
}
