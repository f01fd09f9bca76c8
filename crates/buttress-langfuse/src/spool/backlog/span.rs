//! A span that waits, as the observation that Langfuse will make of it.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Map, Value as Json};

use super::time;
use crate::{Level, Observation, attribute, client::lenient, encode::Encoded, value};

/// Where the model stands of a span that is not ours, the first counts.
const MODELS: [&str; 3] = [attribute::MODEL, "gen_ai.request.model", "gen_ai.response.model"];

/// Returns when a span ended.
pub(super) fn ended(span: &Bytes) -> Option<SystemTime> {
    let span = Encoded(span.clone()).decode().ok()?;
    Some(time(span.end_time_unix_nano))
}

/// Reads a span; times are those that Langfuse answers, to the millisecond.
pub(super) fn observation(span: &Span) -> Observation {
    let said = Said::of(span);
    let parent_id = Some(hex(&span.parent_span_id)).filter(|id| id.contains(|char| char != '0'));
    let model = MODELS.into_iter().find_map(|key| said.text(key));
    let kind = match said.text(attribute::TYPE) {
        Some(kind) => kind.to_uppercase(),
        None if model.is_some() => "GENERATION".to_owned(),
        None => "SPAN".to_owned(),
    };
    let is_app_root = said.values.get(attribute::IS_APP_ROOT).and_then(lenient::boolean);
    Observation {
        is_root: parent_id.is_none() || is_app_root == Some(true),
        parent_id,
        kind,
        level: said.text(attribute::LEVEL).and_then(|text| Level::parse(&text)).unwrap_or_default(),
        status_message: said.text(attribute::STATUS_MESSAGE),
        end: (span.end_time_unix_nano != 0).then(|| millis(span.end_time_unix_nano)),
        metadata: said.metadata(),
        environment: said.text(attribute::ENVIRONMENT),
        trace_name: said.text(attribute::TRACE_NAME),
        session_id: said.text(attribute::SESSION),
        user_id: said.text(attribute::USER),
        model,
        usage: said.numbers(attribute::USAGE),
        cost: said.numbers(attribute::COST),
        input: said.values.get(attribute::INPUT).cloned(),
        output: said.values.get(attribute::OUTPUT).cloned(),
        ..Observation::new(
            hex(&span.trace_id),
            hex(&span.span_id),
            span.name.clone(),
            millis(span.start_time_unix_nano),
        )
    }
}

/// The attributes of a span: of one that is there twice the last counts.
struct Said {
    values: BTreeMap<String, Json>,
}

impl Said {
    fn of(span: &Span) -> Self {
        let attributes = span.attributes.iter().filter_map(|attribute| {
            Some((attribute.key.clone(), value::to_json(attribute.value.as_ref()?)))
        });
        Self { values: attributes.collect() }
    }

    fn text(&self, key: &str) -> Option<String> {
        lenient::text(self.values.get(key)?)
    }

    fn numbers(&self, key: &str) -> BTreeMap<String, f64> {
        self.values.get(key).map(lenient::numbers).unwrap_or_default()
    }

    /// What Langfuse answers as metadata: that of the span, then that of its trace, and what it
    /// knows no better place for under `attributes`.
    fn metadata(&self) -> BTreeMap<String, Json> {
        let mut own = Map::new();
        let mut of_trace = Map::new();
        let mut others = Map::new();
        for (key, value) in &self.values {
            if let Some(key) = key.strip_prefix(attribute::METADATA_PREFIX) {
                own.insert(key.to_owned(), value.clone());
            } else if let Some(key) = key.strip_prefix(attribute::TRACE_METADATA_PREFIX) {
                of_trace.insert(key.to_owned(), value.clone());
            } else if !key.starts_with("langfuse.")
                && ![attribute::SESSION, attribute::USER].contains(&key.as_str())
            {
                others.insert(key.clone(), value.clone());
            }
        }
        own.extend(of_trace);
        if !others.is_empty() {
            own.insert("attributes".to_owned(), others.into());
        }
        lenient::flattened(&own.into())
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn millis(nanos: u64) -> SystemTime {
    time(nanos / 1_000_000 * 1_000_000)
}
