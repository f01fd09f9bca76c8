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

use std::borrow::Cow;

use opentelemetry::{
    KeyValue, SpanId, TraceId,
    trace::{SpanKind, Status},
};
use opentelemetry_proto::tonic::{
    common::v1,
    trace::v1::{SpanFlags, Status as ProtoStatus, span, status::StatusCode},
};
use opentelemetry_sdk::trace::SpanData;

use crate::{
    attribute, clock,
    draft::Draft,
    encode::Writer,
    level::Level,
    privacy::Privacy,
    trace::Said,
    traces::Start,
    value::{self, Sent},
};

/// What the process knows about a span beside what the span recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// What is known about the trace.
    pub(crate) trace: Said<'a>,
    /// The parent to name: the nearest one that is sent.
    pub(crate) parent: SpanId,
    /// Whether the span is the outermost one that is sent from this process.
    pub(crate) app_root: bool,
    /// Whether an app root claims the trace on v3 servers too.
    pub(crate) as_root: bool,
    /// The share of traces that is sent, where the span says it for its trace.
    pub(crate) sample_rate: Option<f64>,
    /// What may leave the process.
    pub(crate) privacy: &'a Privacy,
    /// Whether the span is one of buttress, whose status is its `level` alone.
    pub(crate) ours: bool,
}

/// Maps a span.
///
/// Field numbers are those of `Span` in OTLP's trace.proto.
pub(crate) fn map<'a>(
    span: &'a SpanData,
    mut draft: Draft<'a>,
    around: Surroundings<'_>,
    into: &mut Writer<'_>,
) {
    let start = clock::nanos(span.start_time);
    let context = &span.span_context;
    into.bytes(1, &context.trace_id().to_bytes());
    into.bytes(2, &context.span_id().to_bytes());
    into.text(3, &context.trace_state().header());
    if around.parent != SpanId::INVALID {
        into.bytes(4, &around.parent.to_bytes());
    }
    into.text(5, draft.name.as_deref().unwrap_or(&span.name));
    into.integer(6, kind(&span.span_kind) as u32);
    into.fixed64(7, start);
    // A clock that was set back would show as a negative latency.
    into.fixed64(8, clock::nanos(span.end_time).max(start));
    let severity = Severity::of(span, &mut draft, around.ours, around.privacy);
    severity.write(&draft, into);
    around.trace.write(into);
    if around.app_root {
        into.attribute(attribute::IS_APP_ROOT, &Sent::Boolean(true));
        if around.as_root {
            into.attribute(attribute::AS_ROOT, &Sent::Boolean(true));
        }
    }
    draft.write(start, around.privacy, into);
    if let Some(rate) = around.sample_rate {
        into.metadata("sample_rate", &Sent::Double(rate));
    }
    around.trace.write_metadata(around.privacy, into);
    into.integer(10, span.dropped_attributes_count);
    for message in messages(span, around.privacy) {
        into.message(11, &message);
    }
    if let Some(status) = severity.status() {
        into.message(15, &status);
    }
    into.fixed32(16, flags(span, around.parent));
}

/// Maps a span that is still open.
pub(crate) fn map_start(
    trace_id: TraceId,
    start: &Start,
    trace: Said<'_>,
    privacy: &Privacy,
    into: &mut Writer<'_>,
) {
    into.bytes(1, &trace_id.to_bytes());
    into.bytes(2, &start.span.to_bytes());
    if start.parent != SpanId::INVALID {
        into.bytes(4, &start.parent.to_bytes());
    }
    into.text(5, &start.name);
    into.integer(6, span::SpanKind::Internal as u32);
    into.fixed64(7, start.at);
    into.attribute(attribute::TYPE, &Sent::text("span"));
    trace.write(into);
    if start.is_outermost && start.parent != SpanId::INVALID {
        into.attribute(attribute::IS_APP_ROOT, &Sent::Boolean(true));
    }
    trace.write_metadata(privacy, into);
}

/// How bad the span is, and what it says about it.
#[derive(Debug)]
struct Severity<'a> {
    level: Option<Level>,
    message: Option<Cow<'a, str>>,
}

impl<'a> Severity<'a> {
    fn of(span: &'a SpanData, draft: &mut Draft<'a>, ours: bool, privacy: &Privacy) -> Self {
        let mut severity = Self { level: draft.level, message: draft.status_message.take() };
        // A log line of level ERROR reddens the span around it. Of our own spans the layers
        // themselves say how bad it is, so what the bridge derives is not used there.
        if let Status::Error { description } = &span.status
            && !ours
            && severity.level.is_none()
        {
            severity.level = Some(Level::Error);
            if severity.message.is_none() && !description.is_empty() {
                severity.message = Some(Cow::Borrowed(description));
            }
        }
        severity.message = severity.message.map(|message| privacy.message(message));
        severity
    }

    fn write(&self, draft: &Draft<'_>, into: &mut Writer<'_>) {
        if let Some(kind) = draft.kind() {
            into.attribute(attribute::TYPE, &Sent::text(kind));
        }
        if let Some(level) = self.level {
            into.attribute(attribute::LEVEL, &Sent::text(level.as_str()));
        }
        if let Some(message) = self.message.as_deref() {
            into.attribute(attribute::STATUS_MESSAGE, &Sent::text(message));
        }
    }

    /// Returns the status of OTLP, which knows nothing between well and failed.
    fn status(self) -> Option<ProtoStatus> {
        (self.level == Some(Level::Error)).then(|| ProtoStatus {
            code: StatusCode::Error.into(),
            message: self.message.map(Cow::into_owned).unwrap_or_default(),
        })
    }
}

fn flags(span: &SpanData, parent: SpanId) -> u32 {
    let known = SpanFlags::ContextHasIsRemoteMask as u32;
    let is_remote = span.parent_span_is_remote && parent != SpanId::INVALID;
    let remote = if is_remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
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
fn messages(span: &SpanData, privacy: &Privacy) -> impl Iterator<Item = span::Event> {
    let messages = span.events.iter().filter(|event| event.name.starts_with("gen_ai."));
    messages.map(|event| span::Event {
        time_unix_nano: clock::nanos(event.timestamp),
        name: event.name.clone().into_owned(),
        attributes: event.attributes.iter().filter_map(|known| plain(known, privacy)).collect(),
        dropped_attributes_count: event.dropped_attributes_count,
    })
}

fn plain(attribute: &KeyValue, privacy: &Privacy) -> Option<v1::KeyValue> {
    let mut value = value::any(&attribute.value)?;
    privacy.io_any(&mut value);
    Some(value::attribute(attribute.key.as_str(), value))
}

#[cfg(test)]
mod tests;
