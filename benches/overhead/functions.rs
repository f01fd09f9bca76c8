//! The cases of those who guard functions and are no layers.

use std::{hint::black_box, sync::Arc, time::Duration};

use backon::{ConstantBuilder, Retryable as _};
use failsafe::{Config, backoff, failure_policy, futures::CircuitBreaker as _};
use recloser::{AsyncRecloser, Recloser};
use tokio_retry2::{Retry, RetryError};
use tower::Service;

use buttress_benches::drive::{Answers, Fails, FailsOnce, Refused, discard, finish};

use crate::{
    measure::Case,
    threads::{on_threads, thread_counts},
};

type Failsafe = failsafe::StateMachine<
    failsafe::failure_policy::ConsecutiveFailures<failsafe::backoff::Constant>,
    (),
>;

fn failsafe() -> Failsafe {
    let wait = backoff::constant(Duration::from_secs(3_600));
    Config::new().failure_policy(failure_policy::consecutive_failures(5, wait)).build()
}

fn recloser() -> AsyncRecloser {
    let wait = Duration::from_secs(3_600);
    AsyncRecloser::from(Recloser::custom().closed_len(100).error_rate(0.5).open_wait(wait).build())
}

fn ask() -> <Answers as Service<u64>>::Future {
    Answers.call(black_box(35_u64))
}

fn no_delay() -> ConstantBuilder {
    ConstantBuilder::default().with_delay(Duration::ZERO).with_max_times(2)
}

pub(crate) fn happy() -> Vec<Case> {
    let (failsafe, recloser) = (failsafe(), recloser());
    let delays = || std::iter::repeat_n(Duration::ZERO, 2);
    vec![
        Case::new("happy", "failsafe/circuit_breaker", move || {
            discard(finish(failsafe.call(ask())));
        }),
        Case::new("happy", "recloser/circuit_breaker", move || {
            discard(finish(recloser.call(ask())));
        }),
        Case::new("happy", "backon/retry", move || {
            discard(finish((|| async { ask().await }).retry(no_delay())));
        }),
        Case::new("happy", "tokio-retry2/retry", move || {
            let action = || async { ask().await.map_err(RetryError::transient) };
            discard(finish(Retry::spawn(delays(), action)));
        }),
    ]
}

pub(crate) fn open() -> Vec<Case> {
    let (failsafe, recloser) = (failsafe(), recloser());
    for _ in 0..200 {
        drop(finish(failsafe.call(Fails.call(35_u64))));
        drop(finish(recloser.call(Fails.call(35_u64))));
    }
    vec![
        Case::new("open", "failsafe/circuit_breaker", move || {
            discard(finish(failsafe.call(ask())));
        }),
        Case::new("open", "recloser/circuit_breaker", move || {
            discard(finish(recloser.call(ask())));
        }),
    ]
}

pub(crate) fn retry_once() -> Vec<Case> {
    let delays = || std::iter::repeat_n(Duration::ZERO, 2);
    let (first, second) = (FailsOnce::default(), FailsOnce::default());
    vec![
        Case::many("retry_once", "backon/retry", move |calls| {
            crate::runtime().block_on(async {
                for _ in 0..calls {
                    let ask = || async { first.answer() };
                    discard(ask.retry(no_delay()).await);
                }
            });
        })
        .calls(300),
        Case::many("retry_once", "tokio-retry2/retry", move |calls| {
            crate::runtime().block_on(async {
                for _ in 0..calls {
                    let ask = || async {
                        second.answer().map_err(|error: Refused| RetryError::transient(error))
                    };
                    discard(Retry::spawn(delays(), ask).await);
                }
            });
        })
        .calls(300),
    ]
}

pub(crate) fn contention() -> Vec<Case> {
    let mut cases = Vec::new();
    for threads in thread_counts() {
        let failsafe = failsafe();
        let name = format!("failsafe/circuit_breaker x{threads}");
        cases.push(Case::many("contention", name, move |calls| {
            on_threads(threads, calls, || {
                let failsafe = failsafe.clone();
                move || discard(finish(failsafe.call(ask())))
            });
        }));
        let recloser = Arc::new(recloser());
        let name = format!("recloser/circuit_breaker x{threads}");
        cases.push(Case::many("contention", name, move |calls| {
            on_threads(threads, calls, || {
                let recloser = Arc::clone(&recloser);
                move || discard(finish(recloser.call(ask())))
            });
        }));
    }
    cases
}
