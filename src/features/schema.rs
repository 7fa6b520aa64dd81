//! The catalogue of features: names, units, meanings, and a fingerprint of each.
//!
//! Models bind their inputs by name and fingerprint, so a feature can be added anywhere without
//! invalidating a model that doesn't use it. Whoever changes a formula raises `definition`.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Calendar, CalendarPart};

/// What one number means.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Feature {
    /// Its name, unique, stable.
    pub name: &'static str,
    /// Its unit; `1` for plain numbers and indicators.
    pub unit: &'static str,
    /// The fading window over which it looks back; `-` if it doesn't.
    pub window: &'static str,
    /// What stands for a value that cannot be known; NaN (JSON: null) where models should see that
    /// it is missing.
    pub default: f32,
    /// What it is, in a sentence.
    pub meaning: &'static str,
    /// Version of its formula.
    pub definition: u32,
    /// What of the calendar its value depends on.
    pub calendar: CalendarPart,
}

impl Feature {
    /// 16 hex digits of SHA-256 over everything that defines the value: name, unit, window,
    /// default, version, and the part of `calendar` that it depends on. The prose of `meaning` is
    /// not part of it.
    pub fn fingerprint(&self, calendar: &Calendar) -> String {
        let mut hash = Sha256::new();
        for text in [self.name, self.unit, self.window] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        // All NaNs are one default.
        let default = if self.default.is_nan() { f32::NAN } else { self.default };
        hash.update(default.to_bits().to_le_bytes());
        hash.update(self.definition.to_le_bytes());
        hash.update([self.calendar as u8]);
        calendar.digest(self.calendar, &mut hash);
        hex::encode(&hash.finalize()[..8])
    }
}

/// The features of a transaction, in the order of [`super::Features::txn`].
pub fn txn_features() -> &'static [Feature; TXN_WIDTH] {
    &TXN
}

/// The features of a branch, in the order of each of [`super::Features::legs`].
pub fn leg_features() -> &'static [Feature; LEG_WIDTH] {
    &LEG
}

macro_rules! catalogue {
    ($(#[$doc:meta])* $width:ident, $table:ident, $defaults:ident, $position:ident, [$(
        $variant:ident $name:literal $unit:literal $window:literal $default:tt $part:ident
        $definition:literal $meaning:literal
    )+]) => {
        $(#[$doc])*
        pub const $width: usize = [$($name),+].len();

        /// Positions by name, so that a formula cannot land in another's place.
        #[derive(Debug, Clone, Copy)]
        pub(super) enum $position { $($variant),+ }

        static $table: [Feature; $width] = [$(Feature {
            name: $name,
            unit: $unit,
            window: $window,
            default: catalogue!(@default $default),
            meaning: $meaning,
            definition: $definition,
            calendar: CalendarPart::$part,
        }),+];

        /// A vector of which nothing is known yet.
        pub(super) const $defaults: [f32; $width] = [$(catalogue!(@default $default)),+];
    };
    (@default nan) => { f32::NAN };
    (@default $value:tt) => { $value };
}

/// ln(1 + thirty days in seconds): as long ago as it gets.
const LONG_AGO: f32 = 14.767_941;
/// As log-odds.
const ONE_IN_A_HUNDRED: f32 = -4.595_12;

