//! How large the futures are: what a call carries along beside the agent's own future.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    AgentLayer, CatchPanicLayer, CircuitBreakerLayer, FallbackLayer, FaultTolerantAgent, Order,
    RetryLayer, TimeoutLayer,
};
use tower::{Layer, Service, ServiceBuilder};

/// How large the agent's own future is.
const INNER: usize = 64;

/// An agent whose future has the size of a small `async` block.
#[derive(Debug, Clone)]
struct Small;

struct SmallFuture {
    _held: [u64; INNER / 8],
}

impl Future for SmallFuture {
    type Output = Result<u64, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(7))
    }
}

impl Service<u64> for Small {
    type Response = u64;
    type Error = Infallible;
    type Future = SmallFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> SmallFuture {
        SmallFuture { _held: [7; INNER / 8] }
    }
}

/// Returns what a layer's future adds to the agent's own.
fn added<S: Service<u64>>(_: S) -> usize {
    size_of::<S::Future>() - INNER
}

#[test]
fn a_future_carries_little_along() {
    assert_eq!(size_of::<SmallFuture>(), INNER);
    let breaker = CircuitBreakerLayer::new("model");
    let timeout = TimeoutLayer::new(Duration::from_secs(30));
    let fallback = FallbackLayer::new().or("backup", Small);
    let sizes = [
        ("circuit breaker", added(breaker.layer(Small)), 48),
        ("retry", added(RetryLayer::new(3).layer(Small)), 96),
        ("timeout", added(timeout.layer(Small)), 152),
        ("fallback", added(fallback.layer(Small)), 48),
        ("catch panic", added(CatchPanicLayer::new().layer(Small)), 16),
        ("agent layer", added(AgentLayer::new("research").layer(Small)), 16),
    ];
    for (name, size, limit) in sizes {
        assert!(size <= limit, "{name} adds {size} bytes, more than {limit}");
    }
}

#[test]
fn the_future_of_a_whole_stack_stays_below_512_bytes() {
    let by_hand = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(FallbackLayer::new().or("backup", Small))
        .layer(RetryLayer::new(3))
        .layer(CircuitBreakerLayer::new("model"))
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        .service(Small);
    let size = INNER + added(by_hand);
    assert!(size < 512, "by hand: {size} bytes");
    for order in [Order::Default, Order::Seed] {
        let agent = FaultTolerantAgent::builder("research").order(order);
        let size = INNER + added(agent.fallback("backup", Small).service(Small));
        assert!(size < 512, "{order:?}: {size} bytes");
    }
}
