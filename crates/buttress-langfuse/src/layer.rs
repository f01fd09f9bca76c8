//! The tracing layer: tracing-opentelemetry over a provider of our own.
//!
//! tracing-opentelemetry keeps its data in the span under a private type and panics when it finds
//! that of another such layer there. So before the first real span, when the subscriber is
//! registered, a span of no meaning is tried: does another layer answer for it, and does it get
//! through the filters at all?

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use buttress::telemetry;
use opentelemetry::{
    Context as OtelContext, InstrumentationScope, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    trace::{
        SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, SpanLimits,
    },
};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    callsite::{Callsite, Identifier},
    dispatcher::WeakDispatch,
    field::{Field, FieldSet, Visit},
    level_filters::{LevelFilter, STATIC_MAX_LEVEL},
    metadata::Kind,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_opentelemetry::{OpenTelemetryLayer, get_otel_context};
use tracing_subscriber::{
    Layer,
    layer::{Context, Filter},
    registry::LookupSpan,
};

use crate::{
    core::Core,
    filter::is_agent,
    notice::notice,
    processor::{LangfuseSpanProcessor, said},
    score::{Score, Told},
    trace::TraceContext,
};

/// The scope of our spans; one that began with `langfuse-sdk` would lose attributes.
pub(crate) const SCOPE: &str = "buttress";

/// A field that is recorded twice takes two places, and what comes past the limit is lost.
const MAX_ATTRIBUTES: u32 = 1_024;

/// Makes the layer.
pub(crate) fn build<S>(core: &Arc<Core>) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + 'static,
{
    let standing = Arc::new(Standing::default());
    let bridge = OpenTelemetryLayer::<S, SdkTracer>::new(tracer(core))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_level(false)
        .with_target(true)
        .with_error_fields_to_exceptions(false)
        .with_error_records_to_exceptions(false);
    bridge.with_filter(Gate(standing.clone())).and_then(Check(standing, core.clone()))
}

fn tracer(core: &Arc<Core>) -> SdkTracer {
    let limits = SpanLimits { max_attributes_per_span: MAX_ATTRIBUTES, ..SpanLimits::default() };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(LangfuseSpanProcessor::new(core.clone(), true))
        .with_sampler(RecordAll(core.clone()))
        .with_span_limits(limits)
        // The resource is written by delivery, once for each request.
        .with_resource(Resource::builder_empty().build())
        .build();
    let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION"));
    provider.tracer_with_scope(scope.build())
}

/// Records every span, and passes on what the caller of this process decided for others.
///
/// It also reads the span that is about to start, of which a processor gets a copy only.
#[derive(Debug, Clone)]
struct RecordAll(Arc<Core>);

