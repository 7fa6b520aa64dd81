use std::time::Duration;

use super::*;

#[test]
fn gid_text_round_trips_and_is_short() {
    let gid = Gid {
        log: LogId(uuid::Uuid::from_u128(u128::MAX)),
        epoch: Epoch(u64::MAX),
        physical: PhysicalId(u64::MAX),
        branch: BranchIndex(u16::MAX),
    };
    let text = gid.to_string();
    assert!(text.len() <= 104, "{} bytes", text.len());
    assert_eq!(text.parse::<Gid>(), Ok(gid));
}

#[test]
fn malformed_gids_are_refused() {
    for text in ["", "presume", "other:0:0:0:0", "presume:x:0:0:0", "presume:00:1:2:3:4"] {
        assert!(text.parse::<Gid>().is_err(), "{text}");
    }
}

#[test]
fn ids_are_bounded_and_free_of_control_characters() {
    assert!(CustomerId::new("c1").is_ok());
    assert!(matches!(CustomerId::new(""), Err(IdError::Empty { .. })));
    assert!(matches!(CustomerId::new(&"x".repeat(129)), Err(IdError::TooLong { .. })));
    assert!(matches!(CustomerId::new("a\nb"), Err(IdError::Control { .. })));
}

#[test]
fn unknown_enum_values_name_the_field_the_value_and_the_choice() {
    let error = "CASH".parse::<Kind>().unwrap_err().to_string();
    assert!(error.contains("kind") && error.contains("CASH") && error.contains("UPI"), "{error}");
}

#[test]
fn timestamps_round_trip_to_the_microsecond() {
    for micros in [0, -1, 1_764_000_000_123_456, i64::MAX, i64::MIN] {
        let timestamp = Timestamp::from_micros(micros);
        assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
    }
    assert!("yesterday".parse::<Timestamp>().is_err());
    assert_eq!(
        "2021-04-01".parse::<Timestamp>().map(|t| t.to_string()),
        Ok("2021-04-01T00:00:00Z".into())
    );
}

#[test]
fn probability_refuses_nan_and_out_of_range() {
    assert!(Probability::new(f64::NAN).is_none());
    assert!(Probability::new(1.000_001).is_none());
    assert!(Probability::new(1.0).is_some());
}

#[test]
fn spans_are_read_as_people_write_them() {
    let day = Duration::from_hours(24);
    for (text, expected) in
        [("7d", 7 * day), ("36h", day * 3 / 2), ("1w", 7 * day), ("P2D", 2 * day)]
    {
        assert_eq!(span(text), Ok(expected), "{text}");
    }
    for text in ["", "d", "7", "soon", "-7d", "1mo", "99999999999999999999d"] {
        assert!(span(text).is_err(), "{text}");
    }
}
