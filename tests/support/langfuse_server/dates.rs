//! Dates as the JavaScript class `Date` reads and prints them.

use super::js::Js;
use super::numbers::text_to_number;

/// The farthest moment a `Date` can hold, in milliseconds from 1970.
const FARTHEST_MS: f64 = 8.64e15;
const MS_PER_DAY: i64 = 86_400_000;

/// Prints milliseconds since 1970 as `toISOString` does, or nothing for a date that is invalid.
#[must_use]
pub(super) fn iso(ms: f64) -> Option<String> {
    if ms.is_nan() || ms.abs() > FARTHEST_MS {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked to be far inside i64; a Date drops the fraction too"
    )]
    let ms = ms as i64;
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    let rest = ms.rem_euclid(MS_PER_DAY);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, millisecond) = (rest / 1_000 % 60, rest % 1_000);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{year:+07}"),
    };
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"))
}

/// Prints seconds since 1970 as HTTP does, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub(super) fn http_date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = seconds / 86_400;
    let (year, month, day) = civil_from_days(i64::try_from(days).unwrap_or(i64::MAX / MS_PER_DAY));
    let weekday = DAYS[usize::try_from(days % 7).unwrap_or(0)];
    let month = MONTHS[usize::try_from(month - 1).unwrap_or(0)];
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Reads a nanosecond timestamp of OTLP, cut to milliseconds, or nothing if it is unusable.
#[must_use]
pub(super) fn iso_from_nanos(nanos: &Js) -> Option<String> {
    match nanos {
        Js::Num(number) => iso(number / 1e6),
        Js::Str(text) => {
            let text = text.trim();
            let nanos = match text.strip_prefix("0x") {
                Some(digits) => i128::from_str_radix(digits, 16).ok()?,
                None => text.parse::<i128>().ok()?,
            };
            iso((nanos / 1_000_000) as f64)
        }
        Js::Undefined | Js::Null | Js::Bool(_) | Js::Arr(_) | Js::Obj(_) => None,
    }
}

/// Reads what [`iso`] printed.
#[must_use]
pub(super) fn ms_from_iso(text: &str) -> Option<f64> {
    let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut day = day.rsplitn(3, '-');
    let (date, month, year) = (day.next()?, day.next()?, day.next()?);
    let days = days_from_civil(year.parse().ok()?, month.parse().ok()?, date.parse().ok()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (time.next()?, time.next()?, time.next()?);
    let (hour, minute): (f64, f64) = (hour.parse().ok()?, minute.parse().ok()?);
    let ms = second.parse::<f64>().ok()? * 1e3;
    Some((days * MS_PER_DAY) as f64 + hour * 3.6e6 + minute * 6e4 + ms.round())
}

/// Tells whether `new Date(value)` is a date. Of the forms that only V8 reads it knows the
/// common ones: a space between day and time, and names of months.
#[must_use]
pub(super) fn is_date(value: &Js) -> bool {
    match value {
        Js::Undefined | Js::Obj(_) => false,
        Js::Null | Js::Bool(_) => true,
        Js::Num(number) => number.abs() <= FARTHEST_MS,
        Js::Arr(_) => is_date_text(&value.to_text()),
        Js::Str(text) => is_date_text(text),
    }
}

fn is_date_text(text: &str) -> bool {
    let text = text.trim();
    is_iso(text) || is_spelled(text)
}

/// `YYYY`, `YYYY-MM`, `YYYY-MM-DD`, each with an optional time after `T` or a space.
fn is_iso(text: &str) -> bool {
    let (day, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = day.split('-');
    let year = parts.next().is_some_and(|year| year.len() == 4 && is_digits(year));
    let month = parts.next().is_none_or(|month| in_range(month, 1, 12));
    let day = parts.next().is_none_or(|day| in_range(day, 1, 31));
    year && month && day && parts.next().is_none() && time.is_none_or(is_time)
}

/// `HH:MM`, `HH:MM:SS`, `HH:MM:SS.fff`, with an optional zone: `Z`, `+HH:MM`, `+HHMM`.
fn is_time(text: &str) -> bool {
    let text = text.trim_end_matches(['Z', 'z']).trim_end();
    let (clock, zone) = match text.find(['+', '-']) {
        Some(at) => (text[..at].trim_end(), Some(&text[at + 1..])),
        None => (text, None),
    };
    let zone = zone.is_none_or(|zone| {
        let digits = zone.replace(':', "");
        digits.len() == 4 && is_digits(&digits)
    });
    let (clock, fraction) =
        clock.split_once('.').map_or((clock, None), |(clock, part)| (clock, Some(part)));
    let parts: Vec<&str> = clock.split(':').collect();
    let seconds = parts.get(2).is_none_or(|second| in_range(second, 0, 59));
    zone && (2..=3).contains(&parts.len())
        && in_range(parts[0], 0, 24)
        && in_range(parts[1], 0, 59)
        && seconds
        && fraction.is_none_or(is_digits)
}

/// `Thu, 01 Jan 2026 00:00:00 GMT`, `1 Jan 2026`, `Jan 1, 2026`.
fn is_spelled(text: &str) -> bool {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let lower = text.to_lowercase();
    let words = || lower.split([' ', ',']).filter(|word| !word.is_empty());
    let month = words().any(|word| MONTHS.iter().any(|month| word.starts_with(month)));
    let year = words().any(|word| word.len() == 4 && is_digits(word));
    let day = words().any(|word| in_range(word, 1, 31));
    month && year && day
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn in_range(text: &str, low: u32, high: u32) -> bool {
    is_digits(text)
        && text.len() <= 2
        && (f64::from(low)..=f64::from(high)).contains(&text_to_number(text))
}

/// Turns days since 1970 into year, month and day of the Gregorian calendar.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Years are counted from March, so that the leap day is the last of its year; an era is the
    // 400 years after which the calendar repeats.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_in_iso_form() {
        assert_eq!(iso(0.0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(iso(1_767_225_600_252.9).as_deref(), Some("2026-01-01T00:00:00.252Z"));
        assert_eq!(iso(951_782_400_000.0).as_deref(), Some("2000-02-29T00:00:00.000Z"));
        assert_eq!(iso(-1.0).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(iso(253_402_300_800_000.0).as_deref(), Some("+010000-01-01T00:00:00.000Z"));
        assert_eq!(iso(9e15), None);
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        for ms in [0.0, 951_782_400_000.0, 1_767_225_600_252.0, -1.0, 253_402_300_800_000.0] {
            assert_eq!(ms_from_iso(&iso(ms).expect("a date")), Some(ms));
        }
        assert_eq!(
            iso_from_nanos(&"1767225600252123456".into()).as_deref(),
            Some("2026-01-01T00:00:00.252Z")
        );
        assert_eq!(iso_from_nanos(&"".into()), None);
    }

    #[test]
    fn dates_are_told_from_other_text() {
        for date in [
            "2026-01-01T00:00:00.100Z",
            "2026-01-01",
            "2026-01-01 10:00:00",
            "2026-01-01T00:00:00+02:00",
            "Thu, 01 Jan 2026 00:00:00 GMT",
        ] {
            assert!(is_date(&date.into()), "{date}");
        }
        for other in
            ["", "soon", "2026-13-01", "2026-01-01T25:00", "\"2026-01-01\"", "1767225600000"]
        {
            assert!(!is_date(&other.into()), "{other}");
        }
    }
}
