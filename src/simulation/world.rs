//! The world file: every law and magnitude of a generated history, as TOML.
//!
//! Unknown keys are refused, ranges checked with key, value and limit (see `check.rs`). What each
//! key means stands beside it in the commented default, [`DEFAULT_WORLD`].

use std::collections::BTreeMap;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

pub use super::laws::{LogNormalLaw, WanderLaw};
use super::{check, participants};
use crate::txn::{Currency, CustomerType, Kind, ParticipantName};

/// The world that ships, with a comment on every key.
pub const DEFAULT_WORLD: &str = include_str!("worlds/default.toml");

/// Longest world file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A world that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The file could not be read.
    #[error("world file {path}: {detail}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        detail: String,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("world file {path}: {detail}")]
    Parse {
        /// Which file.
        path: String,
        /// Line, column and reason.
        detail: String,
    },
    /// A value outside its range.
    #[error("world: {key} is {value}, it must be {limit}")]
    Range {
        /// The key, with dots.
        key: String,
        /// What was read.
        value: String,
        /// What would have been right.
        limit: String,
    },
}

/// Everything that a history is drawn from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is described where it is set, in the default world")]
pub struct World {
    pub format: u32,
    pub currency: Currency,
    pub utc_offset_minutes: i32,
    pub traffic: TrafficLaw,
    pub load: LoadLaw,
    pub customers: CustomersLaw,
    pub funds: FundsLaw,
    pub counterparties: CounterpartiesLaw,
    pub declines: DeclinesLaw,
    pub retries: RetriesLaw,
    pub kinds: BTreeMap<Kind, KindLaw>,
    #[serde(default)]
    pub routes: BTreeMap<ParticipantName, RouteLaw>,
    pub participants: BTreeMap<ParticipantName, ParticipantLaw>,
    pub coordinator: CoordinatorLaw,
    pub places: Vec<PlaceLaw>,
    pub fraud: FraudLaw,
}

impl World {
    /// The world that ships.
    pub fn shipped() -> Self {
        Self::parse(DEFAULT_WORLD, "default").expect("the shipped world is tested")
    }

    /// Reads and checks a world file of at most 1 MiB.
    pub fn read(path: &Path) -> Result<Self, WorldError> {
        let name = path.display().to_string();
        let fail = |detail: String| WorldError::Read { path: name.clone(), detail };
        let bytes = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(fail(format!("{bytes} bytes, at most {FILE_BYTES_MAX} are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text, &name)
    }

    /// Parses and checks a world; `path` names it in errors.
    pub fn parse(text: &str, path: &str) -> Result<Self, WorldError> {
        let world: Self = toml::from_str(text).map_err(|error| WorldError::Parse {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        check::world(&world)?;
        Ok(world)
    }

    /// Draws how long a participant takes to prepare, in milliseconds, at a load (0 to 1, above
    /// when overloaded), in a slow outage or not. `None` for a participant the world has not.
    pub fn latency_ms(
        &self,
        participant: &str,
        load: f64,
        outage: bool,
        rng: &mut ChaCha8Rng,
    ) -> Option<f64> {
        let (_, law) = self.participants.iter().find(|(name, _)| name.as_str() == participant)?;
        Some(participants::free_latency_ms(law, load / self.load.base, outage, rng))
    }
}

macro_rules! laws {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),+ $(,)? })+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs, reason = "each key is described in the default world")]
        pub struct $name { $(pub $field: $type),+ }
    )+ };
}

