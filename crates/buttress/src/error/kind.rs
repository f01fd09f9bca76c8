use std::{fmt, sync::Arc, time::Duration};

use super::{Shown, Told};
use crate::{BoxError, BudgetLimit, Failure, FailureKind};

/// What went wrong, with the data that belongs to it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call did not finish in time and was dropped.
    #[non_exhaustive]
    Timeout {
        /// How long the limit is that ran out.
        after: Duration,
        /// Which limit.
        limit: TimeLimit,
    },
    /// A circuit breaker rejected the call; the agent was not asked.
    #[non_exhaustive]
    CircuitOpen {
        /// The name of the circuit, with its key where it has one.
        key: Arc<str>,
        /// Why it rejects.
        reason: OpenReason,
        /// How long it will go on, where that is known.
        retry_after: Option<Duration>,
    },
    /// Every agent of a chain failed.
    #[non_exhaustive]
    FallbackExhausted {
        /// Each agent's failure, in the order in which they were asked.
        failures: Vec<AgentFailure>,
    },
    /// The call's budget ran out.
    #[non_exhaustive]
    BudgetExhausted {
        /// Which of its limits.
        limit: BudgetLimit,
    },
    /// The agent panicked and [`CatchPanicLayer`](crate::CatchPanicLayer) caught it.
    Panicked,
    /// A stream broke off after part of it was handed on; the source is what cut it.
    #[non_exhaustive]
    Interrupted {
        /// How many items had been handed on.
        items: u64,
    },
    /// A workflow has no checkpoint to go on from.
    #[cfg(feature = "checkpoint")]
    #[non_exhaustive]
    CheckpointNotFound {
        /// The workflow.
        workflow_id: Arc<str>,
    },
    /// A checkpoint could not be kept or read; the source is the [`StoreError`](crate::StoreError).
    #[cfg(feature = "checkpoint")]
    Checkpoint,
    /// More of a swarm's required agents failed than it tolerates.
    #[cfg(feature = "swarm")]
    #[non_exhaustive]
    CriticalDegradation {
        /// The swarm's name.
        swarm: Arc<str>,
        /// The failures that were known then, of required and optional agents, in the order in
        /// which those were added.
        failures: Vec<crate::SwarmFailure>,
        /// The share of the required agents that had failed.
        failure_rate: f64,
        /// The share that may fail.
        threshold: f64,
    },
    /// The agent's own error, which is the source.
    Service,
}

/// Which time a call did not keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeLimit {
    /// The time of a whole call, until its answer.
    Call,
    /// The time of a stream until its first item.
    FirstItem,
    /// The time of a stream between two items.
    Idle,
    /// The time of a stream until its end.
    Total,
}

/// Why a circuit rejects calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenReason {
    /// It opened and its time is not over.
    Open,
    /// It is half-open and every probe it allows is on its way.
    HalfOpenFull,
    /// Somebody opened it by hand.
    ForcedOpen,
}

/// How one agent of a chain failed.
#[non_exhaustive]
pub struct AgentFailure {
    /// The agent's name in the chain.
    pub agent: Arc<str>,
    /// What its failure was classified as.
    pub failure: Failure,
    /// Its error; none where an answer was classified as a failure.
    pub error: Option<BoxError>,
}

// ===== impl TimeLimit =====

impl TimeLimit {
    /// Returns the limit in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::FirstItem => "first_item",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// ===== impl OpenReason =====

impl OpenReason {
    /// Returns the reason in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfOpenFull => "half_open_full",
            Self::ForcedOpen => "forced_open",
        }
    }
}

impl fmt::Display for OpenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// ===== impl AgentFailure =====

impl AgentFailure {
    /// Creates the record of one agent's failure.
    #[must_use]
    pub const fn new(agent: Arc<str>, failure: Failure, error: Option<BoxError>) -> Self {
        Self { agent, failure, error }
    }
}

impl fmt::Debug for AgentFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentFailure")
            .field("agent", &self.agent)
            .field("failure", &self.failure)
            .field("error", &self.error.as_ref().map(Shown))
            .finish()
    }
}

impl fmt::Display for AgentFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{}: {}", self.agent, Told(&**error)),
            None => write!(f, "{}: {}", self.agent, self.failure),
        }
    }
}

// ===== impl ErrorKind =====

impl ErrorKind {
    /// Builds [`Timeout`](Self::Timeout) of a whole call.
    #[must_use]
    pub const fn timeout(after: Duration) -> Self {
        Self::Timeout { after, limit: TimeLimit::Call }
    }

    /// Builds [`Interrupted`](Self::Interrupted), for who reads streams that are none of ours.
    #[must_use]
    pub const fn interrupted(items: u64) -> Self {
        Self::Interrupted { items }
    }

