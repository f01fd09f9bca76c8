use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use serde_json::Value;
use tower::{Layer, Service};

use super::{
    CheckpointStore, Checkpointer, Clock, Namespace, WhenUnavailable,
    mode::{After, Before, Memo, Mode},
};
use crate::{AnyError, BoxError, Classify, Error, classify::into_error};

/// Keeps a checkpoint of each call of an agent.
///
/// | mode | what is saved | when |
/// |---|---|---|
/// | [`Before`] (default) | the request's state, as the seed does | before the call, which begins once it is saved |
/// | [`After`] | the response | before the response is handed on |
/// | [`Memo`] | the response, under workflow, phase and idempotency key | before it is handed on; a repeat is answered with it and does not call the agent |
///
/// `before` and `after` go behind whatever the workflow has saved, from any layer.
///
/// # What a memo promises
///
/// No call whose response was acknowledged is made again. A kill may repeat at most one call per
/// phase and key, with the same idempotency key, which the agent finds in the request. Repeats at
/// the same time wait for the first in this process, through any handle of a store that says
/// [where it is](CheckpointStore::place), else through clones of this layer; in other processes the
/// second to finish gets the first one's response. A response that cannot be saved while the store is
/// away is held by this process (of at most 1,024, and 64 MiB): a repeat saves it, and does not call
/// the agent. A failure is not kept, unless it is one that stays. A response that is larger than the
/// store takes, or that cannot be written, is an error, and so is every repeat: the agent is
/// not called for it again.
///
/// # Defaults
///
/// - mode: [`before`](Self::before)
/// - everything else: as [`Checkpointer`]
///
/// # Errors
///
/// [`Checkpoint`](crate::ErrorKind::Checkpoint), whose source is the [`StoreError`]
/// (`InvalidId` where a memo's request has no idempotency key); the service's own error is the
/// source of an [`Error`].
///
/// # Cancellation
///
/// Before the call: the checkpoint is saved or not, the agent is not called. During the call: the
/// agent's future is dropped, nothing more is saved. While the response is saved: it is saved or
/// not; a repeat of a memo then calls the agent again or does not. Whoever waits for a memo that is
/// given up goes first.
///
/// # Tracing
///
/// `save_checkpoint` and `load_checkpoint`, as [`Checkpointer`].
///
/// See the [module docs](super) for an example.
///
/// [`StoreError`]: super::StoreError
#[derive(Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct CheckpointLayer<M = Before, C = AnyError> {
    checkpointer: Checkpointer<Value>,
    phase: Arc<str>,
    mode: M,
    classify: C,
}

/// A service whose calls leave checkpoints; made by [`CheckpointLayer`].
#[derive(Clone)]
pub struct CheckpointService<S, M = Before, C = AnyError> {
    inner: S,
    around: Arc<Around<M, C>>,
}

/// What stands around each call.
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "nobody outside gets one")]
pub struct Around<M, C> {
    pub(super) checkpointer: Checkpointer<Value>,
    pub(super) phase: Arc<str>,
    pub(super) mode: M,
    pub(super) classify: C,
}

pin_project! {
    /// The answer of a [`CheckpointService`].
    ///
    /// It is boxed: what it waits for are calls of a store, which box theirs too and take longer.
    pub struct ResponseFuture<Res> {
        #[pin]
        inner: Pin<Box<dyn Future<Output = Result<Res, Error>> + Send>>,
    }
}

// ===== impl CheckpointLayer =====

impl CheckpointLayer {
    /// Creates the layer for one phase of a workflow.
    ///
    /// # Panics
    ///
    /// If the phase is empty.
    #[track_caller]
    pub fn new(store: impl CheckpointStore, phase: impl Into<Arc<str>>) -> Self {
        let phase = phase.into();
        assert!(!phase.is_empty(), "a phase has a name");
        let checkpointer = Checkpointer::new(store);
        Self { checkpointer, phase, mode: Before::new(), classify: AnyError }
    }
}

impl<M, C> CheckpointLayer<M, C> {
    /// Saves the request's state before the call.
    pub fn before(self) -> CheckpointLayer<Before, C> {
        self.mode(Before::new())
    }

