//! JSON parameters as the server takes them, checked by kind.
//!
//! MariaDB does not say which types a statement's parameters have, so a value travels as its JSON
//! kind says and the server, in strict mode, judges it: a value that does not fit its column is an
//! error there, never a silent change. Whole numbers stay whole: money is counted in minor units.

use std::fmt::Write;

use mysql_async::Value;
use serde_json::Value as Json;

/// `Err` says what is wrong with the value, without its name.
pub(super) fn value(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::NULL,
        Json::Bool(yes) => Value::Int(i64::from(*yes)),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => Value::Int(whole),
            (None, Some(whole), _) => Value::UInt(whole),
            (None, None, Some(float)) if float.is_finite() => Value::Double(float),
            _ => return Err(format!("is {number}, which no number of the database holds")),
        },
        Json::String(text) => Value::Bytes(text.clone().into_bytes()),
        Json::Array(_) | Json::Object(_) => Value::Bytes(json.to_string().into_bytes()),
    })
}

/// A value as it stands in SQL, of digits and signs alone. It means the same as the value sent
/// apart from the SQL.
pub(super) fn literal(value: &Value) -> String {
    match value {
        Value::Int(whole) => whole.to_string(),
        Value::UInt(whole) => whole.to_string(),
        // With an exponent it is no decimal.
        Value::Double(float) => format!("{float:e}"),
        Value::Bytes(text) => {
            let mut literal = String::with_capacity(text.len() * 2 + 12);
            literal.push_str("_utf8mb4 X'");
            for byte in text {
                let _ = write!(literal, "{byte:02x}");
            }
            literal.push('\'');
            literal
        }
        // Of no JSON value.
        _ => "NULL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_travel_as_their_kind_says() {
        for (json, expected) in [
            (json!(null), Value::NULL),
            (json!(true), Value::Int(1)),
            (json!(-5), Value::Int(-5)),
            (json!(i64::MAX), Value::Int(i64::MAX)),
            (json!(u64::MAX), Value::UInt(u64::MAX)),
            (json!(1.5), Value::Double(1.5)),
            (json!("5"), Value::Bytes(b"5".to_vec())),
            (json!({"a": [1]}), Value::Bytes(b"{\"a\":[1]}".to_vec())),
        ] {
            assert_eq!(value(&json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn no_literal_is_anything_but_a_value() {
        for (json, expected) in [
            (json!(null), "NULL"),
            (json!(i64::MIN), "-9223372036854775808"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(1.5), "1.5e0"),
            (json!(-1e300), "-1e300"),
            (json!(""), "_utf8mb4 X''"),
            (json!("'; é"), "_utf8mb4 X'273b20c3a9'"),
        ] {
            assert_eq!(value(&json).map(|value| literal(&value)), Ok(expected.to_owned()));
        }
    }
}
