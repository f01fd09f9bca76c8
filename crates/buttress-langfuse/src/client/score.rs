//! Scores.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::SystemTime,
};

use serde_json::Value as Json;

use super::{Subject, lenient, pages::Listing};

/// A score of a trace, an observation or a session.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// The id.
    pub id: String,
    /// The name, such as `degradation_level`.
    pub name: String,
    /// The value.
    pub value: ScoreValue,
    /// The trace it is about.
    pub trace_id: Option<String>,
    /// The observation of the trace.
    pub observation_id: Option<String>,
    /// The session it is about.
    pub session_id: Option<String>,
    /// What was said beside it.
    pub comment: Option<String>,
    /// When it was given.
    pub timestamp: Option<SystemTime>,
    /// Who gave it, such as `API`.
    pub source: Option<String>,
    /// The environment.
    pub environment: Option<String>,
    /// What was kept beside it, under dotted keys.
    pub metadata: BTreeMap<String, Json>,
}

/// The value of a score.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ScoreValue {
    /// A number.
    Number(f64),
    /// True or false.
    Boolean(bool),
    /// A category or a text.
    Text(String),
}

/// Which scores to read.
///
/// # Defaults
///
/// Of all times, all of them, in pages of 100.
#[derive(Debug, Clone, Default)]
#[must_use = "a query does nothing until a client gets it"]
pub struct ScoreQuery {
    filters: Vec<(&'static str, String)>,
    page_size: Option<usize>,
}

// ===== impl Score =====

impl Score {
    /// Drops repeats and keeps the first, which is the newest.
    #[must_use]
    pub fn distinct(scores: Vec<Self>) -> Vec<Self> {
        let mut seen = HashSet::new();
        scores.into_iter().filter(|score| seen.insert(score.id.clone())).collect()
    }

    /// Reads a row of either interface; none where it has no id or no value.
    pub(crate) fn read(row: &Json) -> Option<Self> {
        let text = |key: &str| lenient::text(&row[key]);
        let subject = &row["subject"];
        let of_subject = |kind: &str, key: &str| {
            (subject["kind"] == kind).then(|| lenient::text(&subject[key])).flatten()
        };
        Some(Self {
            id: text("id")?,
            name: text("name").unwrap_or_default(),
            value: ScoreValue::read(row)?,
            trace_id: of_subject("trace", "id")
                .or_else(|| of_subject("observation", "traceId"))
                .or_else(|| text("traceId")),
            observation_id: of_subject("observation", "id").or_else(|| text("observationId")),
            session_id: of_subject("session", "id").or_else(|| text("sessionId")),
            comment: text("comment"),
            timestamp: lenient::time(&row["timestamp"]),
            source: text("source"),
            environment: text("environment"),
            metadata: lenient::flattened(&row["metadata"]),
        })
    }
}

impl fmt::Debug for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is said beside it may be of a prompt.
        f.debug_struct("Score")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// ===== impl ScoreValue =====

impl ScoreValue {
    /// Returns it as a number: 1 and 0 for true and false.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Boolean(value) => Some(f64::from(u8::from(*value))),
            Self::Text(_) => None,
        }
    }

    /// Reads the value: the older interface puts text beside a number.
    fn read(row: &Json) -> Option<Self> {
        let value = &row["value"];
        match row["dataType"].as_str().unwrap_or_default().to_uppercase().as_str() {
            "BOOLEAN" => lenient::boolean(value).map(Self::Boolean),
            "NUMERIC" => lenient::number(value).map(Self::Number),
            _ => match (lenient::text(&row["stringValue"]), value) {
                (Some(text), _) => Some(Self::Text(text)),
                (None, Json::Number(number)) => number.as_f64().map(Self::Number),
                (None, Json::Bool(value)) => Some(Self::Boolean(*value)),
                (None, Json::String(text)) => Some(Self::Text(text.clone())),
                _ => None,
            },
        }
    }
}

// ===== impl ScoreQuery =====

impl ScoreQuery {
    /// Asks for all scores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what was given then or later.
    pub fn from(self, time: SystemTime) -> Self {
        self.with("fromTimestamp", lenient::iso(time))
    }

    /// Takes what was given before.
    pub fn to(self, time: SystemTime) -> Self {
        self.with("toTimestamp", lenient::iso(time))
    }

    /// Takes those of one name.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with("name", name.into())
    }

    /// Takes those of one trace.
    pub fn trace_id(self, id: impl Into<String>) -> Self {
        self.with("traceId", id.into())
    }

    /// Takes those of one environment.
    pub fn environment(self, environment: impl Into<String>) -> Self {
        self.with("environment", environment.into())
    }

    /// Sets how many come at once; a server has limits of its own.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub const fn page_size(mut self, rows: usize) -> Self {
        assert!(rows > 0, "page_size must be at least 1");
        self.page_size = Some(rows);
        self
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.filters.retain(|(known, _)| *known != name);
        self.filters.push((name, value));
        self
    }

    pub(super) fn listing(self) -> Listing {
        let limit = self.page_size.unwrap_or(100).min(100);
        let mut new_query = self.filters.clone();
        new_query.push(("fields", "details,subject".to_owned()));
        Listing {
            subject: Subject::Scores,
            new_path: "/api/public/v3/scores",
            new_query,
            new_limit: limit,
            old_path: "/api/public/v2/scores",
            old_query: self.filters,
            old_limit: limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_score_of_either_interface_is_the_same() {
        let newer = json!({
            "id": "1", "name": "rescued", "value": true, "dataType": "BOOLEAN", "comment": "yes",
            "timestamp": "2026-11-25T10:00:00.000Z",
            "subject": {"kind": "observation", "id": "ab", "traceId": "t"},
        });
        let older = json!({
            "id": "1", "name": "rescued", "value": 1, "stringValue": "True", "dataType": "BOOLEAN",
            "comment": "yes", "timestamp": "2026-11-25T10:00:00.000Z", "traceId": "t",
            "observationId": "ab",
        });
        let one = Score::read(&newer).unwrap();
        assert_eq!(one, Score::read(&older).unwrap());
        assert_eq!((one.value.number(), one.trace_id.as_deref()), (Some(1.0), Some("t")));
    }

    #[test]
    fn values_are_read_by_their_type() {
        let value = |row: Json| ScoreValue::read(&row);
        assert_eq!(
            value(json!({"value": "0.5", "dataType": "NUMERIC"})),
            Some(ScoreValue::Number(0.5))
        );
        let good = Some(ScoreValue::Text("good".to_owned()));
        assert_eq!(value(json!({"value": "good", "dataType": "CATEGORICAL"})), good);
        assert_eq!(
            value(json!({"value": 0, "stringValue": "good", "dataType": "CATEGORICAL"})),
            good
        );
        assert_eq!(value(json!({"value": null, "dataType": "NUMERIC"})), None);
    }
}
