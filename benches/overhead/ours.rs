//! The cases of buttress.

use std::hint::black_box;

use buttress::{
    CatchPanicLayer, CircuitBreakerLayer, FallbackLayer, FaultTolerantAgent, RetryLayer,
    TimeoutLayer,
};
use buttress_benches::{
    drive::{Answers, Fails, FailsOnce, Yields, ask, call, discard},
    measure::Case,
    stacks::{HOUR, TIMEOUT, agent, at_once, breaker, count_window, full, time_window},
};
use tower::{Layer, Service};

use crate::{
    prompts::prompts,
    threads::{on_threads, thread_counts},
};

/// How many calls a window holds before any is measured; 1 is the empty one, since a first call makes
/// what all others need.
pub(crate) const HELD: [usize; 4] = [1, 100, 1_000, 10_000];

/// Returns how many calls a count window looks at: all that it holds, unless it is the empty one.
pub(crate) fn looks_at(held: usize) -> usize {
    held.max(100)
}

fn calls<S: Service<u64> + 'static>(group: &'static str, name: &str, mut service: S) -> Case {
    Case::new(group, name, move || {
        discard(call(&mut service, black_box(35)));
    })
}

pub(crate) fn happy() -> Vec<Case> {
    let group = "happy";
    vec![
        calls(group, "buttress/circuit_breaker", breaker().layer(Answers)),
        calls(group, "buttress/circuit_breaker_count_window", count_window(100).layer(Answers)),
        calls(group, "buttress/circuit_breaker_time_window", time_window().layer(Answers)),
        calls(group, "buttress/retry", RetryLayer::new(3).layer(Answers)),
        calls(group, "buttress/timeout", TimeoutLayer::new(TIMEOUT).layer(Answers)),
        calls(group, "buttress/fallback", FallbackLayer::new().or("b", Answers).layer(Answers)),
        calls(group, "buttress/catch_panic", CatchPanicLayer::new().layer(Answers)),
        calls(group, "buttress/full", full(Answers)),
        calls(group, "buttress/agent", agent::<u64>()),
    ]
}

pub(crate) fn open() -> Vec<Case> {
    let layer = breaker();
    layer.circuit().force_open();
    let timed = breaker().max_open(HOUR).open_for(HOUR);
    timed.circuit().trip();
    vec![
        calls("open", "buttress/circuit_breaker", timed.layer(Answers)),
        calls("open", "buttress/circuit_breaker_forced", layer.layer(Answers)),
    ]
}

pub(crate) fn retry_once() -> Vec<Case> {
    let agent = FaultTolerantAgent::builder("research")
        .retry(at_once())
        .circuit_breaker(breaker().consecutive_failures(u32::MAX))
        .service(FailsOnce::default());
    vec![
        calls("retry_once", "buttress/retry", at_once().layer(FailsOnce::default())),
        calls("retry_once", "buttress/agent", agent),
    ]
}

pub(crate) fn fallback_once() -> Vec<Case> {
    let chain = FallbackLayer::new().or("backup", Answers).layer(Fails);
    vec![calls("fallback_once", "buttress/fallback", chain)]
}

pub(crate) fn timeout_pending() -> Vec<Case> {
    let mut service = TimeoutLayer::new(TIMEOUT).layer(Yields);
    vec![Case::many("timeout_pending", "buttress/timeout", move |calls| {
        crate::runtime().block_on(async {
            for _ in 0..calls {
                discard(ask(&mut service, 35_u64).await);
            }
        });
    })]
}

pub(crate) fn contention() -> Vec<Case> {
    let mut cases = Vec::new();
    for threads in thread_counts() {
        let mut add = |name: &str, layer: CircuitBreakerLayer| {
            let service = layer.layer(Answers);
            let name = format!("buttress/{name} x{threads}");
            cases.push(Case::metered("contention", name, move |calls, meter| {
                on_threads(threads, calls, meter, || {
                    let mut service = service.clone();
                    move || discard(call(&mut service, black_box(35_u64)))
                })
            }));
        };
        add("circuit_breaker", breaker());
        add("circuit_breaker_count_window", count_window(100));
        add("circuit_breaker_time_window", time_window());
        let service = full::<_, u64>(Answers);
        let name = format!("buttress/full x{threads}");
        cases.push(Case::metered("contention", name, move |calls, meter| {
            on_threads(threads, calls, meter, || {
                let mut service = service.clone();
                move || discard(call(&mut service, black_box(35_u64)))
            })
        }));
        // As a server does: each call gets a clone of its own.
        let service = breaker().layer(Answers);
        let name = format!("buttress/circuit_breaker_clone_per_call x{threads}");
        cases.push(Case::metered("contention", name, move |calls, meter| {
            on_threads(threads, calls, meter, || {
                let service = service.clone();
                move || discard(call(&mut service.clone(), black_box(35_u64)))
            })
        }));
    }
    cases
}

pub(crate) fn window() -> Vec<Case> {
    let mut cases = Vec::new();
    for held in HELD {
        let mut add = |name: &str, layer: fn(usize) -> CircuitBreakerLayer| {
            let name = format!("buttress/{name} holding {held}");
            cases.push(Case::anew("window", name, move || {
                let mut service = layer(looks_at(held)).layer(Answers);
                let mut one = move || discard(call(&mut service, black_box(35_u64)));
                (0..held).for_each(|_| one());
                one
            }));
        };
        add("circuit_breaker_count_window", count_window);
        add("circuit_breaker_time_window", |_| time_window());
    }
    cases
}

pub(crate) fn prompt_8k() -> Vec<Case> {
    vec![
        prompts("buttress/circuit_breaker", breaker().layer(Answers)),
        prompts("buttress/retry", RetryLayer::new(3).layer(Answers)),
        prompts("buttress/timeout", TimeoutLayer::new(TIMEOUT).layer(Answers)),
        prompts("buttress/fallback", FallbackLayer::new().or("b", Answers).layer(Answers)),
        prompts("buttress/full", full(Answers)),
        prompts("buttress/agent", agent()),
    ]
}
