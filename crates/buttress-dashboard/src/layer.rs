//! The tracing layer: what retries, fallbacks and swarms tell, and the traces of what failed.

use std::{cell::Cell, fmt, sync::Arc};

use buttress::{
    observe::{Observe, ObserveLayer, Observed},
    telemetry::{TARGET, key, outcome},
};
use tracing::{
    Dispatch, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use crate::{shared::Shared, trace_id::TraceIds};

/// Feeds a dashboard from the spans of the layers; made by [`Dashboard::layer`].
///
/// With the feature `opentelemetry` it reads the ids of traces from a layer of tracing-opentelemetry
/// in the same subscriber, before or behind it.
///
/// [`Dashboard::layer`]: crate::Dashboard::layer
#[derive(Debug)]
pub struct DashboardLayer {
    observe: ObserveLayer<Feed>,
    trace_ids: TraceIds,
}

/// Hands spans on to the dashboard.
#[derive(Debug)]
struct Feed(Arc<Shared>);

thread_local! {
    /// The trace of the span that is being handed over: an observer sees the span's fields only.
    static TRACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Finds the outcome that a span is given.
#[derive(Default)]
struct Outcome {
    is_told: bool,
    is_failure: bool,
}

/// Has the trace at hand while a span is handed over.
struct InTrace;

// ===== impl DashboardLayer =====

impl DashboardLayer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { observe: ObserveLayer::new(Feed(shared)), trace_ids: TraceIds::default() }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for DashboardLayer {
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        self.trace_ids.read_from(subscriber);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut outcome = Outcome::default();
        if attributes.metadata().target() == TARGET {
            attributes.record(&mut outcome);
        }
        // A span of no length, such as a change of a circuit, is in the trace of the one above it:
        // that has begun, while this one may not have reached the layer of OpenTelemetry yet.
        let trace = outcome.is_told.then(|| {
            let above = context.span(id)?.parent()?;
            self.trace_ids.of(&above.id())
        });
        let _in_trace = InTrace::new(trace.flatten());
        self.observe.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut outcome = Outcome::default();
        if context.metadata(id).is_some_and(|metadata| metadata.target() == TARGET) {
            values.record(&mut outcome);
        }
        // Now, while it lives: when it closes, the other layer's data may be gone already.
        let trace = outcome.is_failure.then(|| self.trace_ids.of(id));
        let _in_trace = InTrace::new(trace.flatten());
        self.observe.on_record(id, values, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.observe.on_close(id, context);
    }
}

// ===== impl Feed =====

impl Observe for Feed {
    fn observe(&self, span: &Observed) {
        let trace = TRACE.take().map(|id| self.0.trace(id));
        self.0.take_in(span, trace);
    }
}

// ===== impl InTrace =====

impl InTrace {
    fn new(trace: Option<String>) -> Self {
        TRACE.set(trace);
        Self
    }
}

impl Drop for InTrace {
    fn drop(&mut self) {
        TRACE.set(None);
    }
}

// ===== impl Outcome =====

impl Visit for Outcome {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == key::OUTCOME {
            self.is_told = true;
            self.is_failure = !matches!(value, outcome::SUCCESS | outcome::CANCELLED);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
