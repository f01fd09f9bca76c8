//! The load, in a process of its own: calls start on schedule, and their time runs from there.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use buttress::BoxError;
use buttress_benches::latency::{Latencies, Summary};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    agent::Fault,
    helper,
    pace::{self, Route, Slot},
};

/// How many calls of a route may be under way.
pub(crate) const MOST_IN_FLIGHT: usize = 256;
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an idle connection is kept, so that those of a burst are closed again.
const IDLE: Duration = Duration::from_secs(5);

/// What load to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadPlan {
    pub(crate) address: SocketAddr,
    pub(crate) rps: u32,
    pub(crate) time: Duration,
    /// The number of the first call on each route.
    pub(crate) first: u64,
}

/// What became of the load.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// How long calls were started.
    pub(crate) seconds: f64,
    pub(crate) bare: Calls,
    pub(crate) guarded: Calls,
    /// How late the generator itself was to start a call.
    pub(crate) lag: Summary,
    /// The numbers of the calls to `/guarded` that were answered with a failure.
    pub(crate) failed_calls: Vec<u64>,
}

/// What became of the calls of one route.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Calls {
    pub(crate) due: u64,
    /// Answered with 200.
    pub(crate) succeeded: u64,
    /// Answered with another status.
    pub(crate) failed: u64,
    /// Not answered in time, or the connection broke.
    pub(crate) unanswered: u64,
    /// Not started, since too many were under way.
    pub(crate) overload: u64,
    /// The latencies of calls without a fault, and at least the patience for those without an answer.
    pub(crate) fault_free: Summary,
    /// The latencies of all calls that were due.
    pub(crate) all: Summary,
}

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

struct Generator {
    client: HttpClient,
    plan: LoadPlan,
    bare: Side,
    guarded: Side,
    lag: Mutex<Latencies>,
    failed_calls: Mutex<Vec<u64>>,
}

/// One route as its calls see it.
struct Side {
    path: &'static str,
    in_flight: AtomicUsize,
    record: Mutex<Record>,
}

struct Record {
    calls: Calls,
    fault_free: Latencies,
    all: Latencies,
}

/// Makes the load and answers with what became of it, for the process that started this one.
pub(crate) fn run(plan: &LoadPlan) -> Result<String, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = Arc::<AtomicBool>::default();
    stop_at_end_of_stdin(Arc::clone(&stop));
    let loaded = runtime.block_on(async {
        helper::ignore_ctrl_c();
        let generator = Arc::new(Generator::new(plan));
        let seconds = generate(&generator, stop).await;
        generator.loaded(seconds)
    });
    Ok(serde_json::to_string(&loaded)?)
}

/// Whoever started this process closes its input to end the load, or has ended itself.
fn stop_at_end_of_stdin(stop: Arc<AtomicBool>) {
    thread::spawn(move || {
        drop(io::stdin().read_to_end(&mut Vec::new()));
        stop.store(true, Ordering::Relaxed);
    });
}

