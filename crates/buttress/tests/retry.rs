//! Retries: their randomness, their deadline, and the budget of a call over all its agents.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    AgentLayer, BudgetLimit, BySource, CallBudget, CircuitBreakerLayer, Classify, Error, ErrorKind,
    Failure, FailureKind, FallbackLayer, FaultTolerantAgent, HasCallBudget, InRequest, Order,
    Outcome, RetryBudget, RetryLayer, Stop,
    test_util::{Answer, Readiness, Scripted},
};
use tower::{Layer, Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

fn reset() -> Answer<&'static str> {
    Answer::error("reset")
}

fn script(answers: impl IntoIterator<Item = Answer<&'static str>>) -> Scripted<&'static str> {
    Scripted::new(answers)
}

fn at_once(attempts: usize) -> RetryLayer<buttress::AnyError, [Duration; 1]> {
    RetryLayer::new(attempts).backoff([Duration::ZERO])
}

#[derive(Clone)]
struct Request(CallBudget);

impl HasCallBudget for Request {
    fn call_budget(&self) -> Option<&CallBudget> {
        Some(&self.0)
    }
}

// ===== randomness =====

#[tokio::test(start_paused = true)]
async fn what_failed_together_does_not_come_back_together() {
    let delays = Arc::new(Mutex::new(Vec::new()));
    let layer = RetryLayer::new(2).on_finish({
        let delays = Arc::clone(&delays);
        move |report| delays.lock().unwrap().extend_from_slice(report.delays)
    });
    for _ in 0..3 {
        assert!(layer.execute(|| async { Err::<(), _>("reset") }).await.is_err());
        drop(layer.layer(script([reset()])).oneshot("AAPL").await);
    }
    let mut delays = delays.lock().unwrap().clone();
    delays.sort_unstable();
    delays.dedup();
    assert_eq!(delays.len(), 6, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_seed_repeats_the_delays_of_a_layer() {
    let delays = async |seed| {
        let delays = Arc::new(Mutex::new(Vec::new()));
        let layer = RetryLayer::new(3).seed(seed).on_finish({
            let delays = Arc::clone(&delays);
            move |report| delays.lock().unwrap().extend_from_slice(report.delays)
        });
        for _ in 0..2 {
            drop(layer.layer(script([reset()])).oneshot("AAPL").await);
        }
        std::mem::take(&mut *delays.lock().unwrap())
    };
    assert_eq!(delays(7).await, delays(7).await);
    assert_ne!(delays(7).await, delays(8).await);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_waited_for_with_a_tenth_more_at_most() {
    for seed in 0..50 {
        let asked = Failure::new(FailureKind::RateLimited).with_retry_after(10 * SECOND);
        let inner = script([Answer::failure(asked), Answer::ok("fine")]);
        let start = tokio::time::Instant::now();
        let layer = RetryLayer::new(2).seed(seed);
        assert_eq!(layer.layer(inner).oneshot("AAPL").await.unwrap(), "fine");
        let waited = start.elapsed();
        assert!((10 * SECOND..=11 * SECOND).contains(&waited), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clamped_retry_after_is_the_longest_wait() {
    let asked = Failure::new(FailureKind::RateLimited).with_retry_after(100 * SECOND);
    let inner = script([Answer::failure(asked), Answer::ok("fine")]);
    let start = tokio::time::Instant::now();
    let layer = RetryLayer::new(2).over_cap(buttress::OverCap::Clamp);
    let layer = layer.max_retry_after(10 * SECOND);
    assert_eq!(layer.layer(inner).oneshot("AAPL").await.unwrap(), "fine");
    assert_eq!(start.elapsed(), 10 * SECOND);
}

// ===== the deadline =====

/// Is ready at once, and after its first call only after a time.
#[derive(Clone)]
struct SlowToReady {
    inner: Scripted<&'static str>,
    after: Duration,
    waiting: Arc<Mutex<Option<std::pin::Pin<Box<tokio::time::Sleep>>>>>,
}

impl SlowToReady {
    fn new(inner: Scripted<&'static str>, after: Duration) -> Self {
        Self { inner, after, waiting: Arc::default() }
    }
}

impl<Req> Service<Req> for SlowToReady {
    type Response = &'static str;
    type Error = Failure;
    type Future = <Scripted<&'static str> as Service<Req>>::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Failure>> {
        if self.inner.calls() > 0 {
            let mut waiting = self.waiting.lock().expect("nobody panics with the lock");
            let sleep = waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.after)));
            std::task::ready!(Future::poll(sleep.as_mut(), cx));
        }
        Service::<Req>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.inner.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_past_the_deadline_however_long_readiness_takes() {
    let stops = Arc::new(Mutex::new(Vec::new()));
    let inner = script([reset(), Answer::ok("late")]);
    let layer = at_once(3).deadline(SECOND).on_finish({
        let stops = Arc::clone(&stops);
        move |report| stops.lock().unwrap().push((report.attempts, report.stop))
    });
    let start = tokio::time::Instant::now();
    let slow = SlowToReady::new(inner.clone(), 100 * SECOND);
    let error = layer.layer(slow).oneshot("AAPL").await.unwrap_err();
    assert_eq!((error.message(), inner.calls()), (Some("reset"), 1));
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(*stops.lock().unwrap(), [(1, Stop::Deadline)]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_bounds_the_wait_for_readiness_as_well() {
    let budget = CallBudget::new().deadline(SECOND);
    let inner = script([reset(), Answer::ok("late")]);
    let slow = SlowToReady::new(inner.clone(), 100 * SECOND);
    let layer = at_once(3).call_budget(InRequest);
    assert!(layer.layer(slow).oneshot(Request(budget.clone())).await.is_err());
    assert_eq!((inner.calls(), budget.exhausted()), (1, Some(BudgetLimit::Deadline)));
}

// ===== the budget of a call =====

#[tokio::test]
async fn an_attempt_that_the_retry_budget_forbids_costs_the_call_nothing() {
    let none_left = RetryBudget::tokens(10).starting_at(0);
    let backup = script([Answer::ok("backup")]);
    let agent = FaultTolerantAgent::builder("research")
        .call_budget(InRequest)
        .retry(at_once(3).budget(none_left))
        .fallback("backup", backup.clone())
        .service(script([reset()]));
    let answer = agent.invoke(Request(CallBudget::new().attempts(2))).await;
    assert_eq!((answer.unwrap(), backup.calls()), ("backup", 1));
}

#[tokio::test]
async fn every_agent_of_a_chain_takes_an_attempt_also_without_retries() {
    let (first, second) = (script([reset()]), script([Answer::ok("backup")]));
    let chain = FallbackLayer::new()
        .call_budget(InRequest)
        .or("first", first.clone())
        .or("second", second.clone())
        .layer(script([reset()]));
    let budget = CallBudget::new().attempts(2);
    let error = chain.invoke(Request(budget.clone())).await.unwrap_err();
    assert_eq!((first.calls(), second.calls(), budget.attempts_left()), (1, 0, Some(0)));
    let ErrorKind::BudgetExhausted { limit, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(*limit, BudgetLimit::Attempts);
}

#[tokio::test]
async fn a_budget_counts_the_calls_of_agents_in_both_orders() {
    for order in [Order::Default, Order::Seed] {
        for attempts in 1..6 {
            let (primary, backup) = (script([reset()]), script([reset()]));
            let agent = FaultTolerantAgent::builder("research")
                .order(order)
                .call_budget(InRequest)
                .retry(at_once(3))
                .fallback("backup", backup.clone())
                .service(primary.clone());
            let budget = CallBudget::new().attempts(attempts);
            let error = agent.invoke(Request(budget.clone())).await.unwrap_err();
            let calls = primary.calls() + backup.calls();
            assert_eq!(calls, attempts as usize, "{order:?}");
            assert_eq!(budget.exhausted(), Some(BudgetLimit::Attempts), "{order:?}");
            // In the seed's order the retry is the outermost that knows, and has no error for it.
            let told = matches!(error.kind(), ErrorKind::BudgetExhausted { .. });
            assert!(told || order == Order::Seed, "{attempts} attempts: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_without_fallbacks_says_which_limit_ran_out() {
    let agent = FaultTolerantAgent::builder("research")
        .call_budget(InRequest)
        .retry(at_once(3))
        .service(script([reset()]));
    let error = agent.invoke(Request(CallBudget::new().attempts(2))).await.unwrap_err();
    let ErrorKind::BudgetExhausted { limit, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(*limit, BudgetLimit::Attempts);
    assert!(error.downcast_ref::<Failure>().is_some(), "the last failure is its source");
}

// ===== what a chain comes to =====

#[tokio::test]
async fn a_chain_that_some_agent_processed_is_not_repeated_where_that_does_harm() {
    let unreached = Failure::new(FailureKind::Transient).with_unprocessed(true);
    for order in [Order::Default, Order::Seed] {
        let primary = script([reset()]);
        let agent = FaultTolerantAgent::builder("research")
            .order(order)
            .retry(at_once(1))
            .fallback("backup", script([Answer::failure(unreached.clone())]))
            .service(primary.clone());
        let outer = at_once(3).idempotent(false).layer(agent);
        assert!(outer.oneshot("AAPL").await.is_err());
        assert_eq!(primary.calls(), 1, "{order:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_asks_for_the_shortest_wait_of_its_agents() {
    let open_for = |seconds: u32| {
        let layer = CircuitBreakerLayer::new("model");
        layer.circuit().trip_for(SECOND * seconds);
        layer.layer(script([Answer::ok("never")]))
    };
    let chain = FallbackLayer::new().or("backup", open_for(50)).layer(open_for(5));
    let error = chain.invoke("AAPL").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(5 * SECOND));
    assert!(error.is_circuit_open());
}

#[tokio::test(start_paused = true)]
async fn is_timeout_finds_a_timeout_of_any_agent_of_a_chain() {
    let agent = FaultTolerantAgent::builder("research")
        .fallback("backup", script([reset()]))
        .max_attempts(1)
        .service(script([Answer::hang()]));
    let error: Error = AgentLayer::new("outer").layer(agent).oneshot("AAPL").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::FallbackExhausted { .. }));
    assert!(error.is_timeout() && !error.is_circuit_open());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_retried_where_no_other_agent_takes_it() {
    let primary = script([Answer::hang(), Answer::ok("fine")]);
    let agent = FaultTolerantAgent::builder("research")
        .retry(at_once(2))
        .fallback_when(FailureKind::ContextWindowExceeded, "long", script([Answer::ok("never")]))
        .service(primary);
    assert_eq!(agent.invoke("AAPL").await.unwrap(), "fine");

    let last = script([Answer::hang(), Answer::ok("second try")]);
    let agent = FaultTolerantAgent::builder("research")
        .retry(at_once(2))
        .fallback("last", last)
        .service(script([Answer::hang()]));
    assert_eq!(agent.invoke("AAPL").await.unwrap(), "second try");
}

// ===== classifiers and nesting =====

#[derive(Debug)]
struct Wrapped(Failure);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrapped")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn by_source_finds_what_any_error_holds() {
    let error = Wrapped(Failure::new(FailureKind::QuotaExhausted));
    let outcome = Classify::<(), _>::classify(&BySource, Err(&error));
    assert_eq!(outcome, Outcome::Failure(Failure::new(FailureKind::QuotaExhausted)));
    let plain = std::io::Error::other("reset");
    let outcome = Classify::<(), _>::classify(&BySource, Err(&plain));
    assert_eq!(outcome, Outcome::Failure(Failure::new(FailureKind::Transient)));
    assert_eq!(Classify::<_, Wrapped>::classify(&BySource, Ok(&())), Outcome::Success);
}

#[tokio::test]
async fn a_closure_classifies_a_whole_chain() {
    let empty = |result: Result<&&'static str, &Failure>| match result {
        Ok(&"") => Failure::new(FailureKind::Transient).into(),
        Ok(_) => Outcome::Success,
        Err(failure) => failure.clone().into(),
    };
    let chain = FallbackLayer::new()
        .classify(empty)
        .or("first", script([Answer::ok("")]))
        .or("second", script([Answer::ok("fine")]))
        .layer(script([Answer::ok("")]));
    assert_eq!(chain.invoke("AAPL").await.unwrap(), "fine");
}

#[tokio::test]
async fn the_outermost_retry_alone_retries() {
    let inner = script([reset()]);
    let nested = at_once(3).outermost().layer(at_once(3).layer(inner.clone()));
    assert!(nested.oneshot("AAPL").await.is_err());
    assert_eq!(inner.calls(), 3);

    let inner = script([reset()]).readiness(Readiness::After(1));
    let nested = at_once(3).layer(at_once(3).layer(inner.clone()));
    assert!(nested.oneshot("AAPL").await.is_err());
    assert_eq!(inner.calls(), 9);
}
