use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tower::{Layer, Service, util::BoxCloneSyncService};

use super::{AgentLayer, FaultTolerantAgent, Settings, fault_tolerant::Stack};
use crate::{
    AnyError, Backoff, BoxError, CatchPanicLayer, Circuit, CircuitBreakerLayer, Classify, Error,
    ExponentialBackoff, Failure, FailureKind, FallbackLayer, FindCallBudget, NoCallBudget, Outcome,
    RetryLayer, TimeoutLayer,
};

/// How [`FaultTolerantAgent`] nests its layers.
///
/// The [module docs](super) compare them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Chain, and in it for each agent: retry, breaker, timeout.
    #[default]
    Default,
    /// Breaker, retry, timeout, chain: the seed's.
    Seed,
}

/// Builds a [`FaultTolerantAgent`]; made by [`FaultTolerantAgent::builder`].
///
/// # Defaults
///
/// - `timeout`: 30 s for each attempt (the seed's)
/// - `max_attempts`: 3, with the delays of [`ExponentialBackoff`]
/// - `circuit_breaker`: 5 consecutive failures open it, for 30 s
/// - `classify`: [`AnyError`]
/// - `order`: [`Order::Default`]
/// - where another agent is asked after a timeout, it is not retried but falls back: a hang costs
///   one timeout
#[must_use = "a builder does nothing until `service` is called"]
pub struct FaultTolerantAgentBuilder<
    Req,
    Res,
    C = AnyError,
    B = ExponentialBackoff,
    Q = NoCallBudget,
> {
    id: Arc<str>,
    order: Order,
    timeout: Duration,
    retry: RetryLayer<AnyError, B>,
    breaker: CircuitBreakerLayer,
    fallbacks: Vec<Candidate<Req, Res>>,
    fall_back_when: Option<fn(&Failure) -> bool>,
    metadata: Option<Arc<str>>,
    classify: C,
    call_budget: Q,
}

/// One fallback, before the layers of every agent are put around it.
struct Candidate<Req, Res> {
    name: Arc<str>,
    /// The only kind of failure it is asked for.
    kind: Option<FailureKind>,
    circuit: Option<Circuit>,
    /// Erased, since the fallbacks of one agent differ in type.
    service: BoxCloneSyncService<Req, Res, Error>,
    answers: ErasedAnswers<Res>,
}

/// Classifies what comes out of a layer that has made every error ours.
///
/// Errors were classified where they were made; answers were not.
pub struct Answers<C, E> {
    classify: C,
    agent_error: PhantomData<fn(&E)>,
}

/// [`Answers`] of a fallback, whose own error type is forgotten.
struct ErasedAnswers<Res>(Arc<dyn Fn(&Res) -> Outcome + Send + Sync>);

// ===== impl FaultTolerantAgentBuilder =====

impl<Req, Res> FaultTolerantAgentBuilder<Req, Res> {
    #[track_caller]
    pub(super) fn new(id: Arc<str>) -> Self {
        assert!(!id.is_empty(), "an agent's id must not be empty");
        Self {
            breaker: CircuitBreakerLayer::new(Arc::clone(&id)),
            id,
            order: Order::default(),
            timeout: Duration::from_secs(30),
            retry: RetryLayer::default(),
            fallbacks: Vec::new(),
            fall_back_when: None,
            metadata: None,
            classify: AnyError,
            call_budget: NoCallBudget,
        }
    }
}

