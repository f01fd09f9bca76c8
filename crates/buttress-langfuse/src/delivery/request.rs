//! One request: its bytes, and the layers that it goes through.

use std::{io::Write as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use buttress::{
    Error, ExponentialBackoff, Failure, FailureKind, HttpClassifier, Outcome, OverCap, RetryLayer,
    TimeoutLayer,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{Limits, Problem};
use crate::sink::TraceDefaults;

/// What is read of an answer; Langfuse's own words fit.
const ANSWER_BYTES: usize = 64 << 10;
/// How long delivery pauses when a person has to change something.
const PAUSE: Duration = Duration::from_secs(60);

/// Where spans go, and what every request says.
#[derive(Clone)]
pub(crate) struct Endpoint {
    uri: Uri,
    headers: HeaderMap,
    /// The encoded resource and scope that stand around the spans.
    resource: Vec<u8>,
    scope: Vec<u8>,
}

/// Sends batches.
pub(super) struct Sender {
    endpoint: Endpoint,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    backoff: ExponentialBackoff,
}

/// What became of a batch.
pub(super) enum Answer {
    Taken,
    /// It will never be taken as it is.
    Refused {
        words: String,
    },
}

// ===== impl Endpoint =====

impl Endpoint {
    /// Builds what every request says; nothing if a key does not fit into a header.
    pub(crate) fn new(
        uri: Uri,
        public_key: &str,
        secret_key: &str,
        defaults: &TraceDefaults,
    ) -> Option<Self> {
        let basic = STANDARD.encode(format!("{public_key}:{secret_key}"));
        let mut authorization = HeaderValue::from_str(&format!("Basic {basic}")).ok()?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization);
        for (name, value) in [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "gzip"),
            // Without it spans appear after minutes on a v4 server.
            ("x-langfuse-ingestion-version", "4"),
            ("x-langfuse-sdk-name", "buttress"),
            ("x-langfuse-sdk-version", env!("CARGO_PKG_VERSION")),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let public = HeaderValue::from_str(public_key).ok()?;
        headers.insert(HeaderName::from_static("x-langfuse-public-key"), public);
        let service =
            AnyValue { value: Some(any_value::Value::StringValue(defaults.service_name.clone())) };
        let attribute = KeyValue {
            key: "service.name".to_owned(),
            value: Some(service),
            ..KeyValue::default()
        };
        let resource = Resource { attributes: vec![attribute], ..Resource::default() };
        let scope = InstrumentationScope {
            name: "buttress".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let (resource, scope) = (resource.encode_to_vec(), scope.encode_to_vec());
        Some(Self { uri, headers, resource, scope })
    }

    /// Writes an `ExportTraceServiceRequest` around encoded spans, without decoding them.
    ///
    /// Field numbers are those of OTLP's trace.proto: request.resource_spans = 1; resource = 1 and
    /// scope_spans = 2 in it; scope = 1 and spans = 2 in that.
    fn encode(&self, spans: &[Bytes]) -> Vec<u8> {
        let mut scope_spans = Vec::new();
        field(1, &self.scope, &mut scope_spans);
        for span in spans {
            field(2, span, &mut scope_spans);
        }
        let mut resource_spans = Vec::new();
        field(1, &self.resource, &mut resource_spans);
        field(2, &scope_spans, &mut resource_spans);
        let mut request = Vec::new();
        field(1, &resource_spans, &mut request);
        request
    }
}

fn field(number: u32, bytes: &[u8], into: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

// ===== impl Sender =====

impl Sender {
    pub(super) fn new(endpoint: Endpoint, limits: &Limits) -> Self {
        // The roots of the machine first, as self-hosted servers often have their own.
        let connector = HttpsConnectorBuilder::new();
        let connector = match connector.with_native_roots() {
            Ok(connector) => connector,
            Err(_) => HttpsConnectorBuilder::new().with_webpki_roots(),
        };
        let connector = connector.https_or_http().enable_http1().build();
        Self {
            endpoint,
            client: Client::builder(TokioExecutor::new()).build(connector),
            timeout: limits.timeout,
            backoff: ExponentialBackoff::new(limits.retry_base).max(limits.retry_max),
        }
    }

    /// Sends a batch until it is taken or refused: our own retry and timeout around the client.
    pub(super) async fn send(&self, spans: &[Bytes], say: &dyn Fn(&Problem)) -> Answer {
        let Ok(body) = compress(&self.endpoint.encode(spans)) else {
            return Answer::Refused { words: "cannot be compressed".to_owned() };
        };
        let client = service_fn(|body: Bytes| self.request(body));
        let timed = TimeoutLayer::new(self.timeout).layer(client);
        let retry = RetryLayer::new(usize::MAX)
            .backoff(self.backoff)
            .max_retry_after(Duration::MAX)
            .over_cap(OverCap::Clamp)
            .classify(|result: Result<&Response<Bytes>, &Error>| judge(result, say));
        match retry.layer(timed).oneshot(body).await {
            Ok(answer) if answer.status().is_success() => Answer::Taken,
            Ok(answer) => Answer::Refused { words: words_of(&answer) },
            // Only a failure that is not retried ends the series, and errors all are.
            Err(error) => Answer::Refused { words: error.to_string() },
        }
    }

    async fn request(&self, body: Bytes) -> Result<Response<Bytes>, buttress::BoxError> {
        let mut request = Request::post(self.endpoint.uri.clone()).body(Full::new(body))?;
        request.headers_mut().clone_from(&self.endpoint.headers);
        let (head, body) = self.client.request(request).await?.into_parts();
        // The body is read to its end, so that the connection can be used again.
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let bytes = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
        Ok(Response::from_parts(head, bytes))
    }
}

/// Says whether a request is tried again.
///
/// 500 too: Langfuse answers it when its own store fails.
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
fn words_of(answer: &Response<Bytes>) -> String {
    let text = String::from_utf8_lossy(answer.body());
    let words: String = text.chars().filter(|char| !char.is_control()).take(300).collect();
    format!("HTTP {}: {words}", answer.status())
}

fn compress(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    Ok(encoder.finish()?.into())
}