impl ShouldSample for RecordAll {
    fn should_sample(
        &self,
        parent: Option<&OtelContext>,
        trace: TraceId,
        name: &str,
        _: &SpanKind,
        attributes: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        Starting::note(&self.0, trace, name, attributes);
        let parent = parent.map(OtelContext::span);
        let parent = parent.as_ref().map(|parent| parent.span_context());
        let parent = parent.filter(|parent| parent.is_valid());
        let decision = match parent {
            Some(parent) if !parent.is_sampled() => SamplingDecision::RecordOnly,
            _ => SamplingDecision::RecordAndSample,
        };
        let trace_state = parent.map_or(TraceState::NONE, |parent| parent.trace_state().clone());
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

/// What the sampler read from the span that starts on this thread.
///
/// The SDK asks the sampler and then the processor, with nothing between them.
#[derive(Debug, Default)]
pub(crate) struct Starting {
    trace: Option<TraceId>,
    pub(crate) name: String,
    /// Whether the span is one that is sent.
    pub(crate) sent: bool,
    pub(crate) is_agent: bool,
    /// What the span says about its trace.
    pub(crate) says: Option<Box<TraceContext>>,
}

thread_local! {
    static STARTING: Cell<Starting> = Cell::default();
}

// ===== impl Starting =====

impl Starting {
    fn note(core: &Core, trace: TraceId, name: &str, attributes: &[KeyValue]) {
        let mut starting = STARTING.try_with(Cell::take).unwrap_or_default();
        starting.trace = Some(trace);
        starting.name.clear();
        starting.name.push_str(name);
        starting.sent = core.filter.sends(name, attributes);
        starting.is_agent = is_agent(attributes);
        starting.says = said(attributes);
        starting.put_back();
    }

    /// Takes what was read from a span of this trace; [`done`](Self::done) gives it back.
    pub(crate) fn take(trace: TraceId) -> Option<Self> {
        let starting = STARTING.try_with(Cell::take).unwrap_or_default();
        (starting.trace == Some(trace)).then_some(starting)
    }

    /// Leaves the memory to the next span.
    pub(crate) fn done(mut self) {
        self.trace = None;
        self.put_back();
    }

    fn put_back(self) {
        // A thread that is about to end has no use for it.
        _ = STARTING.try_with(|place| place.set(self));
    }
}

// ===== the check =====

/// What the check found out about one layer.
#[derive(Debug, Default)]
struct Standing {
    refused: AtomicBool,
    reached: AtomicBool,
    /// The subscriber that the layer is a part of.
    subscriber: OnceLock<WeakDispatch>,
}

/// Why a layer does nothing.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    SecondLayer,
    OpenTelemetryLayer,
}

impl Standing {
    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn refuse(&self, why: Refusal) {
        if self.refused.swap(true, Ordering::Relaxed) {
            return;
        }
        match why {
            Refusal::SecondLayer => notice(format_args!(
                "a second Langfuse layer in the same subscriber is refused and does nothing; \
                 the first one sends every span"
            )),
            Refusal::OpenTelemetryLayer => notice(format_args!(
                "the layer is refused and does nothing, because the subscriber has a layer of \
                 tracing-opentelemetry already; add `langfuse.span_processor()` to that layer's \
                 tracer provider instead"
            )),
        }
    }
}

/// Returns whether it is a log line or a score of buttress, of which nothing is left in a span.
fn is_told_elsewhere(metadata: &Metadata<'_>) -> bool {
    metadata.is_event()
        && matches!(metadata.target(), telemetry::LOG_TARGET | telemetry::SCORE_TARGET)
}

/// Keeps spans from the bridge of a refused layer, and the tried span from every bridge of ours.
#[derive(Debug)]
struct Gate(Arc<Standing>);

impl<S> Filter<S> for Gate {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        !self.0.is_refused() && !is_tried(metadata) && !is_told_elsewhere(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_told_elsewhere(metadata) {
            return Interest::never();
        }
        // Callsites are asked after the check, so a layer that passed need not be asked again.
        if self.0.is_refused() { Interest::sometimes() } else { Interest::always() }
    }
}

/// Marks a tried span as seen by a layer of ours.
#[derive(Debug)]
struct Seen(Arc<Standing>);

/// Checks the subscriber that the layer becomes a part of.
#[derive(Debug)]
struct Check(Arc<Standing>, Arc<Core>);

impl<S> Layer<S> for Check
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        drop(self.0.subscriber.set(dispatch.downgrade()));
        let reached = self.try_span(dispatch, &OURS);
        // Spans around ours collide just as well, where the other layer filters ours out.
        self.try_span(dispatch, &OTHERS);
        let is_refused = self.0.is_refused();
        if !is_refused && (!reached || STATIC_MAX_LEVEL < LevelFilter::INFO) {
            notice(format_args!(
                "spans of the target `{target}` are filtered out, so no trace is sent; let them \
                 through with the directive `{target}=info`, for example RUST_LOG={target}=info",
                target = telemetry::TARGET
            ));
        }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !is_tried(attributes.metadata()) {
            return;
        }
        let Some(span) = context.span(id) else { return };
        self.0.reached.store(true, Ordering::Relaxed);
        let mut extensions = span.extensions_mut();
        match extensions.get_mut::<Seen>() {
            Some(Seen(first)) if !Arc::ptr_eq(first, &self.0) => {
                self.0.refuse(Refusal::SecondLayer);
            }
            Some(_) => {}
            None => extensions.insert(Seen(self.0.clone())),
        }
    }

    /// Ends a span of buttress where it is told that its call failed: whoever still holds the span,
    /// the failure is on its way before the call returns.
    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let is_ours = |metadata: &Metadata<'_>| metadata.target() == telemetry::TARGET;
        if self.0.is_refused() || !context.metadata(id).is_some_and(is_ours) {
            return;
        }
        let mut outcome = Failed(false);
        values.record(&mut outcome);
        if outcome.0
            && let Some(context) = self.context_of(id)
        {
            context.span().end();
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != telemetry::SCORE_TARGET || self.0.is_refused() {
            return;
        }
        let Some(context) = context.event_span(event).and_then(|span| self.context_of(&span.id()))
        else {
            return;
        };
        let mut told = Told::default();
        event.record(&mut told);
        if let Some(value) = told.value {
            let span = context.span();
            let span = span.span_context();
            let comment = told.comment.as_deref();
            self.1.score(&Score {
                trace: span.trace_id(),
                span: Some(span.span_id()),
                name: &told.name,
                value,
                comment,
            });
        }
    }
}

