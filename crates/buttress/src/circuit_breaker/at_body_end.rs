use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    settle::Settle,
    watch::{Access, Held, Watch},
};
use crate::{
    BoxError, Classify, Error,
    classify::{ClassifyBody, ReadBody, error_of},
    stream::{Course, read_frame},
};

/// The circuit learns how a call went at the end of its HTTP body; made by
/// [`settle_at_body_end`](super::CircuitBreakerLayer::settle_at_body_end).
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct AtBodyEnd;

pin_project! {
    /// A body whose end a circuit waits for.
    pub struct SettlingBody<B, R> {
        // None once it has ended.
        #[pin]
        inner: Option<B>,
        reader: R,
        course: Course<Watch<Held>>,
    }
}

impl<B, E, C> Settle<Response<B>, E, C> for AtBodyEnd
where
    B: Body<Data = Bytes>,
    E: Into<BoxError> + 'static,
    C: Classify<Response<B>, E> + ClassifyBody,
{
    type Response = Response<SettlingBody<B, C::Reader>>;

    fn settle<A: Access>(
        &self,
        watch: &mut Watch<A>,
        classify: &C,
        result: Result<Response<B>, E>,
    ) -> Result<Self::Response, Error> {
        let (response, watch) = watch.hold(classify, result)?;
        let reader = classify.reader(response.status(), response.headers());
        Ok(response.map(|body| SettlingBody::new(body, reader, Course::new(watch))))
    }
}

// ===== impl SettlingBody =====

impl<B: Body, R: ReadBody> SettlingBody<B, R> {
    fn new(body: B, reader: R, course: Course<Watch<Held>>) -> Self {
        let is_over = body.is_end_stream();
        let mut settling = Self { inner: Some(body), reader, course };
        // Nobody asks for the frames of a body without any.
        if is_over {
            end(&mut settling.course, &settling.reader);
        }
        settling
    }
}

fn end<R: ReadBody>(course: &mut Course<Watch<Held>>, reader: &R) {
    match reader.end() {
        Some(failure) => course.note(&failure),
        None => course.end(),
    }
}

impl<B, R> Body for SettlingBody<B, R>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError> + 'static,
    R: ReadBody,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        match ready!(this.course.run(|| inner.as_mut().poll_frame(cx))) {
            Some(Ok(frame)) => {
                // As with an answer, what it is the caller decides: it is handed on.
                if !this.course.is_over()
                    && let Some((_, failure)) = read_frame(this.reader, &frame)
                {
                    this.course.note(&failure);
                }
                this.course.pass();
                // Nobody may ask for more.
                if inner.is_end_stream() {
                    end(this.course, this.reader);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let error = error_of(error);
                let agent_id = this.course.watcher().agent_id();
                let error = this.course.cut(error.in_agent(agent_id.as_ref()));
                this.inner.set(None);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.inner.set(None);
                end(this.course, this.reader);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Shows what the body shows, so that classifiers see a body that is there already.
impl<B: AsRef<[u8]>, R> AsRef<[u8]> for SettlingBody<B, R> {
    fn as_ref(&self) -> &[u8] {
        self.inner.as_ref().map_or(&[], AsRef::as_ref)
    }
}

impl<B, R> fmt::Debug for SettlingBody<B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettlingBody").field("frames", &self.course.items()).finish_non_exhaustive()
    }
}
