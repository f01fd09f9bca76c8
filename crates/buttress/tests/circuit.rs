//! The handles of circuits: listeners, keys, rate limits, new rules.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use buttress::{
    AfterLease, Circuit, CircuitBreakerConfig, CircuitBreakerLayer, Failure, FailureKind, HalfOpen,
    circuit_breaker::State,
    test_util::{Answer, PanicsOnDrop, Readiness, Scripted},
};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn listeners_hear_in_order_use_the_circuit_and_may_panic() {
    let circuit = CircuitBreakerLayer::new("model").circuit();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let _panics = circuit.subscribe(|_| std::panic::resume_unwind(Box::new("listener")));
    let _listens = circuit.subscribe({
        let (heard, circuit) = (Arc::clone(&heard), circuit.clone());
        move |change| {
            // Neither a look at the circuit nor a change of it deadlocks.
            if circuit.state() == State::Open {
                circuit.reset();
            }
            heard.lock().unwrap().push(change.to_string());
        }
    });
    circuit.trip();
    assert_eq!(*heard.lock().unwrap(), ["CLOSED -> OPEN", "OPEN -> CLOSED"]);
}

#[test]
fn a_dropped_subscription_hears_nothing() {
    let circuit = CircuitBreakerLayer::new("model").circuit();
    let heard = Arc::new(Mutex::new(0));
    let subscription = circuit.subscribe({
        let heard = Arc::clone(&heard);
        move |_| *heard.lock().unwrap() += 1
    });
    circuit.trip();
    drop(subscription);
    circuit.reset();
    assert_eq!(*heard.lock().unwrap(), 1);
}

