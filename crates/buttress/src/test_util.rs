//! Test kit: a service that answers from a script and watches how it is used.
//!
//! # Examples
//!
//! ```
//! use buttress::{RetryLayer, test_util::{Answer, Scripted}};
//! use std::time::Duration;
//! use tower::{Layer, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let script = Scripted::new([Answer::error("connection reset"), Answer::ok("fine")]);
//! let agent = RetryLayer::new(3).backoff([Duration::ZERO]).layer(script.clone());
//! assert_eq!(agent.oneshot("AAPL").await.unwrap(), "fine");
//! assert_eq!(script.calls(), 2);
//! # }
//! ```

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use crate::{Failure, FailureKind};

/// A payload of a panic that panics when it is dropped, with another one, so many times.
///
/// For who catches panics: `std::panic::panic_any(PanicsOnDrop(3))`.
#[derive(Debug)]
pub struct PanicsOnDrop(
    /// How many panics follow one another; none with zero.
    pub u8,
);

/// A service that gives the answers of a script in their order; the last one repeats.
///
/// Clones share the script and the counts. It is strict: a call without readiness of the same
/// instance panics, and a clone starts unready.
///
/// # Panics
///
/// `call` panics when `poll_ready` of this instance was not Ready since its last call.
pub struct Scripted<Res> {
    shared: Arc<Shared<Res>>,
    readiness: Readiness,
    /// Whether this instance may be called now.
    ready: bool,
    /// How often this instance was asked for readiness since its last call.
    asked: usize,
}

struct Shared<Res> {
    script: Vec<Answer<Res>>,
    calls: AtomicUsize,
    unready: AtomicUsize,
    clones: AtomicUsize,
    finished: AtomicUsize,
    dropped: AtomicUsize,
}

/// One answer of a [`Scripted`] service.
#[derive(Debug, Clone)]
pub struct Answer<Res> {
    after: Option<Duration>,
    what: What<Res>,
}

#[derive(Debug, Clone)]
enum What<Res> {
    Ok(Res),
    Err(Failure),
    Hang,
    PanicInCall,
    PanicInPoll,
}

/// When a [`Scripted`] service is ready.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Readiness {
    /// At the first question.
    Always,
    /// Only after so many questions that are answered with Pending and a wake-up.
    After(usize),
    /// Never, with this error, once so many calls were made.
    FailsAfterCalls(usize, Failure),
}

pin_project! {
    /// The answer of a [`Scripted`] service.
    pub struct ScriptedFuture<Res> {
        #[pin]
        sleep: Option<Sleep>,
        after: Option<Duration>,
        what: Option<What<Res>>,
        shared: Arc<Shared<Res>>,
        finished: bool,
    }

    impl<Res> PinnedDrop for ScriptedFuture<Res> {
        fn drop(this: Pin<&mut Self>) {
            let counter = if this.finished { &this.shared.finished } else { &this.shared.dropped };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// ===== impl Answer =====

impl<Res> Answer<Res> {
    /// An answer at once.
    pub const fn ok(answer: Res) -> Self {
        Self { after: None, what: What::Ok(answer) }
    }

    /// A transient failure with a message, at once.
    #[must_use]
    pub fn error(message: &'static str) -> Self {
        Self::failure(Failure::new(FailureKind::Transient).with_message(message))
    }

    /// A failure, at once.
    #[must_use]
    pub const fn failure(failure: Failure) -> Self {
        Self { after: None, what: What::Err(failure) }
    }

    /// No answer, ever.
    #[must_use]
    pub const fn hang() -> Self {
        Self { after: None, what: What::Hang }
    }

    /// A panic inside `call`.
    #[must_use]
    pub const fn panic_in_call() -> Self {
        Self { after: None, what: What::PanicInCall }
    }

    /// A panic inside the future's `poll`.
    #[must_use]
    pub const fn panic_in_poll() -> Self {
        Self { after: None, what: What::PanicInPoll }
    }

    /// Gives the answer after a time, on tokio's clock.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = Some(time);
        self
    }
}

// ===== impl Scripted =====

impl<Res> Scripted<Res> {
    /// Creates a service from its script.
    ///
    /// # Panics
    ///
    /// If the script is empty.
    #[must_use]
    #[track_caller]
    pub fn new(script: impl IntoIterator<Item = Answer<Res>>) -> Self {
        let script: Vec<_> = script.into_iter().collect();
        assert!(!script.is_empty(), "a script must have at least one answer");
        let shared = Shared {
            script,
            calls: AtomicUsize::new(0),
            unready: AtomicUsize::new(0),
            clones: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared), readiness: Readiness::Always, ready: false, asked: 0 }
    }

    /// Sets when the service is ready.
    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// Returns how many calls were made.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Returns how many calls were made without readiness; each of them panicked.
    #[must_use]
    pub fn unready_calls(&self) -> usize {
        self.shared.unready.load(Ordering::Relaxed)
    }

    /// Returns how often the service was cloned.
    #[must_use]
    pub fn clones(&self) -> usize {
        self.shared.clones.load(Ordering::Relaxed)
    }

    /// Returns how many calls were answered, panics included.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.shared.finished.load(Ordering::Relaxed)
    }

    /// Returns how many calls were dropped before their answer.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl<Res> Clone for Scripted<Res> {
    fn clone(&self) -> Self {
        self.shared.clones.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(&self.shared),
            readiness: self.readiness.clone(),
            ready: false,
            asked: 0,
        }
    }
}

impl<Res> fmt::Debug for Scripted<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted")
            .field("calls", &self.calls())
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

impl<Req, Res: Clone> Service<Req> for Scripted<Res> {
    type Response = Res;
    type Error = Failure;
    type Future = ScriptedFuture<Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.asked += 1;
        match &self.readiness {
            Readiness::After(questions) if !self.ready && self.asked <= *questions => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Readiness::FailsAfterCalls(calls, failure) if self.calls() >= *calls => {
                return Poll::Ready(Err(failure.clone()));
            }
            _ => self.ready = true,
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> ScriptedFuture<Res> {
        if !self.ready {
            self.shared.unready.fetch_add(1, Ordering::Relaxed);
            panic!("called without readiness");
        }
        self.ready = false;
        self.asked = 0;
        let place = self.shared.calls.fetch_add(1, Ordering::Relaxed);
        let last = self.shared.script.len() - 1;
        let Answer { after, what } = self.shared.script[place.min(last)].clone();
        assert!(!matches!(what, What::PanicInCall), "scripted panic in call");
        ScriptedFuture {
            sleep: None,
            after,
            what: Some(what),
            shared: Arc::clone(&self.shared),
            finished: false,
        }
    }
}

// ===== impl PanicsOnDrop =====

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if let Some(left) = self.0.checked_sub(1) {
            std::panic::panic_any(Self(left));
        }
    }
}

// ===== impl ScriptedFuture =====

impl<Res> Future for ScriptedFuture<Res> {
    type Output = Result<Res, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(after) = this.after.take() {
            this.sleep.set(Some(tokio::time::sleep(after)));
        }
        if let Some(sleep) = this.sleep.as_mut().as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        if matches!(this.what, Some(What::Hang)) {
            return Poll::Pending;
        }
        *this.finished = true;
        match this.what.take().expect("polled after completion") {
            What::Ok(answer) => Poll::Ready(Ok(answer)),
            What::Err(failure) => Poll::Ready(Err(failure)),
            What::Hang | What::PanicInCall | What::PanicInPoll => panic!("scripted panic in poll"),
        }
    }
}

impl<Res> fmt::Debug for ScriptedFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedFuture").field("finished", &self.finished).finish_non_exhaustive()
    }
}
