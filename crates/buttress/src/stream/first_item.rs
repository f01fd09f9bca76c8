use std::{
    fmt,
    mem::ManuallyDrop,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::field::Empty;

use super::{
    course::Course,
    told::{self, Told},
};
use crate::{
    AnyError, BoxError, Classify, Error, ErrorKind, Failure, Outcome,
    classify::into_error,
    telemetry::{self, Labels, Telemetry},
};

/// Waits for the first item of a stream before it calls the answer a success.
///
/// Until then a failure is the call's own, so that a retry and a fallback further out act as if
/// there had been no stream. The item that was waited for comes out first. What fails after it ends
/// the stream with [`Interrupted`](ErrorKind::Interrupted), which nobody retries: whoever reads the
/// stream knows how much it has and what cut it.
///
/// # Defaults
///
/// - `classify`, `classify_items`: [`AnyError`], which takes every `Ok` as good
/// - a stream that ends before its first item is a failure; [`allow_empty`](Self::allow_empty)
///
/// # Ordering
///
/// Inside retry, breaker and fallback, and inside [`StreamTimeoutLayer`](super::StreamTimeoutLayer),
/// whose limit for the first item is then the call's. The stream must be `Unpin`, as a pinned box is.
///
/// # Cancellation
///
/// Dropping the call drops the stream. A stream that is dropped after an item is a success.
///
/// # Tracing
///
/// `streamed_call`, until the stream's end, with `items` and `first_item_seconds`; a stream that
/// fails is an ERROR.
///
/// # Errors
///
/// Those of the service, as an [`Error`]; before the first item [`Interrupted`] with 0 items where
/// the stream is empty; from the stream [`Interrupted`] with the cause as its source.
///
/// See the [module docs](super) for an example.
///
/// [`Interrupted`]: ErrorKind::Interrupted
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct FirstItemLayer<C = AnyError, I = AnyError> {
    rules: Rules<C, I>,
}

#[derive(Debug, Clone)]
struct Rules<C, I> {
    classify: C,
    classify_items: I,
    allows_empty: bool,
    labels: Labels,
}

/// A service whose answers have a first item; made by [`FirstItemLayer`].
#[derive(Debug, Clone)]
pub struct FirstItem<S, C = AnyError, I = AnyError> {
    inner: S,
    rules: Rules<C, I>,
}

pin_project! {
    /// The answer of a [`FirstItem`].
    pub struct FirstItemFuture<F, St, C, I> {
        #[pin]
        inner: F,
        // The stream whose first item is awaited.
        stream: Option<St>,
        course: Option<Course<Told>>,
        rules: Rules<C, I>,
    }
}

pin_project! {
    /// A stream whose first item is there; what cuts it is its last item.
    pub struct FirstItemStream<St, T, I> {
        first: Option<T>,
        // None once it has ended.
        #[pin]
        rest: Option<St>,
        classify_items: I,
        agent_id: Option<Arc<str>>,
        course: Course<Told>,
    }
}

// ===== impl FirstItemLayer =====

impl FirstItemLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        let labels = Labels { agent_id: None, metadata: None };
        let (classify, classify_items) = (AnyError, AnyError);
        Self { rules: Rules { classify, classify_items, allows_empty: false, labels } }
    }
}

impl Default for FirstItemLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, I> FirstItemLayer<C, I> {
    /// Sets what an error of the service means to layers further out.
    pub fn classify<D>(self, classify: D) -> FirstItemLayer<D, I> {
        let Rules { classify_items, allows_empty, labels, .. } = self.rules;
        FirstItemLayer { rules: Rules { classify, classify_items, allows_empty, labels } }
    }

    /// Sets which items are failures, and what an error of the stream means to layers further out.
    pub fn classify_items<J>(self, classify_items: J) -> FirstItemLayer<C, J> {
        let Rules { classify, allows_empty, labels, .. } = self.rules;
        FirstItemLayer { rules: Rules { classify, classify_items, allows_empty, labels } }
    }

