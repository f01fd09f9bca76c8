//! Cases 1 to 6 and 10 to 12: what is put comes back.

use std::time::{Duration, SystemTime};

use buttress::{
    Checkpoint, CheckpointStore,
    checkpoint::{Metadata, Page, Payload, Put, PutWrites, Query, TaskWrite, WriteKind},
};
use serde_json::{Value, json};

use super::{
    Harness,
    chain::{append, at, ensure_head, fill, head, history, key, part, state},
    check::{Checked, ensure, ensure_eq, too_large},
    fixture::Fixture,
};

/// Case 1.
pub(super) async fn missing<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("nobody");
    ensure!(store.latest(&key).await?.is_none(), "latest of an unknown chain finds something");
    ensure!(store.get(&key, 1).await?.is_none(), "get of an unknown chain finds something");
    ensure!(history(&store, &key).await?.is_empty(), "an unknown chain has a history");
    let lease = store.acquire(&key, "owner", fx.lease_time()).await?;
    ensure!(store.latest(&key).await?.is_none(), "a lease alone makes a checkpoint");
    ensure!(store.get(&key, lease.token).await?.is_none(), "get finds a lease");
    ensure!(history(&store, &key).await?.is_empty(), "a lease alone makes a history");
    ensure!(store.list(Query::first(10)).await?.is_empty(), "looking made an entry in the list");
    Ok(())
}

/// Case 2.
pub(super) async fn round_trip<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let limit = usize::try_from(store.capabilities().max_state).unwrap_or(usize::MAX);
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let mut states = vec![every_byte, b"\xff\xfe not UTF-8 \xc3\x28 \0".to_vec()];
    states.extend([0, 1, 1 << 10, 64 << 10, 1 << 20, 16 << 20].map(|size| state(7, size)));
    let mut parent = None;
    for (number, bytes) in states.into_iter().filter(|bytes| bytes.len() <= limit).enumerate() {
        let version = u32::try_from(number).unwrap_or_default() * 500_000_003;
        let put = Put::new(key("trip"), parent, bytes)
            .phase(format!("phase {number} \u{1f680} \"quoted\" \\ 'single' %s\n"))
            .schema_version(version)
            .metadata("number", number);
        let sequence = store.put(put.clone()).await?;
        let expected = put.into_checkpoint(sequence);
        ensure_same(&head(&store, &key("trip")).await?, &expected, "latest")?;
        ensure_same(&at(&store, &key("trip"), sequence).await?, &expected, "get")?;
        parent = Some(sequence);
    }
    Ok(())
}

/// Case 3.
pub(super) async fn timestamps<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let mut parent = None;
    for millis in [4_102_444_800_999, 1_795_608_000_123, 1, 0, 1_795_608_000_122] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let put = Put::new(key("time"), parent, state(millis, 8)).timestamp(time);
        let sequence = store.put(put).await?;
        let found = head(&store, &key("time")).await?;
        ensure_eq!(found.sequence, sequence, "the latest after one of {millis} ms");
        ensure_eq!(found.timestamp, time, "timestamp of {millis} ms");
        parent = Some(sequence);
    }
    super::chain::ensure_linear(&history(&store, &key("time")).await?)
}

/// Case 4.
pub(super) async fn latest_wins<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_with_history(100).await?;
    let key = key("hundred");
    let sequences = fill(&store, &key, 100).await?;
    let found = head(&store, &key).await?;
    ensure_eq!(Some(&found.sequence), sequences.last(), "sequence of the latest");
    ensure!(found.state[..] == state(100, 64)[..], "the latest has another one's state");
    for (number, sequence) in (1..).zip(&sequences) {
        let found = at(&store, &key, *sequence).await?;
        ensure_eq!(found.sequence, *sequence, "sequence that get finds");
        ensure!(found.state[..] == state(number, 64)[..], "{sequence} has another one's state");
    }
    Ok(())
}

/// Case 5.
pub(super) async fn sequences_grow<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (one, two) = (key("one"), key("two"));
    let mut last = [None, None];
    for number in 1..=10 {
        for (key, last) in [&one, &two].into_iter().zip(&mut last) {
            let sequence = append(&store, key, *last, number).await?;
            ensure!(Some(sequence) > *last, "{sequence} follows {last:?}");
            ensure!(sequence > 0, "0 is a sequence");
            *last = Some(sequence);
        }
    }
    ensure_head(&store, &one, last[0], "10 puts").await?;
    ensure_head(&store, &two, last[1], "10 puts").await
}

/// Case 6.
pub(super) async fn address<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    for key in [key("address"), part("address", "child:1")] {
        let sequence = append(&store, &key, None, 1).await?;
        let found = at(&store, &key, sequence).await?;
        ensure_eq!((&found.key, found.sequence), (&key, sequence), "address that get finds");
        let beside = store.get(&key, sequence + 1).await?;
        ensure!(beside.is_none(), "get of a sequence that was never given out finds something");
    }
    Ok(())
}

