//! Range checks of a world: the first breach is told with its key, its value and the limit.

use std::fmt::Display;

use super::laws::{LogNormalLaw, WanderLaw};
use super::world::{
    CounterpartiesLaw, CustomersLaw, DeclinesLaw, FraudLaw, FundsLaw, KindLaw, ParticipantLaw,
    RetriesLaw, World, WorldError,
};

type Checked = Result<(), WorldError>;

/// The only format of a world file so far.
const FORMAT: u32 = 1;
/// Money beyond this could overflow when amounts are summed: 10^15 minor units.
const MINOR_MAX: i64 = 1_000_000_000_000_000;

pub(super) fn world(world: &World) -> Checked {
    require("format", world.format, world.format == FORMAT, "1")?;
    range("utc_offset_minutes", f64::from(world.utc_offset_minutes), -840.0, 840.0)?;
    for (hour, weight) in world.traffic.hours.iter().enumerate() {
        range(&format!("traffic.hours[{hour}]"), *weight, 0.001, 1e3)?;
    }
    for (day, weight) in world.traffic.weekdays.iter().enumerate() {
        range(&format!("traffic.weekdays[{day}]"), *weight, 0.001, 1e3)?;
    }
    range("load.base", world.load.base, 0.001, 10.0)?;
    range("load.slope", world.load.slope, 0.0, 10.0)?;
    range("load.floor", world.load.floor, 0.0, world.load.base)?;
    wander("load.noise", &world.load.noise)?;
    customers(&world.customers)?;
    funds(&world.funds)?;
    counterparties(&world.counterparties)?;
    declines(&world.declines)?;
    retries(&world.retries)?;
    participants(world)?;
    kinds(world)?;
    let coordinator = &world.coordinator;
    range("coordinator.timeout_ms", coordinator.timeout_ms, 1.0, 3.6e6)?;
    law("coordinator.decision_ms", &coordinator.decision_ms, 1e-3, 1e6)?;
    ratio("coordinator.late_heard_ratio", coordinator.late_heard_ratio)?;
    range("coordinator.late_heard_ms_max", coordinator.late_heard_ms_max, 1.0, 3.6e6)?;
    let half_life = coordinator.health_half_life_minutes;
    range("coordinator.health_half_life_minutes", half_life, 1e-3, 1e5)?;
    range("coordinator.health_noise", coordinator.health_noise, 0.0, 1.0)?;
    places(world)?;
    fraud(&world.fraud, world)
}

fn customers(law_: &CustomersLaw) -> Checked {
    prefix("customers.id_prefix", &law_.id_prefix)?;
    range("customers.activity_log_sigma", law_.activity_log_sigma, 0.0, 4.0)?;
    law("customers.account_age_days", &law_.account_age_days, 1e-3, 36_500.0)?;
    ratio("customers.new_share", law_.new_share)?;
    law("customers.new_age_days", &law_.new_age_days, 1e-3, 36_500.0)?;
    ratio("customers.opened_during_share", law_.opened_during_share)?;
    let shares = law_.new_share + law_.opened_during_share;
    range("customers.new_share + customers.opened_during_share", shares, 0.0, 1.0)?;
    ordered("customers.usual_counterparties", law_.usual_counterparties, 1, 1_000)?;
    range("customers.usual_zipf", law_.usual_zipf, 0.0, 10.0)?;
    ratio("customers.new_counterparty_ratio", law_.new_counterparty_ratio)?;
    ratio("customers.location_missing_ratio", law_.location_missing_ratio)?;
    range("customers.home_scatter_degrees", law_.home_scatter_degrees, 0.0, 10.0)?;
    range("customers.location_scatter_degrees", law_.location_scatter_degrees, 0.0, 10.0)?;
    range("customers.hour_centre.mean", law_.hour_centre.mean, 0.0, 24.0)?;
    range("customers.hour_centre.sd", law_.hour_centre.sd, 0.0, 24.0)?;
    range("customers.hour_width", law_.hour_width, 0.1, 100.0)?;
    ratio("customers.hour_floor", law_.hour_floor)?;
    range("customers.trips_per_30_days", law_.trips_per_30_days, 0.0, 30.0)?;
    law("customers.trip_days", &law_.trip_days, 1e-3, 365.0)?;
    range("customers.trip_gap_hours_min", law_.trip_gap_hours_min, 0.0, 1e4)?;
    ratio("customers.abroad_cross_border_ratio", law_.abroad_cross_border_ratio)?;
    weights("customers.types.*.share", law_.types.values().map(|of| of.share))?;
    for (name, of) in &law_.types {
        let key = |field: &str| format!("customers.types.{name}.{field}");
        range(&key("activity"), of.activity, 1e-6, 1e6)?;
        law(&key("amount_minor"), &of.amount_minor, 1.0, MINOR_MAX as f64)?;
        range(&key("amount_log_sigma"), of.amount_log_sigma, 0.0, 4.0)?;
        law(&key("cushion"), &of.cushion, 1e-6, 1e9)?;
        let rounds = &of.amount_round_minor;
        require(&key("amount_round_minor"), "[]", !rounds.is_empty(), "a list of units")?;
        for unit in rounds {
            minor(&key("amount_round_minor"), *unit)?;
        }
    }
    Ok(())
}

