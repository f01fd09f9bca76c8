use std::sync::Arc;

use tower::Layer;

use super::{Agent, Settings};
use crate::{AnyError, sharded::Sharded};

/// Opens a root span `agent_{id}` around each call of an agent and names the agent in its errors.
///
/// The outermost layer of a stack built by hand; [`FaultTolerantAgent`](crate::FaultTolerantAgent)
/// brings its own.
///
/// # Defaults
///
/// - `classify`: [`AnyError`]
/// - `metadata`: none
///
/// # Tracing
///
/// `fault_tolerant_agent_invoke`, shown as `agent_{id}`, of type `agent`, with `success`. A
/// failure is an ERROR, "Agent {id} failed after all fault tolerance attempts" (the seed's
/// words).
///
/// # Errors
///
/// The service answers [`Error`](crate::Error): ours from below unchanged, the agent's own as
/// its source.
///
/// # Examples
///
/// ```
/// use buttress::AgentLayer;
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::Error> {
/// let mut agent = ServiceBuilder::new()
///     .layer(AgentLayer::new("research").metadata(r#"{"ticker":"AAPL"}"#))
///     .service_fn(|prompt: String| async move { Ok::<_, std::io::Error>(prompt) });
/// assert_eq!(agent.ready().await?.call("AAPL".to_owned()).await?, "AAPL");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct AgentLayer<C = AnyError> {
    settings: Settings,
    classify: C,
}

// ===== impl AgentLayer =====

impl AgentLayer {
    /// Creates the layer for an agent's id.
    ///
    /// # Panics
    ///
    /// If the id is empty.
    #[track_caller]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let id = id.into();
        assert!(!id.is_empty(), "an agent's id must not be empty");
        Self { settings: Settings::new(id), classify: AnyError }
    }
}

impl<C> AgentLayer<C> {
    /// Puts the settings of a whole stack into the span.
    pub(crate) const fn from_settings(settings: Settings, classify: C) -> Self {
        Self { settings, classify }
    }

    /// Sets what counts as a failure.
    pub fn classify<D>(self, classify: D) -> AgentLayer<D> {
        AgentLayer { settings: self.settings, classify }
    }

    /// Sets a JSON object that every span of this layer carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.settings.labels.metadata = Some(json.into());
        self
    }
}

impl<S, C: Clone> Layer<S> for AgentLayer<C> {
    type Service = Agent<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let settings = Sharded::new(Arc::new(self.settings.clone()));
        Agent { inner, settings, classify: self.classify.clone() }
    }
}
