use std::{
    error::Error as StdError,
    fmt,
    time::{Duration, SystemTime},
};

use super::{CheckpointKey, WorkflowId};
use crate::{BoxError, Error, ErrorKind, Failure, FailureKind};

/// What a store, or what reads and writes states, could not do.
///
/// One word; `Display` is one line that names the workflow and never shows a state, a password or
/// the source.
pub struct StoreError(Box<Inner>);

struct Inner {
    kind: StoreErrorKind,
    key: Option<CheckpointKey>,
    sequence: Option<u64>,
    place: Option<String>,
    source: Option<BoxError>,
}

/// What went wrong in a store, with the data that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// There is no such checkpoint.
    NotFound,
    /// Somebody else has written; nothing was stored.
    #[non_exhaustive]
    Conflict {
        /// The head that the writer knew.
        expected: Option<u64>,
        /// The head that is there.
        found: Option<u64>,
    },
    /// The writer's lease has gone to somebody else; nothing was stored.
    #[non_exhaustive]
    Fenced {
        /// The writer's token.
        token: u64,
        /// The newest token of the chain.
        current: u64,
    },
    /// Somebody holds the lease.
    #[non_exhaustive]
    Held {
        /// Who.
        owner: String,
        /// Until when, unless renewed.
        until: SystemTime,
    },
    /// What is stored cannot be read; it stays where it is.
    #[non_exhaustive]
    Corrupt {
        /// What is wrong with it.
        what: String,
        /// Where it stays.
        kept: String,
    },
    /// The state is larger than the store takes; nothing was stored.
    #[non_exhaustive]
    TooLarge {
        /// The size in bytes.
        size: u64,
        /// The most that the store takes.
        limit: u64,
    },
    /// The state, or the store, was written by a newer program; it is left untouched.
    #[non_exhaustive]
    TooNew {
        /// The version that is stored.
        found: u32,
        /// The newest that this program reads.
        supported: u32,
    },
    /// A state is older than this program's, and no step leads from it to the next version.
    #[non_exhaustive]
    NoMigration {
        /// The version that has no step.
        from: u32,
        /// The version that is wanted.
        to: u32,
    },
    /// A name cannot be one; nothing was asked of the store.
    #[non_exhaustive]
    InvalidId {
        /// What is wrong with it.
        reason: String,
    },
    /// A state cannot be written by its serializer; nothing was asked of the store.
    #[non_exhaustive]
    Encode {
        /// What is wrong with it.
        reason: String,
    },
    /// The store cannot be used as it is set up: a missing right, a wrong password, a folder that
    /// is a file.
    #[non_exhaustive]
    Setup {
        /// What is wrong with it.
        reason: String,
    },
    /// The store is away or full; whether a put was stored is known after a repeat with the same
    /// write id.
    Unavailable,
}

// ===== impl StoreError =====

impl StoreError {
    /// Creates an error of a kind.
    #[must_use]
    pub fn new(kind: StoreErrorKind) -> Self {
        Self(Box::new(Inner { kind, key: None, sequence: None, place: None, source: None }))
    }

