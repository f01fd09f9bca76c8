//! How long a service asks to wait, read from the headers of its answer.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

/// A wait longer than this is a mistake of the sender.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Reads `retry-after-ms`, then `Retry-After` (RFC 9110, section 10.2.3; fractions as SDKs take
/// them).
///
/// What is zero, negative, in the past, not finite, above ten years or not readable is no wait:
/// openai-python and anthropic-sdk-python fall back to their backoff then.
pub(super) fn retry_after(headers: &HeaderMap, now: fn() -> SystemTime) -> Option<Duration> {
    let milliseconds = text(headers, "retry-after-ms").and_then(|text| seconds(text, 1_000.0));
    milliseconds.or_else(|| {
        let text = text(headers, "retry-after")?;
        seconds(text, 1.0).or_else(|| until(httpdate::parse_http_date(text).ok()?, now))
    })
}

/// Reads when a rate limit ends from the headers of providers, where there is no `Retry-After`.
///
/// A limit with something remaining is not the one that was hit and asks for no wait. Limits with
/// nothing remaining must all end: the longest wait counts. Where there is none of them, a limit
/// that does not tell what remains may be the one: the shortest wait counts.
///
/// OpenAI: `x-ratelimit-reset-requests: 6m0s` beside `x-ratelimit-remaining-requests: 0` (Azure and
/// Cerebras send seconds); Anthropic: `anthropic-ratelimit-requests-reset` with an RFC 3339 time.
pub(super) fn reset(headers: &HeaderMap, now: fn() -> SystemTime) -> Option<Duration> {
    let (mut spent, mut silent) = (None, None);
    for (name, value) in headers {
        let Some((limit, wait)) = limit(headers, name, value, now) else { continue };
        match limit {
            Limit::Remaining => (),
            Limit::Spent => spent = spent.max(Some(wait)),
            Limit::Silent => silent = Some(silent.map_or(wait, |other| wait.min(other))),
        }
    }
    spent.or(silent)
}

/// What a rate limit says of itself.
enum Limit {
    Remaining,
    Spent,
    /// The header is missing, unreadable, or negative (Azure sends -1 for unknown).
    Silent,
}

fn limit(
    headers: &HeaderMap,
    name: &HeaderName,
    value: &HeaderValue,
    now: fn() -> SystemTime,
) -> Option<(Limit, Duration)> {
    let name = name.as_str();
    if let Some(what) = name.strip_prefix("x-ratelimit-reset-") {
        let value = value.to_str().ok()?.trim();
        let wait = go_duration(value).or_else(|| seconds(value, 1.0))?;
        return Some((Limit::read(headers, &format!("x-ratelimit-remaining-{what}")), wait));
    }
    let what = name.strip_prefix("anthropic-ratelimit-")?.strip_suffix("-reset")?;
    let wait = until(rfc3339(value.to_str().ok()?.trim())?, now)?;
    Some((Limit::read(headers, &format!("anthropic-ratelimit-{what}-remaining")), wait))
}

