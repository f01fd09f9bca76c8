//! A server on a real socket that behaves as Langfuse 4 does.
//!
//! It accepts and refuses requests as the real server, makes the same rows of the same spans
//! (`tests/langfuse_vectors.rs` proves it), and shows faults on request. Tests read what arrived
//! through [`LangfuseServer::observations`] and wait for it with [`LangfuseServer::wait_for`].

mod dates;
mod faults;
mod http_api;
mod io;
pub mod js;
mod json;
mod kind;
pub mod mapping;
mod numbers;
pub mod otlp;
mod protobuf;
mod read_api;
mod reading;
mod refusal;
mod score_api;
mod store;
#[cfg(test)]
mod tests;
mod usage;

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use http::request::Parts;
use tokio::net::TcpListener;
use tokio::sync::watch;

use faults::Faults;
pub use faults::{Fault, RetryAfter};
pub use read_api::Line;
pub use score_api::TakesScores;
pub use store::{Observation, Received, Request};

/// The project that the keys of the server belong to.
pub const PROJECT_ID: &str = "p1";

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct LangfuseServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Mutex<Option<Running>>,
}

/// What the handle and the connections share.
#[derive(Debug)]
struct Shared {
    public_key: String,
    secret_key: String,
    received: Mutex<Received>,
    changed: Condvar,
    faults: Mutex<Faults>,
    reading: Mutex<read_api::Reading>,
    scores: Mutex<score_api::Scores>,
    /// Counts the releases of hanging requests.
    released: watch::Sender<u64>,
}

