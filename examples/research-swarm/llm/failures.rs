//! How the calls of a run failed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress::FailureKind;

/// How each call failed, whatever the layers around it made of that: an open circuit says only
/// that something failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallFailures(Arc<Mutex<Vec<CallFailure>>>);

/// How one call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallFailure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
}

// ===== impl CallFailures =====

impl CallFailures {
    pub(super) fn add(&self, kind: FailureKind, reason: impl Into<String>) {
        self.list().push(CallFailure { kind, reason: reason.into() });
    }

    /// Returns what failed so far, the first one first.
    pub(crate) fn to_vec(&self) -> Vec<CallFailure> {
        self.list().clone()
    }

    fn list(&self) -> MutexGuard<'_, Vec<CallFailure>> {
        // What a panicking thread left is still a list of whole failures.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
