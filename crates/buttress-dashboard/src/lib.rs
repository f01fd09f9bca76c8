//! A live page for [buttress], as an axum `Router`: what is broken, since when, what is
//! being done about it, and the trace of it.
//!
//! One page in one file, without a build step and without anything from elsewhere. It shows circuits
//! with their windows and changes, retries, fallbacks, swarms and the last failures, and follows them
//! by server-sent events. A page that reads slowly gets fewer events, not a queue; one that lost its
//! connection begins with everything again.
//!
//! Circuits are shown from their handles, everything else from the spans of the layers, by
//! [`Dashboard::layer`]. Prompts, answers and metadata are never shown; the texts of errors are, unless
//! [`Dashboard::without_error_texts`] is called. All of it is bounded.
//!
//! | feature | adds | further crates | default |
//! |---|---|---|---|
//! | `opentelemetry` | links from failures to their traces | opentelemetry, tracing-opentelemetry | |
//!
//! # Examples
//!
//! ```
//! use axum::Router;
//! use buttress::CircuitBreakerLayer;
//! use buttress_dashboard::Dashboard;
//! use tracing_subscriber::layer::SubscriberExt;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let breaker = CircuitBreakerLayer::new("gpt-large");
//! let dashboard = Dashboard::new()
//!     .title("research")
//!     .circuit(breaker.circuit())
//!     .langfuse("https://cloud.langfuse.com", "my-project")
//!     .allow_control(&"a token of at least 16 bytes".replace(' ', "-"))?;
//!
//! let subscriber = tracing_subscriber::registry().with(dashboard.layer());
//! let app: Router = Router::new().nest_service("/ops/dashboard", dashboard.router());
//! // Before a graceful shutdown: dashboard.close();
//! # drop((subscriber, app));
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod board;
mod dashboard;
mod events;
mod layer;
mod page;
mod routes;
mod shared;
mod text;
mod token;
mod trace_id;

pub use self::{dashboard::Dashboard, layer::DashboardLayer, token::TokenError};
