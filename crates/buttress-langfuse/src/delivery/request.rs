//! The requests that Langfuse gets: their bytes and headers.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};

use super::{Answer, post::Post, scores::Scores};
use crate::sink::TraceDefaults;

/// Where spans go, and what every request says.
pub(crate) struct Endpoint {
    uri: Uri,
    headers: HeaderMap,
    /// The secret key, alone and as it is sent.
    secrets: [String; 2],
    /// Where scores go.
    pub(super) scores: Scores,
    /// The encoded resource and scope that stand around the spans.
    resource: Vec<u8>,
    scope: Vec<u8>,
}

// ===== impl Endpoint =====

impl Endpoint {
    /// Builds what every request says; nothing if a key holds what belongs into no header.
    pub(crate) fn new(
        uri: Uri,
        [scores, ingestion]: [Uri; 2],
        public_key: &str,
        secret_key: &str,
        defaults: &TraceDefaults,
    ) -> Option<Self> {
        if secret_key.chars().any(char::is_control) {
            return None;
        }
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
        let secrets = [secret_key.to_owned(), basic];
        let scores = Scores::new(scores, ingestion, headers.clone());
        Some(Self { uri, headers, secrets, scores, resource, scope })
    }

    /// Returns what no text may show.
    pub(super) fn secrets(&self) -> impl Iterator<Item = String> {
        self.secrets.iter().cloned()
    }

    /// Sends a batch.
    pub(super) async fn send(&self, post: &Post, spans: &[Bytes]) -> Answer {
        let Ok(body) = compress(&self.encode(spans)) else {
            return Answer::Refused { words: "cannot be compressed".to_owned() };
        };
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        request.uri_mut().clone_from(&self.uri);
        request.headers_mut().clone_from(&self.headers);
        match post.send(request).await {
            Ok(answer) if answer.status().is_success() => Answer::Taken { refused: 0 },
            Ok(answer) => Answer::Refused { words: post.words_of(&answer) },
            Err(error) if error.is_timeout() => Answer::TooSlow,
            Err(error) => Answer::Refused { words: error.to_string() },
        }
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

fn compress(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    Ok(encoder.finish()?.into())
}
