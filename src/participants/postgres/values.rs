//! JSON parameters as the types that the statements were prepared with.
//!
//! Values travel in text form, so that the server's own input functions read them; what JSON kind
//! fits which type is checked here first, to refuse a request before anything starts.

use std::error::Error;

use bytes::BytesMut;
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

/// A parameter, checked against its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter(Option<String>);

impl Parameter {
    /// `Err` says what is wrong with the value, without its name.
    pub(super) fn new(value: &Value, r#type: &Type) -> Result<Self, String> {
        let text = match value {
            Value::Null => return Ok(Self(None)),
            Value::Bool(yes) if *r#type == Type::BOOL => yes.to_string(),
            Value::Number(number) if is_integer(r#type) => {
                let whole = number.as_i64().filter(|whole| fits(*whole, r#type));
                whole
                    .ok_or_else(|| format!("is {number}, not within {}", r#type.name()))?
                    .to_string()
            }
            Value::Number(number) if is_decimal(r#type) => number.to_string(),
            Value::String(text) if !is_integer(r#type) && *r#type != Type::BOOL => {
                if text.contains('\0') {
                    return Err("holds a zero byte".to_owned());
                }
                text.clone()
            }
            Value::Array(_) | Value::Object(_) if is_json(r#type) => value.to_string(),
            other => {
                return Err(format!("is {other}, the database wants {}", r#type.name()));
            }
        };
        Ok(Self(Some(text)))
    }
}

fn is_integer(r#type: &Type) -> bool {
    [Type::INT2, Type::INT4, Type::INT8].contains(r#type)
}

fn fits(whole: i64, r#type: &Type) -> bool {
    match *r#type {
        Type::INT2 => i16::try_from(whole).is_ok(),
        Type::INT4 => i32::try_from(whole).is_ok(),
        _ => true,
    }
}

fn is_decimal(r#type: &Type) -> bool {
    [Type::NUMERIC, Type::FLOAT4, Type::FLOAT8].contains(r#type)
}

fn is_json(r#type: &Type) -> bool {
    [Type::JSON, Type::JSONB].contains(r#type)
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_fit_their_types_or_are_refused_with_value_and_type() {
        for (value, r#type, expected) in [
            (json!(5), Type::INT8, Ok(Some("5"))),
            (json!(70_000), Type::INT2, Err("is 70000, not within int2")),
            (json!(1.5), Type::INT8, Err("is 1.5, not within int8")),
            (json!("5"), Type::INT8, Err("is \"5\", the database wants int8")),
            (json!(1.5), Type::NUMERIC, Ok(Some("1.5"))),
            (json!("12.30"), Type::NUMERIC, Ok(Some("12.30"))),
            (json!("x"), Type::TEXT, Ok(Some("x"))),
            (json!("x\0"), Type::TEXT, Err("holds a zero byte")),
            (json!(5), Type::TEXT, Err("is 5, the database wants text")),
            (json!(true), Type::BOOL, Ok(Some("true"))),
            (json!("true"), Type::BOOL, Err("is \"true\", the database wants bool")),
            (json!(null), Type::BOOL, Ok(None)),
            (json!({"a": 1}), Type::JSONB, Ok(Some("{\"a\":1}"))),
            (json!([1]), Type::TEXT, Err("is [1], the database wants text")),
        ] {
            let found = Parameter::new(&value, &r#type);
            let expected = expected.map(|text| Parameter(text.map(str::to_owned)));
            assert_eq!(found, expected.map_err(str::to_owned), "{value} as {type}");
        }
    }
}
