//! One request and the layers that it goes through: our own retry and timeout around a client.

use std::{fmt, sync::Arc, time::Duration};

use buttress::{
    Backoff, Error, ExponentialBackoff, Failure, FailureKind, HttpClassifier, Outcome, OverCap,
    RetryLayer, TimeoutLayer,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value as Json;
use tokio::time::Instant;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use super::{
    problem::{Problem, innermost, is_about_the_batch, is_away, words_of},
    shared::Shared,
    state::Pause,
};

/// What is read of an answer: a line for each score of a batch fits.
const ANSWER_BYTES: usize = 1 << 20;
/// How long the body of an answer is read that takes the batch and says nothing else: that the
/// connection can be used again is worth no more.
const DRAIN: Duration = Duration::from_millis(250);
/// How long delivery pauses when a person has to change something.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest delay between two tries while somebody waits for delivery.
const LONGEST_AWAITED: Duration = Duration::from_millis(500);
/// The longest `Retry-After` that is obeyed: Langfuse's windows are of 60 seconds, and a date that
/// is years away is a mistake of a clock.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// A client over HTTP and HTTPS, which keeps its connections; clones share them.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes a client that trusts the roots of the machine first, as self-hosted servers often have
/// their own.
pub(crate) fn http_client() -> HttpClient {
    let connector = HttpsConnectorBuilder::new();
    let connector = match connector.with_native_roots() {
        Ok(connector) => connector,
        Err(_) => HttpsConnectorBuilder::new().with_webpki_roots(),
    };
    let connector = connector.https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Posts requests until they are taken or refused for good.
#[derive(Clone)]
pub(super) struct Post {
    client: HttpClient,
    shared: Arc<Shared>,
    /// Whether the body of an answer that takes the batch says more than its status.
    reads_answers: bool,
}

/// Growing delays, and what who waits and the kind of problem make of them.
#[derive(Clone)]
struct Delays<'a> {
    usual: ExponentialBackoff,
    shared: &'a Shared,
}

impl Post {
    pub(super) fn new(shared: Arc<Shared>, reads_answers: bool) -> Self {
        Self { client: http_client(), shared, reads_answers }
    }

    /// Returns the answer that takes the request, or the one that refuses it for good.
    ///
    /// # Errors
    ///
    /// That its time is over, where it could be a smaller one.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        self.send_until(request, is_about_the_batch).await
    }

    /// Does what [`send`](Self::send) does, where `is_final` says which answers refuse for good.
    pub(super) async fn send_until(
        &self,
        request: Request<Bytes>,
        is_final: impl Fn(&Response<Bytes>) -> bool + Clone,
    ) -> Result<Response<Bytes>, Error> {
        let exchange = service_fn(|request| self.exchange(request));
        self.shared.persist(exchange, request, is_final).await
    }

    /// Returns the server's own words, for people.
    pub(super) fn words_of(&self, answer: &Response<Bytes>) -> String {
        words_of(answer, &self.shared.secrets)
    }

    /// Says that a span is refused for good.
    #[cfg(feature = "collector")]
    pub(super) fn refused(&self, words: &str) {
        self.shared.say(&Problem::Refused(crate::text::printable(words)));
    }

    /// Makes one try. The time limit is that of the answer's head: a batch is taken by then, and
    /// a body that does not come in what is left of the time is taken for an empty one.
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let limit = self.shared.limits.timeout;
        let start = Instant::now();
        let client = service_fn(|request| self.client.request(request));
        let timed = TimeoutLayer::new(limit).layer(client);
        let (head, body) = timed.oneshot(request.map(Full::new)).await?.into_parts();
        let left = limit.saturating_sub(start.elapsed());
        let is_plain = head.status.is_success() && !self.reads_answers;
        let body = read(body, if is_plain { left.min(DRAIN) } else { left }).await;
        Ok(Response::from_parts(head, body))
    }
}

