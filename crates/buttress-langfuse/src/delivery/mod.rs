//! Delivery: a bounded queue, and a thread that sends what is in it until it is taken.
//!
//! The thread has a runtime of its own and knows nothing of the caller's, so that waiting for it
//! cannot deadlock.

#[cfg(feature = "collector")]
mod collector;
mod post;
mod request;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    pin::pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};
use tracing::subscriber::NoSubscriber;

#[cfg(feature = "collector")]
pub use self::collector::Collector;
#[cfg(feature = "collector")]
use self::collector::Exporter;
use self::post::Post;
pub(crate) use self::request::Endpoint;
use crate::{
    config::StartError,
    encode::Encoded,
    notice::notice,
    sink::{FlushError, Sink, Stats},
};

/// No request holds more bytes of spans than this, before compression.
const REQUEST_BYTES: usize = 3 << 20;

/// How much may wait, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) flush_at: usize,
    pub(crate) flush_interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) queue_spans: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) retry_base: Duration,
    pub(crate) retry_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flush_at: 512,
            flush_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            queue_spans: 100_000,
            queue_bytes: 64 << 20,
            retry_base: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// Where spans go.
pub(crate) enum Destination {
    Langfuse(Endpoint),
    #[cfg(feature = "collector")]
    Collector {
        collector: Collector,
        service_name: String,
    },
}

/// Sends batches to one destination.
enum Sender {
    Langfuse {
        endpoint: Box<Endpoint>,
        post: Post,
    },
    #[cfg(feature = "collector")]
    Collector(Exporter),
}

/// What became of a batch.
enum Answer {
    /// It was taken, but for so many spans that the server counts as refused.
    Taken { refused: usize },
    /// It will never be taken as it is.
    Refused { words: String },
}

/// Sends spans to their destination.
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    limits: Limits,
    /// The destination's name in sentences.
    peer: &'static str,
    state: Mutex<State>,
    /// Wakes the thread.
    work: Notify,
    /// Tells the thread to give up.
    stop: Notify,
    /// Wakes who waits in `flush` and `shutdown`.
    settled: Condvar,
    /// Ends the pause between two tries: somebody has begun to wait.
    hurried: Notify,
    /// Whether the delivery pauses between two tries, and nobody asked it to.
    pausing: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    stats: Stats,
    /// How many threads wait in `flush` and `shutdown`: do not wait for more spans.
    waiting: usize,
    closing: bool,
    stopped: bool,
    last_error: Option<String>,
    /// What was said on stderr already.
    said: HashSet<&'static str>,
}

// ===== impl Delivery =====

impl Delivery {
    pub(crate) fn start(destination: Destination, limits: Limits) -> Result<Self, StartError> {
        let peer = destination.peer();
        let shared = Arc::new(Shared {
            limits,
            peer,
            state: Mutex::default(),
            work: Notify::new(),
            stop: Notify::new(),
            settled: Condvar::new(),
            hurried: Notify::new(),
            pausing: AtomicBool::new(false),
        });
        let sender = Sender::new(destination, &shared)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let thread = thread::Builder::new().name("buttress-langfuse".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // The spans of the delivery itself go nowhere, or they would never end.
                tracing::subscriber::with_default(NoSubscriber::new(), || {
                    runtime.block_on(async {
                        tokio::select! {
                            () = shared.run(&sender) => (),
                            () = shared.stop.notified() => (),
                        }
                    });
                });
                shared.state().stopped = true;
                shared.settled.notify_all();
            }
        });
        let thread = thread.map_err(StartError::Thread)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Sink for Delivery {
    fn accept(&self, span: Encoded) {
        let Limits { queue_spans, queue_bytes, flush_at, .. } = self.shared.limits;
        let mut state = self.shared.state();
        let bytes = span.0.len();
        let full = state.queue.len() >= queue_spans || state.queued_bytes + bytes > queue_bytes;
        if full || state.closing {
            state.stats.dropped += 1;
            let first = state.said.insert("dropped");
            drop(state);
            if first {
                notice(format_args!(
                    "spans are dropped: the queue is full or delivery has ended (counted in stats)"
                ));
            }
            return;
        }
        state.queued_bytes += bytes;
        state.queue.push_back(span.0);
        state.stats.accepted += 1;
        state.stats.pending += 1;
        // The first span starts the interval, a full batch ends it.
        let wakes = state.queue.len() == 1 || state.queue.len() == flush_at;
        drop(state);
        if wakes {
            self.shared.work.notify_one();
        }
    }

    fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shared.wait(timeout, |_| ())
    }

    fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        let result = self.shared.wait(timeout, |state| state.closing = true);
        self.shared.stop.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The thread ends at its next await; a thread that panicked has ended.
        drop(thread.map(JoinHandle::join));
        match result {
            Err(FlushError::Closed) => Ok(()),
            result => result,
        }
    }

    fn stats(&self) -> Stats {
        self.shared.state().stats
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
    }
}

