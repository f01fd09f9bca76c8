use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

use super::Settings;
use crate::{
    BoxError, Classify, Error, Failure, Outcome,
    classify::into_error,
    sharded::Handle,
    telemetry::{
        self, Telemetry, describe, level, outcome, outcome_of, record_failure, record_status,
    },
};

pin_project! {
    /// The answer of an [`Agent`](super::Agent).
    pub struct ResponseFuture<F, C> {
        #[pin]
        inner: F,
        telemetry: Telemetry,
        settings: Handle<Arc<Settings>>,
        classify: C,
    }
}

// ===== impl ResponseFuture =====

impl<F, C> ResponseFuture<F, C> {
    #[inline(always)]
    pub(super) const fn new(
        inner: F,
        telemetry: Telemetry,
        settings: Handle<Arc<Settings>>,
        classify: C,
    ) -> Self {
        Self { inner, telemetry, settings, classify }
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
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let scope = this.telemetry.scope();
        let poll = this.inner.poll(cx);
        scope.leave();
        match ready!(poll) {
            Ok(response) => {
                if this.telemetry.span().is_some() {
                    match this.classify.classify(Ok(&response)) {
                        Outcome::Failure(failure) => {
                            fail(this.telemetry, this.settings, &failure, &failure);
                        }
                        Outcome::Success | Outcome::Neutral => succeed(this.telemetry),
                    }
                }
                Poll::Ready(Ok(response))
            }
            Err(error) => {
                let error = into_error(this.classify, error).in_agent(Some(&this.settings.id));
                fail(this.telemetry, this.settings, error.failure(), &describe(&error));
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F: fmt::Debug, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn succeed(telemetry: &mut Telemetry) {
    telemetry.end(outcome::SUCCESS, |span| {
        span.record("success", true);
    });
}

#[cold]
fn fail(
    telemetry: &mut Telemetry,
    settings: &Settings,
    failure: &Failure,
    error: &dyn fmt::Display,
) {
    let id = &settings.id;
    telemetry.in_scope(|| {
        tracing::error!(
            target: telemetry::LOG_TARGET,
            "Agent {id} failed after all fault tolerance attempts"
        );
    });
    telemetry.end(outcome_of(failure), |span| {
        span.record("success", false);
        record_failure(span, failure, error);
        record_status(
            span,
            level::ERROR,
            format_args!("Agent {id} failed after all fault tolerance attempts"),
        );
    });
}
