use std::{fmt, sync::Arc};

use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::{
    FallbackService,
    chain::{Chain, Fallback, unless_shared},
};
use crate::{
    AnyError, BoxError, ByClone, Classify, Failure, FailureKind, NoCallBudget,
    classify::into_error, sharded::Sharded, telemetry::Labels,
};

/// Asks other agents when the one it is applied to has failed.
///
/// # Defaults
///
/// - `fall_back_when`: every failure but `InvalidRequest`, which every agent would share, and
///   `Cancelled`; never after part of an answer was handed on
/// - `primary_name`: "primary"
/// - `classify`: [`AnyError`]
/// - `replay`: [`ByClone`]
///
/// # Cost
///
/// Where there are fallbacks, the request is copied once before the primary is asked and once more
/// before each fallback but the last. Fallbacks are boxed and touched only after a failure.
///
/// # Cancellation
///
/// Dropping the future drops the agent that is running.
///
/// # Tracing
///
/// `fallback_chain` around the call and `fallback_attempt` for each agent; see the
/// [contract](crate::telemetry).
///
/// # Errors
///
/// [`FallbackExhausted`](crate::ErrorKind::FallbackExhausted) with every failure, when a fallback
/// was tried and no other is left; [`BudgetExhausted`](crate::ErrorKind::BudgetExhausted) when the
/// [`CallBudget`](crate::CallBudget) forbids the next agent, with the last failure as its source.
/// A chain that its predicate or its routes end passes the error, or the answer, on unchanged.
///
/// See the [module docs](super) for an example.
#[must_use = "layers do nothing until applied to a service"]
pub struct FallbackLayer<Req, Res, C = AnyError, Q = NoCallBudget, P = ByClone> {
    chain: Chain<Req, Res, C, Q, P>,
}

// ===== impl FallbackLayer =====

impl<Req, Res> FallbackLayer<Req, Res> {
    /// Creates a layer without fallbacks.
    pub fn new() -> Self {
        let chain = Chain {
            primary_name: "primary".into(),
            fallbacks: Arc::new([]),
            fall_back_when: unless_shared,
            classify: AnyError,
            call_budget: NoCallBudget,
            replay: ByClone,
            labels: Labels::default(),
        };
        Self { chain }
    }
}

impl<Req, Res> Default for FallbackLayer<Req, Res> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Req, Res, C, Q, P> FallbackLayer<Req, Res, C, Q, P> {
    pub(super) const fn from_chain(chain: Chain<Req, Res, C, Q, P>) -> Self {
        Self { chain }
    }

    /// Adds an agent that is asked when those before it have failed.
    pub fn or<F>(self, name: impl Into<Arc<str>>, agent: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.add(None, name.into(), agent)
    }

    /// Adds an agent that is asked only when the one before it failed in one way.
    pub fn or_when<F>(self, kind: FailureKind, name: impl Into<Arc<str>>, agent: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.add(Some(kind), name.into(), agent)
    }

    fn add<F>(mut self, kind: Option<FailureKind>, name: Arc<str>, agent: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        // Errors are classified here, where their type is still known.
        let classify = self.chain.classify.clone();
        let agent = agent.map_err(move |error| into_error::<Res, _, _>(&classify, error));
        let fallback = Fallback { name, kind, service: BoxCloneSyncService::new(agent) };
        let all = self.chain.fallbacks.iter().cloned().chain([fallback]);
        self.chain.fallbacks = all.collect();
        self
    }

    /// Sets what counts as a failure, for the primary and for the fallbacks added afterwards.
    pub fn classify<D>(self, classify: D) -> FallbackLayer<Req, Res, D, Q, P> {
        let Chain { primary_name, fallbacks, fall_back_when, call_budget, replay, labels, .. } =
            self.chain;
        FallbackLayer {
            chain: Chain {
                primary_name,
                fallbacks,
                fall_back_when,
                classify,
                call_budget,
                replay,
                labels,
            },
        }
    }

    /// Sets where requests carry their [`CallBudget`](crate::CallBudget).
    ///
    /// Each agent that is asked takes one of its attempts; retries of an agent take further ones.
    pub fn call_budget<D>(self, call_budget: D) -> FallbackLayer<Req, Res, C, D, P> {
        let Chain { primary_name, fallbacks, fall_back_when, classify, replay, labels, .. } =
            self.chain;
        FallbackLayer {
            chain: Chain {
                primary_name,
                fallbacks,
                fall_back_when,
                classify,
                call_budget,
                replay,
                labels,
            },
        }
    }

    /// Sets how a request is copied for the next agent, for requests that are not `Clone`.
    ///
    /// Where the function returns nothing, the chain ends with the failure at hand.
    pub fn replay_with<D>(self, replay: D) -> FallbackLayer<Req, Res, C, Q, D> {
        let Chain {
            primary_name, fallbacks, fall_back_when, classify, call_budget, labels, ..
        } = self.chain;
        FallbackLayer {
            chain: Chain {
                primary_name,
                fallbacks,
                fall_back_when,
                classify,
                call_budget,
                replay,
                labels,
            },
        }
    }

    /// Sets which failures go on to the next agent.
    pub const fn fall_back_when(mut self, when: fn(&Failure) -> bool) -> Self {
        self.chain.fall_back_when = when;
        self
    }

    /// Sets the primary agent's name in errors and reports.
    pub fn primary_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.chain.primary_name = name.into();
        self
    }

    /// Sets the agent that spans and errors name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.chain.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that every span of this layer carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.chain.labels.metadata = Some(json.into());
        self
    }
}

impl<Req, Res, C: Clone, Q: Clone, P: Clone> Clone for FallbackLayer<Req, Res, C, Q, P> {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone() }
    }
}

impl<Req, Res, C, Q, P> fmt::Debug for FallbackLayer<Req, Res, C, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer").field("chain", &self.chain).finish()
    }
}

impl<S, Req, Res, C: Clone, Q: Clone, P: Clone> Layer<S> for FallbackLayer<Req, Res, C, Q, P> {
    type Service = FallbackService<S, Req, Res, C, Q, P>;

    fn layer(&self, primary: S) -> Self::Service {
        let chain = Sharded::new(Arc::new(self.chain.clone()));
        FallbackService { primary, chain, unready: None }
    }
}
