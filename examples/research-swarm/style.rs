//! Colours, where a person on a terminal wants them.

use std::{env, ffi::OsString, fmt, io::IsTerminal};

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    coloured: bool,
}

/// A colour or weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

// ===== impl Style =====

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the terminal
    /// knows no colours.
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        Self::new(stream.is_terminal(), env::var_os("NO_COLOR"), env::var_os("TERM"))
    }

    fn new(is_terminal: bool, no_color: Option<OsString>, term: Option<OsString>) -> Self {
        let forbidden = no_color.is_some_and(|value| !value.is_empty());
        let dumb = term.is_some_and(|term| term == "dumb");
        Self { coloured: is_terminal && !forbidden && !dumb }
    }

    /// Returns whether escape codes may be written at all.
    pub(crate) const fn is_coloured(self) -> bool {
        self.coloured
    }

    /// Puts a colour around a text.
    pub(crate) fn paint(self, paint: Paint, text: impl fmt::Display) -> String {
        let code = match paint {
            Paint::Plain => return text.to_string(),
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Red => 31,
            Paint::Green => 32,
            Paint::Yellow => 33,
        };
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_need_a_terminal_that_has_them_and_a_person_who_wants_them() {
        let coloured = |is_terminal, no_color: Option<&str>, term: Option<&str>| {
            Style::new(is_terminal, no_color.map(Into::into), term.map(Into::into)).is_coloured()
        };
        assert!(coloured(true, None, Some("xterm")));
        assert!(coloured(true, Some(""), None));
        assert!(!coloured(true, Some("1"), Some("xterm")));
        assert!(!coloured(true, None, Some("dumb")));
        assert!(!coloured(false, None, Some("xterm")));
    }

    #[test]
    fn without_colours_the_text_is_untouched() {
        assert_eq!(Style { coloured: false }.paint(Paint::Red, "text"), "text");
        assert_eq!(Style { coloured: true }.paint(Paint::Red, "text"), "\x1b[31mtext\x1b[0m");
        assert_eq!(Style { coloured: true }.paint(Paint::Plain, "text"), "text");
    }
}
