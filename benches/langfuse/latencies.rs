//! How long each call takes, with Langfuse and without.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress_benches::{
    drive::{Refused, ask, discard},
    latency::{Latencies, Summary},
    stacks::five_spans,
};
use tokio::{runtime::Runtime, time::Instant};
use tower::Service;

use super::listener::{Listeners, NOBODY, PROCESS};

/// Calls of one side before the other has its turn.
const TURN: usize = 200;
/// How long an agent waits that stands for one that asks a model.
const WAIT: Duration = Duration::from_millis(1);

/// The latencies of one agent.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) agent: &'static str,
    pub(crate) without: Summary,
    pub(crate) with: Summary,
}

/// An agent that fails once in eleven attempts: one call in ten is retried.
#[derive(Debug, Clone)]
struct Model {
    wait: Option<Duration>,
    attempts: Arc<AtomicUsize>,
}

impl Service<u64> for Model {
    type Response = u64;
    type Error = Refused;
    // Boxed, since an agent of this kind is; the same on both sides.
    type Future = Pin<Box<dyn Future<Output = Result<u64, Refused>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        let fails = self.attempts.fetch_add(1, Ordering::Relaxed).is_multiple_of(11);
        let wait = self.wait;
        Box::pin(async move {
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
            if fails { Err(Refused) } else { Ok(request) }
        })
    }
}

/// Times so many calls of each kind of agent on each side, the sides in turns.
pub(crate) fn measure(
    runtime: &Runtime,
    listeners: &Listeners,
    calls: [usize; 2],
) -> Vec<Compared> {
    let agents = [("answers at once", None), ("waits for 1 ms", Some(WAIT))];
    let compared = agents.into_iter().zip(calls).map(|((agent, wait), calls)| {
        let sides = [NOBODY, PROCESS].map(|name| listeners.named(name));
        let mut latencies = [(); 2].map(|()| Latencies::new());
        let mut services = [(); 2].map(|()| {
            let attempts = Arc::new(AtomicUsize::new(1));
            five_spans(Model { wait, attempts })
        });
        // The first turn warms up.
        for turn in 0..=calls.div_ceil(TURN) {
            for ((side, service), latencies) in sides.iter().zip(&mut services).zip(&mut latencies)
            {
                let listening = side.listen();
                for _ in 0..TURN {
                    let started = Instant::now();
                    discard(runtime.block_on(ask(service, 35)));
                    let took = started.elapsed();
                    if turn > 0 {
                        latencies.record(took);
                    }
                }
                drop(listening);
            }
        }
        let [without, with] = latencies.map(|latencies| latencies.summary());
        Compared { agent, without, with }
    });
    compared.collect()
}
