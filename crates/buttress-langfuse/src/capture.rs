//! Input and output of an agent, on request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use serde::Serialize;
use serde_json::Value as Json;
use tower::{Layer, Service};

use crate::current::CurrentSpan;

/// Records what an agent is asked and what it answers as input and output of its span.
///
/// The span is that of the nearest agent around the call, and where there is none the innermost
/// span that is sent; so the layer stands around the agent itself, within
/// `AgentLayer` or any other layer of buttress. A text is sent as it is,
/// anything else as JSON; what cannot be written as JSON is left out. Length and secrets are
/// bounded by [`max_io_bytes`](crate::LangfuseBuilder::max_io_bytes) and
/// [`mask`](crate::LangfuseBuilder::mask).
///
/// Of several attempts the last answer stays. An answer that comes when the span has ended is not
/// recorded, and neither is an error, which the span tells anyway.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::CaptureIoLayer;
/// use tower::{ServiceBuilder, service_fn};
///
/// let agent = ServiceBuilder::new()
///     .layer(CaptureIoLayer::new())
///     .service(service_fn(|ticker: String| async move { Ok::<_, std::io::Error>(ticker) }));
/// # drop(agent);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "layers do nothing until applied to a service"]
pub struct CaptureIoLayer(());

/// A service whose requests and responses are recorded; made by [`CaptureIoLayer`].
#[derive(Debug, Clone)]
pub struct CaptureIo<S> {
    inner: S,
}

pin_project! {
    /// The answer of a [`CaptureIo`].
    #[derive(Debug)]
    pub struct CaptureIoFuture<F> {
        #[pin]
        inner: F,
        span: CurrentSpan,
    }
}

impl CaptureIoLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for CaptureIoLayer {
    type Service = CaptureIo<S>;

    fn layer(&self, inner: S) -> CaptureIo<S> {
        CaptureIo { inner }
    }
}

impl<S, Req> Service<Req> for CaptureIo<S>
where
    S: Service<Req>,
    S::Response: Serialize,
    Req: Serialize,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CaptureIoFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let span = CurrentSpan::agent();
        if span.is_there()
            && let Some(input) = json(&request)
        {
            span.input(input);
        }
        CaptureIoFuture { inner: self.inner.call(request), span }
    }
}

impl<F, Res, E> Future for CaptureIoFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    Res: Serialize,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if this.span.is_there()
            && let Ok(response) = &answer
            && let Some(output) = json(response)
        {
            this.span.output(output);
        }
        Poll::Ready(answer)
    }
}

fn json(value: &impl Serialize) -> Option<Json> {
    serde_json::to_value(value).ok()
}
