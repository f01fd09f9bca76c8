//! Chains that cannot be read, are too new, or have no place left.

use super::*;

fn chain_folder(store: &FileStore, key: &CheckpointKey) -> PathBuf {
    names::chain_folder(store.path(), key)
}

#[tokio::test]
async fn a_chain_of_which_nothing_can_be_read_can_be_deleted() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let part = key().in_namespace(crate::checkpoint::Namespace::new("child/1").unwrap());
    for key in [key(), part.clone()] {
        let first = store.put(Put::new(key.clone(), None, *b"{}")).await.unwrap();
        store.put(Put::new(key.clone(), Some(first), *b"{}")).await.unwrap();
        for sequence in [1, 2] {
            fs::write(chain_folder(&store, &key).join(names::record(sequence)), "{").unwrap();
        }
        let error = store.latest(&key).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
    }
    // Another process, which has seen none of it.
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.delete(&key().workflow_id, None).await.unwrap();
    for key in [key(), part] {
        assert_eq!(store.latest(&key).await.unwrap(), None);
        let next = store.put(Put::new(key.clone(), None, *b"{}")).await.unwrap();
        assert!(next > 3, "sequences begin anew: {next}");
        let lease = store.acquire(&key, "worker", Duration::from_secs(9)).await.unwrap();
        assert!(lease.token > 2, "tokens begin anew: {}", lease.token);
    }
}

#[tokio::test]
async fn a_chain_that_is_too_new_hides_no_other_and_stays_as_it_is() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.put(put(None, "{}")).await.unwrap();
    let other = CheckpointKey::new(WorkflowId::new("other").unwrap());
    store.put(Put::new(other.clone(), None, *b"{}")).await.unwrap();
    let newer = chain_folder(&store, &key()).join(names::record(2));
    let body = r#"{"format":2,"workflow_id":"Trade 7""#;
    let sum = twox_hash::XxHash3_128::oneshot(body.as_bytes());
    let bytes = format!("{body},\"checksum\":\"{sum:032x}\"}}\n");
    fs::write(&newer, &bytes).unwrap();
    let heads = store.list(Query::first(9)).await.unwrap();
    assert_eq!(heads.iter().map(|head| &head.key).collect::<Vec<_>>(), [&other]);
    for error in [
        store.latest(&key()).await.unwrap_err(),
        store.put(put(Some(1), "{}")).await.unwrap_err(),
        store.delete(&key().workflow_id, None).await.unwrap_err(),
    ] {
        assert!(matches!(error.kind(), TooNew { .. }), "{error:?}");
    }
    assert_eq!(fs::read_to_string(newer).unwrap(), bytes);
}

#[tokio::test]
async fn behind_the_largest_sequence_is_a_typed_error() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let first = store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    let folder = chain_folder(&store, &key());
    // One that is ours in name only, and one that is not.
    fs::write(folder.join(names::record(ChainState::LAST)), "{").unwrap();
    fs::write(folder.join(names::record(u64::MAX)), "{").unwrap();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let head = store.latest(&key()).await.unwrap().unwrap();
    assert_eq!(head.sequence, first);
    for error in [
        store.put(put(Some(first), "{}")).await.unwrap_err(),
        store.acquire(&key(), "worker", Duration::from_secs(9)).await.unwrap_err(),
        store.delete(&key().workflow_id, None).await.unwrap_err(),
    ] {
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
        assert!(!error.is_retryable());
    }
}