/// Reads a body to its end, so that the connection can be used again.
async fn read(body: Incoming, limit: Duration) -> Bytes {
    let whole = Limited::new(body, ANSWER_BYTES).collect();
    match tokio::time::timeout(limit, whole).await {
        Ok(Ok(whole)) => whole.to_bytes(),
        _ => Bytes::new(),
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

// ===== trying on =====

impl Shared {
    /// Repeats a request until its answer takes it or refuses it for good.
    pub(super) async fn persist<S>(
        &self,
        exchange: S,
        request: Request<Bytes>,
        is_final: impl Fn(&Response<Bytes>) -> bool + Clone,
    ) -> Result<Response<Bytes>, Error>
    where
        S: Service<Request<Bytes>, Response = Response<Bytes>, Error = Error> + Clone,
    {
        let usual = ExponentialBackoff::new(self.limits.retry_base).max(self.limits.retry_max);
        let retry = RetryLayer::new(usize::MAX)
            .backoff(Delays { usual, shared: self })
            .max_retry_after(LONGEST_ASKED)
            .over_cap(OverCap::Clamp)
            .classify(|result: Result<&Response<Bytes>, &Error>| match result {
                Ok(answer) if is_final(answer) => {
                    Failure::new(FailureKind::InvalidRequest).with_retryable(false).into()
                }
                result => self.judge(result),
            });
        let guarded = self.breaker().classify(answers).layer(exchange);
        let noted = guarded.map_request(|request| {
            self.begin_try();
            request
        });
        retry.layer(noted).oneshot(request).await
    }

    /// Says whether a request is tried again, and notes what it waits for then.
    fn judge(&self, result: Result<&Response<Bytes>, &Error>) -> Outcome {
        let answer = match result {
            Ok(answer) if answer.status().is_success() => {
                let Some(status) = passing_error(answer) else { return Outcome::Success };
                let problem = Problem::Away(format!("HTTP {status} for a part of a batch"));
                return self.try_again(&problem, Failure::new(FailureKind::Transient));
            }
            Ok(answer) => answer,
            // Why it is open was said.
            Err(error) if error.is_circuit_open() => {
                self.pause(Pause::Away);
                return Failure::new(FailureKind::Transient).into();
            }
            Err(error) => {
                let mut failure = Failure::new(FailureKind::Transient);
                if error.is_timeout() && self.state().is_divisible {
                    // Sent again as it is, it would be too slow again, and be stored each time.
                    self.say(&Problem::Away(innermost(error)));
                    failure = failure.with_retryable(false);
                    return failure.into();
                }
                return self.try_again(&Problem::Away(innermost(error)), failure);
            }
        };
        let failure = match HttpClassifier::new().classify_head(answer.status(), answer.headers()) {
            Outcome::Failure(failure) => failure,
            // A redirect is none to the classifier.
            _ => Failure::new(FailureKind::InvalidRequest),
        };
        if is_away(answer.status()) {
            self.try_again(&Problem::Away(format!("HTTP {}", answer.status())), failure)
        } else {
            self.try_again(&Problem::Misconfigured(words_of(answer, &self.secrets)), failure)
        }
    }

    fn try_again(&self, problem: &Problem, failure: Failure) -> Outcome {
        self.say(problem);
        self.pause(match problem {
            _ if failure.retry_after().is_some() => Pause::Asked,
            Problem::Misconfigured(_) => Pause::Misconfigured,
            Problem::Away(_) | Problem::Refused(_) => Pause::Away,
        });
        failure.with_retryable(true).into()
    }
}

/// Returns the status of a part that the server could not take just now; repeating the rest with it
/// is harmless, since every part has an id.
fn passing_error(answer: &Response<Bytes>) -> Option<StatusCode> {
    if answer.status() != StatusCode::MULTI_STATUS {
        return None;
    }
    let body: Json = serde_json::from_slice(answer.body()).ok()?;
    let errors = body["errors"].as_array().into_iter().flatten();
    let status =
        |error: &Json| StatusCode::from_u16(error["status"].as_u64()?.try_into().ok()?).ok();
    errors.filter_map(status).find(|status| is_away(*status))
}

/// Tells for the circuit whether the server answers.
fn answers(result: Result<&Response<Bytes>, &Error>) -> Outcome {
    match result {
        Ok(answer) if !is_away(answer.status()) => Outcome::Success,
        Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => Outcome::Neutral,
        _ => Failure::new(FailureKind::Transient).into(),
    }
}

impl Backoff for Delays<'_> {
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration {
        let usual = self.usual.delay(retry, previous, random);
        self.shared.delay(usual, LONGEST_AWAITED, PAUSE)
    }

    fn is_random(&self) -> bool {
        self.usual.is_random()
    }
}
