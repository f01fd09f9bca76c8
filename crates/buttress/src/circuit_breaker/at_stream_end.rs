use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use pin_project_lite::pin_project;

use super::{
    settle::Settle,
    watch::{Access, Held, Watch},
};
use crate::{AnyError, BoxError, Classify, Error, Outcome, classify::into_error, stream::Course};

/// The circuit learns how a call went at the end of its stream; made by
/// [`settle_at_stream_end`](super::CircuitBreakerLayer::settle_at_stream_end).
#[derive(Debug, Clone, Copy, Default)]
pub struct AtStreamEnd<I = AnyError> {
    pub(super) classify_items: I,
}

pin_project! {
    /// A stream whose end a circuit waits for.
    pub struct SettlingStream<St, I> {
        // None once it has ended.
        #[pin]
        inner: Option<St>,
        classify_items: I,
        course: Course<Watch<Held>>,
    }
}

impl<St, T, E, E2, C, I> Settle<St, E, C> for AtStreamEnd<I>
where
    St: Stream<Item = Result<T, E2>>,
    E: Into<BoxError> + 'static,
    E2: Into<BoxError> + 'static,
    C: Classify<St, E>,
    I: Classify<T, E2> + Clone,
{
    type Response = SettlingStream<St, I>;

    fn settle<A: Access>(
        &self,
        watch: &mut Watch<A>,
        classify: &C,
        result: Result<St, E>,
    ) -> Result<Self::Response, Error> {
        let (stream, watch) = watch.hold(classify, result)?;
        let classify_items = self.classify_items.clone();
        Ok(SettlingStream { inner: Some(stream), classify_items, course: Course::new(watch) })
    }
}

// ===== impl SettlingStream =====

impl<St, T, E, I> Stream for SettlingStream<St, I>
where
    St: Stream<Item = Result<T, E>>,
    E: Into<BoxError> + 'static,
    I: Classify<T, E>,
{
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        match ready!(this.course.run(|| inner.poll_next(cx))) {
            Some(Ok(item)) => {
                // As with an answer, what it is the caller decides: it is handed on.
                if !this.course.is_over()
                    && let Outcome::Failure(failure) = this.classify_items.classify(Ok(&item))
                {
                    this.course.note(&failure);
                }
                this.course.pass();
                Poll::Ready(Some(Ok(item)))
            }
            Some(Err(error)) => {
                let error = into_error(this.classify_items, error);
                let agent_id = this.course.watcher().agent_id();
                let error = this.course.cut(error.in_agent(agent_id.as_ref()));
                this.inner.set(None);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.inner.set(None);
                this.course.end();
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.as_ref().map_or((0, Some(0)), |inner| (0, inner.size_hint().1))
    }
}

impl<St, I> fmt::Debug for SettlingStream<St, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettlingStream")
            .field("items", &self.course.items())
            .finish_non_exhaustive()
    }
}
