//! The span processor: what ends is mapped, encoded and handed on.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceId,
    trace::{Span as _, SpanContext, Status, TraceContextExt as _},
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{Span, SpanData, SpanProcessor},
};

use crate::{
    clock,
    core::Core,
    draft::Draft,
    encode::{Encoded, Writer},
    filter::{is_agent, is_ours, is_pattern},
    layer::{Starting, is_probe},
    level::Level,
    mapping::{Surroundings, map, map_start},
    propagation::{Scope, is_beginning},
    sampling::Decided,
    score::{Score, Told},
    sink::FlushError,
    spool::Class,
    trace::{Said, TraceContext},
    traces::{Held, Start, Started},
};

/// How long a provider that flushes without a limit of its own waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the spans of an OpenTelemetry provider to Langfuse.
///
/// Made by [`Langfuse::span_processor`](crate::Langfuse::span_processor). It sends what
/// [`Langfuse::layer`](crate::Langfuse::layer) sends, and leaves the provider's other processors
/// alone. Shutting the provider down flushes; delivery itself ends with the handle.
pub struct LangfuseSpanProcessor {
    core: Arc<Core>,
    /// Whether the provider is of our own making: then nobody else decided what to record.
    own_provider: bool,
}

impl LangfuseSpanProcessor {
    pub(crate) const fn new(core: Arc<Core>, own_provider: bool) -> Self {
        Self { core, own_provider }
    }

    fn flush(&self, timeout: Duration) -> OTelSdkResult {
        if self.own_provider {
            return Ok(());
        }
        self.core.flush(timeout).map_err(|error| match error {
            FlushError::TimedOut { .. } => OTelSdkError::Timeout(timeout),
            FlushError::Closed => OTelSdkError::AlreadyShutdown,
            FlushError::Undelivered { .. } | FlushError::Misconfigured { .. } => {
                OTelSdkError::InternalFailure(error.to_string())
            }
        })
    }
}

impl fmt::Debug for LangfuseSpanProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LangfuseSpanProcessor").field("core", &self.core).finish_non_exhaustive()
    }
}

impl SpanProcessor for LangfuseSpanProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        let trace = span.span_context().trace_id();
        if self.own_provider
            && let Some(mut starting) = Starting::take(trace)
        {
            self.core.start_ours(span.span_context(), context, &mut starting);
            starting.done();
        } else if let Some(data) = span.exported_data() {
            self.core.start(&data, context);
        }
    }

    fn on_end(&self, span: SpanData) {
        // A provider of the user's may record what its sampler does not want exported.
        let wanted = self.own_provider || span.span_context.is_sampled();
        if !self.own_provider {
            self.core.take_scores(&span);
        }
        self.core.end(&span, wanted);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush(FLUSH_TIMEOUT)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.flush(timeout)
    }

    fn set_resource(&mut self, _resource: &Resource) {}
}

impl Core {
    /// Notes a span that starts.
    fn start(&self, span: &SpanData, context: &Context) {
        if is_probe(&span.name) {
            return;
        }
        let trace = span.span_context.trace_id();
        let begins = is_beginning(trace, span.parent_span_id);
        let held = self.traces.start(Started {
            trace,
            span: span.span_context.span_id(),
            parent: if begins { SpanId::INVALID } else { span.parent_span_id },
            parent_is_remote: span.parent_span_is_remote && !begins,
            sent: self.filter.sends(&span.name, &span.attributes),
            name: &span.name,
            is_agent: is_agent(&span.attributes),
            at: self.journals.then(|| clock::nanos(span.start_time)),
            says: said(&span.attributes),
            scope: Scope::around(context),
            is_unwanted: !span.span_context.is_sampled(),
        });
        self.send(held, Class::Uneventful);
    }

    /// Notes a span of the layer that starts, without copying what it has recorded.
    fn start_ours(&self, span: &SpanContext, context: &Context, starting: &mut Starting) {
        if is_probe(&starting.name) {
            return;
        }
        let parent = context.span();
        let parent = parent.span_context();
        // As the SDK has it: a parent that is not valid is none.
        let has_parent = parent.is_valid() && !is_beginning(span.trace_id(), parent.span_id());
        let held = self.traces.start(Started {
            trace: span.trace_id(),
            span: span.span_id(),
            parent: if has_parent { parent.span_id() } else { SpanId::INVALID },
            parent_is_remote: has_parent && parent.is_remote(),
            sent: starting.sent,
            name: &starting.name,
            is_agent: starting.is_agent,
            at: self.journals.then(|| clock::nanos(SystemTime::now())),
            says: starting.says.take(),
            scope: Scope::around(context),
            is_unwanted: !span.is_sampled(),
        });
        self.send(held, Class::Uneventful);
    }

