//! Answers that are lost, writers that are late, backends that do not keep their word.

use std::{
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use buttress::checkpoint::{
    CheckpointStore, Page, Put, PutWrites, StoreErrorKind, TaskWrite, WriteKind,
};
use buttress_stores::ObjectStore;
use object_store::{ObjectStoreExt as _, path::Path};

use crate::{
    faulty::{Faulty, then},
    fill, key, open, sequences,
};

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_found() {
    let backend = Arc::new(Faulty::default());
    let store = open(&backend).await;
    let key = key("lost");
    backend.after.store(1, Ordering::SeqCst);
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    backend.after.store(1, Ordering::SeqCst);
    let lease = store.acquire(&key, "me", Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease.token, 1);
    backend.after.store(1, Ordering::SeqCst);
    let write = TaskWrite::new("task", WriteKind::Route, 0, *b"value");
    let writes = PutWrites::new(key.clone(), first, vec![write]);
    store.put_writes(writes.under(&lease)).await.unwrap();
    assert_eq!(backend.after.load(Ordering::SeqCst), 0);
    assert_eq!(store.latest(&key).await.unwrap().unwrap().writes.len(), 1);
    assert_eq!(sequences(&store, &key).await, [first]);
}

#[tokio::test]
async fn a_put_of_which_nothing_is_known_can_be_repeated() {
    let backend = Arc::new(Faulty::default());
    let store = open(&backend).await;
    let key = key("repeat");
    for lost in [&backend.before, &backend.after] {
        let head = store.latest(&key).await.unwrap().map(|head| head.sequence);
        let put = Put::new(key.clone(), head, *b"state");
        lost.store(1, Ordering::SeqCst);
        backend.reads.store(1, Ordering::SeqCst);
        let error = store.put(put.clone()).await.unwrap_err();
        assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        backend.reads.store(0, Ordering::SeqCst);
        let sequence = store.put(put.clone()).await.unwrap();
        assert_eq!(store.put(put).await.unwrap(), sequence);
        assert_eq!(sequences(&store, &key).await.last(), Some(&sequence));
    }
    assert_eq!(sequences(&store, &key).await.len(), 2);
}

#[tokio::test]
async fn a_late_writer_hides_nothing() {
    let backend = Arc::new(Faulty::default());
    let (late, other) = (open(&backend).await, open(&backend).await);
    let key = key("late");
    let third = fill(&late, &key, 3).await;
    // 20 records, of which 10 stay: the place behind the third is free again.
    let head = fill(&other, &key, 17).await;
    other.prune(&key, NonZeroU32::new(10).unwrap()).await.unwrap();
    let before = sequences(&other, &key).await;
    assert_eq!(before.len(), 10);
    let error = late.put(Put::new(key.clone(), Some(third), *b"late")).await.unwrap_err();
    let StoreErrorKind::Conflict { found, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(*found, Some(head));
    assert_eq!(sequences(&other, &key).await, before);
    let lease = late.acquire(&key, "late", Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease.token, 1);
    assert_eq!(other.latest(&key).await.unwrap().unwrap().sequence, head);
    late.put(Put::new(key.clone(), Some(head), *b"more").under(&lease)).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_is_outrun_before_it_looks_around_has_written() {
    for (length, renewals) in [(1, 0), (3, 0), (1, 40)] {
        let backend = Arc::new(Faulty::default());
        let (slow, fast) = (open(&backend).await, open(&backend).await);
        let key = key("outrun");
        let first = fill(&slow, &key, 1).await;
        then(&backend, {
            let (fast, key) = (fast.clone(), key.clone());
            async move || {
                fill(&fast, &key, length - 1).await;
                let mut lease = fast.acquire(&key, "fast", Duration::from_secs(60)).await.unwrap();
                for _ in 0..renewals {
                    lease = fast.renew(&lease, Duration::from_secs(60)).await.unwrap();
                }
                fast.release(&lease).await.unwrap();
            }
        });
        let second = slow.put(Put::new(key.clone(), Some(first), *b"slow")).await.unwrap();
        let stored = fast.history(&key, Page::newest(100)).await.unwrap();
        assert_eq!(stored.len(), 1 + length, "{length} {renewals}");
        assert!(stored.iter().any(|stored| stored.sequence == second));
        assert!(stored.windows(2).all(|pair| pair[0].parent == Some(pair[1].sequence)));
    }
}

#[tokio::test]
async fn a_backend_that_replaces_what_is_there_is_refused() {
    let backend = Arc::new(Faulty { replaces: true, ..Faulty::default() });
    let error = ObjectStore::builder(backend).open().await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Setup { .. }), "{error:?}");
}

#[tokio::test]
async fn a_deletion_counts_before_its_objects_are_gone() {
    let backend = Arc::new(Faulty::default());
    let store = open(&backend).await;
    let key = key("deleted");
    let head = fill(&store, &key, 3).await;
    let chain = "11/w-deleted/n-";
    let saved = backend.memory.fork();
    store.delete(&key.workflow_id, None).await.unwrap();
    store.prune(&key, NonZeroU32::MIN).await.unwrap();
    // They are back, as if nobody had come to remove them.
    for sequence in 1..=head {
        let path = Path::parse(format!("{chain}/{sequence:020}")).unwrap();
        let bytes = saved.get(&path).await.unwrap().bytes().await.unwrap();
        backend.memory.put(&path, bytes.into()).await.unwrap();
    }
    assert!(store.latest(&key).await.unwrap().is_none());
    assert!(store.get(&key, head).await.unwrap().is_none());
    assert!(sequences(&store, &key).await.is_empty());
    let next = store.put(Put::new(key.clone(), None, *b"new")).await.unwrap();
    assert!(next > head);
    let pages = store.history(&key, Page::newest(10).before(next)).await.unwrap();
    assert!(pages.is_empty());
    assert_eq!(sequences(&store, &key).await, [next]);
}

/// Module docs: what cleans up is "behind the answer". A deletion that nobody answers must not keep a
/// chain from being written, one or all of them.
#[tokio::test(start_paused = true)]
async fn deletions_that_are_never_answered_hold_up_no_later_put() {
    let backend = Arc::new(Faulty::default());
    let store = ObjectStore::builder(backend.clone()).keep(1).open().await.unwrap();
    let key = key("stalled");
    let mut last = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    backend.deletions.store(100, Ordering::SeqCst);
    for _ in 0..10 {
        let started = tokio::time::Instant::now();
        last = store.put(Put::new(key.clone(), Some(last), *b"state")).await.unwrap();
        assert!(started.elapsed() <= Duration::from_secs(2), "{:?}", started.elapsed());
    }
    let left = backend.deletions.load(Ordering::SeqCst);
    assert!(left < 100, "no deletion was asked for");
    // Answered again, it keeps up.
    backend.deletions.store(0, Ordering::SeqCst);
    last = store.put(Put::new(key.clone(), Some(last), *b"state")).await.unwrap();
    store.put(Put::new(key.clone(), Some(last), *b"state")).await.unwrap();
    let history = store.history(&key, Page::newest(99)).await.unwrap();
    assert!(history.len() <= 2, "{}", history.len());
}
