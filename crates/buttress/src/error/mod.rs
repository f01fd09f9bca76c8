//! The one error of every layer.

mod kind;

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use self::kind::stands_for_all;
pub use self::kind::{AgentFailure, ErrorKind, OpenReason, TimeLimit};
use crate::Failure;

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
            Err(foreign) => {
                #[cfg(feature = "tonic")]
                let (foreign, failure) = crate::grpc::completed(foreign, failure);
                Self::of(ErrorKind::Service, failure, Some(foreign))
            }
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
        #[cfg(feature = "tonic")]
        self.0.status.take();
        self
    }

    /// Makes what cut a stream the error of that stream: an interruption once `items` were handed
    /// on, which is never retried.
    #[cfg(any(feature = "stream", feature = "grpc"))]
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

/// Says of an error of others what it says by itself: tonic's status adds the `Debug` of its cause.
pub(crate) struct Told<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "tonic")]
        if let Some(status) = self.0.downcast_ref::<tonic::Status>() {
            write!(f, "code: '{}'", status.code())?;
            return match status.message() {
                "" => Ok(()),
                message => write!(f, ", message: {message:?}"),
            };
        }
        fmt::Display::fmt(self.0, f)
    }
}

/// Shows an error of others by what it says: its `Debug` may hold the whole request.
struct Shown<'a>(&'a BoxError);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref::<Error>() {
            Some(ours) => fmt::Debug::fmt(ours, f),
            None => fmt::Display::fmt(&Told(&**self.0), f),
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
    /// Returns what caused the error, where something did: of several agents, that whose failure
    /// stands for all of them.
    pub(crate) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        if let Some(source) = &self.0.source {
            return Some(&**source);
        }
        match &self.0.kind {
            ErrorKind::FallbackExhausted { failures } => {
                stands_for_all(&failures.iter(), |failed| &failed.failure)
                    .and_then(|failed| failed.error.as_deref())
                    .map(|error| error as _)
            }
            #[cfg(feature = "swarm")]
            ErrorKind::CriticalDegradation { failures, .. } => {
                let required = failures.iter().filter(|failed| failed.is_required());
                stands_for_all(&required, |failed| failed.failure())
                    .map(|failed| failed.error() as _)
            }
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
