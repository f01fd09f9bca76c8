//! A method for each layer on `ServiceBuilder`.

use tower::{ServiceBuilder, layer::util::Stack};

/// Adds a method for each of our layers to [`ServiceBuilder`].
///
/// The names differ from tower's inherent `timeout` and `retry`, which would win silently.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use buttress::{CircuitBreakerLayer, RetryLayer, ServiceBuilderExt};
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::Error> {
/// let mut agent = ServiceBuilder::new()
///     .agent("research")
///     .retries(RetryLayer::new(3))
///     .circuit_breaker(CircuitBreakerLayer::new("gpt-large"))
///     .time_limit(Duration::from_secs(30))
///     .service_fn(|prompt: String| async move { Ok::<_, std::io::Error>(prompt) });
/// assert_eq!(agent.ready().await?.call("AAPL".to_owned()).await?, "AAPL");
/// # Ok(())
/// # }
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Opens a root span around each call: [`AgentLayer`](crate::AgentLayer).
    ///
    /// # Panics
    ///
    /// If the id is empty.
    #[cfg(feature = "agent")]
    #[track_caller]
    fn agent(
        self,
        id: impl Into<std::sync::Arc<str>>,
    ) -> ServiceBuilder<Stack<crate::AgentLayer, L>>;

    /// Stops calling a service that fails: [`CircuitBreakerLayer`](crate::CircuitBreakerLayer), or
    /// [`KeyedCircuitBreakerLayer`](crate::KeyedCircuitBreakerLayer) with a circuit for each key.
    #[cfg(feature = "circuit-breaker")]
    fn circuit_breaker<B: sealed::Breaker>(self, layer: B) -> ServiceBuilder<Stack<B, L>>;

    /// Tries again what failed: [`RetryLayer`](crate::RetryLayer).
    #[cfg(feature = "retry")]
    fn retries<C, B, Q, P>(
        self,
        layer: crate::RetryLayer<C, B, Q, P>,
    ) -> ServiceBuilder<Stack<crate::RetryLayer<C, B, Q, P>, L>>;

    /// Drops calls that take too long: [`TimeoutLayer`](crate::TimeoutLayer).
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[cfg(feature = "timeout")]
    #[track_caller]
    fn time_limit(
        self,
        after: std::time::Duration,
    ) -> ServiceBuilder<Stack<crate::TimeoutLayer, L>>;

    /// Asks other agents when this one fails: [`FallbackLayer`](crate::FallbackLayer).
    #[cfg(feature = "fallback")]
    fn fallbacks<Req, Res, C, Q, P>(
        self,
        layer: crate::FallbackLayer<Req, Res, C, Q, P>,
    ) -> ServiceBuilder<Stack<crate::FallbackLayer<Req, Res, C, Q, P>, L>>;

    /// Injects seeded faults: [`ChaosLayer`](crate::ChaosLayer).
    #[cfg(feature = "chaos")]
    fn chaos(self, layer: crate::ChaosLayer) -> ServiceBuilder<Stack<crate::ChaosLayer, L>>;

    /// Keeps a checkpoint of each call: [`CheckpointLayer`](crate::CheckpointLayer).
    #[cfg(feature = "checkpoint")]
    fn checkpoint<M, C>(
        self,
        layer: crate::CheckpointLayer<M, C>,
    ) -> ServiceBuilder<Stack<crate::CheckpointLayer<M, C>, L>>;

    /// Makes a panic an error: [`CatchPanicLayer`](crate::CatchPanicLayer).
    fn catch_panics(self) -> ServiceBuilder<Stack<crate::CatchPanicLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    #[cfg(feature = "agent")]
    fn agent(
        self,
        id: impl Into<std::sync::Arc<str>>,
    ) -> ServiceBuilder<Stack<crate::AgentLayer, L>> {
        self.layer(crate::AgentLayer::new(id))
    }

    #[cfg(feature = "circuit-breaker")]
    fn circuit_breaker<B: sealed::Breaker>(self, layer: B) -> ServiceBuilder<Stack<B, L>> {
        self.layer(layer)
    }

    #[cfg(feature = "retry")]
    fn retries<C, B, Q, P>(
        self,
        layer: crate::RetryLayer<C, B, Q, P>,
    ) -> ServiceBuilder<Stack<crate::RetryLayer<C, B, Q, P>, L>> {
        self.layer(layer)
    }

    #[cfg(feature = "timeout")]
    fn time_limit(
        self,
        after: std::time::Duration,
    ) -> ServiceBuilder<Stack<crate::TimeoutLayer, L>> {
        self.layer(crate::TimeoutLayer::new(after))
    }

    #[cfg(feature = "fallback")]
    fn fallbacks<Req, Res, C, Q, P>(
        self,
        layer: crate::FallbackLayer<Req, Res, C, Q, P>,
    ) -> ServiceBuilder<Stack<crate::FallbackLayer<Req, Res, C, Q, P>, L>> {
        self.layer(layer)
    }

    #[cfg(feature = "chaos")]
    fn chaos(self, layer: crate::ChaosLayer) -> ServiceBuilder<Stack<crate::ChaosLayer, L>> {
        self.layer(layer)
    }

    #[cfg(feature = "checkpoint")]
    fn checkpoint<M, C>(
        self,
        layer: crate::CheckpointLayer<M, C>,
    ) -> ServiceBuilder<Stack<crate::CheckpointLayer<M, C>, L>> {
        self.layer(layer)
    }

    fn catch_panics(self) -> ServiceBuilder<Stack<crate::CatchPanicLayer, L>> {
        self.layer(crate::CatchPanicLayer::new())
    }
}

mod sealed {
    /// Keeps the trait ours to extend.
    pub trait Sealed {}

    impl<L> Sealed for tower::ServiceBuilder<L> {}

    /// A layer of one circuit or of many.
    #[cfg(feature = "circuit-breaker")]
    pub trait Breaker {}

    #[cfg(feature = "circuit-breaker")]
    impl<C, M> Breaker for crate::CircuitBreakerLayer<C, M> {}

    #[cfg(feature = "circuit-breaker")]
    impl<F, K, C, M> Breaker for crate::KeyedCircuitBreakerLayer<F, K, C, M> {}
}
