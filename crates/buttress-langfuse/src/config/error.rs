//! What is wrong with settings.

use std::{error::Error, fmt};

/// A variable whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub(super) variable: &'static str,
    pub(super) message: &'static str,
}

/// Why delivery did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The address is not one of an HTTP server.
    BaseUrl,
    /// The address holds a user or a password; keys belong in the keys.
    UserInBaseUrl,
    /// A key holds what no header can, or a control character.
    Key,
    /// The settings of the collector cannot be used.
    #[cfg(feature = "collector")]
    Collector(String),
    /// The delivery's thread could not be made.
    Thread(std::io::Error),
}

// ===== impl ConfigError =====

impl ConfigError {
    /// Returns the name of the variable.
    #[must_use]
    pub const fn variable(&self) -> &'static str {
        self.variable
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.message)
    }
}

impl Error for ConfigError {}

// ===== impl StartError =====

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BaseUrl => f.write_str("the address of Langfuse must be one of http or https"),
            Self::UserInBaseUrl => {
                f.write_str("the address of Langfuse must not hold a user or password")
            }
            Self::Key => f.write_str("a key of Langfuse holds characters that no header can"),
            #[cfg(feature = "collector")]
            Self::Collector(problem) => write!(f, "the collector cannot be used: {problem}"),
            Self::Thread(_) => f.write_str("the thread of the delivery could not be started"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Thread(error) => Some(error),
            _ => None,
        }
    }
}
