//! What can go wrong with the program itself, and the exit codes for it.

use std::{fmt, io};

use buttress::{BoxError, StoreError};
use serde_json::{Value, json};

use crate::{
    llm::InvalidSetting,
    prices::UnknownTicker,
    text::{Secrets, printable},
};

/// The exit code of a wrong flag, ticker or setting.
pub(crate) const WRONG_USE: u8 = 2;
const UNEXPECTED: u8 = 1;
const ENDPOINT: u8 = 3;
const STORE: u8 = 4;
const INTERRUPTED: u8 = 130;

/// Why there is no report.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The user can mend it on the command line or in the environment.
    WrongUse(String),
    /// The model endpoint cannot be used.
    Endpoint(String),
    /// The checkpoints cannot be used, or somebody else is working on them.
    Store(String),
    /// By Ctrl-C or SIGTERM.
    Interrupted,
    Unexpected(BoxError),
}

// ===== impl Problem =====

impl Problem {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::WrongUse(_) => WRONG_USE,
            Self::Endpoint(_) => ENDPOINT,
            Self::Store(_) => STORE,
            Self::Interrupted => INTERRUPTED,
            Self::Unexpected(_) => UNEXPECTED,
        }
    }

    /// Returns the problem for programs.
    pub(crate) fn to_json(&self) -> Value {
        let kind = match self {
            Self::WrongUse(_) => "wrong_use",
            Self::Endpoint(_) => "endpoint",
            Self::Store(_) => "store",
            Self::Interrupted => "interrupted",
            Self::Unexpected(_) => "unexpected",
        };
        let message = Secrets::from_env().hide(&printable(&self.sentence()));
        json!({ "kind": kind, "message": message, "exit_code": self.exit_code() })
    }

    /// Returns it without the word "error".
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::WrongUse(sentence) | Self::Endpoint(sentence) | Self::Store(sentence) => {
                sentence.clone()
            }
            Self::Interrupted => "interrupted".to_owned(),
            Self::Unexpected(error) => error.to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str(&self.sentence()),
            _ => write!(f, "error: {}", self.sentence()),
        }
    }
}

impl From<UnknownTicker> for Problem {
    fn from(unknown: UnknownTicker) -> Self {
        Self::WrongUse(unknown.to_string())
    }
}

impl From<InvalidSetting> for Problem {
    fn from(invalid: InvalidSetting) -> Self {
        Self::WrongUse(invalid.to_string())
    }
}

impl From<&StoreError> for Problem {
    /// Says what lies at the bottom too, such as "permission denied".
    fn from(error: &StoreError) -> Self {
        let mut sentence = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            sentence.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self::Store(sentence)
    }
}

impl From<buttress::Error> for Problem {
    fn from(error: buttress::Error) -> Self {
        match error.downcast_ref::<StoreError>() {
            Some(store) => store.into(),
            None => Self::Unexpected(error.into()),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Unexpected(error.into())
    }
}
