use std::{error::Error, fmt, time::Duration};

use crate::{ConfigError, StartError};

/// Why Langfuse was not read; `Display` names the variable to mend.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// A variable has a value that cannot be used.
    Variable(ConfigError),
    /// A setting cannot be used.
    Settings(StartError),
    /// A key is not set.
    #[non_exhaustive]
    MissingKeys {
        /// Whether it is the public one.
        public: bool,
        /// Whether it is the secret one.
        secret: bool,
    },
    /// The server does not know the keys (401).
    #[non_exhaustive]
    Unauthorized {
        /// The server's own words.
        words: String,
    },
    /// The keys may not read (403).
    #[non_exhaustive]
    Forbidden {
        /// The server's own words.
        words: String,
    },
    /// Nobody answers at the address, or the connection broke.
    #[non_exhaustive]
    Unreachable {
        /// The address.
        base_url: String,
        /// What broke.
        reason: String,
    },
    /// Another program answers at the address: it has neither the newer nor the older interface.
    #[non_exhaustive]
    NotLangfuse {
        /// The address.
        base_url: String,
        /// What it answered.
        words: String,
    },
    /// The server did not answer in time.
    #[non_exhaustive]
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// The server asks to wait longer than the client does (429).
    #[non_exhaustive]
    RateLimited {
        /// How long it asks to wait, where it says so.
        retry_after: Option<Duration>,
        /// The server's own words.
        words: String,
    },
    /// The server has a fault of its own (5xx), also after every attempt.
    #[non_exhaustive]
    Unavailable {
        /// The server's own words.
        words: String,
    },
    /// The server refuses the question.
    #[non_exhaustive]
    Refused {
        /// The server's own words.
        words: String,
    },
    /// The answer is not what the interface promises.
    #[non_exhaustive]
    Unreadable {
        /// What is wrong with it.
        what: String,
    },
    /// There is no such trace, or nothing of it can be read yet.
    #[non_exhaustive]
    NoTrace {
        /// The id of the trace.
        id: String,
    },
}

// ===== impl ClientError =====

impl ClientError {
    /// Returns the variables that may have to change; none where settings are not to blame.
    #[must_use]
    pub fn variables(&self) -> Vec<&'static str> {
        const PUBLIC: &str = "LANGFUSE_PUBLIC_KEY";
        const SECRET: &str = "LANGFUSE_SECRET_KEY";
        const ADDRESS: &str = "LANGFUSE_BASE_URL";
        match self {
            Self::Variable(error) => vec![error.variable()],
            Self::Settings(StartError::Key) | Self::Forbidden { .. } => vec![PUBLIC, SECRET],
            Self::Settings(_) | Self::Unreachable { .. } | Self::NotLangfuse { .. } => {
                vec![ADDRESS]
            }
            Self::MissingKeys { public, secret } => {
                let missing = [(*public).then_some(PUBLIC), (*secret).then_some(SECRET)];
                missing.into_iter().flatten().collect()
            }
            Self::Unauthorized { .. } => vec![PUBLIC, SECRET, ADDRESS],
            Self::TimedOut { .. } => vec!["LANGFUSE_TIMEOUT"],
            _ => Vec::new(),
        }
    }

    /// Returns whether a person has to change a setting: nothing else can help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Variable(_)
                | Self::Settings(_)
                | Self::MissingKeys { .. }
                | Self::Unauthorized { .. }
                | Self::Forbidden { .. }
                | Self::NotLangfuse { .. }
        )
    }

    /// Returns whether there is no such thing.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NoTrace { .. })
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(error) => error.fmt(f),
            Self::Settings(error) => error.fmt(f),
            Self::MissingKeys { .. } => {
                return write!(f, "{} must be set", self.variables().join(" and "));
            }
            Self::Unauthorized { words } => write!(f, "Langfuse does not know the keys ({words})"),
            Self::Forbidden { words } => write!(f, "the keys may not read ({words})"),
            Self::Unreachable { base_url, reason } => {
                write!(f, "cannot reach Langfuse at {base_url}: {reason}")
            }
            Self::NotLangfuse { base_url, words } => {
                write!(f, "what answers at {base_url} is not Langfuse ({words})")
            }
            Self::TimedOut { after } => write!(f, "Langfuse did not answer within {after:?}"),
            Self::RateLimited { retry_after: Some(time), words } => {
                write!(f, "Langfuse asks to come back in {} s ({words})", time.as_secs())
            }
            Self::RateLimited { retry_after: None, words } => {
                write!(f, "Langfuse answers too many requests ({words})")
            }
            Self::Unavailable { words } => write!(f, "Langfuse cannot answer now ({words})"),
            Self::Refused { words } => write!(f, "Langfuse refuses the question ({words})"),
            Self::Unreadable { what } => write!(f, "the answer of Langfuse cannot be read: {what}"),
            Self::NoTrace { id } => {
                write!(f, "Langfuse has no trace {id:?}; a new one can be read after some seconds")
            }
        }?;
        match self {
            Self::Variable(_) => Ok(()),
            _ => match self.variables().as_slice() {
                [] => Ok(()),
                [one] => write!(f, "; check {one}"),
                [rest @ .., last] => write!(f, "; check {} and {last}", rest.join(", ")),
            },
        }
    }
}

impl Error for ClientError {}

impl From<ConfigError> for ClientError {
    fn from(error: ConfigError) -> Self {
        Self::Variable(error)
    }
}
