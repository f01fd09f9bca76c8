//! JSON as JavaScript reads and writes it.
//!
//! The order of keys and the last bit of a number show in what the server stores, so a reader is
//! needed that keeps both.

use std::fmt::Write as _;

use super::js::{Js, Object};

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

pub(super) struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    /// Reads a text that is one value of JSON.
    pub(super) fn read(text: &str) -> Result<Js, ParseError> {
        let mut parser = Parser { bytes: text.as_bytes(), at: 0, depth: 0 };
        let value = parser.value()?;
        parser.skip_space();
        if parser.at == parser.bytes.len() { Ok(value) } else { Err(parser.error()) }
    }

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
                }
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
            }
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

/// Writes a string of JSON, quotes included.
pub(super) fn write_json_text(text: &str, json: &mut String) {
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
                write!(json, "\\u{:04x}", u32::from(character))
                    .expect("writing to a String cannot fail");
            }
            _ => json.push(character),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_round_trips_and_orders_index_keys_first() {
        let text = r#"{"b":1,"10":2,"2":[true,null,"\u0001\ud83d\ude00\n"],"a":{"x":1e21}}"#;
        let value = Js::parse(text).expect("the text is JSON");
        assert_eq!(
            value.to_json(),
            "{\"2\":[true,null,\"\\u0001😀\\n\"],\"10\":2,\"b\":1,\"a\":{\"x\":1e+21}}"
        );
        for broken in ["", "{x", "[1,]", "01", "1.", "\"\t\"", "nul", "{} x", "\"\\u12g4\""] {
            assert!(Js::parse(broken).is_err(), "{broken:?} must not parse");
        }
    }
}
