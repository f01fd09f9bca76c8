//! From when until when.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

/// A time ago, or a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(Duration),
    At(SystemTime),
}

// ===== impl Since =====

impl Since {
    /// Returns the point in time; none where it lies before every clock.
    pub(crate) fn point(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Ago(time) => now.checked_sub(time),
            Self::At(point) => Some(point),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = humantime::parse_duration(text) {
            return Ok(Self::Ago(time));
        }
        let point = text.parse::<jiff::Timestamp>().ok();
        let day = || {
            let date: jiff::civil::Date = text.parse().ok()?;
            jiff::tz::TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()
        };
        let point = point.or_else(day).and_then(|point| SystemTime::try_from(point).ok());
        point.map(Self::At).ok_or_else(|| {
            "neither a time ago, such as 24h, nor a point in time, such as 2026-11-25 or \
             2026-11-25T10:00:00Z"
                .to_owned()
        })
    }
}

/// Writes a point in time to the second, in UTC.
pub(crate) fn shown(point: SystemTime) -> String {
    let point = jiff::Timestamp::try_from(point).unwrap_or_default();
    point.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Writes a point in time for programs, to the millisecond.
pub(crate) fn iso(point: SystemTime) -> String {
    let point = jiff::Timestamp::try_from(point).unwrap_or_default();
    point.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Writes how long something takes, in its two largest units.
pub(crate) fn span(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let seconds = time.as_secs();
    if seconds < 10 {
        return format!("{:.1}s", time.as_secs_f64());
    }
    let mut left = seconds;
    let mut shown = Vec::new();
    for (unit, name) in UNITS {
        if left >= unit || !shown.is_empty() {
            shown.push(format!("{}{name}", left / unit));
            left %= unit;
        }
        if shown.len() == 2 {
            break;
        }
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_072_000);
        text.parse::<Since>().ok()?.point(now).map(iso)
    }

    #[test]
    fn a_time_ago_and_a_point_in_time_are_understood() {
        for (text, expected) in [
            ("24h", "2025-11-24T12:00:00.000Z"),
            ("1d 12h", "2025-11-24T00:00:00.000Z"),
            ("90m", "2025-11-25T10:30:00.000Z"),
            ("2026-11-25", "2026-11-25T00:00:00.000Z"),
            ("2026-11-25T10:00:00Z", "2026-11-25T10:00:00.000Z"),
            ("2026-11-25T10:00:00+02:00", "2026-11-25T08:00:00.000Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "yesterday", "24", "-1h", "2026-13-01"] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_is_shown_in_its_two_largest_units() {
        for (millis, expected) in [
            (0, "0.0s"),
            (1_250, "1.2s"),
            (59_999, "59s"),
            (61_000, "1m 1s"),
            (3_600_000, "1h 0m"),
            (200_000_000, "2d 7h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), expected);
        }
        assert_eq!(shown(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00 UTC");
    }
}