#[tokio::test]
async fn each_key_has_a_circuit_of_its_own() {
    let layer = CircuitBreakerLayer::keyed("provider", |model: &&str| (*model).to_owned())
        .like(&CircuitBreakerLayer::new("rules").consecutive_failures(1));
    let circuits = layer.circuits();
    let agent = layer.layer(service_fn(|model: &str| {
        let result = if model == "sick" { Err(std::io::Error::other("reset")) } else { Ok(()) };
        async move { result }
    }));
    assert!(agent.clone().oneshot("sick").await.is_err());
    let error = agent.clone().oneshot("sick").await.unwrap_err();
    assert_eq!(error.to_string().split(',').next(), Some(r#"circuit "provider/sick" is open"#));
    assert!(agent.clone().oneshot("well").await.is_ok());
    assert_eq!(circuits.iter().count(), 2);
    assert!(circuits.get(&"unknown".to_owned()).is_none());
}

#[tokio::test(start_paused = true)]
async fn keys_are_bounded_and_an_open_circuit_is_never_forgotten() {
    let layer = CircuitBreakerLayer::keyed("provider", |key: &u32| *key)
        .capacity(3)
        .idle(Duration::from_secs(60));
    let circuits = layer.circuits();
    let agent = layer.layer(service_fn(|_: u32| async { Ok::<_, std::io::Error>(()) }));
    agent.clone().oneshot(0).await.unwrap();
    circuits.get(&0).unwrap().force_open();
    for key in 1..20 {
        agent.clone().oneshot(key).await.unwrap();
    }
    assert_eq!(circuits.iter().count(), 3);
    tokio::time::advance(Duration::from_secs(120)).await;
    agent.clone().oneshot(100).await.unwrap();
    let mut keys: Vec<_> = circuits.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    assert_eq!(keys, [0, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_forgotten_comes_back_with_another_circuit() {
    let layer = CircuitBreakerLayer::keyed("provider", |key: &u32| *key).capacity(1);
    let circuits = layer.circuits();
    let agent = layer.layer(service_fn(|_: u32| async { Ok::<_, std::io::Error>(()) }));
    agent.clone().oneshot(0).await.unwrap();
    let first = circuits.get(&0).unwrap();
    assert!(first.is_same(&circuits.get(&0).unwrap()));
    agent.clone().oneshot(1).await.unwrap();
    agent.clone().oneshot(0).await.unwrap();
    let second = circuits.get(&0).unwrap();
    assert_eq!(first.name(), second.name());
    assert!(!first.is_same(&second));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_opens_only_on_request_and_never_longer_than_allowed() {
    let limited = || {
        let failure = Failure::new(FailureKind::RateLimited);
        Scripted::new([Answer::<()>::failure(failure.with_retry_after(Duration::from_secs(600)))])
    };
    let plain = CircuitBreakerLayer::new("model").consecutive_failures(1);
    assert!(plain.layer(limited()).oneshot("AAPL").await.is_err());
    assert_eq!(plain.circuit().state(), State::Closed);

    let opens = CircuitBreakerLayer::new("model").rate_limit_opens();
    assert!(opens.layer(limited()).oneshot("AAPL").await.is_err());
    assert_eq!(opens.circuit().snapshot().retry_after, Some(Duration::from_secs(60)));
}

#[test]
fn wrong_new_rules_change_nothing() {
    let circuit = CircuitBreakerLayer::new("model").circuit();
    let mut config = CircuitBreakerConfig::default();
    config.failure_rate = Some(2.0);
    assert_eq!(circuit.reconfigure(config).unwrap_err().field(), "failure_rate");
}

#[tokio::test(start_paused = true)]
async fn a_place_in_a_queue_is_taken_along_by_the_probe_that_follows() {
    let layer = CircuitBreakerLayer::new("model").open_for(10 * SECOND);
    let limited = ConcurrencyLimit::new(Scripted::new([Answer::ok("fine")]), 1);
    let mut busy = limited.clone();
    ServiceExt::<&str>::ready(&mut busy).await.unwrap();
    // Stands in the queue for the only place when the circuit opens.
    let mut agent = layer.layer(limited);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Service::<&str>::poll_ready(&mut agent, &mut cx).is_pending());
    layer.circuit().trip();
    tokio::time::advance(10 * SECOND).await;
    drop(busy);
    let probe = tokio::time::timeout(SECOND, agent.call("AAPL")).await;
    assert_eq!(probe.expect("the place was its own").unwrap(), "fine");
}

#[tokio::test]
async fn an_error_of_readiness_counts_as_one_failure_and_as_no_rejection() {
    let down = Failure::new(FailureKind::Transient);
    let unready = || {
        let down = Readiness::FailsAfterCalls(0, down.clone());
        Scripted::<&str>::new([Answer::ok("never")]).readiness(down)
    };
    let layer = CircuitBreakerLayer::new("model").consecutive_failures(2);
    let circuit = layer.circuit();
    for failures in 1..=2 {
        assert!(layer.layer(unready()).oneshot("AAPL").await.is_err());
        assert_eq!(circuit.snapshot().consecutive_failures, failures);
    }
    assert_eq!(circuit.state(), State::Open);

    circuit.force_half_open();
    // The only probe is on its way.
    let mut probe = Box::pin(layer.layer(Scripted::new([Answer::<&str>::hang()])).oneshot("AAPL"));
    assert!(probe.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(layer.layer(unready()).oneshot("AAPL").await.is_err());
    let now = circuit.snapshot();
    assert_eq!((now.state, now.not_permitted), (State::HalfOpen, 0));
}

#[test]
fn a_listener_may_use_the_circuits_of_a_keyed_layer_whatever_the_table_does() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    // On a thread of its own, since what is tested is that it ends.
    std::thread::spawn(move || {
        runtime.block_on(async {
            let layer = CircuitBreakerLayer::keyed("model", |key: &u32| *key)
                .like(&CircuitBreakerLayer::new("rules").open_for(SECOND))
                .capacity(2)
                .idle(10 * SECOND);
            let circuits = layer.circuits();
            let agent = layer.layer(Scripted::new([Answer::ok("fine")]));
            let call = |key: u32| agent.clone().oneshot(key);
            call(0).await.unwrap();
            let first = circuits.get(&0).unwrap();
            let heard = Arc::new(AtomicU64::new(0));
            let listener = first.subscribe({
                let (heard, circuits) = (Arc::clone(&heard), circuits.clone());
                move |_| {
                    drop(circuits.get(&0));
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            });
            first.trip();
            tokio::time::advance(20 * SECOND).await;
            // The table is full and swept, and the first circuit is due to be half-open.
            for key in 1..5 {
                call(key).await.unwrap();
            }
            assert_eq!(first.state(), State::HalfOpen);
            assert_eq!(heard.load(Ordering::Relaxed), 2);
            assert!(circuits.get(&0).is_some(), "one that is not closed is kept");
            assert_eq!(circuits.iter().count(), 2);
            drop(listener);
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(30)).expect("nobody waits for the other");
}

#[tokio::test(start_paused = true)]
async fn a_full_table_forgets_the_key_that_was_used_longest_ago() {
    let layer = CircuitBreakerLayer::keyed("model", |key: &u32| *key).capacity(3);
    let circuits = layer.circuits();
    let agent = layer.layer(Scripted::new([Answer::ok("fine")]));
    for key in [1, 2, 3, 1] {
        tokio::time::advance(SECOND).await;
        agent.clone().oneshot(key).await.unwrap();
    }
    agent.clone().oneshot(4).await.unwrap();
    let mut keys: Vec<_> = circuits.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    assert_eq!(keys, [1, 3, 4]);
    for (_, circuit) in circuits.iter() {
        circuit.force_open();
    }
    agent.oneshot(5).await.unwrap();
    assert!(circuits.get(&5).is_none(), "no room for it: it is let through uncounted");
}

/// Calls a service once for each key.
fn call_all<S>(keys: u32, agent: &S)
where
    S: Service<u32, Error: std::fmt::Debug> + Clone,
{
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for key in 0..keys {
        runtime.block_on(agent.clone().oneshot(key)).expect("the agent answers");
    }
}

#[test]
fn a_table_in_parts_keeps_one_circuit_per_key_for_every_thread_and_stays_within_its_capacity() {
    const KEYS: u32 = 4_096;
    let layer = CircuitBreakerLayer::keyed("model", |key: &u32| *key).capacity(1 << 20);
    let circuits = layer.circuits();
    let agent = layer.layer(service_fn(async |_: u32| Ok::<_, Failure>("fine")));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| call_all(KEYS, &agent));
        }
    });
    let mut names: Vec<_> = circuits.iter().map(|(_, circuit)| circuit.name().clone()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KEYS as usize);
    for key in 0..KEYS {
        assert_eq!(&**circuits.get(&key).unwrap().name(), format!("model/{key}"));
    }

    let layer = CircuitBreakerLayer::keyed("model", |key: &u32| *key).capacity(1_024);
    let circuits = layer.circuits();
    call_all(KEYS, &layer.layer(service_fn(async |_: u32| Ok::<_, Failure>("fine"))));
    assert_eq!(circuits.iter().count(), 1_024);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_call_tells_of_few_periods_and_admits_the_next_call() {
    let layer = CircuitBreakerLayer::new("model")
        .open_for(SECOND)
        .half_open_lease(SECOND, AfterLease::Open);
    let circuit = layer.circuit();
    let heard = Arc::new(AtomicU64::new(0));
    let listener = circuit.subscribe({
        let heard = Arc::clone(&heard);
        move |_| _ = heard.fetch_add(1, Ordering::Relaxed)
    });
    circuit.trip();
    tokio::time::advance(3_601 * SECOND + SECOND / 2).await;
    let answer = circuit.call(|| async { Ok::<_, Failure>("fine") }).await;
    assert_eq!(answer.unwrap(), "fine");
    assert!(heard.load(Ordering::Relaxed) < 100);
    drop(listener);
}

#[tokio::test]
async fn other_rules_for_probes_begin_a_half_open_period_anew() {
    let layer = CircuitBreakerLayer::new("model").half_open(HalfOpen::consecutive(3, 3));
    let circuit = layer.circuit();
    circuit.force_half_open();
    let ok = || async { Ok::<_, Failure>("fine") };
    for _ in 0..2 {
        circuit.call(ok).await.unwrap();
    }
    let mut config = CircuitBreakerConfig::default();
    config.half_open_permits = Some(1);
    config.half_open_successes = Some(2);
    circuit.reconfigure(config).unwrap();
    for _ in 0..2 {
        circuit.call(ok).await.expect("a probe is let through");
    }
    assert_eq!(circuit.state(), State::Closed);
}

#[test]
fn a_refused_setter_leaves_a_shared_circuit_as_it_is() {
    let layer = CircuitBreakerLayer::new("model");
    let shared = CircuitBreakerLayer::sharing(layer.circuit());
    let refused = std::panic::catch_unwind(AssertUnwindSafe(|| shared.consecutive_failures(0)));
    assert!(refused.is_err());
    drop(layer.layer(()));
}

#[test]
fn what_a_listener_panics_with_keeps_nobody_from_hearing() {
    let circuit = Circuit::new("model");
    let heard = Arc::new(AtomicU64::new(0));
    let first = circuit.subscribe(|_| std::panic::panic_any(PanicsOnDrop(3)));
    let second = circuit.subscribe({
        let heard = Arc::clone(&heard);
        move |_| _ = heard.fetch_add(1, Ordering::Relaxed)
    });
    circuit.trip();
    circuit.reset();
    circuit.trip();
    assert_eq!(heard.load(Ordering::Relaxed), 3);
    drop((first, second));
}
