//! Texts of others, made fit to be shown.

use std::time::SystemTime;

/// The longest name of a circuit or an agent, in characters.
pub(crate) const NAME: usize = 120;
/// The longest text of an error, in characters.
pub(crate) const ERROR: usize = 400;
/// The longest address of a trace, in bytes.
const ADDRESS: usize = 2_000;

/// Returns a text in one line, at most so many characters long, that steers nothing it is shown in.
pub(crate) fn shown(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let mut space = false;
    let mut left = most;
    for char in text.trim().chars().filter(|char| !is_invisible(*char)) {
        if char.is_control() || char.is_whitespace() {
            space = true;
            continue;
        }
        let needed = 1 + usize::from(space);
        if left < needed {
            // The last sign gives its place to the one that says that there is more.
            if left == 0 {
                shown.pop();
            }
            shown.push('\u{2026}');
            break;
        }
        if std::mem::take(&mut space) {
            shown.push(' ');
        }
        shown.push(char);
        left -= needed;
    }
    shown
}

/// Returns whether it is a sign that has no width, or that turns the direction of others.
const fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

/// Returns an address that a page may link to.
pub(crate) fn address(address: String) -> Option<String> {
    let is_web = address.starts_with("https://") || address.starts_with("http://");
    let is_fit = is_web && address.len() <= ADDRESS && !address.contains(char::is_control);
    is_fit.then_some(address)
}

/// Returns a text for the inside of an HTML element or of an attribute in double quotes.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(char),
        }
    }
    escaped
}

/// Returns the milliseconds since 1970.
pub(crate) fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_to_its_bound_and_says_so() {
        assert_eq!(shown("abcdef", 6), "abcdef");
        assert_eq!(shown("abcdef", 5), "abcd\u{2026}");
        assert_eq!(shown("ab cdef", 3), "ab\u{2026}");
        assert_eq!(shown(&"x".repeat(10_000), ERROR).chars().count(), ERROR);
    }

    #[test]
    fn what_steers_a_terminal_or_a_line_is_taken_out() {
        assert_eq!(shown("  a\r\n\tb\u{1b}[31m  c ", 40), "a b [31m c");
        assert_eq!(shown("user\u{202e}gpj.exe\u{200b}", 40), "usergpj.exe");
    }

    #[test]
    fn only_web_addresses_become_links() {
        let web = "https://lf.example/trace/ab".to_owned();
        assert_eq!(address(web.clone()), Some(web));
        assert_eq!(address("javascript:alert(1)".to_owned()), None);
        assert_eq!(address("https://a\n.example".to_owned()), None);
        assert_eq!(address(format!("https://{}", "a".repeat(ADDRESS))), None);
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escaped("<b a=\"'&\">"), "&lt;b a=&quot;&#39;&amp;&quot;&gt;");
    }
}
