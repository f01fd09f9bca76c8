use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::{
    BoxError, Classify, Error, ErrorKind, Outcome,
    classify::into_error,
    telemetry::{
        self, Telemetry, describe, level, outcome, outcome_of, record_failure, record_status,
    },
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
        agent_id: Option<Arc<str>>,
        telemetry: Telemetry,
    }
}

// ===== impl ResponseFuture =====

impl<F, C> ResponseFuture<F, C> {
    pub(super) const fn new(
        inner: F,
        after: Duration,
        classify: C,
        agent_id: Option<Arc<str>>,
        telemetry: Telemetry,
    ) -> Self {
        Self { inner: Some(inner), sleep: None, after, classify, agent_id, telemetry }
    }
}

impl<F, Res, E, C> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
{
    type Output = Result<Res, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        if let Poll::Ready(result) = this.telemetry.in_scope(|| inner.poll(cx)) {
            return Poll::Ready(match result {
                Ok(response) => {
                    end(this.telemetry, || this.classify.classify(Ok(&response)));
                    Ok(response)
                }
                Err(error) => {
                    let error = into_error(this.classify, error).in_agent(this.agent_id.as_ref());
                    fail(this.telemetry, &error);
                    Err(error)
                }
            });
        }
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep(*this.after)));
        }
        let sleep = this.sleep.as_mut().as_pin_mut().expect("the timer was made above");
        if sleep.poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.telemetry.in_scope(|| this.inner.set(None));
        Poll::Ready(Err(time_out(this.telemetry, *this.after, this.agent_id.as_ref())))
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

fn end(telemetry: &mut Telemetry, classify: impl FnOnce() -> Outcome) {
    if telemetry.span().is_none() {
        return;
    }
    match classify() {
        Outcome::Failure(failure) => telemetry.end(outcome_of(&failure), |span| {
            record_failure(span, &failure, &failure);
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
    let error = Error::new(ErrorKind::Timeout { after }).in_agent(agent_id);
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
