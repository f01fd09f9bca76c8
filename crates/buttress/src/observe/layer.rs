use std::{
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use crate::telemetry::{TARGET, key};

/// Longer texts are cut.
const LONGEST_TEXT: usize = 4096;

/// Hands each span of the contract to whoever observes, once its layer is done with it.
///
/// That is when it records its outcome, whoever still holds the span, or when it closes without one.
/// Each span is handed over once; spans of other targets are none of its business.
///
/// The observer is called on the thread of the call, so it must be quick. Its panics are caught.
/// Texts are cut at 4 KiB. A subscriber may have several such layers; of those with an observer of the
/// same type, one hears.
#[derive(Debug)]
pub struct ObserveLayer<O> {
    pub(super) observer: O,
}

/// Who observes; implemented for functions of one [`Observed`].
pub trait Observe {
    /// Hears of a span that has ended.
    fn observe(&self, span: &Observed);
}

/// A span that has ended.
#[derive(Debug)]
pub struct Observed {
    name: &'static str,
    id: u64,
    parent: Option<u64>,
    /// Its own, or that of the nearest span above it.
    agent: Option<Arc<str>>,
    started: Instant,
    took: Duration,
    fields: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Integer(i64),
    Number(f64),
    Truth(bool),
}

/// What is kept of a span for an observer while it lives; none once it was handed over.
struct Open<O>(Option<Observed>, PhantomData<fn() -> O>);

/// The agent of a span, for those below it.
struct Agent(Option<Arc<str>>);

// ===== impl Observed =====

impl Observed {
    /// Returns the span's name, a constant of [`telemetry::span`](crate::telemetry::span).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the name that people see: `otel.name` where the span has one.
    #[must_use]
    pub fn otel_name(&self) -> &str {
        self.str("otel.name").unwrap_or(self.name)
    }

    /// Returns a number that no other open span has.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Returns that number of the nearest span of the contract above it.
    #[must_use]
    pub const fn parent(&self) -> Option<u64> {
        self.parent
    }

    /// Returns the agent that it names, else that of the nearest span above it.
    #[must_use]
    pub fn agent_id(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// Returns how long it took.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.took
    }

    /// Returns a field that is a text.
    #[must_use]
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a field that is an integer.
    #[must_use]
    pub fn i64(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns a field that is a number.
    #[must_use]
    pub fn f64(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns a field that is true or false.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Truth(truth) => Some(*truth),
            _ => None,
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.iter().rev().find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

/// Takes up what a span records.
impl Visit for Observed {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), Value::Number(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), Value::Integer(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.fields.push((field.name(), Value::Integer(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Value::Truth(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut end = value.len().min(LONGEST_TEXT);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.fields.push((field.name(), Value::Text(value[..end].to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

// ===== impl Observe =====

impl<F: Fn(&Observed)> Observe for F {
    fn observe(&self, span: &Observed) {
        self(span);
    }
}

// ===== impl ObserveLayer =====

impl<O: Observe> ObserveLayer<O> {
    /// Creates the layer.
    pub const fn new(observer: O) -> Self {
        Self { observer }
    }

    fn hand_over(&self, mut span: Observed) {
        span.took = span.started.elapsed();
        // What goes wrong here is no failure of the agent.
        drop(catch_unwind(AssertUnwindSafe(|| self.observer.observe(&span))));
    }
}

impl<S, O> Layer<S> for ObserveLayer<O>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    O: Observe + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != TARGET {
            return;
        }
        let Some(span) = context.span(id) else { return };
        if span.extensions().get::<Open<O>>().is_some() {
            return;
        }
        let above = span.scope().skip(1).find(|above| above.metadata().target() == TARGET);
        let mut observed = Observed {
            name: attributes.metadata().name(),
            id: id.into_u64(),
            parent: above.map(|above| above.id().into_u64()),
            agent: None,
            started: Instant::now(),
            took: Duration::ZERO,
            fields: Vec::new(),
        };
        attributes.record(&mut observed);
        observed.agent = match observed.str(key::AGENT_ID) {
            Some(agent) => Some(agent.into()),
            None => span.scope().skip(1).find_map(|above| {
                above.extensions().get::<Agent>().and_then(|agent| agent.0.clone())
            }),
        };
        let mut extensions = span.extensions_mut();
        extensions.replace(Agent(observed.agent.clone()));
        if observed.get(key::OUTCOME).is_some() {
            extensions.insert(Open::<O>(None, PhantomData));
            drop(extensions);
            self.hand_over(observed);
        } else {
            extensions.insert(Open::<O>(Some(observed), PhantomData));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let ended = {
            let mut extensions = span.extensions_mut();
            let Some(Open(open, _)) = extensions.get_mut::<Open<O>>() else { return };
            let Some(observed) = open else { return };
            values.record(observed);
            if observed.get(key::OUTCOME).is_none() {
                return;
            }
            open.take()
        };
        if let Some(observed) = ended {
            self.hand_over(observed);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open<O>>();
        if let Some(observed) = open.and_then(|open| open.0) {
            self.hand_over(observed);
        }
    }
}
