//! Scores: numbers, truth values and words about a trace, as Langfuse takes them.
//!
//! Rules of the server: `web/src/features/scores/interfaces/api/shared.ts` at 6275144.

use std::{fmt, time::SystemTime};

use buttress::telemetry;
use bytes::Bytes;
use opentelemetry::{KeyValue, SpanId, TraceId, Value};
use serde_json::{Value as Json, json};

use tracing::field::{Field, Visit};

use crate::{attribute, clock};

/// The longest text that Langfuse takes as a score.
const LONGEST_TEXT: usize = 500;

/// The value of a score.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ScoreValue {
    /// A number, `NUMERIC` in Langfuse; one that is not finite is not sent.
    Number(f64),
    /// `BOOLEAN` in Langfuse.
    Boolean(bool),
    /// A word out of few, `CATEGORICAL` in Langfuse; cut to 500 characters, an empty one is not
    /// sent.
    Text(String),
}

/// What is said about a trace or one of its spans.
#[derive(Debug)]
pub(crate) struct Score<'a> {
    pub(crate) trace: TraceId,
    pub(crate) span: Option<SpanId>,
    pub(crate) name: &'a str,
    pub(crate) value: ScoreValue,
    pub(crate) comment: Option<&'a str>,
}

/// The scores of buttress itself that, unless they are 0, are of traces in which something went
/// wrong.
const TROUBLE: [&str; 3] = ["degradation_level", "fallback_used", "retry_attempts"];

// ===== impl Score =====

impl Score<'_> {
    /// Returns whether a trace with it is one that is sent, whatever its share is.
    pub(crate) fn tells_of_trouble(&self) -> bool {
        TROUBLE.contains(&self.name) && !self.value.is_nothing()
    }

    /// Writes it as the server's `CreateScoreRequest`, with an id that makes repeats harmless;
    /// nothing where the server would refuse it.
    pub(crate) fn encode(&self, environment: Option<&str>) -> Option<Bytes> {
        let (value, kind) = match &self.value {
            ScoreValue::Number(number) if number.is_finite() => (json!(number), "NUMERIC"),
            ScoreValue::Boolean(value) => (json!(u8::from(*value)), "BOOLEAN"),
            ScoreValue::Text(text) if !text.is_empty() => {
                let text: String = text.chars().take(LONGEST_TEXT).collect();
                (json!(text), "CATEGORICAL")
            }
            _ => return None,
        };
        if self.name.is_empty() {
            return None;
        }
        let mut score = json!({
            "id": format!("{:032x}", fastrand::u128(..)),
            "traceId": self.trace.to_string(),
            "name": self.name,
            "value": value,
            "dataType": kind,
            "environment": environment.unwrap_or("default"),
            "timestamp": clock::iso(clock::nanos(SystemTime::now())),
        });
        let mut add = |key: &str, value: Option<Json>| {
            if let (Some(object), Some(value)) = (score.as_object_mut(), value) {
                object.insert(key.to_owned(), value);
            }
        };
        add("observationId", self.span.map(|span| span.to_string().into()));
        add("comment", self.comment.map(Into::into));
        Some(score.to_string().into())
    }
}

// ===== impl ScoreValue =====

impl ScoreValue {
    /// Returns whether it says that nothing is to be told: 0 or false.
    fn is_nothing(&self) -> bool {
        match self {
            Self::Number(number) => *number == 0.0,
            Self::Boolean(value) => !value,
            Self::Text(_) => false,
        }
    }
}

impl From<f64> for ScoreValue {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<i64> for ScoreValue {
    #[expect(clippy::cast_precision_loss, reason = "the server's numbers are doubles")]
    fn from(number: i64) -> Self {
        Self::Number(number as f64)
    }
}

impl From<i32> for ScoreValue {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for ScoreValue {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<&str> for ScoreValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for ScoreValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A score as an event of the target `buttress::score` tells it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) value: Option<ScoreValue>,
    pub(crate) comment: Option<String>,
}

impl Told {
    /// Reads an event of OpenTelemetry; it tells nothing where it is no score.
    pub(crate) fn of(attributes: &[KeyValue]) -> Self {
        let mut told = Self::default();
        let is_score = attributes.iter().any(|known| {
            known.key.as_str() == attribute::TARGET
                && known.value.as_str() == telemetry::SCORE_TARGET
        });
        for KeyValue { key, value, .. } in attributes.iter().filter(|_| is_score) {
            match (key.as_str(), value) {
                ("name", value) => told.name = value.as_str().into_owned(),
                ("comment", value) => told.comment = Some(value.as_str().into_owned()),
                ("value", Value::Bool(value)) => told.value = Some((*value).into()),
                ("value", Value::I64(value)) => told.value = Some((*value).into()),
                ("value", Value::F64(value)) => told.value = Some((*value).into()),
                ("value", value) => told.value = Some(value.as_str().into_owned().into()),
                _ => {}
            }
        }
        told
    }

    fn take(&mut self, field: &Field, value: impl Into<ScoreValue>) {
        if field.name() == "value" {
            self.value = Some(value.into());
        }
    }
}

impl Visit for Told {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value);
    }

    #[expect(clippy::cast_precision_loss, reason = "the server's numbers are doubles")]
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value as f64);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "name" => value.clone_into(&mut self.name),
            "comment" => self.comment = Some(value.to_owned()),
            _ => self.take(field, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(value: impl Into<ScoreValue>) -> Option<Json> {
        let (trace, span) = (TraceId::from(7_u128), Some(SpanId::from(9_u64)));
        let score =
            Score { trace, span, name: "quality", value: value.into(), comment: Some("by hand") };
        score.encode(Some("production")).map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn values_have_the_types_that_the_server_takes() {
        let number = encode(0.5).unwrap();
        assert_eq!((&number["value"], &number["dataType"]), (&json!(0.5), &json!("NUMERIC")));
        assert_eq!(number["traceId"], "00000000000000000000000000000007");
        assert_eq!(number["observationId"], "0000000000000009");
        assert_eq!(number["environment"], "production");
        assert_eq!(number["comment"], "by hand");
        let boolean = encode(true).unwrap();
        assert_eq!((&boolean["value"], &boolean["dataType"]), (&json!(1), &json!("BOOLEAN")));
        let long = encode("ä".repeat(600)).unwrap();
        assert_eq!(long["value"].as_str().unwrap().chars().count(), 500);
        assert_eq!(long["dataType"], "CATEGORICAL");
        assert_ne!(encode(1).unwrap()["id"], encode(1).unwrap()["id"]);
    }

    #[test]
    fn what_the_server_would_refuse_is_not_sent() {
        assert_eq!(encode(f64::NAN), None);
        assert_eq!(encode(f64::INFINITY), None);
        assert_eq!(encode(""), None);
    }
}
