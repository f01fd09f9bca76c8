use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{BoxError, Error, classify::error_of};

/// Answers an error with its status, so that nothing but answers leaves a gRPC server.
///
/// For a guarded service that is added to a `tonic` server, which takes services that cannot fail. A
/// call that fails is answered with headers alone, and a body that fails ends with trailers, whatever
/// layers around it made of it. See [`Error::to_grpc_status`] for the codes.
///
/// # Errors
///
/// None; an error of readiness is answered by the next call.
///
/// # Cancellation
///
/// A body that has failed is dropped before its trailers are returned.
///
/// # Examples
///
/// ```
/// use buttress::{CircuitBreakerLayer, grpc::GrpcStatusLayer};
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let breaker = CircuitBreakerLayer::new("analyst");
/// breaker.circuit().trip();
/// let server = ServiceBuilder::new().layer(GrpcStatusLayer::new()).layer(breaker).service_fn(
///     |_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(String::new())) },
/// );
/// let answer = server.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(answer.headers()["grpc-status"], "14");
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "layers do nothing until applied to a service"]
#[non_exhaustive]
pub struct GrpcStatusLayer;

/// A service that answers errors with their status; made by [`GrpcStatusLayer`].
#[derive(Debug)]
pub struct GrpcStatus<S> {
    inner: S,
    /// Of a service that could not be made ready.
    unready: Option<Error>,
}

pin_project! {
    /// A body that fails with trailers only; that of a call that failed is empty.
    pub struct StatusBody<B> {
        // None once it has ended.
        #[pin]
        inner: Option<B>,
    }
}

pin_project! {
    /// The answer of a [`GrpcStatus`].
    pub struct GrpcStatusFuture<F> {
        #[pin]
        inner: Option<F>,
        unready: Option<Error>,
    }
}

// ===== impl GrpcStatusLayer =====

impl GrpcStatusLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for GrpcStatusLayer {
    type Service = GrpcStatus<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcStatus { inner, unready: None }
    }
}

// ===== impl GrpcStatus =====

impl<S> GrpcStatus<S> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A clone has not been asked for readiness.
impl<S: Clone> Clone for GrpcStatus<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), unready: None }
    }
}

impl<S, Req, B> Service<Req> for GrpcStatus<S>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Into<BoxError> + 'static,
    B: Body,
    B::Error: Into<BoxError> + 'static,
{
    type Response = Response<StatusBody<B>>;
    type Error = Infallible;
    type Future = GrpcStatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.unready.is_none() {
            self.unready = ready!(self.inner.poll_ready(cx)).err().map(error_of);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self.unready.take() {
            None => GrpcStatusFuture { inner: Some(self.inner.call(request)), unready: None },
            unready => GrpcStatusFuture { inner: None, unready },
        }
    }
}

// ===== impl GrpcStatusFuture =====

impl<F, B, E> Future for GrpcStatusFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError> + 'static,
{
    type Output = Result<Response<StatusBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(cx)).map_err(error_of),
            None => Err(this.unready.take().expect("polled after completion")),
        };
        Poll::Ready(Ok(match result {
            Ok(response) => response.map(|body| StatusBody { inner: Some(body) }),
            Err(error) => error.to_grpc_status().into_http(),
        }))
    }
}

impl<F: fmt::Debug> fmt::Debug for GrpcStatusFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStatusFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// ===== impl StatusBody =====

impl<B> Body for StatusBody<B>
where
    B: Body,
    B::Error: Into<BoxError> + 'static,
{
    type Data = B::Data;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Infallible>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let error = match ready!(inner.poll_frame(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            ended => ended.and_then(Result::err),
        };
        this.inner.set(None);
        Poll::Ready(error.map(|error| Ok(Frame::trailers(trailers_of(&error_of(error))))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    // No `size_hint`: a server would make a length of an exact one, which a body that fails does not keep.
}

/// An empty body.
impl<B> Default for StatusBody<B> {
    fn default() -> Self {
        Self { inner: None }
    }
}

impl<B> fmt::Debug for StatusBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusBody").finish_non_exhaustive()
    }
}

fn trailers_of(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // What no header can hold is left out; the code comes first.
    drop(error.to_grpc_status().add_header(&mut trailers));
    trailers
}