impl Limit {
    fn read(headers: &HeaderMap, name: &str) -> Self {
        match text(headers, name).and_then(|text| text.parse::<f64>().ok()) {
            Some(0.0) => Self::Spent,
            Some(remaining) if remaining > 0.0 => Self::Remaining,
            _ => Self::Silent,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn seconds(text: &str, per_second: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    let wait = Duration::try_from_secs_f64(number / per_second).ok()?;
    (!wait.is_zero() && wait <= LONGEST).then_some(wait)
}

fn until(moment: SystemTime, now: fn() -> SystemTime) -> Option<Duration> {
    let wait = moment.duration_since(now()).ok()?;
    (!wait.is_zero() && wait <= LONGEST).then_some(wait)
}

/// Reads a duration as Go prints it: `6m0s`, `1h2m3s`, `20ms`, `1.5s`.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|char: char| char.is_ascii_digit()).unwrap_or(rest.len());
        sum += number
            * match &rest[..unit] {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    let wait = Duration::try_from_secs_f64(sum).ok()?;
    (!wait.is_zero() && wait <= LONGEST).then_some(wait)
}

/// Reads an RFC 3339 time such as `2026-01-27T16:26:57Z`, in UTC or with an offset.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let mut clock = time[..zone].splitn(3, ':');
    let hour: i64 = clock.next()?.parse().ok()?;
    let minute: i64 = clock.next()?.parse().ok()?;
    let second: f64 = clock.next()?.parse().ok()?;
    let offset = match &time[zone..] {
        "Z" | "z" => 0,
        offset => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let minutes =
                i64::from(hours.parse::<u8>().ok()?) * 60 + i64::from(minutes.parse::<u8>().ok()?);
            if offset.starts_with('-') { -minutes } else { minutes }
        }
    };
    let sensible = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second);
    if !sensible {
        return None;
    }
    // Days since 1970 of the Gregorian calendar, counted from March so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let minutes = (days * 24 + hour) * 60 + minute - offset;
    let since = Duration::from_secs(u64::try_from(minutes * 60).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since + Duration::try_from_secs_f64(second).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_696_004_797)
    }

    #[test]
    fn go_durations_are_read() {
        assert_eq!(go_duration("6m0s"), Some(Duration::from_secs(360)));
        assert_eq!(go_duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(go_duration("20ms"), Some(Duration::from_millis(20)));
        for wrong in ["", "6", "6x", "-1s", "s", "0s", "1e400s"] {
            assert_eq!(go_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rfc3339_times_are_read() {
        // 2023-09-29T16:26:37Z is 1696004797.
        assert_eq!(rfc3339("2023-09-29T16:26:37Z"), Some(at_noon()));
        assert_eq!(rfc3339("2023-09-29T18:26:37+02:00"), Some(at_noon()));
        for wrong in [
            "",
            "2023-09-29",
            "2023-13-29T16:26:37Z",
            "2023-09-29T25:00:00Z",
            "x",
            "2023-09-29T16:26:37+9223372036854775807:00",
        ] {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }

    fn wait(headers: &[(&'static str, &'static str)]) -> Option<u64> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        reset(&headers.collect(), at_noon).map(|wait| wait.as_secs())
    }

    const REQUESTS: (&str, &str) = ("x-ratelimit-reset-requests", "1s");
    const TOKENS: (&str, &str) = ("x-ratelimit-reset-tokens", "6m0s");

    #[test]
    fn a_limit_with_nothing_remaining_counts() {
        let requests_left = |left| ("x-ratelimit-remaining-requests", left);
        let tokens_left = |left| ("x-ratelimit-remaining-tokens", left);
        for (requests, tokens, expected) in [
            ("0", "149984", Some(1)),
            ("59", "0", Some(360)),
            ("0", "0", Some(360)),
            ("0.0", "12", Some(1)),
            ("59", "149984", None),
            ("59", "-1", Some(360)),
            ("-1", "0", Some(360)),
            ("x", "", Some(1)),
            ("0", "", Some(1)),
        ] {
            let headers = [REQUESTS, TOKENS, requests_left(requests), tokens_left(tokens)];
            assert_eq!(wait(&headers), expected, "{requests} {tokens}");
        }
        assert_eq!(wait(&[REQUESTS, TOKENS]), Some(1));
        assert_eq!(wait(&[REQUESTS, TOKENS, requests_left("3")]), Some(360));
        let spent_but_unreadable = [("x-ratelimit-reset-requests", "x"), requests_left("0")];
        assert_eq!(wait(&spent_but_unreadable), None);
    }

    #[test]
    fn resets_are_read_in_each_form() {
        let anthropic = ("anthropic-ratelimit-tokens-reset", "2023-09-29T16:26:47Z");
        let left = |left| ("anthropic-ratelimit-tokens-remaining", left);
        assert_eq!(wait(&[anthropic]), Some(10));
        assert_eq!(wait(&[anthropic, left("0")]), Some(10));
        assert_eq!(wait(&[anthropic, left("1000")]), None);
        assert_eq!(wait(&[("x-ratelimit-reset-tokens", "42")]), Some(42));
        assert_eq!(wait(&[("x-ratelimit-reset-tokens-minute", "11.38")]), Some(11));
        for none in ["0", "-1", "2023-09-29T16:26:36Z", "99999999999999999999999s"] {
            assert_eq!(wait(&[("x-ratelimit-reset-tokens", none)]), None, "{none}");
            assert_eq!(wait(&[("anthropic-ratelimit-tokens-reset", none)]), None, "{none}");
        }
    }
}
