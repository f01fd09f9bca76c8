//! How bad an observation is.

use std::fmt;

/// How bad an observation is, in Langfuse's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Level {
    /// Of interest while something is being looked for.
    Debug,
    /// Nothing to say.
    #[default]
    Default,
    /// Something failed and was made good.
    Warning,
    /// The caller got a failure.
    Error,
}

impl Level {
    /// Returns the word that every version of Langfuse understands.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Default => "DEFAULT",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }

    /// Reads a level, with the aliases that newer servers know.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        const WORDS: [(Level, &[&str]); 4] = [
            (Level::Warning, &["WARNING", "WARN"]),
            (Level::Error, &["ERROR", "FATAL", "CRITICAL"]),
            (Level::Default, &["DEFAULT", "INFO", "LOG", "NOTICE", "OK", "SUCCESS"]),
            (Level::Debug, &["DEBUG", "TRACE", "VERBOSE"]),
        ];
        let text = text.trim();
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        WORDS.into_iter().find(|(_, words)| is(words)).map(|(level, _)| level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
