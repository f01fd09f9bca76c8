//! The server that tests share, and stores on it.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, WorkflowId};
use buttress_stores::{RedisStore, redis::RedisBuilder};
use buttress_test_servers::Redis;
use tokio::time::Instant;

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

/// Returns the sequences of a chain, oldest first.
pub(crate) async fn sequences(store: &RedisStore, key: &CheckpointKey) -> Vec<u64> {
    let stored = store.history(key, Page::newest(usize::MAX)).await.unwrap();
    stored.iter().rev().map(|stored| stored.sequence).collect()
}

/// Asks a server on a thread of its own.
pub(crate) async fn ask(redis: &'static Redis, command: &'static [&'static str]) -> String {
    tokio::task::spawn_blocking(move || redis.ask(command)).await.unwrap().unwrap()
}

/// Waits until nobody is connected to a server.
pub(crate) async fn until_alone(redis: &'static Redis) {
    let start = Instant::now();
    // Who asks is connected too.
    while ask(redis, &["CLIENT", "LIST"]).await.lines().count() > 1 {
        assert!(start.elapsed() < Duration::from_secs(30), "somebody stays connected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts a server that a test has to itself; it ends with the process.
pub(crate) fn own(settings: &[(&str, &str)]) -> &'static Redis {
    Box::leak(Box::new(Redis::start_with(settings)))
}
