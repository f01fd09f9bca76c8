use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use crate::{AnyError, BoxError, BudgetLimit, CallBudget, Error, ErrorKind, classify::into_error};

/// Keeps a call within the deadline of its caller, the header `grpc-timeout`.
///
/// The deadline is put into the request's extensions as a [`CallBudget`], one that is there already
/// is bounded by it, and [`InExtensions`](crate::InExtensions) finds it for retries and fallbacks. When
/// it is over, the call is dropped. A request without the header has no deadline, and a header that is
/// none by the specification (1 to 8 digits and one of `H`, `M`, `S`, `m`, `u`, `n`) is left alone.
///
/// # Defaults
///
/// - `margin`: 5 ms, at most half of the time: how much earlier the call ends, so that its answer is
///   with the caller in time, and before a server's own limit answers `CANCELLED`
///
/// # Cancellation
///
/// A call whose deadline is over is dropped before the error is returned.
///
/// # Errors
///
/// [`BudgetExhausted`](ErrorKind::BudgetExhausted), which is `DEADLINE_EXCEEDED` to the caller; the
/// service's own error is the source of an [`Error`].
///
/// # Examples
///
/// ```
/// use buttress::{FindCallBudget, InExtensions, grpc::GrpcDeadlineLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let server = ServiceBuilder::new().layer(GrpcDeadlineLayer::new()).service_fn(
///     |request: http::Request<()>| async move {
///         assert!(InExtensions.call_budget(&request).unwrap().deadline_at().is_some());
///         std::future::pending::<Result<(), std::io::Error>>().await
///     },
/// );
/// let request = http::Request::builder().header("grpc-timeout", "100m").body(()).unwrap();
/// let error = server.oneshot(request).await.unwrap_err();
/// assert_eq!(error.to_string(), "the call's deadline ran out");
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "layers do nothing until applied to a service"]
pub struct GrpcDeadlineLayer {
    margin: Duration,
}

/// A service that keeps the deadlines of its callers; made by [`GrpcDeadlineLayer`].
#[derive(Debug, Clone)]
pub struct GrpcDeadline<S> {
    inner: S,
    margin: Duration,
}

pin_project! {
    /// The answer of a [`GrpcDeadline`].
    pub struct ResponseFuture<F> {
        // None once the time is over.
        #[pin]
        inner: Option<F>,
        deadline: Option<Instant>,
        // Made at the first pending poll.
        #[pin]
        sleep: Option<Sleep>,
    }
}

// ===== impl GrpcDeadlineLayer =====

impl GrpcDeadlineLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self { margin: Duration::from_millis(5) }
    }

    /// Sets how much before its deadline a call ends; at most half of its time.
    pub const fn margin(mut self, time: Duration) -> Self {
        self.margin = time;
        self
    }
}

impl Default for GrpcDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for GrpcDeadlineLayer {
    type Service = GrpcDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcDeadline { inner, margin: self.margin }
    }
}

// ===== impl GrpcDeadline =====

impl<S> GrpcDeadline<S> {
    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for GrpcDeadline<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError> + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(into_ours::<S::Response, _>)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let within = time_of(request.headers()).map(|time| {
            // As much as half of a short time is left to the call.
            time.saturating_sub(self.margin.min(time / 2))
        });
        let mut deadline = within.and_then(|within| Instant::now().checked_add(within));
        if let (Some(within), Some(end)) = (within, deadline) {
            let known = request.extensions_mut().get_or_insert_with(CallBudget::new);
            match known.deadline_at().filter(|known| *known <= end) {
                Some(earlier) => deadline = Some(earlier),
                None => *known = known.clone().deadline(within),
            }
        }
        ResponseFuture { inner: Some(self.inner.call(request)), deadline, sleep: None }
    }
}

// ===== impl ResponseFuture =====

impl<F, Res, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
{
    type Output = Result<Res, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        if let Poll::Ready(result) = inner.poll(cx) {
            return Poll::Ready(result.map_err(into_ours::<Res, _>));
        }
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline)));
        }
        ready!(this.sleep.as_pin_mut().expect("the timer was made above").poll(cx));
        this.inner.set(None);
        Poll::Ready(Err(Error::new(ErrorKind::BudgetExhausted { limit: BudgetLimit::Deadline })))
    }
}

impl<F: fmt::Debug> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

fn into_ours<Res, E: Into<BoxError> + 'static>(error: E) -> Error {
    into_error::<Res, E, AnyError>(&AnyError, error)
}

/// Reads `grpc-timeout` as
/// [PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) defines it.
fn time_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_specification_says() {
        let time = |text: &str| {
            let value = text.parse().ok()?;
            time_of(&HeaderMap::from_iter([("grpc-timeout".parse().ok()?, value)]))
        };
        assert_eq!(time("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(time("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(time("20m"), Some(Duration::from_millis(20)));
        assert_eq!(time("0u"), Some(Duration::ZERO));
        for wrong in ["", "S", "1", "100000000S", "-1S", "+1S", "1.5S", "1 S", "1s", "1\u{e9}"] {
            assert_eq!(time(wrong), None, "{wrong:?}");
        }
    }
}
