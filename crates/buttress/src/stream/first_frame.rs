use std::{
    collections::VecDeque,
    fmt,
    mem::ManuallyDrop,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    course::Course,
    first_item::{of_an_item, open_span},
    told::{self, Told},
};
use crate::{
    AnyError, BoxError, Classify, Error, Failure, Outcome,
    classify::{ClassifyBody, ReadBody, error_of, into_error},
    telemetry::Labels,
};

/// How much of a body that has said nothing yet is kept back.
const LONGEST_PREAMBLE: usize = 64 * 1024;

/// Waits until an HTTP body has begun to answer before it calls the answer a success.
///
/// Until then a failure is the call's own, so that a retry and a fallback further out act as if
/// there had been no body. The frames that were waited for come out first. With
/// [`LlmClassifier`](crate::LlmClassifier) an answer begins with the first event that holds some of
/// it: comments, pings and the events that only announce it are waited through, up to 64 KiB, since
/// models fail behind them too. An error inside the stream, an event that is not JSON, and the missing
/// end of the stream are failures. What fails later ends the body with
/// [`Interrupted`](crate::ErrorKind::Interrupted), which nobody retries: the bytes before it are handed on.
///
/// # Defaults
///
/// - `classify`: [`AnyError`], which reads no bodies: the first frame with data, or the trailers, is
///   the beginning
/// - a body without any frame is a success if it ends as its head says
///
/// # Ordering
///
/// Inside retry, breaker and fallback, and inside [`BodyTimeoutLayer`](super::BodyTimeoutLayer), whose
/// limit for the first frame is then the call's; around [`ErrorBodyLayer`](crate::ErrorBodyLayer). The
/// body must be `Unpin`, as hyper's is, and its data `Bytes`.
///
/// # Cancellation
///
/// Dropping the call drops the body. A body that is dropped after a frame is a success. One that has
/// failed is dropped before its error is returned.
///
/// # Tracing
///
/// `streamed_call`, until the body's end, with `items` (frames) and `first_item_seconds`; a body that
/// fails is an ERROR.
///
/// # Errors
///
/// Those of the service and of the beginning of its body, as an [`Error`]; from the body
/// [`Interrupted`](crate::ErrorKind::Interrupted) with the cause as its source.
///
/// See the [module docs](super) for an example.
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct FirstFrameLayer<C = AnyError> {
    classify: C,
    labels: Labels,
}

/// A service whose bodies have begun; made by [`FirstFrameLayer`].
#[derive(Debug, Clone)]
pub struct FirstFrame<S, C = AnyError> {
    inner: S,
    classify: C,
    labels: Labels,
}

pin_project! {
    /// The answer of a [`FirstFrame`].
    pub struct FirstFrameFuture<F, B, C>
    where
        C: ClassifyBody,
    {
        #[pin]
        inner: F,
        // The answer whose beginning is awaited.
        response: Option<Response<ReadThrough<B, C::Reader>>>,
        start: Start,
        course: Option<Course<Told>>,
        classify: C,
        agent_id: Option<Arc<str>>,
    }
}

/// A body that has begun; what cuts it is its last frame.
pub struct BegunBody<B, R> {
    /// What was waited for.
    start: Start,
    rest: ReadThrough<B, R>,
    agent_id: Option<Arc<str>>,
    course: Course<Told>,
}

/// What was waited for: nearly always one frame, which takes no room of its own.
#[derive(Default)]
struct Start {
    first: Option<Frame<Bytes>>,
    others: VecDeque<Frame<Bytes>>,
    /// How many bytes of data they hold.
    bytes: usize,
}

/// A body that ends where its reader finds a failure.
struct ReadThrough<B, R> {
    /// None once it has ended.
    body: Option<B>,
    reader: R,
    /// What is behind the bytes that were good.
    error: Option<Error>,
}

// ===== impl FirstFrameLayer =====

impl FirstFrameLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self { classify: AnyError, labels: Labels { agent_id: None, metadata: None } }
    }
}

