//! What belongs to a trace, from task to task and from process to process.
//!
//! A [`Scope`] stands in OpenTelemetry's context beside the span, and is kept with each span that
//! starts in it. Between processes go the headers of the W3C: `traceparent`, `tracestate` and
//! `baggage`.

mod baggage;
mod extract;
mod inject;
mod propagate;
mod scope;
mod seed;
mod task;
mod traceparent;

pub use self::{
    extract::{Extract, ExtractFuture, ExtractLayer},
    inject::{Inject, InjectLayer, inject},
    propagate::{Propagate, Propagated},
    seed::trace_id_from_seed,
    task::{InTrace, InTraceFuture, spawn},
};
pub(crate) use self::{scope::Scope, seed::is_beginning};
