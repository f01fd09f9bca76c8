//! The trees of spans, for a terminal: the same spans as in Langfuse.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use opentelemetry_proto::tonic::{common::v1::AnyValue, trace::v1::Span};
use serde_json::{Map, Value as Json, json};

use crate::{
    attribute, clock,
    encode::Encoded,
    sink::{FlushError, Sink, Stats},
    value,
};

/// How many spans are kept; past it the oldest traces go.
const CAPACITY: usize = 10_000;
/// The metadata that a line has room for.
const SHOWN: [&str; 9] = [
    "attempt",
    "attempts_needed",
    "agent_type",
    "fallback_level",
    "circuit_state",
    "state_transition",
    "degradation_level",
    "failure_kind",
    "stop",
];

/// Collects traces and draws them as trees.
///
/// A cheap handle: clones share the spans. The last 10,000 spans are kept.
///
/// # Defaults
///
/// - `colour`: off
#[derive(Debug, Clone, Default)]
pub struct TerminalTree {
    collected: Arc<Mutex<Collected>>,
    colour: bool,
}

#[derive(Debug, Default)]
struct Collected {
    traces: HashMap<Vec<u8>, Vec<Span>>,
    /// The ids of the traces, oldest first.
    order: VecDeque<Vec<u8>>,
    spans: usize,
    stats: Stats,
}

/// The spans of one trace, each knowing its children.
#[derive(Debug)]
struct Tree<'a> {
    spans: &'a [Span],
    roots: Vec<usize>,
    children: Vec<Vec<usize>>,
}

// ===== impl TerminalTree =====

impl TerminalTree {
    /// Makes an empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether levels are drawn in colour.
    #[must_use]
    pub const fn colour(mut self, colour: bool) -> Self {
        self.colour = colour;
        self
    }

    /// Draws every trace, oldest first.
    #[must_use]
    pub fn render(&self) -> String {
        self.trees().join("\n")
    }

    /// Draws each trace for itself, oldest first.
    #[must_use]
    pub fn trees(&self) -> Vec<String> {
        let collected = self.collected();
        collected.in_order().map(|spans| Tree::of(spans).render(self.colour)).collect()
    }

