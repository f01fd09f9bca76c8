//! What is stored stays readable: `golden/file-store` is a `FileStore` as the first version wrote it.
//!
//! Never write it anew for a later format: put a second folder beside it, and a test for both. It
//! was written by the tests' own `golden_writer`, at a fixed time and in UTC:
//!
//! ```sh
//! TZ=UTC BUTTRESS_GOLDEN=$PWD/crates/buttress/tests/golden/file-store \
//!     cargo test -p buttress --all-features --test checkpoint_golden -- --exact golden_writer
//! ```
#![cfg(feature = "checkpoint")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointKey, CheckpointStore as _, FileStore, StoreErrorKind, WorkflowId,
    checkpoint::{
        Clock, Lease, Namespace, Page, Put, PutWrites, Query, TaskWrite, WriteId, WriteKind,
    },
};
use serde_json::json;

const FOLDER: &str = "BUTTRESS_GOLDEN";
const HOUR: Duration = Duration::from_secs(3600);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/file-store")
}

/// When it was written.
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678)
}

fn trade() -> CheckpointKey {
    WorkflowId::new("Trade 7").unwrap().into()
}

fn part() -> CheckpointKey {
    trade().in_namespace(Namespace::new("analyst/1").unwrap())
}

fn deleted() -> CheckpointKey {
    WorkflowId::new("deleted").unwrap().into()
}

fn put(key: CheckpointKey, parent: Option<u64>, state: &[u8], id: u32) -> Put {
    let id = WriteId::parse(&format!("{id:032x}")).unwrap();
    Put::new(key, parent, state).write_id(id).timestamp(then())
}

fn first() -> Put {
    put(trade(), None, br#"{"ticker": "AAPL", "prices": [1.50, 2]}"#, 1)
        .phase("research")
        .schema_version(3)
        .metadata("run", json!({ "by": "é", "n": 7 }))
}

fn second() -> Put {
    put(trade(), Some(1), b"\xff\x00no JSON", 2).phase("strategy")
}

fn writes() -> Vec<TaskWrite> {
    let write = |kind, value: &[u8]| TaskWrite::new("analyst", kind, 0, value);
    vec![write(WriteKind::Result, b"{\"a\":1}"), write(WriteKind::Interrupt, b"\xfe")]
}

fn child() -> Put {
    put(part(), None, b"null", 3)
}

fn lease() -> Lease {
    Lease::new(trade(), "worker".to_owned(), 1, then() + HOUR)
}

async fn open(folder: &Path, now: SystemTime) -> FileStore {
    FileStore::open(folder).clock(Clock::new(move || now)).await.unwrap()
}

/// Waits until what follows a put's answer is over.
async fn settle(store: &FileStore, key: &CheckpointKey) {
    let keep = NonZeroU32::new(10).unwrap();
    assert_eq!(store.prune(key, keep).await.unwrap(), 0);
}

/// Writes the golden store.
async fn write(folder: &Path) {
    let store = open(folder, then()).await;
    store.put(first()).await.unwrap();
    store.put(second()).await.unwrap();
    store.put_writes(PutWrites::new(trade(), 2, writes())).await.unwrap();
    store.acquire(&trade(), "worker", HOUR).await.unwrap();
    store.put(child()).await.unwrap();
    store.put(put(deleted(), None, b"\"secret\"", 4)).await.unwrap();
    store.put(put(deleted(), Some(1), b"\"secret\"", 5)).await.unwrap();
    store.delete(&deleted().workflow_id, None).await.unwrap();
    for key in [trade(), part(), deleted()] {
        settle(&store, &key).await;
    }
}

/// Returns every file with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for path in fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                files
                    .insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Copies the golden store: opening one may write to it.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files(&golden()) {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

#[tokio::test]
async fn golden_writer() {
    if let Ok(folder) = std::env::var(FOLDER) {
        write(Path::new(&folder)).await;
    }
}

#[test]
fn checkpoints_are_written_as_the_golden_ones_are() {
    let folder = tempfile::tempdir().unwrap();
    // In a process of its own, since files show the local time too.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "golden_writer"])
        .env(FOLDER, folder.path())
        .env("TZ", "UTC")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (written, golden) = (files(folder.path()), files(&golden()));
    assert_eq!(written.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (path, content) in &written {
        let text = |content: &[u8]| String::from_utf8(content.to_vec()).unwrap();
        assert_eq!(text(content), text(&golden[path]), "{}", path.display());
    }
}

#[tokio::test]
async fn golden_checkpoints_are_read_to_the_letter() {
    let folder = copy();
    let store = open(folder.path(), then()).await;
    let first = first().into_checkpoint(1);
    let mut second = second().into_checkpoint(2);
    // Sorted by task, kind and index.
    writes().into_iter().for_each(|write| write.add_to(&mut second.writes));
    let child = child().into_checkpoint(1);

    assert_eq!(store.latest(&trade()).await.unwrap().as_ref(), Some(&second));
    assert_eq!(store.get(&trade(), 1).await.unwrap().as_ref(), Some(&first));
    let history = store.history(&trade(), Page::newest(9)).await.unwrap();
    assert_eq!(history, [second.clone(), first]);
    assert_eq!(store.latest(&part()).await.unwrap().as_ref(), Some(&child));
    assert_eq!(store.latest(&deleted()).await.unwrap(), None);
    assert_eq!(store.history(&deleted(), Page::newest(9)).await.unwrap(), []);
    let mut heads = store.list(Query::first(9)).await.unwrap();
    heads.sort_by_key(|head| head.sequence);
    assert_eq!(heads, [child, second]);
    let untouched = files(folder.path());
    assert_eq!(untouched, files(&golden()), "reading changes nothing");
}

#[tokio::test]
async fn golden_checkpoints_are_gone_on_with() {
    let folder = copy();
    let store = open(folder.path(), then() + HOUR / 2).await;
    let next = || put(trade(), Some(2), b"{}", 6);
    let held = store.put(next()).await.unwrap_err();
    assert!(matches!(held.kind(), StoreErrorKind::Held { .. }), "{held}");
    // A repeat of what is stored.
    assert_eq!(store.put(second().under(&lease())).await.unwrap(), 2);
    let renewed = store.renew(&lease(), HOUR).await.unwrap();
    assert_eq!(store.put(next().under(&renewed)).await.unwrap(), 6);
    assert_eq!(store.put(put(part(), Some(1), b"{}", 7)).await.unwrap(), 2);
    assert_eq!(store.put(put(deleted(), None, b"{}", 8)).await.unwrap(), 4);
    for key in [trade(), part(), deleted()] {
        settle(&store, &key).await;
    }

    let store = open(folder.path(), then() + 2 * HOUR).await;
    let head = store.latest(&trade()).await.unwrap().unwrap();
    assert_eq!((head.sequence, head.parent, head.writes.len()), (6, Some(2), 0));
    let lease = store.acquire(&trade(), "other", HOUR).await.unwrap();
    assert_eq!(lease.token, 2);
    settle(&store, &trade()).await;
}
