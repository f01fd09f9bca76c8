//! Objects that somebody has damaged (cases 49 and 50).

use std::sync::Arc;

use buttress::checkpoint::{
    CheckpointKey, CheckpointStore, Page, Put, Query, StoreError, StoreErrorKind,
};
use buttress_stores::ObjectStore;
use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path};

use crate::{fill, key, open};

async fn damaged() -> (Arc<InMemory>, ObjectStore, CheckpointKey) {
    let backend = Arc::new(InMemory::new());
    let store = open(&backend).await;
    let key = key("w");
    let first = store.put(Put::new(key.clone(), None, *b"first")).await.unwrap();
    store.put(Put::new(key.clone(), Some(first), *b"second")).await.unwrap();
    (backend, store, key)
}

fn at(sequence: u64) -> Path {
    Path::parse(format!("50/w-w/n-/{sequence:020}")).unwrap()
}

fn is_corrupt(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Corrupt { .. })
}

#[tokio::test]
async fn a_flipped_bit_or_a_cut_is_never_a_wrong_state() {
    let (backend, store, key) = damaged().await;
    let whole = backend.get(&at(2)).await.unwrap().bytes().await.unwrap();
    let flipped = (0..whole.len()).map(|byte| {
        let mut flipped = whole.to_vec();
        flipped[byte] ^= 1 << (byte % 8);
        flipped
    });
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    for bytes in flipped.chain(cut) {
        backend.put(&at(2), bytes.into()).await.unwrap();
        assert_eq!(store.latest(&key).await.unwrap().unwrap().state[..], *b"first");
        assert!(is_corrupt(&store.get(&key, 2).await.unwrap_err()));
        assert_eq!(store.history(&key, Page::newest(1)).await.unwrap()[0].sequence, 1);
        assert_eq!(store.list(Query::first(10)).await.unwrap()[0].sequence, 1);
    }
    backend.put(&at(2), whole.into()).await.unwrap();
    assert_eq!(store.latest(&key).await.unwrap().unwrap().state[..], *b"second");
}

#[tokio::test]
async fn behind_a_damaged_head_the_chain_goes_on() {
    let (backend, _, key) = damaged().await;
    let whole = backend.get(&at(1)).await.unwrap().bytes().await.unwrap();
    // The record of another place.
    backend.put(&at(2), whole.into()).await.unwrap();
    let store = open(&backend).await;
    let third = store.put(Put::new(key.clone(), Some(1), *b"third")).await.unwrap();
    assert_eq!(third, 3);
    assert_eq!(store.latest(&key).await.unwrap().unwrap().state[..], *b"third");
    // A head that is damaged behind a newer record is passed over too.
    store.acquire(&key, "me", std::time::Duration::ZERO).await.unwrap();
    backend.put(&at(3), b"damaged"[..].into()).await.unwrap();
    let fourth = store.put(Put::new(key.clone(), Some(1), *b"fourth")).await.unwrap();
    assert_eq!(store.latest(&key).await.unwrap().unwrap().sequence, fourth);
}

#[tokio::test]
async fn with_none_that_can_be_read_the_answer_is_not_that_there_is_none() {
    let (backend, store, key) = damaged().await;
    for sequence in [1, 2] {
        backend.put(&at(sequence), b"damaged"[..].into()).await.unwrap();
    }
    assert!(is_corrupt(&store.latest(&key).await.unwrap_err()));
    let fresh = open(&backend).await;
    let error = fresh.put(Put::new(key.clone(), None, *b"new")).await.unwrap_err();
    assert!(is_corrupt(&error), "{error:?}");
    // Removed by somebody: the newest says that there was a head.
    let (backend, store, key) = damaged().await;
    store.acquire(&key, "me", std::time::Duration::from_secs(9)).await.unwrap();
    for sequence in [1, 2] {
        backend.delete(&at(sequence)).await.unwrap();
    }
    assert!(is_corrupt(&store.latest(&key).await.unwrap_err()));
}

#[tokio::test]
async fn a_record_of_a_newer_program_is_left_alone() {
    let (backend, store, key) = damaged().await;
    let newer = newer_format(&backend.get(&at(2)).await.unwrap().bytes().await.unwrap());
    backend.put(&at(3), newer.clone().into()).await.unwrap();
    let error = store.latest(&key).await.unwrap_err();
    assert_eq!(error.kind(), StoreError::too_new(2, 1).kind());
    let error = store.put(Put::new(key.clone(), Some(2), *b"third")).await.unwrap_err();
    assert_eq!(error.kind(), StoreError::too_new(2, 1).kind());
    let left = backend.get(&at(3)).await.unwrap().bytes().await.unwrap();
    assert_eq!(left[..], newer[..]);
    assert_eq!(fill(&store, &crate::key("other"), 1).await, 1);
}

/// Raises the format of a record, and sums it up anew.
fn newer_format(record: &[u8]) -> Vec<u8> {
    use twox_hash::xxhash3_128::Hasher;

    let mut record = record.to_vec();
    let length = u32::from_le_bytes(record[4..8].try_into().unwrap()) as usize;
    let format = record.windows(11).position(|found| found == b"\"format\":1,").unwrap();
    record[format + 9] = b'2';
    let end = record.len() - 16;
    let mut hasher = Hasher::new();
    hasher.write(&record[..8]);
    hasher.write(&record[8..8 + length]);
    hasher.write(&Hasher::oneshot(&record[8 + length..end]).to_le_bytes());
    let sum = hasher.finish_128().to_le_bytes();
    record[end..].copy_from_slice(&sum);
    record
}
