//! `baggage`, as <https://www.w3.org/TR/baggage/> has it.

use std::{borrow::Cow, collections::HashSet};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::baggage::Baggage;

pub(super) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// What begins the keys that are Langfuse's.
pub(super) const LANGFUSE: &str = "langfuse_";

/// How many bytes are read and written at most.
const MOST_BYTES: usize = 8_192;
/// How many members are read and written at most.
const MOST_MEMBERS: usize = 180;

/// One member of the list, as it stands in the header.
#[derive(Debug, Clone, Copy)]
struct Member<'a> {
    key: &'a str,
    value: &'a str,
    /// What is said about the value, without the first semicolon.
    properties: &'a str,
}

impl<'a> Member<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (pair, properties) = text.split_once(';').unwrap_or((text, ""));
        let (key, value) = pair.split_once('=')?;
        Some(Self { key: key.trim(), value: value.trim(), properties: properties.trim() })
    }

    fn value(self) -> Cow<'a, str> {
        // The Python SDK writes a space as a plus, and escapes all that the W3C does not.
        let is_python = || {
            self.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-~%+".contains(&byte))
        };
        if self.key.starts_with(LANGFUSE) && self.value.contains('+') && is_python() {
            return Cow::Owned(decode(&self.value.replace('+', " ")).into_owned());
        }
        decode(self.value)
    }
}

/// Reads all members that the limits leave room for; those that are malformed are passed over.
///
/// OpenTelemetry keeps no more than 64 of them, Langfuse's first.
pub(super) fn read(headers: &HeaderMap) -> Baggage {
    let mut baggage = Baggage::new();
    for of_langfuse in [true, false] {
        for member in members(headers) {
            if member.key.starts_with(LANGFUSE) == of_langfuse {
                let (key, value) = (member.key.to_owned(), member.value().into_owned());
                baggage.insert_with_metadata(key, value, member.properties);
            }
        }
    }
    baggage
}

fn members(headers: &HeaderMap) -> impl Iterator<Item = Member<'_>> {
    let lines = headers.get_all(BAGGAGE).iter().filter_map(|line| line.to_str().ok());
    let mut bytes = 0;
    lines
        .flat_map(|line| line.split(','))
        .take(MOST_MEMBERS)
        .take_while(move |member| {
            bytes += member.len() + 1;
            bytes <= MOST_BYTES + 1
        })
        .filter_map(Member::parse)
}

/// Writes members of ours, then those of the context, then those that stand there already.
///
/// Of a key that is there more than once the first counts. What has no room is left out whole.
pub(super) fn write(ours: &[(String, String)], baggage: &Baggage, headers: &mut HeaderMap) {
    let mut list = List::default();
    for (key, value) in ours {
        list.push(key, &encode(value, is_value), "");
    }
    for (key, (value, properties)) in baggage {
        list.push(key.as_str(), &encode(value.as_str(), is_value), properties.as_str());
    }
    for member in members(headers) {
        list.push(member.key, member.value, member.properties);
    }
    if let Ok(text) = HeaderValue::try_from(list.text)
        && !text.is_empty()
    {
        headers.insert(BAGGAGE, text);
    }
}

/// The header that is being written.
#[derive(Debug, Default)]
struct List {
    text: String,
    keys: HashSet<String>,
}

impl List {
    fn push(&mut self, key: &str, value: &str, properties: &str) {
        let comma = usize::from(!self.text.is_empty());
        // They are passed on as they are, if they can be.
        let shown = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b',';
        let properties = if properties.bytes().all(shown) { properties } else { "" };
        let semicolon = usize::from(!properties.is_empty());
        let length = comma + key.len() + 1 + value.len() + semicolon + properties.len();
        if self.keys.len() >= MOST_MEMBERS
            || self.text.len() + length > MOST_BYTES
            || !self.keys.insert(key.to_owned())
        {
            return;
        }
        self.text.extend([&","[..comma], key, "=", value, &";"[..semicolon], properties]);
    }
}

// ===== percent-encoding =====

/// Writes a key, of which only tokens may be left as they are.
pub(super) fn encode_key(key: &str) -> Cow<'_, str> {
    encode(key, |byte| byte.is_ascii_alphanumeric() || b"!#$&'*-.^_`|~".contains(&byte))
}

/// Tells what stands in a value as it is. A plus could, but readers may take it for a space.
fn is_value(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\%+".contains(&byte)
}

