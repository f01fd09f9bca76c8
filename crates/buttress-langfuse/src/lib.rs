//! Sends the traces of buttress to Langfuse.
//!
//! [`Langfuse`] is a `tracing` layer with a delivery of its own: a span that ends is mapped to what
//! Langfuse understands, encoded, and sent from a thread of its own, which tries again for as long
//! as the process runs. Without keys nothing is sent and a [`TerminalTree`] collects the same spans.
//!
//! | feature | adds | further crates | default |
//! |---|---|---|---|
//! | `client` | [`LangfuseClient`], which reads what Langfuse has, [`backlog`], which reads what waits on disk, and [`Statistics`] of either | jiff | |
//! | `metrics` | `Langfuse::publish_metrics`: the delivery in numbers | metrics | |
//! | `collector` | `Collector`: the same spans to an OTLP endpoint of one's own | opentelemetry-otlp, opentelemetry-http | |
//! | `tonic` | the services of [`ExtractLayer`] and [`InjectLayer`] are `NamedService`s where what they wrap is one | tonic without its transport | |
//!
//! What is of a trace in which something went wrong is written to a spool on disk before the call
//! returns, and a process that is killed leaves it to the next ([`Durability`]); [`Langfuse::recover`]
//! waits for what was left.
//!
//! [`Propagate`] says for whom and what a trace runs, [`spawn`] keeps it in other tasks, and
//! [`InjectLayer`] and [`ExtractLayer`] in other processes.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attribute;
mod capture;
#[cfg(feature = "client")]
pub mod client;
mod clock;
mod config;
mod core;
mod current;
mod delivery;
mod draft;
mod encode;
mod filter;
mod langfuse;
mod layer;
mod level;
mod mapping;
#[cfg(feature = "metrics")]
mod metrics;
mod notice;
#[cfg(feature = "client")]
mod observation;
mod privacy;
mod processor;
mod propagation;
mod sampling;
mod score;
mod sink;
mod spool;
#[cfg(feature = "client")]
pub mod statistics;
mod terminal;
#[cfg(test)]
mod testing;
mod text;
mod trace;
mod traces;
mod value;

#[cfg(feature = "collector")]
pub use self::delivery::Collector;
#[cfg(feature = "client")]
pub use self::spool::backlog;
pub use self::{
    capture::{CaptureIo, CaptureIoFuture, CaptureIoLayer},
    config::{ConfigError, LangfuseBuilder, StartError},
    current::{CurrentSpan, current},
    langfuse::Langfuse,
    level::Level,
    processor::LangfuseSpanProcessor,
    propagation::{
        Extract, ExtractFuture, ExtractLayer, InTrace, InTraceFuture, Inject, InjectLayer,
        Propagate, Propagated, inject, spawn, trace_id_from_seed,
    },
    score::ScoreValue,
    sink::{FlushError, Stats},
    spool::Durability,
    terminal::TerminalTree,
};
#[cfg(feature = "client")]
pub use self::{client::LangfuseClient, observation::Observation, statistics::Statistics};
