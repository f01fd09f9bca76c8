//! Delivery: a bounded queue, and a thread that sends what is in it until it is taken.
//!
//! The thread has a runtime of its own and knows nothing of the caller's, so that waiting for it
//! cannot deadlock.

#[cfg(feature = "collector")]
mod collector;
mod countdown;
mod post;
mod problem;
mod request;
mod scores;
mod shared;
mod state;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tracing::{Dispatch, dispatcher};

#[cfg(feature = "collector")]
pub use self::collector::Collector;
#[cfg(feature = "collector")]
use self::collector::Exporter;
pub(crate) use self::request::Endpoint;
use self::{
    countdown::Countdown,
    post::Post,
    shared::{Accepted, Ending, Shared},
};
#[cfg(feature = "client")]
pub(crate) use self::{
    post::{HttpClient, http_client},
    problem::{innermost, words_of},
};
use crate::{
    config::StartError,
    encode::Encoded,
    notice::notice,
    sink::{FlushError, Sink, Stats},
    spool::{Class, Kind, Spool, Waiting},
    text::Secrets,
};

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
    Langfuse(Box<Endpoint>),
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
    #[cfg(test)]
    Scripted(tests::Script),
}

/// What became of a batch.
enum Answer {
    /// It was taken, but for so many spans that the server counts as refused.
    Taken { refused: usize },
    /// It will never be taken as it is.
    Refused { words: String },
    /// The server does not take it so, and there is another way.
    TryAgain,
    /// The time was over before it was taken; less of it may be faster.
    TooSlow,
}

/// Sends spans to their destination.
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    takes_scores: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

// ===== impl Delivery =====

impl Delivery {
    pub(crate) fn start(
        destination: Destination,
        limits: Limits,
        spool: Option<Spool>,
    ) -> Result<Self, StartError> {
        let (peer, secrets) = (destination.peer(), destination.secrets());
        let shared = Arc::new(Shared::new(limits, peer, secrets, spool));
        let sender = Sender::new(destination, &shared)?;
        Self::launch(shared, sender)
    }

    fn launch(shared: Arc<Shared>, sender: Sender) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let takes_scores = sender.takes_scores();
        let thread = thread::Builder::new().name("buttress-langfuse".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || work(&shared, &sender, runtime)
        });
        let thread = thread.map_err(StartError::Thread)?;
        Ok(Self { shared, takes_scores, thread: Mutex::new(Some(thread)) })
    }
}

/// Delivers until told to stop.
fn work(shared: &Shared, sender: &Sender, runtime: Runtime) {
    let _ending = Ending(shared);
    // The spans of the delivery itself go nowhere, or they would never end. A subscriber of its
    // own would be asked about every callsite of the process and raise the highest level of all.
    let _silence = dispatcher::set_default(&Dispatch::none());
    runtime.block_on(async {
        tokio::select! {
            () = shared.run(sender) => (),
            () = shared.stop.notified() => (),
        }
    });
    // A name may still be looked up, on a thread that nothing can stop.
    runtime.shutdown_background();
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Sink for Delivery {
    fn accept(&self, starts: &[Encoded], span: Encoded, class: Class) {
        self.note(self.shared.accept(starts, Waiting::span(span.0), class));
    }
    fn score(&self, score: Bytes, class: Class) {
        if self.takes_scores {
            self.note(self.shared.accept(&[], Waiting::score(score), class));
        }
    }

    fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shared.flush(&Countdown::start(timeout))
    }

    fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        let countdown = Countdown::start(timeout);
        let result = self.shared.close(&countdown);
        self.shared.stop.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A thread that has not ended in time is left to itself: it ends at its next await.
        if let Some(thread) = thread
            && self.shared.ends_within(&countdown)
        {
            drop(thread.join());
        }
        result
    }

    fn recover(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shared.recover(&Countdown::start(timeout))
    }

    fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn journals(&self) -> bool {
        self.shared.journals()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
    }
}

impl Delivery {
    fn note(&self, accepted: Accepted) {
        if accepted.is_first_drop {
            notice(format_args!(
                "spans are dropped: the queue is full or delivery has ended (counted in stats)"
            ));
        }
        if accepted.wakes {
            self.shared.work.notify_one();
        }
    }
}

// ===== impl Destination, Sender =====

impl Destination {
    /// Returns what no text may show: the keys of Langfuse, the headers of a collector.
    fn secrets(&self) -> Secrets {
        match self {
            Self::Langfuse(endpoint) => Secrets::new(endpoint.secrets()),
            #[cfg(feature = "collector")]
            Self::Collector { collector, .. } => Secrets::new(collector.secrets()),
        }
    }

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
        match destination {
            Destination::Langfuse(endpoint) => {
                Ok(Self::Langfuse { endpoint, post: Post::new(Arc::clone(shared), false) })
            }
            #[cfg(feature = "collector")]
            Destination::Collector { collector, service_name } => {
                let post = Post::new(Arc::clone(shared), true);
                Ok(Self::Collector(collector.connect(post, &service_name)?))
            }
        }
    }

    /// Returns how many of some scores a request takes, from their end.
    fn fitting(&self, scores: &[Waiting]) -> usize {
        match self {
            Self::Langfuse { endpoint, .. } => endpoint.scores.fitting(scores),
            #[cfg(feature = "collector")]
            Self::Collector(_) => scores.len(),
            #[cfg(test)]
            Self::Scripted(_) => scores.len(),
        }
    }

    const fn takes_scores(&self) -> bool {
        #[cfg(feature = "collector")]
        if matches!(self, Self::Collector(_)) {
            return false;
        }
        true
    }

    async fn send_scores(&self, scores: &[Bytes]) -> Answer {
        match self {
            Self::Langfuse { endpoint, post } => endpoint.scores.send(post, scores).await,
            #[cfg(feature = "collector")]
            Self::Collector(_) => Answer::Taken { refused: scores.len() },
            #[cfg(test)]
            Self::Scripted(script) => script().await,
        }
    }

    async fn send(&self, kind: Kind, batch: &[Bytes]) -> Answer {
        if kind == Kind::Score {
            self.send_scores(batch).await
        } else {
            self.send_spans(batch).await
        }
    }

    async fn send_spans(&self, spans: &[Bytes]) -> Answer {
        match self {
            Self::Langfuse { endpoint, post } => endpoint.send(post, spans).await,
            #[cfg(feature = "collector")]
            Self::Collector(exporter) => exporter.send(spans).await,
            #[cfg(test)]
            Self::Scripted(script) => script().await,
        }
    }
}

#[cfg(test)]
mod tests;
