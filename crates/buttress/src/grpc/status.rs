//! An error as a status of tonic, and the names of services.

use std::{error::Error as StdError, sync::Arc};

use tonic::{
    Code, ConnectError, Status, TimeoutExpired, metadata::MetadataValue, server::NamedService,
};

use crate::{
    BoxError, BudgetLimit, CallBudget, Error, ErrorKind, Failure, FailureKind, FindCallBudget,
    InExtensions,
    classify::{PUSHBACK, failure_of_code, pushed_back, retry_delay},
    error::find,
};

impl Error {
    /// Returns the status that a gRPC service answers its own caller with.
    ///
    /// A `tonic::Status` that caused the error is passed on as it is, but for the `CANCELLED` of a time
    /// limit of tonic's; that of several agents is of the one whose failure stands for all. Any other
    /// failure becomes
    ///
    /// | failure | code |
    /// |---|---|
    /// | timeout, deadline of the budget | `DEADLINE_EXCEEDED` |
    /// | open circuit, overloaded, a fault that may pass | `UNAVAILABLE` |
    /// | rate limit, spent quota, other budgets of the call | `RESOURCE_EXHAUSTED` |
    /// | invalid request, context window | `INVALID_ARGUMENT` |
    /// | content policy | `FAILED_PRECONDITION` |
    /// | dropped by the caller | `CANCELLED` |
    /// | panic, a wrong key of ours, everything else | `INTERNAL` |
    ///
    /// with the wait before the next try as `grpc-retry-pushback-ms`, where it is known, and -1, which
    /// is none, where another try does not help (gRFC A6). The message is the kind of failure: neither
    /// the agent's own error nor the request leaves the service.
    #[must_use]
    pub fn to_grpc_status(&self) -> Status {
        let is_timeout = self.failure().kind() == FailureKind::Timeout;
        match self.cause().and_then(status_of) {
            Some(status) if !(is_timeout && status.code() == Code::Cancelled) => {
                let (code, mut metadata) = (status.code(), status.metadata().clone());
                // That of an answer without trailers, which is of no body of ours.
                metadata.remove("content-length");
                let details = bytes::Bytes::copy_from_slice(status.details());
                Status::with_details_and_metadata(code, status.message(), details, metadata)
            }
            _ => self.own_status(),
        }
    }

    /// Returns the status of an error that no status caused.
    pub(crate) fn own_status(&self) -> Status {
        let kind = self.failure().kind();
        let code = match self.kind() {
            ErrorKind::BudgetExhausted { limit: BudgetLimit::Deadline } => Code::DeadlineExceeded,
            ErrorKind::BudgetExhausted { .. } => Code::ResourceExhausted,
            _ => match kind {
                FailureKind::Timeout => Code::DeadlineExceeded,
                FailureKind::CircuitOpen | FailureKind::Overloaded | FailureKind::Transient => {
                    Code::Unavailable
                }
                FailureKind::RateLimited | FailureKind::QuotaExhausted => Code::ResourceExhausted,
                FailureKind::InvalidRequest | FailureKind::ContextWindowExceeded => {
                    Code::InvalidArgument
                }
                FailureKind::ContentPolicy => Code::FailedPrecondition,
                FailureKind::Cancelled => Code::Cancelled,
                FailureKind::Panicked
                | FailureKind::Unauthorized
                | FailureKind::NotFound
                | FailureKind::Permanent => Code::Internal,
            },
        };
        let mut status = Status::new(code, kind.as_str());
        // Who has part of an answer shall not wait for another.
        let wait = match self.retry_after().filter(|_| !self.failure().after_output()) {
            // A signed number (gRFC A6).
            Some(wait) => {
                i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX).into()
            }
            None if self.failure().is_retryable() => return status,
            None => MetadataValue::from_static("-1"),
        };
        status.metadata_mut().insert(PUSHBACK, wait);
        status
    }
}

/// [`Error::to_grpc_status`], with the error as the source of the status.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = error.to_grpc_status();
        status.set_source(Arc::new(error));
        status
    }
}

