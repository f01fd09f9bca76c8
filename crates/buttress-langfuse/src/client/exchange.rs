//! One question and its answer: our own retry and timeout around the client of the delivery.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use buttress::{
    BoxError, Error, ErrorKind, ExponentialBackoff, Failure, FailureKind, HttpClassifier, Outcome,
    RetryLayer, TimeoutLayer,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::Value as Json;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tracing::{Dispatch, instrument::WithSubscriber as _};

use super::{ClientError, lenient};
use crate::{
    StartError,
    delivery::{HttpClient, http_client, innermost, words_of},
    text::Secrets,
};

/// How much of an answer is read: a page of a thousand observations with all they say fits.
const ANSWER_BYTES: usize = 256 << 20;
/// The longest `Retry-After` that is waited for: Langfuse's windows are of 60 seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Where Langfuse is, and what every request says.
pub(crate) struct Access {
    base_url: String,
    headers: HeaderMap,
    secrets: Secrets,
    client: HttpClient,
}

/// How a question is asked.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) timeout: Duration,
    pub(super) attempts: usize,
    pub(super) delay: Duration,
    pub(super) longest_delay: Duration,
    pub(super) on_wait: Option<Arc<OnWait>>,
}

type OnWait = dyn Fn(&str) + Send + Sync;

/// What a server says: JSON, or that it has no such thing.
pub(super) enum Answer {
    Found(Json),
    /// With the server's own words.
    Missing(String),
}

// ===== impl Access =====

