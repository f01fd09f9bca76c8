use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};

#[cfg(feature = "stream")]
use super::{ClassifyBody, ReadBody};
use super::{HttpClassifier, read_failure, retry_info::retry_delay_in};
use crate::{Classify, Failure, FailureKind, Outcome};

/// The name of the header or trailer that says how a call ended.
const STATUS: &str = "grpc-status";
/// The name of that which says why, percent-encoded.
const MESSAGE: &str = "grpc-message";
/// The name of that which says when to try again.
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Classifies gRPC answers by their status: in the headers, and in trailers where a layer reads bodies.
///
/// A call that fails at once is answered with headers alone, which hold the status
/// (`Trailers-Only`). Any other says it at its end: layers that only see the head of an answer take
/// that for a success, and `settle_at_body_end()` waits for it.
///
/// | code | kind |
/// |---|---|
/// | `UNAVAILABLE`, `INTERNAL`, `UNKNOWN` | `Transient` |
/// | `ABORTED` | `Transient`, which no circuit counts: two calls were in each other's way |
/// | `DEADLINE_EXCEEDED` | `Timeout` |
/// | `RESOURCE_EXHAUSTED` | `RateLimited` |
/// | `UNAUTHENTICATED`, `PERMISSION_DENIED` | `Unauthorized` |
/// | `NOT_FOUND` | `NotFound` |
/// | `INVALID_ARGUMENT`, `FAILED_PRECONDITION`, `OUT_OF_RANGE`, `ALREADY_EXISTS` | `InvalidRequest` |
/// | `UNIMPLEMENTED`, `DATA_LOSS` | `Permanent` |
/// | `CANCELLED` | `Cancelled`; `Timeout` where a time limit of tonic's ran out, which has that code too |
///
/// `grpc-retry-pushback-ms` is the wait before the next try, and a value that is no such number says
/// that there shall be none (gRFC A6); without it, the `google.rpc.RetryInfo` among the details of a
/// status is that wait (AIP-193). An answer with another HTTP status than 200 and without a gRPC
/// status comes from something in between, and is classified as by [`HttpClassifier`]. Messages hold
/// the code alone, since what the server wrote may repeat the request.
///
/// With the feature `tonic`, every classifier finds a `tonic::Status` in the chain of an error, and knows
/// that a call without a connection is `unprocessed`: it may be repeated though it is not idempotent. A
/// status that tonic made of an [`Error`](crate::Error) is what that error is: a retry around the calls of a
/// client knows the rejection of a circuit. What the error type of tonic's channel hides, the first layer
/// finds that makes an `Error` of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct GrpcClassifier {
    http: HttpClassifier,
}

/// Reads the trailers of a gRPC answer.
#[cfg(feature = "stream")]
#[derive(Debug, Clone, Copy)]
pub struct GrpcBody {
    has_begun: bool,
    has_status: bool,
}

/// The codes by their numbers, as the
/// [specification](https://grpc.io/docs/guides/status-codes/) lists them.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What stands for a status that nobody knows, as clients have it.
const UNKNOWN: usize = 2;

// ===== impl GrpcClassifier =====

impl GrpcClassifier {
    /// Creates the classifier.
    #[must_use]
    pub const fn new() -> Self {
        Self { http: HttpClassifier::new() }
    }

    /// Classifies an answer by its head.
    #[must_use]
    pub fn classify_head(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        match outcome_in(headers) {
            Some(outcome) => outcome,
            None if status == StatusCode::OK => Outcome::Success,
            None => match self.http.classify_head(status, headers) {
                // No gRPC server answers so.
                Outcome::Success => Failure::new(FailureKind::Permanent)
                    .with_message(format!("HTTP {status} is no gRPC answer"))
                    .into(),
                outcome => outcome,
            },
        }
    }
}

impl<B, E: 'static> Classify<Response<B>, E> for GrpcClassifier {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) => self.classify_head(response.status(), response.headers()),
            Err(error) => Outcome::Failure(read_failure(error)),
        }
    }
}

#[cfg(feature = "stream")]
impl ClassifyBody for GrpcClassifier {
    type Reader = GrpcBody;

    fn reader(&self, status: StatusCode, headers: &HeaderMap) -> GrpcBody {
        // What is no gRPC answer promises no trailers.
        let has_status = headers.contains_key(STATUS) || status != StatusCode::OK;
        GrpcBody { has_begun: false, has_status }
    }
}

/// Reads the status of some headers or trailers, where there is one.
fn outcome_in(headers: &HeaderMap) -> Option<Outcome> {
    let code = match *headers.get(STATUS)?.as_bytes() {
        [digit @ b'0'..=b'9'] => usize::from(digit - b'0'),
        [b'1', digit @ b'0'..=b'6'] => 10 + usize::from(digit - b'0'),
        _ => UNKNOWN,
    };
    let message = headers.get(MESSAGE).map_or(&b""[..], |message| message.as_bytes());
    let Some(failure) = failure_of_code(code, message) else { return Some(Outcome::Success) };
    Some(pushed_back(failure, headers, || retry_delay_in(headers)).into())
}

/// Returns what a code says, of tonic's with its message; nothing for `OK`.
pub(crate) fn failure_of_code(code: usize, message: &[u8]) -> Option<Failure> {
    let kind = match code {
        0 => return None,
        // The words of `tonic::TimeoutExpired`: its servers and channels know no other code for it.
        1 if matches!(message, b"Timeout expired" | b"Timeout%20expired") => FailureKind::Timeout,
        1 => FailureKind::Cancelled,
        3 | 6 | 9 | 11 => FailureKind::InvalidRequest,
        4 => FailureKind::Timeout,
        5 => FailureKind::NotFound,
        7 | 16 => FailureKind::Unauthorized,
        8 => FailureKind::RateLimited,
        12 | 15 => FailureKind::Permanent,
        _ => FailureKind::Transient,
    };
    let name = NAMES.get(code).copied().unwrap_or(NAMES[UNKNOWN]);
    let failure = Failure::new(kind).with_message(format!("gRPC {name}"));
    Some(if code == 10 { failure.with_trips(false) } else { failure })
}

/// Adds what the metadata of a status say of the next try, or else its details.
pub(crate) fn pushed_back(
    failure: Failure,
    metadata: &HeaderMap,
    delay: impl FnOnce() -> Option<Duration>,
) -> Failure {
    let wait = match metadata.get(PUSHBACK) {
        None => delay(),
        Some(text) => match text.to_str().ok().and_then(|text| text.parse::<i32>().ok()) {
            Some(millis @ 0..) => Some(Duration::from_millis(millis.unsigned_abs().into())),
            _ => return failure.with_retryable(false),
        },
    };
    failure.waiting(wait)
}

// ===== impl GrpcBody =====

#[cfg(feature = "stream")]
impl ReadBody for GrpcBody {
    fn data(&mut self, _: &[u8]) -> Option<(usize, Failure)> {
        self.has_begun = true;
        None
    }

    fn trailers(&mut self, trailers: &HeaderMap) -> Option<Failure> {
        self.has_begun = true;
        self.has_status |= trailers.contains_key(STATUS);
        match outcome_in(trailers) {
            Some(Outcome::Failure(failure)) => Some(failure),
            _ => None,
        }
    }

    fn end(&self) -> Option<Failure> {
        let failure = Failure::new(FailureKind::Transient);
        (!self.has_status).then(|| failure.with_message("the answer ends without a gRPC status"))
    }

    fn has_begun(&self) -> bool {
        self.has_begun
    }
}
