//! Requests of OTLP, brought into the one form that the server works on.
//!
//! The real server turns a protobuf body into the objects that the JSON encoding has, and works
//! on those. So does this one: [`from_protobuf`] and [`from_json`] answer the same structure.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use prost::Message as _;

use super::js::{Js, Object};

/// Reads a body of type `application/x-protobuf`; answers the field `resourceSpans`.
///
/// # Errors
///
/// Answers the error of the decoder.
pub fn from_protobuf(body: &[u8]) -> Result<Js, prost::DecodeError> {
    let request = ExportTraceServiceRequest::decode(body)?;
    Ok(from_request(&request))
}

/// Turns a decoded request into the field `resourceSpans`.
#[must_use]
pub fn from_request(request: &ExportTraceServiceRequest) -> Js {
    list(&request.resource_spans, resource_spans)
}

/// Reads a body of type `application/json`; answers the field `resourceSpans`.
///
/// # Errors
///
/// Says where the body stops being JSON. A body that is `null` is an error too: it has no fields.
pub fn from_json(body: &[u8]) -> Result<Js, super::js::ParseError> {
    let body = Js::parse(&String::from_utf8_lossy(body))?;
    if body.is_nullish() {
        return Js::parse("");
    }
    Ok(body.get("resourceSpans").clone())
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
    Fields::new().text("key", &message.key).message("value", message.value.as_ref(), any_value).done()
}

fn any_value(message: &AnyValue) -> Js {
    let mut value = Object::new();
    match &message.value {
        None => {},
        Some(Value::StringValue(text)) => value.define("stringValue", text.as_str().into()),
        Some(Value::BoolValue(flag)) => value.define("boolValue", Js::Bool(*flag)),
        Some(Value::IntValue(number)) => value.define("intValue", Js::Str(number.to_string())),
        // The batch is kept as JSON before it is read, and JSON has no NaN.
        Some(Value::DoubleValue(number)) if !number.is_finite() => value.define("doubleValue", Js::Null),
        Some(Value::DoubleValue(number)) => value.define("doubleValue", Js::Num(*number)),
        Some(Value::ArrayValue(array)) => value.define("arrayValue", array_value(array)),
        Some(Value::KvlistValue(pairs)) => value.define("kvlistValue", kvlist_value(pairs)),
        Some(Value::BytesValue(bytes)) => value.define("bytesValue", buffer(bytes)),
        // An index into the strings of a profile; the server's schema does not know it.
        Some(Value::StringValueStrindex(_)) => {},
    }
    Js::Obj(value)
}

fn array_value(message: &ArrayValue) -> Js {
    Fields::new().list("values", &message.values, any_value).done()
}

fn kvlist_value(message: &KeyValueList) -> Js {
    Fields::new().list("values", &message.values, key_value).done()
}

/// What is wrong with a request as a whole.
#[derive(Debug, Default)]
struct Defects {
    spans: usize,
    bad_spans: usize,
    bad_collections: usize,
    /// The reasons in the order of their first appearance.
    reasons: Vec<&'static str>,
    /// Up to five names of the scopes concerned.
    scopes: Vec<String>,
}

impl Defects {
    fn add(&mut self, reason: &'static str) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn add_scope(&mut self, scope_spans: &Js) {
        let name = scope_spans.get("scope").get("name");
        if name.is_truthy() && self.scopes.len() < 5 && !self.scopes.contains(&name.to_text()) {
            self.scopes.push(name.to_text());
        }
    }
}

/// Checks the request as the endpoint does before it accepts it. One bad span refuses them all.
///
/// # Errors
///
/// Answers the message of the refusal.
pub fn check(resource_spans: &Js) -> Result<(), String> {
    let mut defects = Defects::default();
    for resource in resource_spans.as_array().unwrap_or_default() {
        if is_no_list(resource.get("resource").get("attributes")) {
            defects.bad_collections += 1;
            defects.add("resource.attributes:not_an_array");
        }
        if is_no_list(resource.get("scopeSpans")) {
            defects.bad_collections += 1;
            defects.add("scopeSpans:not_an_array");
        }
        for scope in resource.get("scopeSpans").as_array().unwrap_or_default() {
            check_scope(scope, &mut defects);
        }
    }
    if defects.reasons.is_empty() { Ok(()) } else { Err(refusal(&defects)) }
}

