//! JavaScript values, as far as the server's answers show them.
//!
//! The real server is written in JavaScript, and what it stores shows it: integers become
//! doubles, numbers print by the rules of ECMAScript, keys that look like array indexes come
//! first in an object. A test server that used Rust's own rules would accept spans that the
//! real one changes.

pub use super::json::ParseError;
use super::json::{Parser, write_json_text};
use super::numbers::{number_to_text, text_to_number, whole};

/// A value of JavaScript.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub enum Js {
    /// No value: a key that holds it is left out of JSON.
    #[default]
    Undefined,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Every number, integers included.
    Num(f64),
    /// Text.
    Str(String),
    /// An array.
    Arr(Vec<Self>),
    /// An object.
    Obj(Object),
}

/// An object that keeps its keys in the order in which JavaScript lists them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object {
    entries: Vec<(String, Js)>,
}

impl Object {
    /// Makes an object without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the value of `key`, or `undefined`.
    #[must_use]
    pub fn get(&self, key: &str) -> &Js {
        self.entries
            .iter()
            .find(|(known, _)| known == key)
            .map_or(&Js::Undefined, |(_, value)| value)
    }

    /// Tells whether `key` exists, with whatever value (the operator `in`).
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    /// Defines `key`, as a literal or a spread does.
    pub fn define(&mut self, key: impl Into<String>, value: Js) {
        let key = key.into();
        if let Some(slot) = self.entries.iter_mut().find(|(known, _)| *known == key) {
            slot.1 = value;
            return;
        }
        // An object lists its array indexes first, in rising order, then the rest as defined.
        let place = array_index(&key).map_or(self.entries.len(), |index| {
            self.entries
                .iter()
                .position(|(known, _)| array_index(known).is_none_or(|other| other > index))
                .unwrap_or(self.entries.len())
        });
        self.entries.insert(place, (key, value));
    }

    /// Assigns `key`, as `object[key] = value` does: `__proto__` never becomes a key of its own.
    pub fn assign(&mut self, key: impl Into<String>, value: Js) {
        let key = key.into();
        if key != "__proto__" {
            self.define(key, value);
        }
    }

    /// Returns the place of `key`, which is defined as `initial` if it does not exist.
    pub(super) fn slot(&mut self, key: &str, initial: Js) -> &mut Js {
        if !self.has(key) {
            self.define(key, initial);
        }
        let place = self.entries.iter_mut().find(|(known, _)| known == key);
        &mut place.expect("the key was defined above").1
    }

    /// Copies every key of `source` into this object (the spread `...source`).
    pub fn spread(&mut self, source: &Js) {
        match source {
            Js::Obj(object) => {
                for (key, value) in object.iter() {
                    self.define(key, value.clone());
                }
            }
            Js::Arr(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.define(index.to_string(), value.clone());
                }
            }
            Js::Undefined | Js::Null | Js::Bool(_) | Js::Num(_) | Js::Str(_) => {}
        }
    }

    /// Lists keys and values in JavaScript's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Js)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Lists the keys in JavaScript's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Tells whether the object has no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn array_index(key: &str) -> Option<u32> {
    let index = key.parse::<u32>().ok()?;
    (index < u32::MAX && index.to_string() == key).then_some(index)
}

impl From<&str> for Js {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Js {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl From<bool> for Js {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Js {
    fn from(value: f64) -> Self {
        Self::Num(value)
    }
}

impl Js {
    /// Returns the value of `key` of an object; `undefined` for everything else.
    #[must_use]
    pub fn get(&self, key: &str) -> &Self {
        match self {
            Self::Obj(object) => object.get(key),
            Self::Undefined
            | Self::Null
            | Self::Bool(_)
            | Self::Num(_)
            | Self::Str(_)
            | Self::Arr(_) => &Self::Undefined,
        }
    }

    /// Returns the text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// Returns the items of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Arr(items) = self { Some(items) } else { None }
    }

    /// Returns the object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        if let Self::Obj(object) = self { Some(object) } else { None }
    }

    /// Tells whether this is `null` or `undefined`.
    #[must_use]
    pub fn is_nullish(&self) -> bool {
        matches!(self, Self::Undefined | Self::Null)
    }

