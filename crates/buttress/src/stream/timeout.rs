use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Layer, Service};

use super::{
    first_item::of_an_item,
    limits::{Limits, checked},
    timed_call::{TimedCall, Way},
};
use crate::{
    AnyError, BoxError, Classify, Error, Outcome, TimeLimit, classify::into_error,
    telemetry::Labels,
};

/// Cuts a stream that takes too long: until its first item, between two items, or in all.
///
/// A model that thinks before it speaks needs another limit than one that has stopped in the middle
/// of a sentence, and a total that fits both would catch neither.
///
/// The times start at the first poll that is pending: of the call, or of the stream after an item.
/// A reader that takes its time is not counted, but by `total`, which cuts at the first item after it,
/// also one that nobody had to wait for.
///
/// # Defaults
///
/// - `first_item`: 30 s; `idle`: 30 s; `total`: none
/// - `classify`, `classify_items`: [`AnyError`]
///
/// # Ordering
///
/// Around [`FirstItemLayer`](super::FirstItemLayer): its call ends with the first item, so one that is
/// missing is a failure of the call. A [`TimeoutLayer`](crate::TimeoutLayer) ends with the answer,
/// before the stream begins. The stream holds its timer in place, so it has to be pinned to be read.
///
/// # Cancellation
///
/// A stream that runs out of time is dropped before its error is returned.
///
/// # Tracing
///
/// `timeout_protected_call`, until the stream's end, with the longest limit as `timeout_seconds`; a
/// limit that runs out is an ERROR, "Agent timed out after 30s".
///
/// # Errors
///
/// [`Timeout`](crate::ErrorKind::Timeout) with the limit before the first item, and afterwards as
/// the source of [`Interrupted`](crate::ErrorKind::Interrupted), which is the stream's last item;
/// those of the service and its stream, as an [`Error`].
///
/// See the [module docs](super) for an example.
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct StreamTimeoutLayer<C = AnyError, I = AnyError> {
    rules: Rules<C, I>,
}

#[derive(Debug, Clone)]
struct Rules<C, I> {
    limits: Limits,
    classify: C,
    classify_items: I,
    labels: Labels,
}

/// A service whose streams are cut when they take too long; made by [`StreamTimeoutLayer`].
#[derive(Debug, Clone)]
pub struct StreamTimeout<S, C = AnyError, I = AnyError> {
    inner: S,
    rules: Rules<C, I>,
}

pin_project! {
    /// The answer of a [`StreamTimeout`].
    pub struct StreamTimeoutFuture<F, C, I> {
        #[pin]
        call: TimedCall<F, C>,
        classify_items: I,
    }
}

pin_project! {
    /// A stream that is cut when it takes too long; what cuts it is its last item.
    pub struct TimedStream<St, I> {
        // None once it has ended.
        #[pin]
        inner: Option<St>,
        #[pin]
        sleep: Option<Sleep>,
        classify_items: I,
        way: Way,
    }
}

// ===== impl StreamTimeoutLayer =====

impl StreamTimeoutLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        let usual = Some(Duration::from_secs(30));
        let limits = Limits { first: usual, idle: usual, total: None };
        let labels = Labels { agent_id: None, metadata: None };
        let (classify, classify_items) = (AnyError, AnyError);
        Self { rules: Rules { limits, classify, classify_items, labels } }
    }
}

impl Default for StreamTimeoutLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, I> StreamTimeoutLayer<C, I> {
    /// Sets the time from the call to the first item; [`Duration::MAX`] is no limit.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn first_item(mut self, time: Duration) -> Self {
        self.rules.limits.first = checked(time, TimeLimit::FirstItem);
        self
    }

    /// Sets the time from one item to the next; [`Duration::MAX`] is no limit.
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
    pub fn classify<D>(self, classify: D) -> StreamTimeoutLayer<D, I> {
        let Rules { limits, classify_items, labels, .. } = self.rules;
        StreamTimeoutLayer { rules: Rules { limits, classify, classify_items, labels } }
    }

    /// Sets which items are failures, and what an error of the stream means to layers further out.
    pub fn classify_items<J>(self, classify_items: J) -> StreamTimeoutLayer<C, J> {
        let Rules { limits, classify, labels, .. } = self.rules;
        StreamTimeoutLayer { rules: Rules { limits, classify, classify_items, labels } }
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

impl<S, C: Clone, I: Clone> Layer<S> for StreamTimeoutLayer<C, I> {
    type Service = StreamTimeout<S, C, I>;

    fn layer(&self, inner: S) -> Self::Service {
        StreamTimeout { inner, rules: self.rules.clone() }
    }
}

// ===== impl StreamTimeout =====

impl<S, C, I> StreamTimeout<S, C, I> {
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

impl<S, Req, T, E, C, I> Service<Req> for StreamTimeout<S, C, I>
where
    S: Service<Req>,
    S::Response: Stream<Item = Result<T, E>>,
    S::Error: Into<BoxError> + 'static,
    E: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
    I: Classify<T, E> + Clone,
{
    type Response = TimedStream<S::Response, I>;
    type Error = Error;
    type Future = StreamTimeoutFuture<S::Future, C, I>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Rules { classify, labels, .. } = &self.rules;
        let poll = self.inner.poll_ready(cx);
        poll.map_err(|error| into_error(classify, error).in_agent(labels.agent_id.as_ref()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let Rules { limits, classify, classify_items, labels } = &self.rules;
        let call = TimedCall::new(*limits, classify.clone(), labels, || self.inner.call(request));
        StreamTimeoutFuture { call, classify_items: classify_items.clone() }
    }
}

// ===== impl StreamTimeoutFuture =====

impl<F, St, E, C, I> Future for StreamTimeoutFuture<F, C, I>
where
    F: Future<Output = Result<St, E>>,
    E: Into<BoxError> + 'static,
    C: Classify<St, E>,
    I: Clone,
{
    type Output = Result<TimedStream<St, I>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (stream, way) = ready!(this.call.poll_answer(cx))?;
        let classify_items = this.classify_items.clone();
        Poll::Ready(Ok(TimedStream { inner: Some(stream), sleep: None, classify_items, way }))
    }
}

impl<F: fmt::Debug, C, I> fmt::Debug for StreamTimeoutFuture<F, C, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamTimeoutFuture").field("call", &self.call).finish_non_exhaustive()
    }
}

// ===== impl TimedStream =====

impl<St, T, E, I> Stream for TimedStream<St, I>
where
    St: Stream<Item = Result<T, E>>,
    E: Into<BoxError> + 'static,
    I: Classify<T, E>,
{
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let error = match this.way.course.run(|| inner.poll_next(cx)) {
            Poll::Ready(Some(Ok(item))) => match this.classify_items.classify(Ok(&item)) {
                Outcome::Failure(failure) => of_an_item(failure),
                _ => match this.way.pass() {
                    Ok(()) => return Poll::Ready(Some(Ok(item))),
                    Err(error) => error,
                },
            },
            Poll::Ready(Some(Err(error))) => into_error(this.classify_items, error),
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

    fn size_hint(&self) -> (usize, Option<usize>) {
        // What cuts it may come at any time, and is an item more.
        let most = |inner: &St| inner.size_hint().1.and_then(|most| most.checked_add(1));
        (0, self.inner.as_ref().map_or(Some(0), most))
    }
}

impl<St, I> fmt::Debug for TimedStream<St, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedStream")
            .field("items", &self.way.course.items())
            .finish_non_exhaustive()
    }
}
