//! The catalogue, its fingerprints, the calendar.

use std::collections::HashSet;

use jiff::civil::date;

use super::histories::state;
use crate::features::calendar::LocalTime;
use crate::features::{
    Calendar, CalendarPart, Error, Feature, Options, Replay, State, leg_features, txn_features,
};
use crate::txn::Timestamp;

fn all() -> impl Iterator<Item = &'static Feature> {
    txn_features().iter().chain(leg_features())
}

#[test]
fn state_and_replay_can_move_between_threads() {
    fn check<T: Send>() {}
    check::<State>();
    check::<Replay>();
}

#[test]
fn names_are_unique_and_every_feature_is_described() {
    let names: HashSet<_> = all().map(|feature| feature.name).collect();
    assert_eq!(names.len(), all().count());
    for feature in all() {
        assert!(!feature.unit.is_empty() && feature.meaning.len() > 5, "{}", feature.name);
        assert!(feature.definition >= 1, "{}", feature.name);
    }
    let json = serde_json::to_value(&txn_features()[0]).unwrap();
    assert_eq!((&json["name"], &json["definition"]), (&"amount_log".into(), &1.into()));
}

#[test]
fn a_fingerprint_changes_with_any_part_of_the_definition() {
    let calendar = Calendar::default();
    let mut seen: HashSet<String> = all().map(|feature| feature.fingerprint(&calendar)).collect();
    assert_eq!(seen.len(), all().count(), "fingerprints of the catalogue are unique");
    let feature = txn_features()[0].clone();
    let variants = [
        Feature { name: "amount_lo", unit: "gln minor units", ..feature.clone() },
        Feature { name: "other", ..feature.clone() },
        Feature { unit: "other", ..feature.clone() },
        Feature { window: "1 d", ..feature.clone() },
        Feature { default: f32::NAN, ..feature.clone() },
        Feature { default: 1.0, ..feature.clone() },
        Feature { definition: 2, ..feature.clone() },
        Feature { calendar: CalendarPart::TimeZone, ..feature.clone() },
    ];
    for variant in variants {
        let fingerprint = variant.fingerprint(&calendar);
        assert!(fingerprint.len() == 16 && u64::from_str_radix(&fingerprint, 16).is_ok());
        assert!(seen.insert(fingerprint), "{variant:?}");
    }
    let prose = Feature { meaning: "said differently", ..feature.clone() };
    assert_eq!(prose.fingerprint(&calendar), feature.fingerprint(&calendar));
}

#[test]
fn a_calendar_changes_the_fingerprints_of_what_depends_on_it_and_of_nothing_else() {
    let changed = |calendar: &Calendar| -> Vec<CalendarPart> {
        let before = Calendar::default();
        let differs = |f: &&Feature| f.fingerprint(&before) != f.fingerprint(calendar);
        let mut parts: Vec<_> = all().filter(differs).map(|feature| feature.calendar).collect();
        parts.dedup();
        parts
    };
    let base = Calendar::default();
    let zone = Calendar { time_zone: "Europe/Berlin".into(), ..base.clone() };
    assert_eq!(all().filter(|f| f.calendar != CalendarPart::None).count(), {
        let moved = |f: &&Feature| f.fingerprint(&base) != f.fingerprint(&zone);
        all().filter(moved).count()
    });
    let holidays = Calendar { holidays: vec![date(2026, 1, 26)], ..base.clone() };
    assert_eq!(changed(&holidays), [CalendarPart::Holidays]);
    let peaks = Calendar { peak_hours: vec![[9, 12], [14, 16]], ..base.clone() };
    assert_eq!(changed(&peaks), [CalendarPart::PeakHours]);
    let same = Calendar { peak_hours: vec![[14, 16], [10, 11], [11, 12]], ..base };
    assert_eq!(changed(&same), []);
}

#[test]
fn local_time_agrees_with_the_time_zone_database() {
    for time_zone in ["Asia/Kolkata", "America/New_York", "Australia/Lord_Howe", "UTC"] {
        let zone = jiff::tz::TimeZone::get(time_zone).unwrap();
        let holidays = vec![date(2026, 3, 8), date(1899, 7, 1)];
        let calendar = Calendar { time_zone: time_zone.into(), holidays, ..Calendar::default() };
        let local_time = LocalTime::new(calendar.clone()).unwrap();
        let step = 86_400_000_000 * 13 + 7_201_000_001;
        let edges = [i64::MIN, i64::MAX, -2_208_988_800_000_000, 7_258_118_400_000_000];
        let years_1880_to_2210 = (-2_840_000_000_000_000..7_570_000_000_000_000).step_by(step);
        // Around the spring transition of 2026 in New York, which is a holiday here.
        let closely = (1_772_900_000_000_000..1_773_000_000_000_000).step_by(1_800_000_000);
        for micros in years_1880_to_2210.chain(closely).chain(edges) {
            let now = Timestamp::from_micros(micros);
            let expected = now.to_jiff().to_zoned(zone.clone());
            let local = local_time.at(now);
            let time = expected.time();
            let hour = f64::from(time.hour())
                + f64::from(time.minute()) / 60.0
                + f64::from(time.second()) / 3_600.0;
            assert!((local.hour - hour).abs() < 1e-9, "{now} in {time_zone}: {local:?}");
            assert_eq!(
                i8::try_from(local.weekday).unwrap(),
                expected.weekday().to_monday_zero_offset(),
                "{now} in {time_zone}"
            );
            assert_eq!(local.holiday, calendar.holidays.contains(&expected.date()), "{now}");
            assert_eq!(local.peak, [10, 11, 14, 15].contains(&time.hour()), "{now}");
            assert_eq!(local.weekend, local.weekday >= 5);
        }
    }
}

#[test]
fn options_out_of_range_are_refused_with_value_and_limit() {
    let check = |options: Options, part: &str| {
        let error = State::new(options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let calendar = |time_zone: &str, peak| Options {
        calendar: Calendar {
            time_zone: time_zone.into(),
            peak_hours: vec![peak],
            ..Calendar::default()
        },
        ..Options::default()
    };
    check(calendar("Mars/Olympus", [1, 2]), "Mars/Olympus");
    check(calendar("UTC", [12, 12]), "12 to 12");
    check(calendar("UTC", [22, 25]), "22 to 25");
    let none = Options { customers_max: 0, ..Options::default() };
    check(none, "customers_max is 0, allowed are 1 to 100000000");
    let many = Options { participants_max: usize::MAX, ..Options::default() };
    assert!(matches!(State::new(many), Err(Error::Limit { option: "participants_max", .. })));
    let refused = toml::from_str::<Options>("[calendar]\nzone = \"UTC\"");
    assert!(refused.is_err());
    assert_eq!(toml::from_str::<Options>("").unwrap(), Options::default());
    assert_eq!(state().calendar(), &Calendar::default());
}
