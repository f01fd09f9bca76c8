//! The user's own OTLP endpoint, served by opentelemetry-otlp over our client.
//!
//! opentelemetry-otlp reads the settings, encodes, and writes the request; our [`Post`] delivers
//! it, so that delivery tries on as long as it does for Langfuse. The exporter's own retries, which
//! give up after its time limit, are switched off.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::{
    Array, InstrumentationScope, KeyValue, SpanId, StringValue, TraceFlags, TraceId, Value,
    trace::{Event, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceResponse,
    common::v1::{self, any_value},
    trace::v1::{Span, SpanFlags, span, status::StatusCode},
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use prost::Message as _;

use super::{Answer, post::Post};
use crate::{
    config::StartError,
    layer::SCOPE,
    text::{has_user, shown},
};

/// An OTLP endpoint of one's own, such as an OpenTelemetry Collector; needs feature `collector`.
///
/// Given to [`LangfuseBuilder::collector`](crate::LangfuseBuilder::collector), it gets the spans
/// that Langfuse would get, with the same attributes, over OTLP/HTTP with protobuf.
///
/// # Defaults
///
/// What is not set here is read from the variables of OpenTelemetry's specification when delivery
/// starts: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` as it is, or `OTEL_EXPORTER_OTLP_ENDPOINT` with
/// `/v1/traces` after it; `.._HEADERS`, `.._COMPRESSION` (`gzip`); `OTEL_SERVICE_NAME` and
/// `OTEL_RESOURCE_ATTRIBUTES`. Without any of them: `http://localhost:4318/v1/traces`. How long a
/// request may take is the builder's `timeout`.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::{Collector, Langfuse};
///
/// let collector = Collector::new().endpoint("http://localhost:4318/v1/traces");
/// let langfuse = Langfuse::builder().collector(collector).start()?;
/// # Ok::<(), buttress_langfuse::StartError>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Collector {
    endpoint: Option<String>,
    headers: HashMap<String, String>,
}

/// Exports batches by opentelemetry-otlp.
#[derive(Debug)]
pub(super) struct Exporter {
    exporter: OtlpExporter,
    /// What the latest answer said about spans that it did not take.
    refused: Arc<AtomicUsize>,
    /// Whether the latest request was given up as too slow.
    is_too_slow: Arc<AtomicBool>,
}

/// Our client in the words of opentelemetry-otlp.
#[derive(Debug)]
struct Carrier {
    post: Post,
    refused: Arc<AtomicUsize>,
    is_too_slow: Arc<AtomicBool>,
}

// ===== impl Collector =====

impl Collector {
    /// Starts with what the environment says.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the whole address, path included and without a user.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Adds a header to every request, such as a token; `Debug` does not show it.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Returns the address that tells this collector from others.
    pub(crate) fn address(&self) -> String {
        format!("otlp:{}", self.endpoint.as_deref().unwrap_or_default())
    }

    /// Returns what no text may show: the headers' values, without words such as `Bearer`.
    pub(super) fn secrets(&self) -> Vec<String> {
        let variables = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
        let listed = variables.into_iter().filter_map(|name| std::env::var(name).ok());
        let listed: Vec<String> = listed
            .flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|header| header.split_once('=').map(|(_, value)| value.to_owned()))
            .collect();
        let values = self.headers.values().chain(&listed);
        values.filter_map(|value| value.split_whitespace().last()).map(str::to_owned).collect()
    }

    /// Makes the exporter.
    pub(super) fn connect(self, post: Post, service_name: &str) -> Result<Exporter, StartError> {
        if self.endpoint.as_deref().is_some_and(has_user) {
            let problem = "its endpoint must not hold a user or password; use a header";
            return Err(StartError::Collector(problem.to_owned()));
        }
        let refused = Arc::new(AtomicUsize::new(0));
        let is_too_slow = Arc::new(AtomicBool::new(false));
        let carrier =
            Carrier { post, refused: Arc::clone(&refused), is_too_slow: Arc::clone(&is_too_slow) };
        let mut builder = OtlpExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(carrier)
            .with_headers(self.headers)
            .with_retry_policy(RetryPolicy::disabled());
        if let Some(endpoint) = self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let mut exporter =
            builder.build().map_err(|error| StartError::Collector(told(&error.to_string())))?;
        let mut resource = Resource::builder();
        if service_name != crate::sink::UNKNOWN_SERVICE {
            resource = resource.with_service_name(service_name.to_owned());
        }
        exporter.set_resource(&resource.build());
        Ok(Exporter { exporter, refused, is_too_slow })
    }
}