/// Refuses a request for the spans that `is_bad` picks, in the words for ids that are none.
///
/// # Errors
///
/// Answers the message of the refusal.
pub(super) fn refuse_if(resource_spans: &Js, is_bad: impl Fn(&Js) -> bool) -> Result<(), String> {
    let mut defects = Defects::default();
    for scope in items(resource_spans).flat_map(|resource| items(resource.get("scopeSpans"))) {
        for span in items(scope.get("spans")) {
            defects.spans += 1;
            if is_bad(span) {
                defects.bad_spans += 1;
                defects.add("spanId:not_an_id");
                defects.add_scope(scope);
            }
        }
    }
    if defects.bad_spans == 0 { Ok(()) } else { Err(refusal(&defects)) }
}

fn check_scope(scope_spans: &Js, defects: &mut Defects) {
    let scope_attributes = scope_spans.get("scope").get("attributes");
    for (field, reason) in [
        (scope_attributes, "scope.attributes:not_an_array"),
        (scope_spans.get("spans"), "spans:not_an_array"),
    ] {
        if is_no_list(field) {
            defects.bad_collections += 1;
            defects.add(reason);
            defects.add_scope(scope_spans);
        }
    }
    for span in scope_spans.get("spans").as_array().unwrap_or_default() {
        defects.spans += 1;
        let reasons = span_defects(span);
        if !reasons.is_empty() {
            defects.bad_spans += 1;
            reasons.into_iter().for_each(|reason| defects.add(reason));
            defects.add_scope(scope_spans);
        }
    }
}

fn span_defects(span: &Js) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match id_defect(span.get("traceId")) {
        Some(IdDefect::Absent) => reasons.push("traceId:absent"),
        Some(IdDefect::NoId) => reasons.push("traceId:not_an_id"),
        None => {},
    }
    match id_defect(span.get("spanId")) {
        Some(IdDefect::Absent) => reasons.push("spanId:absent"),
        Some(IdDefect::NoId) => reasons.push("spanId:not_an_id"),
        None => {},
    }
    let parent = span.get("parentSpanId");
    if parent.is_truthy() && id_defect(parent).is_some() {
        reasons.push("parentSpanId:not_an_id");
    }
    if is_no_list(span.get("attributes")) {
        reasons.push("attributes:not_an_array");
    }
    let events = span.get("events");
    if is_no_list(events) {
        reasons.push("events:not_an_array");
    } else if events.as_array().unwrap_or_default().iter().any(|event| is_no_list(event.get("attributes"))) {
        reasons.push("event.attributes:not_an_array");
    }
    reasons
}

fn is_no_list(field: &Js) -> bool {
    !field.is_nullish() && field.as_array().is_none()
}

enum IdDefect {
    Absent,
    NoId,
}

/// Any text is an id, whatever its length; so are bytes.
fn id_defect(id: &Js) -> Option<IdDefect> {
    match id {
        Js::Undefined | Js::Null => Some(IdDefect::Absent),
        Js::Str(_) | Js::Arr(_) => None,
        Js::Obj(_) if id.get("type").as_str() == Some("Buffer") && id.get("data").as_array().is_some() => None,
        Js::Obj(_) | Js::Bool(_) | Js::Num(_) => Some(IdDefect::NoId),
    }
}

/// Words the refusal as the server does.
fn refusal(defects: &Defects) -> String {
    let mut problems = Vec::new();
    if defects.bad_spans > 0 {
        problems.push(format!("{} of {} span(s) cannot be processed", defects.bad_spans, defects.spans));
    }
    if defects.bad_collections > 0 {
        problems
            .push(format!("{} resource- or scope-level field(s) are present but not arrays", defects.bad_collections));
    }
    let mut hints = Vec::new();
    if defects.reasons.iter().any(|reason| reason.ends_with(":absent") || reason.ends_with(":not_an_id")) {
        hints.push("traceId and spanId are required on every span, and each must be a string or a byte array.");
    }
    if defects.reasons.iter().any(|reason| reason.ends_with(":not_an_array")) {
        hints.push(
            "scopeSpans, spans, attributes and events must all be arrays — OTLP attributes are a list of \
             {key, value} entries, not a JSON object.",
        );
    }
    let scopes = if defects.scopes.is_empty() { "unknown".to_owned() } else { defects.scopes.join(", ") };
    format!(
        "Invalid OTLP trace export: {} ({}). {} The entire export was rejected and no spans were ingested. \
         Instrumentation scopes: {scopes}. This endpoint accepts OpenTelemetry traces only — if you are exporting \
         OpenTelemetry logs, point your log exporter elsewhere.",
        problems.join("; "),
        defects.reasons.join(", "),
        hints.join(" "),
    )
}

