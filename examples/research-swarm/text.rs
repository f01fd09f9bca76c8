//! Text from outside that people are to see: without secrets, and without what steers a terminal.

use std::{env, fmt};

/// What stands where a secret was.
const HIDDEN: &str = "(hidden)";

/// Shorter keys are placeholders such as `none` or `ollama`, which other words contain.
const SHORTEST: usize = 8;

/// Keys that must never be seen, whoever repeats them.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

// ===== impl Secrets =====

impl Secrets {
    pub(crate) fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = keys.into_iter().map(str::trim).filter(|key| key.len() >= SHORTEST);
        Self(keys.map(str::to_owned).collect())
    }

    /// Takes the secret keys of the environment.
    pub(crate) fn from_env() -> Self {
        let keys = ["OPENAI_API_KEY", "LANGFUSE_SECRET_KEY"].map(|name| env::var(name).ok());
        Self::new(keys.iter().flatten().map(String::as_str))
    }

    /// Returns the text without the keys.
    pub(crate) fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, key| text.replace(key, HIDDEN))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("keys", &self.0.len()).finish_non_exhaustive()
    }
}

/// Keeps a text on its line, and out of it what steers a terminal or turns the text around.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|char| if steers(char) { ' ' } else { char }).collect()
}

/// The characters that turn text around are those of Unicode's bidirectional algorithm.
fn steers(char: char) -> bool {
    let turns = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    char.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hidden_wherever_it_stands() {
        let secrets = Secrets::new([" sk-secret\n", "pk"]);
        assert_eq!(secrets.hide("no sk-secret, sk-secret!"), "no (hidden), (hidden)!");
        assert!(!format!("{secrets:?}").contains("sk-secret"));
        // Too short to be one.
        assert_eq!(secrets.hide("pkg"), "pkg");
    }

    #[test]
    fn what_steers_a_terminal_becomes_a_space() {
        assert_eq!(printable("a\x1b[31mb\r\n\u{9b}c\u{202e}d"), "a [31mb   c d");
        assert_eq!(printable("+5.0 % \u{2192} \u{e9}"), "+5.0 % \u{2192} \u{e9}");
    }
}
