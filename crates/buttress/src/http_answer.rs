//! The HTTP edge: an error as an answer, and a call's budget in a request's extensions.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;

use crate::{BudgetLimit, CallBudget, Error, ErrorKind, FailureKind, FindCallBudget};

/// Finds a [`CallBudget`] in the extensions of an `http::Request`.
///
/// ```
/// use buttress::{CallBudget, FindCallBudget, InExtensions};
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(CallBudget::new().attempts(3));
/// assert_eq!(InExtensions.call_budget(&request).unwrap().attempts_left(), Some(3));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct InExtensions;

impl<B> FindCallBudget<http::Request<B>> for InExtensions {
    fn call_budget(&self, request: &http::Request<B>) -> Option<CallBudget> {
        request.extensions().get::<CallBudget>().cloned()
    }
}

impl Error {
    /// Returns the status that a service answers its own caller with, as a gateway does.
    ///
    /// | failure | status | why |
    /// |---|---|---|
    /// | timeout, deadline of the budget | 504 | the agent did not answer in time |
    /// | open circuit, overloaded, spent quota | 503 | come back later; with `Retry-After` where it is known |
    /// | rate limit, other budgets of the call | 429 | the caller may slow down; with `Retry-After` |
    /// | invalid request | 400 | the caller's request is wrong |
    /// | context window | 413 | the caller's request is too long |
    /// | content policy | 422 | the caller's request is refused |
    /// | panic | 500 | a fault of ours |
    /// | everything else, a wrong key of ours included | 502 | the agent failed |
    ///
    /// The status of an exhausted chain, and of a swarm that is critically degraded, is that of its
    /// failure: the last one of a required agent that a retry may help, else the last one.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.kind() {
            ErrorKind::BudgetExhausted { limit: BudgetLimit::Deadline } => {
                StatusCode::GATEWAY_TIMEOUT
            }
            ErrorKind::BudgetExhausted { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => match self.failure().kind() {
                FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
                FailureKind::CircuitOpen
                | FailureKind::Overloaded
                | FailureKind::QuotaExhausted
                | FailureKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
                FailureKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
                FailureKind::InvalidRequest => StatusCode::BAD_REQUEST,
                FailureKind::ContextWindowExceeded => StatusCode::PAYLOAD_TOO_LARGE,
                FailureKind::ContentPolicy => StatusCode::UNPROCESSABLE_ENTITY,
                FailureKind::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
                FailureKind::Transient
                | FailureKind::Unauthorized
                | FailureKind::NotFound
                | FailureKind::Permanent => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// Builds the answer: [`status`](Self::status), `Retry-After` in whole seconds, and a JSON body
    /// `{"error":{"type":"circuit_open","message":".."}}`.
    ///
    /// The body names the kind of failure only: neither the agent's own error, nor the request,
    /// nor the names of circuits and agents leave the service.
    #[must_use]
    pub fn to_response(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let kind = match self.kind() {
            ErrorKind::BudgetExhausted { .. } => "budget_exhausted",
            ErrorKind::FallbackExhausted { .. } => "fallback_exhausted",
            #[cfg(feature = "swarm")]
            ErrorKind::CriticalDegradation { .. } => "critical_degradation",
            _ => self.failure().kind().as_str(),
        };
        let reason = status.canonical_reason().unwrap_or("error");
        // Both are words of ours, so nothing needs an escape.
        let body = format!(r#"{{"error":{{"type":"{kind}","message":"{reason}"}}}}"#);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let waits =
            matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        if let Some(wait) = self.retry_after().filter(|_| waits) {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        response
    }
}

/// Rounds up: a caller that comes back earlier is rejected again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for Error {
    fn into_response(self) -> axum_core::response::Response {
        self.to_response().map(axum_core::body::Body::new)
    }
}
