//! Messages of protobuf, turned into the objects that the JSON encoding has.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};

use super::js::{Js, Object};

/// Turns a decoded request into the field `resourceSpans`.
#[must_use]
pub fn from_request(request: &ExportTraceServiceRequest) -> Js {
    list(&request.resource_spans, resource_spans)
}

/// Builds an object of the fields that are on the wire; the rest are left out.
struct Fields(Object);

impl Fields {
    fn new() -> Self {
        Self(Object::new())
    }

    fn text(mut self, name: &str, text: &str) -> Self {
        if !text.is_empty() {
            self.0.define(name, text.into());
        }
        self
    }

    fn number(mut self, name: &str, number: impl Into<f64>) -> Self {
        let number = number.into();
        if number != 0.0 {
            self.0.define(name, Js::Num(number));
        }
        self
    }

    /// 64 bits do not fit a double, so the server keeps them as text.
    fn long(mut self, name: &str, number: u64) -> Self {
        if number != 0 {
            self.0.define(name, Js::Str(number.to_string()));
        }
        self
    }

    fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        if !bytes.is_empty() {
            self.0.define(name, buffer(bytes));
        }
        self
    }

    fn list<T>(mut self, name: &str, items: &[T], convert: fn(&T) -> Js) -> Self {
        if !items.is_empty() {
            self.0.define(name, list(items, convert));
        }
        self
    }

    fn message<T>(mut self, name: &str, message: Option<&T>, convert: fn(&T) -> Js) -> Self {
        if let Some(message) = message {
            self.0.define(name, convert(message));
        }
        self
    }

    fn done(self) -> Js {
        Js::Obj(self.0)
    }
}

fn list<T>(items: &[T], convert: fn(&T) -> Js) -> Js {
    Js::Arr(items.iter().map(convert).collect())
}

/// Bytes after a trip through JSON, as Node.js writes a buffer.
fn buffer(bytes: &[u8]) -> Js {
    let mut buffer = Object::new();
    buffer.define("type", "Buffer".into());
    buffer.define("data", Js::Arr(bytes.iter().map(|byte| Js::Num(f64::from(*byte))).collect()));
    Js::Obj(buffer)
}

fn resource_spans(message: &ResourceSpans) -> Js {
    Fields::new()
        .message("resource", message.resource.as_ref(), resource)
        .list("scopeSpans", &message.scope_spans, scope_spans)
        .text("schemaUrl", &message.schema_url)
        .done()
}

fn resource(message: &Resource) -> Js {
    Fields::new()
        .list("attributes", &message.attributes, key_value)
        .number("droppedAttributesCount", message.dropped_attributes_count)
        .done()
}

fn scope_spans(message: &ScopeSpans) -> Js {
    Fields::new()
        .message("scope", message.scope.as_ref(), scope)
        .list("spans", &message.spans, span)
        .text("schemaUrl", &message.schema_url)
        .done()
}

fn scope(message: &InstrumentationScope) -> Js {
    Fields::new()
        .text("name", &message.name)
        .text("version", &message.version)
        .list("attributes", &message.attributes, key_value)
        .number("droppedAttributesCount", message.dropped_attributes_count)
        .done()
}

fn span(message: &Span) -> Js {
    Fields::new()
        .bytes("traceId", &message.trace_id)
        .bytes("spanId", &message.span_id)
        .text("traceState", &message.trace_state)
        .bytes("parentSpanId", &message.parent_span_id)
        .number("flags", message.flags)
        .text("name", &message.name)
        .number("kind", message.kind)
        .long("startTimeUnixNano", message.start_time_unix_nano)
        .long("endTimeUnixNano", message.end_time_unix_nano)
        .list("attributes", &message.attributes, key_value)
        .number("droppedAttributesCount", message.dropped_attributes_count)
        .list("events", &message.events, event)
        .number("droppedEventsCount", message.dropped_events_count)
        .list("links", &message.links, link)
        .number("droppedLinksCount", message.dropped_links_count)
        .message("status", message.status.as_ref(), status)
        .done()
}

fn event(message: &span::Event) -> Js {
    Fields::new()
        .long("timeUnixNano", message.time_unix_nano)
        .text("name", &message.name)
        .list("attributes", &message.attributes, key_value)
        .number("droppedAttributesCount", message.dropped_attributes_count)
        .done()
}

fn link(message: &span::Link) -> Js {
    Fields::new()
        .bytes("traceId", &message.trace_id)
        .bytes("spanId", &message.span_id)
        .text("traceState", &message.trace_state)
        .list("attributes", &message.attributes, key_value)
        .number("droppedAttributesCount", message.dropped_attributes_count)
        .number("flags", message.flags)
        .done()
}

fn status(message: &Status) -> Js {
    Fields::new().text("message", &message.message).number("code", message.code).done()
}

fn key_value(message: &KeyValue) -> Js {
    Fields::new()
        .text("key", &message.key)
        .message("value", message.value.as_ref(), any_value)
        .done()
}

fn any_value(message: &AnyValue) -> Js {
    let mut value = Object::new();
    match &message.value {
        None => {}
        Some(Value::StringValue(text)) => value.define("stringValue", text.as_str().into()),
        Some(Value::BoolValue(flag)) => value.define("boolValue", Js::Bool(*flag)),
        Some(Value::IntValue(number)) => value.define("intValue", Js::Str(number.to_string())),
        // The batch is kept as JSON before it is read, and JSON has no NaN.
        Some(Value::DoubleValue(number)) if !number.is_finite() => {
            value.define("doubleValue", Js::Null)
        }
        Some(Value::DoubleValue(number)) => value.define("doubleValue", Js::Num(*number)),
        Some(Value::ArrayValue(array)) => value.define("arrayValue", array_value(array)),
        Some(Value::KvlistValue(pairs)) => value.define("kvlistValue", kvlist_value(pairs)),
        Some(Value::BytesValue(bytes)) => value.define("bytesValue", buffer(bytes)),
        // An index into the strings of a profile; the server's schema does not know it.
        Some(Value::StringValueStrindex(_)) => {}
    }
    Js::Obj(value)
}

fn array_value(message: &ArrayValue) -> Js {
    Fields::new().list("values", &message.values, any_value).done()
}

fn kvlist_value(message: &KeyValueList) -> Js {
    Fields::new().list("values", &message.values, key_value).done()
}
