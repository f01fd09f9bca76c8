//! What a span recorded, sorted into what Langfuse tells apart.

use std::{borrow::Cow, cell::Cell, time::Duration};

use buttress::telemetry::key;
use opentelemetry::{KeyValue, Value};
use serde_json::{Value as Json, json};

use crate::{
    attribute, clock,
    encode::Writer,
    level::Level,
    privacy::Privacy,
    trace::TraceContext,
    value::{self, Sent},
};

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

/// What is in the keys of what a model was told and has said.
const SAYS_IO: [&str; 6] = ["prompt", "completion", "message", "input", "output", "content"];

/// How many entries a thread has room for between two spans.
const MOST_SPARE: usize = 256;

thread_local! {
    /// Memory for the next span's entries.
    static SPARE: Cell<Vec<Entry<'static>>> = const { Cell::new(Vec::new()) };
}

/// A span's attributes, each in its place.
#[derive(Debug, Default)]
pub(crate) struct Draft<'a> {
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) level: Option<Level>,
    pub(crate) status_message: Option<Cow<'a, str>>,
    /// What the span says about its trace, which few do.
    pub(crate) trace: Option<Box<TraceContext>>,
    kind: Option<&'static str>,
    entries: Vec<Entry<'a>>,
    /// Whether no attribute is sent but metadata, as in most spans.
    only_metadata: bool,
    /// What few spans record, apart so that the others are small.
    rare: Option<Box<Rare<'a>>>,
}

/// What has no place before all is read.
#[derive(Debug, Default)]
struct Rare<'a> {
    /// Seconds until the first token.
    first_token: Option<f64>,
    /// What the span says of its trace's input and output, which Langfuse 4 loses there.
    trace_input: Option<Sent<'a>>,
    trace_output: Option<Sent<'a>>,
    prompt_name: Option<Cow<'a, str>>,
    prompt_version: Option<i64>,
    /// The user's own JSON object.
    users: Option<Cow<'a, str>>,
}

/// An attribute that is sent.
#[derive(Debug)]
struct Entry<'a> {
    place: Place,
    key: Cow<'a, str>,
    value: Sent<'a>,
}

/// Where an attribute stands; they are sent in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has a place of its own.
    Field,
    /// It keeps its name.
    Kept,
    /// It is metadata by its key, without prefix.
    Metadata,
}

// ===== impl Draft: reading =====

impl<'a> Draft<'a> {
    /// Sorts what a span recorded, and then what was added to it.
    pub(crate) fn read(recorded: &'a [KeyValue], added: &'a [KeyValue]) -> Self {
        let mut entries: Vec<Entry<'a>> = SPARE.try_with(Cell::take).unwrap_or_default();
        entries.reserve(recorded.len() + added.len());
        let mut draft = Self { entries, only_metadata: true, ..Self::default() };
        for attribute in recorded.iter().chain(added) {
            draft.take(attribute.key.as_str(), &attribute.value);
        }
        draft
    }

    fn take(&mut self, key: &'a str, value: &'a Value) {
        let has_dot = key.bytes().any(|byte| byte == b'.');
        if has_dot { self.take_dotted(key, value) } else { self.take_word(key, value) }
    }

    /// Takes a key of the contract's kind.
    fn take_word(&mut self, key: &'a str, value: &'a Value) {
        match key {
            key::OBSERVATION_TYPE => self.take_kind(key, value),
            key::LEVEL => self.take_level(key, value),
            key::STATUS_MESSAGE => self.status_message = Some(value.as_str()),
            key::METADATA => self.rare().users = Some(value.as_str()),
            "input" => self.take_field(attribute::INPUT, value),
            "output" => self.take_field(attribute::OUTPUT, value),
            "model" => self.take_text(attribute::MODEL, value),
            "model_parameters" => self.take_object(key, attribute::MODEL_PARAMETERS, value),
            "usage" | "usage_details" => self.take_object(key, attribute::USAGE, value),
            "cost" | "cost_details" => self.take_cost(key, value),
            "completion_start_time" => self.take_text(attribute::COMPLETION_START, value),
            "time_to_first_token_seconds" => self.take_first_token(key, value),
            "prompt_name" => self.rare().prompt_name = Some(value.as_str()),
            "prompt_version" => self.take_prompt_version(key, value),
            // What the bridge adds for itself.
            attribute::TARGET | "busy_ns" | "idle_ns" => {}
            _ => self.take_metadata(key, value),
        }
    }

