use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::SystemTime,
};

use buttress::{
    CheckpointKey, CheckpointStore, Checkpointer, WorkflowId,
    checkpoint::{Page, Payload, Put},
};
use serde_json::Value;
use tower::Service;

use crate::{
    END, Events, GraphError, GraphErrorKind, State, Status,
    engine::{Begin, Run},
    events::Listener,
    graph::{Compiled, Settings, Ways},
    record::Record,
};

/// A graph that is ready to run; made by [`StateGraph::compile`](crate::StateGraph::compile).
///
/// Clones share the nodes' circuit breakers. As a [`Service`] it runs a workflow with a fresh id
/// for each call, so that a timeout, a retry or another graph can stand around it.
///
/// # Cancellation
///
/// A run whose future is dropped stops where it is; with a store it can be resumed, by another
/// process once its lease has run out.
pub struct CompiledGraph<S: State> {
    inner: Arc<Inner<S>>,
    /// Under whose name runs take their leases where the settings name nobody; none where each run
    /// has a name of its own.
    owner: Option<Arc<str>>,
}

struct Inner<S: State> {
    name: Arc<str>,
    span_name: String,
    nodes: Vec<Compiled<S>>,
    /// Of the nodes, and of the end behind them.
    places: BTreeMap<Arc<str>, usize>,
    entry: Ways<S>,
    settings: Settings,
    drained: AtomicBool,
}

/// A workflow as one of its checkpoints has it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot<S> {
    /// The checkpoint.
    pub sequence: u64,
    /// When it was saved.
    pub timestamp: SystemTime,
    /// The state.
    pub state: S,
    /// How the workflow stands.
    pub status: Status,
    /// How many supersteps are done.
    pub step: u64,
    /// The nodes that run next.
    pub next: Vec<String>,
}

/// The answer of a [`CompiledGraph`] as a service.
///
/// It is boxed: nodes are, and what they wait for takes longer.
pub struct ResponseFuture<S>(Pin<Box<dyn Future<Output = Result<S, GraphError>> + Send>>);

// ===== impl CompiledGraph =====

