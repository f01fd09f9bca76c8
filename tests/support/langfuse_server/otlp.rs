//! Requests of OTLP, brought into the one form that the server works on.
//!
//! The real server turns a protobuf body into the objects that the JSON encoding has, and works
//! on those. So does this one: [`from_protobuf`] and [`from_json`] answer the same structure.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

use super::js::{Js, Object};
pub use super::protobuf::from_request;
pub use super::refusal::check;

/// Reads a body of type `application/x-protobuf`; answers the field `resourceSpans`.
///
/// # Errors
///
/// Answers the error of the decoder.
pub fn from_protobuf(body: &[u8]) -> Result<Js, prost::DecodeError> {
    let request = ExportTraceServiceRequest::decode(body)?;
    Ok(from_request(&request))
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

/// Puts what requests said in their fields `resourceSpans` into one request of OTLP/JSON, whose ids
/// are hexadecimal.
#[must_use]
pub fn to_json(requests: &[Js]) -> serde_json::Value {
    let all = requests.iter().flat_map(|request| request.as_array().unwrap_or_default());
    let mut all: Vec<_> = all.map(Js::to_serde).collect();
    all.iter_mut().for_each(with_hex_ids);
    serde_json::json!({ "resourceSpans": all })
}

/// Writes ids as text wherever they are bytes.
fn with_hex_ids(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_id = ["traceId", "spanId", "parentSpanId"].contains(&name.as_str());
                match value["data"].as_array().filter(|_| is_id) {
                    Some(bytes) => {
                        let bytes = bytes.iter().filter_map(Value::as_u64);
                        *value = bytes.map(|byte| format!("{byte:02x}")).collect::<String>().into();
                    }
                    None => with_hex_ids(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(with_hex_ids),
        _ => {}
    }
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
        Js::Undefined => {}
        text @ Js::Str(_) => {
            let number = text.to_number();
            return Ok(if number.is_finite() { Js::Num(number) } else { text.clone() });
        }
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
        _ => {}
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
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the remainder is 0 to 255"
    )]
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

pub(super) fn items(list: &Js) -> std::slice::Iter<'_, Js> {
    list.as_array().unwrap_or_default().iter()
}
