//! Values in the forms that Langfuse keeps as they are.
//!
//! Langfuse turns an empty array and a map into odd text, a number that is not finite into `null`,
//! and an integer above 2^53 into its neighbour; an attribute without a value makes it lose the
//! whole request. None of these leaves this module.

use std::borrow::Cow;

use opentelemetry::{Array, Value};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
use serde_json::Value as Json;

/// The largest integer that JavaScript tells from its neighbours.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A value as it is sent, borrowed from what was recorded where that has the same form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sent<'a> {
    Text(Cow<'a, str>),
    Boolean(bool),
    Integer(i64),
    Double(f64),
    /// Lists, and what was turned before.
    Any(AnyValue),
}

impl<'a> Sent<'a> {
    /// Takes a text.
    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    /// Takes an integer, or its text where Langfuse would round it.
    pub(crate) fn integer(value: i64) -> Self {
        if value.unsigned_abs() > MAX_SAFE_INTEGER {
            return Self::text(value.to_string());
        }
        Self::Integer(value)
    }

    /// Takes what a span recorded; nothing where Langfuse would garble it.
    pub(crate) fn recorded(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Boolean(*value),
            Value::I64(value) => Self::integer(*value),
            Value::F64(value) if value.is_finite() => Self::Double(*value),
            Value::String(value) => Self::text(value.as_str()),
            value => Self::Any(any(value)?),
        })
    }
}

/// Makes an attribute.
pub(crate) fn attribute(key: impl Into<String>, value: AnyValue) -> KeyValue {
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

/// Makes a text.
pub(crate) fn text(text: impl Into<String>) -> AnyValue {
    any_value::Value::StringValue(text.into()).wrapped()
}

/// Makes a truth value.
pub(crate) fn boolean(value: bool) -> AnyValue {
    any_value::Value::BoolValue(value).wrapped()
}

/// Makes an integer, or its text where Langfuse would round it.
pub(crate) fn integer(value: i64) -> AnyValue {
    if value.unsigned_abs() > MAX_SAFE_INTEGER {
        return text(value.to_string());
    }
    any_value::Value::IntValue(value).wrapped()
}

/// Makes a number, or its name where it is none.
pub(crate) fn double(value: f64) -> AnyValue {
    if value.is_finite() {
        any_value::Value::DoubleValue(value).wrapped()
    } else if value.is_nan() {
        text("NaN")
    } else if value > 0.0 {
        text("Infinity")
    } else {
        text("-Infinity")
    }
}

/// Makes a list; nothing where it would be empty.
pub(crate) fn list(values: Vec<AnyValue>) -> Option<AnyValue> {
    let list = ArrayValue { values };
    (!list.values.is_empty()).then(|| any_value::Value::ArrayValue(list).wrapped())
}

/// Turns what a span recorded into what is sent; nothing where Langfuse would garble it.
pub(crate) fn any(value: &Value) -> Option<AnyValue> {
    match value {
        Value::Bool(value) => Some(boolean(*value)),
        Value::I64(value) => Some(integer(*value)),
        Value::F64(value) => Some(double(*value)),
        Value::String(value) => Some(text(value.as_str())),
        Value::Array(Array::Bool(values)) => list(values.iter().copied().map(boolean).collect()),
        Value::Array(Array::I64(values)) => list(values.iter().copied().map(integer).collect()),
        Value::Array(Array::F64(values)) => list(values.iter().copied().map(double).collect()),
        Value::Array(Array::String(values)) => {
            list(values.iter().map(|value| text(value.as_str())).collect())
        }
        // Kinds that a later OpenTelemetry may add: all of them have a text.
        other => Some(text(other.to_string())),
    }
}

/// Turns JSON into what is sent: scalars as they are, the rest as JSON text, `null` not at all.
pub(crate) fn from_json(value: &Json) -> Option<AnyValue> {
    match value {
        Json::Null => None,
        Json::Bool(value) => Some(boolean(*value)),
        Json::Number(number) => Some(match (number.as_i64(), number.as_f64()) {
            (Some(integral), _) => integer(integral),
            (None, Some(float)) if !number.is_u64() => double(float),
            _ => text(number.to_string()),
        }),
        Json::String(value) => Some(text(value.as_str())),
        Json::Array(_) | Json::Object(_) => Some(text(value.to_string())),
    }
}

/// Turns what is sent back into JSON, to be shown.
pub(crate) fn to_json(value: &AnyValue) -> Json {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => parsed(text),
        Some(any_value::Value::BoolValue(value)) => (*value).into(),
        Some(any_value::Value::IntValue(value)) => (*value).into(),
        Some(any_value::Value::DoubleValue(value)) => (*value).into(),
        Some(any_value::Value::ArrayValue(list)) => list.values.iter().map(to_json).collect(),
        _ => Json::Null,
    }
}

/// Returns a value that is a text.
pub(crate) fn as_text(value: &AnyValue) -> Option<&str> {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// Reads text as Langfuse shows it: objects and lists are recorded as JSON text.
fn parsed(text: &str) -> Json {
    let is_json = text.starts_with(['[', '{']);
    is_json.then(|| serde_json::from_str(text).ok()).flatten().unwrap_or_else(|| text.into())
}

trait Wrapped {
    fn wrapped(self) -> AnyValue;
}

impl Wrapped for any_value::Value {
    fn wrapped(self) -> AnyValue {
        AnyValue { value: Some(self) }
    }
}