/// Keeps what a variable holds of a user's password out of a problem.
fn told(problem: &str) -> String {
    let problem = if problem.contains('@') { "its endpoint is invalid" } else { problem };
    problem.to_owned()
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_deref().map(shown);
        f.debug_struct("Collector").field("endpoint", &endpoint).finish_non_exhaustive()
    }
}

// ===== impl Exporter =====

impl Exporter {
    /// Sends a batch.
    pub(super) async fn send(&self, spans: &[Bytes]) -> Answer {
        let decoded = spans.iter().map(|span| Span::decode(span.clone()).map(into_data));
        let Ok(batch) = decoded.collect::<Result<Vec<_>, _>>() else {
            return Answer::Refused { words: "cannot be read back".to_owned() };
        };
        self.refused.store(0, Ordering::Relaxed);
        match self.exporter.export(batch).await {
            Ok(()) => Answer::Taken { refused: self.refused.load(Ordering::Relaxed) },
            Err(_) if self.is_too_slow.swap(false, Ordering::Relaxed) => Answer::TooSlow,
            Err(error) => Answer::Refused { words: error.to_string() },
        }
    }
}

// ===== impl Carrier =====

impl HttpClient for Carrier {
    fn send_bytes<'life, 'future>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        // Boxed since the trait asks for it; one allocation for a request.
        Box::pin(async move {
            let answer = self.post.send(request).await.inspect_err(|error| {
                self.is_too_slow.store(error.is_timeout(), Ordering::Relaxed);
            })?;
            if answer.status().is_success()
                && let Ok(said) = ExportTraceServiceResponse::decode(answer.body().clone())
                && let Some(partial) = said.partial_success
            {
                let refused = usize::try_from(partial.rejected_spans).unwrap_or(0);
                self.refused.store(refused, Ordering::Relaxed);
                if refused > 0 {
                    self.post.refused(&partial.error_message);
                }
            }
            Ok(answer)
        })
    }
}

// ===== a mapped span in OpenTelemetry's own words =====

