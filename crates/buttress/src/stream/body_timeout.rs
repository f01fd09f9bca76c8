use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Layer, Service};

use super::{
    limits::{Limits, checked},
    timed_call::{TimedCall, Way},
};
use crate::{
    AnyError, BoxError, Classify, Error, TimeLimit,
    classify::{error_of, into_error},
    telemetry::Labels,
};

/// Cuts an HTTP body that takes too long: until its first frame, between two frames, or in all.
///
/// The same as [`StreamTimeoutLayer`](super::StreamTimeoutLayer) for `http::Response<B>`: frames are
/// its items, and trailers are one. The times start at the first poll that is pending: of the call,
/// or of the body after a frame. A reader that takes its time is not counted, but by `total`.
///
/// # Defaults
///
/// - `first_frame`: 30 s; `idle`: 30 s; `total`: none
/// - `classify`: [`AnyError`]
///
/// # Ordering
///
/// Around [`FirstFrameLayer`](super::FirstFrameLayer): its call ends when the body begins, so one that
/// does not is a failure of the call. The body holds its timer in place, so it has to be pinned to be
/// read.
///
/// # Cancellation
///
/// A body that runs out of time is dropped before its error is returned.
///
/// # Tracing
///
/// `timeout_protected_call`, until the body's end, with the longest limit as `timeout_seconds`; a
/// limit that runs out is an ERROR, "Agent timed out after 30s".
///
/// # Errors
///
/// [`Timeout`](crate::ErrorKind::Timeout) with the limit before the first frame, and afterwards as
/// the source of [`Interrupted`](crate::ErrorKind::Interrupted); those of the service and of its
/// body, as an [`Error`].
///
/// See the [module docs](super) for an example.
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct BodyTimeoutLayer<C = AnyError> {
    rules: Rules<C>,
}

#[derive(Debug, Clone)]
struct Rules<C> {
    limits: Limits,
    classify: C,
    labels: Labels,
}

/// A service whose bodies are cut when they take too long; made by [`BodyTimeoutLayer`].
#[derive(Debug, Clone)]
pub struct BodyTimeout<S, C = AnyError> {
    inner: S,
    rules: Rules<C>,
}

pin_project! {
    /// The answer of a [`BodyTimeout`].
    pub struct BodyTimeoutFuture<F, C> {
        #[pin]
        call: TimedCall<F, C>,
    }
}

pin_project! {
    /// A body that is cut when it takes too long.
    pub struct TimedBody<B> {
        // None once it has ended.
        #[pin]
        inner: Option<B>,
        #[pin]
        sleep: Option<Sleep>,
        way: Way,
    }
}

// ===== impl BodyTimeoutLayer =====

impl BodyTimeoutLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        let usual = Some(Duration::from_secs(30));
        let limits = Limits { first: usual, idle: usual, total: None };
        let labels = Labels { agent_id: None, metadata: None };
        Self { rules: Rules { limits, classify: AnyError, labels } }
    }
}

impl Default for BodyTimeoutLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> BodyTimeoutLayer<C> {
    /// Sets the time from the call to the first frame; [`Duration::MAX`] is no limit.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn first_frame(mut self, time: Duration) -> Self {
        self.rules.limits.first = checked(time, TimeLimit::FirstItem);
        self
    }

    /// Sets the time from one frame to the next; [`Duration::MAX`] is no limit.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn idle(mut self, time: Duration) -> Self {
        self.rules.limits.idle = checked(time, TimeLimit::Idle);
        self
    }

    /// Sets the time from the call to the end; [`Duration::MAX`] is no limit.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn total(mut self, time: Duration) -> Self {
        self.rules.limits.total = checked(time, TimeLimit::Total);
        self
    }

    /// Sets what an error of the service means to layers further out.
    pub fn classify<D>(self, classify: D) -> BodyTimeoutLayer<D> {
        let Rules { limits, labels, .. } = self.rules;
        BodyTimeoutLayer { rules: Rules { limits, classify, labels } }
    }

    /// Sets the agent that spans and errors name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.rules.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that the span carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.rules.labels.metadata = Some(json.into());
        self
    }
}

impl<S, C: Clone> Layer<S> for BodyTimeoutLayer<C> {
    type Service = BodyTimeout<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        BodyTimeout { inner, rules: self.rules.clone() }
    }
}

// ===== impl BodyTimeout =====

impl<S, C> BodyTimeout<S, C> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the limits.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, Req, B, C> Service<Req> for BodyTimeout<S, C>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Into<BoxError> + 'static,
    B: Body,
    B::Error: Into<BoxError> + 'static,
    C: Classify<Response<B>, S::Error> + Clone,
{
    type Response = Response<TimedBody<B>>;
    type Error = Error;
    type Future = BodyTimeoutFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Rules { classify, labels, .. } = &self.rules;
        let poll = self.inner.poll_ready(cx);
        poll.map_err(|error| into_error(classify, error).in_agent(labels.agent_id.as_ref()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Rules { limits, classify, labels } = &self.rules;
        let call = TimedCall::new(*limits, classify.clone(), labels, || self.inner.call(request));
        BodyTimeoutFuture { call }
    }
}

// ===== impl BodyTimeoutFuture =====

impl<F, B, E, C> Future for BodyTimeoutFuture<F, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    E: Into<BoxError> + 'static,
    C: Classify<Response<B>, E>,
{
    type Output = Result<Response<TimedBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (response, mut way) = ready!(self.project().call.poll_answer(cx))?;
        Poll::Ready(Ok(response.map(|body| {
            // Nobody asks for the frames of a body without any.
            if body.is_end_stream() {
                way.course.end();
            }
            TimedBody { inner: Some(body), sleep: None, way }
        })))
    }
}

impl<F: fmt::Debug, C> fmt::Debug for BodyTimeoutFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyTimeoutFuture").field("call", &self.call).finish_non_exhaustive()
    }
}

// ===== impl TimedBody =====

impl<B> Body for TimedBody<B>
where
    B: Body,
    B::Error: Into<BoxError> + 'static,
{
    type Data = B::Data;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Error>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let error = match this.way.course.run(|| inner.as_mut().poll_frame(cx)) {
            Poll::Ready(Some(Ok(frame))) => {
                let passed = this.way.pass();
                // Nobody may ask for more.
                if passed.is_ok() && inner.is_end_stream() {
                    this.way.course.end();
                }
                match passed {
                    Ok(()) => return Poll::Ready(Some(Ok(frame))),
                    Err(error) => error,
                }
            }
            Poll::Ready(Some(Err(error))) => error_of(error),
            Poll::Ready(None) => {
                this.inner.set(None);
                this.way.course.end();
                return Poll::Ready(None);
            }
            Poll::Pending => ready!(this.way.poll_limit(this.sleep, cx)),
        };
        this.way.course.run(|| this.inner.set(None));
        Poll::Ready(Some(Err(this.way.cut(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Shows what the body shows, so that classifiers see a body that is there already.
impl<B: AsRef<[u8]>> AsRef<[u8]> for TimedBody<B> {
    fn as_ref(&self) -> &[u8] {
        self.inner.as_ref().map_or(&[], AsRef::as_ref)
    }
}

impl<B> fmt::Debug for TimedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedBody")
            .field("frames", &self.way.course.items())
            .finish_non_exhaustive()
    }
}
