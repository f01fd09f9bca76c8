//! One span: its line, and its JSON.

use std::{fmt::Write as _, time::Duration};

use opentelemetry_proto::tonic::{common::v1::AnyValue, trace::v1::Span};
use serde_json::{Map, Value as Json, json};

use crate::{attribute, clock, text::printable, value};

/// The metadata that a line has room for.
const SHOWN: [&str; 9] = [
    "attempt",
    "attempts_needed",
    "agent_type",
    "fallback_level",
    "circuit_state",
    "state_transition",
    "degradation_level",
    "failure_kind",
    "stop",
];

/// Draws a span on one line.
pub(super) fn line(span: &Span, colour: bool) -> String {
    let (name, kind) = (printable(&span.name), printable(kind(span)));
    let mut line = match duration(span) {
        // Langfuse has milliseconds.
        Duration::ZERO => format!("{name} [{kind}] <1ms"),
        time => format!("{name} [{kind}] {time:.1?}"),
    };
    let level = found(span, attribute::LEVEL);
    let (start, end) = match level {
        Some("ERROR") if colour => ("\u{1b}[31m", "\u{1b}[0m"),
        Some("WARNING") if colour => ("\u{1b}[33m", "\u{1b}[0m"),
        _ => ("", ""),
    };
    if let Some(level @ ("WARNING" | "ERROR")) = level {
        _ = write!(line, " {start}{level}{end}");
    }
    for key in SHOWN {
        if let Some(value) = metadata(span, key) {
            let shown = match value::to_json(value) {
                Json::String(text) => text,
                value => value.to_string(),
            };
            _ = write!(line, " {key}={}", printable(&shown));
        }
    }
    if let Some(message) = found(span, attribute::STATUS_MESSAGE) {
        _ = write!(line, ": {start}{}{end}", printable(message));
    }
    line
}

/// Turns a span into JSON, around its children and the number of those that are too deep.
pub(super) fn observation(span: &Span, children: Vec<Json>, deeper: usize) -> Json {
    let mut fields = Map::new();
    let mut metadata = Map::new();
    for attribute in &span.attributes {
        let Some(value) = attribute.value.as_ref().map(value::to_json) else { continue };
        match attribute.key.strip_prefix(attribute::METADATA_PREFIX) {
            Some(key) => metadata.insert(key.to_owned(), value),
            None => fields.insert(shown_key(&attribute.key).to_owned(), value),
        };
    }
    let known = [
        ("id", hex(&span.span_id).into()),
        ("traceId", hex(&span.trace_id).into()),
        ("name", span.name.as_str().into()),
        ("type", kind(span).into()),
        ("level", found(span, attribute::LEVEL).unwrap_or("DEFAULT").into()),
        ("statusMessage", json!(found(span, attribute::STATUS_MESSAGE))),
        ("start", clock::iso(span.start_time_unix_nano).into()),
        ("end", clock::iso(span.end_time_unix_nano).into()),
        ("durationMs", (duration(span).as_secs_f64() * 1e3).into()),
        ("metadata", metadata.into()),
        ("children", children.into()),
    ];
    fields.extend(known.map(|(key, value)| (key.to_owned(), value)));
    if deeper > 0 {
        fields.insert("deeper".to_owned(), deeper.into());
    }
    fields.into()
}

fn duration(span: &Span) -> Duration {
    Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano))
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a AnyValue> {
    span.attributes.iter().find(|known| known.key == key)?.value.as_ref()
}

fn metadata<'a>(span: &'a Span, key: &str) -> Option<&'a AnyValue> {
    let is = |known: &str| known.strip_prefix(attribute::METADATA_PREFIX) == Some(key);
    span.attributes.iter().find(|known| is(&known.key))?.value.as_ref()
}

fn found<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    value::as_text(attribute(span, key)?)
}

/// Returns the type, inferred as the server does where the span says none.
fn kind(span: &Span) -> &str {
    if let Some(kind) = found(span, attribute::TYPE) {
        return kind;
    }
    match found(span, "gen_ai.operation.name") {
        Some("embeddings") => "embedding",
        Some("invoke_agent" | "create_agent") => "agent",
        Some("execute_tool") => "tool",
        Some("chat" | "completion" | "text_completion" | "generate_content") => "generation",
        _ if attribute(span, "gen_ai.request.model").is_some() => "generation",
        _ if attribute(span, "gen_ai.response.model").is_some() => "generation",
        _ => "span",
    }
}

fn shown_key(key: &str) -> &str {
    match key {
        attribute::MODEL => "model",
        attribute::SESSION => "sessionId",
        attribute::USER => "userId",
        attribute::TRACE_NAME => "traceName",
        attribute::TRACE_TAGS => "tags",
        _ => key.strip_prefix("langfuse.observation.").unwrap_or(key),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}