fn into_data(span: Span) -> SpanData {
    let parent_is_remote = span.flags & SpanFlags::ContextIsRemoteMask as u32 != 0;
    let state = span.trace_state.parse().unwrap_or(TraceState::NONE);
    let context = SpanContext::new(
        TraceId::from_bytes(id(&span.trace_id)),
        SpanId::from_bytes(id(&span.span_id)),
        TraceFlags::new(span.flags.to_le_bytes()[0]),
        false,
        state,
    );
    let kind = match span.kind() {
        span::SpanKind::Client => SpanKind::Client,
        span::SpanKind::Server => SpanKind::Server,
        span::SpanKind::Producer => SpanKind::Producer,
        span::SpanKind::Consumer => SpanKind::Consumer,
        span::SpanKind::Internal | span::SpanKind::Unspecified => SpanKind::Internal,
    };
    let status = match span.status {
        Some(status) if status.code() == StatusCode::Error => Status::error(status.message),
        _ => Status::Unset,
    };
    let mut events = SpanEvents::default();
    events.events.extend(span.events.into_iter().map(|event| {
        let attributes = attributes(event.attributes);
        Event::new(event.name, at(event.time_unix_nano), attributes, event.dropped_attributes_count)
    }));
    SpanData {
        span_context: context,
        parent_span_id: SpanId::from_bytes(id(&span.parent_span_id)),
        parent_span_is_remote: parent_is_remote,
        span_kind: kind,
        name: span.name.into(),
        start_time: at(span.start_time_unix_nano),
        end_time: at(span.end_time_unix_nano),
        attributes: attributes(span.attributes),
        dropped_attributes_count: span.dropped_attributes_count,
        events,
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder(SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

/// Reads an id; one that is absent or of another length is the invalid id, all zero.
fn id<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

fn at(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn attributes(mapped: Vec<v1::KeyValue>) -> Vec<KeyValue> {
    let known = mapped.into_iter().filter_map(|attribute| {
        Some(KeyValue::new(attribute.key, value(attribute.value?.value?)?))
    });
    known.collect()
}

/// Turns a value back; the mapping makes no maps and no bytes.
fn value(mapped: any_value::Value) -> Option<Value> {
    Some(match mapped {
        any_value::Value::StringValue(text) => text.into(),
        any_value::Value::BoolValue(value) => value.into(),
        any_value::Value::IntValue(value) => value.into(),
        any_value::Value::DoubleValue(value) => value.into(),
        any_value::Value::ArrayValue(list) => Value::Array(array(list.values)),
        _ => return None,
    })
}

/// Turns a list back: of one kind as it is, of several as texts.
fn array(mapped: Vec<v1::AnyValue>) -> Array {
    let values: Vec<_> =
        mapped.into_iter().filter_map(|item| item.value).filter_map(value).collect();
    let bools = values.iter().map(|value| match value {
        Value::Bool(value) => Some(*value),
        _ => None,
    });
    if let Some(all) = bools.collect() {
        return Array::Bool(all);
    }
    let integers = values.iter().map(|value| match value {
        Value::I64(value) => Some(*value),
        _ => None,
    });
    if let Some(all) = integers.collect() {
        return Array::I64(all);
    }
    let floats = values.iter().map(|value| match value {
        Value::F64(value) => Some(*value),
        _ => None,
    });
    if let Some(all) = floats.collect() {
        return Array::F64(all);
    }
    Array::String(values.iter().map(|value| StringValue::from(value.to_string())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value as make;

    #[test]
    fn a_mapped_span_comes_back_unchanged() {
        let list = make::list(vec![make::text("a"), make::text("b")]).unwrap();
        let mixed = make::list(vec![make::integer(1), make::integer(2)]).unwrap();
        let mapped = Span {
            trace_id: 7_u128.to_be_bytes().to_vec(),
            span_id: 8_u64.to_be_bytes().to_vec(),
            parent_span_id: 9_u64.to_be_bytes().to_vec(),
            trace_state: "a=1".to_owned(),
            flags: 1
                | SpanFlags::ContextHasIsRemoteMask as u32
                | SpanFlags::ContextIsRemoteMask as u32,
            name: "retry_execution".to_owned(),
            kind: span::SpanKind::Client.into(),
            start_time_unix_nano: 1_767_225_600_255_999_999,
            end_time_unix_nano: 1_767_225_601_000_000_001,
            attributes: vec![
                make::attribute("text", make::text("t")),
                make::attribute("flag", make::boolean(true)),
                make::attribute("integer", make::integer(-3)),
                make::attribute("double", make::double(0.5)),
                make::attribute("list", list),
                make::attribute("numbers", mixed),
            ],
            dropped_attributes_count: 2,
            events: vec![span::Event {
                time_unix_nano: 1_767_225_600_500_000_000,
                name: "gen_ai.choice".to_owned(),
                attributes: vec![make::attribute("content", make::text("x"))],
                dropped_attributes_count: 1,
            }],
            status: Some(opentelemetry_proto::tonic::trace::v1::Status {
                code: StatusCode::Error.into(),
                message: "reset".to_owned(),
            }),
            ..Span::default()
        };
        assert_eq!(Span::from(into_data(mapped.clone())), mapped);
    }
}
