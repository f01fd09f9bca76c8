//! The server's side: a call becomes part of the trace of whoever calls.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use http::{HeaderMap, Request};
use opentelemetry::{
    Context,
    baggage::BaggageExt as _,
    trace::{SpanContext, TraceContextExt as _},
};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    baggage::{self, BAGGAGE},
    scope::Scope,
    traceparent::{self, TRACEPARENT},
};

/// Makes the spans of a call children of the span that calls, in whatever process that is.
///
/// For servers that take [`http::Request`]s with any body, such as those of axum and tonic. It reads
/// `traceparent` and `tracestate`, and of `baggage` what [`Propagate`](crate::Propagate) or an
/// official SDK says there; the rest of the baggage is left to OpenTelemetry's own
/// [`Baggage`](opentelemetry::baggage::Baggage), with room for 64 entries. What is malformed or
/// beyond the limits of the W3C (8192 bytes, 180 entries) is ignored.
///
/// A caller that does not sample is obeyed: nothing is sent of such a call unless something goes
/// wrong in it here. Where the span that is current belongs to the caller's trace already, since
/// another layer has read the headers, it stays the parent.
///
/// What is read can be made up by whoever calls. Where callers are not to be trusted, leave the
/// layer out, or at least the [`baggage`](Self::baggage).
///
/// # Defaults
///
/// - `baggage`: read
///
/// # Ordering
///
/// It stands outside of every layer that makes spans; with tonic it is a layer of the server, not
/// of one service, which would lose its name. Work that goes on after the answer, such as a
/// body that is streamed, is outside of the call: [`InTrace`](crate::InTrace) keeps it in.
///
/// # Cancellation
///
/// Dropping the future drops the call.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::ExtractLayer;
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, service_fn};
///
/// let server = ServiceBuilder::new().layer(ExtractLayer::new()).service(service_fn(
///     |_request: Request<String>| async { Ok::<_, std::io::Error>(Response::new(String::new())) },
/// ));
/// # drop(server);
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "layers do nothing until applied to a service"]
pub struct ExtractLayer {
    baggage: bool,
}

/// A service whose calls belong to the trace of whoever calls; made by [`ExtractLayer`].
#[derive(Debug, Clone)]
pub struct Extract<S> {
    inner: S,
    baggage: bool,
}

pin_project! {
    /// The answer of an [`Extract`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ExtractFuture<F> {
        #[pin]
        inner: F,
        context: Option<Context>,
    }
}

// ===== impl ExtractLayer =====

impl ExtractLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self { baggage: true }
    }

    /// Says whether baggage is read.
    pub const fn baggage(mut self, is_read: bool) -> Self {
        self.baggage = is_read;
        self
    }
}

impl Default for ExtractLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ExtractLayer {
    type Service = Extract<S>;

    fn layer(&self, inner: S) -> Extract<S> {
        Extract { inner, baggage: self.baggage }
    }
}

// ===== impl Extract =====

impl<S> Extract<S> {
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

impl<S, B> Service<Request<B>> for Extract<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ExtractFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = extract(request.headers(), self.baggage);
        let _guard = context.clone().map(Context::attach);
        ExtractFuture { inner: self.inner.call(request), context }
    }
}

#[cfg(feature = "tonic")]
impl<S: tonic::server::NamedService> tonic::server::NamedService for Extract<S> {
    const NAME: &'static str = S::NAME;
}

impl<F: Future> Future for ExtractFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _guard = this.context.clone().map(Context::attach);
        this.inner.poll(cx)
    }
}

impl<F> fmt::Debug for ExtractFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtractFuture").finish_non_exhaustive()
    }
}

/// Reads the context of a call; nothing where the headers say nothing.
fn extract(headers: &HeaderMap, with_baggage: bool) -> Option<Context> {
    let mut context = None;
    if headers.contains_key(TRACEPARENT)
        && let Some(caller) = traceparent::read(headers)
    {
        context = Context::map_current(|current| below(current, caller));
    }
    if with_baggage && headers.contains_key(BAGGAGE) {
        let baggage = baggage::read(headers);
        if !baggage.is_empty() {
            let mut within = context.unwrap_or_else(Context::current);
            if let Some(scope) = Scope::read(&baggage) {
                let scope = Arc::new(scope).within(Scope::at(&within).as_deref());
                within = within.with_value(scope);
            }
            context = Some(within.with_baggage(baggage));
        }
    }
    context
}

/// Puts a context below the span that calls, unless it is in its trace already.
fn below(current: &Context, caller: SpanContext) -> Option<Context> {
    let is_there = current.span().span_context().trace_id() == caller.trace_id();
    (!is_there).then(|| current.with_remote_span_context(caller))
}
