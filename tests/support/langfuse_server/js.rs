//! JavaScript values, as far as the server's answers show them.
//!
//! The real server is written in JavaScript, and what it stores shows it: integers become
//! doubles, numbers print by the rules of ECMAScript, keys that look like array indexes come
//! first in an object. A test server that used Rust's own rules would accept spans that the
//! real one changes.

use std::fmt::Write as _;

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
    Arr(Vec<Js>),
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
        self.entries.iter().find(|(known, _)| known == key).map_or(&Js::Undefined, |(_, value)| value)
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
    pub fn slot(&mut self, key: &str, initial: Js) -> &mut Js {
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
            },
            Js::Arr(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.define(index.to_string(), value.clone());
                }
            },
            Js::Undefined | Js::Null | Js::Bool(_) | Js::Num(_) | Js::Str(_) => {},
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
            Self::Undefined | Self::Null | Self::Bool(_) | Self::Num(_) | Self::Str(_) | Self::Arr(_) => {
                &Self::Undefined
            },
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
            Self::Null | Self::Bool(_) | Self::Num(_) | Self::Arr(_) | Self::Obj(_) => Self::Str(self.to_json()),
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
            },
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
            },
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
        let mut parser = Parser { bytes: text.as_bytes(), at: 0, depth: 0 };
        let value = parser.value()?;
        parser.skip_space();
        if parser.at == parser.bytes.len() { Ok(value) } else { Err(parser.error()) }
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
        if *self == Self::Undefined { f.write_str("undefined") } else { f.write_str(&self.to_json()) }
    }
}

/// The reason why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError {
    at: usize,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not JSON at byte {}", self.at)
    }
}

impl std::error::Error for ParseError {}

/// Deeper nesting is refused, so that a hostile body cannot exhaust the stack.
const DEEPEST: usize = 512;

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self) -> ParseError {
        ParseError { at: self.at }
    }

    fn skip_space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, expected: u8) -> Result<(), ParseError> {
        if self.bytes.get(self.at) == Some(&expected) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.error())
        }
    }

    fn word(&mut self, word: &str, value: Js) -> Result<Js, ParseError> {
        for byte in word.bytes() {
            self.take(byte)?;
        }
        Ok(value)
    }

    fn value(&mut self) -> Result<Js, ParseError> {
        self.skip_space();
        match self.bytes.get(self.at) {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.text().map(Js::Str),
            Some(b't') => self.word("true", Js::Bool(true)),
            Some(b'f') => self.word("false", Js::Bool(false)),
            Some(b'n') => self.word("null", Js::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.error()),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Js, ParseError>) -> Result<Js, ParseError> {
        if self.depth == DEEPEST {
            return Err(self.error());
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Js, ParseError> {
        let mut object = Object::new();
        self.skip_space();
        if self.take(b'}').is_ok() {
            return Ok(Js::Obj(object));
        }
        loop {
            self.skip_space();
            let key = self.text()?;
            self.skip_space();
            self.take(b':')?;
            let value = self.value()?;
            object.define(key, value);
            self.skip_space();
            if self.take(b'}').is_ok() {
                return Ok(Js::Obj(object));
            }
            self.take(b',')?;
        }
    }

    fn array(&mut self) -> Result<Js, ParseError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']').is_ok() {
            return Ok(Js::Arr(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            if self.take(b']').is_ok() {
                return Ok(Js::Arr(items));
            }
            self.take(b',')?;
        }
    }

    fn digits(&mut self) -> Result<usize, ParseError> {
        let start = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(self.at - start) } else { Err(self.error()) }
    }

    fn number(&mut self) -> Result<Js, ParseError> {
        let start = self.at;
        let _sign = self.take(b'-');
        let leading_zero = self.bytes.get(self.at) == Some(&b'0');
        if self.digits()? > 1 && leading_zero {
            return Err(self.error());
        }
        if self.take(b'.').is_ok() {
            self.digits()?;
        }
        if self.take(b'e').or_else(|_| self.take(b'E')).is_ok() {
            let _sign = self.take(b'-').or_else(|_| self.take(b'+'));
            self.digits()?;
        }
        let digits = std::str::from_utf8(&self.bytes[start..self.at]).map_err(|_| self.error())?;
        digits.parse().map(Js::Num).map_err(|_| self.error())
    }

    fn text(&mut self) -> Result<String, ParseError> {
        self.take(b'"')?;
        let mut text = Vec::new();
        loop {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.error())?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(text).map_err(|_| self.error()),
                b'\\' => {
                    let escaped = self.escape()?;
                    text.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
                },
                0..0x20 => return Err(self.error()),
                _ => text.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let kind = *self.bytes.get(self.at).ok_or_else(|| self.error())?;
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.utf16_unit()?;
                return self.paired(unit);
            },
            _ => return Err(self.error()),
        })
    }

    /// Joins a surrogate with its other half. A lone one has no place in a Rust string.
    fn paired(&mut self, unit: u16) -> Result<char, ParseError> {
        if !(0xD800..0xDC00).contains(&unit) || !self.bytes[self.at..].starts_with(b"\\u") {
            return Ok(char::from_u32(u32::from(unit)).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let after_first = self.at;
        self.at += 2;
        let second = self.utf16_unit()?;
        let mut joined = char::decode_utf16([unit, second]);
        if let Some(Ok(character)) = joined.next() {
            return Ok(character);
        }
        self.at = after_first;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn utf16_unit(&mut self) -> Result<u16, ParseError> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or_else(|| self.error())?;
        let digits = std::str::from_utf8(digits).map_err(|_| self.error())?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(self.error());
        }
        self.at += 4;
        u16::from_str_radix(digits, 16).map_err(|_| self.error())
    }
}

