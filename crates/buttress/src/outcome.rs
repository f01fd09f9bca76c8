//! What a call came to, in the words that every layer understands.

use std::{borrow::Cow, fmt, time::Duration};

/// What a classifier makes of the answer or error of one call.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The call did what it was asked.
    Success,
    /// The call failed, and the failure says how.
    Failure(Failure),
    /// The call says nothing about the health of the service, such as a call its caller gave up.
    Neutral,
}

/// Why a call failed and what may be done about it.
///
/// The kind alone decides whether a retry helps and whether a circuit breaker counts the failure;
/// [`with_retryable`](Self::with_retryable) and [`with_trips`](Self::with_trips) overrule it.
///
/// ```
/// use std::time::Duration;
/// use buttress::{Failure, FailureKind};
///
/// let failure = Failure::new(FailureKind::RateLimited)
///     .with_message("too many requests")
///     .with_retry_after(Duration::from_secs(20));
/// assert!(failure.is_retryable());
/// assert!(!failure.trips());
/// assert_eq!(failure.to_string(), "too many requests");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    kind: FailureKind,
    message: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    retryable: Option<bool>,
    trips: Option<bool>,
    unprocessed: bool,
    after_output: bool,
}

/// The kinds of failure of an agent, a model or what stands before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// A fault that may be gone at the next try: a broken connection, a 500.
    Transient,
    /// No answer in time.
    Timeout,
    /// The caller asks too often: a 429 that passes by itself.
    RateLimited,
    /// The service has more work than it can do: a 503, Anthropic's 529.
    Overloaded,
    /// The account has nothing left to spend: no wait helps.
    QuotaExhausted,
    /// The prompt is longer than the model's context window.
    ContextWindowExceeded,
    /// A content filter refused the prompt or the answer.
    ContentPolicy,
    /// The key is missing, wrong, or lacks a right: 401, 403.
    Unauthorized,
    /// The model or address does not exist: 404.
    NotFound,
    /// The request itself is wrong: every agent would refuse it.
    InvalidRequest,
    /// A circuit breaker rejected the call.
    CircuitOpen,
    /// The caller gave the call up.
    Cancelled,
    /// The agent panicked.
    Panicked,
    /// A fault that stays however often one tries.
    Permanent,
}

// ===== impl FailureKind =====

impl FailureKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 14] = [
        Self::Transient,
        Self::Timeout,
        Self::RateLimited,
        Self::Overloaded,
        Self::QuotaExhausted,
        Self::ContextWindowExceeded,
        Self::ContentPolicy,
        Self::Unauthorized,
        Self::NotFound,
        Self::InvalidRequest,
        Self::CircuitOpen,
        Self::Cancelled,
        Self::Panicked,
        Self::Permanent,
    ];

    /// Returns the kind in snake case, as spans and reports name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::QuotaExhausted => "quota_exhausted",
            Self::ContextWindowExceeded => "context_window_exceeded",
            Self::ContentPolicy => "content_policy",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::InvalidRequest => "invalid_request",
            Self::CircuitOpen => "circuit_open",
            Self::Cancelled => "cancelled",
            Self::Panicked => "panicked",
            Self::Permanent => "permanent",
        }
    }

    /// Returns whether a failure of this kind may be gone at the next try.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Transient | Self::Timeout | Self::RateLimited | Self::Overloaded | Self::Panicked
        )
    }

    /// Returns whether a circuit breaker counts a failure of this kind.
    ///
    /// The others are about the request or the caller and say nothing about the service.
    #[must_use]
    pub const fn trips(self) -> bool {
        matches!(
            self,
            Self::Transient
                | Self::Timeout
                | Self::Overloaded
                | Self::Panicked
                | Self::Permanent
                | Self::Unauthorized
                | Self::QuotaExhausted
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// ===== impl Failure =====

impl Failure {
    /// Creates a failure of a kind, without a message.
    #[must_use]
    pub const fn new(kind: FailureKind) -> Self {
        Self {
            kind,
            message: None,
            retry_after: None,
            retryable: None,
            trips: None,
            unprocessed: false,
            after_output: false,
        }
    }

    /// Sets what a person reads, since an answer such as a 503 has no error text.
    ///
    /// It ends in spans and errors: keep prompts, completions and keys out of it.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Sets how long the service asked to wait before the next try.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Sets or takes back how long the service asked to wait.
    pub(crate) const fn waiting(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Overrules what the kind says about retrying.
    #[must_use]
    pub const fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = Some(retryable);
        self
    }

    /// Overrules what the kind says about circuit breakers.
    #[must_use]
    pub const fn with_trips(mut self, trips: bool) -> Self {
        self.trips = Some(trips);
        self
    }

    /// Says that the request provably did not reach the service, so that a repeat is harmless.
    #[must_use]
    pub const fn with_unprocessed(mut self, unprocessed: bool) -> Self {
        self.unprocessed = unprocessed;
        self
    }

    /// Says that part of an answer was handed on before the failure; it is never retried then.
    #[must_use]
    pub const fn with_after_output(mut self, after_output: bool) -> Self {
        self.after_output = after_output;
        self
    }

    /// Returns the kind of failure.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns the message, if one was set.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Returns how long the service asked to wait.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns whether the request provably did not reach the service.
    #[must_use]
    pub const fn unprocessed(&self) -> bool {
        self.unprocessed
    }

    /// Returns whether part of an answer was handed on before the failure.
    #[must_use]
    pub const fn after_output(&self) -> bool {
        self.after_output
    }

    /// Returns whether another try may succeed: never after output was handed on.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !self.after_output && self.retryable.unwrap_or(self.kind.is_retryable())
    }

    /// Returns whether a circuit breaker counts this failure.
    #[must_use]
    pub fn trips(&self) -> bool {
        self.trips.unwrap_or(self.kind.trips())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => f.write_str(message),
            None => f.write_str(self.kind.as_str()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self::new(kind)
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}
