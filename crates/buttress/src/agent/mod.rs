//! Agents: a root span around one, and the builder that puts every pattern around one.
//!
//! [`FaultTolerantAgent`] is the whole stack as one value. In its default order an agent is
//! built like this, from the outside in:
//!
//! ```text
//! agent_{id}                       the root span
//! `- fallback_chain                goes to the next agent when one has failed
//!    |- retry_execution            primary: its own attempts
//!    |  `- circuit_breaker_call    counts each attempt
//!    |     `- timeout_protected_call
//!    |        `- the agent         a panic is caught here
//!    `- retry_execution            fallback: the same again, with a circuit of its own
//! ```
//!
//! # Ordering
//!
//! [`Order::Seed`] nests as the seed does: breaker, retry, timeout, chain. It loses three things:
//!
//! | what happens | default order | the seed's order |
//! |---|---|---|
//! | the primary hangs | falls back after one timeout | cut before any fallback runs, once per attempt: with the defaults 3 x 30 s and two delays, then a failure |
//! | the primary's circuit is open | the fallbacks are asked | rejects, though the fallbacks are healthy |
//! | three attempts fail | three failures are counted | one failure is counted per series, so the circuit opens after 15 |
//!
//! Wrong orders by hand: a timeout *outside* the breaker drops the call before the breaker learns
//! of the timeout (use [`drop_is_failure_after`] there); a breaker *outside* the retry counts a
//! series as one call; a timeout around the whole chain takes its time from the fallbacks.
//!
//! # Beside tower's own layers
//!
//! What tower has is not made again here. A limit on concurrency or rate stands outside the retry,
//! so that calls in their delay hold a place, and load shed outside the limit, so that a full
//! agent answers at once; a hedge stands around one agent, inside the breaker. Errors stay flat:
//! [`AgentLayer`] finds ours in tower's boxes.
//!
//! ```
//! use std::time::Duration;
//! use buttress::{AgentLayer, CircuitBreakerLayer, RetryLayer, TimeoutLayer};
//! use tower::{ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::Error> {
//! let agent = ServiceBuilder::new()
//!     .layer(AgentLayer::new("research"))
//!     .layer(LoadShedLayer::new())
//!     .layer(ConcurrencyLimitLayer::new(100))
//!     .layer(RetryLayer::new(3))
//!     .layer(CircuitBreakerLayer::new("gpt-large"))
//!     .layer(TimeoutLayer::new(Duration::from_secs(30)))
//!     .service_fn(|prompt: String| async move { Ok::<_, std::io::Error>(prompt) });
//! assert_eq!(agent.oneshot("AAPL".to_owned()).await?, "AAPL");
//! # Ok(())
//! # }
//! ```
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use buttress::FaultTolerantAgent;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let large = tower::service_fn(|_: String| async { Err::<String, _>(std::io::Error::other("overloaded")) });
//! let small = tower::service_fn(|prompt: String| async move { Ok::<_, std::io::Error>(format!("re: {prompt}")) });
//!
//! let agent = FaultTolerantAgent::builder("research")
//!     .timeout(Duration::from_secs(20))
//!     .max_attempts(1)
//!     .fallback("small-model", small)
//!     .service(large);
//!
//! assert_eq!(agent.invoke("AAPL".to_owned()).await.unwrap(), "re: AAPL");
//! # }
//! ```
//!
//! [`drop_is_failure_after`]: crate::CircuitBreakerLayer::drop_is_failure_after

mod builder;
mod fault_tolerant;
mod future;
mod layer;

use std::{
    mem::ManuallyDrop,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tower::Service;
use tracing::field::Empty;

pub use self::{
    builder::{FaultTolerantAgentBuilder, Order},
    fault_tolerant::{FaultTolerantAgent, FaultTolerantFuture},
    future::ResponseFuture,
    layer::AgentLayer,
};
use crate::{
    AnyError, BoxError, Classify, Error,
    classify::into_error,
    sharded::Sharded,
    telemetry::{self, Labels, Telemetry},
};

/// An agent under a root span of its own; made by [`AgentLayer`].
///
/// See the [module docs](self).
#[derive(Debug, Clone)]
pub struct Agent<S, C = AnyError> {
    inner: S,
    settings: Sharded<Arc<Settings>, Arc<Settings>>,
    classify: C,
}

/// What the root span says about the agent.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) id: Arc<str>,
    /// What tracing shows as the span's name: `agent_{id}`.
    pub(crate) span_name: String,
    pub(crate) labels: Labels,
    pub(crate) has_fallbacks: Option<bool>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_attempts: Option<usize>,
    pub(crate) circuit_breaker_threshold: Option<u32>,
}

// ===== impl Agent =====

impl<S, C> Agent<S, C> {
    /// Returns the agent's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.settings.prototype().id
    }

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

impl<S, C, Req> Service<Req> for Agent<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future, C>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(|error| {
            into_error(&self.classify, error).in_agent(Some(&self.settings.prototype().id))
        })
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let settings = self.settings.handle(Arc::clone);
        let telemetry = settings.open_span();
        let classify = self.classify.clone();
        let scope = telemetry.scope();
        let inner = ManuallyDrop::new(self.inner.call(request));
        scope.leave();
        ResponseFuture::new(ManuallyDrop::into_inner(inner), telemetry, settings, classify)
    }
}

// ===== impl Settings =====

impl Settings {
    pub(crate) fn new(id: Arc<str>) -> Self {
        let span_name = format!("agent_{id}");
        let labels = Labels { agent_id: Some(Arc::clone(&id)), metadata: None };
        Self {
            id,
            span_name,
            labels,
            has_fallbacks: None,
            timeout: None,
            max_attempts: None,
            circuit_breaker_threshold: None,
        }
    }

    #[inline(always)]
    fn open_span(&self) -> Telemetry {
        Telemetry::open(|| {
            tracing::info_span!(
                target: telemetry::TARGET,
                telemetry::span::AGENT,
                otel.name = self.span_name,
                observation_type = "agent",
                agent_id = self.labels.agent_id(),
                metadata = self.labels.metadata(),
                has_fallbacks = self.has_fallbacks,
                timeout_seconds = self.timeout.map(|timeout| timeout.as_secs_f64()),
                max_retries = self.max_attempts.and_then(|attempts| i64::try_from(attempts).ok()),
                circuit_breaker_threshold = self.circuit_breaker_threshold.map(i64::from),
                success = Empty,
                outcome = Empty,
                failure_kind = Empty,
                error = Empty,
                error_type = Empty,
                level = Empty,
                status_message = Empty,
            )
        })
    }
}
