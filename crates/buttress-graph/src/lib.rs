//! State graphs of AI agents, in LangGraph's words, that survive kill -9.
//!
//! Nodes are asynchronous functions or any tower services. Those that are ready together run side
//! by side in one superstep; their updates are applied in the order of their names in the graph, so
//! that a run is deterministic. Each node stands behind a timeout, retries and a breaker, as the
//! seed's `wrap_with_fault_tolerance` wraps it; [`NodeOptions`] sets each.
//!
//! # What is recorded, and when
//!
//! With a store, a run is saved before its first node starts, and after each superstep. A node's
//! answer is saved as soon as it is there (pending writes), before the superstep ends: a resumed
//! workflow does not run again what had answered. So a kill repeats at most one call of each node
//! that was running, with the same idempotency key. Where the store fails, so does the run, and
//! nothing goes on that is not saved.
//!
//! # Examples
//!
//! ```
//! use buttress::{MemoryStore, WorkflowId};
//! use buttress_graph::{END, Route, START, State, StateGraph};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Default, Serialize, Deserialize)]
//! struct Trade {
//!     findings: Vec<String>,
//!     approved: bool,
//! }
//!
//! impl State for Trade {
//!     type Update = Self;
//!
//!     fn apply(&mut self, update: Self) {
//!         *self = update;
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let graph = StateGraph::<Trade>::new("trading")
//!     .add_node("research_swarm", |mut trade: Trade| async move {
//!         trade.findings.push("AAPL rises".to_owned());
//!         Ok::<_, std::io::Error>(trade)
//!     })
//!     .add_node("quality_gate", |mut trade: Trade| async move {
//!         trade.approved = true;
//!         Ok::<_, std::io::Error>(trade)
//!     })
//!     .add_edge(START, "research_swarm")
//!     .add_conditional_edges(
//!         "research_swarm",
//!         |trade, result| match result {
//!             Ok(()) if !trade.findings.is_empty() => Route::to(Route::SUCCESS),
//!             Err(failure) if failure.is_retryable() => Route::to(Route::RETRY),
//!             _ => Route::to(Route::FAIL),
//!         },
//!         [("success", "quality_gate"), ("retry", "research_swarm"), ("fail", END)],
//!     )
//!     .add_edge("quality_gate", END)
//!     .store(MemoryStore::new())
//!     .compile()?;
//!
//! let trade = graph.run(&WorkflowId::new("trade/7")?, Trade::default()).await?;
//! assert!(trade.approved);
//! # Ok(())
//! # }
//! ```

mod command;
mod compiled;
mod draw;
mod engine;
mod error;
mod events;
mod fields;
mod graph;
mod node;
mod record;
mod spans;
mod state;

pub use self::{
    command::{Command, IntoCommand, Route, ViaCommand, ViaUpdate},
    compiled::{CompiledGraph, ResponseFuture, Snapshot},
    error::{GraphError, GraphErrorKind, Interrupt},
    events::{Event, Events},
    graph::{Durability, StateGraph},
    node::{IntoNode, Node, NodeOptions, NodeRequest},
    record::Status,
    state::State,
};

/// The name of where a graph begins.
pub const START: &str = "__start__";
/// The name of where a graph ends.
pub const END: &str = "__end__";
