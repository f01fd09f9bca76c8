use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    AnyError, Backoff, BoxError, CatchPanicLayer, CircuitBreakerLayer, Classify, Error,
    ExponentialBackoff, Failure, FailureKind, HasState, HasWorkflow, Outcome, RetryLayer,
    TimeoutLayer, WorkflowId,
};
use futures_util::future::BoxFuture;
use serde_json::Value;
use tower::{
    Layer, Service, ServiceExt, service_fn,
    util::{BoxCloneSyncService, option_layer},
};

use crate::{
    Command, CompiledGraph, Event, GraphError, GraphErrorKind, IntoCommand, State,
    events::Listener, record::TaskId,
};

/// What a node is called with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeRequest<S> {
    /// The state as it was when the superstep began.
    pub state: S,
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The node.
    pub node: Arc<str>,
    /// The superstep, from 1.
    pub step: u64,
    /// The attempt, from 1, in this process.
    pub attempt: u32,
    /// What is the same for every attempt of this call, also after a crash, and for no other call.
    ///
    /// A node that asks is called anew with each answer, and the key counts those: what it does
    /// before it asks would be done again, so that effects belong behind its last question.
    pub idempotency_key: String,
    /// The answers to this call's interrupts, the oldest first.
    pub resume: Vec<Value>,
}

/// One call of a node, as its attempts share it: only what is called gets a request, and with it a
/// state of its own.
#[derive(Debug)]
pub(crate) struct Call<S> {
    pub(crate) state: Arc<S>,
    pub(crate) workflow_id: WorkflowId,
    pub(crate) task: TaskId,
    pub(crate) resume: Vec<Value>,
    pub(crate) listener: Listener<S>,
    /// How many attempts have begun.
    pub(crate) attempts: AtomicU32,
}

/// What stands around a node, as the seed's `wrap_with_fault_tolerance` does.
///
/// # Defaults
///
/// - `timeout`: 300 s for each attempt
/// - `max_attempts`: 3
/// - `backoff`: exponential, from 1 s
/// - `circuit_breaker`: 5 failures in a row; it lives as long as the compiled graph and its clones
/// - `on_error`: none
pub struct NodeOptions<S: State> {
    timeout: Option<Duration>,
    max_attempts: usize,
    retries: Retries,
    circuit_breaker: Option<CircuitBreakerLayer<AnyError>>,
    pub(crate) on_error: Option<Handler<S>>,
}

/// Runs when a node's attempts are spent; what it answers is the node's answer then.
pub(crate) type Handler<S> = Arc<
    dyn Fn(NodeRequest<S>, Failure) -> BoxFuture<'static, Result<Command<S>, Error>> + Send + Sync,
>;

/// How a node is tried again.
#[derive(Clone)]
enum Retries {
    /// As often as `max_attempts` says.
    After(SharedBackoff),
    /// As the user's own layer says.
    By(RetryLayer<AnyError, SharedBackoff>),
}

/// Delays, shared and without their type.
type SharedBackoff = Arc<dyn Backoff + Send + Sync>;

/// A node behind all that stands around it. Erased, since the nodes of one graph differ in type.
pub(crate) trait Guarded<S: State>: Send + Sync {
    /// Calls it. The future is boxed, since it has no name.
    fn call(&self, call: Arc<Call<S>>) -> BoxFuture<'static, Result<Command<S>, Error>>;
}

/// A node with layers of its own around it; what [`StateGraph::add_node`] takes may be one.
///
/// [`StateGraph::add_node`]: crate::StateGraph::add_node
#[must_use]
pub struct Node<S: State>(Box<dyn Bare<S>>);

/// A node without what the graph puts around it, which is to stand inside of that with its type.
trait Bare<S: State>: Send + Sync {
    fn boxed(self: Box<Self>) -> BoxCloneSyncService<NodeRequest<S>, Command<S>, Error>;

    fn guarded(self: Box<Self>, name: &str, options: &NodeOptions<S>) -> Arc<dyn Guarded<S>>;
}

/// What can be a node: a [`Node`], or an asynchronous function of the state.
///
/// `M` tells the two apart and is inferred.
pub trait IntoNode<S: State, M> {
    /// Makes it one.
    fn into_node(self) -> Node<S>;
}

// ===== impl Call =====

impl<S: State> Call<S> {
    /// Begins an attempt.
    fn attempt(&self) -> NodeRequest<S> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let node = &self.task.node;
        self.listener.tell(|| Event::Attempt { node: node.to_string(), attempt });
        self.request(attempt)
    }

    pub(crate) fn request(&self, attempt: u32) -> NodeRequest<S> {
        NodeRequest {
            state: S::clone(&self.state),
            workflow_id: self.workflow_id.clone(),
            node: Arc::clone(&self.task.node),
            step: self.task.step,
            attempt,
            idempotency_key: self.task.key(self.workflow_id.as_str(), self.resume.len()),
            resume: self.resume.clone(),
        }
    }
}

// ===== impl NodeRequest =====

impl<S> HasWorkflow for NodeRequest<S> {
    fn workflow_id(&self) -> &WorkflowId {
        &self.workflow_id
    }

