//! Reading typed fields out of a JSON tree, so that every refusal names the field.
//!
//! A field's place is kept as a chain on the stack and spelled out only when something is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::json::Json;

/// Longest message, and longest name in one: a client's own text must not come back in full.
const SHOWN_CHARS_MAX: usize = 320;

/// A field that does not hold what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct Invalid {
    /// Its place, such as `operations[0].params.amount`.
    pub field: String,
    /// The value and what would have been right.
    pub detail: String,
}

/// Where a value stands.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// The whole body.
    Root,
    /// A key of an object.
    Key(&'a Place<'a>, &'a str),
    /// An item of an array, from 0.
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(&shown(key)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", shown(key)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Place<'_> {
    /// A refusal of what stands here.
    pub fn invalid(&self, detail: impl fmt::Display) -> Invalid {
        let field = match self {
            Self::Root => "body".to_owned(),
            place => place.to_string(),
        };
        Invalid { field, detail: shown(&detail.to_string()) }
    }

    fn unexpected(&self, found: &Json, expected: &str) -> Invalid {
        self.invalid(format_args!("is {}, must be {expected}", found.type_name()))
    }
}

/// An object whose fields are taken one by one; it has no others than the known ones.
pub struct Object<'a> {
    place: &'a Place<'a>,
    fields: BTreeMap<String, Json>,
}

impl<'a> Object<'a> {
    /// Checks that `json` is an object with no field outside `known`.
    pub fn new(place: &'a Place<'a>, json: Json, known: &[&str]) -> Result<Self, Invalid> {
        let Json::Object(fields) = json else {
            return Err(place.unexpected(&json, "an object"));
        };
        if let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) {
            let detail = format!("is not a known field; known are {}", known.join(", "));
            return Err(Place::Key(place, key).invalid(detail));
        }
        Ok(Self { place, fields })
    }

    /// Takes a field that must be there.
    pub fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&Place<'_>, Json) -> Result<T, Invalid>,
    ) -> Result<T, Invalid> {
        self.optional(key, read)?.ok_or_else(|| Place::Key(self.place, key).invalid("is missing"))
    }

    /// Takes a field that may be absent or null.
    pub fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&Place<'_>, Json) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Invalid> {
        match self.fields.remove(key) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => read(&Place::Key(self.place, key), value).map(Some),
        }
    }
}

/// Reads a text without further meaning.
pub fn text(place: &Place<'_>, json: Json) -> Result<String, Invalid> {
    match json {
        Json::Text(text) => Ok(text),
        other => Err(place.unexpected(&other, "a text")),
    }
}

/// Reads a text that has a form of its own.
pub fn parsed<T: FromStr<Err: fmt::Display>>(place: &Place<'_>, json: Json) -> Result<T, Invalid> {
    let text = text(place, json)?;
    text.parse().map_err(|error: T::Err| place.invalid(error))
}

/// Reads `true` or `false`.
pub fn boolean(place: &Place<'_>, json: Json) -> Result<bool, Invalid> {
    match json {
        Json::Bool(value) => Ok(value),
        other => Err(place.unexpected(&other, "true or false")),
    }
}

/// Reads a whole number from `min` to `max`.
pub fn integer(place: &Place<'_>, json: Json, min: i64, max: i64) -> Result<i64, Invalid> {
    match json {
        Json::Integer(value) if (min..=max).contains(&value) => Ok(value),
        Json::Integer(value) => {
            Err(place.invalid(format_args!("{value} is not between {min} and {max}")))
        }
        Json::Float(value) => {
            Err(place
                .invalid(format_args!("{value:?} is not a whole number between {min} and {max}")))
        }
        other => Err(place.unexpected(&other, "a whole number")),
    }
}

/// Reads a finite number from `min` to `max`.
pub fn number(place: &Place<'_>, json: Json, min: f64, max: f64) -> Result<f64, Invalid> {
    let value = match json {
        Json::Integer(value) => value as f64,
        Json::Float(value) => value,
        other => return Err(place.unexpected(&other, "a number")),
    };
    if (min..=max).contains(&value) {
        // Adding zero makes −0 the same as 0, here and in the request's hash.
        Ok(value + 0.0)
    } else {
        Err(place.invalid(format_args!("{value:?} is not between {min} and {max}")))
    }
}

/// Reads an array of `min` to `max` items.
pub fn list<T>(
    place: &Place<'_>,
    json: Json,
    (min, max): (usize, usize),
    mut read: impl FnMut(&Place<'_>, Json) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    let Json::List(items) = json else {
        return Err(place.unexpected(&json, "an array"));
    };
    if !(min..=max).contains(&items.len()) {
        let count = items.len();
        return Err(place.invalid(format_args!("has {count} items, must have {min} to {max}")));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read(&Place::Item(place, index), item))
        .collect()
}

/// The beginning of a text.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
