//! A happy call through each layer and through the whole stack allocates nothing, needs no timer
//! driver, and clones the inner service no more often than the docs say. What a failure allocates is
//! told for a rejection, a retry and a fallback.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    AgentLayer, BodyTimeoutLayer, CatchPanicLayer, ChaosLayer, CircuitBreakerLayer, FallbackLayer,
    FaultTolerantAgent, FirstFrameLayer, FirstItemLayer, Order, RetryLayer, StreamTimeoutLayer,
    TimeoutLayer, Window,
};
use tower::{Layer, Service, service_fn};

/// Answers at once and counts its clones; a clone itself does not allocate.
#[derive(Debug, Default)]
struct Ready7 {
    clones: Arc<AtomicUsize>,
}

impl Clone for Ready7 {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::Relaxed);
        Self { clones: Arc::clone(&self.clones) }
    }
}

impl Service<u64> for Ready7 {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request + 7))
    }
}

/// Why the agents below fail; not worth an allocation.
#[derive(Debug, Clone, Copy)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

/// Fails the first so many of every so many calls.
#[derive(Debug, Clone)]
struct Fails {
    first: usize,
    of: usize,
    calls: Arc<AtomicUsize>,
}

impl Fails {
    fn first(first: usize, of: usize) -> Self {
        Self { first, of, calls: Arc::default() }
    }
}

impl Service<u64> for Fails {
    type Response = u64;
    type Error = Refused;
    type Future = Ready<Result<u64, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        let fails = self.calls.fetch_add(1, Ordering::Relaxed) % self.of < self.first;
        ready(if fails { Err(Refused) } else { Ok(request + 7) })
    }
}

/// One call on a thread without any runtime, so also without timers.
fn call<S>(service: &mut S) -> u64
where
    S: Service<u64, Response = u64>,
    S::Error: fmt::Debug,
{
    outcome(service).expect("a happy call answers")
}

/// The same, where it may fail; either way it comes at once.
fn outcome<S>(service: &mut S) -> Result<u64, S::Error>
where
    S: Service<u64, Response = u64>,
    S::Error: fmt::Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut future = std::pin::pin!(service.call(35));
    match future.as_mut().poll(&mut cx) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("a call ends at once"),
    }
}

/// Counts the allocations of a call, over 100 of them after a first one.
#[track_caller]
fn allocations_of_a_call<S>(
    mut service: S,
    is_expected: impl Fn(&Result<u64, S::Error>) -> bool,
) -> f64
where
    S: Service<u64, Response = u64>,
    S::Error: fmt::Debug,
{
    let mut one = || {
        let outcome = outcome(&mut service);
        assert!(is_expected(&outcome), "{outcome:?}");
    };
    one();
    let info = allocation_counter::measure(|| (0..100).for_each(|_| one()));
    assert_eq!(info.count_current, 0, "every allocation is freed");
    f64::from(u32::try_from(info.count_total).expect("a call allocates little")) / 100.0
}

/// Counts allocations and clones of the inner service over 100 calls, after a first one.
#[track_caller]
fn check<S>(name: &str, clones_per_call: usize, wrap: impl FnOnce(Ready7) -> S)
where
    S: Service<u64, Response = u64>,
    S::Error: fmt::Debug,
{
    let inner = Ready7::default();
    let clones = Arc::clone(&inner.clones);
    let mut service = wrap(inner);
    assert_eq!(call(&mut service), 42);
    let before = clones.load(Ordering::Relaxed);
    let info = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert_eq!(call(&mut service), 42);
        }
    });
    assert_eq!(info.count_total, 0, "{name}: allocations in 100 calls");
    let clones = clones.load(Ordering::Relaxed) - before;
    assert_eq!(clones, 100 * clones_per_call, "{name}: clones of the inner service in 100 calls");
}

/// A layer of fallbacks that are never needed.
fn fallbacks() -> FallbackLayer<u64, u64> {
    FallbackLayer::new().or("backup", Ready7::default())
}

#[test]
fn each_layer_is_free_of_allocations() {
    check("breaker", 0, |inner| CircuitBreakerLayer::new("model").layer(inner));
    check("breaker with a count window", 0, |inner| {
        CircuitBreakerLayer::new("model").failure_rate(0.5).window(Window::calls(50)).layer(inner)
    });
    check("retry", 0, |inner| RetryLayer::new(3).layer(inner));
    check("retry of one attempt", 0, |inner| RetryLayer::new(1).layer(inner));
    check("timeout", 0, |inner| TimeoutLayer::new(Duration::from_secs(30)).layer(inner));
    check("fallback", 0, |inner| fallbacks().layer(inner));
    check("catch panic", 0, |inner| CatchPanicLayer::new().layer(inner));
    check("agent", 0, |inner| AgentLayer::new("research").layer(inner));
    check("chaos", 0, |inner| ChaosLayer::new().layer(inner));
}

