//! JSON parameters as the types that the statements were prepared with.
//!
//! Values travel in text form, so that the server's own input functions read them; what JSON kind
//! fits which type is checked here first, to refuse a request before anything starts.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write;

use bytes::BytesMut;
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

/// A parameter, checked against its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter(Option<String>);

impl Parameter {
    /// `Err` says what is wrong with the value, without its name.
    pub(super) fn new(value: &Value, r#type: &Type) -> Result<Self, String> {
        Ok(Self(match fit(value, r#type)? {
            Fit::Null => None,
            Fit::Bool(yes) => Some(yes.to_string()),
            Fit::Whole(whole) => Some(whole.to_string()),
            Fit::Text(text) => Some(text.into_owned()),
        }))
    }
}

/// A value as a type takes it.
enum Fit<'a> {
    Null,
    Bool(bool),
    Whole(i64),
    Text(Cow<'a, str>),
}

/// A value as `type` takes it; `Err` says what is wrong with it.
fn fit<'a>(value: &'a Value, r#type: &Type) -> Result<Fit<'a>, String> {
    Ok(match value {
        Value::Null => Fit::Null,
        Value::Bool(yes) if *r#type == Type::BOOL => Fit::Bool(*yes),
        Value::Number(number) if is_integer(r#type) => {
            let whole = number.as_i64().filter(|whole| fits(*whole, r#type));
            Fit::Whole(whole.ok_or_else(|| format!("is {number}, not within {}", r#type.name()))?)
        }
        Value::Number(number) if is_decimal(r#type) => Fit::Text(Cow::Owned(number.to_string())),
        Value::String(text) if !is_integer(r#type) && *r#type != Type::BOOL => {
            if text.contains('\0') {
                return Err("holds a zero byte".to_owned());
            }
            Fit::Text(Cow::Borrowed(text))
        }
        Value::Array(_) | Value::Object(_) if is_json(r#type) => {
            Fit::Text(Cow::Owned(value.to_string()))
        }
        other => {
            return Err(format!("is {other}, the database wants {}", r#type.name()));
        }
    })
}

/// Whether a value can be given; `Err` says what is wrong with it.
pub(super) fn check(value: &Value, r#type: &Type) -> Result<(), String> {
    fit(value, r#type).map(drop)
}

/// Values of one type, as the text form of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List(String);

impl List {
    /// An empty list; room for `count` short values.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self(String::with_capacity(count * 12 + 2))
    }

    /// Adds a value, checked against the type; `Err` says what is wrong with it.
    pub(super) fn push(&mut self, value: &Value, r#type: &Type) -> Result<(), String> {
        let fit = fit(value, r#type)?;
        self.separate();
        match fit {
            Fit::Null => self.0.push_str("NULL"),
            Fit::Bool(yes) => self.0.push_str(if yes { "true" } else { "false" }),
            Fit::Whole(whole) => {
                let _ = write!(self.0, "{whole}");
            }
            Fit::Text(text) => self.quote(&text),
        }
        Ok(())
    }

    fn quote(&mut self, text: &str) {
        self.0.push('"');
        if text.contains(['"', '\\']) {
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    self.0.push('\\');
                }
                self.0.push(c);
            }
        } else {
            self.0.push_str(text);
        }
        self.0.push('"');
    }

    /// Adds a whole number.
    pub(super) fn push_integer(&mut self, number: u64) {
        self.separate();
        let _ = write!(self.0, "{number}");
    }

    fn separate(&mut self) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
    }
}

impl ToSql for List {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(if self.0.is_empty() { b"{" } else { self.0.as_bytes() });
        out.extend_from_slice(b"}");
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
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_quotes_what_means_something_in_an_array() {
        let mut list = List::with_capacity(4);
        for value in [json!("a1"), json!("x\"y\\z"), json!(null), json!("NULL"), json!("")] {
            list.push(&value, &Type::TEXT).unwrap();
        }
        let mut out = BytesMut::new();
        list.to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        assert_eq!(&out[..], br#"{"a1","x\"y\\z",NULL,"NULL",""}"#);
        let error = list.push(&json!("5"), &Type::INT8).unwrap_err();
        assert_eq!(error, "is \"5\", the database wants int8");
    }

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
