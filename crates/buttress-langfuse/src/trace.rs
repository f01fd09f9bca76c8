//! What belongs to a whole trace and therefore stands on each of its spans.

use opentelemetry::{Array, Value};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use serde_json::Value as Json;

use crate::{
    attribute,
    encode::Writer,
    privacy::Privacy,
    sink::TraceDefaults,
    value::{self, Sent},
};

/// Older servers lose a trace whose name is longer, counted in UTF-16.
const LONGEST_NAME: usize = 1_000;
/// Langfuse cuts longer environments.
const LONGEST_ENVIRONMENT: usize = 40;

/// The trace-level attributes that somebody has set.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TraceContext {
    pub(crate) name: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) environment: Option<String>,
    pub(crate) release: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) public: Option<bool>,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: Vec<(String, AnyValue)>,
}

impl TraceContext {
    /// Tells whether nothing is set.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes an attribute that says something about the trace; answers whether it was one.
    pub(crate) fn read_into(says: &mut Option<Box<Self>>, key: &str, value: &Value) -> bool {
        let may_say =
            key.starts_with("langfuse.") || key == attribute::SESSION || key == attribute::USER;
        may_say && says.get_or_insert_default().read(key, value)
    }

    fn read(&mut self, key: &str, value: &Value) -> bool {
        match key {
            attribute::TRACE_NAME => set_text(&mut self.name, value),
            attribute::SESSION | "langfuse.session.id" => set_text(&mut self.session, value),
            attribute::USER | "langfuse.user.id" => set_text(&mut self.user, value),
            attribute::RELEASE => set_text(&mut self.release, value),
            attribute::VERSION => set_text(&mut self.version, value),
            attribute::ENVIRONMENT => {
                if let Some(environment) = environment(&value.as_str()) {
                    self.environment = Some(environment);
                }
            }
            attribute::TRACE_PUBLIC | "langfuse.public" => {
                self.public = Some(value.as_str() == "true");
            }
            attribute::TRACE_TAGS | "langfuse.tags" => {
                for tag in tags(value) {
                    self.tag(&tag);
                }
            }
            attribute::TRACE_METADATA => self.read_metadata(&value.as_str()),
            _ => {
                let Some(key) = key.strip_prefix(attribute::TRACE_METADATA_PREFIX) else {
                    return false;
                };
                if let Some(value) = value::any(value) {
                    self.set_metadata(key, value);
                }
            }
        }
        true
    }

    /// Adds a tag that is not there yet.
    pub(crate) fn tag(&mut self, tag: &str) {
        if !tag.is_empty() && self.tags.iter().all(|known| known != tag) {
            self.tags.push(tag.to_owned());
        }
    }

    /// Sets one entry of the trace's metadata.
    pub(crate) fn set_metadata(&mut self, key: &str, value: AnyValue) {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    fn read_metadata(&mut self, text: &str) {
        if let Ok(Json::Object(entries)) = serde_json::from_str(text) {
            for (key, value) in &entries {
                if let Some(value) = value::from_json(value) {
                    self.set_metadata(key, value);
                }
            }
        }
    }

    /// Takes over what `newer` says, which wins.
    pub(crate) fn merge(&mut self, newer: &Self) {
        let texts = [
            (&mut self.name, &newer.name),
            (&mut self.session, &newer.session),
            (&mut self.user, &newer.user),
            (&mut self.environment, &newer.environment),
            (&mut self.release, &newer.release),
            (&mut self.version, &newer.version),
        ];
        for (known, newer) in texts {
            if newer.is_some() {
                known.clone_from(newer);
            }
        }
        self.public = newer.public.or(self.public);
        for tag in &newer.tags {
            self.tag(tag);
        }
        for (key, value) in &newer.metadata {
            self.set_metadata(key, value.clone());
        }
    }
}

/// What the configuration says about every trace.
#[derive(Debug)]
pub(crate) struct Defaults {
    environment: Option<String>,
    release: Option<String>,
    version: Option<String>,
    /// The same as it is sent.
    encoded: Vec<u8>,
}

/// What is said about one trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) defaults: &'a Defaults,
    /// By the trace's spans, the scope around the span, and the span: the later ones win.
    pub(crate) by: [Option<&'a TraceContext>; 3],
}

// ===== impl Defaults =====

impl Defaults {
    pub(crate) fn environment(&self) -> Option<&str> {
        self.environment.as_deref()
    }

