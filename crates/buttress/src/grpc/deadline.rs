use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use crate::{
    BoxError, BudgetLimit, CallBudget, Error, ErrorKind, classify::error_of, timer::poll_timer,
};

/// Keeps a call within the deadline of its caller, the header `grpc-timeout`, to the end of its body.
///
/// The deadline is put into the request's extensions as a [`CallBudget`], one that is there already
/// is bounded by it, and [`InExtensions`](crate::InExtensions) finds it for retries and fallbacks. When
/// it is over, the call is dropped, and so is a body that has not come to its end. A request without
/// the header has no deadline, and a header that is none by the specification (1 to 8 digits and one
/// of `H`, `M`, `S`, `m`, `u`, `n`) is left alone.
///
/// # Defaults
///
/// - `margin`: 5 ms, at most half of the time: how much earlier the call ends, so that its answer is
///   with the caller in time, and before a server's own limit answers `CANCELLED`
///
/// # Cancellation
///
/// A call, or a body, whose deadline is over is dropped before the error is returned. A body that
/// nobody polls is not watched: who waits for it has a deadline too.
///
/// # Errors
///
/// [`BudgetExhausted`](ErrorKind::BudgetExhausted), which is `DEADLINE_EXCEEDED` to the caller, and in
/// a body after its first frame the source of [`Interrupted`](ErrorKind::Interrupted); the errors of
/// the service and of its body as an [`Error`]. [`GrpcStatusLayer`](super::GrpcStatusLayer), around it,
/// makes trailers of those of a body.
///
/// # Examples
///
/// ```
/// use buttress::{FindCallBudget, InExtensions, grpc::GrpcDeadlineLayer};
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let server = ServiceBuilder::new().layer(GrpcDeadlineLayer::new()).service_fn(
///     |request: Request<()>| async move {
///         assert!(InExtensions.call_budget(&request).unwrap().deadline_at().is_some());
///         std::future::pending::<Result<Response<String>, std::io::Error>>().await
///     },
/// );
/// let request = Request::builder().header("grpc-timeout", "100m").body(()).unwrap();
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
        #[pin]
        until: Until,
    }
}

pin_project! {
    /// A body that is cut when its caller's deadline is over.
    pub struct DeadlineBody<B> {
        // None once it has ended.
        #[pin]
        inner: Option<B>,
        #[pin]
        until: Until,
        frames: u64,
    }
}

pin_project! {
    /// A deadline, where there is one.
    struct Until {
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

impl<S, Req, B> Service<Request<Req>> for GrpcDeadline<S>
where
    S: Service<Request<Req>, Response = Response<B>>,
    S::Error: Into<BoxError> + 'static,
    B: Body,
    B::Error: Into<BoxError> + 'static,
{
    type Response = Response<DeadlineBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(error_of)
    }

    #[inline]
    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
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
        let until = Until { deadline, sleep: None };
        ResponseFuture { inner: Some(self.inner.call(request)), until }
    }
}

// ===== impl ResponseFuture =====

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError> + 'static,
{
    type Output = Result<Response<DeadlineBody<B>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner = this.inner.as_mut().as_pin_mut().expect("polled after completion");
        if let Poll::Ready(result) = inner.poll(cx) {
            let deadline = this.until.deadline;
            let until = Until { deadline, sleep: None };
            return Poll::Ready(result.map_err(error_of).map(|response| {
                response.map(|body| DeadlineBody { inner: Some(body), until, frames: 0 })
            }));
        }
        let error = ready!(this.until.poll_over(cx));
        this.inner.set(None);
        Poll::Ready(Err(error))
    }
}

impl<F: fmt::Debug> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("deadline", &self.until.deadline)
            .finish_non_exhaustive()
    }
}

// ===== impl DeadlineBody =====

impl<B> Body for DeadlineBody<B>
where
    B: Body,
    B::Error: Into<BoxError> + 'static,
{
    type Data = B::Data;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let error = match inner.poll_frame(cx) {
            // A body that always has more would never come to its timer; one that ends is let end.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && this.until.is_over() => {
                deadline_over()
            }
            Poll::Ready(Some(Ok(frame))) => {
                *this.frames = this.frames.saturating_add(1);
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Err(error))) => error_of(error),
            Poll::Ready(None) => {
                this.inner.set(None);
                return Poll::Ready(None);
            }
            Poll::Pending => ready!(this.until.poll_over(cx)),
        };
        this.inner.set(None);
        Poll::Ready(Some(Err(error.interrupting(*this.frames))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for DeadlineBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineBody")
            .field("frames", &self.frames)
            .field("deadline", &self.until.deadline)
            .finish_non_exhaustive()
    }
}

// ===== impl Until =====

impl Until {
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Waits for the deadline, without end where there is none.
    fn poll_over(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        let mut this = self.project();
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline)));
        }
        let sleep = this.sleep.as_pin_mut().expect("the timer was made above");
        ready!(poll_timer(sleep, cx));
        Poll::Ready(deadline_over())
    }
}

fn deadline_over() -> Error {
    Error::new(ErrorKind::BudgetExhausted { limit: BudgetLimit::Deadline })
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
        assert_eq!(time("2M"), Some(Duration::from_secs(120)));
        assert_eq!(time("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(time("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(time("20m"), Some(Duration::from_millis(20)));
        assert_eq!(time("0u"), Some(Duration::ZERO));
        for wrong in ["", "S", "1", "100000000S", "-1S", "+1S", "1.5S", "1 S", "1s", "1\u{e9}"] {
            assert_eq!(time(wrong), None, "{wrong:?}");
        }
    }
}
