use std::time::SystemTime;

use http::{HeaderMap, Response, StatusCode};

use super::{read_failure, retry_after};
use crate::{Classify, Failure, FailureKind, Outcome};

/// Classifies answers by their status and headers.
///
/// | status | kind |
/// |---|---|
/// | below 400 | success |
/// | 401, 403, 407 | `Unauthorized` |
/// | 402 | `QuotaExhausted` |
/// | 404, 410 | `NotFound` |
/// | 408, 504 | `Timeout` |
/// | 409, 425, 499, 500, 502 and other 5xx | `Transient` |
/// | 429 | `RateLimited` |
/// | 501, 505 | `Permanent` |
/// | 503, 529 | `Overloaded` |
/// | other 4xx | `InvalidRequest` |
///
/// The wait is read from `retry-after-ms`, from `Retry-After` in seconds or as a date, and for a
/// 429 from the reset headers of OpenAI, those who speak its protocol, and Anthropic. Of those,
/// limits with something remaining ask for no wait. Those with nothing remaining count, the longest
/// of them; where there is none, those that do not tell the remaining, the shortest of them.
///
/// `x-should-retry` says whether to retry, whatever the status (openai-python and
/// anthropic-sdk-python obey it too). Errors are read as [`AnyError`](crate::AnyError) reads them.
///
/// # Defaults
///
/// - `clock`: [`SystemTime::now`], for dates
///
/// ```
/// use buttress::{Classify, Failure, FailureKind, HttpClassifier, Outcome};
///
/// let answer = http::Response::builder().status(503).header("retry-after", "2").body(()).unwrap();
/// let result: Result<&_, &std::io::Error> = Ok(&answer);
/// let Outcome::Failure(failure) = HttpClassifier::new().classify(result) else { panic!() };
/// assert_eq!(failure.kind(), FailureKind::Overloaded);
/// assert_eq!(failure.retry_after().unwrap().as_secs(), 2);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct HttpClassifier {
    clock: fn() -> SystemTime,
}

impl HttpClassifier {
    /// Creates the classifier.
    #[must_use]
    pub const fn new() -> Self {
        Self { clock: SystemTime::now }
    }

    /// Sets the clock that dates in `Retry-After` are compared with.
    #[must_use]
    pub const fn clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.clock = clock;
        self
    }

    /// Classifies a status with its headers.
    #[must_use]
    pub fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        match kind_of(status) {
            None => Outcome::Success,
            Some(kind) => Outcome::Failure(self.complete(Failure::new(kind), status, headers)),
        }
    }

    /// Adds to a failure what the headers say.
    pub(super) fn complete(
        &self,
        failure: Failure,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Failure {
        let mut failure = match failure.message() {
            Some(_) => failure,
            None => failure.with_message(format!("HTTP {status}")),
        };
        let limited = status == StatusCode::TOO_MANY_REQUESTS;
        let wait = retry_after::retry_after(headers, self.clock)
            .or_else(|| if limited { retry_after::reset(headers, self.clock) } else { None });
        if let Some(wait) = wait {
            failure = failure.with_retry_after(wait);
        }
        match headers.get("x-should-retry").map(|value| value.as_bytes()) {
            Some(b"true") => failure.with_retryable(true),
            Some(b"false") => failure.with_retryable(false),
            _ => failure,
        }
    }
}

impl Default for HttpClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl<B, E: 'static> Classify<Response<B>, E> for HttpClassifier {
    #[inline]
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) if response.status().as_u16() < 400 => Outcome::Success,
            Ok(response) => self.classify_head(response.status(), response.headers()),
            Err(error) => Outcome::Failure(read_failure(error)),
        }
    }
}

/// Returns what a status of 400 or more says, and nothing for one below.
pub(super) fn kind_of(status: StatusCode) -> Option<FailureKind> {
    Some(match status.as_u16() {
        ..400 => return None,
        401 | 403 | 407 => FailureKind::Unauthorized,
        402 => FailureKind::QuotaExhausted,
        404 | 410 => FailureKind::NotFound,
        408 | 504 => FailureKind::Timeout,
        409 | 425 | 499 => FailureKind::Transient,
        429 => FailureKind::RateLimited,
        400..=499 => FailureKind::InvalidRequest,
        501 | 505 => FailureKind::Permanent,
        503 | 529 => FailureKind::Overloaded,
        _ => FailureKind::Transient,
    })
}
