//! Our layers and stacks, set up as every bench has them.

use std::time::Duration;

use buttress::{
    AgentLayer, AnyError, BoxError, CircuitBreakerLayer, Error, FallbackLayer, FaultTolerantAgent,
    Order, RetryLayer, TimeoutLayer, Window,
};
use tower::{Service, ServiceBuilder};

use crate::drive::Answers;

/// Puts a layer around an agent once for each word after it.
#[macro_export]
macro_rules! stacked {
    ($layer:expr;) => { $crate::drive::Answers };
    ($layer:expr; $first:tt $($more:tt)*) => {
        ::tower::Layer::layer(&$layer, $crate::stacked!($layer; $($more)*))
    };
}

/// A limit that no call comes near.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than any bench runs.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// A breaker that counts consecutive failures.
pub fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new("model")
}

/// A breaker that looks at the last calls.
pub fn count_window(calls: usize) -> CircuitBreakerLayer {
    breaker().failure_rate(0.5).window(Window::calls(calls))
}

/// A breaker that looks at the calls of the last hour.
pub fn time_window() -> CircuitBreakerLayer {
    breaker().failure_rate(0.5).window(Window::time(HOUR).buckets(10))
}

/// A retry that waits for nothing.
pub fn at_once() -> RetryLayer<AnyError, [Duration; 1]> {
    RetryLayer::new(3).backoff([Duration::ZERO])
}

/// The four patterns by hand, in the order that the docs advise.
pub fn full<S, R>(inner: S) -> impl Service<R, Response = u64, Error = Error> + Clone
where
    S: Service<R, Response = u64> + Clone,
    S::Error: Into<BoxError> + 'static,
    R: Clone + 'static,
{
    ServiceBuilder::new()
        .layer(FallbackLayer::new().or("backup", Answers))
        .layer(RetryLayer::new(3))
        .layer(breaker())
        .layer(TimeoutLayer::new(TIMEOUT))
        .service(inner)
}

/// Five spans, where all is well: agent, retry and its attempt, breaker, timeout.
pub fn five_spans<S>(inner: S) -> impl Service<u64, Response = u64, Error = Error>
where
    S: Service<u64, Response = u64> + Clone,
    S::Error: Into<BoxError> + 'static,
{
    ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(at_once())
        .layer(breaker().consecutive_failures(u32::MAX))
        .layer(TimeoutLayer::new(TIMEOUT))
        .service(inner)
}

/// The agent with one fallback, all else as it comes.
#[must_use]
pub fn agent<R: Clone + Send + 'static>() -> impl Service<R, Response = u64, Error = Error> {
    FaultTolerantAgent::builder("research").fallback("backup", Answers).service(Answers)
}

/// The same in the order of the seed: the breaker around the retries.
#[must_use]
pub fn agent_in_seed_order() -> impl Service<u64, Response = u64, Error = Error> {
    let agent = FaultTolerantAgent::builder("research").order(Order::Seed);
    agent.fallback("backup", Answers).service(Answers)
}