    /// Takes a key of OpenTelemetry's kind.
    fn take_dotted(&mut self, key: &'a str, value: &'a Value) {
        match key {
            attribute::NAME => self.name = Some(value.as_str()),
            attribute::TYPE => self.take_kind(key, value),
            attribute::LEVEL => self.take_level(key, value),
            attribute::STATUS_MESSAGE => self.status_message = Some(value.as_str()),
            attribute::METADATA => self.rare().users = Some(value.as_str()),
            attribute::INPUT => self.take_field(attribute::INPUT, value),
            attribute::OUTPUT => self.take_field(attribute::OUTPUT, value),
            attribute::TRACE_INPUT => self.rare().trace_input = Sent::recorded(value),
            attribute::TRACE_OUTPUT => self.rare().trace_output = Sent::recorded(value),
            attribute::MODEL => self.take_text(attribute::MODEL, value),
            attribute::MODEL_PARAMETERS => {
                self.take_object(key, attribute::MODEL_PARAMETERS, value);
            }
            attribute::USAGE => self.take_object(key, attribute::USAGE, value),
            attribute::COST => self.take_cost(key, value),
            attribute::COMPLETION_START => self.take_text(attribute::COMPLETION_START, value),
            attribute::PROMPT_NAME | "langfuse.prompt.name" => {
                self.rare().prompt_name = Some(value.as_str());
            }
            attribute::PROMPT_VERSION | "langfuse.prompt.version" => {
                self.take_prompt_version(key, value);
            }
            // What the bridge adds for itself.
            "otel.tracing_event_count" => {}
            _ if key.starts_with("code.") || key.starts_with("thread.") => {}
            _ if TraceContext::read_into(&mut self.trace, key, value) => {}
            _ => self.take_other(key, value),
        }
    }

    fn take_other(&mut self, key: &'a str, value: &'a Value) {
        if let Some(key) = key.strip_prefix(attribute::METADATA_PREFIX) {
            self.take_metadata(key, value);
        } else if is_inferred(key) || key.starts_with("langfuse.") {
            self.set(Place::Kept, key, Sent::recorded(value));
        } else {
            self.take_metadata(key, value);
        }
    }

    fn take_kind(&mut self, key: &'a str, value: &'a Value) {
        let text = value.as_str();
        match TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(text.trim())) {
            Some(kind) => self.kind = Some(kind),
            None => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_level(&mut self, key: &'a str, value: &'a Value) {
        match Level::parse(&value.as_str()) {
            Some(level) => self.level = Some(level),
            None => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_cost(&mut self, key: &'a str, value: &'a Value) {
        let total = match value {
            Value::F64(total) if total.is_finite() => json!({ "total": total }),
            Value::I64(total) => json!({ "total": total }),
            _ => return self.take_object(key, attribute::COST, value),
        };
        self.set(Place::Field, attribute::COST, Some(Sent::text(total.to_string())));
    }

    /// Takes a JSON object as text; Langfuse loses anything else there, so that is metadata.
    fn take_object(&mut self, key: &'a str, place: &'static str, value: &'a Value) {
        let text = value.as_str();
        match serde_json::from_str(&text) {
            Ok(Json::Object(_)) => self.set(Place::Field, place, Some(Sent::Text(text))),
            _ => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_first_token(&mut self, key: &'a str, value: &'a Value) {
        if let Value::F64(seconds) = value {
            self.rare().first_token = Some(*seconds);
        }
        self.take_metadata(key, value);
    }

    /// Takes an integer: an older server loses an observation whose version is a text.
    fn take_prompt_version(&mut self, key: &'a str, value: &'a Value) {
        match value.as_str().parse() {
            Ok(version) => self.rare().prompt_version = Some(version),
            Err(_) => self.take_metadata(unprefixed(key), value),
        }
    }

    fn take_text(&mut self, place: &'static str, value: &'a Value) {
        self.set(Place::Field, place, Some(Sent::Text(value.as_str())));
    }

    fn take_field(&mut self, place: &'static str, value: &'a Value) {
        self.set(Place::Field, place, Sent::recorded(value));
    }

    fn take_metadata(&mut self, key: &'a str, value: &'a Value) {
        self.set(Place::Metadata, key, Sent::recorded(value));
    }

    fn rare(&mut self) -> &mut Rare<'a> {
        self.rare.get_or_insert_default()
    }

    /// Sets an attribute; of a key recorded twice the last value stays.
    fn set(&mut self, place: Place, key: impl Into<Cow<'a, str>>, value: Option<Sent<'a>>) {
        let Some(value) = value else { return };
        let key = key.into();
        match self.entries.iter_mut().find(|known| known.place == place && known.key == key) {
            Some(known) => known.value = value,
            None => {
                self.only_metadata &= place == Place::Metadata;
                self.entries.push(Entry { place, key, value });
            }
        }
    }

    fn has(&self, place: Place, key: &str) -> bool {
        self.entries.iter().any(|known| known.place == place && known.key == key)
    }
}

// ===== impl Entry =====

impl Entry<'_> {
    /// Leaves of a value what may leave the process.
    fn protect(&mut self, privacy: &Privacy) {
        let is_io = match (self.place, &*self.key) {
            (Place::Metadata, _) => false,
            (Place::Field, key) => matches!(key, attribute::INPUT | attribute::OUTPUT),
            // Prompts and answers, in others' words.
            (Place::Kept, key) => SAYS_IO.iter().any(|word| key.contains(word)),
        };
        if is_io {
            privacy.io(&mut self.value);
        } else if self.place == Place::Metadata {
            privacy.metadata(&self.key, &mut self.value);
        }
    }
}

// ===== impl Draft: writing =====

impl Draft<'_> {
    /// Returns the type to send; none where the server infers a better one.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        let mut kept = self.named().filter(|entry| entry.place == Place::Kept);
        let is = |key: &str| self.named().any(|entry| entry.key == key);
        match self.kind {
            Some(kind) => Some(kind),
            None if kept.any(|kept| is_inferred(&kept.key)) => None,
            // A plain span loses these on older servers.
            None if is(attribute::MODEL) || is(attribute::USAGE) || is(attribute::COST) => {
                Some("generation")
            }
            None => Some("span"),
        }
    }

    /// Writes what is the span's own, the metadata last.
    pub(crate) fn write(mut self, start: u64, privacy: &Privacy, into: &mut Writer<'_>) {
        if let Some(rare) = self.rare.take() {
            self.place(*rare, start);
        }
        for entry in &mut self.entries {
            entry.protect(privacy);
        }
        for place in [Place::Field, Place::Kept] {
            for entry in self.named().filter(|entry| entry.place == place) {
                into.attribute(&entry.key, &entry.value);
            }
        }
        for entry in self.entries.iter().filter(|entry| entry.place == Place::Metadata) {
            into.metadata(&entry.key, &entry.value);
        }
        self.entries.clear();
        if self.entries.capacity() <= MOST_SPARE {
            // Of no entry at all every lifetime is right, and collecting keeps the memory.
            let spare = self.entries.into_iter().map_while(|_| None).collect();
            _ = SPARE.try_with(|place| place.set(spare));
        }
    }

    /// Returns the attributes that are no metadata.
    fn named(&self) -> impl Iterator<Item = &Entry<'_>> {
        let entries = if self.only_metadata { &[] } else { self.entries.as_slice() };
        entries.iter().filter(|entry| entry.place != Place::Metadata)
    }
}

