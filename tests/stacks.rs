//! tower's own layers together with ours, one stack each: what passes through, what counts, and which
//! order is wrong.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::{
    AnyError, BoxError, CircuitBreakerLayer, Classify as _, Error, ErrorKind, Failure, FailureKind,
    FallbackLayer, HttpClassifier, Outcome, RetryLayer, TimeoutLayer,
    circuit_breaker::State,
    test_util::{Answer, Scripted},
};
use http::{Request, Response};
use tokio::time::Instant;
use tower::{
    Layer as _, Service, ServiceBuilder, ServiceExt,
    balance::p2c::Balance,
    buffer::BufferLayer,
    discover::ServiceList,
    limit::{ConcurrencyLimitLayer, RateLimitLayer},
    load::{CompleteOnResponse, PendingRequests},
    load_shed::{LoadShedLayer, error::Overloaded},
    service_fn,
};
use tower_http::trace::TraceLayer;

const SECOND: Duration = Duration::from_secs(1);

fn script(answers: impl IntoIterator<Item = Answer<&'static str>>) -> Scripted<&'static str> {
    Scripted::new(answers)
}

fn reset() -> Answer<&'static str> {
    Answer::error("reset")
}

// ===== concurrency limit =====

#[tokio::test(start_paused = true)]
async fn a_dropped_call_and_one_that_timed_out_give_their_places_back() {
    let stack = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new("model"))
        .layer(TimeoutLayer::new(SECOND))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(script([Answer::hang(), Answer::hang(), Answer::ok("fine")]));
    // The caller gives up.
    tokio::time::timeout(SECOND / 2, stack.clone().oneshot("AAPL")).await.unwrap_err();
    // The limit ends the next one.
    assert!(stack.clone().oneshot("AAPL").await.unwrap_err().is_timeout());
    assert_eq!(stack.clone().oneshot("AAPL").await.unwrap(), "fine");
    // None of them is called without readiness: the script would panic.
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_its_place_outside_of_the_limit_it_holds() {
    let slow = || Answer::ok("fine").after(10 * SECOND);
    let service = script([reset(), slow(), slow()]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(2).backoff([SECOND]))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(service.clone());
    let first = tokio::spawn(stack.clone().oneshot("first"));
    tokio::task::yield_now().await;
    // While the first one sleeps before its retry it holds no place.
    let started = Instant::now();
    assert_eq!(stack.clone().oneshot("second").await.unwrap(), "fine");
    assert_eq!(started.elapsed(), 10 * SECOND);
    assert_eq!(first.await.unwrap().unwrap(), "fine");
    assert_eq!((service.calls(), started.elapsed()), (3, 20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_holds_no_place() {
    let breaker = CircuitBreakerLayer::new("model");
    let circuit = breaker.circuit();
    let limited = ConcurrencyLimitLayer::new(1).layer(script([Answer::ok("fine")]));
    let mut guarded = breaker.layer(limited.clone());
    ServiceExt::<&'static str>::ready(&mut guarded).await.unwrap();
    circuit.trip();
    // It was made ready, and so had the place, when the circuit opened.
    assert!(guarded.call("AAPL").await.unwrap_err().is_circuit_open());
    assert_eq!(limited.oneshot("AAPL").await.unwrap(), "fine");
}

// ===== load shed =====

#[tokio::test(start_paused = true)]
async fn what_load_shed_turns_away_is_tried_again_and_falls_back() {
    let limited = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(script([Answer::hang(), Answer::ok("fine")]));
    let hanging = tokio::spawn(limited.clone().oneshot("AAPL"));
    tokio::task::yield_now().await;
    let breaker = CircuitBreakerLayer::new("model").consecutive_failures(1);
    let circuit = breaker.circuit();
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::new().or("small", script([Answer::ok("backup")])))
        .layer(breaker)
        .service(limited.clone());
    assert_eq!(stack.clone().oneshot("AAPL").await.unwrap(), "backup");
    assert_eq!(circuit.state(), State::Open);
    // The place is free again.
    hanging.abort();
    drop(hanging.await);
    circuit.reset();
    assert_eq!(stack.oneshot("AAPL").await.unwrap(), "fine");
    let error: BoxError = Overloaded::new().into();
    let ours = Error::from_service(error, |_| buttress::FailureKind::Overloaded.into());
    assert!(ours.downcast_ref::<Overloaded>().is_some());
}

/// The wrong order: outside of a breaker, load shed takes its own rejections for none of its business,
/// and a retry further out repeats what the service has no room for.
#[tokio::test(start_paused = true)]
async fn retries_outside_of_load_shed_multiply_what_there_is_no_room_for() {
    let shed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&shed);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(3).backoff([Duration::ZERO; 2]))
        .map_request(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            request
        })
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(script([Answer::hang()]));
    let hanging = tokio::spawn(stack.clone().oneshot("AAPL"));
    tokio::task::yield_now().await;
    let error = stack.oneshot("AAPL").await.unwrap_err();
    assert!(error.is::<Overloaded>());
    assert_eq!(shed.load(Ordering::Relaxed), 1 + 3);
    hanging.abort();
}

// ===== rate limit =====

