//! Numbers as JavaScript reads and prints them.

use std::fmt::Write as _;

/// Returns the integer that a number is, as far as doubles hold integers exactly.
pub(super) fn whole(number: f64) -> Option<i64> {
    let is_whole = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number inside i64")]
    is_whole.then_some(number as i64)
}

/// Prints a number by the rules of ECMAScript (`Number::toString` with radix 10).
pub(super) fn number_to_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    // Rust prints the shortest digits that read back as the same number, as ECMAScript asks.
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("the format e writes an exponent");
    let digits: String = mantissa.chars().filter(|digit| *digit != '.').collect();
    let exponent: i32 = exponent.parse().expect("the exponent is an integer");
    // The number is 0.digits times ten to the power of `point`.
    let point = exponent + 1;
    let count = i32::try_from(digits.len()).expect("a double has at most 17 digits");
    let mut text = String::new();
    if number < 0.0 {
        text.push('-');
    }
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    match point {
        _ if point > 21 || point <= -6 => {
            let (first, rest) = digits.split_at(1);
            text.push_str(first);
            if !rest.is_empty() {
                text.push('.');
                text.push_str(rest);
            }
            write!(text, "e{exponent:+}").expect("writing to a String cannot fail");
        }
        _ if point >= count => {
            text.push_str(&digits);
            text.push_str(&zeros(point - count));
        }
        _ if point > 0 => {
            let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or(0));
            text.push_str(whole);
            text.push('.');
            text.push_str(part);
        }
        _ => {
            text.push_str("0.");
            text.push_str(&zeros(-point));
            text.push_str(&digits);
        }
    }
    text
}

/// Reads a number from text, as `Number(text)` does: NaN for text that is none.
pub(super) fn text_to_number(text: &str) -> f64 {
    let text = text.trim();
    let radix = |prefix: [&str; 2], radix| {
        prefix.iter().find_map(|prefix| text.strip_prefix(prefix)).map(|digits| {
            u64::from_str_radix(digits, radix).map_or(f64::NAN, |number| number as f64)
        })
    };
    if text.is_empty() {
        return 0.0;
    }
    if let Some(number) = radix(["0x", "0X"], 16)
        .or_else(|| radix(["0o", "0O"], 8))
        .or_else(|| radix(["0b", "0B"], 2))
    {
        return number;
    }
    match text.trim_start_matches(['+', '-']) {
        "Infinity" if text.starts_with('-') => f64::NEG_INFINITY,
        "Infinity" => f64::INFINITY,
        // Rust reads the words inf and nan, JavaScript does not.
        plain if plain.starts_with(|first: char| first.is_ascii_digit() || first == '.') => {
            text.parse().unwrap_or(f64::NAN)
        }
        _ => f64::NAN,
    }
}

/// Reads the leading integer of a text, as `parseInt(text, 10)` does.
pub(super) fn parse_int(text: &str) -> Option<f64> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(digits.len());
    let number: f64 = digits[..end].parse().ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_javascript() {
        let cases = [
            (0.1, "0.1"),
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.5e-9, "1.5e-9"),
            (-0.0, "0"),
            (-2.5, "-2.5"),
            (9_223_372_036_854_775_807.0, "9223372036854776000"),
            (100.0, "100"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
        ];
        for (number, text) in cases {
            assert_eq!(number_to_text(number), text);
        }
    }

    #[test]
    fn text_becomes_a_number_as_in_javascript() {
        assert_eq!(text_to_number(" 12 "), 12.0);
        assert_eq!(text_to_number(""), 0.0);
        assert_eq!(text_to_number("0x1F"), 31.0);
        assert_eq!(text_to_number("-Infinity"), f64::NEG_INFINITY);
        assert!(text_to_number("inf").is_nan());
        assert!(text_to_number("1a").is_nan());
        assert_eq!(parse_int("12.9x"), Some(12.0));
        assert_eq!(parse_int("x"), None);
    }
}