/// Case 10.
pub(super) async fn metadata<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let mut random = fastrand::Rng::with_seed(10);
    let floats = std::iter::repeat_with(|| f64::from_bits(random.u64(..)));
    let floats: Vec<f64> = floats.filter(|float| float.is_finite()).take(200).collect();
    let mut metadata = Metadata::new();
    for (name, value) in [
        ("", json!("an empty name")),
        ("null", Value::Null),
        ("numbers", json!([0, -0.0, u64::MAX, i64::MIN, 0.1, 1.0, 1, 1e300, 5e-324])),
        ("floats", json!(floats)),
        ("nested", json!({ "b": { "a": [true, {}, [], ""] }, "a": 1 })),
        ("text", json!("\u{0} \u{1f680} \u{2028} \" \\ ' $1 %s \r\n")),
        ("e\u{301}", json!("decomposed")),
        ("\u{e9}", json!("composed")),
        ("a.b[0]", json!("a path")),
        ("sequence", json!("a name of the store's own")),
        ("large", json!("x".repeat(100_000))),
    ] {
        metadata.insert(name.to_owned(), value);
    }
    let mut put = Put::new(key("metadata"), None, state(1, 8));
    put.metadata = metadata;
    let sequence = store.put(put.clone()).await?;
    let found = head(&store, &key("metadata")).await?;
    for (name, value) in &put.metadata {
        ensure_eq!(found.metadata.get(name), Some(value), "metadata {name:?}");
    }
    ensure_eq!(found.metadata.len(), put.metadata.len(), "number of metadata");
    ensure_eq!(store.put(put).await?, sequence, "answer to a repeat with all this metadata");
    deep_metadata(&store, sequence).await
}

/// What is written and cannot be read again, such as metadata that is nested too deep for the
/// store's reader, has to be refused.
async fn deep_metadata(store: &impl CheckpointStore, mut newest: u64) -> Checked {
    let key = key("metadata");
    for levels in [50, 99, 126, 127, 128, 129, 500] {
        let deep = (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let put = Put::new(key.clone(), Some(newest), state(1, 8)).metadata("deep", deep.clone());
        match store.put(put).await {
            Ok(sequence) => {
                let found = head(store, &key).await?;
                let same = found.metadata.get("deep") == Some(&deep);
                ensure!(same, "metadata of {levels} levels is not the one put");
                newest = sequence;
            }
            Err(error) => {
                ensure!(levels > 50, "metadata of {levels} levels is refused: {error}");
                ensure!(!error.is_retryable(), "a repeat of {levels} levels may help: {error}");
                ensure_head(store, &key, Some(newest), "metadata that was refused").await?;
            }
        }
    }
    Ok(())
}

/// Case 11.
pub(super) async fn size_limit<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_for_states(1000).await?;
    let key = key("large");
    let most = store.put(Put::new(key.clone(), None, state(1, 1000))).await?;
    let over = Put::new(key.clone(), Some(most), state(2, 1001));
    too_large(store.put(over).await, 1001, 1000, "a put of 1001 bytes")?;
    let write = |size| TaskWrite::new("task", WriteKind::Result, 0, state(3, size));
    let over = PutWrites::new(key.clone(), most, vec![write(5), write(1001)]);
    too_large(store.put_writes(over).await, 1001, 1000, "a write of 1001 bytes")?;
    let found = head(&store, &key).await?;
    ensure_eq!(found.sequence, most, "head after a put that was too large");
    ensure!(found.writes.is_empty(), "a write beside one that was too large was stored");
    store.put_writes(PutWrites::new(key.clone(), most, vec![write(1000)])).await?;
    let page = store.history(&key, Page::newest(10)).await?;
    ensure_eq!(page.len(), 1, "checkpoints after a put that was too large");
    Ok(())
}

/// Case 12.
pub(super) async fn no_aliasing<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("alias");
    let payload = Payload::new(state(1, 1000));
    let put = Put::new(key.clone(), None, payload.clone());
    let putting = store.put(put);
    let mut bytes = payload.into_vec();
    bytes.fill(0);
    let sequence = putting.await?;
    let mut found = head(&store, &key).await?;
    ensure!(found.state[..] == state(1, 1000)[..], "a change of the caller's bytes was stored");
    found.phase.push_str("changed");
    let mut bytes = found.state.into_vec();
    bytes.fill(1);
    let found = at(&store, &key, sequence).await?;
    ensure!(found.state[..] == state(1, 1000)[..], "a change of a reader's bytes was stored");
    ensure_eq!(found.phase, "", "phase after a reader's change");
    Ok(())
}

/// Fails where two checkpoints differ, and does not show their states.
fn ensure_same(found: &Checkpoint, expected: &Checkpoint, by: &str) -> Checked {
    let size = expected.state.len();
    ensure!(found.state == expected.state, "{by}: the state of {size} bytes is not the one put");
    ensure_eq!(*found, *expected, "{by}");
    Ok(())
}
