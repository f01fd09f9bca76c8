//! The client's side: whoever is called is told to which trace the call belongs.

use std::task::{Context as TaskContext, Poll};

use http::{HeaderMap, Request};
use opentelemetry::{
    Context, SpanId,
    baggage::BaggageExt as _,
    trace::{SpanContext, TraceContextExt as _},
};
use tower::{Layer, Service};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    baggage,
    scope::{CLAIM, Scope},
    traceparent,
};
use crate::core::Core;

/// Writes the trace that is current into the headers of a request.
///
/// `traceparent` and `tracestate` name the span that is current, in place of what stands there;
/// without one they are left alone. The parent that is named is the nearest span that Langfuse
/// gets, so that its tree has no gap, unless the provider of the spans is the user's own, who may
/// send the others elsewhere. `baggage` gets what [`Propagate::as_baggage`] says, and the baggage of
/// OpenTelemetry's context, within the limits of the W3C: 8192 bytes and 180 entries.
///
/// For clients that have layers there is [`InjectLayer`]; reqwest has the same headers:
///
/// ```
/// let mut headers = http::HeaderMap::new();
/// buttress_langfuse::inject(&mut headers);
/// // reqwest::Client::new().get("http://prices").headers(headers).send().await?;
/// # assert!(headers.is_empty());
/// ```
///
/// [`Propagate::as_baggage`]: crate::Propagate::as_baggage
pub fn inject(headers: &mut HeaderMap) {
    let current = Context::current();
    let caller = caller(&current);
    let scope = Scope::at(&current);
    let shared = scope.as_deref().and_then(|scope| scope.shared.as_ref());
    let mut ours: Vec<(String, String)> = Vec::new();
    if let Some(caller) = &caller {
        let sent = SentFrom::here(caller);
        traceparent::write(caller, sent.parent, headers);
        if shared.is_some() && sent.has_root {
            ours.push((CLAIM.to_owned(), caller.trace_id().to_string()));
        }
    }
    if let Some(shared) = shared {
        ours.extend(shared.entries());
    }
    if !ours.is_empty() || !current.baggage().is_empty() {
        baggage::write(&ours, current.baggage(), headers);
    }
}

/// Finds the span that calls.
fn caller(current: &Context) -> Option<SpanContext> {
    let active = current.span();
    let active = active.span_context();
    if active.is_valid() && !active.is_remote() {
        return Some(active.clone());
    }
    // The bridge of a user may leave OpenTelemetry's own context alone.
    let bridged = Span::current().context();
    let bridged = bridged.span();
    let bridged = bridged.span_context();
    let is_below = !active.is_valid() || bridged.trace_id() == active.trace_id();
    let caller = if bridged.is_valid() && is_below { bridged } else { active };
    caller.is_valid().then(|| caller.clone())
}

/// What this process sends of the trace of a span.
#[derive(Debug, Clone, Copy)]
struct SentFrom {
    /// The parent to name.
    parent: SpanId,
    /// Whether the trace has a root that is sent, here or wherever it came from.
    has_root: bool,
}

impl SentFrom {
    fn here(caller: &SpanContext) -> Self {
        let (trace, span) = (caller.trace_id(), caller.span_id());
        for core in Core::live() {
            let Some(out) = core.traces.goes_out(trace, span) else { continue };
            let parent = if core.shares_provider() { span } else { out.parent };
            let has_root = out.is_sent && caller.is_sampled() && core.sends(trace);
            return Self { parent, has_root };
        }
        Self { parent: span, has_root: false }
    }
}

/// Tells whoever is called to which trace the call belongs.
///
/// For clients over [`http::Request`] with any body, such as those of hyper and the channels of
/// tonic; [`inject`] says what is written.
///
/// # Ordering
///
/// It stands inside of the layers that make spans, next to the client: then each attempt of a
/// retry is the parent of what it causes elsewhere.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::InjectLayer;
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, service_fn};
///
/// let client = ServiceBuilder::new().layer(InjectLayer::new()).service(service_fn(
///     |_request: Request<String>| async { Ok::<_, std::io::Error>(Response::new(String::new())) },
/// ));
/// # drop(client);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "layers do nothing until applied to a service"]
pub struct InjectLayer(());

/// A client whose calls say to which trace they belong; made by [`InjectLayer`].
#[derive(Debug, Clone)]
pub struct Inject<S> {
    inner: S,
}

// ===== impl InjectLayer =====

impl InjectLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for InjectLayer {
    type Service = Inject<S>;

    fn layer(&self, inner: S) -> Inject<S> {
        Inject { inner }
    }
}

// ===== impl Inject =====

impl<S> Inject<S> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, to change it.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the inner service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for Inject<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        inject(request.headers_mut());
        self.inner.call(request)
    }
}

#[cfg(feature = "tonic")]
impl<S: tonic::server::NamedService> tonic::server::NamedService for Inject<S> {
    const NAME: &'static str = S::NAME;
}

#[cfg(test)]
mod tests;
