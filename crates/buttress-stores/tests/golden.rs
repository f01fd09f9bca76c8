//! Stores that a release has written still open, read and go on (case 67).
//!
//! `BUTTRESS_BLESS=1 cargo nextest run -p buttress-stores --all-features golden` writes those of a
//! new release; those of older ones stay as they are.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointKey, CheckpointStore, FileStore, StoreErrorKind, WorkflowId,
    checkpoint::{Clock, Namespace, Page, Put, PutWrites, Query, TaskWrite, WriteKind},
};
use buttress_stores::SqliteStore;
use serde_json::json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_123)
}

fn clock() -> Clock {
    Clock::new(time)
}

fn id(name: &str) -> WorkflowId {
    WorkflowId::new(name).unwrap()
}

fn part() -> CheckpointKey {
    CheckpointKey::new(id("Trade/7")).in_namespace(Namespace::new("child:1").unwrap())
}

async fn write(store: &impl CheckpointStore) {
    let key = CheckpointKey::new(id("Trade/7"));
    let mut parent = None;
    for number in 1..=3 {
        let put = Put::new(key.clone(), parent, format!(r#"{{"price":{number}}}"#).into_bytes());
        let put = put.phase(format!("phase {number}")).timestamp(time()).schema_version(2);
        parent = Some(store.put(put.metadata("ticker", json!("AAPL"))).await.unwrap());
    }
    let writes = vec![
        TaskWrite::new("analyst", WriteKind::Result, 0, *b"\"buy\""),
        TaskWrite::new("critic", WriteKind::Error, 0, *b"\xff no JSON"),
    ];
    store.put_writes(PutWrites::new(key.clone(), parent.unwrap(), writes)).await.unwrap();
    store.acquire(&key, "worker 1", Duration::from_secs(60)).await.unwrap();
    store.put(Put::new(part(), None, *b"\0\xff").timestamp(time())).await.unwrap();
    store.put(Put::new(id("gone"), None, *b"{}").timestamp(time())).await.unwrap();
    store.delete(&id("gone"), None).await.unwrap();
}

async fn read(store: &impl CheckpointStore) {
    let key = CheckpointKey::new(id("Trade/7"));
    let head = store.latest(&key).await.unwrap().unwrap();
    assert_eq!((&head.phase[..], &head.state[..]), ("phase 3", &br#"{"price":3}"#[..]));
    assert_eq!((head.timestamp, head.schema_version), (time(), 2));
    assert_eq!(head.metadata["ticker"], "AAPL");
    let writes: Vec<_> = head.writes.iter().map(|w| (&w.task[..], w.kind, &w.value[..])).collect();
    let expected = [
        ("analyst", WriteKind::Result, &b"\"buy\""[..]),
        ("critic", WriteKind::Error, b"\xff no JSON"),
    ];
    assert_eq!(writes, expected);
    let history = store.history(&key, Page::newest(9)).await.unwrap();
    assert_eq!(history.len(), 3);
    assert_eq!(history[0].parent, Some(history[1].sequence));
    assert_eq!(&store.latest(&part()).await.unwrap().unwrap().state[..], b"\0\xff");
    assert_eq!(store.latest(&id("gone").into()).await.unwrap(), None);
    assert_eq!(store.list(Query::first(9)).await.unwrap().len(), 2);

    let put = Put::new(key.clone(), Some(head.sequence), *b"{}");
    let error = store.put(put.clone()).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Held { .. }), "{error:?}");
    let lease = store.acquire(&key, "worker 1", Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease.token, 2);
    let next = store.put(put.under(&lease)).await.unwrap();
    assert!(next > head.sequence);
    assert_eq!(store.latest(&key).await.unwrap().unwrap().sequence, next);
    assert!(store.put(Put::new(id("gone"), None, *b"{}")).await.unwrap() > 1);
}

fn is_blessing() -> bool {
    std::env::var_os("BUTTRESS_BLESS").is_some()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_release_0_1_still_opens() {
    let golden = golden("file-0.1");
    if is_blessing() {
        drop(fs::remove_dir_all(&golden));
        write(&FileStore::open(&golden).clock(clock()).await.unwrap()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden, folder.path());
    read(&FileStore::open(folder.path()).clock(clock()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_release_0_1_still_opens() {
    let golden = golden("sqlite-0.1");
    if is_blessing() {
        drop(fs::remove_dir_all(&golden));
        fs::create_dir_all(&golden).unwrap();
        let store = SqliteStore::open(golden.join("store.db")).clock(clock()).await.unwrap();
        write(&store).await;
        drop(store);
        // The log is in the file once the store's thread has ended.
        while fs::exists(golden.join("store.db-wal")).unwrap() {
            tokio::task::yield_now().await;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden, folder.path());
    let path = folder.path().join("store.db");
    read(&SqliteStore::open(path).clock(clock()).await.unwrap()).await;
}