    /// Maps a span that ended and hands it on.
    fn end(&self, span: &SpanData, wanted: bool) {
        let trace_id = span.span_context.trace_id();
        let ours = is_ours(&span.name, &span.attributes);
        let fit = wanted && (ours || self.filter.sends_of_others(&span.attributes));
        let name = fit.then_some(&*span.name);
        let ended = self.traces.end(trace_id, span.span_context.span_id(), name);
        if !fit || ended.passed_over || is_probe(&span.name) {
            // A span that is not sent may still say something about its trace, and end it.
            self.traces.learn(trace_id, said(&span.attributes).as_deref(), false);
            self.finish(trace_id, ended);
            return;
        }
        let mut draft = Draft::read(&span.attributes, &ended.updates);
        let failed = !ours && matches!(span.status, Status::Error { .. });
        let eventful = failed || draft.level >= Some(Level::Warning);
        let says = draft.trace.take();
        if eventful || says.is_some() {
            self.traces.learn(trace_id, says.as_deref(), eventful);
        }
        let is_eventful = eventful || ended.eventful;
        // Of what went well a trace counts for those that are not sent.
        let is_share = self.sampling.rate < 1.0 && ended.above.is_none() && !is_eventful;
        let sample_rate = is_share.then_some(self.sampling.rate);
        let scope = ended.scope.as_ref().map(|scope| &scope.says);
        let by = [ended.trace.as_deref(), scope, says.as_deref()];
        let trace = Said { defaults: &self.defaults, by };
        let begins = is_beginning(trace_id, span.parent_span_id);
        let parent = if begins { SpanId::INVALID } else { span.parent_span_id };
        let parent = ended.parent.unwrap_or(parent);
        let cut_off = ended.above.is_none() && (ended.known || span.parent_span_is_remote);
        let around = Surroundings {
            trace,
            parent,
            app_root: parent != SpanId::INVALID && cut_off && !ended.is_claimed,
            as_root: self.as_root,
            sample_rate,
            privacy: &self.privacy,
            ours,
        };
        let starts = if is_eventful && self.journals {
            self.starts_above(trace_id, ended.above)
        } else {
            Vec::new()
        };
        let write = |into: &mut Writer<'_>| map(span, draft, around, into);
        let encoded =
            if self.sampling.picks() { Encoded::alone(write) } else { Encoded::new(write) };
        self.decide(Decided {
            trace: trace_id,
            held: Held {
                span: span.span_context.span_id(),
                above: ended.above,
                encoded,
                is_dispensable: ours && is_pattern(&span.name) && !ended.went_out,
                is_unwanted: !span.span_context.is_sampled(),
                at: clock::nanos(span.end_time),
            },
            is_eventful,
            is_sent: ended.is_sent,
            rest: ended.held,
            starts,
        });
    }

    /// Hands on the scores that stand in a span as events: with a bridge of the user's nobody has
    /// taken them before.
    fn take_scores(&self, span: &SpanData) {
        for event in &span.events.events {
            let told = Told::of(&event.attributes);
            if let Some(value) = told.value {
                self.score(&Score {
                    trace: span.span_context.trace_id(),
                    span: Some(span.span_context.span_id()),
                    name: &told.name,
                    value,
                    comment: told.comment.as_deref(),
                });
            }
        }
    }

    /// Encodes the open spans above one that has failed: where it belongs, should this process
    /// end before they do.
    fn starts_above(&self, trace_id: TraceId, above: Option<SpanId>) -> Vec<Encoded> {
        let (starts, trace) = self.traces.starts_above(trace_id, above);
        let encode = |start: &Start| {
            let scope = start.scope.as_ref().map(|scope| &scope.says);
            let trace = Said { defaults: &self.defaults, by: [trace.as_deref(), scope, None] };
            Encoded::new(|into| map_start(trace_id, start, trace, &self.privacy, into))
        };
        starts.iter().map(encode).collect()
    }
}

/// Reads what attributes say about the trace.
pub(crate) fn said(attributes: &[KeyValue]) -> Option<Box<TraceContext>> {
    let mut says = None;
    for attribute in attributes {
        TraceContext::read_into(&mut says, attribute.key.as_str(), &attribute.value);
    }
    says
}

/// Returns the ids of the span that is current for OpenTelemetry.
pub(crate) fn current_ids(context: &Context) -> Option<(TraceId, SpanId)> {
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| (span.trace_id(), span.span_id()))
}

#[cfg(test)]
mod tests;