/// Starts every call on schedule and waits until all are done; returns how long it started them.
async fn generate(generator: &Arc<Generator>, stop: Arc<AtomicBool>) -> f64 {
    let (running, mut ended) = mpsc::channel::<()>(1);
    let start = Instant::now();
    let mut slots = pace::slots(generator.plan.rps, generator.plan.time, stop);
    while let Some(slot) = slots.recv().await {
        let is_fault_free = Fault::of(generator.plan.first + slot.index).is_none();
        if generator.side(slot.route).admit(is_fault_free) {
            let (generator, running) = (Arc::clone(generator), running.clone());
            drop(tokio::spawn(async move {
                generator.call(slot).await;
                drop(running);
            }));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(running);
    // Ends when the last call has dropped its sender.
    ended.recv().await;
    seconds
}

// ===== impl Generator =====

impl Generator {
    fn new(plan: &LoadPlan) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            client,
            plan: plan.clone(),
            bare: Side::new("bare"),
            guarded: Side::new("guarded"),
            lag: Mutex::new(Latencies::new()),
            failed_calls: Mutex::default(),
        }
    }

    const fn side(&self, route: Route) -> &Side {
        match route {
            Route::Bare => &self.bare,
            Route::Guarded => &self.guarded,
        }
    }

    async fn call(&self, slot: Slot) {
        let side = self.side(slot.route);
        let number = self.plan.first + slot.index;
        lock(&self.lag).record(slot.intended.elapsed());
        let asked = tokio::time::timeout(PATIENCE, self.ask(side.path, number));
        let status = asked.await.unwrap_or_default();
        side.end(status, slot.intended.elapsed(), Fault::of(number).is_none());
        let is_failure = status.is_some_and(|status| !status.is_success());
        if slot.route == Route::Guarded && is_failure {
            lock(&self.failed_calls).push(number);
        }
    }

    /// Makes one call; returns the status once the whole answer is here, if it came.
    async fn ask(&self, path: &str, number: u64) -> Option<StatusCode> {
        let uri = format!("http://{}/{path}/{number}", self.plan.address);
        let answer = self.client.get(uri.parse().ok()?).await.ok()?;
        let status = answer.status();
        answer.into_body().collect().await.ok()?;
        Some(status)
    }

    fn loaded(&self, seconds: f64) -> Loaded {
        Loaded {
            seconds,
            bare: self.bare.calls(),
            guarded: self.guarded.calls(),
            lag: lock(&self.lag).summary(),
            failed_calls: std::mem::take(&mut *lock(&self.failed_calls)),
        }
    }
}

// ===== impl Side =====

impl Side {
    fn new(path: &'static str) -> Self {
        let record =
            Record { calls: Calls::default(), fault_free: Latencies::new(), all: Latencies::new() };
        Self { path, in_flight: AtomicUsize::new(0), record: Mutex::new(record) }
    }

    /// Counts a call that is due; returns whether it may start.
    fn admit(&self, is_fault_free: bool) -> bool {
        let mut record = lock(&self.record);
        record.calls.due += 1;
        if self.in_flight.load(Ordering::Relaxed) >= MOST_IN_FLIGHT {
            record.calls.overload += 1;
            record.took(PATIENCE, is_fault_free);
            return false;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn end(&self, status: Option<StatusCode>, latency: Duration, is_fault_free: bool) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut record = lock(&self.record);
        let is_answered = status.is_some();
        match status {
            Some(status) if status.is_success() => record.calls.succeeded += 1,
            Some(_) => record.calls.failed += 1,
            None => record.calls.unanswered += 1,
        }
        // A connection that breaks at once is no fast answer.
        let latency = if is_answered { latency } else { latency.max(PATIENCE) };
        record.took(latency, is_fault_free);
    }

    fn calls(&self) -> Calls {
        let mut record = lock(&self.record);
        let (fault_free, all) = (record.fault_free.summary(), record.all.summary());
        Calls { fault_free, all, ..std::mem::take(&mut record.calls) }
    }
}

// ===== impl Record =====

impl Record {
    fn took(&mut self, latency: Duration, is_fault_free: bool) {
        self.all.record(latency);
        if is_fault_free {
            self.fault_free.record(latency);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_without_an_answer_are_among_the_latencies() {
        let side = Side::new("bare");
        for _ in 0..MOST_IN_FLIGHT {
            assert!(side.admit(true));
        }
        assert!(!side.admit(true), "one too many");
        side.end(Some(StatusCode::OK), Duration::from_millis(1), true);
        side.end(None, Duration::from_millis(1), true);
        side.end(None, PATIENCE + Duration::from_secs(1), false);
        let calls = side.calls();
        let counts = (calls.due, calls.succeeded, calls.unanswered, calls.overload);
        assert_eq!(counts, (MOST_IN_FLIGHT as u64 + 1, 1, 2, 1));
        assert_eq!((calls.all.calls, calls.fault_free.calls), (4, 3));
        assert!(calls.all.p50 >= 9_990.0 && calls.all.max >= 10_990.0, "{:?}", calls.all);
    }
}
