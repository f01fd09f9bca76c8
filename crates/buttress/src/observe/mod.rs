//! Watching the layers from inside the program: every span of the contract, as it ends.
//!
//! What the layers tell ([`telemetry`](crate::telemetry)) is there for any subscriber of `tracing`.
//! [`ObserveLayer`] hands each span to a function once its layer is done with it, with every field that
//! it recorded; with the feature `metrics`, `MetricsLayer` counts them for the `metrics` facade.
//!
//! # Examples
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use buttress::{AgentLayer, observe::{ObserveLayer, Observed}};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tracing_subscriber::layer::SubscriberExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let seen = Arc::new(Mutex::new(Vec::new()));
//! let sink = Arc::clone(&seen);
//! let layer = ObserveLayer::new(move |span: &Observed| {
//!     let said = format!("{} {}", span.name(), span.str("outcome").unwrap_or("none"));
//!     sink.lock().unwrap().push(said);
//! });
//! let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
//!
//! let agent = AgentLayer::new("research").layer(service_fn(|_: ()| async {
//!     Err::<(), _>(std::io::Error::other("reset"))
//! }));
//! agent.oneshot(()).await.unwrap_err();
//! assert_eq!(*seen.lock().unwrap(), ["fault_tolerant_agent_invoke failure"]);
//! # }
//! ```

#[cfg(feature = "metrics")]
mod circuits;
mod layer;
#[cfg(feature = "metrics")]
mod metrics;

pub use self::layer::{Observe, ObserveLayer, Observed};
#[cfg(feature = "metrics")]
pub use self::metrics::MetricsLayer;
