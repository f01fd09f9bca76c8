//! The cases: each makes a thousand calls, so that what one costs is read off at a glance.

#![allow(
    missing_docs,
    clippy::exit,
    reason = "the macros make public items that nobody sees, and end the program"
)]

use std::hint::black_box;

use buttress::{
    AgentLayer, CatchPanicLayer, CircuitBreakerLayer, FallbackLayer, KeyedCircuitBreakerLayer,
    RetryLayer, TimeoutLayer,
};
use buttress_benches::{
    drive::{Answers, Fails, FailsOnce, call, discard},
    stacked,
    stacks::{self, HOUR, TIMEOUT, at_once, breaker, count_window, full, time_window},
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use tower::{Layer, Service};

/// How many calls a case makes.
pub(crate) const CALLS: usize = 1_000;

/// One call after another.
type Caller = Box<dyn FnMut()>;

/// Makes the caller of a service, after so many calls that nothing happens for the first time.
fn calls<S>(mut service: S) -> Caller
where
    S: Service<u64, Response = u64> + 'static,
{
    let mut one = move || discard(call(&mut service, black_box(35)));
    (0..100).for_each(|_| one());
    Box::new(one)
}

fn holding(calls_held: usize, mut caller: Caller) -> Caller {
    (0..calls_held).for_each(|_| caller());
    caller
}

/// A table of one key, which every call finds.
fn keyed() -> KeyedCircuitBreakerLayer<fn(&u64) -> u64, u64> {
    CircuitBreakerLayer::keyed("model", |key| *key)
}

fn open(forced: bool) -> Caller {
    let layer = breaker().max_open(HOUR).open_for(HOUR);
    if forced {
        layer.circuit().force_open();
    } else {
        layer.circuit().trip();
    }
    calls(layer.layer(Answers))
}

// Returns the caller, so that its end is not counted.
#[library_benchmark]
#[bench::bare(calls(Answers))]
#[bench::circuit_breaker(calls(breaker().layer(Answers)))]
#[bench::circuit_breaker_x4(calls(stacked!(breaker(); + + + +)))]
#[bench::circuit_breaker_x8(calls(stacked!(breaker(); + + + + + + + +)))]
#[bench::circuit_breaker_x16(calls(stacked!(breaker(); + + + + + + + + + + + + + + + +)))]
#[bench::circuit_breaker_count_window(calls(count_window(100).layer(Answers)))]
#[bench::circuit_breaker_time_window(calls(time_window().layer(Answers)))]
#[bench::circuit_breaker_time_window_10k(holding(10_000, calls(time_window().layer(Answers))))]
#[bench::retry(calls(RetryLayer::new(3).layer(Answers)))]
#[bench::timeout(calls(TimeoutLayer::new(TIMEOUT).layer(Answers)))]
#[bench::fallback(calls(FallbackLayer::new().or("backup", Answers).layer(Answers)))]
#[bench::catch_panic(calls(CatchPanicLayer::new().layer(Answers)))]
#[bench::full(calls(full(Answers)))]
#[bench::agent(calls(stacks::agent::<u64>()))]
#[bench::agent_seed_order(calls(stacks::agent_in_seed_order()))]
#[bench::agent_layer(calls(AgentLayer::new("research").layer(Answers)))]
#[bench::circuit_breaker_keyed(calls(keyed().layer(Answers)))]
#[bench::open(open(false))]
#[bench::open_forced(open(true))]
#[bench::retry_once(calls(at_once().layer(FailsOnce::default())))]
#[bench::fallback_once(calls(FallbackLayer::new().or("backup", Answers).layer(Fails)))]
fn counted(mut caller: Caller) -> Caller {
    for _ in 0..CALLS {
        caller();
    }
    caller
}

library_benchmark_group!(name = instructions, benchmarks = counted);
main!(library_benchmark_groups = instructions);

/// Counts, in the hands of gungraun.
pub(crate) fn run() {
    main();
}
