//! The changes of one circuit, the newest last.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use buttress::circuit_breaker::Transition;
use serde::Serialize;

use super::Trace;
use crate::text;

/// How many changes are kept.
const MOST: usize = 64;

/// One change of a circuit's state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Change {
    /// In milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) reason: String,
    /// The trace in which it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<Trace>,
}

/// What is shown of a log.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Timeline {
    pub(crate) changes: Vec<Change>,
}

/// The changes of one circuit. Its lock is held for a moment and calls nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<VecDeque<Change>>>);

// ===== impl Log =====

impl Log {
    /// Adds what the circuit itself tells.
    pub(crate) fn told(&self, transition: &Transition) {
        self.add(Change {
            at: text::now_millis(),
            from: transition.from.as_str(),
            to: transition.to.as_str(),
            reason: transition.reason.as_str().to_owned(),
            trace: None,
        });
    }

    pub(crate) fn add(&self, change: Change) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() == MOST {
            changes.pop_front();
        }
        changes.push_back(change);
    }

    /// Says in which trace the last change to a state happened.
    pub(crate) fn trace(&self, to: &str, trace: Trace) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = changes.iter_mut().rev().find(|change| change.to == to);
        if let Some(change) = last.filter(|change| change.trace.is_none()) {
            change.trace = Some(trace);
        }
    }

    /// Returns when the last change was.
    pub(crate) fn last(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).back().map(|change| change.at)
    }

    pub(crate) fn timeline(&self) -> Timeline {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Timeline { changes: changes.iter().cloned().collect() }
    }
}
