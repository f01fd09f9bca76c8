//! Text that people see.

/// Shorter ones are placeholders such as `none`, which other words contain.
const SHORTEST_SECRET: usize = 4;

/// Keys that no text shows, whoever repeats them.
#[derive(Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    pub(crate) fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Self(keys.into_iter().filter(|key| key.len() >= SHORTEST_SECRET).collect())
    }

    /// Returns a text without the keys.
    pub(crate) fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, key| text.replace(key, "(hidden)"))
    }
}

/// Keeps a text on its line, and what would steer the terminal or turn the text around out of it.
///
/// The characters that turn text around are those of Unicode's bidirectional algorithm (UAX 9,
/// section 2).
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|char| if steers(char) { ' ' } else { char }).collect()
}

fn steers(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// Tells whether an address holds a user, and with it maybe a password.
pub(crate) fn has_user(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@')
}

/// Returns what may be shown of an address.
///
/// An `@` anywhere hides all of it: a slash in a password hides the user from [`has_user`].
pub(crate) fn shown(url: &str) -> &str {
    if url.contains('@') { "(hidden)" } else { url }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_becomes_a_space() {
        let bad = "\u{1b}\n\r\t\0\u{7f}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{202a}\u{202e}\u{2066}\u{2069}";
        assert_eq!(printable(bad), " ".repeat(bad.chars().count()));
        assert_eq!(printable("Zoe \u{200d} \u{e9}"), "Zoe \u{200d} \u{e9}");
    }

    #[test]
    fn an_address_with_a_user_is_known_and_not_shown() {
        for url in ["http://me:secret@host", "https://me@host/path", "me:secret@host", "x://@h"] {
            assert!(has_user(url), "{url}");
            assert!(!shown(url).contains("me"), "{url}");
        }
        for url in ["http://host", "https://host/@path", "http://host?a@b", "host"] {
            assert!(!has_user(url), "{url}");
        }
        assert_eq!(shown("http://host/"), "http://host/");
        assert!(!shown("http://me:sec/ret@host").contains("sec"));
    }
}
