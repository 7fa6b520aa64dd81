//! Numbers and instants as a reader wants them.

use crate::learning::metrics::bootstrap::Interval;
use crate::txn::Timestamp;

/// What stands where there is no value.
pub const NONE: &str = "–";

/// How a number is shown.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    /// With so many decimals.
    Plain(usize),
    /// As a percentage with so many decimals.
    Percent(usize),
    /// Milliseconds, without decimals from 100 up.
    Milliseconds,
}

/// A number, with a true minus sign.
pub fn number(value: f64, unit: Unit) -> String {
    let text = match unit {
        Unit::Plain(decimals) => format!("{value:.decimals$}"),
        Unit::Percent(decimals) => format!("{:.decimals$} %", 100.0 * value),
        Unit::Milliseconds if value.abs() >= 1_000.0 => count(value.round() as i64),
        Unit::Milliseconds if value.abs() >= 100.0 => format!("{value:.0}"),
        Unit::Milliseconds => format!("{value:.1}"),
    };
    text.replace('-', "−")
}

/// A number or a dash.
pub fn maybe(value: Option<f64>, unit: Unit) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| number(value, unit))
}

/// An interval, its unit said once.
pub fn interval(ci: Option<Interval>, unit: Unit) -> Option<String> {
    let [low, high] = ci?;
    // A dash between two numbers would read as a minus where one is negative.
    let between = if low < 0.0 { " to " } else { "–" };
    let low = number(low, unit).trim_end_matches(" %").to_owned();
    Some(format!("{low}{between}{}", number(high, unit)))
}

/// A count with thousands separators.
pub fn count(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("−{text}") } else { text }
}

/// A count with thousands separators.
pub fn size(value: usize) -> String {
    count(i64::try_from(value).unwrap_or(i64::MAX))
}

/// An amount of minor units in whole major units, two decimals assumed.
pub fn amount(minor: i64, currency: &str) -> String {
    format!("{currency} {}", count(minor / 100))
}

/// A span of milliseconds as a person says it.
pub fn span(ms: f64) -> String {
    let s = ms / 1e3;
    if s < 120.0 {
        format!("{s:.1} s")
    } else if s < 7_200.0 {
        format!("{:.0} min", s / 60.0)
    } else {
        format!("{:.1} h", s / 3_600.0)
    }
}

/// An instant to the minute.
pub fn instant(at: Timestamp) -> String {
    at.to_jiff().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A model's or baseline's name in words.
pub fn name(key: &str) -> String {
    match key {
        "champion" => "Champion".to_owned(),
        "majority" => "Majority (base rate)".to_owned(),
        "rules" => "Rules, tuned".to_owned(),
        "moving_average" => "Moving average, tuned".to_owned(),
        "static_5s" => "Static 5 s".to_owned(),
        "reference_rule" => "Reference rule".to_owned(),
        "sliding_p999" => "Sliding p99.9".to_owned(),
        "jacobson" => "Jacobson".to_owned(),
        "mean_plus_k_sd" => "Mean + k·sd, tuned".to_owned(),
        other => other.replace('_', " "),
    }
}
