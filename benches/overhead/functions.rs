//! The cases of those who guard functions and are no layers.

use std::{hint::black_box, sync::Arc, time::Duration};

use backon::{ConstantBuilder, Retryable as _};
use failsafe::{Config, backoff, failure_policy, futures::CircuitBreaker as _};
use recloser::{AsyncRecloser, Recloser};
use tokio_retry2::{Retry, RetryError};
use tower::Service;

use buttress_benches::{
    drive::{Answers, Fails, FailsOnce, Refused, discard, finish},
    measure::Case,
    stacks::HOUR,
};

use crate::{
    ours::{HELD, looks_at},
    prompts::asked,
    threads::{on_threads, thread_counts},
};

type Failsafe = failsafe::StateMachine<
    failsafe::failure_policy::ConsecutiveFailures<failsafe::backoff::Constant>,
    (),
>;

type FailsafeWindow = failsafe::StateMachine<
    failsafe::failure_policy::SuccessRateOverTimeWindow<failsafe::backoff::Constant>,
    (),
>;

fn failsafe() -> Failsafe {
    let wait = backoff::constant(HOUR);
    Config::new().failure_policy(failure_policy::consecutive_failures(5, wait)).build()
}

/// A moving average of the last hour: it holds no calls, and weighs them by their age.
fn failsafe_window() -> FailsafeWindow {
    let wait = backoff::constant(HOUR);
    let policy = failure_policy::success_rate_over_time_window(0.5, 10, HOUR, wait);
    Config::new().failure_policy(policy).build()
}

/// A rate over the last calls, as that of our count window.
fn recloser(calls: usize) -> AsyncRecloser {
    let wait = HOUR;
    AsyncRecloser::from(
        Recloser::custom().closed_len(calls).error_rate(0.5).open_wait(wait).build(),
    )
}

fn ask() -> <Answers as Service<u64>>::Future {
    Answers.call(black_box(35_u64))
}

fn no_delay() -> ConstantBuilder {
    ConstantBuilder::default().with_delay(Duration::ZERO).with_max_times(2)
}

pub(crate) fn happy() -> Vec<Case> {
    let (failsafe, moving, recloser) = (failsafe(), failsafe_window(), recloser(100));
    let delays = || std::iter::repeat_n(Duration::ZERO, 2);
    vec![
        Case::new("happy", "failsafe/circuit_breaker", move || {
            discard(finish(failsafe.call(ask())));
        }),
        Case::new("happy", "failsafe/circuit_breaker_time_window", move || {
            discard(finish(moving.call(ask())));
        }),
        Case::new("happy", "recloser/circuit_breaker_count_window", move || {
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
    let (failsafe, recloser) = (failsafe(), recloser(100));
    for _ in 0..200 {
        drop(finish(failsafe.call(Fails.call(35_u64))));
        drop(finish(recloser.call(Fails.call(35_u64))));
    }
    vec![
        Case::new("open", "failsafe/circuit_breaker", move || {
            discard(finish(failsafe.call(ask())));
        }),
        Case::new("open", "recloser/circuit_breaker_count_window", move || {
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
        cases.push(Case::metered("contention", name, move |calls, meter| {
            on_threads(threads, calls, meter, || {
                let failsafe = failsafe.clone();
                move || discard(finish(failsafe.call(ask())))
            })
        }));
        let recloser = Arc::new(recloser(100));
        let name = format!("recloser/circuit_breaker_count_window x{threads}");
        cases.push(Case::metered("contention", name, move |calls, meter| {
            on_threads(threads, calls, meter, || {
                let recloser = Arc::clone(&recloser);
                move || discard(finish(recloser.call(ask())))
            })
        }));
    }
    cases
}

pub(crate) fn window() -> Vec<Case> {
    let mut cases = Vec::new();
    for held in HELD {
        let name = format!("failsafe/circuit_breaker_time_window holding {held}");
        cases.push(Case::anew("window", name, move || {
            let failsafe = failsafe_window();
            let one = move || discard(finish(failsafe.call(ask())));
            (0..held).for_each(|_| one());
            one
        }));
        let name = format!("recloser/circuit_breaker_count_window holding {held}");
        cases.push(Case::anew("window", name, move || {
            let recloser = recloser(looks_at(held));
            let one = move || discard(finish(recloser.call(ask())));
            (0..held).for_each(|_| one());
            one
        }));
    }
    cases
}

/// Whoever asks again keeps the prompt, as those that are layers do.
pub(crate) fn prompt_8k() -> Vec<Case> {
    let (failsafe, recloser) = (failsafe(), recloser(100));
    let delays = || std::iter::repeat_n(Duration::ZERO, 2);
    vec![
        asked("failsafe/circuit_breaker", move |prompt| {
            discard(finish(failsafe.call(Answers.call(prompt))));
        }),
        asked("recloser/circuit_breaker_count_window", move |prompt| {
            discard(finish(recloser.call(Answers.call(prompt))));
        }),
        asked("backon/retry", |prompt| {
            discard(finish((|| Answers.call(prompt.clone())).retry(no_delay())));
        }),
        asked("tokio-retry2/retry", move |prompt| {
            let action = || {
                let answer = Answers.call(prompt.clone());
                async { answer.await.map_err(RetryError::transient) }
            };
            discard(finish(Retry::spawn(delays(), action)));
        }),
    ]
}
