//! Says something about the span that is running, from any code inside it.

use std::sync::{Arc, Weak};

use opentelemetry::{Context, KeyValue, SpanId, TraceId, Value};
use opentelemetry_proto::tonic::common::v1::any_value;
use serde_json::Value as Json;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    attribute,
    core::Core,
    level::Level,
    processor::current_ids,
    propagation::Scope,
    score::{Score, ScoreValue},
    trace::TraceContext,
    value,
};

/// Returns a handle on the span that is running: the innermost one that is sent to Langfuse.
///
/// Outside of any such span, and where no Langfuse is set up, the handle does nothing. It stays
/// with its span, also when it is taken to another task, until the span ends.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::{Level, current};
///
/// async fn analyse(ticker: &str) {
///     current().metadata("ticker", ticker).level(Level::Warning).status_message("old prices");
/// }
/// # drop(analyse("AAPL"));
/// ```
#[must_use]
pub fn current() -> CurrentSpan {
    CurrentSpan { place: Place::find() }
}

/// A handle on a span that is running; made by [`current`].
///
/// What it sets wins over what the span records itself. What is said about the trace stands on
/// every span of the trace that ends afterwards in this process.
#[derive(Debug, Clone)]
pub struct CurrentSpan {
    place: Option<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    core: Weak<Core>,
    trace: TraceId,
    span: SpanId,
}

// ===== impl CurrentSpan: the observation =====

impl CurrentSpan {
    /// Returns a handle on the span of the nearest agent, else on the innermost one that is sent.
    pub(crate) fn agent() -> Self {
        let mut place = Place::find();
        if let Some(place) = &mut place
            && let Some(core) = place.core.upgrade()
            && let Some(agent) = core.traces.nearest_agent(place.trace, place.span)
        {
            place.span = agent;
        }
        Self { place }
    }

    /// Returns whether the handle is on a span.
    pub(crate) const fn is_there(&self) -> bool {
        self.place.is_some()
    }

    /// Says of the span what a scope within it says.
    pub(crate) fn stand_in(&self, scope: &Arc<Scope>) {
        if let Some(place) = &self.place
            && let Some(core) = place.core.upgrade()
        {
            core.traces.stand_in(place.trace, place.span, scope);
        }
    }

    /// Names the span.
    pub fn name(&self, name: impl Into<String>) -> &Self {
        self.set(attribute::NAME, name.into())
    }

    /// Sets one entry of the span's metadata.
    pub fn metadata(&self, key: &str, value: impl Into<Json>) -> &Self {
        let key = [attribute::METADATA_PREFIX, key].concat();
        match scalar(&value.into()) {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Says how bad it is.
    #[expect(clippy::must_use_candidate, reason = "the handle comes back only for chaining")]
    pub fn level(&self, level: Level) -> &Self {
        self.set(attribute::LEVEL, level.as_str())
    }

    /// Says what a person reads beside the level.
    pub fn status_message(&self, message: impl Into<String>) -> &Self {
        self.set(attribute::STATUS_MESSAGE, message.into())
    }

    /// Sets the input: a text as it is, anything else as JSON.
    pub fn input(&self, input: impl Into<Json>) -> &Self {
        self.set(attribute::INPUT, json_text(input.into()))
    }

    /// Sets the output: a text as it is, anything else as JSON.
    pub fn output(&self, output: impl Into<Json>) -> &Self {
        self.set(attribute::OUTPUT, json_text(output.into()))
    }

    /// Scores the span; see [`score_trace`](Self::score_trace) for the whole trace.
    ///
    /// Scores are delivered as spans are. Of a trace that is not sent, for its share, they are not
    /// sent either.
    pub fn score(&self, name: &str, value: impl Into<ScoreValue>) -> &Self {
        self.add_score(name, value.into(), None, true)
    }

    /// Scores the span, with a comment for people.
    pub fn score_with(
        &self,
        name: &str,
        value: impl Into<ScoreValue>,
        comment: impl AsRef<str>,
    ) -> &Self {
        self.add_score(name, value.into(), Some(comment.as_ref()), true)
    }

    fn add_score(
        &self,
        name: &str,
        value: ScoreValue,
        comment: Option<&str>,
        of_span: bool,
    ) -> &Self {
        if let Some(place) = &self.place
            && let Some(core) = place.core.upgrade()
        {
            let span = of_span.then_some(place.span);
            core.score(&Score { trace: place.trace, span, name, value, comment });
        }
        self
    }

    fn set(&self, key: impl Into<opentelemetry::Key>, value: impl Into<Value>) -> &Self {
        if let Some(place) = &self.place
            && let Some(core) = place.core.upgrade()
        {
            core.traces.update(place.trace, place.span, KeyValue::new(key, value));
        }
        self
    }
}

// ===== impl CurrentSpan: the trace =====

impl CurrentSpan {
    /// Names the trace.
    pub fn trace_name(&self, name: impl Into<String>) -> &Self {
        self.say(|trace| trace.name = Some(name.into()))
    }

    /// Says to which session the trace belongs.
    pub fn session(&self, session: impl Into<String>) -> &Self {
        self.say(|trace| trace.session = Some(session.into()))
    }

    /// Says for which user the trace runs.
    pub fn user(&self, user: impl Into<String>) -> &Self {
        self.say(|trace| trace.user = Some(user.into()))
    }

    /// Adds a tag to the trace.
    pub fn tag(&self, tag: impl AsRef<str>) -> &Self {
        self.say(|trace| trace.tag(tag.as_ref()))
    }

    /// Adds tags to the trace.
    pub fn tags<T: AsRef<str>>(&self, tags: impl IntoIterator<Item = T>) -> &Self {
        self.say(|trace| tags.into_iter().for_each(|tag| trace.tag(tag.as_ref())))
    }

    /// Sets one entry of the trace's metadata.
    pub fn trace_metadata(&self, key: &str, value: impl Into<Json>) -> &Self {
        match value::from_json(&value.into()) {
            Some(value) => self.say(|trace| trace.set_metadata(key, value)),
            None => self,
        }
    }

    /// Scores the trace.
    pub fn score_trace(&self, name: &str, value: impl Into<ScoreValue>) -> &Self {
        self.add_score(name, value.into(), None, false)
    }

    fn say(&self, say: impl FnOnce(&mut TraceContext)) -> &Self {
        if let Some(place) = &self.place
            && let Some(core) = place.core.upgrade()
        {
            let mut says = TraceContext::default();
            say(&mut says);
            core.traces.learn(place.trace, Some(&says), false);
        }
        self
    }
}

// ===== impl Place =====

impl Place {
    fn find() -> Option<Self> {
        let cores = Core::live();
        if cores.is_empty() {
            return None;
        }
        // The bridge of a user may leave OpenTelemetry's own context alone, and code may run in
        // a context of OpenTelemetry without any span of tracing.
        let (trace, span) = current_ids(&Span::current().context())
            .or_else(|| Context::map_current(current_ids))?;
        cores.iter().find_map(|core| {
            let span = core.traces.nearest_sent(trace, span)?;
            Some(Self { core: Arc::downgrade(core), trace, span })
        })
    }
}

fn json_text(value: Json) -> String {
    match value {
        Json::String(text) => text,
        value => value.to_string(),
    }
}

/// Turns JSON into a value that a span can record.
fn scalar(value: &Json) -> Option<Value> {
    Some(match value::from_json(value)?.value? {
        any_value::Value::StringValue(text) => text.into(),
        any_value::Value::BoolValue(value) => value.into(),
        any_value::Value::IntValue(value) => value.into(),
        any_value::Value::DoubleValue(value) => value.into(),
        _ => return None,
    })
}
