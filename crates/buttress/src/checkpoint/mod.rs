//! Checkpoints: the state of a workflow, kept where no crash loses it.

mod clock;
mod error;
mod file;
mod id;
mod memory;
mod record;
mod rules;
mod store;

pub use self::{
    clock::Clock,
    error::{StoreError, StoreErrorKind},
    file::{FileStore, FileStoreOptions},
    id::{CheckpointKey, Namespace, WorkflowId},
    memory::MemoryStore,
    record::{
        Checkpoint, Lease, Metadata, Page, Payload, Put, PutWrites, Query, TaskWrite, WriteId,
        WriteKind,
    },
    rules::ChainState,
    store::{BoxStore, Capabilities, CheckpointStore, Durable},
};