    fn idempotency_key(&self) -> Option<&str> {
        Some(&self.idempotency_key)
    }
}

impl<S: State> HasState for NodeRequest<S> {
    type State = S;

    fn state(&self) -> &S {
        &self.state
    }
}

// ===== impl Node =====

impl<S: State> Node<S> {
    /// Creates a node of a service of requests.
    pub fn service<T, M: 'static>(service: T) -> Self
    where
        T: Service<NodeRequest<S>> + Clone + Send + Sync + 'static,
        T::Response: IntoCommand<S, M>,
        T::Error: Into<BoxError> + 'static,
        T::Future: Send + 'static,
    {
        let service = service.map_response(IntoCommand::into_command).map_err(into_error);
        Self(Box::new(service))
    }

    /// Creates a node of a service of states, such as an agent or another graph.
    pub fn state_service<T, M: 'static>(service: T) -> Self
    where
        T: Service<S> + Clone + Send + Sync + 'static,
        T::Response: IntoCommand<S, M>,
        T::Error: Into<BoxError> + 'static,
        T::Future: Send + 'static,
    {
        Self::service::<_, M>(service.map_request(|request: NodeRequest<S>| request.state))
    }

    /// Creates a node of an asynchronous function of requests.
    pub fn request_fn<F, Fut, C, E, M: 'static>(function: F) -> Self
    where
        F: Fn(NodeRequest<S>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<C, E>> + Send + 'static,
        C: IntoCommand<S, M>,
        E: Into<BoxError> + 'static,
    {
        Self::service(service_fn(function))
    }

    /// Creates a node of another graph: `input` makes its first state, `output` an update of its last.
    ///
    /// It fails as the node in it that has failed. Where that graph is drained, so is the run of this
    /// one, at the end of its superstep.
    ///
    /// Where that graph has a store, its run is a workflow of its own, whose id is the call's
    /// idempotency key: repeated or resumed, the call goes on with it, and what had failed in it is
    /// run again. An attempt takes over from one that was given up: the name for its lease is the
    /// key too, unless [`lease`](crate::StateGraph::lease) sets one. A question of its nodes to
    /// people is a failure of this one.
    pub fn subgraph<T: State>(
        graph: CompiledGraph<T>,
        input: impl Fn(&S) -> T + Clone + Send + Sync + 'static,
        output: impl Fn(T) -> S::Update + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::request_fn(move |request: NodeRequest<S>| {
            let (graph, first, output) = (graph.clone(), input(&request.state), output.clone());
            async move {
                let graph = graph.owned_by(&request.idempotency_key);
                let id = WorkflowId::new(request.idempotency_key).map_err(GraphError::from)?;
                let done = match graph.retry_failed(&id).await {
                    Err(error) if is_new(error.kind()) => graph.run(&id, first).await,
                    done => done,
                };
                done.map(output)
            }
        })
    }

    /// Puts any tower layer around the node, inside of what [`NodeOptions`] sets.
    pub fn layer<L, M: 'static>(self, layer: L) -> Self
    where
        L: Layer<BoxCloneSyncService<NodeRequest<S>, Command<S>, Error>>,
        L::Service: Service<NodeRequest<S>> + Clone + Send + Sync + 'static,
        <L::Service as Service<NodeRequest<S>>>::Response: IntoCommand<S, M>,
        <L::Service as Service<NodeRequest<S>>>::Error: Into<BoxError> + 'static,
        <L::Service as Service<NodeRequest<S>>>::Future: Send + 'static,
    {
        Self::service(layer.layer(self.0.boxed()))
    }

    /// Puts everything around the node that the options say.
    pub(crate) fn guarded(self, name: &str, options: &NodeOptions<S>) -> Arc<dyn Guarded<S>> {
        self.0.guarded(name, options)
    }
}

impl<S, T> Bare<S> for T
where
    S: State,
    T: Service<NodeRequest<S>, Response = Command<S>, Error = Error> + Clone,
    T: Send + Sync + 'static,
    T::Future: Send + 'static,
{
    fn boxed(self: Box<Self>) -> BoxCloneSyncService<NodeRequest<S>, Command<S>, Error> {
        BoxCloneSyncService::new(*self)
    }

    fn guarded(self: Box<Self>, name: &str, options: &NodeOptions<S>) -> Arc<dyn Guarded<S>> {
        let breaker = options.circuit_breaker.as_ref().map(|breaker| breaker.renamed(name));
        let layers = (
            option_layer(options.retry_layer().map(|retry| retry.agent_id(name))),
            option_layer(breaker),
            option_layer(options.timeout.map(TimeoutLayer::new)),
            CatchPanicLayer::new(),
        );
        let node = (*self).map_request(|call: Arc<Call<S>>| call.attempt());
        Arc::new(layers.layer(node))
    }
}

// ===== impl Guarded =====

impl<S, T> Guarded<S> for T
where
    S: State,
    T: Service<Arc<Call<S>>, Response = Command<S>, Error = Error> + Clone,
    T: Send + Sync + 'static,
    T::Future: Send,
{
    fn call(&self, call: Arc<Call<S>>) -> BoxFuture<'static, Result<Command<S>, Error>> {
        let mut service = self.clone();
        Box::pin(async move { service.ready().await?.call(call).await })
    }
}

