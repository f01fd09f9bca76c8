//! The cases of tower's own layers, and of tokio's timeout.

use std::{
    future::{Ready, ready},
    hint::black_box,
    time::Duration,
};

use buttress_benches::{
    drive::{Answers, FailsOnce, Refused, Yields, ask, call, discard},
    measure::Case,
};
use tower::{
    Layer, Service,
    retry::{Policy, RetryLayer},
    timeout::TimeoutLayer,
};

use crate::prompts::prompts;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Three attempts without a delay, as one writes it for tower.
#[derive(Debug, Clone)]
struct ThreeAttempts {
    left: u8,
}

impl<R: Clone> Policy<R, u64, Refused> for ThreeAttempts {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut R, result: &mut Result<u64, Refused>) -> Option<Self::Future> {
        if result.is_ok() || self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &R) -> Option<R> {
        Some(request.clone())
    }
}

fn retry() -> RetryLayer<ThreeAttempts> {
    RetryLayer::new(ThreeAttempts { left: 2 })
}

fn calls<S: Service<u64> + 'static>(group: &'static str, name: &str, mut service: S) -> Case {
    Case::new(group, name, move || {
        discard(call(&mut service, black_box(35)));
    })
}

pub(crate) fn happy() -> Vec<Case> {
    let timeout = TimeoutLayer::new(TIMEOUT);
    vec![
        calls("happy", "tower/timeout", timeout.layer(Answers)),
        calls("happy", "tower/retry", retry().layer(Answers)),
        calls("happy", "tower/timeout+retry", timeout.layer(retry().layer(Answers))),
    ]
}

pub(crate) fn retry_once() -> Vec<Case> {
    vec![calls("retry_once", "tower/retry", retry().layer(FailsOnce::default()))]
}

pub(crate) fn timeout_pending() -> Vec<Case> {
    let mut tower = TimeoutLayer::new(TIMEOUT).layer(Yields);
    vec![
        Case::many("timeout_pending", "tower/timeout", move |calls| {
            crate::runtime().block_on(async {
                for _ in 0..calls {
                    discard(ask(&mut tower, 35_u64).await);
                }
            });
        }),
        Case::many("timeout_pending", "tokio/timeout", move |calls| {
            crate::runtime().block_on(async {
                for _ in 0..calls {
                    let call = Service::<u64>::call(&mut Yields, 35);
                    discard(tokio::time::timeout(TIMEOUT, call).await);
                }
            });
        }),
    ]
}

pub(crate) fn prompt_8k() -> Vec<Case> {
    vec![
        prompts("tower/timeout", TimeoutLayer::new(TIMEOUT).layer(Answers)),
        prompts("tower/retry", retry().layer(Answers)),
    ]
}
