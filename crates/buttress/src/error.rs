//! The one error of every layer.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use crate::{BudgetLimit, Failure, FailureKind};

/// Any error, as tower's own layers box it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The error of every layer that can fail by itself: one word, never nested.
///
/// An `Error` that comes from a layer below is passed on unchanged, also when a layer of tower
/// boxed it on the way. The agent's own error is the [`source`](StdError::source) and is found
/// again with [`downcast_ref`](Self::downcast_ref). `Display` is one line, names the agent where
/// one is known and does not repeat the source; neither it nor `Debug` shows the request.
///
/// ```
/// use std::time::Duration;
/// use buttress::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::timeout(Duration::from_secs(30))).with_agent("planner");
/// assert!(error.is_timeout());
/// assert_eq!(error.to_string(), r#"agent "planner": timed out after 30s"#);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    agent: Option<Arc<str>>,
    failure: Failure,
    source: Option<BoxError>,
    /// What the chain of causes ends in, made when somebody walks it.
    #[cfg(feature = "tonic")]
    status: std::sync::OnceLock<Box<tonic::Status>>,
}

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
            Some(error) => write!(f, "{}: {error}", self.agent),
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
    fn failure(&self) -> Failure {
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

/// Returns what the failures of a chain, or of the required agents of a swarm, come to.
///
/// A retry of the whole helps when it may help one of its agents, so the last failure that
/// is retryable stands for it. It may be repeated where no agent has got the request, and not once
/// one has handed on part of an answer.
fn failure_of_all<'a>(
    failures: &(impl DoubleEndedIterator<Item = &'a Failure> + Clone),
) -> Failure {
    let all = || failures.clone();
    let retryable = all().rev().find(|failure| failure.is_retryable());
    let Some(chosen) = retryable.or_else(|| all().next_back()) else {
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

// ===== impl Error =====

impl Error {
    /// Creates an error of a kind, classified as the kind says.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        let failure = kind.failure();
        Self::of(kind, failure, None)
    }

    fn of(kind: ErrorKind, failure: Failure, source: Option<BoxError>) -> Self {
        Self(Box::new(Inner {
            kind,
            agent: None,
            failure,
            source,
            #[cfg(feature = "tonic")]
            status: std::sync::OnceLock::new(),
        }))
    }

    /// Wraps an agent's own error, or passes on an `Error` from below.
    ///
    /// `classify` is asked only for errors that are not ours yet: a failure is classified once,
    /// by the innermost layer.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the slot is never empty")]
    pub fn from_service<E>(error: E, classify: impl FnOnce(&E) -> Failure) -> Self
    where
        E: Into<BoxError> + 'static,
    {
        // The slot makes a move out of a generic value possible without `unsafe`; the compiler
        // resolves the cast, so an `Error` passes through without touching the heap.
        let mut slot = Some(error);
        if let Some(ours) = (&mut slot as &mut dyn std::any::Any).downcast_mut::<Option<Self>>() {
            return ours.take().expect("the slot was filled above");
        }
        let error = slot.expect("the slot was filled above");
        let failure = classify(&error);
        match error.into().downcast::<Self>() {
            Ok(ours) => *ours,
            Err(foreign) => Self::of(ErrorKind::Service, failure, Some(foreign)),
        }
    }

    /// Sets the agent that the error names.
    #[must_use]
    pub fn with_agent(mut self, agent: impl Into<Arc<str>>) -> Self {
        self.0.agent = Some(agent.into());
        self
    }

    /// Names the agent, unless an agent further in is named already.
    #[must_use]
    pub(crate) fn in_agent(mut self, agent: Option<&Arc<str>>) -> Self {
        if self.0.agent.is_none() {
            self.0.agent = agent.cloned();
        }
        self
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Sets the failure that outer layers read.
    #[must_use]
    pub fn with_failure(mut self, failure: Failure) -> Self {
        self.0.failure = failure;
        self
    }

    /// Makes what cut a stream the error of that stream: an interruption once `items` were handed
    /// on, which is never retried.
    #[cfg(feature = "stream")]
    #[must_use]
    pub(crate) fn interrupting(self, items: u64) -> Self {
        // One from below knows how much it had handed on.
        if items == 0 || matches!(self.0.kind, ErrorKind::Interrupted { .. }) {
            return self;
        }
        let agent = self.0.agent.clone();
        let failure = self.0.failure.clone().with_after_output(true);
        // The agent's own error is the cause itself.
        let cause = match *self.0 {
            Inner { kind: ErrorKind::Service, source: Some(source), .. } => source,
            inner => Box::new(Self(Box::new(inner))),
        };
        let kind = ErrorKind::Interrupted { items };
        Self::of(kind, failure, Some(cause)).in_agent(agent.as_ref())
    }

    /// Returns what went wrong.
    #[must_use]
    pub const fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns the agent that failed, where it is known.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.0.agent.as_deref()
    }

    /// Returns what the innermost layer classified the failure as.
    #[must_use]
    pub const fn failure(&self) -> &Failure {
        &self.0.failure
    }

    /// Returns how long to wait before the next try, where somebody said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.0.failure.retry_after()
    }

    /// Returns whether this error, or one of ours below it, is a timeout.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.any_kind(|kind| matches!(kind, ErrorKind::Timeout { .. }))
    }

    /// Returns whether this error, or one of ours below it, is the rejection of a circuit breaker.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.any_kind(|kind| matches!(kind, ErrorKind::CircuitOpen { .. }))
    }

    /// Returns whether this error, or one of ours below it, says that a workflow has no checkpoint.
    #[cfg(feature = "checkpoint")]
    #[must_use]
    pub fn is_checkpoint_not_found(&self) -> bool {
        self.any_kind(|kind| matches!(kind, ErrorKind::CheckpointNotFound { .. }))
    }

    /// Returns whether this error, or one of ours below it, says that too many of a swarm's
    /// required agents failed.
    #[cfg(feature = "swarm")]
    #[must_use]
    pub fn is_critical_degradation(&self) -> bool {
        self.any_kind(|kind| matches!(kind, ErrorKind::CriticalDegradation { .. }))
    }

    /// Finds an error of type `E` among the errors that caused this one.
    ///
    /// Of an exhausted chain, and of a swarm, every agent's error is searched, the last agent's
    /// first.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        let here = self.0.source.as_deref().and_then(|source| find::<E>(source));
        if here.is_some() {
            return here;
        }
        match &self.0.kind {
            ErrorKind::FallbackExhausted { failures } => {
                failures.iter().rev().filter_map(|failed| failed.error.as_deref()).find_map(
                    |error| match error.downcast_ref::<Self>() {
                        Some(ours) => ours.downcast_ref::<E>(),
                        None => find::<E>(error),
                    },
                )
            }
            #[cfg(feature = "swarm")]
            ErrorKind::CriticalDegradation { failures, .. } => {
                failures.iter().rev().find_map(|failed| failed.error().downcast_ref::<E>())
            }
            _ => None,
        }
    }

    fn any_kind(&self, test: fn(&ErrorKind) -> bool) -> bool {
        let below =
            |error: &BoxError| find::<Self>(&**error).is_some_and(|ours| ours.any_kind(test));
        test(&self.0.kind)
            || self.0.source.as_ref().is_some_and(below)
            || match &self.0.kind {
                ErrorKind::FallbackExhausted { failures } => {
                    failures.iter().filter_map(|failed| failed.error.as_ref()).any(below)
                }
                #[cfg(feature = "swarm")]
                ErrorKind::CriticalDegradation { failures, .. } => {
                    failures.iter().any(|failed| failed.error().any_kind(test))
                }
                _ => false,
            }
    }
}

