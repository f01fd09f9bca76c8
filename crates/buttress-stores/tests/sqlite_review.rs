//! Promises of `SqliteStore` that a review has seen broken.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use buttress::{
    CheckpointStore, WorkflowId,
    checkpoint::{Clock, Put},
};
use buttress_stores::SqliteStore;

/// `Unavailable` says that a repeat may help; a panic of the user's clock must not end the store.
#[tokio::test]
async fn a_store_whose_clock_panics_once_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let panics = Arc::new(AtomicU32::new(1));
    let clock = Clock::new(move || {
        let left = panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        assert!(left.is_err(), "the clock is broken");
        SystemTime::now()
    });
    let store = SqliteStore::open(folder.path().join("store.db")).clock(clock).await.unwrap();
    let id = WorkflowId::new("w").unwrap();
    let error = store.put(Put::new(id.clone(), None, *b"{}")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let again = store.put(Put::new(id, None, *b"{}")).await;
    assert!(again.is_ok(), "{again:?}");
}