catalogue!(
    /// How many features a transaction has.
    TXN_WIDTH, TXN, TXN_DEFAULTS, Txn, [
    AmountLog "amount_log" "ln minor units" "-" 0.0 None 1
        "amount, ln(1 + minor units)"
    AmountDeviation "amount_deviation" "standard deviations" "90 d" 0.0 None 1
        "log amount against the customer's normal, after the mean of its kind is taken off both"
    AmountExcess "amount_excess" "standard deviations" "90 d" 0.0 None 1
        "how far amount_deviation is above 2, else 0"
    AmountRatio "amount_ratio" "ln ratio" "30 d" 0.0 None 1
        "amount over the customer's mean amount, as a logarithm"
    KindUpi "kind_upi" "1" "-" 0.0 None 1 "1 for UPI"
    KindImps "kind_imps" "1" "-" 0.0 None 1 "1 for IMPS"
    KindNeft "kind_neft" "1" "-" 0.0 None 1 "1 for NEFT"
    KindRtgs "kind_rtgs" "1" "-" 0.0 None 1 "1 for RTGS"
    KindLoan "kind_loan_disbursement" "1" "-" 0.0 None 1 "1 for a loan disbursement"
    KindPortfolio "kind_portfolio_update" "1" "-" 0.0 None 1
        "1 for a portfolio update; an internal transfer has 0 in all six"
    HourSin "hour_sin" "1" "-" 0.0 TimeZone 1 "sine of the local time of day"
    HourCos "hour_cos" "1" "-" 0.0 TimeZone 1 "cosine of the local time of day"
    WeekdaySin "weekday_sin" "1" "-" 0.0 TimeZone 1 "sine of the local day of the week"
    WeekdayCos "weekday_cos" "1" "-" 0.0 TimeZone 1 "cosine of the local day of the week"
    Weekend "weekend" "1" "-" 0.0 TimeZone 1 "1 on Saturday and Sunday"
    Holiday "holiday" "1" "-" 0.0 Holidays 1 "1 on a configured holiday"
    PeakHour "peak_hour" "1" "-" 0.0 PeakHours 1 "1 within configured peak hours"
    CustomerRegular "customer_regular" "1" "-" 0.0 None 1 "1 for a REGULAR customer"
    CustomerPremium "customer_premium" "1" "-" 0.0 None 1 "1 for a PREMIUM customer"
    CustomerCorporate "customer_corporate" "1" "-" 0.0 None 1
        "1 for a CORPORATE customer; RETAIL has 0 in all three"
    AccountAge "account_age" "ln days" "-" nan None 1
        "age of the account, ln(1 + days); NaN if unknown"
    CrossBorder "cross_border" "1" "-" 0.0 None 1 "1 if the payment crosses a border"
    RequiresConsistency "requires_consistency" "1" "-" 0.0 None 1
        "1 if all participants must agree at once"
    Retries "retries" "attempts" "-" 0.0 None 1 "attempts before this one, at most 10"
    Count1h "customer_count_1h" "ln payments" "1 h" 0.0 None 1
        "the customer's earlier payments, ln(1 + count)"
    Count1d "customer_count_1d" "ln payments" "1 d" 0.0 None 1
        "the customer's earlier payments, ln(1 + count)"
    Count7d "customer_count_7d" "ln payments" "7 d" 0.0 None 1
        "the customer's earlier payments, ln(1 + count)"
    Count30d "customer_count_30d" "ln payments" "30 d" 0.0 None 1
        "the customer's earlier payments, ln(1 + count)"
    SincePayment "since_payment" "ln seconds" "-" LONG_AGO None 1
        "time since the customer's last payment, ln(1 + s), at most 30 d"
    Amount1d "customer_amount_1d" "ln minor units" "1 d" 0.0 None 1
        "the customer's earlier payments and this one, ln(1 + sum of amounts)"
    Large3d "customer_large_3d" "ln payments" "3 d" 0.0 None 1
        "the customer's earlier payments with an amount_deviation above 2, ln(1 + count)"
    CounterpartyKnown "counterparty_known" "1" "-" 1.0 None 1
        "1 if the counterparty is among the last 24 that the customer paid (refused payments do \
         not count); 1 if there is none"
    NewCounterpartyExcess "new_counterparty_excess" "standard deviations" "90 d" 0.0 None 1
        "amount_deviation, if positive, of a payment to a counterparty not known"
    Counterparties7d "customer_counterparties_7d" "ln counterparties" "7 d" 0.0 None 1
        "distinct counterparties that the customer paid, ln(1 + count), plain window, at most 24"
    CustomerSuccess "customer_success" "log-odds" "30 d" 0.0 None 1
        "share of the customer's payments that succeeded, technical failures left out, drawn \
         towards segment_success by the weight of 3"
    Failures1h "customer_failures_1h" "ln payments" "1 h" 0.0 None 1
        "the customer's failed payments, ln(1 + count)"
    Failures1d "customer_failures_1d" "ln payments" "1 d" 0.0 None 1
        "the customer's failed payments, ln(1 + count)"
    SinceFailure "since_failure" "ln seconds" "-" LONG_AGO None 1
        "time since the customer's last failed payment, ln(1 + s), at most 30 d"
    DeclinedAmount "declined_amount" "1" "1 d" 0.0 None 1
        "exp(-age) of the customer's last decline if this amount is no smaller, its negative if \
         it is smaller"
    CustomerFrauds "customer_frauds_30d" "ln labels" "30 d" 0.0 None 1
        "fraud labels of the customer's payments, since they became known, ln(1 + count)"
    CounterpartyCount "counterparty_count_7d" "ln payments" "7 d" 0.0 None 1
        "earlier payments to the counterparty, ln(1 + count)"
    CounterpartySuccess "counterparty_success" "log-odds" "3 d" 0.0 None 1
        "share of payments to the counterparty that succeeded, drawn towards that of all \
         payments by the weight of 5; the latter if there is no counterparty"
    CounterpartyFraud "counterparty_fraud_share" "log-odds" "30 d" 0.0 None 1
        "share of fraud among labels of payments to the counterparty, since they became known, \
         drawn towards that of all labels by the weight of 5"
    CounterpartyFrauds "counterparty_frauds_7d" "ln labels" "7 d" 0.0 None 1
        "fraud labels of payments to the counterparty, since they became known, ln(1 + count)"
    Distance "distance" "ln km" "-" nan None 1
        "from the place of the customer's last located payment, ln(1 + km); NaN if unknown"
    Speed "speed" "ln km/h" "-" nan None 1
        "distance over the time since then (a minute at least), ln(1 + km/h); NaN if unknown"
    SystemLoad "system_load" "1" "-" nan None 1
        "system load ratio when submitted, at most 10; NaN if unknown"
    Participants "participants" "participants" "-" 0.0 None 1 "how many participants it needs"
    HealthWorst "health_worst" "1" "-" 1.0 None 1
        "lowest health among its participants, 0 to 1"
    InFlightMost "in_flight_most" "ln branches" "-" 0.0 None 1
        "most branches in flight among its participants, ln(1 + count)"
    LatencyMost "latency_most" "ln ms" "10 min" nan None 1
        "largest latency_recent among its participants; NaN if none is known"
    RefusedMost "refused_most" "log-odds" "10 min" ONE_IN_A_HUNDRED None 1
        "largest refused_recent among its participants"
    TechnicalMost "technical_most" "log-odds" "10 min" ONE_IN_A_HUNDRED None 1
        "largest share of technically failed payments among those of one of its participants, \
         drawn towards that of a day by the weight of 1"
    KindTechnical "kind_technical" "log-odds" "10 min" ONE_IN_A_HUNDRED None 1
        "share of technically failed payments of its kind, drawn towards that of a day by the \
         weight of 1"
    SegmentSuccess "segment_success" "log-odds" "7 d" 0.0 None 1
        "share of payments of its kind and customer type that succeeded, drawn towards that of \
         all payments by the weight of 20"
]);

