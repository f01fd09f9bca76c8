//! An async function as a service that is called once.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use tower::Service;

/// Serves one call with a function that can be called only once; clones share the function.
pub(crate) struct Once<'a, F>(&'a Mutex<Option<F>>);

impl<'a, F> Once<'a, F> {
    pub(crate) const fn new(function: &'a Mutex<Option<F>>) -> Self {
        Self(function)
    }
}

impl<F> Clone for Once<'_, F> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<F> fmt::Debug for Once<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl<F, Fut, T, E> Service<()> for Once<'_, F>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Fut {
        let function = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        function.expect("a call is made once")()
    }
}
