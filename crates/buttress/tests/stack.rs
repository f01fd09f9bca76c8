//! Every layer, and the whole stack in both orders, over services that are hard to serve.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    AgentLayer, BoxError, CatchPanicLayer, ChaosLayer, CircuitBreakerLayer, Error, ErrorKind,
    Failure, FailureKind, FallbackLayer, FaultTolerantAgent, Order, RetryBudget, RetryLayer,
    TimeoutLayer,
    circuit_breaker::State,
    test_util::{Answer, Readiness, Scripted},
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimit,
    load_shed::LoadShedLayer, util::BoxCloneSyncService,
};

type Agent = BoxCloneSyncService<&'static str, &'static str, Error>;

fn script(answers: impl IntoIterator<Item = Answer<&'static str>>) -> Scripted<&'static str> {
    Scripted::new(answers)
}

fn retry() -> RetryLayer<buttress::AnyError, [Duration; 1]> {
    RetryLayer::new(3).backoff([Duration::ZERO])
}

/// How many stacks there are.
const STACKS: usize = 10;

/// Each layer alone, and the whole stack in both orders, around the same service.
fn every_stack(inner: &Scripted<&'static str>) -> Vec<(&'static str, Agent)> {
    let backup = || script([Answer::ok("backup")]);
    let boxed = |agent: Agent| agent;
    let mut all = vec![
        ("breaker", boxed(Agent::new(CircuitBreakerLayer::new("model").layer(inner.clone())))),
        ("timeout", Agent::new(TimeoutLayer::default().layer(inner.clone()))),
        ("fallback", Agent::new(FallbackLayer::new().or("backup", backup()).layer(inner.clone()))),
        ("catch panic", Agent::new(CatchPanicLayer::new().layer(inner.clone()))),
        ("agent", Agent::new(AgentLayer::new("research").layer(inner.clone()))),
        ("chaos", Agent::new(ChaosLayer::new().layer(inner.clone()))),
        ("retry", Agent::new(AgentLayer::new("research").layer(retry().layer(inner.clone())))),
        (
            "keyed breaker",
            Agent::new(
                CircuitBreakerLayer::keyed("model", |request: &&'static str| *request)
                    .layer(inner.clone()),
            ),
        ),
    ];
    for (name, order) in [("default order", Order::Default), ("seed's order", Order::Seed)] {
        let agent = FaultTolerantAgent::builder("research")
            .order(order)
            .retry(retry())
            .fallback("backup", backup())
            .service(inner.clone());
        all.push((name, Agent::new(agent)));
    }
    assert_eq!(all.len(), STACKS);
    all
}

#[tokio::test(start_paused = true)]
async fn a_strict_service_is_called_only_when_ready() {
    // Fails twice, so that retries and fallbacks call again; `Scripted` panics when unready.
    for place in 0..STACKS {
        let inner = script([Answer::error("first"), Answer::error("second"), Answer::ok("fine")]);
        let (name, agent) = every_stack(&inner).remove(place);
        for _ in 0..4 {
            drop(agent.clone().oneshot("AAPL").await);
        }
        // A panic of the service would be caught by some of the stacks.
        assert_eq!(inner.unready_calls(), 0, "{name}");
        assert!(inner.calls() >= 4, "{name} made {} calls", inner.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn retries_and_fallbacks_call_only_what_is_ready() {
    for order in [Order::Default, Order::Seed] {
        let primary = script([Answer::error("reset")]).readiness(Readiness::After(1));
        let backup = script([Answer::error("reset")]).readiness(Readiness::After(1));
        let agent = FaultTolerantAgent::builder("research")
            .order(order)
            .retry(retry())
            .fallback("backup", backup.clone())
            .service(primary.clone());
        assert!(agent.invoke("AAPL").await.is_err());
        assert_eq!((primary.calls(), backup.calls()), (3, 3), "{order:?}");
        assert_eq!((primary.unready_calls(), backup.unready_calls()), (0, 0), "{order:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_ready_only_sometimes_is_waited_for() {
    for place in 0..STACKS {
        let inner =
            script([Answer::error("first"), Answer::ok("fine")]).readiness(Readiness::After(3));
        let (name, agent) = every_stack(&inner).remove(place);
        drop(agent.clone().oneshot("AAPL").await);
        let second = agent.clone().oneshot("AAPL").await;
        assert!(second.is_ok(), "{name}: {second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_instance_serves_many_calls() {
    for place in 0..STACKS {
        let inner = script([Answer::ok("fine")]);
        let (name, mut agent) = every_stack(&inner).remove(place);
        for _ in 0..3 {
            let answer = agent.ready().await.unwrap().call("AAPL").await;
            assert_eq!(answer.unwrap(), "fine", "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_drops_the_agents_call_and_is_no_failure() {
    for place in 0..STACKS {
        let inner = script([Answer::hang()]);
        let (name, agent) = every_stack(&inner).remove(place);
        {
            let mut call = pin!(agent.oneshot("AAPL"));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending(), "{name}");
        }
        assert_eq!((inner.calls(), inner.dropped()), (1, 1), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_counts_a_dropped_call_as_cancelled_or_as_a_failure_where_it_was_told_to() {
    let layers = [
        (CircuitBreakerLayer::new("model"), (1, 0)),
        (CircuitBreakerLayer::new("model").drop_is_failure_after(Duration::from_secs(1)), (0, 1)),
    ];
    for (layer, expected) in layers {
        let call = layer.layer(script([Answer::hang()])).oneshot("AAPL");
        assert!(tokio::time::timeout(Duration::from_secs(2), call).await.is_err());
        let circuit = layer.circuit().snapshot();
        assert_eq!((circuit.cancelled, circuit.consecutive_failures), expected);
    }
}

/// Polls a call up to so many times, with some time after each poll, and drops it.
///
/// Returns how often it was polled, if it ended before.
async fn drop_after<T>(polls: usize, call: impl Future<Output = T>) -> Option<usize> {
    let mut call = Box::pin(call);
    let mut cx = Context::from_waker(Waker::noop());
    for polled in 1..=polls {
        if call.as_mut().poll(&mut cx).is_ready() {
            return Some(polled);
        }
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_call_may_be_dropped_at_each_of_its_awaits() {
    let slow = |answer: Answer<&'static str>| answer.after(Duration::from_millis(25));
    for order in [Order::Default, Order::Seed] {
        let mut polls = 0;
        loop {
            // Not ready at once, then a failure, a delay, a hang that runs out of time, and a
            // fallback that is not ready at once either.
            let primary = script([slow(Answer::error("reset")), Answer::hang()])
                .readiness(Readiness::After(2));
            let backup = script([slow(Answer::ok("backup"))]).readiness(Readiness::After(2));
            let budget = RetryBudget::share(0.5).at_least(1);
            let agent = FaultTolerantAgent::builder("research")
                .order(order)
                .timeout(Duration::from_millis(60))
                .retry(
                    RetryLayer::new(2).backoff([Duration::from_millis(20)]).budget(budget.clone()),
                )
                .fallback("backup", backup.clone())
                .service(primary.clone());
            let ended = drop_after(polls, agent.invoke("AAPL")).await;
            for service in [&primary, &backup] {
                assert_eq!(service.calls(), service.finished() + service.dropped(), "{order:?}");
            }
            assert_eq!(budget.available(), 1, "{order:?}, dropped after {polls} polls");
            let circuit = agent.circuit().snapshot();
            let counted = u64::from(circuit.consecutive_failures) + circuit.cancelled;
            assert!(counted <= 2, "{order:?}, dropped after {polls} polls: {circuit:?}");
            if ended.is_some() {
                break;
            }
            polls += 1;
        }
        assert!(polls > 10, "{order:?} has more awaits than {polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_at_any_await_gives_its_permit_back() {
    for polls in 0.. {
        let layer = CircuitBreakerLayer::new("model").open_for(Duration::from_secs(10));
        let circuit = layer.circuit();
        circuit.trip();
        tokio::time::advance(Duration::from_secs(10)).await;
        let slow = Answer::ok("fine").after(Duration::from_millis(25));
        let agent = layer.layer(script([slow]).readiness(Readiness::After(2)));
        let ended = drop_after(polls, agent.oneshot("AAPL")).await;
        let next = circuit.call(|| async { Ok::<_, Failure>("fine") }).await;
        assert!(next.is_ok(), "dropped after {polls} polls: {next:?}");
        if ended.is_some() {
            assert!(polls > 4, "a probe has more awaits than {polls}");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_gives_back_what_its_readiness_reserved() {
    let layer = CircuitBreakerLayer::new("model");
    let limited = ConcurrencyLimit::new(script([Answer::ok("fine")]), 1);
    let mut waiting = layer.layer(limited.clone());
    // Holds the only place of the limit.
    ServiceExt::<&str>::ready(&mut waiting).await.unwrap();
    layer.circuit().trip();
    assert!(waiting.call("AAPL").await.unwrap_err().is_circuit_open());
    layer.circuit().reset();
    let other = layer.layer(limited).oneshot("AAPL");
    let answer = tokio::time::timeout(Duration::from_secs(1), other).await;
    assert_eq!(answer.expect("the place was given back").unwrap(), "fine");
    ServiceExt::<&str>::ready(&mut waiting).await.unwrap();
    assert_eq!(waiting.call("AAPL").await.unwrap(), "fine");
}

#[tokio::test(start_paused = true)]
async fn a_call_may_be_dropped_in_its_delay() {
    let inner = script([Answer::error("reset")]);
    let agent = RetryLayer::new(3).layer(inner.clone());
    let mut call = Box::pin(agent.oneshot("AAPL"));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    drop(call);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!((inner.calls(), inner.finished()), (1, 1));
}

#[tokio::test]
async fn a_panic_unwinds_through_layers_and_counts_as_a_failure() {
    for answer in [Answer::panic_in_call(), Answer::panic_in_poll()] {
        let layer = CircuitBreakerLayer::new("model").consecutive_failures(1);
        let circuit = layer.circuit();
        let agent = layer.layer(script([answer]));
        let joined = tokio::spawn(agent.oneshot("AAPL")).await;
        assert!(joined.unwrap_err().is_panic());
        assert_eq!(circuit.state(), State::Open);
    }
}

#[tokio::test]
async fn the_agent_makes_a_panic_an_error_and_falls_back() {
    for order in [Order::Default, Order::Seed] {
        for answer in [Answer::panic_in_call(), Answer::panic_in_poll()] {
            let agent = FaultTolerantAgent::builder("research")
                .order(order)
                .retry(retry())
                .fallback("backup", script([Answer::ok("backup")]))
                .service(script([answer]));
            assert_eq!(agent.invoke("AAPL").await.unwrap(), "backup");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_costs_one_timeout_in_the_default_order_and_all_of_them_in_the_seeds() {
    let build = |order| {
        FaultTolerantAgent::builder("research")
            .order(order)
            .timeout(Duration::from_secs(30))
            .retry(retry())
            .fallback("backup", script([Answer::ok("backup")]))
            .service(script([Answer::hang()]))
    };
    let start = tokio::time::Instant::now();
    assert_eq!(build(Order::Default).invoke("AAPL").await.unwrap(), "backup");
    assert_eq!(start.elapsed().as_secs(), 30);

    let start = tokio::time::Instant::now();
    let error = build(Order::Seed).invoke("AAPL").await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(start.elapsed().as_secs(), 90);
}

#[tokio::test]
async fn a_breaker_counts_attempts_in_the_default_order_and_series_in_the_seeds() {
    for (order, failures) in [(Order::Default, 3), (Order::Seed, 1)] {
        let agent = FaultTolerantAgent::builder("research")
            .order(order)
            .retry(retry())
            .service(script([Answer::error("reset")]));
        assert!(agent.invoke("AAPL").await.is_err());
        assert_eq!(agent.circuit().snapshot().consecutive_failures, failures, "{order:?}");
    }
}

#[tokio::test]
async fn an_open_circuit_reaches_the_fallback() {
    let layer = CircuitBreakerLayer::new("model");
    let circuit = layer.circuit();
    circuit.force_open();
    let primary = script([Answer::ok("primary")]);
    let agent = FaultTolerantAgent::builder("research")
        .circuit(circuit)
        .retry(retry())
        .fallback("backup", script([Answer::ok("backup")]))
        .service(primary.clone());
    assert_eq!(agent.invoke("AAPL").await.unwrap(), "backup");
    assert_eq!(primary.calls(), 0);
}

#[tokio::test]
async fn an_exhausted_chain_has_every_failure() {
    let agent = FaultTolerantAgent::builder("research")
        .retry(retry())
        .fallback("small", script([Answer::error("small is down")]))
        .fallback_when(FailureKind::ContextWindowExceeded, "long", script([Answer::ok("never")]))
        .service(script([Answer::error("large is down")]));
    let error = agent.invoke("AAPL").await.unwrap_err();
    let ErrorKind::FallbackExhausted { failures, .. } = error.kind() else { panic!("{error:?}") };
    let names: Vec<_> = failures.iter().map(|failed| &*failed.agent).collect();
    assert_eq!(names, ["primary", "small"]);
    let own = error.downcast_ref::<Failure>().expect("the agent's own error is found");
    assert_eq!(own.message(), Some("small is down"));
    assert_eq!(error.to_string(), r#"agent "research": all 2 agents failed"#);
}

#[tokio::test]
async fn a_failure_every_agent_would_share_ends_the_chain() {
    let backup = script([Answer::ok("backup")]);
    let invalid = Failure::new(FailureKind::InvalidRequest).with_message("no such field");
    let agent = FallbackLayer::new().or("backup", backup.clone()).layer(script([
        Answer::failure(invalid),
        Answer::failure(Failure::new(FailureKind::Transient).with_after_output(true)),
    ]));
    for _ in 0..2 {
        let error = agent.invoke("AAPL").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Service), "{error:?}");
    }
    assert_eq!(backup.calls(), 0);
}

#[tokio::test]
async fn a_primary_that_is_not_ready_leads_to_the_fallback() {
    let down = Failure::new(FailureKind::Transient).with_message("no connection");
    let primary = script([Answer::ok("primary")]).readiness(Readiness::FailsAfterCalls(0, down));
    let chain = FallbackLayer::new().or("backup", script([Answer::ok("backup")])).layer(primary);
    assert_eq!(chain.invoke("AAPL").await.unwrap(), "backup");
}

#[tokio::test]
async fn an_error_of_readiness_between_attempts_ends_the_series() {
    let down = Failure::new(FailureKind::Transient).with_message("no connection");
    let inner =
        script([Answer::error("reset")]).readiness(Readiness::FailsAfterCalls(1, down.clone()));
    let error = retry().layer(inner.clone()).oneshot("AAPL").await.unwrap_err();
    assert_eq!((error, inner.calls()), (down, 1));
}

#[tokio::test]
async fn a_breaker_leaves_an_unready_service_alone_while_open_and_readies_it_when_admitted() {
    tokio::time::pause();
    let layer = CircuitBreakerLayer::new("model").open_for(Duration::from_secs(10));
    let circuit = layer.circuit();
    let inner = script([Answer::ok("fine")]).readiness(Readiness::After(2));
    let mut agent = layer.layer(inner.clone());
    circuit.trip();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(Service::<&str>::poll_ready(&mut agent, &mut cx), Poll::Ready(Ok(()))));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(agent.call("AAPL").await.unwrap(), "fine");
    assert_eq!(circuit.state(), State::HalfOpen);
}

#[tokio::test]
async fn a_layer_applied_twice_shares_its_circuit() {
    let layer = CircuitBreakerLayer::new("model").consecutive_failures(1);
    let sick = layer.layer(script([Answer::error("reset")]));
    let well = layer.clone().layer(script([Answer::ok("fine")]));
    assert!(sick.oneshot("AAPL").await.is_err());
    assert!(well.oneshot("AAPL").await.unwrap_err().is_circuit_open());
}

#[tokio::test(start_paused = true)]
async fn a_hung_probe_does_not_wedge_the_circuit() {
    let layer = CircuitBreakerLayer::new("model").open_for(Duration::from_secs(10));
    let circuit = layer.circuit();
    circuit.trip();
    tokio::time::advance(Duration::from_secs(10)).await;
    let hung = tokio::spawn(layer.layer(script([Answer::hang()])).oneshot("AAPL"));
    tokio::task::yield_now().await;
    let agent = layer.layer(script([Answer::ok("fine")]));
    assert!(agent.clone().oneshot("AAPL").await.unwrap_err().is_circuit_open());
    tokio::time::advance(Duration::from_secs(60)).await;
    for _ in 0..2 {
        assert_eq!(agent.clone().oneshot("AAPL").await.unwrap(), "fine");
    }
    assert_eq!(circuit.state(), State::Closed);
    hung.abort();
    assert!(hung.await.unwrap_err().is_cancelled());
    assert_eq!(circuit.snapshot().late, 1);
}

#[tokio::test(start_paused = true)]
async fn errors_stay_flat_through_towers_layers() {
    let hang = || script([Answer::hang()]);
    let stack = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(LoadShedLayer::new())
        .layer(CircuitBreakerLayer::new("model"))
        .layer(BufferLayer::new(4))
        .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(60)))
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .service(hang());
    let error = stack.oneshot("AAPL").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
    assert_eq!(error.agent(), Some("research"));
    assert!(is_flat(&error), "{error:?}");

    let foreign = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(60)))
        .layer(CatchPanicLayer::new())
        .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(1)))
        .service(hang());
    let error = foreign.oneshot("AAPL").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Service));
    assert!(error.downcast_ref::<tower::timeout::error::Elapsed>().is_some());
}

/// Puts the layers around a service in one of the orders of a list of numbers.
fn stacked(order: &[usize], service: Agent) -> Agent {
    let mut stack = service;
    for layer in order.iter().rev() {
        stack = match layer {
            0 => Agent::new(AgentLayer::new("research").layer(stack)),
            1 => Agent::new(CircuitBreakerLayer::new("model").layer(stack)),
            2 => Agent::new(AgentLayer::new("inner").layer(retry().layer(stack))),
            3 => Agent::new(FallbackLayer::new().layer(stack)),
            4 => Agent::new(TimeoutLayer::default().layer(LoadShedLayer::new().layer(stack))),
            5 => {
                let slow = tower::timeout::TimeoutLayer::new(Duration::from_secs(3_600));
                Agent::new(CatchPanicLayer::new().layer(slow.layer(stack)))
            }
            _ => unreachable!("six layers"),
        };
    }
    stack
}

fn orders(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(of - 1) {
        for place in 0..of {
            let mut order = shorter.clone();
            order.insert(place, of - 1);
            all.push(order);
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn errors_are_flat_in_every_order_of_layers_with_towers_in_between() {
    let all = orders(6);
    assert_eq!(all.len(), 720);
    for order in all {
        let invalid = Failure::new(FailureKind::InvalidRequest).with_message("no such field");
        let service = Agent::new(
            TimeoutLayer::new(Duration::from_secs(1))
                .layer(script([Answer::hang(), Answer::failure(invalid.clone())])),
        );
        // Once ours; a retry in the stack makes the second call.
        let stack = stacked(&order, service.clone());
        let error = match stack.oneshot("AAPL").await {
            Err(error) if order.contains(&2) => error,
            other => panic!("{order:?}: {other:?}"),
        };
        assert!(matches!(error.kind(), ErrorKind::Service), "{order:?}: {error:?}");
        let own = error.downcast_ref::<Failure>();
        assert_eq!(own.and_then(Failure::message), Some("no such field"), "{order:?}");
        let source = std::error::Error::source(&error).expect("the agent's own error");
        assert!(source.is::<Failure>(), "{order:?}: {source:?} stands between");
    }
}

/// Whether no other error stands behind one of ours, but for the status that tonic reads.
fn is_flat(error: &Error) -> bool {
    std::error::Error::source(error).is_none_or(|source| source.is::<tonic::Status>())
}

#[tokio::test(start_paused = true)]
async fn our_own_errors_are_flat_in_every_order_of_layers() {
    for order in orders(6) {
        let breaker = CircuitBreakerLayer::new("inner");
        breaker.circuit().force_open();
        let service = Agent::new(breaker.layer(script([Answer::ok("never")])));
        let error = stacked(&order, service).oneshot("AAPL").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::CircuitOpen { .. }), "{order:?}: {error:?}");
        assert!(is_flat(&error), "{order:?}: {error:?}");
    }
}

/// An error that holds the whole request, as careless ones do.
#[derive(Debug)]
struct Careless {
    _request: &'static str,
}

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Careless {}

#[tokio::test]
async fn debug_shows_what_an_agents_error_says_and_not_what_it_holds() {
    let careless = tower::service_fn(|request: &'static str| async move {
        Err::<&'static str, _>(Careless { _request: request })
    });
    for order in [Order::Default, Order::Seed] {
        let agent = FaultTolerantAgent::builder("research")
            .order(order)
            .retry(retry())
            .fallback("backup", careless)
            .service(careless);
        let error = agent.invoke("a secret prompt").await.unwrap_err();
        let shown = format!("{error} {error:?} {:#?}", error.kind());
        assert!(shown.contains("refused") && !shown.contains("secret"), "{order:?}: {shown}");
    }
}

#[tokio::test]
async fn a_call_that_has_answered_may_panic_when_it_is_dropped() {
    struct Bomb(Option<&'static str>);
    impl Future for Bomb {
        type Output = Result<&'static str, BoxError>;
        fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(self.0.take().expect("polled once")))
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let agent = FaultTolerantAgent::builder("research")
        .service(tower::service_fn(|answer: &'static str| Bomb(Some(answer))));
    assert_eq!(agent.invoke("fine").await.unwrap(), "fine");
}

#[tokio::test]
async fn errors_show_nothing_of_the_request() {
    let secret = "sk-secret prompt";
    for (name, agent) in every_stack(&script([Answer::error("reset")])) {
        let Err(error) = agent.oneshot(secret).await else { continue };
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{name}: {shown}");
    }
    let agent =
        CatchPanicLayer::new().layer(tower::service_fn(|prompt: &'static str| async move {
            assert!(prompt.is_empty(), "cannot handle {prompt}");
            Ok::<_, BoxError>(prompt)
        }));
    let error = agent.oneshot(secret).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[test]
fn a_zero_delay_needs_no_timer_driver() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let inner = script([Answer::error("first"), Answer::ok("fine")]);
    let agent = TimeoutLayer::default().layer(retry().layer(inner));
    assert_eq!(runtime.block_on(agent.oneshot("AAPL")).unwrap(), "fine");
}

#[tokio::test]
async fn requests_that_are_not_clone_are_replayed_by_a_function() {
    #[derive(Debug)]
    struct Prompt(&'static str);
    let agent = retry()
        .replay_with(|prompt: &Prompt| Some(Prompt(prompt.0)))
        .layer(script([Answer::error("reset"), Answer::ok("fine")]));
    assert_eq!(agent.oneshot(Prompt("AAPL")).await.unwrap(), "fine");

    let inner = script([Answer::error("reset"), Answer::ok("fine")]);
    let agent = retry().replay_with(|_: &Prompt| None).layer(inner.clone());
    assert!(agent.oneshot(Prompt("AAPL")).await.is_err());
    assert_eq!(inner.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn plain_functions_are_guarded_by_the_same_code() {
    let reset = || std::io::Error::other("reset");
    let circuit = CircuitBreakerLayer::new("model").consecutive_failures(1).circuit();
    assert!(circuit.call(|| async { Err::<(), _>(reset()) }).await.is_err());
    let rejected = circuit.call(|| async { Ok::<_, std::io::Error>(()) }).await;
    assert!(rejected.unwrap_err().is_circuit_open());

    let calls = std::cell::Cell::new(0);
    let answer = RetryLayer::new(3)
        .execute(|| async {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(reset()) } else { Ok("fine") }
        })
        .await;
    assert_eq!((answer.unwrap(), calls.get()), ("fine", 3));

    let limit = TimeoutLayer::new(Duration::from_secs(1));
    let hang = || std::future::pending::<Result<(), std::io::Error>>();
    assert!(limit.call_with_timeout(hang).await.unwrap_err().is_timeout());
}

#[tokio::test]
async fn a_call_budget_bounds_all_agents_together() {
    use buttress::{BudgetLimit, CallBudget, HasCallBudget, InRequest};
    #[derive(Clone)]
    struct Request(CallBudget);
    impl HasCallBudget for Request {
        fn call_budget(&self) -> Option<&CallBudget> {
            Some(&self.0)
        }
    }
    let primary = script([Answer::error("reset")]);
    let backup = script([Answer::ok("backup")]);
    let agent = FaultTolerantAgent::builder("research")
        .call_budget(InRequest)
        .retry(retry())
        .fallback("backup", backup.clone())
        .service(primary.clone());
    let error = agent.invoke(Request(CallBudget::new().attempts(2))).await.unwrap_err();
    let ErrorKind::BudgetExhausted { limit, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(*limit, BudgetLimit::Attempts);
    assert_eq!((primary.calls(), backup.calls()), (2, 0));
    assert!(error.downcast_ref::<Failure>().is_some());
}