// ===== impl Node =====

impl<S: State> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

impl<S: State> IntoNode<S, ()> for Node<S> {
    fn into_node(self) -> Self {
        self
    }
}

impl<S, F, Fut, C, E, M> IntoNode<S, (fn() -> Fut, M)> for F
where
    S: State,
    F: Fn(S) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<C, E>> + Send + 'static,
    C: IntoCommand<S, M>,
    E: Into<BoxError> + 'static,
    M: 'static,
{
    fn into_node(self) -> Node<S> {
        Node::service(service_fn(move |request: NodeRequest<S>| self(request.state)))
    }
}

// ===== impl NodeOptions =====

impl<S: State> NodeOptions<S> {
    /// Creates the seed's options.
    #[must_use]
    pub fn new() -> Self {
        Self {
            timeout: Some(Duration::from_secs(300)),
            max_attempts: 3,
            retries: Retries::After(Arc::new(ExponentialBackoff::default())),
            circuit_breaker: Some(CircuitBreakerLayer::new("node").consecutive_failures(5)),
            on_error: None,
        }
    }

    /// Creates options that put nothing around the node but the catching of panics.
    #[must_use]
    pub fn none() -> Self {
        Self { timeout: None, max_attempts: 1, circuit_breaker: None, ..Self::new() }
    }

    /// Sets how long an attempt may take.
    #[must_use]
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after);
        self
    }

    /// Sets how often the node is tried, while its failure is retryable.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[must_use]
    #[track_caller]
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        assert!(attempts > 0, "a node is tried at least once");
        self.max_attempts = attempts;
        self
    }

    /// Sets how long to wait between attempts; takes the place of [`retry`](Self::retry).
    #[must_use]
    pub fn backoff<B>(mut self, backoff: B) -> Self
    where
        B: Backoff + Clone + Send + Sync + 'static,
    {
        self.retries = Retries::After(Arc::new(backoff));
        self
    }

    /// Sets the retries whole, such as a budget or the longest `Retry-After`; takes the place of
    /// [`max_attempts`](Self::max_attempts) and [`backoff`](Self::backoff).
    #[must_use]
    pub fn retry<B>(mut self, layer: RetryLayer<AnyError, B>) -> Self
    where
        B: Backoff + Clone + Send + Sync + 'static,
    {
        self.retries = Retries::By(layer.map_backoff(|backoff| Arc::new(backoff) as SharedBackoff));
        self
    }

    /// Sets the circuit breaker, which is named as the node.
    #[must_use]
    pub fn circuit_breaker(mut self, layer: CircuitBreakerLayer<AnyError>) -> Self {
        self.circuit_breaker = Some(layer);
        self
    }

    /// Leaves the circuit breaker out.
    #[must_use]
    pub fn no_circuit_breaker(mut self) -> Self {
        self.circuit_breaker = None;
        self
    }

    /// Sets what runs when the attempts are spent: its answer is the node's then, and is saved as
    /// such, so that it does not run again.
    #[must_use]
    pub fn on_error<F, Fut, C, E, M: 'static>(mut self, handler: F) -> Self
    where
        F: Fn(NodeRequest<S>, Failure) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C, E>> + Send + 'static,
        C: IntoCommand<S, M>,
        E: Into<BoxError> + 'static,
    {
        self.on_error = Some(Arc::new(move |request, failure| {
            let answer = handler(request, failure);
            Box::pin(async move {
                answer.await.map(IntoCommand::into_command).map_err(|error| into_error(error))
            })
        }));
        self
    }
}

impl<S: State> NodeOptions<S> {
    /// Returns the retries; none where the node is tried once.
    fn retry_layer(&self) -> Option<RetryLayer<AnyError, SharedBackoff>> {
        match &self.retries {
            Retries::After(backoff) => (self.max_attempts > 1)
                .then(|| RetryLayer::new(self.max_attempts).backoff(Arc::clone(backoff))),
            Retries::By(layer) => Some(layer.clone()),
        }
    }
}

impl<S: State> Default for NodeOptions<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: State> fmt::Debug for NodeOptions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions")
            .field("timeout", &self.timeout)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

/// Returns whether there is nothing to go on with.
const fn is_new(kind: &GraphErrorKind) -> bool {
    matches!(kind, GraphErrorKind::NotFound | GraphErrorKind::NoStore)
}

/// Classifies an error of a node, and passes on one of buttress.
fn into_error<E: Into<BoxError> + 'static>(error: E) -> Error {
    Error::from_service(error, |error| {
        if let Some(error) = (error as &dyn Any).downcast_ref::<GraphError>() {
            return error.failure();
        }
        match Classify::<(), E>::classify(&AnyError, Err(error)) {
            Outcome::Failure(failure) => failure,
            _ => Failure::new(FailureKind::Cancelled),
        }
    })
}
