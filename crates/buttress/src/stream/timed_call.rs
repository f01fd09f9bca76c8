//! A call under limits whose answer goes on, and what goes along with that answer: the same for streams
//! and for bodies.

use std::{
    fmt,
    mem::ManuallyDrop,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tracing::field::Empty;

use super::{
    course::{Course, Watcher},
    limits::{Limits, Watch},
};
use crate::{
    BoxError, Classify, Error, ErrorKind, Failure, Outcome, TimeLimit,
    classify::into_error,
    telemetry::{
        self, Labels, Telemetry, level, outcome, outcome_of, record_failure, record_status,
    },
};

pin_project! {
    /// A call until its answer.
    pub(super) struct TimedCall<F, C> {
        // None once the time is over.
        #[pin]
        inner: Option<F>,
        #[pin]
        sleep: Option<Sleep>,
        classify: C,
        // Goes along with the answer.
        way: Option<Way>,
    }
}

/// What goes along with an answer until its end.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) course: Course<Timed>,
    watch: Watch,
    agent_id: Option<Arc<str>>,
}

/// Tells of a stream in the span `timeout_protected_call`.
#[derive(Debug)]
pub(super) struct Timed(Telemetry);

// ===== impl TimedCall =====

impl<F, C> TimedCall<F, C> {
    pub(super) fn new(
        limits: Limits,
        classify: C,
        labels: &Labels,
        call: impl FnOnce() -> F,
    ) -> Self {
        let timed = Timed::open(labels, limits);
        let scope = timed.0.scope();
        let inner = ManuallyDrop::new(call());
        scope.leave();
        let inner = Some(ManuallyDrop::into_inner(inner));
        let (course, watch) = (Course::new(timed), Watch::new(limits));
        let way = Some(Way { course, watch, agent_id: labels.agent_id.clone() });
        Self { inner, sleep: None, classify, way }
    }

    /// Waits for the answer, as long as it may take.
    pub(super) fn poll_answer<Res, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Res, Way), Error>>
    where
        F: Future<Output = Result<Res, E>>,
        E: Into<BoxError> + 'static,
        C: Classify<Res, E>,
    {
        let mut this = self.project();
        let way = this.way.as_mut().expect("polled after completion");
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        let error = match way.course.run(|| inner.poll(cx)) {
            Poll::Ready(Ok(answer)) => {
                // A failed answer is an answer: it is timed, and what it is its reader decides.
                if let Outcome::Failure(failure) = this.classify.classify(Ok(&answer)) {
                    way.course.watcher().end_answered(&failure);
                }
                let way = this.way.take().expect("it is there");
                return Poll::Ready(Ok((answer, way)));
            }
            Poll::Ready(Err(error)) => into_error(this.classify, error),
            Poll::Pending => match way.poll_limit(this.sleep, cx) {
                Poll::Ready(error) => {
                    way.course.run(|| this.inner.set(None));
                    error
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(Err(way.cut(error)))
    }
}

impl<F: fmt::Debug, C> fmt::Debug for TimedCall<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedCall").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// ===== impl Way =====

impl Way {
    /// Notes that an item is handed on; returns the limit that ran out instead, as an error.
    pub(super) fn pass(&mut self) -> Result<(), Error> {
        if let Some(limit) = self.watch.item() {
            return Err(self.course.watcher().time_out(limit));
        }
        self.course.pass();
        Ok(())
    }

    /// Returns the limit that ran out as an error, while nothing comes.
    pub(super) fn poll_limit(
        &mut self,
        sleep: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<Error> {
        self.watch.poll_limit(sleep, cx).map(|limit| self.course.watcher().time_out(limit))
    }

    /// Notes what cuts it; returns it as its error.
    pub(super) fn cut(&mut self, error: Error) -> Error {
        self.course.cut(error.in_agent(self.agent_id.as_ref()))
    }
}

// ===== impl Timed =====

impl Timed {
    fn open(labels: &Labels, limits: Limits) -> Self {
        Self(Telemetry::open(|| {
            tracing::info_span!(
                target: telemetry::TARGET,
                telemetry::span::TIMEOUT,
                agent_id = labels.agent_id(),
                metadata = labels.metadata(),
                timeout_seconds = limits.longest().map(|limit| limit.as_secs_f64()),
                outcome = Empty,
                failure_kind = Empty,
                error = Empty,
                error_type = Empty,
                level = Empty,
                status_message = Empty,
            )
        }))
    }

    /// Notes the limit that ran out; returns it as an error.
    fn time_out(&mut self, (limit, after): (TimeLimit, Duration)) -> Error {
        let seconds = after.as_secs_f64();
        self.0.in_scope(|| {
            tracing::error!(target: telemetry::LOG_TARGET, "Agent timed out after {seconds}s");
        });
        if let Some(span) = self.0.span() {
            record_status(span, level::ERROR, format_args!("Agent timed out after {seconds}s"));
        }
        Error::new(ErrorKind::Timeout { after, limit })
    }

    /// Ends the span of an answer that is a failure by itself.
    fn end_answered(&mut self, failure: &Failure) {
        self.0.end(outcome_of(failure), |span| record_failure(span, failure, failure));
    }
}

impl Watcher for Timed {
    fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        self.0.in_scope(poll)
    }

    fn succeed(&mut self, _: u64) {
        self.0.end(outcome::SUCCESS, |_| ());
    }

    fn fail(&mut self, _: u64, failure: &Failure, error: &dyn fmt::Display) {
        self.0.end(outcome_of(failure), |span| record_failure(span, failure, error));
    }
}
