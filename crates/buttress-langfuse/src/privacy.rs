//! What leaves the process of what spans say: masked by the user, cut where it is long, and without
//! secrets.

use std::{borrow::Cow, fmt, sync::Arc};

use buttress::catch_panic::Panic;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use prost::Message as _;

use crate::value::{self, Sent};

/// What stands for a value that could not be masked, in the words of the official SDKs.
const UNMASKED: &str = "<fully masked due to failed mask function>";
/// How many bytes are sent of any text, as the official SDKs do of an event.
const TEXT_BYTES: usize = 1_000_000;
/// What stands for a secret.
const HIDDEN: &str = "(hidden)";
/// A key shorter than this is none.
const SHORTEST_KEY: usize = 8;

/// Turns a text into what may be sent of it.
pub(crate) type Mask = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What may leave the process.
#[derive(Clone)]
pub(crate) struct Privacy {
    pub(crate) mask: Option<Mask>,
    pub(crate) io_bytes: usize,
    /// Whether what looks like a secret is left out of messages and metadata.
    pub(crate) hides_secrets: bool,
}

// ===== impl Privacy =====

impl Privacy {
    /// Leaves of input or output what may be sent.
    pub(crate) fn io(&self, value: &mut Sent<'_>) {
        self.mask(value);
        match value {
            Sent::Text(text) if text.len() > self.io_bytes => {
                *value = Sent::text(cut(text, self.io_bytes));
            }
            Sent::Any(list) if list.encoded_len() > self.io_bytes => {
                *value = Sent::text(cut(&value::to_json(list).to_string(), self.io_bytes));
            }
            _ => {}
        }
    }

    /// Leaves of a message between a user and a model what may be sent.
    pub(crate) fn io_any(&self, value: &mut AnyValue) {
        self.mask_any(value);
        match &mut value.value {
            Some(any_value::Value::StringValue(text)) if text.len() > self.io_bytes => {
                *text = cut(text, self.io_bytes);
            }
            Some(any_value::Value::ArrayValue(list)) if list.encoded_len() > self.io_bytes => {
                *value = value::text(cut(&value::to_json(value).to_string(), self.io_bytes));
            }
            _ => {}
        }
    }

    /// Leaves of metadata what may be sent; errors may tell secrets.
    pub(crate) fn metadata(&self, key: &str, value: &mut Sent<'_>) {
        self.mask(value);
        if let Sent::Text(text) = value
            && (key.ends_with("error") || key.ends_with("_history"))
            && self.hides_secrets
            && let Some(hidden) = without_secrets(text)
        {
            *value = Sent::text(hidden);
        }
        if let Sent::Text(text) = value
            && text.len() > TEXT_BYTES
        {
            *value = Sent::text(cut(text, TEXT_BYTES));
        }
    }

    /// Returns what may be sent of a message for people.
    pub(crate) fn message<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        let text = self.masked_text(text);
        let hidden = if self.hides_secrets { without_secrets(&text) } else { None };
        let text = hidden.map_or(text, Cow::Owned);
        if text.len() > TEXT_BYTES { Cow::Owned(cut(&text, TEXT_BYTES)) } else { text }
    }

    /// Leaves of a value what the user lets out.
    fn mask(&self, value: &mut Sent<'_>) {
        if self.mask.is_none() {
            return;
        }
        match value {
            Sent::Text(text) => *text = self.masked_text(std::mem::take(text)),
            Sent::Any(value) => self.mask_any(value),
            Sent::Boolean(_) | Sent::Integer(_) | Sent::Double(_) => {}
        }
    }

    fn masked_text<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        let Some(mask) = &self.mask else { return text };
        // Whatever the user's function does, what it was given stays here.
        let masked = Panic::catch(|| mask(&text));
        masked.map_or(Cow::Borrowed(UNMASKED), Cow::Owned)
    }

    /// Leaves of a value what the user lets out.
    fn mask_any(&self, value: &mut AnyValue) {
        match &mut value.value {
            _ if self.mask.is_none() => {}
            Some(any_value::Value::StringValue(text)) => {
                *text = self.masked_text(Cow::Borrowed(text)).into_owned();
            }
            Some(any_value::Value::ArrayValue(list)) => {
                list.values.iter_mut().for_each(|value| self.mask_any(value));
            }
            _ => {}
        }
    }
}

