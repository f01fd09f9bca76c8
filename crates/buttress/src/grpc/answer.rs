use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::Error;

/// Answers an error with its status, so that nothing but answers leaves a gRPC server.
///
/// For a guarded service that is added to a `tonic` server, which takes services that cannot fail. See
/// [`Error::to_grpc_status`] for the codes.
///
/// # Errors
///
/// None; an error of readiness is answered by the next call.
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
    S: Service<Req, Response = Response<B>, Error = Error>,
    B: Default,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = GrpcStatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.unready.is_none() {
            self.unready = ready!(self.inner.poll_ready(cx)).err();
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

impl<F, B> Future for GrpcStatusFuture<F>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: Default,
{
    type Output = Result<Response<B>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(cx)),
            None => Err(this.unready.take().expect("polled after completion")),
        };
        Poll::Ready(Ok(result.unwrap_or_else(|error| error.to_grpc_status().into_http())))
    }
}

impl<F: fmt::Debug> fmt::Debug for GrpcStatusFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStatusFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}
