use std::{
    fmt::{self, Write as _},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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

use crate::{
    catch_panic::Panic,
    telemetry::{TARGET, key},
};

/// Longer texts are cut.
const LONGEST_TEXT: usize = 4096;

/// Hands each span of the contract to whoever observes, once its layer is done with it.
///
/// That is when it records its outcome, whoever still holds the span, or when it closes without one.
/// Each span is handed over once; spans of other targets are none of its business.
///
/// The observer is called on the thread of the call, so it must be quick. Its panics are caught, and so
/// are those of the values that are written. Texts are cut at 4 KiB, and not written any further; a
/// field that is recorded again has its last value. A subscriber may have several such layers; of those
/// with an observer of the same type, one hears.
#[derive(Debug)]
pub struct ObserveLayer<O> {
    pub(super) observer: O,
    /// How many spans have begun.
    begun: AtomicU64,
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
    /// Its place among all that its layer has seen begin.
    place: u64,
    started: Instant,
    took: Duration,
    fields: Fields,
}

/// What was recorded, each field once.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

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

/// A text that takes no more than is kept of it.
#[derive(Default)]
struct Cut {
    text: String,
    is_full: bool,
}

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
        self.str(key::AGENT_ID).or(self.agent.as_deref())
    }

    /// Returns its place among all spans that its layer has seen begin.
    ///
    /// Spans are told in the order in which they end, and those of several threads in any.
    #[must_use]
    pub const fn place(&self) -> u64 {
        self.place
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
        self.fields.get(key)
    }
}

// ===== impl Fields =====

impl Fields {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    fn set(&mut self, key: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.0.push((key, value)),
        }
    }
}

/// Takes up what a span records.
impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), Value::Number(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Integer(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.set(field.name(), Value::Integer(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Truth(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut cut = Cut::default();
        // Full is as good as written.
        _ = cut.write_str(value);
        self.set(field.name(), Value::Text(cut.text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut cut = Cut::default();
        // It is the program's own and may panic, with half of it written.
        drop(Panic::catch(|| write!(cut, "{value:?}")));
        self.set(field.name(), Value::Text(cut.text));
    }
}

// ===== impl Cut =====

impl fmt::Write for Cut {
    /// Fails once it is full, so that who writes for ever may stop.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.is_full { 0 } else { LONGEST_TEXT - self.text.len() };
        self.is_full |= text.len() > room;
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.text.push_str(&text[..end]);
        if self.is_full { Err(fmt::Error) } else { Ok(()) }
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
        Self { observer, begun: AtomicU64::new(0) }
    }

    fn hand_over(&self, mut span: Observed) {
        span.took = span.started.elapsed();
        // What goes wrong here is no failure of the agent.
        drop(Panic::catch(|| self.observer.observe(&span)));
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
            // What was done before a span began is seen by who comes behind it in this order.
            place: self.begun.fetch_add(1, Ordering::AcqRel),
            started: Instant::now(),
            took: Duration::ZERO,
            fields: Fields::default(),
        };
        attributes.record(&mut observed.fields);
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
        if span.extensions().get::<Open<O>>().is_none_or(|open| open.0.is_none()) {
            return;
        }
        // Outside the lock: values are the program's own, and may use tracing while they are written.
        let mut fields = Fields::default();
        values.record(&mut fields);
        let ended = {
            let mut extensions = span.extensions_mut();
            let Some(Open(open, _)) = extensions.get_mut::<Open<O>>() else { return };
            let Some(observed) = open else { return };
            for (key, value) in fields.0 {
                observed.fields.set(key, value);
            }
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