#[test]
fn the_whole_stack_is_free_of_allocations_in_both_orders() {
    for order in [Order::Default, Order::Seed] {
        check("whole stack", 0, |inner| {
            FaultTolerantAgent::builder("research")
                .order(order)
                .fallback("backup", Ready7::default())
                .service(inner)
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_window_and_slow_calls_are_free_of_allocations() {
    check("breaker with a time window", 0, |inner| {
        CircuitBreakerLayer::new("model")
            .failure_rate(0.5)
            .window(Window::time(Duration::from_secs(60)).buckets(10))
            .slow_call(Duration::from_secs(5), 0.9)
            .layer(inner)
    });
}

#[test]
fn a_keyed_breaker_is_free_of_allocations_once_it_knows_the_key() {
    check("keyed breaker", 0, |inner| {
        CircuitBreakerLayer::keyed("model", |key: &u64| *key).layer(inner)
    });
}

#[test]
fn a_rejection_allocates_its_error_alone() {
    let is_rejected = |outcome: &Result<u64, buttress::Error>| {
        outcome.as_ref().is_err_and(buttress::Error::is_circuit_open)
    };
    let open = CircuitBreakerLayer::new("model").open_for(Duration::from_secs(30));
    open.circuit().trip();
    assert_eq!(allocations_of_a_call(open.layer(Ready7::default()), is_rejected), 1.0);
    let forced = CircuitBreakerLayer::new("model");
    forced.circuit().force_open();
    assert_eq!(allocations_of_a_call(forced.layer(Ready7::default()), is_rejected), 1.0);
}

#[test]
fn one_retry_at_once_allocates_once() {
    let retry = RetryLayer::new(3).backoff([Duration::ZERO]).layer(Fails::first(1, 2));
    assert_eq!(allocations_of_a_call(retry, |outcome| matches!(outcome, Ok(42))), 1.0);
}

#[test]
fn one_fallback_allocates_as_often_as_is_told() {
    let is_right = |outcome: &Result<u64, buttress::Error>| matches!(outcome, Ok(42));
    let backup = service_fn(|request| ready(Ok::<u64, Infallible>(request + 7)));
    let chain = FallbackLayer::new().or("backup", backup).layer(Fails::first(1, 1));
    assert_eq!(allocations_of_a_call(chain, is_right), 6.0);
    // A backup that holds something is cloned into a box of its own.
    let chain = fallbacks().layer(Fails::first(1, 1));
    assert_eq!(allocations_of_a_call(chain, is_right), 7.0);
}

/// A stream of three numbers that are there at once.
fn three(_: u64) -> Ready<Result<Three, Infallible>> {
    ready(Ok(Three(0)))
}

struct Three(u64);

impl futures_core::Stream for Three {
    type Item = Result<u64, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        self.0 += 1;
        Poll::Ready((self.0 <= 3).then_some(Ok(self.0)))
    }
}

#[test]
fn a_stream_is_free_of_allocations_from_its_call_to_its_end() {
    let mut service = tower::ServiceBuilder::new()
        .layer(RetryLayer::new(3))
        .layer(CircuitBreakerLayer::new("model").settle_at_stream_end())
        .layer(StreamTimeoutLayer::new())
        .layer(FirstItemLayer::new())
        .service_fn(three);
    let mut one = || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let mut future = std::pin::pin!(service.call(35));
        let Poll::Ready(Ok(stream)) = future.as_mut().poll(&mut cx) else { panic!("no answer") };
        let mut stream = std::pin::pin!(stream);
        let mut sum = 0;
        while let Poll::Ready(Some(Ok(item))) =
            futures_core::Stream::poll_next(stream.as_mut(), &mut cx)
        {
            sum += item;
        }
        assert_eq!(sum, 6);
    };
    one();
    let info = allocation_counter::measure(|| (0..100).for_each(|_| one()));
    assert_eq!(info.count_total, 0, "allocations in 100 streams");
}

#[test]
fn a_body_of_one_frame_is_free_of_allocations_from_its_call_to_its_end() {
    use bytes::Bytes;
    use http_body_util::Full;

    let answer = Bytes::from_static(b"fine");
    let mut service = tower::ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new("model").settle_at_body_end())
        .layer(BodyTimeoutLayer::new())
        .layer(FirstFrameLayer::new())
        .service_fn(move |_: u64| {
            ready(Ok::<_, Infallible>(http::Response::new(Full::new(answer.clone()))))
        });
    let mut one = || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let mut future = std::pin::pin!(service.call(35));
        let Poll::Ready(Ok(answer)) = future.as_mut().poll(&mut cx) else { panic!("no answer") };
        let mut body = std::pin::pin!(answer.into_body());
        let mut bytes = 0;
        while let Poll::Ready(Some(Ok(frame))) = http_body::Body::poll_frame(body.as_mut(), &mut cx)
        {
            bytes += frame.into_data().map_or(0, |data| data.len());
        }
        assert_eq!(bytes, 4);
    };
    one();
    let info = allocation_counter::measure(|| (0..100).for_each(|_| one()));
    // Each head has a table of headers, which is empty, and so takes none.
    assert_eq!(info.count_total, 0, "allocations in 100 bodies");
}
