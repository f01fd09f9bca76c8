//! Chaos: injects seeded faults, for examples, tests and game days.
//!
//! # Examples
//!
//! ```
//! use buttress::{ChaosLayer, chaos::Fault};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::Error> {
//! let layer = ChaosLayer::new().schedule([Fault::Error]).error_rate(0.0).seed(7);
//! let chaos = layer.chaos();
//! let mut agent = ServiceBuilder::new()
//!     .layer(layer)
//!     .service_fn(|prompt: String| async move { Ok::<_, std::io::Error>(prompt) });
//!
//! assert!(agent.ready().await?.call("first".to_owned()).await.is_err());
//! assert_eq!(agent.ready().await?.call("second".to_owned()).await?, "second");
//! assert_eq!(chaos.injected(), 1);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Layer, Service};

use crate::{AnyError, BoxError, Error, ErrorKind, Failure, FailureKind, classify::into_error};

/// Injects faults into some of the calls, decided by a seed.
///
/// What is injected: first the schedule, fault by fault, then by the rates. Clones and all
/// services it is applied to share the schedule and the randomness.
///
/// # Defaults
///
/// - every rate 0, no schedule, seed 0
///
/// # Errors
///
/// An injected failure is an [`Error`] of kind [`Service`](ErrorKind::Service) whose source is a
/// [`Failure`].
///
/// # Panics
///
/// When it is applied, if the rates together exceed 1.
///
/// See the [module docs](self) for an example.
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct ChaosLayer {
    rules: Rules,
    chaos: Chaos,
}

/// A switch and a counter for the faults of a [`ChaosLayer`]: a cheap handle.
#[derive(Debug, Clone)]
pub struct Chaos {
    shared: Arc<Shared>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// None: the call goes through.
    None,
    /// A transient failure.
    Error,
    /// Any failure.
    Failure(Failure),
    /// A rate limit that asks to wait.
    RateLimit(Duration),
    /// A delay before the call.
    Latency(Duration),
    /// No answer, ever.
    Hang,
    /// A panic in the future.
    Panic,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    error: f64,
    rate_limit: (f64, Duration),
    latency: (f64, Range<Duration>),
    hang: f64,
    panic: f64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    off: AtomicBool,
    injected: AtomicU64,
}

#[derive(Debug)]
struct State {
    schedule: VecDeque<Fault>,
    random: fastrand::Rng,
}

/// A service with injected faults; made by [`ChaosLayer`].
#[derive(Debug, Clone)]
pub struct ChaosService<S> {
    inner: S,
    rules: Rules,
    chaos: Chaos,
}

pin_project! {
    /// The answer of a [`ChaosService`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        sleep: Option<Sleep>,
        fault: Fault,
    }
}

// ===== impl ChaosLayer =====

impl ChaosLayer {
    /// Creates a layer that injects nothing yet.
    pub fn new() -> Self {
        let shared = Shared {
            state: Mutex::new(State {
                schedule: VecDeque::new(),
                random: fastrand::Rng::with_seed(0),
            }),
            off: AtomicBool::new(false),
            injected: AtomicU64::new(0),
        };
        Self { rules: Rules::default(), chaos: Chaos { shared: Arc::new(shared) } }
    }

    /// Returns the switch and counter.
    #[must_use]
    pub fn chaos(&self) -> Chaos {
        self.chaos.clone()
    }

    /// Sets the seed that decides which calls are hit.
    pub fn seed(self, seed: u64) -> Self {
        self.chaos.shared.state().random = fastrand::Rng::with_seed(seed);
        self
    }

    /// Sets faults for the next calls, one each, before any rate applies.
    pub fn schedule(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.chaos.shared.state().schedule.extend(faults);
        self
    }

    /// Sets the share of calls that fail with a transient failure.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1.
    #[track_caller]
    pub fn error_rate(mut self, share: f64) -> Self {
        self.rules.error = checked("error_rate", share);
        self
    }

    /// Sets the share of calls that are rate-limited, and how long they are told to wait.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1.
    #[track_caller]
    pub fn rate_limit(mut self, share: f64, retry_after: Duration) -> Self {
        self.rules.rate_limit = (checked("rate_limit", share), retry_after);
        self
    }

    /// Sets the share of calls that are delayed, by a time from a range.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1, or the range is empty.
    #[track_caller]
    pub fn latency(mut self, share: f64, range: Range<Duration>) -> Self {
        assert!(!range.is_empty(), "the range of latencies must not be empty");
        self.rules.latency = (checked("latency", share), range);
        self
    }