fn write_json_text(text: &str, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\0'..='\u{1f}' => {
                write!(json, "\\u{:04x}", u32::from(character)).expect("writing to a String cannot fail");
            },
            _ => json.push(character),
        }
    }
    json.push('"');
}

/// Returns the integer that a number is, as far as doubles hold integers exactly.
fn whole(number: f64) -> Option<i64> {
    let is_whole = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number inside i64")]
    is_whole.then_some(number as i64)
}

/// Prints a number by the rules of ECMAScript (`Number::toString` with radix 10).
#[must_use]
pub fn number_to_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    // Rust prints the shortest digits that read back as the same number, as ECMAScript asks.
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("the format e writes an exponent");
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    let exponent: i32 = exponent.parse().expect("the exponent is an integer");
    // The number is 0.digits times ten to the power of `point`.
    let point = exponent + 1;
    let count = i32::try_from(digits.len()).expect("a double has at most 17 digits");
    let mut text = String::new();
    if number < 0.0 {
        text.push('-');
    }
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    match point {
        _ if point > 21 || point <= -6 => {
            let (first, rest) = digits.split_at(1);
            text.push_str(first);
            if !rest.is_empty() {
                text.push('.');
                text.push_str(rest);
            }
            write!(text, "e{exponent:+}").expect("writing to a String cannot fail");
        },
        _ if point >= count => {
            text.push_str(&digits);
            text.push_str(&zeros(point - count));
        },
        _ if point > 0 => {
            let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or(0));
            text.push_str(whole);
            text.push('.');
            text.push_str(part);
        },
        _ => {
            text.push_str("0.");
            text.push_str(&zeros(-point));
            text.push_str(&digits);
        },
    }
    text
}

/// Reads a number from text, as `Number(text)` does: NaN for text that is none.
#[must_use]
pub fn text_to_number(text: &str) -> f64 {
    let text = text.trim();
    let radix = |prefix: [&str; 2], radix| {
        prefix
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .map(|digits| u64::from_str_radix(digits, radix).map_or(f64::NAN, |number| number as f64))
    };
    if text.is_empty() {
        return 0.0;
    }
    if let Some(number) =
        radix(["0x", "0X"], 16).or_else(|| radix(["0o", "0O"], 8)).or_else(|| radix(["0b", "0B"], 2))
    {
        return number;
    }
    match text.trim_start_matches(['+', '-']) {
        "Infinity" if text.starts_with('-') => f64::NEG_INFINITY,
        "Infinity" => f64::INFINITY,
        // Rust reads the words inf and nan, JavaScript does not.
        plain if plain.starts_with(|first: char| first.is_ascii_digit() || first == '.') => {
            text.parse().unwrap_or(f64::NAN)
        },
        _ => f64::NAN,
    }
}

/// Reads the leading integer of a text, as `parseInt(text, 10)` does.
#[must_use]
pub fn parse_int(text: &str) -> Option<f64> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(digits.len());
    let number: f64 = digits[..end].parse().ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_javascript() {
        let cases = [
            (0.1, "0.1"),
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.5e-9, "1.5e-9"),
            (-0.0, "0"),
            (-2.5, "-2.5"),
            (9_223_372_036_854_775_807.0, "9223372036854776000"),
            (100.0, "100"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
        ];
        for (number, text) in cases {
            assert_eq!(number_to_text(number), text);
        }
    }

    #[test]
    fn json_round_trips_and_orders_index_keys_first() {
        let text = r#"{"b":1,"10":2,"2":[true,null,"\u0001\ud83d\ude00\n"],"a":{"x":1e21}}"#;
        let value = Js::parse(text).expect("the text is JSON");
        assert_eq!(value.to_json(), "{\"2\":[true,null,\"\\u0001😀\\n\"],\"10\":2,\"b\":1,\"a\":{\"x\":1e+21}}");
        for broken in ["", "{x", "[1,]", "01", "1.", "\"\t\"", "nul", "{} x", "\"\\u12g4\""] {
            assert!(Js::parse(broken).is_err(), "{broken:?} must not parse");
        }
    }

    #[test]
    fn text_becomes_a_number_as_in_javascript() {
        assert_eq!(text_to_number(" 12 "), 12.0);
        assert_eq!(text_to_number(""), 0.0);
        assert_eq!(text_to_number("0x1F"), 31.0);
        assert_eq!(text_to_number("-Infinity"), f64::NEG_INFINITY);
        assert!(text_to_number("inf").is_nan());
        assert!(text_to_number("1a").is_nan());
        assert_eq!(parse_int("12.9x"), Some(12.0));
        assert_eq!(parse_int("x"), None);
    }
}
