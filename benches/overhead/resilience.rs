//! The cases of tower-resilience.

use std::{hint::black_box, time::Duration};

use buttress_benches::{
    drive::{Answers, Fails, FailsOnce, Refused, Yields, ask, call, discard},
    measure::Case,
};
use tower::{Layer, Service};
use tower_resilience_circuitbreaker::{CircuitBreakerLayer, SlidingWindowType};
use tower_resilience_fallback::FallbackLayer;
use tower_resilience_retry::RetryLayer;
use tower_resilience_timelimiter::TimeLimiterLayer;

use crate::{
    ours::{HELD, looks_at},
    prompts::prompts,
    threads::{on_threads, thread_counts},
};

const TIMEOUT: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

fn consecutive() -> CircuitBreakerLayer {
    let builder = CircuitBreakerLayer::builder().consecutive_failures(5);
    builder.wait_duration_in_open(HOUR).build().expect("valid settings")
}

fn count_window(calls: usize) -> CircuitBreakerLayer {
    let builder = CircuitBreakerLayer::builder().failure_rate_threshold(0.5);
    builder.sliding_window_size(calls).build().expect("valid settings")
}

fn time_window() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(HOUR)
        .minimum_number_of_calls(10)
        .build()
        .expect("valid settings")
}

fn retry<R: 'static>() -> RetryLayer<R, u64, Refused> {
    RetryLayer::builder().max_attempts(3).fixed_backoff(Duration::ZERO).build()
}

fn time_limit() -> TimeLimiterLayer {
    TimeLimiterLayer::builder().timeout_duration(TIMEOUT).build()
}

/// The same four patterns in the same order as ours.
fn full<R>() -> impl Service<R> + Clone
where
    R: Clone + Send + Sync + 'static,
{
    let timed = time_limit().layer(Answers);
    let counted = consecutive().layer(timed);
    let retry = RetryLayer::builder().max_attempts(3).fixed_backoff(Duration::ZERO).build();
    FallbackLayer::value(7).layer(retry.layer(counted))
}

fn calls<S: Service<u64> + 'static>(group: &'static str, name: &str, mut service: S) -> Case {
    Case::new(group, name, move || {
        discard(call(&mut service, black_box(35)));
    })
    .calls(50_000)
}

pub(crate) fn happy() -> Vec<Case> {
    let group = "happy";
    let fallback = FallbackLayer::<u64, u64, Refused>::value(7).layer(Answers);
    vec![
        calls(group, "tower-resilience/circuit_breaker", consecutive().layer(Answers)),
        calls(
            group,
            "tower-resilience/circuit_breaker_count_window",
            count_window(100).layer(Answers),
        ),
        calls(group, "tower-resilience/retry", retry().layer(Answers)),
        calls(group, "tower-resilience/timeout", time_limit().layer(Answers)),
        calls(group, "tower-resilience/fallback", fallback),
        calls(group, "tower-resilience/full", full::<u64>()),
    ]
}

pub(crate) fn open() -> Vec<Case> {
    let mut opened = consecutive().layer(Fails);
    for _ in 0..20 {
        drop(call(&mut opened, 35_u64));
    }
    vec![calls("open", "tower-resilience/circuit_breaker", opened)]
}

pub(crate) fn retry_once() -> Vec<Case> {
    let mut service = retry::<u64>().layer(FailsOnce::default());
    vec![
        Case::many("retry_once", "tower-resilience/retry", move |calls| {
            crate::runtime().block_on(async {
                for _ in 0..calls {
                    discard(ask(&mut service, 35_u64).await);
                }
            });
        })
        .calls(300),
    ]
}

pub(crate) fn fallback_once() -> Vec<Case> {
    let value = FallbackLayer::<u64, u64, Refused>::value(7).layer(Fails);
    let service = FallbackLayer::<u64, u64, Refused>::tower_service(Answers).layer(Fails);
    vec![
        calls("fallback_once", "tower-resilience/fallback_value", value),
        calls("fallback_once", "tower-resilience/fallback", service),
    ]
}

pub(crate) fn timeout_pending() -> Vec<Case> {
    let mut service = time_limit().layer(Yields);
    vec![Case::many("timeout_pending", "tower-resilience/timeout", move |calls| {
        crate::runtime().block_on(async {
            for _ in 0..calls {
                discard(ask(&mut service, 35_u64).await);
            }
        });
    })]
}

pub(crate) fn contention() -> Vec<Case> {
    fn on<S>(threads: usize, name: &str, service: S) -> Case
    where
        S: Service<u64> + Clone + Sync + 'static,
    {
        let name = format!("tower-resilience/{name} x{threads}");
        let case = Case::metered("contention", name, move |calls, meter| {
            on_threads(threads, calls, meter, || {
                let mut service = service.clone();
                move || discard(call(&mut service, black_box(35_u64)))
            })
        });
        case.calls(50_000)
    }
    let cases = thread_counts().into_iter().flat_map(|threads| {
        [
            on(threads, "circuit_breaker", consecutive().layer(Answers)),
            on(threads, "full", full::<u64>()),
        ]
    });
    cases.collect()
}

pub(crate) fn window() -> Vec<Case> {
    let mut cases = Vec::new();
    for held in HELD {
        let mut add = |name: &str, layer: fn(usize) -> CircuitBreakerLayer| {
            let name = format!("tower-resilience/{name} holding {held}");
            let case = Case::anew("window", name, move || {
                let mut service = layer(looks_at(held)).layer(Answers);
                let mut one = move || discard(call(&mut service, black_box(35_u64)));
                (0..held).for_each(|_| one());
                one
            });
            // To fill a window takes as many calls as it holds, each as long as what it holds.
            cases.push(case.calls(if held > 1_000 { 60 } else { 1_000 }));
        };
        add("circuit_breaker_count_window", count_window);
        add("circuit_breaker_time_window", |_| time_window());
    }
    cases
}

pub(crate) fn prompt_8k() -> Vec<Case> {
    let fallback = FallbackLayer::<String, u64, Refused>::value(7).layer(Answers);
    vec![
        prompts("tower-resilience/circuit_breaker", consecutive().layer(Answers)),
        prompts("tower-resilience/retry", retry().layer(Answers)),
        prompts("tower-resilience/timeout", time_limit().layer(Answers)),
        prompts("tower-resilience/fallback", fallback),
        prompts("tower-resilience/full", full::<String>()),
    ]
}
