//! Cases 37 to 43: what goes.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use buttress::{
    CheckpointKey, CheckpointStore,
    checkpoint::{Put, PutWrites, Query},
};
use tokio::time::Instant;

use super::{
    Harness, Rounds,
    chain::{
        append, at, ensure_head, ensure_linear, fill, head, history, id, key, part, result, shown,
        state,
    },
    check::{Checked, conflict, ensure, ensure_eq, fail},
    fixture::Fixture,
};

const ONE: NonZeroU32 = NonZeroU32::MIN;
const THREE: NonZeroU32 = ONE.saturating_add(2);
const TEN: NonZeroU32 = ONE.saturating_add(9);

/// Case 37.
pub(super) async fn all_of_a_workflow<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let own = [key("gone"), part("gone", "child"), part("gone", "child/2")];
    let others = [key("stays"), part("stays", "gone"), key("gone/child"), key("gon")];
    for key in own.iter().chain(&others) {
        let sequence = *fill(&store, key, 3).await?.last().unwrap_or(&0);
        let writes = vec![result("task", 0, "said")];
        store.put_writes(PutWrites::new(key.clone(), sequence, writes)).await?;
    }
    for time in ["the first time", "the second time"] {
        store.delete(&id("gone"), None).await?;
        for key in &own {
            ensure!(store.latest(key).await?.is_none(), "{time}: {key} has a head");
            ensure!(history(&store, key).await?.is_empty(), "{time}: {key} has a history");
            ensure!(store.get(key, 1).await?.is_none(), "{time}: {key} has its first");
        }
    }
    store.delete(&id("never there"), None).await?;
    for key in &others {
        ensure_eq!(history(&store, key).await?.len(), 3, "checkpoints of {key}");
        let writes = shown(&head(&store, key).await?.writes);
        ensure_eq!(writes, ["task result 0 said"], "writes of {key}");
    }
    let listed = store.list(Query::first(100)).await?;
    ensure_eq!(listed.len(), others.len(), "chains that are listed");
    Ok(())
}

/// Case 38.
pub(super) async fn begins_anew<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("anew");
    let old = fill(&store, &key, 5).await?;
    store.put_writes(PutWrites::new(key.clone(), old[4], vec![result("task", 0, "old")])).await?;
    store.delete(&id("anew"), None).await?;
    let late = Put::new(key.clone(), Some(old[4]), state(6, 8));
    conflict(store.put(late).await, None, "a put behind a head that was deleted")?;
    let first = append(&store, &key, None, 7).await?;
    ensure!(first > old[4], "a chain begins at {first} after {} was deleted", old[4]);
    let found = head(&store, &key).await?;
    ensure_eq!((found.sequence, found.parent), (first, None), "head of the new chain");
    ensure!(found.writes.is_empty(), "writes of the old chain show in the new one");
    ensure_eq!(history(&store, &key).await?.len(), 1, "checkpoints of the new chain");
    for sequence in old {
        ensure!(store.get(&key, sequence).await?.is_none(), "{sequence} is back");
    }
    Ok(())
}

/// Case 39.
pub(super) async fn prune<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_with_history(10).await?;
    let (own, child) = (key("prune"), part("prune", "child"));
    let sequences = fill(&store, &own, 9).await?;
    store.put_writes(PutWrites::new(own.clone(), sequences[8], vec![result("t", 0, "9")])).await?;
    let tenth = append(&store, &own, Some(sequences[8]), 10).await?;
    store.put_writes(PutWrites::new(own.clone(), tenth, vec![result("t", 0, "10")])).await?;
    fill(&store, &child, 5).await?;
    let before = history(&store, &own).await?;
    ensure_eq!(store.prune(&own, TEN).await?, 0, "how many of 10 go where 10 stay");
    ensure_eq!(store.prune(&own, THREE).await?, 7, "how many of 10 go where 3 stay");
    ensure_eq!(history(&store, &own).await?[..], before[..3], "what is left");
    ensure_eq!(head(&store, &own).await?, before[0], "head after pruning");
    ensure!(store.get(&own, sequences[6]).await?.is_none(), "what was pruned is found");
    ensure_eq!(store.prune(&own, THREE).await?, 0, "how many go the second time");
    ensure_eq!(history(&store, &child).await?.len(), 5, "checkpoints of another namespace");
    ensure_eq!(store.prune(&key("nobody"), ONE).await?, 0, "how many of an unknown chain go");
    let listed = store.list(Query::first(10)).await?;
    ensure_eq!(listed.len(), 2, "chains that are listed after pruning");
    append(&store, &own, Some(tenth), 11).await?;
    Ok(())
}