laws! {
    /// When payments come.
    TrafficLaw { hours: [f64; 24], weekdays: [f64; 7] }

    /// The system's load.
    LoadLaw { base: f64, slope: f64, floor: f64, noise: WanderLaw }

    /// Who pays, where and when.
    CustomersLaw {
        id_prefix: String,
        activity_log_sigma: f64,
        account_age_days: LogNormalLaw,
        new_share: f64,
        new_age_days: LogNormalLaw,
        opened_during_share: f64,
        usual_counterparties: [u32; 2],
        usual_zipf: f64,
        new_counterparty_ratio: f64,
        location_missing_ratio: f64,
        home_scatter_degrees: f64,
        location_scatter_degrees: f64,
        hour_centre: NormalLaw,
        hour_width: f64,
        hour_floor: f64,
        trips_per_30_days: f64,
        trip_days: LogNormalLaw,
        trip_gap_hours_min: f64,
        abroad_cross_border_ratio: f64,
        types: BTreeMap<CustomerType, CustomerTypeLaw>,
    }

    /// A normal law.
    NormalLaw { mean: f64, sd: f64 }

    /// One customer type.
    CustomerTypeLaw {
        share: f64,
        activity: f64,
        amount_minor: LogNormalLaw,
        amount_log_sigma: f64,
        amount_round_minor: Vec<i64>,
        cushion: LogNormalLaw,
    }

    /// Hidden funds.
    FundsLaw {
        sharpness: f64,
        salary_days: Vec<u32>,
        cycle_drop: f64,
        cycle_power: f64,
        wander: WanderLaw,
        spend_impact: f64,
        spend_reference_per_day: f64,
        salary_relief: f64,
    }

    /// Who is paid.
    CounterpartiesLaw {
        id_prefix: String,
        per_customer: f64,
        count_min: u32,
        zipf: f64,
        decline_ratio: LogNormalLaw,
        bad_share: f64,
        safe_top: u32,
        bad_spell_days: f64,
        good_spell_days: f64,
        bad_decline_ratio: [f64; 2],
    }

    /// Declines that neither funds nor the counterparty explain.
    DeclinesLaw {
        customer_ratio: LogNormalLaw,
        new_account_days: f64,
        new_account_ratio: f64,
        cross_border_ratio: f64,
        abroad_ratio: f64,
    }

    /// What follows a failure.
    RetriesLaw {
        attempts_max: u32,
        funds_ratio: f64,
        other_business_ratio: f64,
        technical_ratio: f64,
        delay_minutes: LogNormalLaw,
        technical_delay_minutes: LogNormalLaw,
        campaign_factor: f64,
        smaller_ratio: f64,
        smaller_factor: [f64; 2],
    }

    /// The members of a route and their weights.
    RouteLaw { members: BTreeMap<ParticipantName, f64> }

    /// One participant.
    ParticipantLaw {
        body_ms: LogNormalLaw,
        tail_ratio: f64,
        tail_factor: LogNormalLaw,
        queue_slope: f64,
        wander: WanderLaw,
        in_flight_mean: f64,
        error_ratio: f64,
        outages_per_30_days: f64,
        outage_minutes: LogNormalLaw,
        outage_failing_share: f64,
        outage_slow_factor: LogNormalLaw,
        outage_error_ratio: f64,
        outage_silent_ratio: f64,
    }

    /// What the recorded coordinator did.
    CoordinatorLaw {
        timeout_ms: f64,
        decision_ms: LogNormalLaw,
        late_heard_ratio: f64,
        late_heard_ms_max: f64,
        health_half_life_minutes: f64,
        health_noise: f64,
    }

    /// Fraud and its labels.
    FraudLaw {
        labelled_days: LogNormalLaw,
        genuine_label_days: f64,
        never_labelled_ratio: f64,
        kinds: BTreeMap<Kind, f64>,
        compromised_counterparty: CampaignLaw,
        account_takeover: TakeoverLaw,
        card_testing: CardTestingLaw,
        impossible_travel: TravelLaw,
        mule_ring: MuleRingLaw,
        insider: InsiderLaw,
    }

    /// Strangers' accounts pay a leaky payee.
    CampaignLaw {
        share: f64,
        purity: f64,
        rows: [u32; 2],
        duration_hours: LogNormalLaw,
        amount_factor: LogNormalLaw,
        decline_ratio: f64,
    }

    /// Large amounts to new payees.
    TakeoverLaw {
        share: f64,
        purity: f64,
        rows: [u32; 2],
        duration_hours: LogNormalLaw,
        amount_factor: LogNormalLaw,
        decline_ratio: f64,
        elsewhere_ratio: f64,
    }

    /// Small amounts, then a large one.
    CardTestingLaw {
        share: f64,
        purity: f64,
        rows: [u32; 2],
        duration_hours: LogNormalLaw,
        amount_factor: LogNormalLaw,
        large_factor: LogNormalLaw,
        decline_ratio: f64,
    }

    /// Too far, too soon.
    TravelLaw {
        share: f64,
        purity: f64,
        gap_minutes: LogNormalLaw,
        amount_factor: LogNormalLaw,
        distance_degrees_min: f64,
        decline_ratio: f64,
    }

    /// Payees that collect.
    MuleRingLaw {
        share: f64,
        purity: f64,
        rows: [u32; 2],
        members: [u32; 2],
        duration_hours: LogNormalLaw,
        amount_factor: LogNormalLaw,
        round_minor: i64,
        decline_ratio: f64,
    }

    /// Nothing to see.
    InsiderLaw { share: f64 }
}

/// One kind of payment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is described in the default world")]
pub struct KindLaw {
    pub share: f64,
    #[serde(default)]
    pub types: BTreeMap<CustomerType, f64>,
    #[serde(default)]
    pub hours: Option<[u32; 2]>,
    #[serde(default = "one")]
    pub outside_ratio: f64,
    #[serde(default)]
    pub outside_decline_ratio: f64,
    pub amount_factor: f64,
    pub minor_min: i64,
    pub minor_max: i64,
    #[serde(default)]
    pub limit_minor: Option<i64>,
    #[serde(default)]
    pub over_limit_ratio: f64,
    pub cross_border_ratio: f64,
    pub requires_consistency: bool,
    pub participants: Vec<ParticipantName>,
}

fn one() -> f64 {
    1.0
}

impl KindLaw {
    /// Whether a local hour lies in the kind's own hours; they may pass midnight.
    pub(super) fn is_open(&self, hour: u32) -> bool {
        match self.hours {
            None => true,
            Some([from, to]) if from <= to => (from..to).contains(&hour),
            Some([from, to]) => hour >= from || hour < to,
        }
    }
}

/// A place where customers live and travel to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is described in the default world")]
pub struct PlaceLaw {
    pub name: String,
    pub lat: f64,
    pub lon: f64,
    pub weight: f64,
    #[serde(default)]
    pub abroad: bool,
}