/// Reads attributes into an object of plain values. The last of two equal keys wins.
///
/// # Errors
///
/// An attribute without a value stops the whole batch, as it does in the real server.
pub fn attributes(list: &Js) -> Result<Object, Unreadable> {
    let mut object = Object::new();
    for attribute in list.as_array().unwrap_or_default() {
        object.assign(attribute.get("key").to_text(), plain(attribute.get("value"))?);
    }
    Ok(object)
}

/// An attribute or id that the real server's worker fails on, after the request was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// An attribute has no value at all.
    AttributeWithoutValue,
    /// An id is neither text nor bytes.
    Id,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AttributeWithoutValue => "an attribute has no value",
            Self::Id => "an id is neither text nor bytes",
        })
    }
}

impl std::error::Error for Unreadable {}

fn plain(value: &Js) -> Result<Js, Unreadable> {
    if value.is_nullish() {
        return Err(Unreadable::AttributeWithoutValue);
    }
    let text = value.get("stringValue");
    if *text != Js::Undefined {
        return Ok(text.clone());
    }
    match value.get("doubleValue") {
        Js::Undefined => {},
        text @ Js::Str(_) => {
            let number = text.to_number();
            return Ok(if number.is_finite() { Js::Num(number) } else { text.clone() });
        },
        number => return Ok(number.clone()),
    }
    let flag = value.get("boolValue");
    if *flag != Js::Undefined {
        return Ok(flag.clone());
    }
    if let Some(values) = value.get("arrayValue").get("values").as_array() {
        return values.iter().map(plain).collect::<Result<_, _>>().map(Js::Arr);
    }
    match value.get("intValue") {
        number @ Js::Num(_) => return Ok(number.clone()),
        text @ Js::Str(_) if !text.to_number().is_nan() => return Ok(Js::Num(text.to_number())),
        _ => {},
    }
    // The server knows no maps and no bytes: it keeps their encoding as text.
    Ok(Js::Str(value.to_json()))
}

/// Prints an id: text as it came, bytes in hexadecimal.
///
/// # Errors
///
/// Everything else is no id.
pub fn id(id: &Js) -> Result<String, Unreadable> {
    let bytes = match id {
        Js::Str(text) => return Ok(text.clone()),
        Js::Arr(bytes) => bytes,
        Js::Obj(_) => match id.get("data") {
            Js::Arr(bytes) => bytes,
            _ => return Err(Unreadable::Id),
        },
        Js::Undefined | Js::Null | Js::Bool(_) | Js::Num(_) => return Err(Unreadable::Id),
    };
    Ok(bytes.iter().map(|byte| format!("{:02x}", low_byte(byte.to_number()))).collect())
}

fn low_byte(number: f64) -> u8 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the remainder is 0 to 255")]
    let byte = number.trunc().rem_euclid(256.0) as u8;
    byte
}

/// Lists the ids of the spans of a request; unreadable ids are left out.
#[must_use]
pub fn span_ids(resource_spans: &Js) -> Vec<String> {
    spans(resource_spans).filter_map(|span| id(span.get("spanId")).ok()).collect()
}

/// Lists the spans of a request.
pub fn spans(resource_spans: &Js) -> impl Iterator<Item = &Js> {
    items(resource_spans)
        .flat_map(|resource| items(resource.get("scopeSpans")))
        .flat_map(|scope| items(scope.get("spans")))
}

fn items(list: &Js) -> std::slice::Iter<'_, Js> {
    list.as_array().unwrap_or_default().iter()
}

