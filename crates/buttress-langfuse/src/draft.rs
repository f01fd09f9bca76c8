//! What a span recorded, sorted into what Langfuse tells apart.

use buttress::telemetry::key;
use opentelemetry::{KeyValue, Value};
use opentelemetry_proto::tonic::common::v1::{self, AnyValue};
use serde_json::{Value as Json, json};

use crate::{attribute, clock, level::Level, trace::TraceContext, value};

/// The types that Langfuse knows; it takes everything else for a span.
const TYPES: [&str; 10] = [
    "span",
    "generation",
    "event",
    "embedding",
    "agent",
    "tool",
    "chain",
    "retriever",
    "guardrail",
    "evaluator",
];

/// Keys from which Langfuse infers what our fields do not say; they keep their names.
const INFERRED: [&str; 4] = ["gen_ai.", "llm.", "ai.", "openinference."];
/// Input and output in OpenInference's words.
const INFERRED_IO: [&str; 4] =
    ["input.value", "input.mime_type", "output.value", "output.mime_type"];

/// A span's attributes, each in its place.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) name: Option<String>,
    pub(crate) level: Option<Level>,
    pub(crate) status_message: Option<String>,
    /// What the span says about its trace.
    pub(crate) trace: TraceContext,
    kind: Option<&'static str>,
    /// Seconds until the first token.
    first_token: Option<f64>,
    /// What the span says of its trace's input and output, which Langfuse 4 loses there.
    trace_input: Option<AnyValue>,
    trace_output: Option<AnyValue>,
    prompt_name: Option<String>,
    prompt_version: Option<i64>,
    /// Attributes with a place of their own.
    fields: Vec<v1::KeyValue>,
    /// Attributes that keep their names.
    kept: Vec<v1::KeyValue>,
    /// Metadata by its key, without prefix.
    metadata: Vec<v1::KeyValue>,
    /// The user's own JSON object.
    users: Option<String>,
}

// ===== impl Draft: reading =====

impl Draft {
    /// Sorts what a span recorded, and then what was added to it.
    pub(crate) fn read(recorded: &[KeyValue], added: &[KeyValue]) -> Self {
        let mut draft = Self::default();
        for attribute in recorded.iter().chain(added) {
            draft.take(attribute.key.as_str(), &attribute.value);
        }
        draft
    }

    fn take(&mut self, key: &str, value: &Value) {
        match key {
            attribute::NAME => self.name = Some(value.as_str().into_owned()),
            key::OBSERVATION_TYPE | attribute::TYPE => self.take_kind(key, value),
            key::LEVEL | attribute::LEVEL => self.take_level(key, value),
            key::STATUS_MESSAGE | attribute::STATUS_MESSAGE => {
                self.status_message = Some(value.as_str().into_owned());
            }
            key::METADATA | attribute::METADATA => self.users = Some(value.as_str().into_owned()),
            "input" | attribute::INPUT => self.take_field(attribute::INPUT, value::any(value)),
            "output" | attribute::OUTPUT => self.take_field(attribute::OUTPUT, value::any(value)),
            attribute::TRACE_INPUT => self.trace_input = value::any(value),
            attribute::TRACE_OUTPUT => self.trace_output = value::any(value),
            "model" | attribute::MODEL => self.take_text(attribute::MODEL, value),
            "model_parameters" | attribute::MODEL_PARAMETERS => {
                self.take_object(key, attribute::MODEL_PARAMETERS, value);
            }
            "usage" | "usage_details" | attribute::USAGE => {
                self.take_object(key, attribute::USAGE, value);
            }
            "cost" | "cost_details" | attribute::COST => self.take_cost(key, value),
            "completion_start_time" | attribute::COMPLETION_START => {
                self.take_text(attribute::COMPLETION_START, value);
            }
            "time_to_first_token_seconds" => self.take_first_token(key, value),
            "prompt_name" | attribute::PROMPT_NAME | "langfuse.prompt.name" => {
                self.prompt_name = Some(value.as_str().into_owned());
            }
            "prompt_version" | attribute::PROMPT_VERSION | "langfuse.prompt.version" => {
                self.take_prompt_version(key, value);
            }
            _ if is_noise(key) => {}
            _ if TraceContext::knows(key) && self.trace.read(key, value) => {}
            _ => self.take_other(key, value),
        }
    }

    fn take_other(&mut self, key: &str, value: &Value) {
        if let Some(key) = key.strip_prefix(attribute::METADATA_PREFIX) {
            self.take_metadata(key, value);
        } else if is_inferred(key) || key.starts_with("langfuse.") {
            set(&mut self.kept, key, value::any(value));
        } else {
            self.take_metadata(key, value);
        }
    }