fn funds(law_: &FundsLaw) -> Checked {
    range("funds.sharpness", law_.sharpness, 0.0, 1e3)?;
    let days = &law_.salary_days;
    require("funds.salary_days", "[]", !days.is_empty(), "a list of days of the month")?;
    for day in days {
        range("funds.salary_days", f64::from(*day), 1.0, 28.0)?;
    }
    range("funds.cycle_drop", law_.cycle_drop, 0.0, 20.0)?;
    range("funds.cycle_power", law_.cycle_power, 0.01, 20.0)?;
    wander("funds.wander", &law_.wander)?;
    ratio("funds.spend_impact", law_.spend_impact)?;
    range("funds.spend_reference_per_day", law_.spend_reference_per_day, 1e-6, 1e6)?;
    ratio("funds.salary_relief", law_.salary_relief)
}

fn counterparties(law_: &CounterpartiesLaw) -> Checked {
    prefix("counterparties.id_prefix", &law_.id_prefix)?;
    range("counterparties.per_customer", law_.per_customer, 0.0, 100.0)?;
    range("counterparties.count_min", f64::from(law_.count_min), 2.0, 1e6)?;
    range("counterparties.zipf", law_.zipf, 0.0, 10.0)?;
    law("counterparties.decline_ratio", &law_.decline_ratio, 0.0, 1.0)?;
    ratio("counterparties.bad_share", law_.bad_share)?;
    range("counterparties.bad_spell_days", law_.bad_spell_days, 1e-3, 1e4)?;
    range("counterparties.good_spell_days", law_.good_spell_days, 1e-3, 1e4)?;
    let [low, high] = law_.bad_decline_ratio;
    range("counterparties.bad_decline_ratio[1]", high, 0.0, 1.0)?;
    range("counterparties.bad_decline_ratio[0]", low, 0.0, high)
}

fn declines(law_: &DeclinesLaw) -> Checked {
    law("declines.customer_ratio", &law_.customer_ratio, 0.0, 1.0)?;
    range("declines.new_account_days", law_.new_account_days, 0.0, 36_500.0)?;
    ratio("declines.new_account_ratio", law_.new_account_ratio)?;
    ratio("declines.cross_border_ratio", law_.cross_border_ratio)?;
    ratio("declines.abroad_ratio", law_.abroad_ratio)
}

fn retries(law_: &RetriesLaw) -> Checked {
    range("retries.attempts_max", f64::from(law_.attempts_max), 1.0, 100.0)?;
    ratio("retries.funds_ratio", law_.funds_ratio)?;
    ratio("retries.other_business_ratio", law_.other_business_ratio)?;
    ratio("retries.technical_ratio", law_.technical_ratio)?;
    law("retries.delay_minutes", &law_.delay_minutes, 1e-3, 1e5)?;
    law("retries.technical_delay_minutes", &law_.technical_delay_minutes, 1e-3, 1e5)?;
    ratio("retries.campaign_factor", law_.campaign_factor)?;
    ratio("retries.smaller_ratio", law_.smaller_ratio)?;
    let [low, high] = law_.smaller_factor;
    range("retries.smaller_factor[1]", high, 1e-3, 1.0)?;
    range("retries.smaller_factor[0]", low, 1e-3, high)
}

fn participants(world: &World) -> Checked {
    let count = world.participants.len();
    range("number of participants", count as f64, 1.0, 64.0)?;
    for (name, of) in &world.participants {
        participant(&format!("participants.{name}"), of)?;
    }
    for (name, route) in &world.routes {
        let key = format!("routes.{name}");
        require(&key, name, !world.participants.contains_key(name), "no participant's name")?;
        weights(&format!("{key}.members"), route.members.values().copied())?;
        for member in route.members.keys() {
            let known = world.participants.contains_key(member);
            require(&format!("{key}.members"), member, known, "a name of [participants]")?;
        }
    }
    Ok(())
}

