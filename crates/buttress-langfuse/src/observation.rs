//! One observation, wherever it was read.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, SystemTime},
};

use serde_json::Value as Json;

use crate::{Level, client::lenient};

/// One observation of a trace: a span, a generation or an event.
///
/// `Debug` shows neither what it says nor what went in and out: that may be a prompt.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// The id, which is that of the span.
    pub id: String,
    /// The id of its trace.
    pub trace_id: String,
    /// The id of the observation around it; it need not be there.
    pub parent_id: Option<String>,
    /// Whether the server takes it for the root of its trace, also under a parent of others.
    pub is_root: bool,
    /// The name.
    pub name: String,
    /// The type in capitals, such as `SPAN`, `GENERATION` or `EVENT`.
    pub kind: String,
    /// How bad it is.
    pub level: Level,
    /// What a person reads beside the level.
    pub status_message: Option<String>,
    /// When it began, to the millisecond.
    pub start: SystemTime,
    /// When it ended.
    pub end: Option<SystemTime>,
    /// What it recorded, under dotted keys.
    pub metadata: BTreeMap<String, Json>,
    /// When the server last changed it, where it says so.
    pub updated: Option<SystemTime>,
    /// The environment, such as `production`.
    pub environment: Option<String>,
    /// The name of the trace.
    pub trace_name: Option<String>,
    /// The session.
    pub session_id: Option<String>,
    /// The user.
    pub user_id: Option<String>,
    /// The model that was asked.
    pub model: Option<String>,
    /// What was used, such as `input` and `output` tokens.
    pub usage: BTreeMap<String, f64>,
    /// What it cost, by the same names.
    pub cost: BTreeMap<String, f64>,
    /// What went in, where it was asked for.
    pub input: Option<Json>,
    /// What came out, where it was asked for.
    pub output: Option<Json>,
}

// ===== impl Observation =====

impl Observation {
    /// Creates a span of the level `DEFAULT` with nothing in it.
    #[must_use]
    pub fn new(
        trace_id: impl Into<String>,
        id: impl Into<String>,
        name: impl Into<String>,
        start: SystemTime,
    ) -> Self {
        Self {
            id: id.into(),
            trace_id: trace_id.into(),
            parent_id: None,
            is_root: false,
            name: name.into(),
            kind: "SPAN".to_owned(),
            level: Level::Default,
            status_message: None,
            start,
            end: None,
            metadata: BTreeMap::new(),
            updated: None,
            environment: None,
            trace_name: None,
            session_id: None,
            user_id: None,
            model: None,
            usage: BTreeMap::new(),
            cost: BTreeMap::new(),
            input: None,
            output: None,
        }
    }

