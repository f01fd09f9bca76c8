//! Checkpoints: the state of a workflow, kept where no crash loses it.
//!
//! A [`Checkpointer`] saves, loads and resumes the state of workflows as a serde type, in any
//! [`CheckpointStore`]. A [`CheckpointLayer`] does it around an agent: before the call as the seed,
//! after it, or as a memo that answers repeats.
//!
//! | store | promise | needs |
//! |---|---|---|
//! | [`MemoryStore`] | gone with the process | |
//! | [`FileStore`] | survives kill and power loss; one writer of each sequence, also between processes | a local folder |
//!
//! `buttress-stores` has SQLite, Postgres, Redis and object stores, and the conformance suite for a
//! store of one's own.
//!
//! # What is exactly-once, and what is not
//!
//! A checkpoint is stored once, however often its put is repeated. A *call* of an agent is made at
//! least once: a kill between its effect and its checkpoint makes a resumed workflow call it again.
//! [`memo`](CheckpointLayer::memo) narrows that to at most one call per phase and idempotency key,
//! and hands the agent the same key, by which what has effects can recognise the repeat.
//!
//! # Examples
//!
//! ```
//! use buttress::{CheckpointLayer, Checkpointer, InWorkflow, MemoryStore, WorkflowId};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::Error> {
//! let store = MemoryStore::new();
//! let id = WorkflowId::new("trades/2026-11-25")?;
//!
//! let mut analyst = ServiceBuilder::new()
//!     .layer(CheckpointLayer::new(store.clone(), "research").before())
//!     .service_fn(|asked: InWorkflow<String>| async move {
//!         Ok::<_, std::io::Error>(format!("buy {}", asked.request))
//!     });
//! let request = InWorkflow::new(id.clone(), "AAPL".to_owned());
//! assert_eq!(analyst.ready().await?.call(request).await?, "buy AAPL");
//!
//! // After a crash, or in another process.
//! let checkpointer = Checkpointer::<String>::new(store);
//! let resumed = checkpointer.resume(&id).await?;
//! assert_eq!(resumed.checkpoint.phase, "research");
//! assert_eq!(resumed.checkpoint.state, "AAPL");
//! # Ok(())
//! # }
//! ```

mod calls;
mod checkpointer;
mod clock;
mod error;
mod file;
mod id;
mod layer;
mod memory;
mod mode;
mod record;
mod request;
mod rules;
mod schema;
mod spans;
mod store;
mod workflow;

pub use self::{
    checkpointer::{Checkpointer, Resumed, Saved, WhenUnavailable},
    clock::Clock,
    error::{StoreError, StoreErrorKind},
    file::{FileStore, OpenFileStore},
    id::{CheckpointKey, Namespace, WorkflowId},
    layer::{CheckpointLayer, CheckpointService, ResponseFuture},
    memory::MemoryStore,
    mode::{After, Before, Memo, MemoisedFailure, Mode},
    record::{
        Checkpoint, Lease, Metadata, Page, Payload, Put, PutWrites, Query, TaskWrite, WriteId,
        WriteKind,
    },
    request::{HasState, HasWorkflow, InWorkflow},
    rules::ChainState,
    store::{BoxStore, Capabilities, CheckpointStore, Durable, Place},
    workflow::Workflow,
};
