//! Circuit breaker: stops calling a service that fails, and tests later whether it is well.
//!
//! A closed circuit lets every call through and counts results. When a rule is broken it opens and
//! rejects calls at once. After its open time it is half-open and lets a few probes through: their
//! success closes it, a failure opens it again.
//!
//! Each result belongs to the *generation* its call was admitted in: a slow answer from before the
//! circuit opened changes nothing, and is counted as late. A call that its caller drops says
//! nothing about the service, unless [`drop_is_failure_after`] says otherwise; a panic is a
//! failure.
//!
//! # Ordering
//!
//! Inside the retry, so that each attempt counts, and outside the timeout, so that a hang is a
//! failure. A timeout *outside* the breaker drops the call: the breaker sees a cancellation.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use buttress::{CircuitBreakerLayer, ErrorKind, Window};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let layer = CircuitBreakerLayer::new("gpt-large")
//!     .failure_rate(0.5)
//!     .window(Window::calls(20))
//!     .minimum_calls(2)
//!     .open_for(Duration::from_secs(20));
//! let circuit = layer.circuit();
//! let mut agent = ServiceBuilder::new()
//!     .layer(layer)
//!     .service_fn(|_: String| async { Err::<String, _>(std::io::Error::other("overloaded")) });
//!
//! for _ in 0..2 {
//!     agent.ready().await.unwrap().call("AAPL".to_owned()).await.unwrap_err();
//! }
//! let error = agent.ready().await.unwrap().call("AAPL".to_owned()).await.unwrap_err();
//! assert!(matches!(error.kind(), ErrorKind::CircuitOpen { .. }));
//! assert_eq!(circuit.snapshot().not_permitted, 1);
//! # }
//! ```
//!
//! [`drop_is_failure_after`]: CircuitBreakerLayer::drop_is_failure_after

#[cfg(all(feature = "stream", feature = "http"))]
mod at_body_end;
#[cfg(feature = "stream")]
mod at_stream_end;
mod circuit;
mod config;
mod future;
mod keyed;
mod layer;
mod machine;
mod settings;
mod settle;
mod watch;
mod window;
mod word;

use std::task::{Context, Poll};

use tower::Service;

#[cfg(all(feature = "stream", feature = "http"))]
pub use self::at_body_end::{AtBodyEnd, SettlingBody};
#[cfg(feature = "stream")]
pub use self::at_stream_end::{AtStreamEnd, SettlingStream};
pub use self::{
    circuit::{Circuit, Snapshot, Subscription},
    config::CircuitBreakerConfig,
    future::{KeyedResponseFuture, ResponseFuture},
    keyed::{CircuitBreakers, KeyedCircuitBreaker, KeyedCircuitBreakerLayer},
    layer::CircuitBreakerLayer,
    machine::{State, Transition, TransitionReason},
    settings::{AfterLease, HalfOpen},
    settle::{AtAnswer, Settle},
    window::Window,
};
use self::{future::Call, machine::Verdict};
use crate::{
    AnyError, BoxError, Classify, Error, classify::into_error, sharded::Sharded, telemetry::Labels,
};

/// A service behind a circuit; made by [`CircuitBreakerLayer`].
///
/// See the [module docs](self) for an example.
#[derive(Debug)]
pub struct CircuitBreaker<S, C = AnyError, M = AtAnswer> {
    inner: S,
    readiness: Readiness,
    guard: Sharded<Guard, Guard>,
    classify: C,
    settles: M,
}

/// What every call through a breaker needs to know.
#[derive(Debug, Clone)]
pub struct Guard {
    circuit: Circuit,
    labels: Labels,
}

/// What an inner service was asked since its last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Unasked,
    /// It may stand in a queue, or hold a place that it got there since.
    Asked,
    Ready,
}

// ===== impl CircuitBreaker =====

impl<S, C, M> CircuitBreaker<S, C, M> {
    fn new(inner: S, guard: Guard, classify: C, settles: M) -> Self {
        let guard = Sharded::new(guard);
        Self { inner, readiness: Readiness::Unasked, guard, classify, settles }
    }

    /// Returns the circuit.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        &self.guard.prototype().circuit
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the breaker.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A clone's inner service is not ready, whatever the original's is.
impl<S: Clone, C: Clone, M: Clone> Clone for CircuitBreaker<S, C, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            readiness: Readiness::Unasked,
            guard: self.guard.clone(),
            classify: self.classify.clone(),
            settles: self.settles.clone(),
        }
    }
}

impl<S, C, M, Req> Service<Req> for CircuitBreaker<S, C, M>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
    M: Settle<S::Response, S::Error, C> + Clone,
{
    type Response = M::Response;
    type Error = Error;
    type Future = ResponseFuture<S, Req, C, M>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // While the circuit is open the inner service is left alone: `call` decides.
        if self.readiness == Readiness::Ready || self.circuit().seems_open() {
            return Poll::Ready(Ok(()));
        }
        self.readiness = Readiness::Asked;
        match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                self.readiness = Readiness::Ready;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                let verdict = Verdict::of(&self.classify.classify(Err(&error)));
                let Guard { circuit, labels } = self.guard.prototype();
                circuit.count(verdict, labels);
                let error = into_error(&self.classify, error);
                Poll::Ready(Err(error.in_agent(labels.agent_id.as_ref())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let call = Call {
            inner: &mut self.inner,
            readiness: &mut self.readiness,
            access: self.guard.handle(Guard::clone),
            classify: self.classify.clone(),
            settles: self.settles.clone(),
        };
        ResponseFuture::new(call.start(request))
    }
}
