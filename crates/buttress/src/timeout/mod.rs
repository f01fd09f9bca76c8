//! Timeout: drops a call that takes too long.
//!
//! The time starts at the first poll that is pending, which normally is the first one; no clock is
//! read and no timer made before, so a service that answers at once needs neither. Waiting for
//! readiness is not part of it.
//!
//! # Ordering
//!
//! Around one agent, inside retry and breaker: a hang then costs one attempt, and the breaker
//! learns of it. Around a whole fallback chain the primary's hang takes the time of the fallbacks.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use buttress::TimeoutLayer;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let mut agent = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(Duration::from_secs(30)))
//!     .service_fn(|_: String| std::future::pending::<Result<String, std::io::Error>>());
//!
//! let error = agent.ready().await.unwrap().call("AAPL".to_owned()).await.unwrap_err();
//! assert!(error.is_timeout());
//! assert_eq!(error.to_string(), "timed out after 30s");
//! # }
//! ```

#[cfg(feature = "config")]
mod config;
mod future;
mod layer;

use std::{
    mem::ManuallyDrop,
    task::{Context, Poll},
    time::Duration,
};

use tower::Service;
use tracing::field::Empty;

#[cfg(feature = "config")]
pub use self::config::TimeoutConfig;
pub use self::{future::ResponseFuture, layer::TimeoutLayer};
use crate::{
    AnyError, BoxError, Classify, Error,
    classify::into_error,
    sharded::Sharded,
    telemetry::{self, Labels, Telemetry},
};

/// A service whose calls are dropped when they take too long; made by [`TimeoutLayer`].
///
/// See the [module docs](self) for an example.
#[derive(Debug, Clone)]
pub struct Timeout<S, C = AnyError> {
    inner: S,
    after: Duration,
    classify: C,
    /// None where neither an agent nor metadata is named.
    labels: Option<Sharded<Labels, Labels>>,
}

// ===== impl Timeout =====

impl<S, C> Timeout<S, C> {
    /// Returns the time limit.
    #[must_use]
    pub const fn after(&self) -> Duration {
        self.after
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the limit.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C, Req> Service<Req> for Timeout<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future, C>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(|error| {
            let labels = self.labels.as_ref().map(Sharded::prototype);
            let agent_id = labels.and_then(|labels| labels.agent_id.as_ref());
            into_error(&self.classify, error).in_agent(agent_id)
        })
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let telemetry = Telemetry::open(|| {
            tracing::info_span!(
                target: telemetry::TARGET,
                telemetry::span::TIMEOUT,
                agent_id = self.labels.as_ref().and_then(|labels| labels.prototype().agent_id()),
                metadata = self.labels.as_ref().and_then(|labels| labels.prototype().metadata()),
                timeout_seconds = self.after.as_secs_f64(),
                outcome = Empty,
                failure_kind = Empty,
                error = Empty,
                error_type = Empty,
                level = Empty,
                status_message = Empty,
            )
        });
        let labels = self.labels.as_ref().map(|labels| labels.handle(Labels::clone));
        let classify = self.classify.clone();
        let scope = telemetry.scope();
        let inner = ManuallyDrop::new(self.inner.call(request));
        scope.leave();
        let inner = ManuallyDrop::into_inner(inner);
        ResponseFuture::new(inner, self.after, classify, labels, telemetry)
    }
}
