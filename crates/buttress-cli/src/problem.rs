//! What can go wrong, and the exit codes for it.

use std::{error::Error, fmt, io};

use buttress::{StoreError, StoreErrorKind};
use buttress_langfuse::{backlog::BacklogError, client::ClientError};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOTHING: u8 = 3;
const SETTINGS: u8 = 4;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Somebody is away or refuses, or something unexpected.
    Failed(String),
    /// A flag or an argument has to change.
    Usage(String),
    /// There is no such thing.
    Nothing(String),
    /// A setting has to change.
    Settings(String),
}

// ===== impl Problem =====

impl Problem {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => FAILED,
            Self::Usage(_) => USAGE,
            Self::Nothing(_) => NOTHING,
            Self::Settings(_) => SETTINGS,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(sentence) | Self::Usage(sentence) | Self::Settings(sentence) => {
                write!(f, "error: {sentence}")
            }
            Self::Nothing(sentence) => f.write_str(sentence),
        }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        let sentence = error.to_string();
        if error.is_configuration() {
            Self::Settings(sentence)
        } else if error.is_not_found() {
            Self::Nothing(sentence)
        } else {
            Self::Failed(sentence)
        }
    }
}

impl From<BacklogError> for Problem {
    fn from(error: BacklogError) -> Self {
        if error.is_missing() {
            return Self::Nothing(format!("{error}: nothing waits"));
        }
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let why = source.map(|source| format!(": {source}")).unwrap_or_default();
        match source.map(io::Error::kind) {
            Some(io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied) => {
                Self::Settings(format!("{error}{why}; check --spool or BUTTRESS_SPOOL_DIR"))
            }
            _ => Self::Failed(format!("{error}{why}")),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let mut sentence = error.to_string();
        // What lies at the bottom says most, such as "permission denied".
        let mut cause = error.source();
        while let Some(source) = cause {
            sentence.push_str(&format!(": {source}"));
            cause = source.source();
        }
        match error.kind() {
            StoreErrorKind::NotFound => Self::Nothing(sentence),
            StoreErrorKind::InvalidId { .. } => Self::Usage(sentence),
            StoreErrorKind::Setup { .. } => Self::Settings(format!("{sentence}; check --store")),
            StoreErrorKind::Unavailable => Self::Failed(format!("{sentence}; check --store")),
            _ => Self::Failed(sentence),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
