//! What can go wrong with the program itself, and the exit codes for it.

use std::{fmt, io, process::ExitCode};

use buttress::BoxError;

use crate::{llm::InvalidSetting, prices::UnknownTicker};

/// The exit code of a wrong flag, ticker or setting.
pub(crate) const WRONG_USE: u8 = 2;
const ENDPOINT: u8 = 3;
const INTERRUPTED: u8 = 130;

/// Why there is no report.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The user can mend it on the command line or in the environment.
    WrongUse(String),
    /// The model endpoint cannot be used.
    Endpoint(String),
    /// Ctrl-C.
    Interrupted,
    Unexpected(BoxError),
}

// ===== impl Problem =====

impl Problem {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::WrongUse(_) => ExitCode::from(WRONG_USE),
            Self::Endpoint(_) => ExitCode::from(ENDPOINT),
            Self::Interrupted => ExitCode::from(INTERRUPTED),
            Self::Unexpected(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongUse(sentence) | Self::Endpoint(sentence) => write!(f, "error: {sentence}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Unexpected(error) => write!(f, "error: {error}"),
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

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Unexpected(error.into())
    }
}
