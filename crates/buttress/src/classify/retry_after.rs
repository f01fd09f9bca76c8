//! How long a service asks to wait, read from the headers of its answer.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

/// A wait longer than this is a mistake of the sender.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Reads `retry-after-ms`, then `Retry-After` (RFC 9110, section 10.2.3; fractions as SDKs take
/// them).
///
/// What is zero, negative, not finite or not readable is no wait: openai-python and
/// anthropic-sdk-python fall back to their backoff then.
pub(super) fn retry_after(headers: &HeaderMap, now: fn() -> SystemTime) -> Option<Duration> {
    let milliseconds = text(headers, "retry-after-ms").and_then(|text| seconds(text, 1_000.0));
    milliseconds.or_else(|| {
        let text = text(headers, "retry-after")?;
        seconds(text, 1.0).or_else(|| until(httpdate::parse_http_date(text).ok()?, now))
    })
}

/// Reads when a rate limit ends from the headers of providers, where there is no `Retry-After`.
///
/// The limit that has nothing remaining counts; where no header tells, the one that ends last.
/// OpenAI: `x-ratelimit-reset-requests: 6m0s`; Anthropic: `anthropic-ratelimit-requests-reset`
/// with an RFC 3339 time.
pub(super) fn reset(headers: &HeaderMap, now: fn() -> SystemTime) -> Option<Duration> {
    let limits = headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        let (remaining, wait) = limit(headers, name, value, now)?;
        Some((remaining == Some("0"), wait))
    });
    limits.max().map(|(_, wait)| wait)
}

fn limit<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    value: &str,
    now: fn() -> SystemTime,
) -> Option<(Option<&'a str>, Duration)> {
    let name = name.as_str();
    if let Some(what) = name.strip_prefix("x-ratelimit-reset-") {
        return Some((
            text(headers, &format!("x-ratelimit-remaining-{what}")),
            go_duration(value)?,
        ));
    }
    let what = name.strip_prefix("anthropic-ratelimit-")?.strip_suffix("-reset")?;
    let remaining = text(headers, &format!("anthropic-ratelimit-{what}-remaining"));
    Some((remaining, until(rfc3339(value)?, now)?))
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
            let minutes: i64 = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
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
        for wrong in ["", "2023-09-29", "2023-13-29T16:26:37Z", "2023-09-29T25:00:00Z", "x"] {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_limit_without_remaining_counts() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-ratelimit-remaining-tokens", "149984"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        assert_eq!(reset(&headers, at_noon), Some(Duration::from_secs(1)));
    }
}