catalogue!(
    /// How many features a branch has.
    LEG_WIDTH, LEG, LEG_DEFAULTS, Leg, [
    LatencyRecent "latency_recent" "ln ms" "10 min" nan None 1
        "mean log latency of the participant lately, drawn towards latency_day by the weight of \
         1; NaN before its first latency"
    LatencyDay "latency_day" "ln ms" "1 d" nan None 1
        "mean log latency of the participant; NaN before its first latency"
    LatencySpread "latency_spread" "ln ms" "1 d" nan None 1
        "standard deviation of its log latency; NaN before its first latency"
    InFlight "leg_in_flight" "ln branches" "-" 0.0 None 1
        "branches in flight at the participant, ln(1 + count)"
    InFlightExcess "leg_in_flight_excess" "ln branches" "1 d" 0.0 None 1
        "leg_in_flight less its mean at this participant"
    Health "leg_health" "1" "-" 1.0 None 1 "health of the participant, 0 to 1"
    Refused "refused_recent" "log-odds" "10 min" ONE_IN_A_HUNDRED None 1
        "share of the participant's votes that were no or never came, drawn towards that of a \
         day by the weight of 1"
    Load "leg_system_load" "1" "-" nan None 1
        "system load ratio when submitted, at most 10; NaN if unknown"
    Peak "leg_peak_hour" "1" "-" 0.0 PeakHours 1 "1 within configured peak hours"
    Amount "leg_amount_log" "ln minor units" "-" 0.0 None 1
        "amount of the payment, ln(1 + minor units)"
]);
