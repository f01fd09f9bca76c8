use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::{
    BoxError, Classify, Error, ErrorKind, Outcome,
    classify::into_error,
    sharded::Handle,
    telemetry::{
        self, Labels, Telemetry, describe, level, outcome, outcome_of, record_failure,
        record_status,
    },
    timer::poll_timer,
};

pin_project! {
    /// The answer of a [`Timeout`](super::Timeout).
    pub struct ResponseFuture<F, C> {
        // None once the time is over: the call is dropped before its caller hears of it.
        #[pin]
        inner: Option<F>,
        // Made at the first pending poll.
        #[pin]
        sleep: Option<Sleep>,
        after: Duration,
        classify: C,
        labels: Known,
        telemetry: Telemetry,
    }
}

/// The labels of the layer, where it has some: errors name the agent.
pub(super) type Known = Option<Handle<Labels>>;

// ===== impl ResponseFuture =====

impl<F, C> ResponseFuture<F, C> {
    #[inline(always)]
    pub(super) const fn new(
        inner: F,
        after: Duration,
        classify: C,
        labels: Known,
        telemetry: Telemetry,
    ) -> Self {
        Self { inner: Some(inner), sleep: None, after, classify, labels, telemetry }
    }
}

impl<F, Res, E, C> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
{
    type Output = Result<Res, Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        let scope = this.telemetry.scope();
        let poll = inner.poll(cx);
        scope.leave();
        match poll {
            Poll::Ready(Ok(response)) => {
                if !this.telemetry.is_off() {
                    end(this.telemetry, &this.classify.classify(Ok(&response)));
                }
                Poll::Ready(Ok(response))
            }
            Poll::Ready(Err(error)) => {
                let error = into_error(this.classify, error).in_agent(agent(this.labels));
                fail(this.telemetry, &error);
                Poll::Ready(Err(error))
            }
            Poll::Pending => self.wait(cx),
        }
    }
}

impl<F, C> ResponseFuture<F, C> {
    /// Waits for the limit while the call is pending.
    #[inline(never)]
    fn wait<Res>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Res, Error>> {
        let mut this = self.project();
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep(*this.after)));
        }
        let sleep = this.sleep.as_mut().as_pin_mut().expect("the timer was made above");
        ready!(poll_timer(sleep, cx));
        this.telemetry.in_scope(|| this.inner.set(None));
        Poll::Ready(Err(time_out(this.telemetry, *this.after, agent(this.labels))))
    }
}

impl<F: fmt::Debug, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

fn agent(labels: &Known) -> Option<&Arc<str>> {
    labels.as_ref().and_then(|labels| labels.agent_id.as_ref())
}

#[cold]
fn end(telemetry: &mut Telemetry, outcome: &Outcome) {
    match outcome {
        Outcome::Failure(failure) => telemetry.end(outcome_of(failure), |span| {
            record_failure(span, failure, failure);
        }),
        Outcome::Success | Outcome::Neutral => telemetry.end(outcome::SUCCESS, |_| ()),
    }
}

#[cold]
fn fail(telemetry: &mut Telemetry, error: &Error) {
    telemetry.end(outcome_of(error.failure()), |span| {
        record_failure(span, error.failure(), &describe(error));
    });
}

#[cold]
fn time_out(telemetry: &mut Telemetry, after: Duration, agent_id: Option<&Arc<str>>) -> Error {
    let error = Error::new(ErrorKind::timeout(after)).in_agent(agent_id);
    let seconds = after.as_secs_f64();
    telemetry.in_scope(|| {
        tracing::error!(target: telemetry::LOG_TARGET, "Agent timed out after {seconds}s");
    });
    telemetry.end(outcome::FAILURE, |span| {
        record_failure(span, error.failure(), &describe(&error));
        record_status(span, level::ERROR, format_args!("Agent timed out after {seconds}s"));
    });
    error
}
