use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::{Settings, run::Run};
use crate::{Error, timer::poll_timer};

pin_project! {
    /// The answer of a [`Swarm`](super::Swarm).
    ///
    /// Dropping it drops the calls of all its agents; their spans end as `cancelled`.
    pub struct ResponseFuture<Req, T, R> {
        // None once it has answered.
        run: Option<Run<Req, T, R>>,
        // Made when the agents are first pending.
        #[pin]
        deadline: Option<Sleep>,
    }
}

// ===== impl ResponseFuture =====

impl<Req, T, R> ResponseFuture<Req, T, R>
where
    Req: Clone + 'static,
    T: 'static,
{
    pub(super) fn new(settings: Arc<Settings<Req, T, R>>, request: Req) -> Self {
        Self { run: Some(Run::new(settings, request)), deadline: None }
    }
}

impl<Req, T, R> Future for ResponseFuture<Req, T, R>
where
    Req: Clone + 'static,
    T: 'static,
{
    type Output = Result<R, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let run = this.run.as_mut().expect("polled after completion");
        let answer = match run.poll_agents(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                let Some(after) = run.deadline() else { return Poll::Pending };
                if this.deadline.is_none() {
                    this.deadline.set(Some(tokio::time::sleep(after)));
                }
                if let Some(deadline) = this.deadline.as_mut().as_pin_mut() {
                    ready!(poll_timer(deadline, cx));
                }
                run.time_out(after)
            }
        };
        *this.run = None;
        Poll::Ready(answer)
    }
}

impl<Req, T, R> fmt::Debug for ResponseFuture<Req, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