#[tokio::test(start_paused = true)]
async fn behind_a_buffer_the_wait_for_a_rate_limit_is_part_of_the_time_of_a_call() {
    let limited =
        RateLimitLayer::new(1, 10 * SECOND).layer(script([reset(), reset(), Answer::ok("fine")]));
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(3).backoff([Duration::ZERO; 2]))
        .layer(TimeoutLayer::new(SECOND))
        // A rate limit is no `Clone`; behind a buffer it is shared.
        .layer(BufferLayer::new(1))
        .service(limited);
    let started = Instant::now();
    // The first attempt fails at once; the next two have a place in the buffer, and wait in it.
    assert!(stack.oneshot("AAPL").await.unwrap_err().is_timeout());
    assert_eq!(started.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_rate_limit_is_no_part_of_the_time_of_a_call() {
    let limited = RateLimitLayer::new(1, 10 * SECOND);
    let mut stack = TimeoutLayer::new(SECOND).layer(limited.layer(script([Answer::ok("fine")])));
    let started = Instant::now();
    for _ in 0..3 {
        let ready = ServiceExt::<&str>::ready(&mut stack).await.unwrap();
        assert_eq!(ready.call("AAPL").await.unwrap(), "fine");
    }
    assert_eq!(started.elapsed(), 20 * SECOND);
}

// ===== buffer =====

#[tokio::test(start_paused = true)]
async fn errors_stay_flat_through_a_buffer_and_its_end_is_an_error() {
    let breaker = CircuitBreakerLayer::new("model").consecutive_failures(1);
    let circuit = breaker.circuit();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(60 * SECOND).agent_id("research"))
        .layer(BufferLayer::new(4))
        .layer(breaker)
        .layer(TimeoutLayer::new(SECOND))
        .service(script([Answer::hang(), Answer::ok("fine")]));
    let error = stack.clone().oneshot("AAPL").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
    assert_eq!(circuit.state(), State::Open);
    assert!(stack.clone().oneshot("AAPL").await.unwrap_err().is_circuit_open());
}

#[tokio::test]
async fn a_buffer_whose_service_panicked_is_closed_and_a_fallback_takes_over() {
    let buffered = ServiceBuilder::new().layer(BufferLayer::new(4)).service(service_fn(
        |_: &'static str| -> std::future::Ready<Result<&'static str, Infallible>> {
            panic!("oops")
        },
    ));
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::new().or("small", script([Answer::ok("backup")])))
        .service(buffered);
    for _ in 0..2 {
        assert_eq!(stack.clone().oneshot("AAPL").await.unwrap(), "backup");
    }
}

// ===== balance =====

#[tokio::test(start_paused = true)]
async fn a_balance_over_endpoints_with_a_circuit_each_goes_on_without_the_one_that_fails() {
    let calls: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let breakers: Vec<_> = (0..3)
        .map(|number| {
            CircuitBreakerLayer::new(format!("endpoint-{number}")).consecutive_failures(3)
        })
        .collect();
    let circuits: Vec<_> = breakers.iter().map(CircuitBreakerLayer::circuit).collect();
    let endpoints =
        breakers.into_iter().zip(calls.clone()).enumerate().map(|(number, (layer, calls))| {
            let endpoint = layer.layer(service_fn(move |_: &'static str| {
                calls.fetch_add(1, Ordering::Relaxed);
                async move { if number == 0 { Err("reset") } else { Ok("fine") } }
            }));
            PendingRequests::new(endpoint, CompleteOnResponse::default())
        });
    let balance = Balance::new(ServiceList::new::<&'static str>(endpoints));
    // A balance is no `Clone`; behind a buffer it is shared.
    let balance = ServiceBuilder::new().layer(BufferLayer::new(16)).service(balance);
    // An open circuit is never retried: the same one would be met. Here another endpoint may be chosen, so
    // it is no more than one that has no room.
    let elsewhere = |result: Result<&&str, &BoxError>| match AnyError.classify(result) {
        Outcome::Failure(failure) if failure.kind() == FailureKind::CircuitOpen => {
            Failure::new(FailureKind::Overloaded).into()
        }
        outcome => outcome,
    };
    let retry = RetryLayer::new(33).backoff([Duration::ZERO; 32]).classify(elsewhere);
    let agent = retry.layer(balance);
    for _ in 0..200 {
        assert_eq!(agent.clone().oneshot("AAPL").await.unwrap(), "fine");
    }
    assert_eq!(circuits[0].state(), State::Open);
    assert_eq!(calls[0].load(Ordering::Relaxed), 3);
    let good: usize = calls[1..].iter().map(|calls| calls.load(Ordering::Relaxed)).sum();
    assert_eq!(good, 200);
}

// ===== trace =====

#[tokio::test]
async fn a_trace_layer_sees_every_attempt_inside_and_one_answer_outside_of_a_retry() {
    let seen = |counter: &Arc<AtomicUsize>| {
        let counter = Arc::clone(counter);
        TraceLayer::new_for_http().on_request(move |_: &Request<String>, _: &tracing::Span| {
            counter.fetch_add(1, Ordering::Relaxed);
        })
    };
    let (outside, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls = Arc::new(AtomicUsize::new(0));
    let answers = Arc::clone(&calls);
    let stack = ServiceBuilder::new()
        .layer(seen(&outside))
        .layer(RetryLayer::new(3).backoff([Duration::ZERO; 2]).classify(HttpClassifier::new()))
        .layer(seen(&inside))
        .service_fn(move |_: Request<String>| {
            let status = if answers.fetch_add(1, Ordering::Relaxed) < 2 { 503 } else { 200 };
            async move {
                Ok::<_, Infallible>(Response::builder().status(status).body(String::new()).unwrap())
            }
        });
    let response = stack.oneshot(Request::new("AAPL".to_owned())).await.unwrap();
    assert_eq!(response.status(), 200);
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert_eq!((count(&outside), count(&inside), count(&calls)), (1, 3, 3));
}