/// A server that listens, on the runtime of the test or on a thread of its own.
#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl LangfuseServer {
    /// Starts a server on a free port, on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// Panics if no port is free.
    pub async fn start() -> Self {
        Self::start_on(ANY_PORT).await
    }

    /// Starts a server on an address, on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// Panics if the address is taken.
    pub async fn start_on(address: SocketAddr) -> Self {
        let listener = listen(address).await;
        let server = Self::stopped(local_address(&listener));
        server.run_here(listener);
        server
    }

    /// Starts a server on a free port, on a thread of its own. It goes on answering while the
    /// test has no runtime, or while the clock of the test's runtime is paused.
    ///
    /// # Panics
    ///
    /// Panics if no port is free.
    #[must_use]
    pub fn start_blocking() -> Self {
        Self::start_blocking_on(ANY_PORT)
    }

    /// Starts a server on an address, on a thread of its own.
    ///
    /// # Panics
    ///
    /// Panics if the address is taken.
    #[must_use]
    pub fn start_blocking_on(address: SocketAddr) -> Self {
        let mut server = Self::stopped(address);
        server.address = server.run_on_thread();
        server
    }

    fn stopped(address: SocketAddr) -> Self {
        let shared = Shared {
            public_key: "pk-lf-1".to_owned(),
            secret_key: "sk-lf-1".to_owned(),
            received: Mutex::default(),
            changed: Condvar::new(),
            faults: Mutex::default(),
            reading: Mutex::default(),
            scores: Mutex::default(),
            released: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared), address, running: Mutex::new(None) }
    }

    fn run_here(&self, listener: TcpListener) {
        let (stop, stopped) = watch::channel(false);
        let (ending, ended) = watch::channel(());
        drop(tokio::spawn(http_api::serve(listener, Arc::clone(&self.shared), stopped, ending)));
        *lock(&self.running) = Some(Running { stop, ended, thread: None });
    }

    fn run_on_thread(&self) -> SocketAddr {
        let (stop, stopped) = watch::channel(false);
        let (ending, ended) = watch::channel(());
        let (bound, address) = std::sync::mpsc::channel();
        let (shared, wanted) = (Arc::clone(&self.shared), self.address);
        let thread =
            std::thread::Builder::new().name("langfuse-server".to_owned()).spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be built").block_on(async move {
                    let listener = listen(wanted).await;
                    // The other end waits for this address.
                    bound.send(local_address(&listener)).expect("the starter is waiting");
                    http_api::serve(listener, shared, stopped, ending).await;
                });
            });
        let thread = Some(thread.expect("a thread can be started"));
        *lock(&self.running) = Some(Running { stop, ended, thread });
        address.recv().expect("the server could listen")
    }

    /// Stops listening and closes every connection, as a crash would. What was received stays.
    pub async fn stop(&self) {
        let running = lock(&self.running).take();
        if let Some(mut running) = running {
            running.stop.send_replace(true);
            // Fails when the other end is gone, which is what to wait for.
            while running.ended.changed().await.is_ok() {}
        }
    }

    /// Stops a server that runs on a thread of its own, without a runtime.
    ///
    /// # Panics
    ///
    /// Panics if the server's thread panicked.
    pub fn stop_blocking(&self) {
        let running = lock(&self.running).take();
        if let Some(running) = running {
            running.stop.send_replace(true);
            if let Some(thread) = running.thread {
                thread.join().expect("the server does not panic");
            }
        }
    }

    /// Listens again on the same port, on the runtime of the caller, after [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// Panics if the port was taken meanwhile.
    pub async fn restart(&self) {
        self.stop().await;
        self.run_here(listen(self.address).await);
    }

    /// Listens again on the same port, on a thread of its own, after
    /// [`stop_blocking`](Self::stop_blocking).
    ///
    /// # Panics
    ///
    /// Panics if the port was taken meanwhile.
    pub fn restart_blocking(&self) {
        self.stop_blocking();
        self.run_on_thread();
    }

    /// Returns the URL to give to a client, without a slash at its end.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the public key that the server accepts.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.shared.public_key
    }

    /// Returns the secret key that the server accepts.
    #[must_use]
    pub fn secret_key(&self) -> &str {
        &self.shared.secret_key
    }

    /// Returns the header `Authorization` that the server accepts.
    #[must_use]
    pub fn authorization(&self) -> String {
        let keys = format!("{}:{}", self.public_key(), self.secret_key());
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(keys))
    }

    /// Shows a fault to the next request for ingestion that has none yet.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.faults().plan([Some(fault)]);
    }

    /// Appends to the schedule of faults, one place for each request; `None` lets it pass.
    pub fn fail_with(&self, schedule: impl IntoIterator<Item = Option<Fault>>) {
        self.shared.faults().plan(schedule);
    }

    /// Shows faults by chance once the schedule is empty: each with its rate, from 0 to 1. The
    /// same seed gives the same faults in the same order.
    pub fn random_faults(&self, seed: u64, rates: impl IntoIterator<Item = (Fault, f64)>) {
        self.shared.faults().set_random(seed, rates.into_iter().collect());
    }

    /// Answers 413 to bodies that are longer than this on the wire.
    pub fn refuse_larger_than(&self, bytes: usize) {
        self.shared.faults().refuse_larger_than(bytes);
    }

    /// Answers 400 to every batch that holds a span with this name or id.
    pub fn refuse_span(&self, name_or_id: impl Into<String>) {
        self.shared.faults().refuse_span(name_or_id.into());
    }

    /// Lets the requests that hang go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// Ends all faults: forgets the schedule, chance and rules, and releases what hangs.
    pub fn heal(&self) {
        *self.shared.faults() = Faults::default();
        self.shared.reading().heal();
        self.release();
    }

    /// Answers readers as a server of this line does; the newer one unless said otherwise.
    pub fn set_line(&self, line: Line) {
        self.shared.reading().line = line;
    }

    /// Shows a fault to the next reader that has none yet.
    pub fn fail_next_read(&self, fault: Fault) {
        self.shared.reading().faults.push_back(fault);
    }

    /// Shows each observation twice, as a server does for a while after a repeat: first a row of
    /// before, which says less.
    pub fn show_repeats(&self, shown: bool) {
        self.shared.reading().repeats = shown;
    }

    /// Writes numbers and truth values as text, as some servers do.
    pub fn write_numbers_as_text(&self, as_text: bool) {
        self.shared.reading().numbers_as_text = as_text;
    }

    /// Says which requests with scores it takes; all of them unless said otherwise.
    pub fn takes_scores(&self, takes: TakesScores) {
        self.shared.scores().takes = takes;
    }

    /// Shows a fault to the next request with scores that has none yet.
    pub fn fail_next_scores(&self, fault: Fault) {
        self.shared.scores().faults.push_back(fault);
    }

    /// Returns the paths of the requests with scores, in the order of their arrival.
    #[must_use]
    pub fn score_requests(&self) -> Vec<String> {
        self.shared.scores().requests.clone()
    }

    /// Returns the scores, the oldest first.
    #[must_use]
    pub fn scores(&self) -> Vec<serde_json::Value> {
        self.shared.reading().scores.clone()
    }

    /// Stores a score: a JSON object with the fields of the newer interface.
    pub fn add_score(&self, score: serde_json::Value) {
        self.shared.reading().scores.push(score);
    }

    /// Returns the paths and queries that were read, in the order of their arrival.
    #[must_use]
    pub fn reads(&self) -> Vec<String> {
        self.shared.reading().requests.clone()
    }

    /// Keeps what every request says from now on, for [`said`](Self::said).
    pub fn keep_what_is_said(&self) {
        self.shared.change(|received| received.said = Some(Vec::new()));
    }

    /// Returns what all requests said that were kept, as one request of OTLP/JSON.
    #[must_use]
    pub fn said(&self) -> serde_json::Value {
        let said = self.shared.read(|received| received.said.clone().unwrap_or_default());
        otlp::to_json(&said)
    }

    /// Returns the observations. A span that was delivered twice is one observation.
    #[must_use]
    pub fn observations(&self) -> Vec<Observation> {
        self.shared.read(|received| received.observations().to_vec())
    }

    /// Returns the observation with an id.
    #[must_use]
    pub fn observation(&self, span_id: &str) -> Option<Observation> {
        self.shared.read(|received| {
            received.observations().iter().find(|row| row.id() == span_id).cloned()
        })
    }

    /// Returns the observations with a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Observation> {
        self.shared.read(|received| received.named(name).cloned().collect())
    }

    /// Returns the observations of a trace.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Observation> {
        self.shared.read(|received| {
            received
                .observations()
                .iter()
                .filter(|row| row.trace_id() == trace_id)
                .cloned()
                .collect()
        })
    }

    /// Returns the requests for ingestion in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.read(|received| received.requests().to_vec())
    }

    /// Counts how often a span was stored.
    #[must_use]
    pub fn deliveries(&self, span_id: &str) -> usize {
        self.shared.read(|received| received.deliveries(span_id))
    }

    /// Counts the rows that were stored beyond the first of each span.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.shared.read(Received::duplicates)
    }

    /// Counts the batches that were answered with 200 and then given up, because one span in them
    /// could not be read.
    #[must_use]
    pub fn lost_batches(&self) -> usize {
        self.shared.read(Received::lost_batches)
    }

    /// Waits until so many observations are stored, and returns them all.
    ///
    /// # Panics
    ///
    /// Panics if they are not there in time.
    pub async fn wait_for(&self, observations: usize, timeout: Duration) -> Vec<Observation> {
        self.wait_until(timeout, move |received| received.observations().len() >= observations)
            .await;
        self.observations()
    }

    /// Waits until a condition holds for what was received. It is checked at every change.
    ///
    /// # Panics
    ///
    /// Panics if it does not hold in time.
    pub async fn wait_until(
        &self,
        timeout: Duration,
        holds: impl FnMut(&Received) -> bool + Send + 'static,
    ) {
        let shared = Arc::clone(&self.shared);
        // On a thread of the runtime's own, which keeps a paused clock from running ahead.
        let waiting = tokio::task::spawn_blocking(move || shared.wait_until(timeout, holds));
        if let Err(summary) = waiting.await.expect("the condition does not panic") {
            panic!("not in time: {summary}");
        }
    }

    /// Does what [`wait_until`](Self::wait_until) does, without a runtime.
    ///
    /// # Panics
    ///
    /// Panics if the condition does not hold in time.
    #[track_caller]
    pub fn wait_until_blocking(&self, timeout: Duration, holds: impl FnMut(&Received) -> bool) {
        if let Err(summary) = self.shared.wait_until(timeout, holds) {
            panic!("not in time: {summary}");
        }
    }
}

