//! How a case ends before its end, and what it expects of errors.

use std::{error::Error as _, fmt};

use buttress::{StoreError, StoreErrorKind};

/// Why a case goes no further.
pub(super) enum Stop {
    Skipped(String),
    Failed(String),
}

/// What a case, or a step of one, answers.
pub(super) type Checked<T = ()> = Result<T, Stop>;

/// Fails the case where a condition does not hold.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::conformance::check::fail(format!($($message)+)));
        }
    };
}

/// Fails the case where two values differ.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($message:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => ensure!(
                found == expected,
                "{}: found {found:?}, expected {expected:?}",
                format_args!($($message)+)
            ),
        }
    };
}

pub(super) use {ensure, ensure_eq};

// ===== impl Stop =====

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self::Failed(format!("unexpected error: {error}{source}"))
    }
}

/// A case that fails; what is said of it fits on a few lines.
pub(super) fn fail(what: impl Into<String>) -> Stop {
    const MOST: usize = 600;
    let mut what = what.into();
    if let Some((end, _)) = what.char_indices().nth(MOST) {
        what.truncate(end);
        what.push_str(" ...");
    }
    Stop::Failed(what)
}

/// A case that the store cannot be asked for.
pub(super) fn skip<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::Skipped(reason.into()))
}

/// Expects a conflict that says which head is there.
pub(super) fn conflict<T: fmt::Debug>(
    answer: Result<T, StoreError>,
    found_head: Option<u64>,
    what: &str,
) -> Checked {
    let error = refused(answer, what)?;
    match error.kind() {
        StoreErrorKind::Conflict { found, .. } if *found == found_head => Ok(()),
        StoreErrorKind::Conflict { found, .. } => Err(fail(format!(
            "{what}: the conflict says that the head is {found:?}, but it is {found_head:?}"
        ))),
        _ => Err(fail(format!("{what}: expected Conflict, got: {error}"))),
    }
}

/// Expects that the lease is known to have gone to somebody else.
pub(super) fn fenced<T: fmt::Debug>(answer: Result<T, StoreError>, what: &str) -> Checked {
    let error = refused(answer, what)?;
    let fenced = matches!(error.kind(), StoreErrorKind::Fenced { .. });
    ensure!(fenced, "{what}: expected Fenced, got: {error}");
    Ok(())
}

/// Expects that somebody holds the lease.
pub(super) fn held<T: fmt::Debug>(
    answer: Result<T, StoreError>,
    by: &str,
    what: &str,
) -> Checked<std::time::SystemTime> {
    let error = refused(answer, what)?;
    match error.kind() {
        StoreErrorKind::Held { owner, until, .. } if owner == by => Ok(*until),
        _ => Err(fail(format!("{what}: expected Held by {by:?}, got: {error}"))),
    }
}

/// Expects that there is no such checkpoint.
pub(super) fn not_found<T: fmt::Debug>(answer: Result<T, StoreError>, what: &str) -> Checked {
    let error = refused(answer, what)?;
    ensure!(error.is_not_found(), "{what}: expected NotFound, got: {error}");
    Ok(())
}

/// Expects that a state is too large.
pub(super) fn too_large<T: fmt::Debug>(
    answer: Result<T, StoreError>,
    size: u64,
    limit: u64,
    what: &str,
) -> Checked {
    let error = refused(answer, what)?;
    ensure_eq!(*error.kind(), *StoreError::too_large(size, limit).kind(), "{what}");
    Ok(())
}

/// Expects an error.
pub(super) fn refused<T: fmt::Debug>(
    answer: Result<T, StoreError>,
    what: &str,
) -> Checked<StoreError> {
    match answer {
        Ok(answer) => Err(fail(format!("{what} was not refused but answered {answer:?}"))),
        Err(error) => Ok(error),
    }
}
