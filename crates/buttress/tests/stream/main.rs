//! Streams: when they begin, how long they may take, and what a circuit learns of their end.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod circuit;
mod first_item;
mod limits;
mod spans;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::{
    Circuit, CircuitBreakerLayer, Error, ErrorKind, Failure, FailureKind, FallbackService,
    FirstItemLayer, HalfOpen, Outcome, RetryLayer, StreamTimeoutLayer, TimeLimit,
    circuit_breaker::State,
};
use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};

/// What a stream does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Item(u32),
    Wait(u64),
    Fail,
    Panic,
    Hang,
}

use Step::{Fail, Hang, Item, Panic, Wait};

type Items = Pin<Box<dyn Stream<Item = Result<u32, io::Error>> + Send>>;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stream that does what it is told, and then ends.
fn items(steps: Vec<Step>) -> Items {
    let steps = stream::unfold(steps.into_iter(), |mut steps| async move {
        loop {
            return match steps.next()? {
                Item(item) => Some((Ok(item), steps)),
                Fail => Some((Err(io::Error::other("connection reset")), steps)),
                Panic => panic!("the stream panics"),
                Hang => std::future::pending().await,
                Wait(time) => {
                    tokio::time::sleep(seconds(time)).await;
                    continue;
                }
            };
        }
    });
    Box::pin(steps)
}

/// A model whose calls answer with one script after the other.
#[derive(Clone)]
struct Model {
    scripts: Arc<Mutex<Vec<Vec<Step>>>>,
    calls: Arc<AtomicUsize>,
}

impl Model {
    fn new(scripts: &[&[Step]]) -> Self {
        let scripts = scripts.iter().rev().map(|script| script.to_vec()).collect();
        Self { scripts: Arc::new(Mutex::new(scripts)), calls: Arc::default() }
    }

    fn service(
        &self,
    ) -> impl Service<(), Response = Items, Error = io::Error, Future: Send> + Clone + Send + Sync + use<>
    {
        let Self { scripts, calls } = self.clone();
        service_fn(move |()| {
            calls.fetch_add(1, Ordering::Relaxed);
            let script = scripts.lock().unwrap().pop();
            async move { Ok(items(script.expect("the model is asked too often"))) }
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn collect<T, E>(stream: impl Stream<Item = Result<T, E>>) -> (Vec<T>, Vec<E>) {
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => items.push(item),
            Err(error) => errors.push(error),
        }
    }
    (items, errors)
}

fn interrupted(error: &Error) -> u64 {
    let ErrorKind::Interrupted { items, .. } = error.kind() else { panic!("{error:?}") };
    *items
}

fn limit(error: &Error) -> (TimeLimit, Duration) {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if let Some(ErrorKind::Timeout { limit, after, .. }) =
            error.downcast_ref::<Error>().map(Error::kind)
        {
            return (*limit, *after);
        }
        next = error.source();
    }
    panic!("{error:?}")
}

/// Takes item 13 as an error that came in an answer.
fn thirteen(item: Result<&u32, &io::Error>) -> Outcome {
    match item {
        Ok(13) => Failure::new(FailureKind::Overloaded).with_message("overloaded").into(),
        Ok(_) => Outcome::Success,
        Err(_) => Failure::new(FailureKind::Transient).into(),
    }
}
