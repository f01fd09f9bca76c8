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
        match text.trim().to_ascii_uppercase().as_str() {
            "DEBUG" | "TRACE" | "VERBOSE" => Some(Self::Debug),
            "DEFAULT" | "INFO" | "LOG" | "NOTICE" | "OK" | "SUCCESS" => Some(Self::Default),
            "WARNING" | "WARN" => Some(Self::Warning),
            "ERROR" | "FATAL" | "CRITICAL" => Some(Self::Error),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
