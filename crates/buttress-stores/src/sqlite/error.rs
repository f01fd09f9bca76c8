use std::{io, path::Path};

use buttress::{BoxError, CheckpointKey, StoreError, StoreErrorKind};
use rusqlite::{Error as SqliteError, ErrorCode, ffi};

/// What went wrong, before it is known of which chain and in which file.
#[derive(Debug)]
pub(super) enum Problem {
    /// The rules of a chain, which name it.
    Refused(StoreError),
    /// Everything else.
    Failed { kind: StoreErrorKind, source: Option<BoxError> },
}

// ===== impl Problem =====

impl Problem {
    /// What is stored cannot be read.
    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Failed { kind: corrupt(what), source: None }
    }

    /// The store cannot be used as it is set up.
    pub(super) fn setup(reason: impl Into<String>) -> Self {
        Self::Failed { kind: StoreError::setup(reason).kind().clone(), source: None }
    }

    pub(super) fn too_new(found: u32, supported: u32) -> Self {
        Self::Failed { kind: StoreError::too_new(found, supported).kind().clone(), source: None }
    }

    pub(super) fn unavailable(why: impl Into<BoxError>) -> Self {
        Self::Failed { kind: StoreErrorKind::Unavailable, source: Some(why.into()) }
    }

    /// An error of the file system, when the file is looked at or made.
    pub(super) fn io(what: &str, error: io::Error) -> Self {
        use io::ErrorKind::{Interrupted, OutOfMemory, QuotaExceeded, StorageFull, TimedOut};
        let kind = match error.kind() {
            StorageFull | QuotaExceeded | Interrupted | OutOfMemory | TimedOut => {
                StoreErrorKind::Unavailable
            }
            _ => StoreError::setup(what).kind().clone(),
        };
        Self::Failed { kind, source: Some(error.into()) }
    }

    /// Makes one more of a problem that several callers share.
    pub(super) fn share(&self) -> Self {
        let (kind, source) = match self {
            Self::Refused(error) => (error.kind(), None),
            Self::Failed { kind, source } => (kind, source.as_ref().map(ToString::to_string)),
        };
        Self::Failed { kind: kind.clone(), source: source.map(Into::into) }
    }

    /// Returns whether something is damaged, so that something older may still be whole.
    pub(super) const fn is_corrupt(&self) -> bool {
        matches!(self, Self::Failed { kind: StoreErrorKind::Corrupt { .. }, .. })
    }

    /// Names the chain, where the rules have not, and the file.
    pub(super) fn into_error(self, key: &CheckpointKey, path: &Path) -> StoreError {
        match self {
            Self::Refused(error) => error,
            failed @ Self::Failed { .. } => failed.into_error_at(path).in_chain(key),
        }
    }

    /// Names the file.
    pub(super) fn into_error_at(self, path: &Path) -> StoreError {
        let place = path.display().to_string();
        let (kind, source) = match self {
            Self::Refused(error) => return error,
            // Whatever is damaged stays in the file.
            Self::Failed { kind: StoreErrorKind::Corrupt { what, .. }, source } => {
                (StoreError::corrupt(what, place.as_str()).kind().clone(), source)
            }
            Self::Failed { kind, source } => (kind, source),
        };
        let error = StoreError::new(kind).at_place(place);
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

fn corrupt(what: impl Into<String>) -> StoreErrorKind {
    StoreError::corrupt(what, "").kind().clone()
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<SqliteError> for Problem {
    fn from(error: SqliteError) -> Self {
        let kind = match &error {
            SqliteError::SqliteFailure(failure, _) => kind_of(*failure),
            // A row that does not have the types it was written with.
            _ => corrupt("a row cannot be read"),
        };
        Self::Failed { kind, source: Some(error.into()) }
    }
}

/// Sorts SQLite's own codes.
fn kind_of(failure: ffi::Error) -> StoreErrorKind {
    let setup = |reason| StoreError::setup(reason).kind().clone();
    match (failure.code, failure.extended_code) {
        (
            ErrorCode::SystemIoFailure,
            ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS,
        ) => corrupt("the file ends too early"),
        (_, ffi::SQLITE_READONLY_DBMOVED) => setup(super::file::MOVED),
        (
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::OperationAborted
            | ErrorCode::FileLockingProtocolFailed,
            _,
        ) => StoreErrorKind::Unavailable,
        (ErrorCode::ReadOnly, _) => setup("the file cannot be written"),
        (ErrorCode::CannotOpen, _) => setup("the file cannot be opened"),
        (ErrorCode::PermissionDenied, _) => setup("the right to use the file is missing"),
        (ErrorCode::NotADatabase, _) => corrupt("it is no SQLite file"),
        (ErrorCode::DatabaseCorrupt, _) => corrupt("the file is damaged"),
        // Our statements fit our tables: where they do not, the tables have changed.
        _ => corrupt("the tables are not as they were made"),
    }
}