/// Finds the status that somebody answered, and not the one that the chain of an error of ours ends in.
fn status_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Status> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(status) = error.downcast_ref() {
            return Some(status);
        }
        next = match error.downcast_ref::<Error>() {
            Some(ours) => ours.cause(),
            None => error.source(),
        };
    }
    None
}

/// Returns what an error of tonic's says; none for the errors of others.
pub(crate) fn failure_of(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if let Some(status) = error.downcast_ref() {
        Some(failure_of_status(status))
    } else if error.is::<TimeoutExpired>() {
        Some(Failure::new(FailureKind::Timeout))
    } else if error.is::<ConnectError>() {
        Some(Failure::new(FailureKind::Transient).with_unprocessed(true))
    } else {
        None
    }
}

/// Returns what a status says of the call that it ended.
pub(crate) fn failure_of_status(status: &Status) -> Failure {
    // tonic makes a status of each error of a channel.
    if let Some(ours) = status.source().and_then(find::<Error>) {
        return ours.failure().clone();
    }
    let code = usize::try_from(i32::from(status.code())).unwrap_or(usize::MAX);
    let failure = failure_of_code(code, status.message().as_bytes()).unwrap_or_else(|| {
        // An error with the code `OK` is none that a server sent.
        Failure::new(FailureKind::Transient)
    });
    let is_unsent = status.source().and_then(find::<ConnectError>).is_some();
    let failure = failure.with_unprocessed(is_unsent);
    pushed_back(failure, status.metadata().as_ref(), || retry_delay(status.details()))
}

/// Adds to the failure of a foreign error what errors of tonic's in its chain say: the type at its head
/// may hide them.
///
/// A time limit that ran out gets its code: who takes it for a status by itself takes it for `CANCELLED`.
pub(crate) fn completed(error: BoxError, failure: Failure) -> (BoxError, Failure) {
    if find::<ConnectError>(&*error).is_some() {
        return (error, failure.with_unprocessed(true));
    }
    if find::<TimeoutExpired>(&*error).is_none() || find::<Status>(&*error).is_some() {
        return (error, failure);
    }
    let mut status = Status::deadline_exceeded(FailureKind::Timeout.as_str());
    status.set_source(Arc::from(error));
    // A classifier that has said more than that it does not know is right.
    let is_unknown = failure == Failure::new(FailureKind::Transient);
    let failure = if is_unknown { Failure::new(FailureKind::Timeout) } else { failure };
    (Box::new(status), failure)
}

impl<T> FindCallBudget<tonic::Request<T>> for InExtensions {
    fn call_budget(&self, request: &tonic::Request<T>) -> Option<CallBudget> {
        request.extensions().get::<CallBudget>().cloned()
    }
}

/// Passes the name of what a service wraps through.
macro_rules! named {
    ($($(#[$attribute:meta])* [$($service:ident)::+] $($parameter:ident)*;)*) => {$(
        $(#[$attribute])*
        impl<S: NamedService $(, $parameter)*> NamedService
            for crate::$($service)::+<S $(, $parameter)*>
        {
            const NAME: &'static str = S::NAME;
        }
    )*};
}

named! {
    [CatchPanic] C;
    [ErrorBody];
    [grpc::GrpcDeadline];
    [grpc::GrpcStatus];
    #[cfg(feature = "agent")]
    [Agent] C;
    #[cfg(feature = "chaos")]
    [chaos::ChaosService];
    #[cfg(feature = "checkpoint")]
    [checkpoint::CheckpointService] M C;
    #[cfg(feature = "circuit-breaker")]
    [CircuitBreaker] C M;
    #[cfg(feature = "circuit-breaker")]
    [circuit_breaker::KeyedCircuitBreaker] F K C M;
    #[cfg(feature = "fallback")]
    [FallbackService] Req Res C Q P;
    #[cfg(feature = "retry")]
    [Retry] C B Q P;
    #[cfg(feature = "stream")]
    [stream::BodyTimeout] C;
    #[cfg(feature = "stream")]
    [stream::FirstFrame] C;
    #[cfg(feature = "timeout")]
    [Timeout] C;
}
