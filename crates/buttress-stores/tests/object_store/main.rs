//! `ObjectStore` in memory, in folders and on an S3 server.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; the report of the suite is for people"
)]

mod conformance;
mod damage;
#[path = "../support/documented.rs"]
mod documented;
mod faults;
mod faulty;
mod processes;
mod s3;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, Put, WorkflowId};
use buttress_stores::ObjectStore;
use object_store::ObjectStore as Backend;

fn key(name: &str) -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new(name).unwrap())
}

async fn open(backend: &Arc<impl Backend>) -> ObjectStore {
    let backend: Arc<dyn Backend> = backend.clone();
    ObjectStore::builder(backend).open().await.unwrap()
}

/// Returns the sequences of a chain, oldest first.
async fn sequences(store: &ObjectStore, key: &CheckpointKey) -> Vec<u64> {
    let stored = store.history(key, Page::newest(usize::MAX)).await.unwrap();
    stored.iter().rev().map(|stored| stored.sequence).collect()
}

/// Appends so many checkpoints and returns the head.
async fn fill(store: &ObjectStore, key: &CheckpointKey, count: usize) -> u64 {
    let mut head = store.latest(key).await.unwrap().map(|head| head.sequence);
    for _ in 0..count {
        head = Some(store.put(Put::new(key.clone(), head, *b"state")).await.unwrap());
    }
    head.unwrap()
}