fn participant(key: &str, of: &ParticipantLaw) -> Checked {
    let key = |field: &str| format!("{key}.{field}");
    law(&key("body_ms"), &of.body_ms, 1e-3, 1e6)?;
    ratio(&key("tail_ratio"), of.tail_ratio)?;
    law(&key("tail_factor"), &of.tail_factor, 1.0, 1e4)?;
    range(&key("queue_slope"), of.queue_slope, 0.0, 10.0)?;
    wander(&key("wander"), &of.wander)?;
    range(&key("in_flight_mean"), of.in_flight_mean, 1e-3, 1e6)?;
    ratio(&key("error_ratio"), of.error_ratio)?;
    range(&key("outages_per_30_days"), of.outages_per_30_days, 0.0, 1e4)?;
    law(&key("outage_minutes"), &of.outage_minutes, 1e-2, 1e5)?;
    ratio(&key("outage_failing_share"), of.outage_failing_share)?;
    law(&key("outage_slow_factor"), &of.outage_slow_factor, 1.0, 1e4)?;
    ratio(&key("outage_error_ratio"), of.outage_error_ratio)?;
    ratio(&key("outage_silent_ratio"), of.outage_silent_ratio)?;
    let sum = of.outage_error_ratio + of.outage_silent_ratio;
    range(&key("outage_error_ratio + outage_silent_ratio"), sum, 0.0, 1.0)
}

fn kinds(world: &World) -> Checked {
    weights("kinds.*.share", world.kinds.values().map(|of| of.share))?;
    for (name, of) in &world.kinds {
        kind(&format!("kinds.{name}"), of)?;
        let key = format!("kinds.{name}.participants");
        range(&key, of.participants.len() as f64, 1.0, 16.0)?;
        let mut seen: Vec<&str> = Vec::new();
        for participant in &of.participants {
            let members: Vec<&str> = match world.routes.get(participant) {
                Some(route) => {
                    route.members.keys().map(crate::txn::ParticipantName::as_str).collect()
                }
                None => vec![participant.as_str()],
            };
            let known =
                members.iter().all(|name| world.participants.keys().any(|p| p.as_str() == *name));
            require(&key, participant, known, "a name of [participants] or [routes]")?;
            let once = !members.iter().any(|name| seen.contains(name));
            require(&key, participant, once, "named once, also through routes")?;
            seen.extend(members);
        }
    }
    Ok(())
}

fn kind(key: &str, of: &KindLaw) -> Checked {
    let key = |field: &str| format!("{key}.{field}");
    for (name, weight) in &of.types {
        range(&key(&format!("types.{name}")), *weight, 0.0, 1e6)?;
    }
    if let Some([from, to]) = of.hours {
        range(&key("hours[0]"), f64::from(from), 0.0, 24.0)?;
        range(&key("hours[1]"), f64::from(to), 0.0, 24.0)?;
    }
    range(&key("outside_ratio"), of.outside_ratio, 0.0, 1e3)?;
    ratio(&key("outside_decline_ratio"), of.outside_decline_ratio)?;
    range(&key("amount_factor"), of.amount_factor, 1e-6, 1e6)?;
    minor(&key("minor_max"), of.minor_max)?;
    range(&key("minor_min"), of.minor_min as f64, 1.0, of.minor_max as f64)?;
    if let Some(limit) = of.limit_minor {
        minor(&key("limit_minor"), limit)?;
    }
    ratio(&key("over_limit_ratio"), of.over_limit_ratio)?;
    ratio(&key("cross_border_ratio"), of.cross_border_ratio)
}

fn places(world: &World) -> Checked {
    weights("places.*.weight", world.places.iter().map(|place| place.weight))?;
    for place in &world.places {
        range(&format!("places {:?} lat", place.name), place.lat, -89.0, 89.0)?;
        range(&format!("places {:?} lon", place.name), place.lon, -179.0, 179.0)?;
    }
    Ok(())
}

