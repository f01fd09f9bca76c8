//! The little JSON that spans need: a list of flat objects.

use std::fmt::{self, Write as _};

/// A JSON array of objects, written as it grows.
#[derive(Debug, Clone)]
pub(crate) struct List(String);

/// Returns a JSON array of texts.
#[cfg(feature = "swarm")]
pub(crate) fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut list = String::from("[");
    for text in texts {
        list.push_str(if list.len() == 1 { "\"" } else { ",\"" });
        _ = Escaped(&mut list).write_str(text);
        list.push('"');
    }
    list.push(']');
    list
}

/// One object of a [`List`].
#[derive(Debug)]
pub(crate) struct Object<'a> {
    text: &'a mut String,
    empty: bool,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self(String::new())
    }

    /// Adds an object.
    pub(crate) fn push(&mut self, fill: impl FnOnce(&mut Object<'_>)) {
        self.0.push(if self.0.is_empty() { '[' } else { ',' });
        self.0.push('{');
        fill(&mut Object { text: &mut self.0, empty: true });
        self.0.push('}');
    }

    /// Returns the array as text.
    pub(crate) fn into_text(mut self) -> String {
        self.0.push_str(if self.0.is_empty() { "[]" } else { "]" });
        self.0
    }
}

impl Object<'_> {
    pub(crate) fn number(&mut self, key: &str, value: usize) {
        self.key(key);
        _ = write!(self.text, "{value}");
    }

    pub(crate) fn text(&mut self, key: &str, value: &dyn fmt::Display) {
        self.key(key);
        self.text.push('"');
        _ = write!(Escaped(self.text), "{value}");
        self.text.push('"');
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.text.push(',');
        }
        self.empty = false;
        _ = write!(self.text, "\"{key}\":");
    }
}

/// Writes text with the escapes of RFC 8259, section 7.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '\r' => self.0.push_str("\\r"),
                '\t' => self.0.push_str("\\t"),
                '\0'..='\u{1f}' => write!(self.0, "\\u{:04x}", u32::from(char))?,
                _ => self.0.push(char),
            }
        }
        Ok(())
    }
}