/// Walks a chain of sources for an error of type `E`.
pub(crate) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(agent) = &self.0.agent {
            write!(f, "agent {agent:?}: ")?;
        }
        self.0.kind.fmt(f)
    }
}

/// Shows an error of others by what it says: its `Debug` may hold the whole request.
struct Shown<'a>(&'a BoxError);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref::<Error>() {
            Some(ours) => fmt::Debug::fmt(ours, f),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("agent", &self.0.agent)
            .field("failure", &self.0.failure)
            .field("source", &self.0.source.as_ref().map(Shown))
            .finish()
    }
}

impl Error {
    /// Returns what caused the error, where something did.
    pub(crate) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        if let Some(source) = &self.0.source {
            return Some(&**source);
        }
        match &self.0.kind {
            ErrorKind::FallbackExhausted { failures } => failures
                .iter()
                .rev()
                .find_map(|failed| failed.error.as_deref().map(|error| error as _)),
            #[cfg(feature = "swarm")]
            ErrorKind::CriticalDegradation { failures, .. } => failures
                .iter()
                .rev()
                .find(|failed| failed.is_required())
                .map(|failed| failed.error() as _),
            _ => None,
        }
    }
}

/// With the feature `tonic` the chain of an error that nothing caused ends in a `tonic::Status`, by
/// which a tonic client knows the code.
impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        #[cfg(feature = "tonic")]
        let end = || Some(&**self.0.status.get_or_init(|| Box::new(self.own_status())) as _);
        #[cfg(not(feature = "tonic"))]
        let end = || None;
        self.cause().or_else(end)
    }
}
