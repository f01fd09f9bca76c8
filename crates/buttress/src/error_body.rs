//! Error bodies: keeps the bodies of failed answers, so that classifiers can read them.
//!
//! A streaming HTTP client hands out an answer before its body is there, and the body says which
//! failure it is. This layer waits for the bodies of failed answers and passes the others
//! untouched.
//!
//! # Examples
//!
//! ```
//! use buttress::{ErrorBodyLayer, LlmClassifier, RetryLayer};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let client = ServiceBuilder::new().layer(ErrorBodyLayer::new()).service_fn(|_: ()| async {
//!     let body = Full::new(bytes::Bytes::from(r#"{"error":{"code":"insufficient_quota"}}"#));
//!     http::Response::builder().status(429).body(body)
//! });
//! let answer = client.oneshot(()).await.unwrap();
//! assert!(answer.body().as_ref().starts_with(br#"{"error""#));
//! # }
//! ```

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, response::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// Buffers the bodies of answers with a status of 400 or more.
///
/// Others keep their bodies untouched, so that they can stream. Classifiers see those as empty and
/// cannot judge them: an error inside an answer with status 200 is not found behind this layer.
///
/// # Defaults
///
/// - `limit`: 64 KiB; what comes after it is passed on as it arrives
///
/// # Errors
///
/// None of its own. A body that breaks keeps what was read: the status says more than the break.
///
/// # Cancellation
///
/// Dropping the future drops the body; a body that hangs is a timeout's business.
#[derive(Debug, Clone, Copy)]
#[must_use = "layers do nothing until applied to a service"]
pub struct ErrorBodyLayer {
    limit: usize,
}

/// A service whose failed answers have their bodies; made by [`ErrorBodyLayer`].
#[derive(Debug, Clone)]
pub struct ErrorBody<S> {
    inner: S,
    limit: usize,
}

pin_project! {
    /// The answer of an [`ErrorBody`].
    pub struct ResponseFuture<F, B> {
        #[pin]
        inner: F,
        // The head of a failed answer whose body is being read.
        parts: Option<Parts>,
        body: Option<B>,
        buffer: BytesMut,
        trailers: Option<HeaderMap>,
        limit: usize,
    }
}

pin_project! {
    /// A body that is untouched, or whose beginning is there.
    ///
    /// [`AsRef`] shows the beginning of a failed answer's body, and an empty slice for others.
    pub struct MaybeBuffered<B> {
        // What `AsRef` shows.
        start: Bytes,
        // What is handed out before the rest: the same bytes, and trailers.
        buffered: VecDeque<Frame<Bytes>>,
        // The rest, if the body went on.
        #[pin]
        rest: Option<B>,
    }
}

// ===== impl ErrorBodyLayer =====

impl ErrorBodyLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self { limit: 64 * 1024 }
    }

    /// Sets how many bytes of a body are waited for.
    ///
    /// # Panics
    ///
    /// If the limit is zero.
    #[track_caller]
    pub const fn limit(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "limit must be at least 1 byte");
        self.limit = bytes;
        self
    }
}

impl Default for ErrorBodyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ErrorBodyLayer {
    type Service = ErrorBody<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ErrorBody { inner, limit: self.limit }
    }
}

// ===== impl ErrorBody =====

impl<S> ErrorBody<S> {
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

impl<S, Req, B> Service<Req> for ErrorBody<S>
where
    S: Service<Req, Response = Response<B>>,
    B: Body + Unpin,
{
    type Response = Response<MaybeBuffered<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
            parts: None,
            body: None,
            buffer: BytesMut::new(),
            trailers: None,
            limit: self.limit,
        }
    }
}

// ===== impl ResponseFuture =====

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body + Unpin,
{
    type Output = Result<Response<MaybeBuffered<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.parts.is_none() {
            let response = ready!(this.inner.poll(cx))?;
            if response.status().as_u16() < 400 {
                return Poll::Ready(Ok(response.map(MaybeBuffered::untouched)));
            }
            let (parts, body) = response.into_parts();
            *this.parts = Some(parts);
            *this.body = Some(body);
        }
        while this.buffer.len() < *this.limit
            && let Some(body) = this.body
        {
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        this.buffer.extend_from_slice(&data.copy_to_bytes(data.remaining()))
                    }
                    Err(frame) => *this.trailers = frame.into_trailers().ok(),
                },
                // The end, or a break: what was read is what there is.
                Some(Err(_)) | None => *this.body = None,
            }
        }
        let mut start = this.buffer.split().freeze();
        let data = (!start.is_empty()).then(|| Frame::data(start.clone()));
        let trailers = this.trailers.take().map(Frame::trailers);
        let buffered = data.into_iter().chain(trailers).collect();
        start.truncate(*this.limit);
        let rest = this.body.take();
        let parts = this.parts.take().expect("set above");
        Poll::Ready(Ok(Response::from_parts(parts, MaybeBuffered { start, buffered, rest })))
    }
}

impl<F: fmt::Debug, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// ===== impl MaybeBuffered =====

impl<B> MaybeBuffered<B> {
    const fn untouched(body: B) -> Self {
        Self { start: Bytes::new(), buffered: VecDeque::new(), rest: Some(body) }
    }
}

impl<B> AsRef<[u8]> for MaybeBuffered<B> {
    fn as_ref(&self) -> &[u8] {
        &self.start
    }
}

impl<B: Body> Body for MaybeBuffered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        if let Some(frame) = this.buffered.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match this.rest.as_mut().as_pin_mut() {
            None => Poll::Ready(None),
            Some(rest) => rest.poll_frame(cx).map(|frame| {
                frame.map(|frame| {
                    frame.map(|frame| {
                        frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
                    })
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffered.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let buffered: u64 =
            self.buffered.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(buffered.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(buffered)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for MaybeBuffered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body may be a completion: its size is all that is shown.
        f.debug_struct("MaybeBuffered").field("buffered", &self.start.len()).finish_non_exhaustive()
    }
}
