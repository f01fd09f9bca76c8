//! Fault tolerance for AI agents, as tower layers.
//!
//! Each pattern is a [`tower::Layer`] around any [`tower::Service`]: circuit breaker, retry,
//! timeout, fallback. All answer one flat [`Error`], classify failures by [`Classify`], and allocate
//! nothing when all is well. [`FaultTolerantAgent`] stacks them in an order that works, and a
//! [`Swarm`] asks many agents at once.
//!
//! | feature | adds | further crates | default |
//! |---|---|---|---|
//! | `circuit-breaker` | [`CircuitBreakerLayer`], [`KeyedCircuitBreakerLayer`] | | yes |
//! | `retry` | [`RetryLayer`], [`RetryBudget`] | | yes |
//! | `timeout` | [`TimeoutLayer`] | | yes |
//! | `fallback` | [`FallbackLayer`], [`FallbackService`] | | yes |
//! | `agent` | [`AgentLayer`], [`FaultTolerantAgent`] | | yes |
//! | `chaos` | [`ChaosLayer`] | | |
//! | `stream` | [`stream`]: [`FirstItemLayer`], [`StreamTimeoutLayer`]; with `http` `FirstFrameLayer`, `BodyTimeoutLayer` | futures-core | |
//! | `swarm` | [`Swarm`] | futures-util, which tower brings | |
//! | `checkpoint` | [`checkpoint`] | serde, serde_json, serde_path_to_error, base64, jiff, sha2, twox-hash, rustix on Linux | |
//! | `config` | settings from files and variables | serde, humantime | |
//! | `http` | [`HttpClassifier`], [`ErrorBodyLayer`], [`Error::status`] | http, http-body, http-body-util, bytes, httpdate | |
//! | `llm` | [`LlmClassifier`] | as `http`, serde, serde_json | |
//! | `grpc` | [`GrpcClassifier`], [`GrpcDeadlineLayer`](grpc::GrpcDeadlineLayer) | as `http`, base64, prost | |
//! | `tonic` | [`Error`] as a `tonic::Status`, `NamedService` | as `grpc`, tonic without its transport | |
//! | `axum` | [`Error`] as an axum response | as `http`, axum-core | |
//! | `observe` | [`observe`]: every span as it ends | tracing-subscriber | |
//! | `metrics` | [`MetricsLayer`](observe::MetricsLayer) | as `observe`, metrics | |
//! | `test-util` | [`test_util`] | | |
//! | `full` | all but `test-util` | | |
//!
//! Spans and their keys: [`telemetry`]. Order of layers: [`agent`]. What a failure means:
//! [`classify`].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(feature = "agent"),
    allow(dead_code, unused_imports, reason = "what layers share is idle where few are on")
)]

mod call_budget;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
#[cfg(feature = "circuit-breaker")]
pub mod circuit_breaker;
pub mod classify;
mod config;
mod error;
#[cfg(feature = "http")]
pub mod error_body;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "http")]
mod http_answer;
#[cfg(any(feature = "circuit-breaker", feature = "timeout"))]
mod once;
mod outcome;
mod rare;
#[cfg(any(feature = "retry", feature = "fallback"))]
mod replay;
mod service_builder_ext;
mod sharded;
pub mod telemetry;
#[cfg(any(feature = "grpc", feature = "stream", feature = "swarm", feature = "timeout"))]
mod timer;

#[cfg(feature = "agent")]
pub mod agent;
pub mod catch_panic;
#[cfg(feature = "chaos")]
pub mod chaos;
#[cfg(feature = "fallback")]
pub mod fallback;
#[cfg(feature = "observe")]
pub mod observe;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "stream")]
pub mod stream;
#[cfg(feature = "swarm")]
pub mod swarm;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "timeout")]
pub mod timeout;

#[cfg(feature = "agent")]
pub use self::agent::{Agent, AgentLayer, FaultTolerantAgent, FaultTolerantAgentBuilder, Order};
#[cfg(feature = "chaos")]
pub use self::chaos::ChaosLayer;
#[cfg(feature = "checkpoint")]
pub use self::checkpoint::{
    BoxStore, Checkpoint, CheckpointKey, CheckpointLayer, CheckpointStore, Checkpointer, FileStore,
    HasState, HasWorkflow, InWorkflow, MemoryStore, Namespace, StoreError, StoreErrorKind,
    WorkflowId,
};
#[cfg(feature = "circuit-breaker")]
pub use self::circuit_breaker::{
    AfterLease, Circuit, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer,
    CircuitBreakers, HalfOpen, KeyedCircuitBreakerLayer, Window,
};
#[cfg(feature = "grpc")]
pub use self::classify::GrpcClassifier;
#[cfg(feature = "llm")]
pub use self::classify::LlmClassifier;
#[cfg(feature = "fallback")]
pub use self::fallback::{FallbackLayer, FallbackService};
#[cfg(any(feature = "retry", feature = "fallback"))]
pub use self::replay::{ByClone, Replay};
#[cfg(all(feature = "retry", feature = "config"))]
pub use self::retry::RetryConfig;
#[cfg(feature = "retry")]
pub use self::retry::{
    Backoff, ExponentialBackoff, Jitter, OverCap, Retry, RetryBudget, RetryLayer, RetryReport, Stop,
};
pub use self::service_builder_ext::ServiceBuilderExt;
#[cfg(all(feature = "stream", feature = "config"))]
pub use self::stream::StreamTimeoutConfig;
#[cfg(all(feature = "stream", feature = "http"))]
pub use self::stream::{BodyTimeoutLayer, FirstFrameLayer};
#[cfg(feature = "stream")]
pub use self::stream::{FirstItemLayer, StreamTimeoutLayer};
#[cfg(feature = "swarm")]
pub use self::swarm::{DegradationLevel, Finding, Swarm, SwarmBuilder, SwarmFailure, SwarmReport};
#[cfg(all(feature = "timeout", feature = "config"))]
pub use self::timeout::TimeoutConfig;
#[cfg(feature = "timeout")]
pub use self::timeout::{Timeout, TimeoutLayer};
pub use self::{
    call_budget::{
        BudgetLimit, CallBudget, FindCallBudget, HasCallBudget, InRequest, NoCallBudget,
    },
    catch_panic::{CatchPanic, CatchPanicLayer},
    classify::{AnyError, BySource, Classify},
    config::ConfigError,
    error::{AgentFailure, BoxError, Error, ErrorKind, OpenReason, TimeLimit},
    outcome::{Failure, FailureKind, Outcome},
};
#[cfg(feature = "http")]
pub use self::{
    classify::HttpClassifier,
    error_body::{ErrorBody, ErrorBodyLayer},
    http_answer::InExtensions,
};
