//! The handles of circuits: listeners, keys, rate limits, new rules.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    CircuitBreakerConfig, CircuitBreakerLayer, Failure, FailureKind,
    circuit_breaker::State,
    test_util::{Answer, Scripted},
};
use tower::{Layer, ServiceExt, service_fn};

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
