//! Catch panic: makes a panicking agent a failing one.
//!
//! Without it a panic unwinds through every layer, which count it as a failure, into the task.
//!
//! # Examples
//!
//! ```
//! use buttress::{CatchPanicLayer, ErrorKind};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # std::panic::set_hook(Box::new(|_| ()));
//! let mut agent = ServiceBuilder::new()
//!     .layer(CatchPanicLayer::new())
//!     .service_fn(|prompt: String| async move {
//!         assert!(!prompt.is_empty(), "no prompt");
//!         Ok::<_, std::io::Error>(prompt)
//!     });
//!
//! let error = agent.ready().await.unwrap().call(String::new()).await.unwrap_err();
//! assert!(matches!(error.kind(), ErrorKind::Panicked));
//! # }
//! ```

use std::{
    any::Any,
    fmt,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{AnyError, BoxError, Classify, Error, ErrorKind, classify::into_error};

/// Makes a panic of the inner service the error [`Panicked`](ErrorKind::Panicked).
///
/// # Errors
///
/// [`Panicked`](ErrorKind::Panicked), whose source is [`Panic`] with the panic's text; the
/// service's own error is the source of an [`Error`].
///
/// # Cancellation
///
/// After a panic the call is dropped and never polled again. A panic of that drop is caught too, and
/// so is one of a call that has answered: its answer stands.
///
/// See the [module docs](self) for an example.
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "layers do nothing until applied to a service"]
pub struct CatchPanicLayer<C = AnyError> {
    classify: C,
}

/// A service whose panics are errors; made by [`CatchPanicLayer`].
#[derive(Debug, Clone)]
pub struct CatchPanic<S, C = AnyError> {
    inner: S,
    classify: C,
}

/// What an agent said when it panicked.
pub struct Panic(Box<str>);

pin_project! {
    /// The answer of a [`CatchPanic`].
    pub struct ResponseFuture<F, C> {
        // None once it answered or panicked.
        #[pin]
        inner: Option<F>,
        // The error of a panic in `call`, before there was a future.
        panic: Option<Error>,
        classify: C,
    }
}

// ===== impl CatchPanicLayer =====

impl CatchPanicLayer {
    /// Creates the layer.
    pub const fn new() -> Self {
        Self { classify: AnyError }
    }
}

impl<C> CatchPanicLayer<C> {
    /// Sets what an error of the service means to layers further out.
    pub fn classify<D>(self, classify: D) -> CatchPanicLayer<D> {
        CatchPanicLayer { classify }
    }
}

impl<S, C: Clone> Layer<S> for CatchPanicLayer<C> {
    type Service = CatchPanic<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CatchPanic { inner, classify: self.classify.clone() }
    }
}

// ===== impl CatchPanic =====

impl<S, C> CatchPanic<S, C> {
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

impl<S, C, Req> Service<Req> for CatchPanic<S, C>
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
        match Panic::catch(|| self.inner.poll_ready(cx)) {
            Ok(poll) => poll.map_err(|error| into_error(&self.classify, error)),
            Err(panic) => Poll::Ready(Err(panicked(panic))),
        }
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let classify = self.classify.clone();
        match Panic::catch(|| self.inner.call(request)) {
            Ok(inner) => ResponseFuture { inner: Some(inner), panic: None, classify },
            Err(panic) => ResponseFuture { inner: None, panic: Some(panicked(panic)), classify },
        }
    }
}

// ===== impl ResponseFuture =====

impl<F, Res, E, C> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
{
    type Output = Result<Res, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            let error = this.panic.take().expect("polled after completion");
            return Poll::Ready(Err(error));
        };
        match Panic::catch(|| inner.poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => {
                // The answer stands, whatever the call's own end does.
                drop(Panic::catch(|| this.inner.set(None)));
                Poll::Ready(result.map_err(|error| into_error(this.classify, error)))
            }
            Err(panic) => {
                // The first panic is the one to report.
                drop(Panic::catch(|| this.inner.set(None)));
                Poll::Ready(Err(panicked(panic)))
            }
        }
    }
}

impl<F: fmt::Debug, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// ===== impl Panic =====

impl Panic {
    /// Runs a function that may panic, and keeps what it panics with from doing so again.
    ///
    /// What the function had in its hands is as the panic left it.
    ///
    /// # Errors
    ///
    /// The panic, with its text.
    ///
    /// # Examples
    ///
    /// ```
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// use buttress::catch_panic::Panic;
    ///
    /// let panic = Panic::catch(|| "no number".parse::<u8>().unwrap()).unwrap_err();
    /// assert!(panic.message().contains("InvalidDigit"));
    /// assert_eq!(Panic::catch(|| 7).unwrap(), 7);
    /// ```
    #[inline(always)]
    pub fn catch<T>(function: impl FnOnce() -> T) -> Result<T, Self> {
        catch_unwind(AssertUnwindSafe(function)).map_err(Self::from)
    }

    /// Returns the text that the agent panicked with, which may hold its data.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0
    }
}

/// Takes the text of what was caught by other means, and drops the rest.
impl From<Box<dyn Any + Send>> for Panic {
    #[cold]
    fn from(payload: Box<dyn Any + Send>) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        // The payload may be anything, so its drop may panic as well, and so may the drop of what that
        // panics with, for ever: it is kept and never dropped.
        if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            _ = ManuallyDrop::new(another);
        }
        Self(text.into())
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text often shows the value that was wrong, and errors never show the request.
        f.write_str("panic")
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic").finish_non_exhaustive()
    }
}

impl std::error::Error for Panic {}

/// Makes an error of a panic.
#[cold]
pub(crate) fn panicked(panic: Panic) -> Error {
    Error::new(ErrorKind::Panicked).with_source(panic)
}