impl Default for Privacy {
    fn default() -> Self {
        Self { mask: None, io_bytes: TEXT_BYTES, hides_secrets: true }
    }
}

impl fmt::Debug for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Privacy")
            .field("is_masked", &self.mask.is_some())
            .field("io_bytes", &self.io_bytes)
            .field("hides_secrets", &self.hides_secrets)
            .finish()
    }
}

/// Cuts a text on a boundary of its characters, and says so.
fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let kept = &text[..end];
    format!("{kept}... (cut: {} bytes in all)", text.len())
}

/// Headers and fields that hold a secret, whatever it looks like, and whether all of the line does.
const NAMES: [(&str, bool); 4] =
    [("authorization", true), ("api-key", false), ("api_key", false), ("apikey", false)];
/// What says in an address that a secret follows.
const PARAMETERS: [&str; 6] = ["key", "api_key", "token", "access_token", "sig", "signature"];

/// Returns a text without what looks like a secret: API keys that begin with `sk-`; what stands
/// behind `Bearer` and `Basic`, and behind the names of headers that hold keys; users, keys and
/// tokens in addresses. None where nothing does.
fn without_secrets(text: &str) -> Option<String> {
    let mut hidden = String::new();
    let mut from = 0;
    let mut at = 0;
    while at < text.len() {
        match secret_at(text, at) {
            Some((start, end)) => {
                hidden.push_str(&text[from..start]);
                hidden.push_str(HIDDEN);
                (from, at) = (end, end);
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if from == 0 {
        return None;
    }
    hidden.push_str(&text[from..]);
    Some(hidden)
}

/// Finds the secret that begins at a place, or behind the word that does.
fn secret_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text[at..];
    let (start, length) = match text.as_bytes()[at] {
        b'?' | b'&' => parameter(&rest[1..]).map(|(start, length)| (1 + start, length))?,
        b':' => user(rest)?,
        b's' | b'S' | b'b' | b'B' | b'a' | b'A' => {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|char| char.is_alphanumeric() || char == '_') {
                return None;
            }
            key(rest).or_else(|| token(rest)).or_else(|| named(rest))?
        }
        // Nearly no place is one where such a word begins.
        _ => return None,
    };
    (length > 0).then_some((at + start, at + start + length))
}

/// Finds a key that says itself that it is one.
fn key(text: &str) -> Option<(usize, usize)> {
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let length = text.strip_prefix("sk-").map(|_| length_of(text, is_key))?;
    (length >= "sk-".len() + SHORTEST_KEY).then_some((0, length))
}

/// Finds what stands behind a scheme of authentication.
fn token(text: &str) -> Option<(usize, usize)> {
    let start = ["bearer", "basic"]
        .into_iter()
        .find_map(|word| behind(text, word, |byte| is_between(byte) && !b",([".contains(&byte)))?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(&byte);
    let length = length_of(&text[start..], is_token);
    (length >= SHORTEST_KEY).then_some((start, length))
}

/// Finds what stands behind the name of a header or a field, whatever it looks like.
fn named(text: &str) -> Option<(usize, usize)> {
    let (word, is_line) =
        NAMES.into_iter().find(|(word, _)| behind(text, word, is_between).is_some())?;
    let start = behind(text, word, is_between)?;
    // "authorization failed" holds none.
    if text[word.len()..start].bytes().all(|byte| byte == b' ') {
        return None;
    }
    let ends = |byte: u8| {
        matches!(byte, b'\r' | b'\n' | b'"' | b'\'' | b'\\' | b',' | b';' | b'}' | b')' | b']')
            || (!is_line && matches!(byte, b' ' | b'\t' | b'&'))
    };
    Some((start, length_of(&text[start..], |byte| !ends(byte))))
}

/// Finds the value of a parameter that holds a secret, behind what separates it from others.
fn parameter(text: &str) -> Option<(usize, usize)> {
    let longest = "access_token".len();
    let end = text.bytes().take(longest + 1).position(|byte| byte == b'=')?;
    let (name, value) = (text.get(..end)?, &text[end + 1..]);
    PARAMETERS.iter().find(|known| known.eq_ignore_ascii_case(name))?;
    let ends = |byte: u8| byte.is_ascii_whitespace() || b"&#\"'\\<>)],;".contains(&byte);
    Some((name.len() + 1, length_of(value, |byte| !ends(byte))))
}

/// Finds who is named in an address, with the password.
fn user(text: &str) -> Option<(usize, usize)> {
    let authority = text.strip_prefix("://")?;
    let is_part = |byte: u8| !byte.is_ascii_whitespace() && !b"/?#\"'\\<>".contains(&byte);
    let authority = &authority[..length_of(authority, is_part)];
    Some(("://".len(), authority.rfind('@')?))
}

/// Returns how many bytes a text begins with that are so; other characters than ASCII are as their
/// bytes are.
fn length_of(text: &str, is: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| is(*byte)).count()
}