fn fraud(of: &FraudLaw, world: &World) -> Checked {
    law("fraud.labelled_days", &of.labelled_days, 1e-4, 365.0)?;
    range("fraud.genuine_label_days", of.genuine_label_days, 0.0, 365.0)?;
    ratio("fraud.never_labelled_ratio", of.never_labelled_ratio)?;
    weights("fraud.kinds", of.kinds.values().copied())?;
    for name in of.kinds.keys() {
        let known = world.kinds.contains_key(name);
        require("fraud.kinds", name, known, "a name of [kinds]")?;
    }
    let a = &of.compromised_counterparty;
    let b = &of.account_takeover;
    let c = &of.card_testing;
    let d = &of.impossible_travel;
    let e = &of.mule_ring;
    for (name, share, purity, amount_factor, decline_ratio) in [
        ("compromised_counterparty", a.share, a.purity, a.amount_factor, a.decline_ratio),
        ("account_takeover", b.share, b.purity, b.amount_factor, b.decline_ratio),
        ("card_testing", c.share, c.purity, c.amount_factor, c.decline_ratio),
        ("impossible_travel", d.share, d.purity, d.amount_factor, d.decline_ratio),
        ("mule_ring", e.share, e.purity, e.amount_factor, e.decline_ratio),
    ] {
        let key = |field: &str| format!("fraud.{name}.{field}");
        range(&key("share"), share, 0.0, 0.1)?;
        range(&key("purity"), purity, 0.05, 1.0)?;
        law(&key("amount_factor"), &amount_factor, 1e-6, 1e6)?;
        ratio(&key("decline_ratio"), decline_ratio)?;
    }
    for (name, rows, duration_hours) in [
        ("compromised_counterparty", a.rows, a.duration_hours),
        ("account_takeover", b.rows, b.duration_hours),
        ("card_testing", c.rows, c.duration_hours),
        ("mule_ring", e.rows, e.duration_hours),
    ] {
        ordered(&format!("fraud.{name}.rows"), rows, 1, 10_000)?;
        law(&format!("fraud.{name}.duration_hours"), &duration_hours, 1e-4, 1e4)?;
    }
    ratio("fraud.account_takeover.elsewhere_ratio", b.elsewhere_ratio)?;
    law("fraud.card_testing.large_factor", &c.large_factor, 1e-6, 1e6)?;
    law("fraud.impossible_travel.gap_minutes", &d.gap_minutes, 1e-3, 1e5)?;
    let distance = d.distance_degrees_min;
    range("fraud.impossible_travel.distance_degrees_min", distance, 0.0, 180.0)?;
    ordered("fraud.mule_ring.members", e.members, 1, 1_000)?;
    minor("fraud.mule_ring.round_minor", e.round_minor)?;
    range("fraud.insider.share", of.insider.share, 0.0, 0.1)
}

fn require(key: &str, value: impl Display, holds: bool, limit: &str) -> Checked {
    if holds {
        return Ok(());
    }
    Err(WorldError::Range {
        key: key.to_owned(),
        value: value.to_string(),
        limit: limit.to_owned(),
    })
}

fn range(key: &str, value: f64, min: f64, max: f64) -> Checked {
    require(key, value, (min..=max).contains(&value), &format!("between {min} and {max}"))
}

fn ratio(key: &str, value: f64) -> Checked {
    range(key, value, 0.0, 1.0)
}

fn minor(key: &str, value: i64) -> Checked {
    require(key, value, (1..=MINOR_MAX).contains(&value), &format!("between 1 and {MINOR_MAX}"))
}

fn law(key: &str, of: &LogNormalLaw, min: f64, max: f64) -> Checked {
    range(&format!("{key}.median"), of.median, min, max)?;
    range(&format!("{key}.log_sigma"), of.log_sigma, 0.0, 4.0)
}

fn wander(key: &str, of: &WanderLaw) -> Checked {
    range(&format!("{key}.sd"), of.sd, 0.0, 5.0)?;
    range(&format!("{key}.half_life_hours"), of.half_life_hours, 1e-3, 1e5)
}

fn ordered(key: &str, [low, high]: [u32; 2], min: u32, max: u32) -> Checked {
    range(&format!("{key}[1]"), f64::from(high), f64::from(min), f64::from(max))?;
    range(&format!("{key}[0]"), f64::from(low), f64::from(min), f64::from(high))
}

fn weights(key: &str, values: impl Iterator<Item = f64>) -> Checked {
    let mut sum = 0.0;
    for value in values {
        range(key, value, 0.0, 1e9)?;
        sum += value;
    }
    require(&format!("sum of {key}"), sum, sum > 0.0, "above 0")
}

fn prefix(key: &str, value: &str) -> Checked {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    require(key, value, plain && (1..=32).contains(&value.len()), "1 to 32 letters, digits, -_.:")
}