    /// Returns how long it took; zero while it has no end.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.end.and_then(|end| end.duration_since(self.start).ok()).unwrap_or_default()
    }

    /// Returns a text of the metadata.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        lenient::text(self.metadata.get(key)?)
    }

    /// Returns a number of the metadata, also one that is written as text.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        lenient::number(self.metadata.get(key)?)
    }

    /// Returns a whole number of the metadata that is not negative.
    #[must_use]
    pub fn count(&self, key: &str) -> Option<u64> {
        lenient::count(self.metadata.get(key)?)
    }

    /// Returns a truth value of the metadata.
    #[must_use]
    pub fn boolean(&self, key: &str) -> Option<bool> {
        lenient::boolean(self.metadata.get(key)?)
    }

    /// Returns a list of the metadata, also one that is written as JSON text.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<Vec<Json>> {
        lenient::list(self.metadata.get(key)?)
    }

    /// Drops the repeats of an observation and keeps its newest row, in the place of the first.
    ///
    /// A server shows what was sent twice twice, for a while.
    #[must_use]
    pub fn distinct(observations: Vec<Self>) -> Vec<Self> {
        let mut places: HashMap<(String, String), usize> =
            HashMap::with_capacity(observations.len());
        let mut kept: Vec<Self> = Vec::with_capacity(observations.len());
        for one in observations {
            let key = (one.trace_id.clone(), one.id.clone());
            match places.get(&key) {
                Some(place) if one.age_rank() > kept[*place].age_rank() => kept[*place] = one,
                Some(_) => {}
                None => {
                    places.insert(key, kept.len());
                    kept.push(one);
                }
            }
        }
        kept
    }

    /// Grows with newer rows of one observation; of equal ones the first is the newest, since
    /// servers answer the newest first.
    fn age_rank(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        (self.updated, self.end)
    }

    /// Reads a row of either interface; none where it has no id.
    pub(crate) fn read(row: &Json) -> Option<Self> {
        let text = |key: &str| lenient::text(&row[key]);
        let time = |key: &str| lenient::time(&row[key]);
        let id = text("id")?;
        let metadata = lenient::flattened(&row["metadata"]);
        let parent_id = text("parentObservationId");
        // Older servers do not say it, but keep what was sent.
        let app_root = metadata.get("attributes.langfuse.internal.is_app_root");
        let is_root = lenient::boolean(&row["isRootObservation"]).unwrap_or_else(|| {
            parent_id.is_none() || app_root.and_then(lenient::boolean).unwrap_or(false)
        });
        let io = |key: &str| row.get(key).filter(|value| !value.is_null()).cloned();
        Some(Self {
            parent_id,
            is_root,
            kind: text("type").map_or_else(|| "SPAN".to_owned(), |kind| kind.to_uppercase()),
            level: text("level").and_then(|level| Level::parse(&level)).unwrap_or_default(),
            status_message: text("statusMessage"),
            end: time("endTime"),
            metadata,
            updated: time("updatedAt"),
            environment: text("environment"),
            trace_name: text("traceName"),
            session_id: text("sessionId"),
            user_id: text("userId"),
            model: text("providedModelName").or_else(|| text("model")),
            usage: lenient::numbers(&row["usageDetails"]),
            cost: lenient::numbers(&row["costDetails"]),
            input: io("input"),
            output: io("output"),
            ..Self::new(
                text("traceId").unwrap_or_default(),
                id,
                text("name").unwrap_or_default(),
                time("startTime").unwrap_or(SystemTime::UNIX_EPOCH),
            )
        })
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation")
            .field("id", &self.id)
            .field("trace_id", &self.trace_id)
            .field("parent_id", &self.parent_id)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(updated: &str, end: &str, attempt: u64) -> Observation {
        Observation::read(&json!({
            "id": "ab", "traceId": "t", "updatedAt": updated, "endTime": end,
            "startTime": "2026-11-25T10:00:00.000Z", "metadata": {"attempt": attempt},
        }))
        .unwrap()
    }

    #[test]
    fn of_several_rows_of_one_observation_the_newest_stays() {
        let attempts = |rows: Vec<Observation>| {
            let distinct = Observation::distinct(rows);
            distinct.iter().map(|one| one.count("attempt").unwrap()).collect::<Vec<_>>()
        };
        let (early, late) = ("2026-11-25T10:00:01.000Z", "2026-11-25T10:00:02.000Z");
        assert_eq!(attempts(vec![row(early, early, 1), row(late, early, 2)]), [2]);
        assert_eq!(attempts(vec![row(late, early, 1), row(early, late, 2)]), [1]);
        assert_eq!(attempts(vec![row("", early, 1), row("", late, 2)]), [2]);
        assert_eq!(attempts(vec![row("", early, 1), row("", early, 2)]), [1]);
        let other = Observation { trace_id: "u".to_owned(), ..row("", early, 3) };
        assert_eq!(attempts(vec![row("", early, 1), other, row("", early, 2)]), [1, 3]);
    }

    #[test]
    fn a_row_of_either_interface_is_the_same_observation() {
        let newer = json!({
            "id": "ab", "traceId": "t", "startTime": "2026-11-25T10:00:00.000Z",
            "endTime": "2026-11-25T10:00:00.250Z", "parentObservationId": "cd", "type": "GENERATION",
            "name": "llm_call", "level": "WARNING", "statusMessage": "slow",
            "isRootObservation": false, "providedModelName": "m",
            "usageDetails": {"input": "12"}, "metadata": {"scope.name": "buttress", "attempt": "2"},
        });
        let older = json!({
            "id": "ab", "traceId": "t", "startTime": "2026-11-25T10:00:00.000Z",
            "endTime": "2026-11-25T10:00:00.250Z", "parentObservationId": "cd", "type": "GENERATION",
            "name": "llm_call", "level": "WARNING", "statusMessage": "slow", "model": "m",
            "usageDetails": {"input": 12}, "metadata": {"scope": {"name": "buttress"}, "attempt": "2"},
        });
        let one = Observation::read(&newer).unwrap();
        assert_eq!(one, Observation::read(&older).unwrap());
        assert_eq!((one.duration().as_millis(), one.count("attempt")), (250, Some(2)));
        assert_eq!(one.usage["input"], 12.0);
        assert!(!one.is_root);
    }

    #[test]
    fn what_is_missing_is_read_as_missing() {
        assert!(Observation::read(&json!({"traceId": "t"})).is_none());
        let one = Observation::read(&json!({"id": "ab", "level": "LOUD", "metadata": null}));
        let one = one.unwrap();
        assert_eq!((one.level, one.kind.as_str(), one.is_root), (Level::Default, "SPAN", true));
        assert_eq!(one.duration(), Duration::ZERO);
        let app_root = json!({
            "id": "ab", "parentObservationId": "cd",
            "metadata": {"attributes": {"langfuse.internal.is_app_root": "true"}},
        });
        assert!(Observation::read(&app_root).unwrap().is_root);
    }

    #[test]
    fn debug_shows_nothing_that_it_says() {
        let one = Observation {
            input: Some(json!("hush")),
            status_message: Some("hush".to_owned()),
            ..row("", "", 1)
        };
        assert!(!format!("{one:?}").contains("hush"));
    }
}