fn encode(text: &str, stays: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if text.bytes().all(&stays) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if stays(byte) {
            encoded.push(char::from(byte));
        } else {
            let digit = |half: u8| char::from(b"0123456789ABCDEF"[usize::from(half)]);
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Cow::Owned(encoded)
}

/// Reads a key or a value: what is no escape stays, and what is no UTF-8 is replaced.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        (rest, _) = match after {
            [high, low, after @ ..] if *first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (after, bytes.push(high << 4 | low)),
                _ => (rest.split_at(1).1, bytes.push(*first)),
            },
            _ => (after, bytes.push(*first)),
        };
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(BAGGAGE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn value(baggage: &Baggage, key: &str) -> Option<String> {
        baggage.get(key).map(|value| value.as_str().to_owned())
    }

    fn written(ours: &[(&str, &str)], baggage: &Baggage, there: &[&str]) -> String {
        let ours: Vec<_> =
            ours.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut headers = headers(there);
        write(&ours, baggage, &mut headers);
        assert!(headers.get_all(BAGGAGE).iter().count() <= 1);
        headers.get(BAGGAGE).map_or("", |line| line.to_str().unwrap()).to_owned()
    }

    #[test]
    fn members_are_read_from_every_line_and_the_malformed_are_passed_over() {
        let lines = ["a=1,b = two%20words ;p=1;q, c,=d", "e=%C3%A4,f=%zz%4,g=%ff,h=x=y,a b=1"];
        let baggage = read(&headers(&lines));
        for (key, expected) in
            [("a", "1"), ("b", "two words"), ("e", "\u{e4}"), ("f", "%zz%4"), ("g", "\u{fffd}")]
        {
            assert_eq!(value(&baggage, key).as_deref(), Some(expected), "{key}");
        }
        assert_eq!(value(&baggage, "h").as_deref(), Some("x=y"));
        assert_eq!(baggage.get_with_metadata("b").unwrap().1.as_str(), "p=1;q");
        assert_eq!(baggage.len(), 6);
        assert!(read(&headers(&["a=\u{e4}"])).is_empty());
    }

    #[test]
    fn a_plus_is_a_space_only_where_the_python_sdk_wrote_it() {
        let line = "langfuse_session_id=my+session%2B,langfuse_user_id=me+1@x.org,tenant=a+b";
        let baggage = read(&headers(&[line]));
        assert_eq!(value(&baggage, "langfuse_session_id").as_deref(), Some("my session+"));
        assert_eq!(value(&baggage, "langfuse_user_id").as_deref(), Some("me+1@x.org"));
        assert_eq!(value(&baggage, "tenant").as_deref(), Some("a+b"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let odd = "a \"b\", c;d\\e %20 +\u{e4}=\u{1f9c0}";
        let line = written(&[("langfuse_user_id", odd)], &Baggage::new(), &[]);
        let raw = line.strip_prefix("langfuse_user_id=").unwrap();
        assert!(raw.bytes().all(|byte| is_value(byte) || byte == b'%'), "{line}");
        let baggage = read(&headers(&[&line]));
        assert_eq!(value(&baggage, "langfuse_user_id").as_deref(), Some(odd));
        assert_eq!(decode(&encode_key("my key, %")), "my key, %");
        assert_eq!(encode_key("my+key"), "my%2Bkey");
    }

    #[test]
    fn of_a_key_the_nearest_value_counts_and_nothing_else_is_lost() {
        let mut baggage = read(&headers(&["tenant=t;p=1,langfuse_user_id=old"]));
        baggage.insert_with_metadata("odd", "1", "not\u{e4}");
        let line = written(&[("langfuse_user_id", "new")], &baggage, &["tenant=late,own=%41;x"]);
        let mut members: Vec<_> = line.split(',').collect();
        members.sort_unstable();
        assert_eq!(members, ["langfuse_user_id=new", "odd=1", "own=%41;x", "tenant=t;p=1"]);
        assert!(line.starts_with("langfuse_"));
        assert_eq!(written(&[], &Baggage::new(), &[]), "");
        assert_eq!(written(&[], &Baggage::new(), &["a=1"]), "a=1");
    }

    #[test]
    fn limits_are_kept_both_ways() {
        let many: Vec<_> = (0..300).map(|n| (format!("k{n}"), "v".to_owned())).collect();
        let mut line = HeaderMap::new();
        write(&many, &Baggage::new(), &mut line);
        let count = |headers: &HeaderMap| members(headers).count();
        assert_eq!(count(&line), MOST_MEMBERS);
        // One that is too long makes room for the next.
        let long = [("long".to_owned(), "v".repeat(8_188)), ("b".to_owned(), "v".repeat(8_190))];
        let mut line = HeaderMap::new();
        write(&long, &Baggage::new(), &mut line);
        assert_eq!((line.get(BAGGAGE).unwrap().len(), count(&line)), (MOST_BYTES, 1));

        let all: Vec<_> = (0..300).map(|n| format!("k{n}=v")).collect();
        assert_eq!(count(&headers(&[&all.join(",")])), MOST_MEMBERS);
        let late = format!("a=1,b={},langfuse_user_id=late", "v".repeat(8_192));
        let baggage = read(&headers(&[&late]));
        assert_eq!((baggage.len(), value(&baggage, "a").as_deref()), (1, Some("1")));
        // OpenTelemetry keeps 64, and ours are among them.
        let late = format!("{},langfuse_user_id=u", all[..170].join(","));
        let baggage = read(&headers(&[&late]));
        assert_eq!(value(&baggage, "langfuse_user_id").as_deref(), Some("u"));
        assert_eq!(baggage.len(), 64);
    }
}