impl Default for FirstFrameLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> FirstFrameLayer<C> {
    /// Sets who reads the bodies, and what an error of the service means to layers further out.
    pub fn classify<D: ClassifyBody>(self, classify: D) -> FirstFrameLayer<D> {
        FirstFrameLayer { classify, labels: self.labels }
    }

    /// Sets the agent that spans and errors name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that the span carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.labels.metadata = Some(json.into());
        self
    }
}

impl<S, C: Clone> Layer<S> for FirstFrameLayer<C> {
    type Service = FirstFrame<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        FirstFrame { inner, classify: self.classify.clone(), labels: self.labels.clone() }
    }
}

// ===== impl FirstFrame =====

impl<S, C> FirstFrame<S, C> {
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

impl<S, Req, B, C> Service<Req> for FirstFrame<S, C>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Into<BoxError> + 'static,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError> + 'static,
    C: Classify<Response<B>, S::Error> + ClassifyBody + Clone,
{
    type Response = Response<BegunBody<B, C::Reader>>;
    type Error = Error;
    type Future = FirstFrameFuture<S::Future, B, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let poll = self.inner.poll_ready(cx);
        poll.map_err(|error| {
            into_error(&self.classify, error).in_agent(self.labels.agent_id.as_ref())
        })
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let told = told::ask(open_span(&self.labels));
        let scope = told.scope();
        let inner = ManuallyDrop::new(self.inner.call(request));
        scope.leave();
        FirstFrameFuture {
            inner: ManuallyDrop::into_inner(inner),
            response: None,
            start: Start::default(),
            course: Some(Course::new(told)),
            classify: self.classify.clone(),
            agent_id: self.labels.agent_id.clone(),
        }
    }
}

// ===== impl FirstFrameFuture =====

impl<F, B, E, C> Future for FirstFrameFuture<F, B, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError> + 'static,
    E: Into<BoxError> + 'static,
    C: Classify<Response<B>, E> + ClassifyBody,
{
    type Output = Result<Response<BegunBody<B, C::Reader>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let course = this.course.as_mut().expect("polled after completion");
        let agent = this.agent_id.as_ref();
        let mut begun = Ok(());
        match this.response {
            Some(response) => {
                begun = ready!(course.run(|| response.body_mut().poll_begin(this.start, cx)));
            }
            None => match ready!(course.run(|| this.inner.poll(cx))) {
                Ok(response) => {
                    let outcome = this.classify.classify(Ok(&response));
                    let reader = this.classify.reader(response.status(), response.headers());
                    let response = response.map(|body| ReadThrough::new(body, reader));
                    let response = this.response.insert(response);
                    match outcome {
                        // Layers further out judge the answer itself: nothing is waited for.
                        Outcome::Failure(failure) => told::end_answered(course.watcher(), &failure),
                        _ => {
                            let body = response.body_mut();
                            begun = ready!(course.run(|| body.poll_begin(this.start, cx)));
                        }
                    }
                }
                Err(error) => begun = Err(into_error(this.classify, error)),
            },
        }
        if let Err(error) = begun {
            *this.response = None;
            return Poll::Ready(Err(course.cut(error.in_agent(agent))));
        }
        if !this.start.is_empty() {
            told::first_item(course.watcher());
        }
        let (response, course) =
            this.response.take().zip(this.course.take()).expect("both are there");
        Poll::Ready(Ok(response.map(|rest| {
            let start = std::mem::take(this.start);
            BegunBody::new(start, rest, agent.cloned(), course)
        })))
    }
}

impl<F: fmt::Debug, B, C: ClassifyBody> fmt::Debug for FirstFrameFuture<F, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstFrameFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// ===== impl BegunBody =====

impl<B, R> BegunBody<B, R>
where
    B: Body<Data = Bytes> + Unpin,
    R: ReadBody,
{
    fn new(
        start: Start,
        rest: ReadThrough<B, R>,
        agent_id: Option<Arc<str>>,
        mut course: Course<Told>,
    ) -> Self {
        // Nobody asks for the frames of a body without any.
        if start.is_empty() && rest.is_end_stream() {
            course.end();
        }
        Self { start, rest, agent_id, course }
    }
}