    /// Returns the roots of every trace as JSON, with their children in them.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let collected = self.collected();
        collected.in_order().flat_map(|spans| Tree::of(spans).to_json()).collect()
    }

    /// Takes a span.
    pub(crate) fn collect(&self, span: Span) {
        self.collected().add(span);
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        // What a panicking thread left is still a list of whole spans.
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for TerminalTree {
    fn accept(&self, span: Encoded) {
        if let Ok(span) = span.decode() {
            self.collect(span);
        }
    }

    fn flush(&self, _: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    fn shutdown(&self, _: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.collected().stats
    }
}

// ===== impl Collected =====

impl Collected {
    fn add(&mut self, span: Span) {
        let id = span.trace_id.clone();
        let spans = self.traces.entry(id.clone()).or_default();
        if spans.is_empty() {
            self.order.push_back(id);
        }
        spans.push(span);
        self.spans += 1;
        self.stats.accepted += 1;
        self.stats.delivered += 1;
        while self.spans > CAPACITY && self.forget_oldest() {}
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(id) = self.order.pop_front() else { return false };
        let lost = self.traces.remove(&id).map_or(0, |spans| spans.len());
        self.spans -= lost;
        self.stats.dropped += lost as u64;
        self.stats.delivered -= lost as u64;
        true
    }

    fn in_order(&self) -> impl Iterator<Item = &[Span]> {
        self.order.iter().filter_map(|id| self.traces.get(id)).map(Vec::as_slice)
    }
}

// ===== impl Tree =====

impl<'a> Tree<'a> {
    fn of(spans: &'a [Span]) -> Self {
        let places: HashMap<&[u8], usize> =
            spans.iter().enumerate().map(|(place, span)| (&span.span_id[..], place)).collect();
        let mut tree = Self { spans, roots: Vec::new(), children: vec![Vec::new(); spans.len()] };
        let mut order: Vec<usize> = (0..spans.len()).collect();
        // Spans come in the order of their ends; a stable sort keeps it among equal starts,
        // where the one that ended first began first.
        order.sort_by_key(|place| spans[*place].start_time_unix_nano);
        for place in order {
            match places.get(&spans[place].parent_span_id[..]) {
                Some(parent) if *parent != place => tree.children[*parent].push(place),
                _ => tree.roots.push(place),
            }
        }
        tree
    }

    fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for root in &self.roots {
            text.push_str(&line(&self.spans[*root], colour));
            text.push('\n');
            self.render_children(*root, "", colour, &mut text);
        }
        text
    }

    fn render_children(&self, parent: usize, indent: &str, colour: bool, text: &mut String) {
        let children = &self.children[parent];
        for (position, child) in children.iter().enumerate() {
            let is_last = position + 1 == children.len();
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let span = line(&self.spans[*child], colour);
            _ = writeln!(text, "{indent}{branch}{span}");
            self.render_children(*child, &format!("{indent}{below}"), colour, text);
        }
    }

    fn to_json(&self) -> Vec<Json> {
        self.roots.iter().map(|root| self.observation(*root)).collect()
    }

    fn observation(&self, place: usize) -> Json {
        let span = &self.spans[place];
        let mut fields = Map::new();
        let mut metadata = Map::new();
        for attribute in &span.attributes {
            let Some(value) = attribute.value.as_ref().map(value::to_json) else { continue };
            match attribute.key.strip_prefix(attribute::METADATA_PREFIX) {
                Some(key) => metadata.insert(key.to_owned(), value),
                None => fields.insert(shown_key(&attribute.key).to_owned(), value),
            };
        }
        let known = [
            ("id", hex(&span.span_id).into()),
            ("traceId", hex(&span.trace_id).into()),
            ("name", span.name.as_str().into()),
            ("type", kind(span).into()),
            ("level", found(span, attribute::LEVEL).unwrap_or("DEFAULT").into()),
            ("statusMessage", json!(found(span, attribute::STATUS_MESSAGE))),
            ("start", clock::iso(span.start_time_unix_nano).into()),
            ("end", clock::iso(span.end_time_unix_nano).into()),
            ("durationMs", (duration(span).as_secs_f64() * 1e3).into()),
            ("metadata", metadata.into()),
            ("children", self.children[place].iter().map(|at| self.observation(*at)).collect()),
        ];
        fields.extend(known.map(|(key, value)| (key.to_owned(), value)));
        fields.into()
    }
}

// ===== one span =====

fn line(span: &Span, colour: bool) -> String {
    let mut line = format!("{} [{}] {:.1?}", span.name, kind(span), duration(span));
    let level = found(span, attribute::LEVEL);
    let (start, end) = match level {
        Some("ERROR") if colour => ("\u{1b}[31m", "\u{1b}[0m"),
        Some("WARNING") if colour => ("\u{1b}[33m", "\u{1b}[0m"),
        _ => ("", ""),
    };
    if let Some(level @ ("WARNING" | "ERROR")) = level {
        _ = write!(line, " {start}{level}{end}");
    }
    for key in SHOWN {
        if let Some(value) = metadata(span, key) {
            let shown = match value::to_json(value) {
                Json::String(text) => printable(&text),
                value => value.to_string(),
            };
            _ = write!(line, " {key}={shown}");
        }
    }
    if let Some(message) = found(span, attribute::STATUS_MESSAGE) {
        _ = write!(line, ": {start}{}{end}", printable(message));
    }
    line
}

/// Keeps a text on its line and its control characters off the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn duration(span: &Span) -> Duration {
    Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano))
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a AnyValue> {
    span.attributes.iter().find(|known| known.key == key)?.value.as_ref()
}

fn metadata<'a>(span: &'a Span, key: &str) -> Option<&'a AnyValue> {
    let is = |known: &str| known.strip_prefix(attribute::METADATA_PREFIX) == Some(key);
    span.attributes.iter().find(|known| is(&known.key))?.value.as_ref()
}

fn found<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    value::as_text(attribute(span, key)?)
}

/// Returns the type, inferred as the server does where the span says none.
fn kind(span: &Span) -> &str {
    if let Some(kind) = found(span, attribute::TYPE) {
        return kind;
    }
    match found(span, "gen_ai.operation.name") {
        Some("embeddings") => "embedding",
        Some("invoke_agent" | "create_agent") => "agent",
        Some("execute_tool") => "tool",
        Some("chat" | "completion" | "text_completion" | "generate_content") => "generation",
        _ if attribute(span, "gen_ai.request.model").is_some() => "generation",
        _ if attribute(span, "gen_ai.response.model").is_some() => "generation",
        _ => "span",
    }
}

fn shown_key(key: &str) -> &str {
    match key {
        attribute::MODEL => "model",
        attribute::SESSION => "sessionId",
        attribute::USER => "userId",
        attribute::TRACE_NAME => "traceName",
        attribute::TRACE_TAGS => "tags",
        _ => key.strip_prefix("langfuse.observation.").unwrap_or(key),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
