//! Retry: tries again what may succeed.
//!
//! A classifier says what a result means; a failure that is [retryable](crate::Failure::is_retryable)
//! is tried again after a delay, until one of the limits ends the series. The last error, or the
//! last answer that was classified as a failure, comes through unchanged.
//!
//! Never retried: an open circuit, a call its caller gave up, a failure after part of an answer
//! was handed on, and with [`idempotent(false)`](RetryLayer::idempotent) everything that may have
//! reached the service.
//!
//! # Ordering
//!
//! Outside the circuit breaker, so that each attempt is counted and an open circuit ends the
//! series at once; outside the timeout, so that each attempt has the whole time. A limit on
//! concurrency belongs outside the retry, or calls that wait for their next attempt pile up.
//!
//! # Examples
//!
//! ```
//! use std::{sync::atomic::{AtomicU32, Ordering}, time::Duration};
//! use buttress::RetryLayer;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::io::Error> {
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//! let mut agent = ServiceBuilder::new()
//!     .layer(RetryLayer::new(3).backoff([Duration::ZERO; 2]))
//!     .service_fn(|prompt: String| async move {
//!         match CALLS.fetch_add(1, Ordering::Relaxed) {
//!             0 => Err(std::io::Error::other("connection reset")),
//!             _ => Ok(prompt),
//!         }
//!     });
//! assert_eq!(agent.ready().await?.call("AAPL".to_owned()).await?, "AAPL");
//! assert_eq!(CALLS.load(Ordering::Relaxed), 2);
//! # Ok(())
//! # }
//! ```

mod backoff;
mod budget;
#[cfg(feature = "config")]
mod config;
mod future;
mod history;
mod layer;
mod outermost;
mod policy;
mod report;
mod series;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

#[cfg(feature = "config")]
pub use self::config::RetryConfig;
pub use self::{
    backoff::{Backoff, ExponentialBackoff, Jitter},
    budget::RetryBudget,
    future::ResponseFuture,
    layer::{OverCap, RetryLayer},
    report::{RetryReport, Stop},
};
use self::{future::Plan, policy::Policy};
use crate::{AnyError, ByClone, Classify, FindCallBudget, NoCallBudget, Replay, sharded::Sharded};

/// A service whose failed calls are tried again; made by [`RetryLayer`].
///
/// See the [module docs](self) for an example.
pub struct Retry<S, C = AnyError, B = ExponentialBackoff, Q = NoCallBudget, P = ByClone> {
    inner: S,
    plan: Sharded<Arc<Policy<C, B, Q, P>>, Plan<S, C, B, Q, P>>,
}

// ===== impl Retry =====

impl<S, C, B, Q, P> Retry<S, C, B, Q, P> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub fn get_mut(&mut self) -> &mut S {
        // Further attempts are made by clones of what it is afterwards.
        self.plan = Sharded::new(Arc::clone(self.plan.prototype()));
        &mut self.inner
    }

    /// Returns the inner service and drops the policy.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, C, B, Q, P> Clone for Retry<S, C, B, Q, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), plan: self.plan.clone() }
    }
}

impl<S: fmt::Debug, C, B, Q, P> fmt::Debug for Retry<S, C, B, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("max_attempts", &self.plan.prototype().rules.max_attempts)
            .finish_non_exhaustive()
    }
}

impl<S, C, B, Q, P, Req> Service<Req> for Retry<S, C, B, Q, P>
where
    S: Service<Req> + Clone,
    S::Error: fmt::Display + 'static,
    C: Classify<S::Response, S::Error>,
    B: Backoff,
    Q: FindCallBudget<Req>,
    P: Replay<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, C, B, Q, P>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let Self { inner, plan } = self;
        let plan = plan.handle(|policy| Plan::new(policy, inner.clone()));
        ResponseFuture::start(inner, request, plan)
    }
}
