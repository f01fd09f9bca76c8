//! What a series remembers of its failed attempts.

use std::{collections::VecDeque, fmt, time::Duration};

use crate::{Failure, FailureKind, telemetry::json};

/// How many failures of a series the span shows from its start, and again from its end.
const SHOWN: usize = 16;
/// How many delays a report lists.
const DELAYS: usize = 4096;

/// Made at the first failure of a series.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) delays: Vec<Duration>,
    pub(super) last_delay: Option<Duration>,
    pub(super) last_failure: Option<FailureKind>,
    /// The text of the last failure; only where somebody listens.
    pub(super) last_error: String,
    first: Vec<Entry>,
    last: VecDeque<Entry>,
    left_out: usize,
}

#[derive(Debug)]
struct Entry {
    attempt: usize,
    error: String,
    kind: FailureKind,
}

impl History {
    /// Notes a failed attempt; its text only where somebody listens.
    pub(super) fn failed(
        &mut self,
        attempt: usize,
        failure: &Failure,
        error: Option<&dyn fmt::Display>,
    ) {
        self.last_failure = Some(failure.kind());
        let Some(error) = error else { return };
        self.last_error = error.to_string();
        let entry = Entry { attempt, error: self.last_error.clone(), kind: failure.kind() };
        if self.first.len() < SHOWN {
            self.first.push(entry);
            return;
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
            self.left_out += 1;
        }
        self.last.push_back(entry);
    }

    /// Notes the delay before the next attempt; the list is for a report.
    pub(super) fn wait(&mut self, delay: Duration, is_reported: bool) {
        self.last_delay = Some(delay);
        if is_reported && self.delays.len() < DELAYS {
            self.delays.push(delay);
        }
    }

    /// Writes the span's `retry_history`; a gap says how many attempts it leaves out.
    pub(super) fn to_json(&self) -> String {
        let mut list = json::List::new();
        let write = |list: &mut json::List, entry: &Entry| {
            list.push(|object| {
                object.number("attempt", entry.attempt);
                object.text("error", &entry.error);
                object.text("error_type", &entry.kind);
            });
        };
        self.first.iter().for_each(|entry| write(&mut list, entry));
        if self.left_out > 0 {
            list.push(|object| object.number("left_out", self.left_out));
        }
        self.last.iter().for_each(|entry| write(&mut list, entry));
        list.into_text()
    }
}