impl<B, R> Body for BegunBody<B, R>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError> + 'static,
    R: ReadBody + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { start, rest, agent_id, course } = self.get_mut();
        let next = match start.pop() {
            Some(frame) => Some(Ok(frame)),
            None => ready!(course.run(|| rest.poll_frame(cx))),
        };
        match &next {
            Some(Ok(_)) => {
                course.pass();
                // Nobody may ask for more.
                if start.is_empty() && rest.is_end_stream() {
                    course.end();
                }
            }
            Some(Err(_)) => {}
            None => course.end(),
        }
        Poll::Ready(
            next.map(|frame| frame.map_err(|error| course.cut(error.in_agent(agent_id.as_ref())))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.start.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let start = self.start.bytes as u64;
        let rest = self.rest.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(start));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(start)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// Shows what the body shows, so that classifiers see a body that is there already.
impl<B: AsRef<[u8]>, R> AsRef<[u8]> for BegunBody<B, R> {
    fn as_ref(&self) -> &[u8] {
        self.rest.body.as_ref().map_or(&[], AsRef::as_ref)
    }
}

impl<B, R> fmt::Debug for BegunBody<B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BegunBody").field("frames", &self.course.items()).finish_non_exhaustive()
    }
}

// ===== impl Start =====

impl Start {
    fn push(&mut self, frame: Frame<Bytes>) {
        self.bytes += bytes_of(&frame);
        if self.is_empty() {
            self.first = Some(frame);
        } else {
            self.others.push_back(frame);
        }
    }

    fn pop(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.first.take().or_else(|| self.others.pop_front())?;
        self.bytes -= bytes_of(&frame);
        Some(frame)
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }
}

fn bytes_of(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

// ===== impl ReadThrough =====

impl<B, R> ReadThrough<B, R> {
    const fn new(body: B, reader: R) -> Self {
        Self { body: Some(body), reader, error: None }
    }
}

impl<B, R> ReadThrough<B, R>
where
    B: Body<Data = Bytes> + Unpin,
    R: ReadBody,
{
    fn is_end_stream(&self) -> bool {
        // A failure at the end is still to be told.
        let is_over = |body: &B| body.is_end_stream() && self.reader.end().is_none();
        self.error.is_none() && self.body.as_ref().is_none_or(is_over)
    }
}

impl<B, R> ReadThrough<B, R>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError> + 'static,
    R: ReadBody,
{
    /// Waits until the body has begun to answer, and keeps what comes till then in `start`.
    fn poll_begin(&mut self, start: &mut Start, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match ready!(self.poll_frame(cx)) {
                // One without data says nothing, and there may be any number of them.
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => continue,
                Some(Ok(frame)) => start.push(frame),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
            if self.reader.has_begun() || start.bytes >= LONGEST_PREAMBLE {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Returns the next frame, as far as it is good.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => match read_frame(&mut self.reader, &frame) {
                None => return Poll::Ready(Some(Ok(frame))),
                Some((0, failure)) => Some(Err(of_an_item(failure))),
                Some((good, failure)) => {
                    self.error = Some(of_an_item(failure));
                    Some(Ok(frame.map_data(|data| data.slice(..good.min(data.len())))))
                }
            },
            Some(Err(error)) => Some(Err(error_of(error))),
            None => self.reader.end().map(|failure| Err(of_an_item(failure))),
        };
        self.body = None;
        Poll::Ready(next)
    }
}

/// Shows a frame to a reader; returns the failure in it, and how many bytes before it are good.
pub(crate) fn read_frame<R: ReadBody>(
    reader: &mut R,
    frame: &Frame<Bytes>,
) -> Option<(usize, Failure)> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => reader.data(data),
        (None, Some(trailers)) => reader.trailers(trailers).map(|failure| (0, failure)),
        (None, None) => None,
    }
}
