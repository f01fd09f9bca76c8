//! Text from outside that people are to see, and how much room it takes.

use serde_json::Value as Json;

/// Writes what steers a terminal or turns the text around as an escape, so that it is seen.
///
/// The characters that turn text around are those of Unicode's bidirectional algorithm.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            char if steers(char) => shown.extend(char.escape_unicode()),
            char => shown.push(char),
        }
    }
    shown
}

/// Writes a document for programs, in which nothing steers a terminal either.
pub(crate) fn json(document: &Json) -> String {
    let text = format!("{document:#}\n");
    if !text.contains(|char| steers(char) && char != '\n') {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        // Only texts hold such characters: they have a form of JSON's own.
        if steers(char) && char != '\n' {
            shown.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            shown.push(char);
        }
    }
    shown
}

fn steers(char: char) -> bool {
    let turns = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    char.is_control() || turns
}

/// Counts the columns of a terminal that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// East Asian wide characters and pictures take two columns, marks on others none.
const fn columns(char: char) -> usize {
    match char {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Cuts a text to so many columns; what is cut ends with two dots.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut left = room.saturating_sub(2);
    for char in text.chars() {
        let Some(rest) = left.checked_sub(columns(char)) else { break };
        left = rest;
        shown.push(char);
    }
    shown.push_str(&".."[..room.min(2)]);
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_seen_as_an_escape() {
        assert_eq!(
            escaped("a\u{1b}[31mb\r\n\tc\u{202e}d\u{9b}"),
            "a\\u{1b}[31mb\\r\\n\\tc\\u{202e}d\\u{9b}"
        );
        assert_eq!(escaped("\u{e9} \u{65e5}"), "\u{e9} \u{65e5}");
    }

    #[test]
    fn a_document_steers_nothing_and_stays_what_it_is() {
        let document = json!({"id": "a\u{1b}\u{9b}\u{202e}\u{7f}\u{e9}", "list": [1]});
        let text = super::json(&document);
        assert_eq!(text.chars().find(|char| steers(*char) && *char != '\n'), None, "{text}");
        assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), document);
    }

    #[test]
    fn a_text_is_cut_to_the_columns_it_has() {
        assert_eq!(cut("research", 8), "research");
        assert_eq!(cut("research", 7), "resea..");
        assert_eq!(cut("\u{65e5}\u{672c}\u{8a9e}", 5), "\u{65e5}..");
        assert_eq!(width("\u{65e5}\u{672c}e\u{301}"), 5);
        assert_eq!(
            (cut("abc", 2), cut("abc", 1), cut("abc", 0)),
            ("..".into(), ".".into(), String::new())
        );
    }
}