/// Tells what stands between a name and its value: in headers, in JSON, also escaped, in what `Debug`
/// writes of pairs.
const fn is_between(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'\\' | b':' | b'=' | b',' | b'(' | b'[')
}

/// Returns where what stands behind a word and at least one separator begins.
fn behind(text: &str, word: &str, separates: impl Fn(u8) -> bool) -> Option<usize> {
    let head = text.get(..word.len())?;
    if !head.eq_ignore_ascii_case(word) {
        return None;
    }
    let between = length_of(&text[word.len()..], separates);
    (between > 0).then_some(word.len() + between)
}

#[cfg(test)]
mod tests {
    use buttress::test_util::PanicsOnDrop;

    use super::*;

    #[test]
    fn secrets_are_left_out_and_all_else_stays() {
        for (text, expected) in [
            ("key sk-abc123DEF456 is wrong", "key (hidden) is wrong"),
            ("sk-ant-api03-x_y-z", "(hidden)"),
            ("Authorization: Bearer abc.def.ghi", "Authorization: (hidden)"),
            (
                "{\"authorization\":\"Basic Zm9vOmJhcg==\",\"x\":1}",
                "{\"authorization\":\"(hidden)\",\"x\":1}",
            ),
            (
                "sent bearer abcdefgh, twice Bearer abcdefgh",
                "sent bearer (hidden), twice Bearer (hidden)",
            ),
            (
                "täsk-force and sk-short and risk-abcdefghi",
                "täsk-force and sk-short and risk-abcdefghi",
            ),
            ("a basic fact, authorization", "a basic fact, authorization"),
            ("", ""),
            ("authorization failed: 3 times", "authorization failed: 3 times"),
            ("Authorization required", "Authorization required"),
            // In what people and programs make of them.
            ("\u{201c}sk-abc123DEF456\u{201d}", "\u{201c}(hidden)\u{201d}"),
            ("\u{e4}sk-abc123DEF456", "\u{e4}sk-abc123DEF456"),
            ("Bearer: abcdefgh", "Bearer: (hidden)"),
            ("bearer\t\"abcdefgh\"", "bearer\t\"(hidden)\""),
            (r#"{\"Authorization\": \"Token a b\"}"#, r#"{\"Authorization\": \"(hidden)\"}"#),
            (r#"[("authorization", "Token a")]"#, r#"[("authorization", "(hidden)")]"#),
            (r#"{"authorization": ["Token a"]}"#, r#"{"authorization": ["(hidden)"]}"#),
            ("proxy-authorization=Token a\nnext", "proxy-authorization=(hidden)\nnext"),
            ("x-api-key: abc, next", "x-api-key: (hidden), next"),
            (
                "{\"apiKey\":\"abc\"} {api_key=\"d\"}",
                "{\"apiKey\":\"(hidden)\"} {api_key=\"(hidden)\"}",
            ),
            ("basic (recommended)", "basic (recommended)"),
            ("the api-key is missing", "the api-key is missing"),
            (
                "for url (https://a.example/v1?alt=sse&key=AIza-1&x=2)",
                "for url (https://a.example/v1?alt=sse&key=(hidden)&x=2)",
            ),
            ("?access_token=\u{e4}b c", "?access_token=(hidden) c"),
            ("postgres://me:p@ss@host/db", "postgres://(hidden)@host/db"),
            ("https://host/a@b and me@host", "https://host/a@b and me@host"),
        ] {
            let found = without_secrets(text);
            assert_eq!(found.as_deref().unwrap_or(text), expected);
            assert_eq!(found.is_none(), text == expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_its_characters_and_says_so() {
        let privacy = Privacy { io_bytes: 5, ..Privacy::default() };
        let sent = |text: &'static str| {
            let mut value = Sent::text(text);
            privacy.io(&mut value);
            value
        };
        assert_eq!(sent("aääää"), Sent::text("aää... (cut: 9 bytes in all)"));
        assert_eq!(sent("aää"), Sent::text("aää"));
        let list = |text: &str| value::list(vec![value::text(text); 2]).unwrap();
        let mut long = Sent::Any(list("ää"));
        privacy.io(&mut long);
        assert_eq!(long, Sent::text("[\"ä... (cut: 15 bytes in all)"));
        for (mut value, expected) in [
            (value::text("aääää"), "aää... (cut: 9 bytes in all)"),
            (list("ää"), "[\"ä... (cut: 15 bytes in all)"),
        ] {
            privacy.io_any(&mut value);
            assert_eq!(value::as_text(&value), Some(expected));
        }
    }

    /// Errors may hold the body of an answer, and stand in many spans of one trace.
    #[test]
    fn no_message_and_no_metadata_is_endless_and_a_limit_of_input_is_none_of_theirs() {
        let privacy = Privacy { io_bytes: 5, ..Privacy::default() };
        let long = "ä".repeat(TEXT_BYTES);
        let end = "... (cut: 2000000 bytes in all)";
        let message = privacy.message(long.as_str().into());
        assert!(message.len() <= TEXT_BYTES + end.len() && message.ends_with(end));
        let mut value = Sent::text(long.as_str());
        privacy.metadata("final_error", &mut value);
        assert_eq!(value, Sent::Text(message));
        assert_eq!(privacy.message("longer than five".into()), "longer than five");
    }

    #[test]
    fn what_a_mask_panics_with_goes_no_further() {
        let mask: Mask = Arc::new(|_| std::panic::panic_any(PanicsOnDrop(3)));
        let privacy = Privacy { mask: Some(mask), ..Privacy::default() };
        assert_eq!(privacy.message("AAPL".into()), UNMASKED);
    }

    #[test]
    fn a_mask_that_panics_lets_nothing_out() {
        let mask: Mask = Arc::new(|text| {
            assert!(!text.contains("bad"), "a fault in the mask");
            text.replace("AAPL", "***")
        });
        let privacy = Privacy { mask: Some(mask), ..Privacy::default() };
        let metadata = |key: &str, mut value: Sent<'static>| {
            privacy.metadata(key, &mut value);
            value
        };
        assert_eq!(metadata("ticker", Sent::text("AAPL")), Sent::text("***"));
        assert_eq!(metadata("x", Sent::text("a bad one")), Sent::text(UNMASKED));
        assert_eq!(privacy.message("AAPL and sk-123456789".into()), "*** and (hidden)");
        assert_eq!(metadata("final_error", Sent::text("sk-123456789")), Sent::text(HIDDEN));
        assert_eq!(metadata("key", Sent::text("sk-123456789")), Sent::text("sk-123456789"));
        let list = crate::value::list(vec![crate::value::text("AAPL")]).unwrap();
        let masked = crate::value::list(vec![crate::value::text("***")]).unwrap();
        assert_eq!(metadata("x", Sent::Any(list)), Sent::Any(masked));
        assert_eq!(metadata("x", Sent::Integer(3)), Sent::Integer(3));
    }
}