    /// Returns the failure that the kind means by itself.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Timeout { .. } => Failure::new(FailureKind::Timeout),
            Self::CircuitOpen { retry_after, .. } => {
                let failure = Failure::new(FailureKind::CircuitOpen).with_unprocessed(true);
                match retry_after {
                    Some(wait) => failure.with_retry_after(*wait),
                    None => failure,
                }
            }
            Self::FallbackExhausted { failures } => {
                failure_of_all(&failures.iter().map(|failed| &failed.failure))
            }
            Self::BudgetExhausted { limit: BudgetLimit::Deadline } => {
                Failure::new(FailureKind::Timeout).with_retryable(false).with_trips(false)
            }
            Self::BudgetExhausted { .. } => {
                Failure::new(FailureKind::QuotaExhausted).with_trips(false)
            }
            Self::Panicked => Failure::new(FailureKind::Panicked),
            Self::Interrupted { items } => {
                Failure::new(FailureKind::Transient).with_after_output(*items > 0)
            }
            #[cfg(feature = "checkpoint")]
            Self::CheckpointNotFound { .. } | Self::Checkpoint => {
                Failure::new(FailureKind::Permanent).with_trips(false)
            }
            #[cfg(feature = "swarm")]
            Self::CriticalDegradation { failures, .. } => {
                let required = failures.iter().filter(|failed| failed.is_required());
                // Other agents may have got the request.
                failure_of_all(&required.map(crate::SwarmFailure::failure)).with_unprocessed(false)
            }
            Self::Service => Failure::new(FailureKind::Transient),
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { after, limit } => match limit {
                TimeLimit::Call => write!(f, "timed out after {after:?}"),
                TimeLimit::FirstItem => write!(f, "no first item after {after:?}"),
                TimeLimit::Idle => write!(f, "no further item for {after:?}"),
                TimeLimit::Total => write!(f, "the stream took longer than {after:?}"),
            },
            Self::CircuitOpen { key, reason, retry_after } => {
                match reason {
                    OpenReason::Open => write!(f, "circuit {key:?} is open")?,
                    OpenReason::HalfOpenFull => write!(f, "circuit {key:?} is testing recovery")?,
                    OpenReason::ForcedOpen => write!(f, "circuit {key:?} is forced open")?,
                }
                match retry_after {
                    Some(wait) => write!(f, ", retry in {wait:.1?}"),
                    None => Ok(()),
                }
            }
            Self::FallbackExhausted { failures } => {
                write!(f, "all {} agents failed", failures.len())
            }
            Self::BudgetExhausted { limit } => write!(f, "the call's {limit} ran out"),
            Self::Panicked => f.write_str("the agent panicked"),
            Self::Interrupted { items: 0 } => f.write_str("the stream ended before its first item"),
            Self::Interrupted { items: 1 } => f.write_str("the stream was cut after 1 item"),
            Self::Interrupted { items } => write!(f, "the stream was cut after {items} items"),
            #[cfg(feature = "checkpoint")]
            Self::CheckpointNotFound { workflow_id } => {
                write!(f, "no checkpoint found for workflow {workflow_id:?}")
            }
            #[cfg(feature = "checkpoint")]
            Self::Checkpoint => f.write_str("the checkpoint failed"),
            #[cfg(feature = "swarm")]
            Self::CriticalDegradation { swarm, failures, .. } => {
                write!(f, "swarm {swarm:?}: too many required agents failed: ")?;
                list_required(failures, f)
            }
            Self::Service => f.write_str("the agent failed"),
        }
    }
}

/// Names the required agents that failed, as long as they fit into a line.
#[cfg(feature = "swarm")]
fn list_required(failures: &[crate::SwarmFailure], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const MOST: usize = 10;
    let required = || failures.iter().filter(|failed| failed.is_required());
    for (place, failed) in required().take(MOST).enumerate() {
        write!(f, "{}{}", if place == 0 { "" } else { ", " }, failed.agent())?;
    }
    match required().count().saturating_sub(MOST) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

/// Returns whose failure stands for the whole chain, or for the required agents of a swarm.
///
/// A retry of the whole helps when it may help one of its agents, so that is the last failure that is
/// retryable, else the last one.
pub(super) fn stands_for_all<T>(
    failed: &(impl DoubleEndedIterator<Item = T> + Clone),
    failure: impl Fn(&T) -> &Failure,
) -> Option<T> {
    let retryable = failed.clone().rev().find(|failed| failure(failed).is_retryable());
    retryable.or_else(|| failed.clone().next_back())
}

/// Returns what the failures of a chain, or of the required agents of a swarm, come to.
///
/// It may be repeated where no agent has got the request, and not once one has handed on part of an
/// answer.
fn failure_of_all<'a>(
    failures: &(impl DoubleEndedIterator<Item = &'a Failure> + Clone),
) -> Failure {
    let all = || failures.clone();
    let Some(chosen) = stands_for_all(failures, |failure| failure) else {
        return Failure::new(FailureKind::Permanent);
    };
    let alike = || all().filter(|failure| failure.is_retryable() == chosen.is_retryable());
    // One agent that may be asked at once is enough.
    let wait = alike().map(Failure::retry_after).min().flatten();
    chosen
        .clone()
        .waiting(wait)
        .with_unprocessed(all().all(Failure::unprocessed))
        .with_after_output(all().any(Failure::after_output))
}
