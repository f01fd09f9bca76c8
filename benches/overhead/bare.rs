//! The bare case of each group: its agent with nothing around it, or what its caller does by hand.

use std::hint::black_box;

use buttress_benches::{
    drive::{Answers, Fails, FailsOnce, Yields, call, discard},
    measure::{BARE, Case},
};
use tower::Service;

use crate::{
    prompts::prompts,
    threads::{on_threads, thread_counts},
};

fn answers(group: &'static str) -> Case {
    Case::new(group, BARE, move || discard(call(&mut Answers, black_box(35_u64))))
}

pub(crate) fn happy() -> Vec<Case> {
    vec![answers("happy")]
}

/// The agent that an open circuit keeps from being called.
pub(crate) fn open() -> Vec<Case> {
    vec![answers("open")]
}

/// The agent is called again where it has failed.
pub(crate) fn retry_once() -> Vec<Case> {
    let mut agent = FailsOnce::default();
    vec![Case::new("retry_once", BARE, move || {
        let first = call(&mut agent, black_box(35_u64));
        discard(first.or_else(|_| call(&mut agent, black_box(35_u64))));
    })]
}

/// Another agent is called where the first has failed.
pub(crate) fn fallback_once() -> Vec<Case> {
    vec![Case::new("fallback_once", BARE, || {
        let first = call(&mut Fails, black_box(35_u64));
        discard(black_box(first).or_else(|_| call(&mut Answers, black_box(35_u64))));
    })]
}

pub(crate) fn timeout_pending() -> Vec<Case> {
    let mut bare = Yields;
    vec![Case::many("timeout_pending", BARE, move |calls| {
        crate::runtime().block_on(async {
            for _ in 0..calls {
                discard(Service::<u64>::call(&mut bare, 35).await);
            }
        });
    })]
}

/// On one thread, which is what others are compared with, and on more.
pub(crate) fn contention() -> Vec<Case> {
    let cases = thread_counts().into_iter().map(|threads| {
        let name = if threads == 1 { BARE.to_owned() } else { format!("{BARE} x{threads}") };
        Case::metered("contention", name, move |calls, meter| {
            on_threads(threads, calls, meter, || || discard(call(&mut Answers, black_box(35_u64))))
        })
    });
    cases.collect()
}

pub(crate) fn window() -> Vec<Case> {
    vec![Case::anew("window", BARE, || || discard(call(&mut Answers, black_box(35_u64))))]
}

pub(crate) fn prompt_8k() -> Vec<Case> {
    vec![prompts(BARE, Answers)]
}