/// Case 40.
pub(super) async fn prune_keeps_whole<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_with_history(10).await?;
    let key = key("blobs");
    let mut parent = None;
    for number in 0..10 {
        // Three states over and over: a store that shares equal ones may not lose any.
        let put = Put::new(key.clone(), parent, state(number % 3, 100_000));
        parent = Some(store.put(put).await?);
    }
    let before = history(&store, &key).await?;
    for keep in [8, 5, 2, 1] {
        store.prune(&key, ONE.saturating_add(keep - 1)).await?;
        for expected in &before[..keep as usize] {
            let found = at(&store, &key, expected.sequence).await?;
            ensure!(found.state == expected.state, "{} of {keep} changed", expected.sequence);
            ensure_eq!(found, *expected, "one of {keep} that stay");
        }
    }
    Ok(())
}

/// Case 41.
pub(super) async fn prune_beside_others<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_with_history(10).await?;
    let key = key("beside");
    let rounds = u64::try_from(fx.rounds.of_thousand() * 4).unwrap_or(u64::MAX);
    let first = store.put(Put::new(key.clone(), None, state(0, 20_000)).phase("0")).await?;
    let writer = tokio::spawn(write_rounds(Arc::clone(&store), key.clone(), first, rounds));
    let mut last_seen = 0;
    while !writer.is_finished() {
        store.prune(&key, ONE).await?;
        let found = head(&store, &key).await?;
        let number = found.phase.parse().map_err(|_| fail("a phase nobody has put"))?;
        ensure!(found.state[..] == state(number, 20_000)[..], "half a state");
        ensure!(found.sequence >= last_seen, "{} after {last_seen}", found.sequence);
        last_seen = found.sequence;
        if let Some(found) = store.get(&key, last_seen).await? {
            ensure_eq!(found.phase, number.to_string(), "phase of {last_seen}");
        }
        tokio::task::yield_now().await;
    }
    let newest = writer.await.map_err(|error| fail(format!("the writer panicked: {error}")))??;
    ensure_head(&store, &key, Some(newest), "pruning beside a writer").await?;
    store.prune(&key, ONE).await?;
    ensure_head(&store, &key, Some(newest), "a last pruning").await
}

async fn write_rounds<S: CheckpointStore>(
    store: Arc<S>,
    key: CheckpointKey,
    mut newest: u64,
    rounds: u64,
) -> Result<u64, buttress::StoreError> {
    for number in 1..=rounds {
        let put = Put::new(key.clone(), Some(newest), state(number, 20_000));
        newest = store.put(put.phase(number.to_string())).await?;
    }
    Ok(newest)
}

/// Case 43.
pub(super) async fn retention<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open_keeping(TEN).await?;
    let key = key("bounded");
    let count = if fx.rounds == Rounds::Full { 10_000 } else { 50 };
    let sequences = fill(&store, &key, count).await?;
    until_left(&store, &key, 10).await?;
    let chain = history(&store, &key).await?;
    let newest: Vec<u64> = sequences.iter().rev().take(10).copied().collect();
    let left: Vec<u64> = chain.iter().map(|checkpoint| checkpoint.sequence).collect();
    ensure_eq!(left, newest, "what is left of {count}");
    ensure_linear(&chain)?;
    ensure!(store.get(&key, sequences[0]).await?.is_none(), "get finds what went");
    // A late writer whose parent has gone hides nothing.
    for parent in [None, Some(sequences[0]), Some(sequences[2])] {
        let late = Put::new(key.clone(), parent, state(9, 8));
        conflict(store.put(late).await, newest.first().copied(), "a late writer's put")?;
    }
    ensure_eq!(history(&store, &key).await?, chain, "history after a late writer");
    fx.inspect(&store).await
}

/// Waits until a store that prunes behind the answer has done so.
async fn until_left(store: &impl CheckpointStore, key: &CheckpointKey, left: usize) -> Checked {
    let start = Instant::now();
    loop {
        let found = history(store, key).await?.len();
        if found <= left {
            return Ok(());
        }
        let waited = start.elapsed() > Duration::from_secs(10);
        ensure!(!waited, "{found} checkpoints are left where {left} are kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