    /// Sets the share of calls that hang for ever.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1.
    #[track_caller]
    pub fn hang_rate(mut self, share: f64) -> Self {
        self.rules.hang = checked("hang_rate", share);
        self
    }

    /// Sets the share of calls that panic.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1.
    #[track_caller]
    pub fn panic_rate(mut self, share: f64) -> Self {
        self.rules.panic = checked("panic_rate", share);
        self
    }
}

impl Default for ChaosLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ChaosLayer {
    type Service = ChaosService<S>;

    #[track_caller]
    fn layer(&self, inner: S) -> ChaosService<S> {
        let Rules { error, rate_limit, latency, hang, panic } = &self.rules;
        let sum = error + rate_limit.0 + latency.0 + hang + panic;
        assert!(sum <= 1.0 + 1e-9, "the rates of chaos must not exceed 1 together, not {sum}");
        ChaosService { inner, rules: self.rules.clone(), chaos: self.chaos.clone() }
    }
}

// ===== impl Chaos =====

impl Chaos {
    /// Stops injecting faults.
    pub fn disable(&self) {
        self.shared.off.store(true, Ordering::Relaxed);
    }

    /// Injects faults again.
    pub fn enable(&self) {
        self.shared.off.store(false, Ordering::Relaxed);
    }

    /// Returns how many faults were injected.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }

    fn next(&self, rules: &Rules) -> Fault {
        if self.shared.off.load(Ordering::Relaxed) {
            return Fault::None;
        }
        let mut state = self.shared.state();
        let fault = match state.schedule.pop_front() {
            Some(fault) => fault,
            None => rules.pick(&mut state.random),
        };
        drop(state);
        if fault != Fault::None {
            self.shared.injected.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn pick(&self, random: &mut fastrand::Rng) -> Fault {
        let mut left = random.f64();
        let mut hits = |share: f64| {
            left -= share;
            left < 0.0
        };
        if hits(self.error) {
            Fault::Error
        } else if hits(self.rate_limit.0) {
            Fault::RateLimit(self.rate_limit.1)
        } else if hits(self.latency.0) {
            let Range { start, end } = self.latency.1;
            Fault::Latency(start + (end - start).mul_f64(random.f64()))
        } else if hits(self.hang) {
            Fault::Hang
        } else if hits(self.panic) {
            Fault::Panic
        } else {
            Fault::None
        }
    }
}

// ===== impl ChaosService =====

impl<S> ChaosService<S> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the faults.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, Req> Service<Req> for ChaosService<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError> + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(|error| into_error::<S::Response, _, _>(&AnyError, error))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // The inner call is made in any case, so that its readiness is used; a fault that fails
        // drops it unpolled.
        let fault = self.chaos.next(&self.rules);
        ResponseFuture { inner: self.inner.call(request), sleep: None, fault }
    }
}

// ===== impl ResponseFuture =====

impl<F, Res, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
{
    type Output = Result<Res, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let failure = match this.fault {
            Fault::None => {
                let result = ready!(this.inner.poll(cx));
                return Poll::Ready(
                    result.map_err(|error| into_error::<Res, _, _>(&AnyError, error)),
                );
            }
            Fault::Latency(time) => {
                if this.sleep.is_none() {
                    this.sleep.set(Some(tokio::time::sleep(*time)));
                }
                if let Some(sleep) = this.sleep.as_mut().as_pin_mut() {
                    ready!(sleep.poll(cx));
                }
                *this.fault = Fault::None;
                let result = ready!(this.inner.poll(cx));
                return Poll::Ready(
                    result.map_err(|error| into_error::<Res, _, _>(&AnyError, error)),
                );
            }
            Fault::Hang => return Poll::Pending,
            Fault::Panic => panic!("injected panic"),
            Fault::Error => Failure::new(FailureKind::Transient).with_message("injected failure"),
            Fault::Failure(failure) => failure.clone(),
            Fault::RateLimit(wait) => Failure::new(FailureKind::RateLimited)
                .with_message("injected rate limit")
                .with_retry_after(*wait),
        };
        let error = Error::new(ErrorKind::Service).with_failure(failure.clone());
        Poll::Ready(Err(error.with_source(failure)))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("fault", &self.fault).finish_non_exhaustive()
    }
}

#[track_caller]
fn checked(setter: &str, share: f64) -> f64 {
    assert!((0.0..=1.0).contains(&share), "{setter} must be from 0 to 1, not {share}");
    share
}
