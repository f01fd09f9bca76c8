//! What a server or the way to it says, as errors of stores.

use std::{error::Error as StdError, fmt};

use buttress::checkpoint::StoreError;
use redis::{ErrorKind, RedisError};

/// Why one attempt failed, and whether another may be made at once.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether the connection is gone, and with it the answer.
    pub(super) lost: bool,
}

/// What a server or a connection says, without what belongs to the caller.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

/// What a server says that is full, starting, broken or not the first any more.
const AWAY: [&str; 10] = [
    "OOM",
    "READONLY",
    "LOADING",
    "MISCONF",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "UNBLOCKED",
];

// ===== impl Failure =====

impl Failure {
    /// Says that another attempt may undo what somebody else has done in between.
    pub(super) fn at_last(self) -> Self {
        Self { lost: false, ..self }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, lost: false }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let said = said(&error);
        let is_away = match error.kind() {
            ErrorKind::Io | ErrorKind::Parse => true,
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => false,
            _ => {
                let code = error.code().unwrap_or_default();
                AWAY.contains(&code) || said.contains("max number of clients")
            }
        };
        if !is_away {
            return StoreError::setup(said).into();
        }
        let lost = error.is_connection_dropped();
        Self { error: StoreError::unavailable(Cause(said)), lost }
    }
}

/// Returns the error of a store that is away for a reason of the client's.
pub(super) fn unavailable(why: &str) -> Failure {
    StoreError::unavailable(Cause(why.to_owned())).into()
}

/// Returns an error in one line.
fn said(error: &RedisError) -> String {
    let said = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    // A server that does not know a command repeats what it was asked to store.
    let end = said.find(", with args").unwrap_or(said.len());
    said[..end].replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use buttress::checkpoint::StoreErrorKind;

    use super::*;

    fn kind(code: &str, detail: &str) -> StoreErrorKind {
        let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
        Failure::from(error).error.kind().clone()
    }

    #[test]
    fn what_a_server_says_is_away_or_set_up_wrong() {
        for code in AWAY {
            assert_eq!(kind(code, "for now"), StoreErrorKind::Unavailable, "{code}");
        }
        assert_eq!(kind("ERR", "max number of clients reached"), StoreErrorKind::Unavailable);
        for code in ["NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE", "MOVED", "ERR"] {
            assert!(matches!(kind(code, "as told"), StoreErrorKind::Setup { .. }), "{code}");
        }
        let unknown = kind("ERR", "unknown command 'EVALSHA', with args beginning with: 'secret'");
        assert!(!format!("{unknown:?}").contains("secret"));
    }
}
