//! The servers that tests share, and stores on them.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress_stores::{PostgresStore, postgres::PostgresBuilder};
use buttress_test_servers::{PgBouncer, Postgres};
use tokio::time::Instant;

/// One server for all tests that do not stop theirs; it ends with the process.
pub(crate) static POSTGRES: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// A pooler before it, which hands out few connections, one transaction at a time.
pub(crate) static BOUNCER: LazyLock<PgBouncer> = LazyLock::new(|| PgBouncer::start(&POSTGRES));

/// Returns a prefix for tables that nobody else has.
pub(crate) fn fresh_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}_{next}_", std::process::id())
}

/// Sets up a store with tables of its own on the shared server.
pub(crate) fn fresh() -> (PostgresBuilder, String) {
    let prefix = fresh_prefix();
    (PostgresStore::builder(POSTGRES.url()).table_prefix(&prefix), prefix)
}

/// Waits until SQL answers so, as statistics of the server do in the end.
pub(crate) async fn until(postgres: &Postgres, sql: &str, answer: &str) {
    let start = Instant::now();
    loop {
        let found = tokio::task::block_in_place(|| postgres.sql(sql));
        if found == answer {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{found:?} is not {answer:?}");
        tokio::task::yield_now().await;
    }
}