    /// Takes a stream that ends before its first item as a success.
    pub const fn allow_empty(mut self) -> Self {
        self.rules.allows_empty = true;
        self
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

impl<S, C: Clone, I: Clone> Layer<S> for FirstItemLayer<C, I> {
    type Service = FirstItem<S, C, I>;

    fn layer(&self, inner: S) -> Self::Service {
        FirstItem { inner, rules: self.rules.clone() }
    }
}

// ===== impl FirstItem =====

impl<S, C, I> FirstItem<S, C, I> {
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

impl<S, Req, T, E, C, I> Service<Req> for FirstItem<S, C, I>
where
    S: Service<Req>,
    S::Response: Stream<Item = Result<T, E>> + Unpin,
    S::Error: Into<BoxError> + 'static,
    E: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
    I: Classify<T, E> + Clone,
{
    type Response = FirstItemStream<S::Response, T, I>;
    type Error = Error;
    type Future = FirstItemFuture<S::Future, S::Response, C, I>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Rules { classify, labels, .. } = &self.rules;
        let poll = self.inner.poll_ready(cx);
        poll.map_err(|error| into_error(classify, error).in_agent(labels.agent_id.as_ref()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let told = told::ask(open_span(&self.rules.labels));
        let scope = told.scope();
        let inner = ManuallyDrop::new(self.inner.call(request));
        scope.leave();
        let inner = ManuallyDrop::into_inner(inner);
        let course = Some(Course::new(told));
        FirstItemFuture { inner, stream: None, course, rules: self.rules.clone() }
    }
}

pub(super) fn open_span(labels: &Labels) -> Told {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::STREAM,
            agent_id = labels.agent_id(),
            metadata = labels.metadata(),
            items = Empty,
            first_item_seconds = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

// ===== impl FirstItemFuture =====

impl<F, St, T, E, E2, C, I> Future for FirstItemFuture<F, St, C, I>
where
    F: Future<Output = Result<St, E>>,
    St: Stream<Item = Result<T, E2>> + Unpin,
    E: Into<BoxError> + 'static,
    E2: Into<BoxError> + 'static,
    C: Classify<St, E>,
    I: Classify<T, E2> + Clone,
{
    type Output = Result<FirstItemStream<St, T, I>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let course = this.course.as_mut().expect("polled after completion");
        let agent = this.rules.labels.agent_id.as_ref();
        let stream = match this.stream {
            Some(stream) => stream,
            None => match ready!(course.run(|| this.inner.poll(cx))) {
                Ok(stream) => match this.rules.classify.classify(Ok(&stream)) {
                    // Layers further out see the answer itself: whether it is good they decide.
                    Outcome::Failure(failure) => {
                        told::end_answered(course.watcher(), &failure);
                        let course = this.course.take().expect("it is there");
                        let rest = FirstItemStream::new(None, Some(stream), this.rules, course);
                        return Poll::Ready(Ok(rest));
                    }
                    _ => this.stream.insert(stream),
                },
                Err(error) => {
                    let error = into_error(&this.rules.classify, error).in_agent(agent);
                    return Poll::Ready(Err(course.cut(error)));
                }
            },
        };
        let first = match ready!(course.run(|| Pin::new(&mut *stream).poll_next(cx))) {
            Some(Ok(item)) => match this.rules.classify_items.classify(Ok(&item)) {
                Outcome::Failure(failure) => Some(Err(of_an_item(failure))),
                _ => Some(Ok(item)),
            },
            Some(Err(error)) => Some(Err(into_error(&this.rules.classify_items, error))),
            None if this.rules.allows_empty => None,
            None => Some(Err(Error::new(ErrorKind::Interrupted { items: 0 }))),
        };
        let mut stream = this.stream.take();
        let first = match first {
            Some(Err(error)) => return Poll::Ready(Err(course.cut(error.in_agent(agent)))),
            Some(Ok(item)) => {
                told::first_item(course.watcher());
                Some(item)
            }
            None => {
                stream = None;
                course.end();
                None
            }
        };
        let course = this.course.take().expect("it is there");
        Poll::Ready(Ok(FirstItemStream::new(first, stream, this.rules, course)))
    }
}

/// Makes an error of an item that is a failure.
pub(crate) fn of_an_item(failure: Failure) -> Error {
    Error::new(ErrorKind::Service).with_failure(failure.clone()).with_source(failure)
}

impl<F: fmt::Debug, St, C, I> fmt::Debug for FirstItemFuture<F, St, C, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstItemFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// ===== impl FirstItemStream =====

impl<St, T, I: Clone> FirstItemStream<St, T, I> {
    fn new<C>(
        first: Option<T>,
        rest: Option<St>,
        rules: &Rules<C, I>,
        course: Course<Told>,
    ) -> Self {
        let (classify_items, labels) = (rules.classify_items.clone(), &rules.labels);
        Self { first, rest, classify_items, agent_id: labels.agent_id.clone(), course }
    }
}

impl<St, T, E, I> Stream for FirstItemStream<St, T, I>
where
    St: Stream<Item = Result<T, E>>,
    E: Into<BoxError> + 'static,
    I: Classify<T, E>,
{
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if let Some(item) = this.first.take() {
            this.course.pass();
            return Poll::Ready(Some(Ok(item)));
        }
        let Some(rest) = this.rest.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let error = match ready!(this.course.run(|| rest.poll_next(cx))) {
            Some(Ok(item)) => match this.classify_items.classify(Ok(&item)) {
                Outcome::Failure(failure) => of_an_item(failure),
                _ => {
                    this.course.pass();
                    return Poll::Ready(Some(Ok(item)));
                }
            },
            Some(Err(error)) => into_error(this.classify_items, error),
            None => {
                this.rest.set(None);
                this.course.end();
                return Poll::Ready(None);
            }
        };
        this.rest.set(None);
        Poll::Ready(Some(Err(this.course.cut(error.in_agent(this.agent_id.as_ref())))))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let first = usize::from(self.first.is_some());
        // What cuts it may come at any time, and is an item more.
        let most = |rest: &St| rest.size_hint().1.and_then(|most| most.checked_add(first + 1));
        (first, self.rest.as_ref().map_or(Some(first), most))
    }
}

impl<St, T, I> fmt::Debug for FirstItemStream<St, T, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The items are the completion.
        f.debug_struct("FirstItemStream")
            .field("items", &self.course.items())
            .finish_non_exhaustive()
    }
}
