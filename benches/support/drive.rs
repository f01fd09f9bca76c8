//! The agents that every case calls, and how they are called.

use std::{
    fmt,
    future::{Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tower::{Service, ServiceExt as _};

/// The error of the agents.
#[derive(Debug, Clone, Copy)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

/// Answers at once.
#[derive(Debug, Clone)]
pub struct Answers;

impl<R> Service<R> for Answers {
    type Response = u64;
    type Error = Refused;
    type Future = Ready<Result<u64, Refused>>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        black_box(&request);
        ready(Ok(7))
    }
}

/// Fails at once.
#[derive(Debug, Clone)]
pub struct Fails;

impl<R> Service<R> for Fails {
    type Response = u64;
    type Error = Refused;
    type Future = Ready<Result<u64, Refused>>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        black_box(&request);
        ready(Err(Refused))
    }
}

/// Fails every other time: the first attempt of a call that is tried twice.
#[derive(Debug, Clone, Default)]
pub struct FailsOnce {
    calls: Arc<AtomicUsize>,
}

impl FailsOnce {
    /// Answers every second call.
    ///
    /// # Errors
    ///
    /// Every other call, beginning with the first.
    #[inline]
    pub fn answer(&self) -> Result<u64, Refused> {
        let fails = self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        if fails { Err(Refused) } else { Ok(7) }
    }
}

impl<R> Service<R> for FailsOnce {
    type Response = u64;
    type Error = Refused;
    type Future = Ready<Result<u64, Refused>>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        black_box(&request);
        ready(self.answer())
    }
}

/// Is pending once, as an agent that waits for its network is.
#[derive(Debug, Clone)]
pub struct Yields;

/// The answer of [`Yields`].
#[derive(Debug, Default)]
pub struct YieldsOnce {
    yielded: bool,
}

impl Future for YieldsOnce {
    type Output = Result<u64, Refused>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.yielded {
            return Poll::Ready(Ok(7));
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<R> Service<R> for Yields {
    type Response = u64;
    type Error = Refused;
    type Future = YieldsOnce;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        black_box(&request);
        YieldsOnce::default()
    }
}

/// Makes one call of a service and returns what it came to; polls until it is done.
///
/// # Errors
///
/// Those of the service.
#[inline]
pub fn call<S, R>(service: &mut S, request: R) -> Result<S::Response, S::Error>
where
    S: Service<R>,
{
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match service.poll_ready(&mut cx) {
            Poll::Ready(Ok(())) => break,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => (),
        }
    }
    // Made where it is polled, as by `.await`.
    let mut future = pin!(service.call(request));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

/// Makes a call on a runtime, for what needs one.
///
/// # Errors
///
/// Those of the service.
#[inline]
pub async fn ask<S, R>(service: &mut S, request: R) -> Result<S::Response, S::Error>
where
    S: Service<R>,
{
    service.ready().await?.call(request).await
}

/// Polls a future until it is done.
#[inline]
pub fn finish<F: Future>(future: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

/// Drops what a call came to where the optimiser cannot see that nobody looks at it.
#[inline]
pub fn discard<T>(outcome: T) {
    drop(black_box(outcome));
}