impl<Req, Res, C, B, Q> FaultTolerantAgentBuilder<Req, Res, C, B, Q> {
    /// Sets how long one attempt may take.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn timeout(mut self, after: Duration) -> Self {
        assert!(!after.is_zero(), "a timeout must be longer than zero");
        self.timeout = after;
        self
    }

    /// Sets how often one agent is tried, the first attempt included.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        self.retry = self.retry.max_attempts(attempts);
        self
    }

    /// Sets the retries: delays, jitter, budget and the rest.
    ///
    /// The layer's classifier is not used; set the agent's with [`classify`](Self::classify).
    pub fn retry<D, B2>(
        self,
        layer: RetryLayer<D, B2>,
    ) -> FaultTolerantAgentBuilder<Req, Res, C, B2, Q> {
        FaultTolerantAgentBuilder {
            id: self.id,
            order: self.order,
            timeout: self.timeout,
            retry: layer.classify(AnyError),
            breaker: self.breaker,
            fallbacks: self.fallbacks,
            fall_back_when: self.fall_back_when,
            metadata: self.metadata,
            classify: self.classify,
            call_budget: self.call_budget,
        }
    }

    /// Sets the circuit breaker of the primary; each fallback gets one of its own with the same
    /// settings.
    ///
    /// The layer's classifier is not used; set the agent's with [`classify`](Self::classify).
    pub fn circuit_breaker<D>(mut self, layer: CircuitBreakerLayer<D>) -> Self {
        self.breaker = layer.classify(AnyError);
        self
    }

    /// Shares a circuit with other agents, such as all that call one model.
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.breaker = CircuitBreakerLayer::sharing(circuit);
        self
    }

    /// Sets what counts as a failure, for every layer and agent.
    ///
    /// # Panics
    ///
    /// If a fallback was added before: its errors are classified as it is added.
    #[track_caller]
    pub fn classify<D>(self, classify: D) -> FaultTolerantAgentBuilder<Req, Res, D, B, Q> {
        assert!(self.fallbacks.is_empty(), "`classify` must come before the first fallback");
        FaultTolerantAgentBuilder {
            id: self.id,
            order: self.order,
            timeout: self.timeout,
            retry: self.retry,
            breaker: self.breaker,
            fallbacks: self.fallbacks,
            fall_back_when: self.fall_back_when,
            metadata: self.metadata,
            classify,
            call_budget: self.call_budget,
        }
    }

    /// Sets where the requests carry their [`CallBudget`](crate::CallBudget).
    pub fn call_budget<Q2>(self, find: Q2) -> FaultTolerantAgentBuilder<Req, Res, C, B, Q2> {
        FaultTolerantAgentBuilder {
            id: self.id,
            order: self.order,
            timeout: self.timeout,
            retry: self.retry,
            breaker: self.breaker,
            fallbacks: self.fallbacks,
            fall_back_when: self.fall_back_when,
            metadata: self.metadata,
            classify: self.classify,
            call_budget: find,
        }
    }

    /// Sets how the layers nest.
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets which failures go on to the next agent; see [`FallbackLayer::fall_back_when`].
    pub const fn fall_back_when(mut self, when: fn(&Failure) -> bool) -> Self {
        self.fall_back_when = Some(when);
        self
    }

    /// Sets a JSON object that the agent's root span carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.metadata = Some(json.into());
        self
    }

    /// Adds an agent that is asked when those before it have failed.
    pub fn fallback<F>(self, name: impl Into<Arc<str>>, service: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.candidate(name.into(), None, None, service)
    }

    /// Adds an agent that is asked only when the one before it failed in one way.
    pub fn fallback_when<F>(self, kind: FailureKind, name: impl Into<Arc<str>>, service: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.candidate(name.into(), Some(kind), None, service)
    }

    /// Adds an agent that shares a circuit with others.
    ///
    /// In the seed's order the fallbacks have no circuit of their own, and this one is not used.
    pub fn fallback_with_circuit<F>(
        self,
        name: impl Into<Arc<str>>,
        service: F,
        circuit: Circuit,
    ) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.candidate(name.into(), None, Some(circuit), service)
    }

    fn candidate<F>(
        mut self,
        name: Arc<str>,
        kind: Option<FailureKind>,
        circuit: Option<Circuit>,
        service: F,
    ) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        let answers = Answers::<C, F::Error>::new(self.classify.clone());
        let service = CatchPanicLayer::new().classify(self.classify.clone()).layer(service);
        self.fallbacks.push(Candidate {
            name,
            kind,
            circuit,
            service: BoxCloneSyncService::new(service),
            answers: ErasedAnswers(Arc::new(move |answer| answers.of(answer))),
        });
        self
    }

    /// Puts the layers around the primary agent.
    ///
    /// # Panics
    ///
    /// If rules of the circuit breaker do not agree with each other; see
    /// [`CircuitBreakerLayer`].
    #[track_caller]
    pub fn service<S>(mut self, primary: S) -> FaultTolerantAgent<S, Req, C, B, Q>
    where
        S: Service<Req, Response = Res>,
        S::Error: Into<BoxError> + 'static,
        C: Classify<Res, S::Error> + Clone + Send + Sync + 'static,
        B: Backoff + Clone + Send + Sync + 'static,
        Q: FindCallBudget<Req> + Clone + Send + Sync + 'static,
        Req: Clone + Send + 'static,
        Res: Send + 'static,
    {
        let settings = self.settings();
        let answers = Answers::<C, S::Error>::new(self.classify.clone());
        let fallbacks = std::mem::take(&mut self.fallbacks);
        let primary = CatchPanicLayer::new().classify(self.classify.clone()).layer(primary);
        let chain = self.chain(answers.clone());
        let takes_timeout = self.last_that_takes_timeouts(&fallbacks);
        let stack = match self.order {
            Order::Default => {
                let mut chain = chain;
                for (place, candidate) in fallbacks.into_iter().enumerate() {
                    let falls_back = takes_timeout.is_some_and(|last| place < last);
                    chain = self.add_guarded(chain, candidate, falls_back);
                }
                let timed = self.timeout_layer().layer(primary);
                let breaker = self.breaker.clone().agent_id(Arc::clone(&self.id));
                let counted = breaker.classify(answers.clone()).layer(timed);
                let retry = self.retry_layer(takes_timeout.is_some()).classify(answers.clone());
                let agent = AgentLayer::from_settings(settings, answers);
                Stack::Default { agent: agent.layer(chain.layer(retry.layer(counted))) }
            }
            Order::Seed => {
                let mut chain = chain;
                for Candidate { name, kind, service, .. } in fallbacks {
                    chain = match kind {
                        Some(kind) => chain.or_when(kind, name, service),
                        None => chain.or(name, service),
                    };
                }
                let timed = self.timeout_layer().layer(chain.layer(primary));
                let retry = self.retry_layer(false).classify(answers.clone()).layer(timed);
                let breaker = self.breaker.clone().agent_id(Arc::clone(&self.id));
                let breaker = breaker.classify(answers.clone()).layer(retry);
                let agent = AgentLayer::from_settings(settings, answers);
                Stack::Seed { agent: agent.layer(breaker) }
            }
        };
        FaultTolerantAgent::new(stack)
    }

    /// Puts a fallback with its own retry, breaker and timeout into the chain.
    fn add_guarded<D>(
        &self,
        chain: FallbackLayer<Req, Res, D, Q>,
        candidate: Candidate<Req, Res>,
        timeout_falls_back: bool,
    ) -> FallbackLayer<Req, Res, D, Q>
    where
        D: Classify<Res, Error> + Clone + Send + Sync + 'static,
        B: Backoff + Clone + Send + Sync + 'static,
        Q: FindCallBudget<Req> + Clone + Send + Sync + 'static,
        Req: Clone + Send + 'static,
        Res: Send + 'static,
    {
        let Candidate { name, kind, circuit, service, answers } = candidate;
        let breaker = match circuit {
            Some(circuit) => CircuitBreakerLayer::sharing(circuit),
            None => self.breaker.renamed(format!("{}/{name}", self.id)),
        };
        let breaker = breaker.agent_id(Arc::clone(&self.id)).classify(answers.clone());
        let retry = self.retry_layer(timeout_falls_back).classify(answers);
        let guarded = retry.layer(breaker.layer(self.timeout_layer().layer(service)));
        match kind {
            Some(kind) => chain.or_when(kind, name, guarded),
            None => chain.or(name, guarded),
        }
    }

    fn chain<D>(&self, classify: D) -> FallbackLayer<Req, Res, D, Q>
    where
        Q: Clone,
    {
        let chain = FallbackLayer::new()
            .agent_id(Arc::clone(&self.id))
            .call_budget(self.call_budget.clone())
            .classify(classify);
        match self.fall_back_when {
            Some(when) => chain.fall_back_when(when),
            None => chain,
        }
    }

    fn timeout_layer(&self) -> TimeoutLayer {
        TimeoutLayer::new(self.timeout).agent_id(Arc::clone(&self.id))
    }

    /// Returns the place of the last fallback that is asked after a timeout.
    fn last_that_takes_timeouts(&self, fallbacks: &[Candidate<Req, Res>]) -> Option<usize> {
        let timeout = Failure::new(FailureKind::Timeout);
        if self.fall_back_when.is_some_and(|when| !when(&timeout)) {
            return None;
        }
        let takes = |candidate: &Candidate<Req, Res>| {
            candidate.kind.is_none_or(|kind| kind == FailureKind::Timeout)
        };
        fallbacks.iter().rposition(takes)
    }

    fn retry_layer(&self, timeout_falls_back: bool) -> RetryLayer<AnyError, B, Q>
    where
        B: Clone,
        Q: Clone,
    {
        let retry = self.retry.clone().agent_id(Arc::clone(&self.id));
        let retry = retry.call_budget(self.call_budget.clone());
        if timeout_falls_back && !retry.has_retry_when() {
            return retry.retry_when(|failure| failure.kind() != FailureKind::Timeout);
        }
        retry
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::new(Arc::clone(&self.id));
        settings.labels.metadata = self.metadata.clone();
        settings.has_fallbacks = Some(!self.fallbacks.is_empty());
        settings.timeout = Some(self.timeout);
        settings.max_attempts = Some(self.retry.attempts());
        settings.circuit_breaker_threshold = self.breaker.threshold();
        settings
    }
}