    pub(crate) fn of(configured: &TraceDefaults) -> Self {
        let mut defaults = Self {
            environment: configured.environment.as_deref().and_then(environment),
            release: configured.release.clone().filter(|text| !text.is_empty()),
            version: configured.version.clone().filter(|text| !text.is_empty()),
            encoded: Vec::new(),
        };
        let mut encoded = Vec::new();
        Said { defaults: &defaults, by: [None; 3] }.write_texts(&mut Writer::new(&mut encoded));
        defaults.encoded = encoded;
        defaults
    }
}

// ===== impl Said =====

impl<'a> Said<'a> {
    /// Writes all but the metadata, which has room to wait.
    pub(crate) fn write(self, into: &mut Writer<'_>) {
        self.write_text(attribute::TRACE_NAME, None, |by| by.name.as_deref(), into);
        self.write_text(attribute::SESSION, None, |by| by.session.as_deref(), into);
        self.write_text(attribute::USER, None, |by| by.user.as_deref(), into);
        let overrides = |by: &TraceContext| {
            by.environment.is_some() || by.release.is_some() || by.version.is_some()
        };
        if self.all().any(overrides) {
            self.write_texts(into);
        } else {
            into.written(&self.defaults.encoded);
        }
        if let Some(public) = self.last(|by| by.public) {
            into.attribute(attribute::TRACE_PUBLIC, &Sent::Boolean(public));
        }
        if self.all().any(|by| !by.tags.is_empty()) {
            let tags = self.merged(|by| TraceContext { tags: by.tags.clone(), ..<_>::default() });
            if let Some(tags) = value::list(tags.tags.into_iter().map(value::text).collect()) {
                into.attribute(attribute::TRACE_TAGS, &Sent::Any(tags));
            }
        }
    }

    /// Writes what the configuration may say too.
    fn write_texts(self, into: &mut Writer<'_>) {
        let Defaults { environment, release, version, .. } = self.defaults;
        let default = environment.as_deref();
        self.write_text(attribute::ENVIRONMENT, default, |by| by.environment.as_deref(), into);
        let default = release.as_deref();
        self.write_text(attribute::RELEASE, default, |by| by.release.as_deref(), into);
        let default = version.as_deref();
        self.write_text(attribute::VERSION, default, |by| by.version.as_deref(), into);
    }

    /// Writes the metadata.
    pub(crate) fn write_metadata(self, privacy: &Privacy, into: &mut Writer<'_>) {
        if self.all().all(|by| by.metadata.is_empty()) {
            return;
        }
        let merged =
            self.merged(|by| TraceContext { metadata: by.metadata.clone(), ..<_>::default() });
        for (key, value) in merged.metadata {
            let mut value = Sent::Any(value);
            privacy.metadata(&key, &mut value);
            into.trace_metadata(&key, &value);
        }
    }

    fn write_text(
        self,
        key: &str,
        default: Option<&'a str>,
        read: impl Fn(&'a TraceContext) -> Option<&'a str>,
        into: &mut Writer<'_>,
    ) {
        if let Some(text) = self.last(read).or(default) {
            into.attribute(key, &Sent::text(shortened(key, text)));
        }
    }

    fn all(self) -> impl DoubleEndedIterator<Item = &'a TraceContext> {
        self.by.into_iter().flatten()
    }

    fn last<T>(self, read: impl Fn(&'a TraceContext) -> Option<T>) -> Option<T> {
        self.all().rev().find_map(read)
    }

    fn merged(self, part: impl Fn(&TraceContext) -> TraceContext) -> TraceContext {
        let mut merged = TraceContext::default();
        self.all().for_each(|by| merged.merge(&part(by)));
        merged
    }
}

fn set_text(place: &mut Option<String>, value: &Value) {
    let text = value.as_str();
    if !text.is_empty() {
        *place = Some(text.into_owned());
    }
}

fn shortened<'a>(key: &str, text: &'a str) -> &'a str {
    if key != attribute::TRACE_NAME || text.len() <= LONGEST_NAME {
        return text;
    }
    let mut units = 0;
    let end = text.char_indices().find(|(_, char)| {
        units += char.len_utf16();
        units > LONGEST_NAME
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// Reads tags in each form that Langfuse takes: a list, a JSON list, or words between commas.
fn tags(value: &Value) -> Vec<String> {
    if let Value::Array(Array::String(tags)) = value {
        return tags.iter().map(|tag| tag.as_str().to_owned()).collect();
    }
    let text = value.as_str();
    if let Ok(Json::Array(tags)) = serde_json::from_str(&text) {
        return tags
            .iter()
            .map(|tag| tag.as_str().map_or(tag.to_string(), str::to_owned))
            .collect();
    }
    text.split(',').map(|tag| tag.trim().to_owned()).collect()
}

/// Writes an environment as every server accepts it; nothing where none would.
fn environment(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = lower.as_str();
    // The prefix is Langfuse's own; a server that is older than the rule refuses it.
    while let Some(stripped) = rest.strip_prefix("langfuse") {
        rest = stripped.strip_prefix(['-', '_']).unwrap_or(stripped);
    }
    let allowed = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    let valid = !rest.is_empty() && rest.chars().all(allowed);
    valid.then(|| rest.chars().take(LONGEST_ENVIRONMENT).collect())
}