// ===== impl Shared =====

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether somebody waits for delivery.
    fn is_awaited(&self) -> bool {
        self.state().waiting > 0
    }

    /// Waits until what was accepted so far is settled.
    fn wait(&self, timeout: Duration, ask: impl FnOnce(&mut State)) -> Result<(), FlushError> {
        let started = Instant::now();
        let mut state = self.state();
        let target = state.stats.accepted;
        ask(&mut state);
        state.waiting += 1;
        self.work.notify_one();
        self.hurried.notify_one();
        let result = loop {
            if state.stats.delivered + state.stats.refused >= target {
                break Ok(());
            }
            if state.stopped {
                break Err(FlushError::Closed);
            }
            let pending = usize::try_from(state.stats.pending).unwrap_or(usize::MAX);
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                break Err(match state.last_error.clone() {
                    Some(reason) => FlushError::Undelivered { pending, reason },
                    None => FlushError::TimedOut { pending },
                });
            }
            state =
                self.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting -= 1;
        result
    }

    /// Sends what waits, batch by batch, until delivery is closed.
    async fn run(&self, sender: &Sender) {
        loop {
            let batch = self.next_batch().await;
            if batch.is_empty() {
                return;
            }
            self.deliver(sender, batch).await;
        }
    }

    /// Waits for a batch; an empty one means that delivery is closed.
    async fn next_batch(&self) -> Vec<Bytes> {
        let mut deadline: Option<Instant> = None;
        loop {
            {
                let mut state = self.state();
                let due = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let full = state.queue.len() >= self.limits.flush_at;
                let hurry = state.waiting > 0 || state.closing;
                if !state.queue.is_empty() && (full || due || hurry) {
                    return state.take(self.limits.flush_at);
                }
                if state.queue.is_empty() {
                    deadline = None;
                    if state.closing {
                        return Vec::new();
                    }
                } else if deadline.is_none() {
                    deadline = Some(Instant::now() + self.limits.flush_interval);
                }
            }
            match deadline {
                None => self.work.notified().await,
                Some(deadline) => {
                    drop(tokio::time::timeout_at(deadline, self.work.notified()).await);
                }
            }
        }
    }

    /// Sends a batch; one that is refused is split until the span that is at fault is alone.
    async fn deliver(&self, sender: &Sender, batch: Vec<Bytes>) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            match self.send(sender, &batch).await {
                Answer::Taken { refused } => {
                    let refused = refused.min(batch.len());
                    self.settle(batch.len() - refused, true);
                    self.settle(refused, false);
                }
                Answer::Refused { words } if batch.len() == 1 => {
                    self.say(&Problem::Refused(words));
                    self.settle(1, false);
                }
                Answer::Refused { .. } => {
                    let rest = batch.split_off(batch.len() / 2);
                    // The first half goes first, so that order is kept.
                    batches.push(rest);
                    batches.push(batch);
                }
            }
        }
    }

    /// Sends one batch; who begins to wait for it ends the pause between two tries.
    async fn send(&self, sender: &Sender, batch: &[Bytes]) -> Answer {
        let mut sending = pin!(sender.send(batch));
        loop {
            tokio::select! {
                biased;
                answer = &mut sending => return answer,
                () = self.hurried.notified() => {
                    if self.pausing.load(Ordering::Relaxed) {
                        sending.set(sender.send(batch));
                    }
                }
            }
        }
    }

    fn settle(&self, spans: usize, delivered: bool) {
        let mut state = self.state();
        let spans = spans as u64;
        state.stats.pending -= spans;
        if delivered {
            state.stats.delivered += spans;
            state.last_error = None;
        } else {
            state.stats.refused += spans;
        }
        drop(state);
        self.settled.notify_all();
    }

    /// Remembers why delivery waits, and says each cause once.
    fn say(&self, problem: &Problem) {
        let first = {
            let mut state = self.state();
            state.last_error = Some(problem.told_of(self.peer));
            state.said.insert(problem.cause())
        };
        if first {
            notice(format_args!("{}", problem.told_of(self.peer)));
        }
    }
}

// ===== impl Destination, Sender =====

impl Destination {
    const fn peer(&self) -> &'static str {
        match self {
            Self::Langfuse(_) => "Langfuse",
            #[cfg(feature = "collector")]
            Self::Collector { .. } => "the collector",
        }
    }
}

impl Sender {
    fn new(destination: Destination, shared: &Arc<Shared>) -> Result<Self, StartError> {
        let post = Post::new(Arc::clone(shared));
        match destination {
            Destination::Langfuse(endpoint) => {
                Ok(Self::Langfuse { endpoint: Box::new(endpoint), post })
            }
            #[cfg(feature = "collector")]
            Destination::Collector { collector, service_name } => {
                Ok(Self::Collector(collector.connect(post, &service_name)?))
            }
        }
    }

    async fn send(&self, spans: &[Bytes]) -> Answer {
        match self {
            Self::Langfuse { endpoint, post } => endpoint.send(post, spans).await,
            #[cfg(feature = "collector")]
            Self::Collector(exporter) => exporter.send(spans).await,
        }
    }
}

// ===== impl State =====

impl State {
    fn take(&mut self, spans: usize) -> Vec<Bytes> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front()
            && batch.len() < spans
            && (batch.is_empty() || bytes + next.len() <= REQUEST_BYTES)
        {
            bytes += next.len();
            batch.extend(self.queue.pop_front());
        }
        self.queued_bytes -= bytes;
        batch
    }
}

/// Why a request was not taken.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Langfuse is away or overloaded; delivery goes on by itself.
    Away(String),
    /// A person has to change something: keys, address.
    Misconfigured(String),
    /// One span is refused for good.
    Refused(String),
}

impl Problem {
    const fn cause(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Misconfigured(_) => "misconfigured",
            Self::Refused(_) => "refused",
        }
    }

    /// Tells a person what happens with spans for this destination.
    fn told_of(&self, peer: &str) -> String {
        match self {
            Self::Away(what) => format!("{peer} does not take spans, trying on: {what}"),
            Self::Misconfigured(what) => {
                format!("{peer} refuses this program's keys or address, spans wait: {what}")
            }
            Self::Refused(words) => format!("{peer} refuses a span, it is given up: {words}"),
        }
    }
}