impl Access {
    pub(crate) fn new(
        base_url: &str,
        public_key: &str,
        secret_key: &str,
    ) -> Result<Self, ClientError> {
        let refused = |_| ClientError::Settings(StartError::Key);
        if secret_key.chars().any(char::is_control) {
            return Err(ClientError::Settings(StartError::Key));
        }
        let basic = STANDARD.encode(format!("{public_key}:{secret_key}"));
        let mut authorization =
            HeaderValue::from_str(&format!("Basic {basic}")).map_err(refused)?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in [
            ("x-langfuse-sdk-name", "buttress"),
            ("x-langfuse-sdk-version", env!("CARGO_PKG_VERSION")),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let public = HeaderValue::from_str(public_key).map_err(refused)?;
        headers.insert(HeaderName::from_static("x-langfuse-public-key"), public);
        let secrets = Secrets::new([secret_key.to_owned(), basic]);
        Ok(Self { base_url: base_url.to_owned(), headers, secrets, client: http_client() })
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Asks until there is an answer that a repeat would not change.
    ///
    /// The spans of it go nowhere: reading must not add to what is read.
    pub(super) async fn get(
        &self,
        manner: &Manner,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Answer, ClientError> {
        let request = self.request(path, query)?;
        let retry = RetryLayer::new(manner.attempts)
            .backoff(ExponentialBackoff::new(manner.delay).max(manner.longest_delay))
            .max_retry_after(LONGEST_WAIT)
            .classify(|result: Result<&Response<Bytes>, &Error>| judge(manner, result));
        let timed =
            TimeoutLayer::new(manner.timeout).layer(service_fn(|request| self.exchange(request)));
        let asked = retry.layer(timed).oneshot(request).with_subscriber(Dispatch::none());
        match asked.await {
            Ok(answer) => self.read(&answer),
            Err(error) => Err(self.failed(&error, manner)),
        }
    }

    fn request(&self, path: &str, query: &[(&str, String)]) -> Result<Request<Bytes>, ClientError> {
        let mut uri = format!("{}{path}", self.base_url);
        for (place, (name, value)) in query.iter().enumerate() {
            uri.push(if place == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            encode(value, &mut uri);
        }
        let mut request = Request::new(Bytes::new());
        // What can be wrong with it is its length.
        *request.uri_mut() = uri.parse().map_err(|_| ClientError::Refused {
            words: "the question does not fit into an address".to_owned(),
        })?;
        request.headers_mut().clone_from(&self.headers);
        Ok(request)
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        let answer = self.client.request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    fn read(&self, answer: &Response<Bytes>) -> Result<Answer, ClientError> {
        let status = answer.status();
        let words = || words_of(answer, &self.secrets);
        if status.is_success() {
            return match serde_json::from_slice(answer.body()) {
                Ok(json) => Ok(Answer::Found(json)),
                Err(_) => Err(self.is_not_langfuse("the answer is not JSON".to_owned())),
            };
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(Answer::Missing(words()));
        }
        Err(match status {
            StatusCode::UNAUTHORIZED => ClientError::Unauthorized { words: words() },
            StatusCode::FORBIDDEN => ClientError::Forbidden { words: words() },
            StatusCode::TOO_MANY_REQUESTS => {
                ClientError::RateLimited { retry_after: retry_after(answer), words: words() }
            }
            _ if status.is_redirection() => self.is_not_langfuse(words()),
            StatusCode::METHOD_NOT_ALLOWED => self.is_not_langfuse(words()),
            StatusCode::REQUEST_TIMEOUT => ClientError::Unavailable { words: words() },
            _ if status.is_server_error() => ClientError::Unavailable { words: words() },
            _ => ClientError::Refused { words: words() },
        })
    }

    pub(super) fn is_not_langfuse(&self, words: String) -> ClientError {
        ClientError::NotLangfuse { base_url: self.base_url.clone(), words }
    }

    fn failed(&self, error: &Error, manner: &Manner) -> ClientError {
        match error.kind() {
            ErrorKind::Timeout { .. } => ClientError::TimedOut { after: manner.timeout },
            _ => ClientError::Unreachable {
                base_url: self.base_url.clone(),
                reason: innermost(error),
            },
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are never shown; the address has been found to hold none.
        f.debug_struct("Access").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// Says whether a question is repeated, and tells why it waits.
///
/// 500 counts too: Langfuse answers it when its own store fails.
fn judge(manner: &Manner, result: Result<&Response<Bytes>, &Error>) -> Outcome {
    let answer = match result {
        Ok(answer) if answer.status().is_success() => return Outcome::Success,
        Ok(answer) => answer,
        Err(error) => {
            manner.tell(&format!("no answer from Langfuse: {}", innermost(error)));
            return Failure::new(FailureKind::Transient).into();
        }
    };
    let status = answer.status();
    let passes = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if !passes {
        return Failure::new(FailureKind::InvalidRequest).with_retryable(false).into();
    }
    match retry_after(answer) {
        Some(time) => {
            manner.tell(&format!("Langfuse asks to wait {} s (HTTP {status})", time.as_secs()));
        }
        None => manner.tell(&format!("Langfuse answers HTTP {status}")),
    }
    match HttpClassifier::new().classify_head(status, answer.headers()) {
        Outcome::Failure(failure) => failure.with_retryable(true).into(),
        _ => Failure::new(FailureKind::Transient).into(),
    }
}

fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    match HttpClassifier::new().classify_head(answer.status(), answer.headers()) {
        Outcome::Failure(failure) => failure.retry_after(),
        _ => None,
    }
}

impl Manner {
    fn tell(&self, why: &str) {
        if let Some(on_wait) = &self.on_wait {
            on_wait(why);
        }
    }
}

/// Writes a value into a query: all but the unreserved characters of RFC 3986 as bytes in hex.
fn encode(value: &str, into: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            _ => lenient::push_hex(byte, into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_encoded_so_that_it_is_one() {
        let mut text = String::new();
        encode("a b&c=\u{e9}/%\n~", &mut text);
        assert_eq!(text, "a%20b%26c%3D%C3%A9%2F%25%0A~");
    }

    #[test]
    fn keys_are_not_shown() {
        let access = Access::new("http://host", "pk-lf-hush", "sk-lf-hush").unwrap();
        assert_eq!(format!("{access:?}"), r#"Access { base_url: "http://host", .. }"#);
        assert!(Access::new("http://host", "pk\n", "sk").is_err());
        assert!(Access::new("http://host", "pk", "s\nk").is_err());
    }
}
