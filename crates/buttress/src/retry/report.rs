//! What a finished series of attempts came to.

use std::{fmt, time::Duration};

use crate::FailureKind;

/// A finished series of attempts, as [`RetryLayer::on_finish`](super::RetryLayer::on_finish) gets
/// it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryReport<'a> {
    /// How many attempts were made, the first one included.
    pub attempts: usize,
    /// The delays between them; of very long series the first 4,096.
    pub delays: &'a [Duration],
    /// The kind of the last failure, also of a series that succeeded after it.
    pub last_failure: Option<FailureKind>,
    /// Why the series ended.
    pub stop: Stop,
}

/// Why a series of attempts ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// An attempt succeeded.
    Success,
    /// The failure is one that no repeat helps, or the request cannot be repeated.
    NotRetryable,
    /// All attempts were made.
    Attempts,
    /// The next attempt would have started too late.
    Deadline,
    /// The retry budget, or the call's own, had nothing left.
    Budget,
    /// The service asked for a longer wait than is allowed.
    RetryAfterOverCap,
}

impl Stop {
    /// Returns the reason in snake case, as the span's `stop` names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::NotRetryable => "not_retryable",
            Self::Attempts => "attempts",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::RetryAfterOverCap => "retry_after_over_cap",
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
