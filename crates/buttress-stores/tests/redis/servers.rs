//! The server that tests share, and stores on it.

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

use buttress::checkpoint::{CheckpointKey, WorkflowId};
use buttress_stores::{RedisStore, redis::RedisBuilder};
use buttress_test_servers::Redis;

/// One server for all tests that do not stop theirs; it ends with the process.
pub(crate) static REDIS: LazyLock<Redis> = LazyLock::new(Redis::start);

/// Returns a prefix for keys that nobody else has.
pub(crate) fn fresh_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}:{next}", std::process::id())
}

/// Sets up a store with keys of its own on the shared server.
pub(crate) fn fresh() -> (RedisBuilder, String) {
    let prefix = fresh_prefix();
    (RedisStore::builder(REDIS.url()).prefix(&prefix), prefix)
}

pub(crate) fn key(name: &str) -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new(name).unwrap())
}