impl<Req, Res, C, B, Q> fmt::Debug for FaultTolerantAgentBuilder<Req, Res, C, B, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fallbacks: Vec<_> = self.fallbacks.iter().map(|candidate| &candidate.name).collect();
        f.debug_struct("FaultTolerantAgentBuilder")
            .field("id", &self.id)
            .field("order", &self.order)
            .field("fallbacks", &fallbacks)
            .finish_non_exhaustive()
    }
}

// ===== impl Answers =====

impl<C, E> Answers<C, E> {
    const fn new(classify: C) -> Self {
        Self { classify, agent_error: PhantomData }
    }

    #[inline]
    fn of<Res>(&self, answer: &Res) -> Outcome
    where
        C: Classify<Res, E>,
    {
        self.classify.classify(Ok(answer))
    }
}

impl<Res, E, C: Classify<Res, E>> Classify<Res, Error> for Answers<C, E> {
    #[inline]
    fn classify(&self, result: Result<&Res, &Error>) -> Outcome {
        match result {
            Ok(answer) => self.of(answer),
            Err(error) => Outcome::Failure(error.failure().clone()),
        }
    }
}

impl<C: Clone, E> Clone for Answers<C, E> {
    fn clone(&self) -> Self {
        Self::new(self.classify.clone())
    }
}

impl<C, E> fmt::Debug for Answers<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl<Res> Classify<Res, Error> for ErasedAnswers<Res> {
    fn classify(&self, result: Result<&Res, &Error>) -> Outcome {
        match result {
            Ok(answer) => (self.0)(answer),
            Err(error) => Outcome::Failure(error.failure().clone()),
        }
    }
}

impl<Res> Clone for ErasedAnswers<Res> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
