//! Sends the traces of buttress to Langfuse.
//!
//! [`Langfuse`] is a `tracing` layer with a delivery of its own: a span that ends is mapped to what
//! Langfuse understands, encoded, and sent from a thread of its own, which tries again for as long
//! as the process runs. Without keys nothing is sent and a [`TerminalTree`] collects the same spans.
//!
//! Spans wait in memory: what is not delivered when the process is killed is lost.

mod attribute;
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
mod notice;
mod processor;
mod sink;
mod terminal;
#[cfg(test)]
mod testing;
mod trace;
mod traces;
mod value;

pub use self::{
    config::{ConfigError, LangfuseBuilder, StartError},
    current::{CurrentSpan, current},
    langfuse::Langfuse,
    level::Level,
    processor::LangfuseSpanProcessor,
    sink::{FlushError, Stats},
    terminal::TerminalTree,
};