    /// There is no such checkpoint.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(StoreErrorKind::NotFound)
    }

    /// Somebody else has written.
    #[must_use]
    pub fn conflict(expected: Option<u64>, found: Option<u64>) -> Self {
        Self::new(StoreErrorKind::Conflict { expected, found })
    }

    /// The lease has gone to somebody else.
    #[must_use]
    pub fn fenced(token: u64, current: u64) -> Self {
        Self::new(StoreErrorKind::Fenced { token, current })
    }

    /// Somebody holds the lease.
    #[must_use]
    pub fn held(owner: impl Into<String>, until: SystemTime) -> Self {
        Self::new(StoreErrorKind::Held { owner: owner.into(), until })
    }

    /// What is stored cannot be read.
    #[must_use]
    pub fn corrupt(what: impl Into<String>, kept: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Corrupt { what: what.into(), kept: kept.into() })
    }

    /// A state is larger than the store takes.
    #[must_use]
    pub fn too_large(size: u64, limit: u64) -> Self {
        Self::new(StoreErrorKind::TooLarge { size, limit })
    }

    /// Something was written by a newer program.
    #[must_use]
    pub fn too_new(found: u32, supported: u32) -> Self {
        Self::new(StoreErrorKind::TooNew { found, supported })
    }

    /// No step leads from a version of a state to the next.
    #[must_use]
    pub fn no_migration(from: u32, to: u32) -> Self {
        Self::new(StoreErrorKind::NoMigration { from, to })
    }

    /// A name cannot be one.
    #[must_use]
    pub fn invalid_id(reason: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::InvalidId { reason: reason.into() })
    }

    /// A state cannot be written.
    #[must_use]
    pub fn encode(reason: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Encode { reason: reason.into() })
    }

    /// The store cannot be used as it is set up.
    #[must_use]
    pub fn setup(reason: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Setup { reason: reason.into() })
    }

    /// The store is away or full.
    #[must_use]
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::new(StoreErrorKind::Unavailable).with_source(source)
    }

    /// Names the chain.
    #[must_use]
    pub fn in_chain(mut self, key: &CheckpointKey) -> Self {
        self.0.key = Some(key.clone());
        self
    }

    /// Names the checkpoint.
    #[must_use]
    pub fn at_sequence(mut self, sequence: u64) -> Self {
        self.0.sequence = Some(sequence);
        self
    }

    /// Names the file or address that is meant; it must not hold a password.
    #[must_use]
    pub fn at_place(mut self, place: impl Into<String>) -> Self {
        self.0.place = Some(place.into());
        self
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns what went wrong.
    #[must_use]
    pub const fn kind(&self) -> &StoreErrorKind {
        &self.0.kind
    }

    /// Returns whether the same request may succeed later.
    ///
    /// Only [`Unavailable`](StoreErrorKind::Unavailable), and [`Held`](StoreErrorKind::Held) when
    /// its time is over.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self.0.kind, StoreErrorKind::Unavailable | StoreErrorKind::Held { .. })
    }

    /// Returns whether the store is away or full.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self.0.kind, StoreErrorKind::Unavailable)
    }

    /// Returns whether somebody else has written.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self.0.kind, StoreErrorKind::Conflict { .. })
    }

    /// Returns whether there is no such checkpoint.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self.0.kind, StoreErrorKind::NotFound)
    }

    /// Returns the workflow, where it is known.
    #[must_use]
    pub const fn workflow_id(&self) -> Option<&WorkflowId> {
        match &self.0.key {
            Some(key) => Some(&key.workflow_id),
            None => None,
        }
    }

    /// Returns the sequence, where it is known.
    #[must_use]
    pub const fn sequence(&self) -> Option<u64> {
        self.0.sequence
    }

    /// Returns the file or address, where there is one.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }

    /// Returns what outer layers read.
    pub(crate) fn failure(&self) -> Failure {
        let failure = match self.kind() {
            StoreErrorKind::Unavailable => Failure::new(FailureKind::Transient),
            StoreErrorKind::Held { until, .. } => Failure::new(FailureKind::Transient)
                .with_retry_after(
                    until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO),
                ),
            _ => Failure::new(FailureKind::Permanent),
        };
        // A store that is away says nothing about the agent.
        failure.with_trips(false)
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no checkpoint found"),
            Self::Conflict { expected, found } => {
                write!(f, "expected {}, found {}", Head(*expected), Head(*found))
            }
            Self::Fenced { token, current } => {
                write!(f, "the lease with token {token} has gone to token {current}")
            }
            Self::Held { owner, .. } => write!(f, "{owner:?} holds the lease"),
            Self::Corrupt { what, kept } => write!(f, "corrupt: {what}; kept at {kept}"),
            Self::TooLarge { size, limit } => {
                write!(f, "the state has {size} bytes, and the store takes {limit}")
            }
            Self::TooNew { found, supported } => {
                write!(f, "version {found} is newer than {supported}, the newest that is known")
            }
            Self::NoMigration { from, to } => {
                write!(f, "no step leads from schema version {from} towards {to}")
            }
            Self::InvalidId { reason } | Self::Setup { reason } => f.write_str(reason),
            Self::Encode { reason } => write!(f, "the state cannot be written: {reason}"),
            Self::Unavailable => f.write_str("the store is not available"),
        }
    }
}

struct Head(Option<u64>);

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(sequence) => write!(f, "checkpoint {sequence}"),
            None => f.write_str("no checkpoint"),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.0.key {
            write!(f, "{key}: ")?;
        }
        if let Some(sequence) = self.0.sequence {
            write!(f, "checkpoint {sequence}: ")?;
        }
        self.0.kind.fmt(f)?;
        match &self.0.place {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreError")
            .field("kind", &self.0.kind)
            .field("key", &self.0.key)
            .field("sequence", &self.0.sequence)
            .field("place", &self.0.place)
            .field("source", &self.0.source.as_ref().map(ToString::to_string))
            .finish()
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<StoreError> for Error {
    /// Makes it the error of a layer, whose source it is.
    fn from(error: StoreError) -> Self {
        let kind = match (error.kind(), error.workflow_id()) {
            (StoreErrorKind::NotFound, Some(id)) => {
                ErrorKind::CheckpointNotFound { workflow_id: id.as_str().into() }
            }
            _ => ErrorKind::Checkpoint,
        };
        let failure = error.failure();
        Self::new(kind).with_failure(failure).with_source(error)
    }
}
