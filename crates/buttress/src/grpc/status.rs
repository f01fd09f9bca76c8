//! An error as a status of tonic, and the names of services.

use tonic::{Code, Status, server::NamedService};

use crate::{
    BudgetLimit, CallBudget, Error, ErrorKind, Failure, FailureKind, FindCallBudget, InExtensions,
    classify::failure_of_code, error::find,
};

/// The name of the metadata that says when to try again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl Error {
    /// Returns the status that a gRPC service answers its own caller with.
    ///
    /// A `tonic::Status` that caused the error is passed on as it is. Any other failure becomes
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
    /// with the wait before the next try as `grpc-retry-pushback-ms`, where it is known. The message is
    /// the kind of failure: neither the agent's own error nor the request leaves the service.
    #[must_use]
    pub fn to_grpc_status(&self) -> Status {
        let cause = self.cause().and_then(find::<Status>);
        match cause {
            Some(status) => {
                let (code, metadata) = (status.code(), status.metadata().clone());
                let details = bytes::Bytes::copy_from_slice(status.details());
                Status::with_details_and_metadata(code, status.message(), details, metadata)
            }
            None => self.own_status(),
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
        if let Some(wait) = self.retry_after() {
            let millis = u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
            status.metadata_mut().insert(PUSHBACK, millis.into());
        }
        status
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.to_grpc_status()
    }
}

/// Returns what a status says of the call that it ended.
pub(crate) fn failure_of_status(status: &Status) -> Failure {
    let code = usize::try_from(i32::from(status.code())).unwrap_or(usize::MAX);
    let failure = failure_of_code(code).unwrap_or_else(|| {
        // An error with the code `OK` is none that a server sent.
        Failure::new(FailureKind::Transient)
    });
    match status.metadata().get(PUSHBACK).map(|wait| wait.to_str().ok()?.parse::<u32>().ok()) {
        None => failure,
        Some(Some(wait)) => failure.with_retry_after(std::time::Duration::from_millis(wait.into())),
        Some(None) => failure.with_retryable(false),
    }
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
