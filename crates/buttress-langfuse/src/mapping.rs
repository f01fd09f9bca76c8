//! The mapping: what a span recorded becomes what Langfuse reads.
//!
//! | recorded | sent as |
//! |---|---|
//! | `observation_type` | `langfuse.observation.type`, always there; a span with `gen_ai.*` and without a type is left to the server |
//! | `level` | `langfuse.observation.level`, and the status for `ERROR` |
//! | `status_message` | `langfuse.observation.status_message`, and the message of the status |
//! | `metadata`, a JSON object | its entries, each `langfuse.observation.metadata.<key>` |
//! | `input`, `output`, `model`, `model_parameters`, `usage`, `cost`, `completion_start_time`, `prompt_name`, `prompt_version` | their own attributes |
//! | `langfuse.trace.input`, `langfuse.trace.output` | the observation's, where it has none of its own |
//! | `session.id`, `user.id`, the rest of `langfuse.trace.*` | the same, on every span of the trace |
//! | `gen_ai.*` and its kin | the same |
//! | `code.*`, `thread.*`, `busy_ns`, `idle_ns`, `target` | nothing |
//! | everything else | `langfuse.observation.metadata.<key>` |
//!
//! Of a key recorded twice the last value is sent. Events and links are not: Langfuse drops them,
//! but for the messages of `gen_ai`.

use opentelemetry::{
    KeyValue, SpanId,
    trace::{SpanKind, Status},
};
use opentelemetry_proto::tonic::{
    common::v1,
    trace::v1::{Span, SpanFlags, Status as ProtoStatus, span, status::StatusCode},
};
use opentelemetry_sdk::trace::SpanData;

use crate::{attribute, clock, draft::Draft, level::Level, trace::TraceContext, value};

/// What the process knows about a span beside what the span recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// What is known about the trace.
    pub(crate) trace: &'a TraceContext,
    /// The parent to name: the nearest one that is sent.
    pub(crate) parent: SpanId,
    /// Whether the span is the outermost one that is sent from this process.
    pub(crate) app_root: bool,
    /// Whether an app root claims the trace on v3 servers too.
    pub(crate) as_root: bool,
    /// Whether the span is one of buttress, whose status is its `level` alone.
    pub(crate) ours: bool,
}

/// Maps a span.
pub(crate) fn map(span: &SpanData, draft: Draft, around: Surroundings<'_>) -> Span {
    let start = clock::nanos(span.start_time);
    let context = &span.span_context;
    let severity = Severity::of(span, &draft, around.ours);
    let mut attributes = Vec::with_capacity(span.attributes.len() + 8);
    severity.write(&draft, &mut attributes);
    around.trace.write(&mut attributes);
    if around.app_root {
        attributes.push(value::attribute(attribute::IS_APP_ROOT, value::boolean(true)));
        if around.as_root {
            attributes.push(value::attribute(attribute::AS_ROOT, value::boolean(true)));
        }
    }
    let name = draft.name.clone().unwrap_or_else(|| span.name.clone().into_owned());
    draft.write(start, &mut attributes);
    around.trace.write_metadata(&mut attributes);
    Span {
        trace_id: context.trace_id().to_bytes().to_vec(),
        span_id: context.span_id().to_bytes().to_vec(),
        trace_state: context.trace_state().header(),
        parent_span_id: parent(around.parent),
        flags: flags(span),
        name,
        kind: kind(&span.span_kind).into(),
        start_time_unix_nano: start,
        // A clock that was set back would show as a negative latency.
        end_time_unix_nano: clock::nanos(span.end_time).max(start),
        attributes,
        dropped_attributes_count: span.dropped_attributes_count,
        events: messages(span),
        status: severity.status(),
        ..Span::default()
    }
}

/// How bad the span is, and what it says about it.
#[derive(Debug)]
struct Severity {
    level: Option<Level>,
    message: Option<String>,
}

impl Severity {
    fn of(span: &SpanData, draft: &Draft, ours: bool) -> Self {
        let mut severity = Self { level: draft.level, message: draft.status_message.clone() };
        // A log line of level ERROR reddens the span around it. Of our own spans the layers
        // themselves say how bad it is, so what the bridge derives is not used there.
        if let Status::Error { description } = &span.status
            && !ours
            && severity.level.is_none()
        {
            severity.level = Some(Level::Error);
            if severity.message.is_none() && !description.is_empty() {
                severity.message = Some(description.clone().into_owned());
            }
        }
        severity
    }

    fn write(&self, draft: &Draft, attributes: &mut Vec<v1::KeyValue>) {
        if let Some(kind) = draft.kind() {
            attributes.push(value::attribute(attribute::TYPE, value::text(kind)));
        }
        if let Some(level) = self.level {
            attributes.push(value::attribute(attribute::LEVEL, value::text(level.as_str())));
        }
        if let Some(message) = &self.message {
            let message = value::text(message.as_str());
            attributes.push(value::attribute(attribute::STATUS_MESSAGE, message));
        }
    }

    /// Returns the status of OTLP, which knows nothing between well and failed.
    fn status(self) -> Option<ProtoStatus> {
        (self.level == Some(Level::Error)).then(|| ProtoStatus {
            code: StatusCode::Error.into(),
            message: self.message.unwrap_or_default(),
        })
    }
}

fn parent(id: SpanId) -> Vec<u8> {
    if id == SpanId::INVALID { Vec::new() } else { id.to_bytes().to_vec() }
}

fn flags(span: &SpanData) -> u32 {
    let known = SpanFlags::ContextHasIsRemoteMask as u32;
    let remote = if span.parent_span_is_remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    u32::from(span.span_context.trace_flags().to_u8()) | known | remote
}

const fn kind(kind: &SpanKind) -> span::SpanKind {
    match kind {
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Producer => span::SpanKind::Producer,
        SpanKind::Consumer => span::SpanKind::Consumer,
        SpanKind::Internal => span::SpanKind::Internal,
    }
}

/// Keeps the events from which Langfuse reads input and output.
fn messages(span: &SpanData) -> Vec<span::Event> {
    let messages = span.events.iter().filter(|event| event.name.starts_with("gen_ai."));
    let message = |event: &opentelemetry::trace::Event| span::Event {
        time_unix_nano: clock::nanos(event.timestamp),
        name: event.name.clone().into_owned(),
        attributes: event.attributes.iter().filter_map(plain).collect(),
        dropped_attributes_count: event.dropped_attributes_count,
    };
    messages.map(message).collect()
}

fn plain(attribute: &KeyValue) -> Option<v1::KeyValue> {
    Some(value::attribute(attribute.key.as_str(), value::any(&attribute.value)?))
}

#[cfg(test)]
mod tests;