    fn take_kind(&mut self, key: &str, value: &Value) {
        let lower = value.as_str().trim().to_ascii_lowercase();
        match TYPES.into_iter().find(|known| *known == lower) {
            Some(kind) => self.kind = Some(kind),
            None => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_level(&mut self, key: &str, value: &Value) {
        match Level::parse(&value.as_str()) {
            Some(level) => self.level = Some(level),
            None => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_cost(&mut self, key: &str, value: &Value) {
        let total = match value {
            Value::F64(total) if total.is_finite() => json!({ "total": total }),
            Value::I64(total) => json!({ "total": total }),
            _ => return self.take_object(key, attribute::COST, value),
        };
        self.take_field(attribute::COST, Some(value::text(total.to_string())));
    }

    /// Takes a JSON object as text; Langfuse loses anything else there, so that is metadata.
    fn take_object(&mut self, key: &str, place: &'static str, value: &Value) {
        let text = value.as_str();
        match serde_json::from_str(&text) {
            Ok(Json::Object(_)) => self.take_field(place, Some(value::text(text))),
            _ => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_first_token(&mut self, key: &str, value: &Value) {
        if let Value::F64(seconds) = value {
            self.first_token = Some(*seconds);
        }
        self.take_metadata(key, value);
    }

    /// Takes an integer: an older server loses an observation whose version is a text.
    fn take_prompt_version(&mut self, key: &str, value: &Value) {
        match value.as_str().parse() {
            Ok(version) => self.prompt_version = Some(version),
            Err(_) => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_text(&mut self, place: &'static str, value: &Value) {
        self.take_field(place, Some(value::text(value.as_str())));
    }

    fn take_field(&mut self, place: &'static str, value: Option<AnyValue>) {
        set(&mut self.fields, place, value);
    }

    fn take_metadata(&mut self, key: &str, value: &Value) {
        set(&mut self.metadata, key, value::any(value));
    }
}

// ===== impl Draft: writing =====

impl Draft {
    /// Returns the type to send; none where the server infers a better one.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        let is = |place: &str| self.fields.iter().any(|field| field.key == place);
        match self.kind {
            Some(kind) => Some(kind),
            None if self.kept.iter().any(|kept| is_inferred(&kept.key)) => None,
            // A plain span loses these on older servers.
            None if is(attribute::MODEL) || is(attribute::USAGE) || is(attribute::COST) => {
                Some("generation")
            }
            None => Some("span"),
        }
    }

    /// Writes what is the span's own, the metadata last.
    pub(crate) fn write(mut self, start: u64, attributes: &mut Vec<v1::KeyValue>) {
        self.place_trace_io();
        self.place_first_token(start);
        self.place_prompt();
        self.place_users();
        attributes.append(&mut self.fields);
        attributes.append(&mut self.kept);
        attributes.extend(self.metadata.into_iter().map(|mut entry| {
            entry.key.insert_str(0, attribute::METADATA_PREFIX);
            entry
        }));
    }

    /// Places input and output of the trace where the span has none of its own.
    fn place_trace_io(&mut self) {
        let said = [
            (attribute::INPUT, self.trace_input.take()),
            (attribute::OUTPUT, self.trace_output.take()),
        ];
        for (place, value) in said {
            if self.fields.iter().all(|field| field.key != place) {
                self.take_field(place, value);
            }
        }
    }

    fn place_first_token(&mut self, start: u64) {
        let Some(seconds) = self.first_token else { return };
        let known = self.fields.iter().any(|field| field.key == attribute::COMPLETION_START);
        if let Ok(after) = std::time::Duration::try_from_secs_f64(seconds)
            && !known
        {
            let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            let time = clock::iso(start.saturating_add(after));
            self.take_field(attribute::COMPLETION_START, Some(value::text(time)));
        }
    }

    /// Places a prompt's name and version, of which Langfuse takes both or none.
    fn place_prompt(&mut self) {
        match (self.prompt_name.take(), self.prompt_version) {
            (Some(name), Some(version)) => {
                self.take_field(attribute::PROMPT_NAME, Some(value::text(name)));
                self.take_field(attribute::PROMPT_VERSION, Some(value::integer(version)));
            }
            (Some(name), None) => set(&mut self.metadata, "prompt_name", Some(value::text(name))),
            (None, Some(version)) => {
                set(&mut self.metadata, "prompt_version", Some(value::integer(version)));
            }
            (None, None) => {}
        }
    }

    /// Spreads the user's object over the metadata; what the span says itself wins.
    fn place_users(&mut self) {
        let Some(text) = self.users.take() else { return };
        let entries = match serde_json::from_str(&text) {
            Ok(Json::Object(entries)) => entries.into_iter().collect(),
            _ => vec![(key::METADATA.to_owned(), Json::String(text))],
        };
        for (key, value) in entries {
            if self.metadata.iter().all(|known| known.key != key) {
                set(&mut self.metadata, &key, value::from_json(&value));
            }
        }
    }
}

/// Sets an attribute; of a key recorded twice the last value stays.
fn set(attributes: &mut Vec<v1::KeyValue>, key: &str, value: Option<AnyValue>) {
    let Some(value) = value else { return };
    match attributes.iter_mut().find(|known| known.key == key) {
        Some(known) => known.value = Some(value),
        None => attributes.push(value::attribute(key, value)),
    }
}

/// What the bridge adds for itself.
fn is_noise(key: &str) -> bool {
    matches!(key, attribute::TARGET | "busy_ns" | "idle_ns" | "otel.tracing_event_count")
        || key.starts_with("code.")
        || key.starts_with("thread.")
}

fn is_inferred(key: &str) -> bool {
    INFERRED.iter().any(|prefix| key.starts_with(prefix)) || INFERRED_IO.contains(&key)
}

fn unprefixed(key: &str) -> &str {
    key.strip_prefix("langfuse.observation.").unwrap_or(key)
}
