use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tower::{Layer, ServiceExt};

use super::Timeout;
use crate::{AnyError, BoxError, Classify, Error, once::Once, sharded::Sharded, telemetry::Labels};

/// Fails a call that has not finished after a fixed time.
///
/// The time starts at the first poll that is pending; waiting for readiness is not counted.
///
/// # Defaults
///
/// - `after`: 30 s, the seed's
/// - `classify`: [`AnyError`]
///
/// # Cancellation
///
/// A call that runs out of time is dropped, at its next await point, before the error is
/// returned.
///
/// # Tracing
///
/// `timeout_protected_call` with `timeout_seconds`; a timeout is an ERROR, "Agent timed out after
/// 30s".
///
/// # Errors
///
/// [`Timeout`](crate::ErrorKind::Timeout) with the limit; the service's own error is the source of
/// an [`Error`].
///
/// See the [module docs](super) for an example.
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct TimeoutLayer<C = AnyError> {
    after: Duration,
    classify: C,
    labels: Labels,
}

// ===== impl TimeoutLayer =====

impl TimeoutLayer {
    /// Creates the layer with its limit; [`Duration::MAX`] is no limit.
    ///
    /// # Panics
    ///
    /// If the limit is zero.
    #[track_caller]
    pub fn new(after: Duration) -> Self {
        assert!(!after.is_zero(), "a timeout must be longer than zero");
        Self { after, classify: AnyError, labels: Labels::default() }
    }
}

impl Default for TimeoutLayer {
    fn default() -> Self {
        Self::new(Duration::from_secs(30))
    }
}

impl<C> TimeoutLayer<C> {
    /// Sets what an error of the service means to layers further out.
    pub fn classify<D>(self, classify: D) -> TimeoutLayer<D> {
        TimeoutLayer { after: self.after, classify, labels: self.labels }
    }

    /// Sets the agent that spans and errors name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that the span carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.labels.metadata = Some(json.into());
        self
    }

    /// Runs an async function under the limit: the layer for who has no service.
    ///
    /// # Errors
    ///
    /// As the layer.
    pub async fn call_with_timeout<F, Fut, T, E>(&self, function: F) -> Result<T, Error>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<BoxError> + 'static,
        C: Classify<T, E> + Clone,
    {
        let function = Mutex::new(Some(function));
        self.layer(Once::new(&function)).oneshot(()).await
    }
}

impl<S, C: Clone> Layer<S> for TimeoutLayer<C> {
    type Service = Timeout<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout {
            inner,
            after: self.after,
            classify: self.classify.clone(),
            labels: (!self.labels.is_empty()).then(|| Sharded::new(self.labels.clone())),
        }
    }
}
