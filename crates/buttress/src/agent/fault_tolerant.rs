use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Service, ServiceExt};

use super::{Agent, FaultTolerantAgentBuilder, Order, builder::Answers};
use crate::{
    AnyError, BoxError, CatchPanic, Circuit, CircuitBreaker, Classify, Error, ExponentialBackoff,
    FallbackService, FindCallBudget, NoCallBudget, Retry, Timeout, retry::Backoff,
};

/// An agent with every pattern around it; see the [module docs](super).
///
/// A cheap clone shares the circuit and the fallbacks. The circuit lives as long as the agent.
///
/// # Errors
///
/// [`FallbackExhausted`](crate::ErrorKind::FallbackExhausted) with every agent's failure where
/// there are fallbacks; otherwise the last attempt's error.
///
/// # Cancellation
///
/// Dropping the future drops the attempt that is running; permits come back and the span ends as
/// `cancelled`.
pub struct FaultTolerantAgent<S, Req, C = AnyError, B = ExponentialBackoff, Q = NoCallBudget>
where
    S: Service<Req>,
{
    stack: Stack<S, Req, C, B, Q>,
}

/// The layers in one of the two orders.
pub(super) enum Stack<S: Service<Req>, Req, C, B, Q> {
    Default { agent: Default<S, Req, C, B, Q> },
    Seed { agent: Seed<S, Req, C, B, Q> },
}

/// Classifies for an agent whose own error is `S::Error`.
type AnswersOf<S, Req, C> = Answers<C, <S as Service<Req>>::Error>;

/// One agent of the default order: its own retry, breaker, timeout.
pub(super) type Guarded<S, Req, C, B, Q> = Retry<
    CircuitBreaker<Timeout<CatchPanic<S, C>>, AnswersOf<S, Req, C>>,
    AnswersOf<S, Req, C>,
    B,
    Q,
>;

type Chain<P, S, Req, C, Q> =
    FallbackService<P, Req, <S as Service<Req>>::Response, AnswersOf<S, Req, C>, Q>;

pub(super) type Default<S, Req, C, B, Q> =
    Agent<Chain<Guarded<S, Req, C, B, Q>, S, Req, C, Q>, AnswersOf<S, Req, C>>;

pub(super) type Seed<S, Req, C, B, Q> = Agent<
    CircuitBreaker<
        Retry<Timeout<Chain<CatchPanic<S, C>, S, Req, C, Q>>, AnswersOf<S, Req, C>, B, Q>,
        AnswersOf<S, Req, C>,
    >,
    AnswersOf<S, Req, C>,
>;

pin_project! {
    /// The answer of a [`FaultTolerantAgent`].
    pub struct FaultTolerantFuture<D, E> {
        #[pin]
        future: Either<D, E>,
    }
}

pin_project! {
    #[project = EitherProj]
    enum Either<D, E> {
        Default { #[pin] future: D },
        Seed { #[pin] future: E },
    }
}

// ===== impl FaultTolerantAgent =====

impl FaultTolerantAgent<tower::util::BoxService<(), (), Error>, ()> {
    /// Starts building an agent.
    ///
    /// # Panics
    ///
    /// If the id is empty.
    #[track_caller]
    pub fn builder<Req, Res>(id: impl Into<Arc<str>>) -> FaultTolerantAgentBuilder<Req, Res> {
        FaultTolerantAgentBuilder::new(id.into())
    }
}

impl<S, Req, C, B, Q> FaultTolerantAgent<S, Req, C, B, Q>
where
    S: Service<Req>,
{
    pub(super) const fn new(stack: Stack<S, Req, C, B, Q>) -> Self {
        Self { stack }
    }

    /// Returns how the layers nest.
    #[must_use]
    pub const fn order(&self) -> Order {
        match &self.stack {
            Stack::Default { .. } => Order::Default,
            Stack::Seed { .. } => Order::Seed,
        }
    }

    /// Returns the primary's circuit.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        match &self.stack {
            Stack::Default { agent } => agent.get_ref().get_ref().get_ref().circuit(),
            Stack::Seed { agent } => agent.get_ref().circuit(),
        }
    }

    /// Asks the agent: a call for who does not drive services by hand.
    ///
    /// # Errors
    ///
    /// As the [service](Self#errors).
    pub async fn invoke(&self, request: Req) -> Result<S::Response, Error>
    where
        Self: Service<Req, Response = S::Response, Error = Error> + Clone,
    {
        self.clone().oneshot(request).await
    }
}

impl<S, Req, C, B, Q> Clone for FaultTolerantAgent<S, Req, C, B, Q>
where
    S: Service<Req> + Clone,
    C: Clone,
{
    fn clone(&self) -> Self {
        let stack = match &self.stack {
            Stack::Default { agent } => Stack::Default { agent: agent.clone() },
            Stack::Seed { agent } => Stack::Seed { agent: agent.clone() },
        };
        Self { stack }
    }
}

impl<S, Req, C, B, Q> fmt::Debug for FaultTolerantAgent<S, Req, C, B, Q>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = match &self.stack {
            Stack::Default { agent } => agent.id(),
            Stack::Seed { agent } => agent.id(),
        };
        f.debug_struct("FaultTolerantAgent")
            .field("id", &id)
            .field("order", &self.order())
            .finish_non_exhaustive()
    }
}

impl<S, Req, C, B, Q> Service<Req> for FaultTolerantAgent<S, Req, C, B, Q>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
    B: Backoff,
    Q: FindCallBudget<Req>,
    Req: Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = FaultTolerantFuture<
        <Default<S, Req, C, B, Q> as Service<Req>>::Future,
        <Seed<S, Req, C, B, Q> as Service<Req>>::Future,
    >;

    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.stack {
            Stack::Default { agent } => agent.poll_ready(cx),
            Stack::Seed { agent } => agent.poll_ready(cx),
        }
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let future = match &mut self.stack {
            Stack::Default { agent } => Either::Default { future: agent.call(request) },
            Stack::Seed { agent } => Either::Seed { future: agent.call(request) },
        };
        FaultTolerantFuture { future }
    }
}

// ===== impl FaultTolerantFuture =====

impl<D, E, T> Future for FaultTolerantFuture<D, E>
where
    D: Future<Output = T>,
    E: Future<Output = T>,
{
    type Output = T;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.project().future.project() {
            EitherProj::Default { future } => future.poll(cx),
            EitherProj::Seed { future } => future.poll(cx),
        }
    }
}

impl<D, E> fmt::Debug for FaultTolerantFuture<D, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultTolerantFuture").finish_non_exhaustive()
    }
}
