//! One request and the layers that it goes through: our own retry and timeout around a client.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use buttress::{
    Backoff, BoxError, Error, ExponentialBackoff, Failure, FailureKind, HttpClassifier, Outcome,
    OverCap, RetryLayer, TimeoutLayer,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{Problem, Shared};

/// What is read of an answer; the server's own words fit.
const ANSWER_BYTES: usize = 64 << 10;
/// How long delivery pauses when a person has to change something.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest delay between two tries while somebody waits for delivery.
const LONGEST_AWAITED: Duration = Duration::from_millis(500);

/// Posts requests until they are taken or refused for good.
#[derive(Clone)]
pub(super) struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    shared: Arc<Shared>,
}

/// Growing delays, which stay short while somebody waits for delivery.
#[derive(Clone)]
struct Delays<'a> {
    usual: ExponentialBackoff,
    shared: &'a Shared,
}

impl Post {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // The roots of the machine first, as self-hosted servers often have their own.
        let connector = HttpsConnectorBuilder::new();
        let connector = match connector.with_native_roots() {
            Ok(connector) => connector,
            Err(_) => HttpsConnectorBuilder::new().with_webpki_roots(),
        };
        let connector = connector.https_or_http().enable_http1().build();
        Self { client: Client::builder(TokioExecutor::new()).build(connector), shared }
    }

    /// Returns the answer that takes the request, or the one that refuses it for good.
    ///
    /// # Errors
    ///
    /// None that is not tried again; the type has room for one.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let limits = &self.shared.limits;
        let client = service_fn(|request| self.request(request));
        let timed = TimeoutLayer::new(limits.timeout).layer(client);
        let usual = ExponentialBackoff::new(limits.retry_base).max(limits.retry_max);
        let retry = RetryLayer::new(usize::MAX)
            .backoff(Delays { usual, shared: &self.shared })
            .max_retry_after(Duration::MAX)
            .over_cap(OverCap::Clamp)
            .classify(|result: Result<&Response<Bytes>, &Error>| self.judge(result));
        retry.layer(timed).oneshot(request).await
    }

    /// Says that a span is refused for good.
    #[cfg(feature = "collector")]
    pub(super) fn refused(&self, words: String) {
        self.shared.say(&Problem::Refused(words));
    }

    async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        self.shared.pausing.store(false, Ordering::Relaxed);
        let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        // The body is read to its end, so that the connection can be used again.
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let bytes = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
        Ok(Response::from_parts(head, bytes))
    }

    /// Says whether a request is tried again, and notes what it waits for then.
    fn judge(&self, result: Result<&Response<Bytes>, &Error>) -> Outcome {
        let outcome = judge(result, &|problem| self.shared.say(problem));
        if let Outcome::Failure(failure) = &outcome {
            let of_own_choice = failure.is_retryable() && failure.retry_after().is_none();
            self.shared.pausing.store(of_own_choice, Ordering::Relaxed);
        }
        outcome
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

impl Backoff for Delays<'_> {
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration {
        let delay = self.usual.delay(retry, previous, random);
        if self.shared.is_awaited() { delay.min(LONGEST_AWAITED) } else { delay }
    }

    fn is_random(&self) -> bool {
        self.usual.is_random()
    }
}

/// Judges an answer.
///
/// 500 is tried again too: Langfuse answers it when its own store fails.
fn judge(result: Result<&Response<Bytes>, &Error>, say: &dyn Fn(&Problem)) -> Outcome {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            let source = std::error::Error::source(error);
            let cause = source.map_or_else(|| error.to_string(), ToString::to_string);
            say(&Problem::Away(cause));
            return Failure::new(FailureKind::Transient).with_retryable(true).into();
        }
    };
    let status = answer.status();
    if status.is_success() {
        return Outcome::Success;
    }
    let misconfigured = status.is_redirection()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        );
    if misconfigured {
        say(&Problem::Misconfigured(words_of(answer)));
        return Failure::new(FailureKind::Unauthorized)
            .with_retryable(true)
            .with_retry_after(PAUSE)
            .into();
    }
    let away = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if away {
        say(&Problem::Away(format!("HTTP {status}")));
        let outcome = HttpClassifier::new().classify_head(status, answer.headers());
        return match outcome {
            Outcome::Failure(failure) => failure.with_retryable(true).into(),
            outcome => outcome,
        };
    }
    Failure::new(FailureKind::InvalidRequest).with_retryable(false).into()
}

/// The server's own words, for people: short and on one line.
pub(super) fn words_of(answer: &Response<Bytes>) -> String {
    let text = String::from_utf8_lossy(answer.body());
    let words: String = text.chars().filter(|char| !char.is_control()).take(300).collect();
    format!("HTTP {}: {words}", answer.status())
}