/// Finds the outcome of a call that did not succeed.
struct Failed(bool);

impl Visit for Failed {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 |= field.name() == telemetry::key::OUTCOME && value != telemetry::outcome::SUCCESS;
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Check {
    /// Returns what OpenTelemetry knows of a span.
    fn context_of(&self, id: &Id) -> Option<OtelContext> {
        get_otel_context(id, &self.0.subscriber.get()?.upgrade()?)
    }

    /// Tries a span; answers whether it reached this layer.
    fn try_span(&self, dispatch: &Dispatch, metadata: &'static Metadata<'static>) -> bool {
        if self.0.is_refused() || !dispatch.enabled(metadata) {
            return false;
        }
        self.0.reached.store(false, Ordering::Relaxed);
        let no_values: [(&tracing::field::Field, Option<&dyn tracing::Value>); 0] = [];
        let values = metadata.fields().value_set(&no_values);
        let id = dispatch.new_span(&Attributes::new_root(metadata, &values));
        let reached = self.0.reached.load(Ordering::Relaxed);
        if reached && get_otel_context(&id, dispatch).is_some() {
            // The span stays open: closed, it would show up in the other layer's backend.
            self.0.refuse(Refusal::OpenTelemetryLayer);
        } else {
            dispatch.try_close(id);
        }
        reached
    }
}

// ===== the span that is tried =====

const TRIED: &str = "langfuse_layer_check";

/// Tells whether a span is the one that is tried.
pub(crate) fn is_probe(name: &str) -> bool {
    name == TRIED
}

fn is_tried(metadata: &Metadata<'_>) -> bool {
    let callsite = metadata.callsite();
    callsite == Identifier(&OURS_CALLSITE) || callsite == Identifier(&OTHERS_CALLSITE)
}

static OURS: Metadata<'static> = tried(telemetry::TARGET, Level::INFO, &OURS_CALLSITE);
static OURS_CALLSITE: TriedCallsite = TriedCallsite(&OURS);
static OTHERS: Metadata<'static> = tried(TRIED, Level::ERROR, &OTHERS_CALLSITE);
static OTHERS_CALLSITE: TriedCallsite = TriedCallsite(&OTHERS);

const fn tried(
    target: &'static str,
    level: Level,
    callsite: &'static TriedCallsite,
) -> Metadata<'static> {
    let fields = FieldSet::new(&[], Identifier(callsite));
    Metadata::new(TRIED, target, level, None, None, None, fields, Kind::SPAN)
}

/// A callsite that is never registered: the list of callsites is locked during the check.
#[derive(Debug)]
struct TriedCallsite(&'static Metadata<'static>);

impl Callsite for TriedCallsite {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        self.0
    }
}

#[cfg(test)]
mod tests;
