//! `traceparent` and `tracestate`, as <https://www.w3.org/TR/trace-context/> has them.

use std::str::FromStr as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    SpanId, TraceId,
    trace::{SpanContext, TraceFlags, TraceState},
};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long the header is in the version that is known.
const LENGTH: usize = 55;

/// Reads the span that called; nothing where the header is missing, repeated or malformed.
pub(super) fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let (trace, span, flags) = parse(value.as_bytes().trim_ascii())?;
    let caller = SpanContext::new(trace, span, flags, true, read_state(headers));
    caller.is_valid().then_some(caller)
}

fn parse(text: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let [version] = hex(&known[..2])?;
    let may_go_on = match version {
        0 => rest.is_empty(),
        u8::MAX => false,
        // A later version may add fields, which are none of ours.
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !may_go_on || [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
        return None;
    }
    let (trace, span) = (TraceId::from_bytes(hex(&known[3..35])?), hex(&known[36..52])?);
    let [flags] = hex(&known[53..])?;
    Some((trace, SpanId::from_bytes(span), TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

/// Reads bytes written in lower case; upper case is malformed.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, _) = text.as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Reads what other tracers say; nothing where any of it is malformed.
fn read_state(headers: &HeaderMap) -> TraceState {
    let lines = || headers.get_all(TRACESTATE).iter().map(HeaderValue::to_str);
    let read = |text: &str| TraceState::from_str(text).unwrap_or_default();
    let mut several = lines();
    match (several.next(), several.next()) {
        (Some(Ok(line)), None) => read(line),
        (Some(_), Some(_)) => match lines().collect::<Result<Vec<_>, _>>() {
            Ok(lines) => read(&lines.join(",")),
            Err(_) => TraceState::NONE,
        },
        _ => TraceState::NONE,
    }
}

/// Writes the span that calls, in place of what stands there.
pub(super) fn write(caller: &SpanContext, parent: SpanId, headers: &mut HeaderMap) {
    let flags = caller.trace_flags() & TraceFlags::SAMPLED;
    let text = format!("00-{}-{parent}-{:02x}", caller.trace_id(), flags.to_u8());
    let Ok(text) = HeaderValue::try_from(text) else { return };
    headers.insert(TRACEPARENT, text);
    headers.remove(TRACESTATE);
    if *caller.trace_state() != TraceState::NONE
        && let Ok(state) = HeaderValue::try_from(caller.trace_state().header())
    {
        headers.insert(TRACESTATE, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_caller_is_read_in_this_version_and_in_later_ones() {
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!(" 00-{TRACE}-{SPAN}-01\t"), true),
            // Flags that nobody knows yet.
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("cc-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-holds"), true),
        ] {
            let caller = read(&headers(&[(TRACEPARENT, &value)])).expect(&value);
            assert_eq!(caller.trace_id().to_string(), TRACE);
            assert_eq!(caller.span_id().to_string(), SPAN);
            assert!(caller.is_remote() && caller.is_sampled() == sampled, "{value}");
            assert!(caller.trace_flags().to_u8() < 2, "{value}");
        }
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        for value in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("cc-{TRACE}-{SPAN}-01.what"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-xy"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{}\u{e4}-01", &SPAN[..14]),
        ] {
            assert_eq!(read(&headers(&[(TRACEPARENT, &value)])), None, "{value}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(read(&headers(&[(TRACEPARENT, &good), (TRACEPARENT, &good)])), None);
    }

    #[test]
    fn a_state_that_is_malformed_does_not_cost_the_parent() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        for (states, state) in [
            (&["a=1,b=2"][..], "a=1,b=2"),
            (&["a=1", "b=2"], "a=1,b=2"),
            (&["a=1, ,b=2"], "a=1,b=2"),
            (&["nonsense"], ""),
            (&["a=1", "A=2"], ""),
            (&["a=\u{e4}"], ""),
            (&[], ""),
        ] {
            let mut lines = vec![(TRACEPARENT, good.as_str())];
            lines.extend(states.iter().map(|state| (TRACESTATE, *state)));
            let caller = read(&headers(&lines)).unwrap();
            assert_eq!(caller.trace_state().header(), state, "{states:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_replaces_what_was_there() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let mut headers = headers(&[
            (TRACEPARENT, good.as_str()),
            (TRACEPARENT, "nonsense"),
            (TRACESTATE, "other=1"),
        ]);
        let (trace, span) = (TraceId::from(7_u128), SpanId::from(8_u64));
        let caller = SpanContext::new(trace, span, TraceFlags::new(3), false, TraceState::NONE);
        write(&caller, SpanId::from(9_u64), &mut headers);
        let text = "00-00000000000000000000000000000007-0000000000000009-01";
        assert_eq!(headers.get(TRACEPARENT).unwrap(), text);
        assert_eq!(headers.len(), 1);
        assert_eq!(read(&headers).unwrap().span_id(), SpanId::from(9_u64));
    }
}
