//! Reading what servers of several versions write: numbers also as text, absent also as null.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value as Json};

/// How deep an object is opened: a server that nests deeper is not followed.
const DEEPEST: usize = 16;

/// Reads a number, also one that is written as text.
pub(crate) fn number(value: &Json) -> Option<f64> {
    let number = match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(value) => Some(f64::from(u8::from(*value))),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Reads a whole number that is not negative.
pub(crate) fn count(value: &Json) -> Option<u64> {
    if let Some(count) = value.as_u64() {
        return Some(count);
    }
    if let Some(count) = value.as_str().and_then(|text| text.trim().parse().ok()) {
        return Some(count);
    }
    let number = number(value)?;
    let is_whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
    // It is whole, and small enough to be held exactly.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    is_whole.then_some(number as u64)
}

/// Reads a truth value.
pub(crate) fn boolean(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(value) => Some(*value),
        Json::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Json::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        other => match number(other)? {
            1.0 => Some(true),
            0.0 => Some(false),
            _ => None,
        },
    }
}

/// Reads a text; the empty one is none, as servers write it for what is not there.
pub(crate) fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) if !text.is_empty() => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Reads a list, also one that is written as JSON text.
pub(crate) fn list(value: &Json) -> Option<Vec<Json>> {
    match value {
        Json::Array(list) => Some(list.clone()),
        Json::String(text) if text.trim_start().starts_with('[') => serde_json::from_str(text).ok(),
        _ => None,
    }
}

/// Reads a point in time: RFC 3339, or milliseconds since 1970.
pub(crate) fn time(value: &Json) -> Option<SystemTime> {
    match value {
        Json::String(text) => SystemTime::try_from(text.parse::<jiff::Timestamp>().ok()?).ok(),
        value => {
            let time = Duration::try_from_secs_f64(number(value)? / 1e3).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(time)
        }
    }
}

/// Reads an object of numbers; what is none is left out.
pub(crate) fn numbers(value: &Json) -> BTreeMap<String, f64> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), number(value)?))).collect()
}

/// Writes an object with dotted keys, as newer servers answer it; older ones nest.
pub(crate) fn flattened(value: &Json) -> BTreeMap<String, Json> {
    let mut flat = BTreeMap::new();
    match value {
        Json::Object(entries) => flatten(entries, "", 0, &mut flat),
        Json::Null => {}
        // Not an object: what somebody else sent.
        other => drop(flat.insert("metadata".to_owned(), other.clone())),
    }
    flat
}

fn flatten(
    entries: &Map<String, Json>,
    prefix: &str,
    depth: usize,
    into: &mut BTreeMap<String, Json>,
) {
    for (key, value) in entries {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Json::Object(inner) if depth < DEEPEST && !inner.is_empty() => {
                flatten(inner, &key, depth + 1, into);
            }
            value => drop(into.insert(key, value.clone())),
        }
    }
}

/// Writes a time as Langfuse reads it.
pub(crate) fn iso(time: SystemTime) -> String {
    crate::clock::iso(crate::clock::nanos(time))
}

/// Writes a byte as it stands in an address.
pub(crate) fn push_hex(byte: u8, into: &mut String) {
    _ = write!(into, "%{byte:02X}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_however_they_are_written() {
        for (value, expected) in [
            (json!(3), Some(3.0)),
            (json!("3"), Some(3.0)),
            (json!(" 0.5 "), Some(0.5)),
            (json!(true), Some(1.0)),
            (json!("NaN"), None),
            (json!("three"), None),
            (json!(null), None),
            (json!([3]), None),
        ] {
            assert_eq!(number(&value), expected, "{value}");
        }
        for (value, expected) in [
            (json!(u64::MAX), Some(u64::MAX)),
            (json!("18446744073709551615"), Some(u64::MAX)),
            (json!(2.0), Some(2)),
            (json!("2.0"), Some(2)),
            (json!(-1), None),
            (json!(1.5), None),
            (json!(1e300), None),
        ] {
            assert_eq!(count(&value), expected, "{value}");
        }
        for (value, expected) in [
            (json!("True"), Some(true)),
            (json!("false"), Some(false)),
            (json!(0), Some(false)),
            (json!("1"), Some(true)),
            (json!(2), None),
        ] {
            assert_eq!(boolean(&value), expected, "{value}");
        }
    }

    #[test]
    fn nested_and_dotted_metadata_are_one() {
        let nested = json!({"attempt": 2, "scope": {"name": "buttress", "attributes": {}}, "a": {"b": {"c": [1]}}});
        let dotted =
            json!({"attempt": 2, "scope.name": "buttress", "scope.attributes": {}, "a.b.c": [1]});
        assert_eq!(flattened(&nested), flattened(&dotted));
        assert_eq!(flattened(&json!(null)), BTreeMap::new());
        assert_eq!(flattened(&json!("text"))["metadata"], "text");
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let time = |text: &str| time(&json!(text)).map(iso);
        let expected = Some("2026-11-25T10:00:00.500Z".to_owned());
        assert_eq!(time("2026-11-25T10:00:00.500Z"), expected);
        assert_eq!(time("2026-11-25T12:00:00.5+02:00"), expected);
        assert_eq!(time("yesterday"), None);
        assert_eq!(
            super::time(&json!(1_000)).map(iso),
            Some("1970-01-01T00:00:01.000Z".to_owned())
        );
    }

    #[test]
    fn lists_are_read_as_lists_and_as_text() {
        assert_eq!(list(&json!(["a"])), Some(vec![json!("a")]));
        assert_eq!(list(&json!(r#"["a"]"#)), Some(vec![json!("a")]));
        // What a server has cut to 200 characters.
        assert_eq!(list(&json!(r#"["a","#)), None);
    }
}
