//! Fallback: asks the next agent when one has failed.
//!
//! A chain is a primary and fallbacks in their order. Which failures go on to the next agent is a
//! predicate's choice; a fallback may be reserved for one kind of failure, such as a model with a
//! longer context window. Every failure is kept: the error of an exhausted chain has them all.
//!
//! # Ordering
//!
//! Outside retry, breaker and timeout: each agent then has its own attempts and its own time, and
//! an open circuit goes on to the next agent at once.
//!
//! # Examples
//!
//! ```
//! use buttress::{Failure, FailureKind, FallbackService};
//! use tower::service_fn;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::Error> {
//! let large = service_fn(|prompt: String| async move {
//!     match prompt.len() {
//!         0..100 => Err(Failure::new(FailureKind::Overloaded)),
//!         _ => Err(Failure::new(FailureKind::ContextWindowExceeded)),
//!     }
//! });
//! let small = service_fn(|_: String| async { Ok::<_, Failure>("from the small model") });
//! let long = service_fn(|_: String| async { Ok::<_, Failure>("from the long-context model") });
//!
//! let chain = FallbackService::new(large)
//!     .or_when(FailureKind::ContextWindowExceeded, "long-context", long)
//!     .or("small", small);
//! assert_eq!(chain.invoke("AAPL".to_owned()).await?, "from the small model");
//! assert_eq!(chain.invoke("AAPL".repeat(100)).await?, "from the long-context model");
//! # Ok(())
//! # }
//! ```

mod chain;
mod future;
mod layer;
mod story;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower::{Layer, Service, ServiceExt};

use self::chain::Chain;
pub use self::{future::ResponseFuture, layer::FallbackLayer};
use crate::{
    AnyError, BoxError, ByClone, Classify, Error, FailureKind, FindCallBudget, NoCallBudget,
    Replay, classify::into_error, sharded::Sharded,
};

/// A primary agent with fallbacks; made by [`FallbackLayer`], or by [`new`](Self::new).
///
/// See the [module docs](self) for an example.
pub struct FallbackService<S, Req, Res, C = AnyError, Q = NoCallBudget, P = ByClone> {
    primary: S,
    chain: Sharded<Shared<Req, Res, C, Q, P>, Shared<Req, Res, C, Q, P>>,
    /// What the primary's readiness failed with; the call then goes straight to the fallbacks.
    unready: Option<Error>,
}

type Shared<Req, Res, C, Q, P> = Arc<Chain<Req, Res, C, Q, P>>;

// ===== impl FallbackService =====

impl<S, Req, Res> FallbackService<S, Req, Res> {
    /// Starts a chain with its primary agent.
    pub fn new(primary: S) -> Self {
        FallbackLayer::new().layer(primary)
    }
}

impl<S, Req, Res, C, Q, P> FallbackService<S, Req, Res, C, Q, P>
where
    C: Clone,
    Q: Clone,
    P: Clone,
{
    /// Adds an agent that is asked when those before it have failed.
    #[must_use]
    pub fn or<F>(self, name: impl Into<Arc<str>>, agent: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.map(|layer| layer.or(name, agent))
    }

    /// Adds an agent that is asked only when the one before it failed in one way.
    #[must_use]
    pub fn or_when<F>(self, kind: FailureKind, name: impl Into<Arc<str>>, agent: F) -> Self
    where
        F: Service<Req, Response = Res> + Clone + Send + Sync + 'static,
        F::Error: Into<BoxError> + 'static,
        F::Future: Send + 'static,
        C: Classify<Res, F::Error> + Send + Sync + 'static,
        Req: 'static,
        Res: 'static,
    {
        self.map(|layer| layer.or_when(kind, name, agent))
    }

    fn map(
        self,
        change: impl FnOnce(FallbackLayer<Req, Res, C, Q, P>) -> FallbackLayer<Req, Res, C, Q, P>,
    ) -> Self {
        change(FallbackLayer::from_chain(Chain::clone(self.chain.prototype()))).layer(self.primary)
    }
}

impl<S, Req, Res, C, Q, P> FallbackService<S, Req, Res, C, Q, P> {
    /// Asks the chain: a call for who does not drive services by hand.
    ///
    /// # Errors
    ///
    /// As [`FallbackLayer`].
    pub async fn invoke(&self, request: Req) -> Result<Res, Error>
    where
        Self: Service<Req, Response = Res, Error = Error> + Clone,
    {
        self.clone().oneshot(request).await
    }

    /// Returns the primary agent.
    pub const fn get_ref(&self) -> &S {
        &self.primary
    }

    /// Returns the primary agent for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.primary
    }

    /// Returns the primary agent and drops the fallbacks.
    pub fn into_inner(self) -> S {
        self.primary
    }
}

/// A clone's primary is not ready, whatever the original's is.
impl<S: Clone, Req, Res, C, Q, P> Clone for FallbackService<S, Req, Res, C, Q, P> {
    fn clone(&self) -> Self {
        Self { primary: self.primary.clone(), chain: self.chain.clone(), unready: None }
    }
}

impl<S: fmt::Debug, Req, Res, C, Q, P> fmt::Debug for FallbackService<S, Req, Res, C, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackService")
            .field("primary", &self.primary)
            .field("chain", self.chain.prototype())
            .finish_non_exhaustive()
    }
}

impl<S, Req, Res, C, Q, P> Service<Req> for FallbackService<S, Req, Res, C, Q, P>
where
    S: Service<Req, Response = Res>,
    S::Error: Into<BoxError> + 'static,
    C: Classify<Res, S::Error>,
    Q: FindCallBudget<Req>,
    P: Replay<Req>,
{
    type Response = Res;
    type Error = Error;
    type Future = ResponseFuture<S::Future, Req, Res, C, Q, P>;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unready.is_some() {
            return Poll::Ready(Ok(()));
        }
        match self.primary.poll_ready(cx) {
            Poll::Ready(Err(error)) => {
                let chain = self.chain.prototype();
                let error = into_error::<Res, S::Error, C>(&chain.classify, error);
                if chain.fallbacks.is_empty() {
                    return Poll::Ready(Err(error));
                }
                self.unready = Some(error);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let chain = self.chain.handle(Arc::clone);
        ResponseFuture::start(&mut self.primary, &mut self.unready, request, chain)
    }
}