// ===== impl Draft: what has no place before all is read =====

impl<'a> Draft<'a> {
    fn place(&mut self, rare: Rare<'a>, start: u64) {
        self.place_trace_io(attribute::INPUT, rare.trace_input);
        self.place_trace_io(attribute::OUTPUT, rare.trace_output);
        self.place_first_token(rare.first_token, start);
        self.place_prompt(rare.prompt_name, rare.prompt_version);
        self.place_users(rare.users);
    }

    /// Places input or output of the trace where the span has none of its own.
    fn place_trace_io(&mut self, key: &'static str, value: Option<Sent<'a>>) {
        if value.is_some() && !self.has(Place::Field, key) {
            self.set(Place::Field, key, value);
        }
    }

    fn place_first_token(&mut self, seconds: Option<f64>, start: u64) {
        let Some(seconds) = seconds else { return };
        if let Ok(after) = Duration::try_from_secs_f64(seconds)
            && !self.has(Place::Field, attribute::COMPLETION_START)
        {
            let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            let time = Sent::text(clock::iso(start.saturating_add(after)));
            self.set(Place::Field, attribute::COMPLETION_START, Some(time));
        }
    }

    /// Places a prompt's name and version, of which Langfuse takes both or none.
    fn place_prompt(&mut self, name: Option<Cow<'a, str>>, version: Option<i64>) {
        let (place, name_key, version_key) = if name.is_some() && version.is_some() {
            (Place::Field, attribute::PROMPT_NAME, attribute::PROMPT_VERSION)
        } else {
            (Place::Metadata, "prompt_name", "prompt_version")
        };
        self.set(place, name_key, name.map(Sent::Text));
        self.set(place, version_key, version.map(Sent::integer));
    }

    /// Spreads the user's object over the metadata; what the span says itself wins.
    fn place_users(&mut self, text: Option<Cow<'a, str>>) {
        let Some(text) = text else { return };
        let entries = match serde_json::from_str(&text) {
            Ok(Json::Object(entries)) => entries.into_iter().collect(),
            _ => vec![(key::METADATA.to_owned(), Json::String(text.into_owned()))],
        };
        for (key, value) in entries {
            if !self.has(Place::Metadata, &key) {
                self.set(Place::Metadata, key, value::from_json(&value).map(Sent::Any));
            }
        }
    }
}

fn is_inferred(key: &str) -> bool {
    INFERRED.iter().any(|prefix| key.starts_with(prefix)) || INFERRED_IO.contains(&key)
}

fn unprefixed(key: &str) -> &str {
    key.strip_prefix("langfuse.observation.").unwrap_or(key)
}