impl Drop for LangfuseServer {
    fn drop(&mut self) {
        if let Some(running) = lock(&self.running).take() {
            running.stop.send_replace(true);
        }
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    fn scores(&self) -> MutexGuard<'_, score_api::Scores> {
        lock(&self.scores)
    }

    fn reading(&self) -> MutexGuard<'_, read_api::Reading> {
        lock(&self.reading)
    }

    fn read<T>(&self, read: impl FnOnce(&Received) -> T) -> T {
        read(&lock(&self.received))
    }

    /// Changes what was received, and wakes who waits for it.
    fn change<T>(&self, change: impl FnOnce(&mut Received) -> T) -> T {
        let changed = change(&mut lock(&self.received));
        self.changed.notify_all();
        changed
    }

    /// Notes a request; answers its number.
    fn begin(&self, parts: &Parts, fault: Option<Fault>) -> usize {
        let request = Request {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            headers: parts.headers.clone(),
            wire_bytes: None,
            body_bytes: None,
            status: None,
            span_ids: Vec::new(),
            is_stored: false,
            fault,
        };
        self.change(|received| {
            received.requests.push(request);
            received.requests.len() - 1
        })
    }

    fn update(&self, number: usize, update: impl FnOnce(&mut Request)) {
        self.change(|received| update(&mut received.requests[number]));
    }

    /// Answers a summary of what was received if the condition does not hold in time.
    fn wait_until(
        &self,
        timeout: Duration,
        mut holds: impl FnMut(&Received) -> bool,
    ) -> Result<(), String> {
        let received = lock(&self.received);
        let waited =
            self.changed.wait_timeout_while(received, timeout, |received| !holds(received));
        let (received, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() { Err(summary(&received)) } else { Ok(()) }
    }
}

fn summary(received: &Received) -> String {
    let names: Vec<&str> = received.observations().iter().map(Observation::name).collect();
    let statuses: Vec<Option<u16>> =
        received.requests().iter().map(|request| request.status).collect();
    format!(
        "{} observations {names:?}, {} requests answered {statuses:?}",
        names.len(),
        statuses.len()
    )
}

/// A test that failed while it held the lock leaves data that others may still read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address)
        .await
        .unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"))
}

fn local_address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a listening socket has an address")
}
