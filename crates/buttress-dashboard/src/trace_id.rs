//! The ids of traces, from tracing-opentelemetry where it is there.

use tracing::{Dispatch, span::Id};

/// Reads the trace ids of spans.
#[derive(Debug, Default)]
pub(crate) struct TraceIds {
    #[cfg(feature = "opentelemetry")]
    subscriber: std::sync::OnceLock<tracing::dispatcher::WeakDispatch>,
}

#[cfg(feature = "opentelemetry")]
impl TraceIds {
    /// Sets the subscriber that the spans are of.
    pub(crate) fn read_from(&self, subscriber: &Dispatch) {
        drop(self.subscriber.set(subscriber.downgrade()));
    }

    /// Returns the id of the trace that a living span is in.
    pub(crate) fn of(&self, id: &Id) -> Option<String> {
        use opentelemetry::trace::TraceContextExt as _;

        let subscriber = self.subscriber.get()?.upgrade()?;
        let context = tracing_opentelemetry::get_otel_context(id, &subscriber)?;
        let span = context.span();
        let context = span.span_context();
        context.is_valid().then(|| context.trace_id().to_string())
    }
}

#[cfg(not(feature = "opentelemetry"))]
impl TraceIds {
    #[expect(clippy::unused_self, reason = "without OpenTelemetry no span has an id of a trace")]
    pub(crate) const fn read_from(&self, _: &Dispatch) {}

    #[expect(clippy::unused_self, reason = "without OpenTelemetry no span has an id of a trace")]
    pub(crate) const fn of(&self, _: &Id) -> Option<String> {
        None
    }
}