    /// Saves the response.
    pub fn after(self) -> CheckpointLayer<After, C> {
        self.mode(After::new())
    }

    /// Saves the response and answers repeats with it.
    pub fn memo(self) -> CheckpointLayer<Memo, C> {
        self.mode(Memo::new())
    }

    /// Sets what an error of the service means: a memo keeps failures that stay.
    pub fn classify<D>(self, classify: D) -> CheckpointLayer<M, D> {
        let Self { checkpointer, phase, mode, .. } = self;
        CheckpointLayer { checkpointer, phase, mode, classify }
    }

    /// Sets the part of each workflow that is saved.
    pub fn namespace(self, namespace: Namespace) -> Self {
        self.with(|checkpointer| checkpointer.namespace(namespace))
    }

    /// Sets the version of the schema of what is saved.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn schema_version(mut self, version: u32) -> Self {
        self.checkpointer = self.checkpointer.schema_version(version);
        self
    }

    /// Adds the step that makes a memo's response of version `from` one of the next.
    pub fn upcast(
        self,
        from: u32,
        step: impl Fn(Value) -> Result<Value, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.with(|checkpointer| checkpointer.upcast(from, step))
    }

    /// Sets what to do when the store is away.
    ///
    /// To go on without a memo is to call the agent and hand on its response, unsaved.
    pub fn when_unavailable(self, what: WhenUnavailable) -> Self {
        self.with(|checkpointer| checkpointer.when_unavailable(what))
    }

    /// Sets the clock of timestamps.
    pub fn clock(self, clock: Clock) -> Self {
        self.with(|checkpointer| checkpointer.clock(clock))
    }

    /// Sets the agent that spans name.
    pub fn agent_id(self, id: impl Into<Arc<str>>) -> Self {
        self.with(|checkpointer| checkpointer.agent_id(id))
    }

    /// Sets a JSON object that spans carry.
    pub fn metadata(self, json: impl Into<Arc<str>>) -> Self {
        self.with(|checkpointer| checkpointer.metadata(json))
    }

    fn mode<N>(self, mode: N) -> CheckpointLayer<N, C> {
        let Self { checkpointer, phase, classify, .. } = self;
        CheckpointLayer { checkpointer, phase, mode, classify }
    }

    fn with(mut self, change: impl FnOnce(Checkpointer<Value>) -> Checkpointer<Value>) -> Self {
        self.checkpointer = change(self.checkpointer);
        self
    }
}

impl<M: fmt::Debug, C> fmt::Debug for CheckpointLayer<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointLayer")
            .field("phase", &self.phase)
            .field("mode", &self.mode)
            .field("checkpointer", &self.checkpointer)
            .finish_non_exhaustive()
    }
}

impl<S, M: Clone, C: Clone> Layer<S> for CheckpointLayer<M, C> {
    type Service = CheckpointService<S, M, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let around = Around {
            checkpointer: self.checkpointer.clone(),
            phase: Arc::clone(&self.phase),
            mode: self.mode.clone(),
            classify: self.classify.clone(),
        };
        CheckpointService { inner, around: Arc::new(around) }
    }
}

// ===== impl CheckpointService =====

impl<S, M, C> CheckpointService<S, M, C> {
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

impl<S: fmt::Debug, M: fmt::Debug, C> fmt::Debug for CheckpointService<S, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointService")
            .field("inner", &self.inner)
            .field("phase", &self.around.phase)
            .field("mode", &self.around.mode)
            .finish_non_exhaustive()
    }
}

impl<S, M, C, Req> Service<Req> for CheckpointService<S, M, C>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + 'static,
    S::Response: 'static,
    Req: Send + 'static,
    M: Mode<Req, S::Response>,
    C: Classify<S::Response, S::Error> + Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(|error| into_error(&self.around.classify, error))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // The instance that was made ready is the one that is called.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        let around = Arc::clone(&self.around);
        ResponseFuture { inner: Box::pin(async move { M::run(&around, ready, request).await }) }
    }
}

// ===== impl ResponseFuture =====

impl<Res> Future for ResponseFuture<Res> {
    type Output = Result<Res, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<Res> fmt::Debug for ResponseFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
