//! From task to task.

use std::{
    fmt,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use opentelemetry::Context;
use pin_project_lite::pin_project;
use tokio::task::JoinHandle;
use tracing::{Instrument as _, instrument::Instrumented};

/// Spawns a task that belongs to the trace of the code which spawns it.
///
/// The span that is current is the parent of the spans that start in the task, and what
/// [`Propagate`](crate::Propagate) says here holds there. The task may live longer than the span.
///
/// # Panics
///
/// Panics outside of a runtime, as [`tokio::spawn`] does.
///
/// # Examples
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let task = buttress_langfuse::spawn(async { 6 * 7 });
/// assert_eq!(task.await.unwrap(), 42);
/// # });
/// ```
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.in_trace())
}

/// Keeps a future in the trace in which it is made, wherever it runs.
///
/// For whatever spawns in its own way; [`spawn`] does it for tokio.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::InTrace as _;
/// use tokio::task::JoinSet;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let mut analysts = JoinSet::new();
/// for ticker in ["AAPL", "MSFT"] {
///     analysts.spawn(async move { ticker.len() }.in_trace());
/// }
/// assert_eq!(analysts.join_all().await, [4, 4]);
/// # });
/// ```
pub trait InTrace: Future + Sized {
    /// Runs the future below the span that is current now, and in the scopes around it.
    fn in_trace(self) -> InTraceFuture<Self> {
        let inner = InContext { inner: self, context: Context::current() };
        InTraceFuture { inner: inner.in_current_span() }
    }
}

impl<F: Future> InTrace for F {}

pin_project! {
    /// A future that stays in its trace; made by [`InTrace`].
    #[must_use = "futures do nothing unless polled"]
    pub struct InTraceFuture<F> {
        #[pin]
        inner: Instrumented<InContext<F>>,
    }
}

impl<F: Future> Future for InTraceFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}

impl<F> fmt::Debug for InTraceFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InTraceFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// A future in a context of OpenTelemetry.
    struct InContext<F> {
        #[pin]
        inner: F,
        context: Context,
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        // After the span was entered, which brings a context of its own.
        let _guard = this.context.clone().attach();
        this.inner.poll(cx)
    }
}
