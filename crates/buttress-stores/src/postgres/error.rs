//! What a server or the way to it says, as errors of stores.

use std::{error::Error as StdError, fmt};

use buttress::checkpoint::{StoreError, StoreErrorKind};
use deadpool_postgres::PoolError;
use tokio_postgres::error::DbError;

/// Why one attempt failed, and whether another may be made at once.
pub(super) struct Failure {
    pub(super) error: StoreError,
    pub(super) lost: Lost,
}

/// What is known of an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server has answered, or there is none: another attempt would end the same.
    Nothing,
    /// The connection, or the transaction, is gone before anything was committed.
    Before,
    /// The connection is gone and with it the answer to a commit.
    Within,
}

/// An error of the server or of the connection without what a row holds: a detail, a hint.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

// ===== impl Failure =====

impl Failure {
    pub(super) fn is_corrupt(&self) -> bool {
        matches!(self.error.kind(), StoreErrorKind::Corrupt { .. })
    }

    /// Names the server in what is about it, and not about a chain.
    pub(super) fn at(self, place: Option<&str>) -> StoreError {
        let of_server = matches!(
            self.error.kind(),
            StoreErrorKind::Unavailable
                | StoreErrorKind::Setup { .. }
                | StoreErrorKind::TooNew { .. }
                | StoreErrorKind::Corrupt { .. }
        );
        match place {
            Some(place) if of_server => self.error.at_place(place),
            _ => self.error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, lost: Lost::Nothing }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(error) = error.as_db_error() {
            return by_state(error);
        }
        let said = said(&error);
        // The kinds have no other name.
        let setup = ["authentication error", "invalid con", "error performing TLS"];
        if setup.iter().any(|start| said.starts_with(start)) {
            return StoreError::setup(said).into();
        }
        // Nobody is there; but a connection that ends while it begins was ended, as any other.
        let lost = if said.starts_with("error connecting") { Lost::Nothing } else { Lost::Before };
        Self { error: StoreError::unavailable(Cause(said)), lost }
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(_) => unavailable("no connection in time"),
            PoolError::Closed => StoreError::setup("the pool of connections was closed").into(),
            error => StoreError::setup(error.to_string()).into(),
        }
    }
}

/// Returns the error of a store that is away for a reason of the client's.
pub(super) fn unavailable(why: &str) -> Failure {
    StoreError::unavailable(Cause(why.to_owned())).into()
}

/// Sorts what the server says by its SQLSTATE.
fn by_state(error: &DbError) -> Failure {
    let state = error.code().code();
    let said = format!("{} (SQLSTATE {state})", error.message());
    // Older poolers say so of whatever is wrong.
    let refused = ["authentication failed", "no such"].iter().any(|words| said.contains(words));
    if state == "08P01" && refused {
        return StoreError::setup(said).into();
    }
    let lost = match state {
        // The connection ends: an administrator, a crash, a timeout, a pooler that says so.
        _ if state.starts_with("08") || state.starts_with("57P") => Lost::Before,
        "25P03" => Lost::Before,
        // The transaction was picked to give way.
        "40001" | "40P01" => Lost::Before,
        _ => Lost::Nothing,
    };
    // A full disk or memory, a cancelled or late statement, a server that is read only since
    // another one has taken over.
    let away = ["53", "55P03", "57", "58", "25006"];
    let error = if lost == Lost::Before || away.iter().any(|start| state.starts_with(start)) {
        StoreError::unavailable(Cause(said))
    } else {
        StoreError::setup(said)
    };
    Failure { error, lost }
}

/// Returns an error in one line with what caused it; none of them knows a password.
fn said(error: &tokio_postgres::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