    /// Tells whether this counts as true.
    #[must_use]
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Undefined | Self::Null => false,
            Self::Bool(value) => *value,
            Self::Num(number) => *number != 0.0 && !number.is_nan(),
            Self::Str(text) => !text.is_empty(),
            Self::Arr(_) | Self::Obj(_) => true,
        }
    }

    /// Returns this, or `fallback` for `null` and `undefined` (the operator `??`).
    #[must_use]
    pub fn or(&self, fallback: impl FnOnce() -> Self) -> Self {
        if self.is_nullish() { fallback() } else { self.clone() }
    }

    /// Returns the text of a string, and the JSON of everything else.
    #[must_use]
    pub fn text_or_json(&self) -> Self {
        match self {
            Self::Str(_) | Self::Undefined => self.clone(),
            Self::Null | Self::Bool(_) | Self::Num(_) | Self::Arr(_) | Self::Obj(_) => {
                Self::Str(self.to_json())
            }
        }
    }

    /// Converts to text, as `String(value)` does.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Undefined => "undefined".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Num(number) => number_to_text(*number),
            Self::Str(text) => text.clone(),
            Self::Arr(items) => items
                .iter()
                .map(|item| if item.is_nullish() { String::new() } else { item.to_text() })
                .collect::<Vec<_>>()
                .join(","),
            Self::Obj(_) => "[object Object]".to_owned(),
        }
    }

    /// Converts to a number, as `Number(value)` does.
    #[must_use]
    pub fn to_number(&self) -> f64 {
        match self {
            Self::Undefined | Self::Obj(_) => f64::NAN,
            Self::Null => 0.0,
            Self::Bool(value) => f64::from(u8::from(*value)),
            Self::Num(number) => *number,
            Self::Str(text) => text_to_number(text),
            Self::Arr(_) => text_to_number(&self.to_text()),
        }
    }

    /// Writes JSON, as `JSON.stringify` does.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::new();
        self.write_json(&mut json);
        json
    }

    fn write_json(&self, json: &mut String) {
        match self {
            Self::Undefined | Self::Null => json.push_str("null"),
            Self::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
            Self::Num(number) if number.is_finite() => json.push_str(&number_to_text(*number)),
            Self::Num(_) => json.push_str("null"),
            Self::Str(text) => write_json_text(text, json),
            Self::Arr(items) => {
                json.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        json.push(',');
                    }
                    item.write_json(json);
                }
                json.push(']');
            }
            Self::Obj(object) => {
                json.push('{');
                let mut first = true;
                for (key, value) in object.iter().filter(|(_, value)| **value != Self::Undefined) {
                    if !first {
                        json.push(',');
                    }
                    first = false;
                    write_json_text(key, json);
                    json.push(':');
                    value.write_json(json);
                }
                json.push('}');
            }
        }
    }

    /// Turns this into the value that `serde_json` would read from its JSON.
    #[must_use]
    pub fn to_serde(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Undefined | Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Num(number) => whole(*number).map_or_else(|| Value::from(*number), Value::from),
            Self::Str(text) => Value::String(text.clone()),
            Self::Arr(items) => Value::Array(items.iter().map(Self::to_serde).collect()),
            Self::Obj(object) => object
                .iter()
                .filter(|(_, value)| **value != Self::Undefined)
                .map(|(key, value)| (key.to_owned(), value.to_serde()))
                .collect(),
        }
    }

    /// Reads JSON, as `JSON.parse` does.
    ///
    /// # Errors
    ///
    /// Says at which byte the text stops being JSON.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Parser::read(text)
    }

    /// Reads the JSON of a string; every other value, and text that is not JSON, stays as it is.
    #[must_use]
    pub fn parsed_if_json(&self) -> Self {
        self.as_str().and_then(|text| Self::parse(text).ok()).unwrap_or_else(|| self.clone())
    }
}

/// Shows the JSON.
impl std::fmt::Display for Js {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::Undefined {
            f.write_str("undefined")
        } else {
            f.write_str(&self.to_json())
        }
    }
}