impl<S: State> CompiledGraph<S> {
    pub(crate) fn new(
        name: Arc<str>,
        nodes: Vec<Compiled<S>>,
        places: BTreeMap<Arc<str>, usize>,
        entry: Ways<S>,
        settings: Settings,
    ) -> Self {
        let inner = Inner {
            span_name: format!("graph_{name}"),
            name,
            nodes,
            places,
            entry,
            settings,
            drained: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner), owner: None }
    }

    /// Returns the graph's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Runs a workflow from the beginning and returns its last state.
    ///
    /// A workflow that has finished before begins anew, behind what is saved of it.
    ///
    /// # Errors
    ///
    /// Each [`GraphErrorKind`] but `Invalid`; with a store, `Unfinished` where a run of the
    /// workflow has not ended, and `Store` where another process holds its lease.
    pub async fn run(&self, id: &WorkflowId, state: S) -> Result<S, GraphError> {
        Run::go(self, id, Begin::Anew(state), Listener::NOBODY).await
    }

    /// Goes on with a workflow from its newest checkpoint; one that has finished answers its state
    /// and runs nothing.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); `NotFound`; `NodeFailed` where a node has failed for good, which
    /// [`retry_failed`](Self::retry_failed) runs again; `Dead` after too many.
    pub async fn resume(&self, id: &WorkflowId) -> Result<S, GraphError> {
        Run::go(self, id, Begin::Resume, Listener::NOBODY).await
    }

    /// Goes on with a workflow one of whose nodes has failed for good, and runs that again.
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume).
    pub async fn retry_failed(&self, id: &WorkflowId) -> Result<S, GraphError> {
        Run::go(self, id, Begin::RetryFailed, Listener::NOBODY).await
    }

    /// Answers a question and goes on: the node that asked is run again, with the answer and a new
    /// idempotency key.
    ///
    /// Other nodes that asked in the same superstep wait on, and the answer to one is kept.
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume); `NoInterrupt` where nobody asks under this id; `Interrupted`
    /// where other questions are open.
    pub async fn resume_with(
        &self,
        id: &WorkflowId,
        interrupt: &str,
        answer: impl Into<Value>,
    ) -> Result<S, GraphError> {
        let begin = Begin::Answer(interrupt.to_owned(), answer.into());
        Run::go(self, id, begin, Listener::NOBODY).await
    }

    /// Runs a workflow from the beginning, as [`run`](Self::run), and tells what happens.
    pub fn stream(&self, id: &WorkflowId, state: S) -> Events<S> {
        self.events(id, Begin::Anew(state))
    }

    /// Goes on with a workflow, as [`resume`](Self::resume), and tells what happens.
    pub fn resume_stream(&self, id: &WorkflowId) -> Events<S> {
        self.events(id, Begin::Resume)
    }

    /// Goes on with a workflow, as [`retry_failed`](Self::retry_failed), and tells what happens.
    pub fn retry_failed_stream(&self, id: &WorkflowId) -> Events<S> {
        self.events(id, Begin::RetryFailed)
    }

    /// Answers a question and goes on, as [`resume_with`](Self::resume_with), and tells what
    /// happens.
    pub fn resume_with_stream(
        &self,
        id: &WorkflowId,
        interrupt: &str,
        answer: impl Into<Value>,
    ) -> Events<S> {
        self.events(id, Begin::Answer(interrupt.to_owned(), answer.into()))
    }

    fn events(&self, id: &WorkflowId, begin: Begin<S>) -> Events<S> {
        let (graph, id) = (self.clone(), id.clone());
        Events::new(|listener| async move { Run::go(&graph, &id, begin, listener).await })
    }

    /// Returns what is saved of a workflow, newest first.
    ///
    /// # Errors
    ///
    /// `NoStore`, `Store`, `State`.
    pub async fn history(
        &self,
        id: &WorkflowId,
        page: Page,
    ) -> Result<Vec<Snapshot<S>>, GraphError> {
        let store = self.checkpointer()?.store().clone();
        let found = store.history(&CheckpointKey::new(id.clone()), page).await?;
        let read = found.into_iter().map(|checkpoint| {
            let record: Record<S> =
                serde_json::from_slice(&checkpoint.state).map_err(GraphError::state)?;
            Ok(Snapshot {
                sequence: checkpoint.sequence,
                timestamp: checkpoint.timestamp,
                state: Arc::unwrap_or_clone(record.state),
                status: record.status,
                step: record.step,
                next: record.next.iter().map(|task| task.node.to_string()).collect(),
            })
        });
        read.collect()
    }

    /// Begins a new workflow with what a checkpoint of another one has; resume it then.
    ///
    /// # Errors
    ///
    /// `NoStore`, `Store`; `NotFound` where there is no such checkpoint; a `Conflict` of the store
    /// where the new workflow is there.
    pub async fn fork(
        &self,
        id: &WorkflowId,
        sequence: u64,
        new: &WorkflowId,
    ) -> Result<u64, GraphError> {
        let store = self.checkpointer()?.store().clone();
        let found = store.get(&CheckpointKey::new(id.clone()), sequence).await?;
        let found = found.ok_or(GraphErrorKind::NotFound)?;
        let put = Put::new(new.clone(), None, Payload::from(found.state.to_vec()))
            .phase(found.phase)
            .schema_version(found.schema_version)
            .metadata("forked_from", id.as_str())
            .metadata("forked_at", sequence);
        Ok(store.put(put).await?)
    }

    /// Stops every run of this graph and its clones at the end of its superstep, with `Drained`;
    /// no new one begins. A run of another graph that has one of this in a node ends so too.
    pub fn drain(&self) {
        self.inner.drained.store(true, Ordering::Release);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.inner.drained.load(Ordering::Acquire)
    }

    pub(crate) fn checkpointer(&self) -> Result<Checkpointer<Record<S>>, GraphError> {
        let store = self.settings().store.clone().ok_or(GraphErrorKind::NoStore)?;
        let checkpointer = Checkpointer::new(store).agent_id(Arc::clone(&self.inner.name));
        Ok(checkpointer.when_unavailable(self.settings().when_unavailable))
    }

    /// Returns the same graph, whose runs take their leases under this name unless the settings have
    /// another: a later one takes over from one that was given up.
    pub(crate) fn owned_by(self, owner: &str) -> Self {
        Self { owner: Some(owner.into()), ..self }
    }

    /// Returns under whose name a run takes its lease.
    pub(crate) fn lease_owner(&self) -> Arc<str> {
        let named = self.settings().owner.as_ref().or(self.owner.as_ref());
        let random = || format!("{}-{:016x}", self.name(), fastrand::u64(..)).into();
        named.map_or_else(random, Arc::clone)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn span_name(&self) -> &str {
        &self.inner.span_name
    }

    pub(crate) fn nodes(&self) -> &[Compiled<S>] {
        &self.inner.nodes
    }

    /// Returns the place of a node, or of the end.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.inner.places.get(name).copied()
    }

    pub(crate) fn name_at(&self, place: usize) -> &str {
        self.nodes().get(place).map_or(END, |node| &node.name)
    }

    pub(crate) fn entry(&self) -> &Ways<S> {
        &self.inner.entry
    }
}

impl<S: State> Service<S> for CompiledGraph<S> {
    type Response = S;
    type Error = GraphError;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), GraphError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, state: S) -> Self::Future {
        let graph = self.clone();
        ResponseFuture(Box::pin(async move {
            let id =
                format!("{}-{:016x}{:016x}", graph.name(), fastrand::u64(..), fastrand::u64(..));
            let id = WorkflowId::new(id)?;
            graph.run(&id, state).await
        }))
    }
}

impl<S: State> Clone for CompiledGraph<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), owner: self.owner.clone() }
    }
}

impl<S: State> fmt::Debug for CompiledGraph<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes().iter().map(|node| &*node.name).collect();
        f.debug_struct("CompiledGraph")
            .field("name", &self.name())
            .field("nodes", &nodes)
            .finish_non_exhaustive()
    }
}

// ===== impl ResponseFuture =====

impl<S> Future for ResponseFuture<S> {
    type Output = Result<S, GraphError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<S> fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
