//! Colours, where a person on a terminal wants them.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _},
};

use crate::args::When;

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Color(bool);

// ===== impl Color =====

impl Color {
    /// Colours as asked; by itself on a terminal, unless `NO_COLOR` is set
    /// (<https://no-color.org>) or the terminal knows no colours.
    pub(crate) fn of(when: When) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self::new(when, is_terminal, env::var_os("NO_COLOR"), env::var_os("TERM"))
    }

    fn new(
        when: When,
        is_terminal: bool,
        no_color: Option<OsString>,
        term: Option<OsString>,
    ) -> Self {
        let forbidden = no_color.is_some_and(|value| !value.is_empty());
        let dumb = term.is_some_and(|term| term == "dumb");
        Self(match when {
            When::Always => true,
            When::Never => false,
            When::Auto => is_terminal && !forbidden && !dumb,
        })
    }

    pub(crate) const fn is_on(self) -> bool {
        self.0
    }

    /// Makes a heading.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.0 { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_need_a_terminal_that_has_them_and_a_person_who_wants_them() {
        let on = |when, is_terminal, no_color: Option<&str>, term: Option<&str>| {
            Color::new(when, is_terminal, no_color.map(Into::into), term.map(Into::into)).is_on()
        };
        assert!(on(When::Auto, true, None, Some("xterm")));
        assert!(on(When::Auto, true, Some(""), None));
        assert!(!on(When::Auto, true, Some("1"), Some("xterm")));
        assert!(!on(When::Auto, true, None, Some("dumb")));
        assert!(!on(When::Auto, false, None, Some("xterm")));
        assert!(on(When::Always, false, Some("1"), Some("dumb")));
        assert!(!on(When::Never, true, None, None));
        assert_eq!(Color(false).bold("Retry"), "Retry");
        assert_eq!(Color(true).bold("Retry"), "\u{1b}[1mRetry\u{1b}[0m");
    }
}
