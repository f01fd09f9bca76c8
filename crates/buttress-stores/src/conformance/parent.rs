//! Cases 13 to 17: the expected parent, and repeats.

use std::sync::Arc;

use buttress::{
    CheckpointKey, CheckpointStore, StoreError,
    checkpoint::{Put, WriteId},
};
use tokio::task::JoinSet;

use super::{
    Harness,
    chain::{append, ensure_head, ensure_linear, fill, head, history, key, state},
    check::{Checked, conflict, ensure, ensure_eq, fail},
    fixture::Fixture,
};

/// Case 13.
pub(super) async fn old_parent<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("parent");
    let sequences = fill(&store, &key, 3).await?;
    let newest = sequences[2];
    for parent in [sequences[0], sequences[1], newest + 1, newest + 1000] {
        let put = Put::new(key.clone(), Some(parent), state(9, 8));
        let what = format!("a put behind {parent} where the head is {newest}");
        conflict(store.put(put).await, Some(newest), &what)?;
    }
    ensure_head(&store, &key, Some(newest), "puts that were refused").await?;
    let unchanged = history(&store, &key).await?;
    ensure!(unchanged.len() <= 3, "a put that was refused is in the history");
    append(&store, &key, Some(newest), 4).await?;
    let nobody = super::chain::key("nobody");
    let put = Put::new(nobody.clone(), Some(1), state(9, 8));
    conflict(store.put(put).await, None, "a put behind 1 to an empty chain")?;
    ensure_head(&store, &nobody, None, "a put that was refused").await
}

/// Case 14.
pub(super) async fn create_only<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("create");
    let sequence = append(&store, &key, None, 1).await?;
    let again = Put::new(key.clone(), None, state(1, 64));
    conflict(store.put(again).await, Some(sequence), "a put behind nothing")?;
    ensure_eq!(history(&store, &key).await?.len(), 1, "checkpoints after a refused put");
    Ok(())
}

/// Case 15.
pub(super) async fn repeat<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("repeat");
    let first = append(&store, &key, None, 1).await?;
    let put = Put::new(key.clone(), Some(first), state(2, 64)).phase("two").metadata("a", 0.1);
    let second = store.put(put.clone()).await?;
    ensure_eq!(store.put(put.clone()).await?, second, "answer to a repeat");
    let same_id = |state| {
        let other = Put::new(key.clone(), Some(first), state).phase("two").metadata("a", 0.1);
        other.write_id(put.write_id)
    };
    let mut later = same_id(state(2, 64));
    later.timestamp += std::time::Duration::from_secs(1);
    ensure_eq!(store.put(later).await?, second, "answer to a repeat with a later timestamp");
    let other = store.put(same_id(state(3, 64))).await;
    conflict(other, Some(second), "another state with the same write id")?;
    let other = store.put(same_id(state(2, 64)).phase("three")).await;
    conflict(other, Some(second), "another phase with the same write id")?;
    let new_id = put.clone().write_id(WriteId::random());
    conflict(store.put(new_id).await, Some(second), "the same state with a new write id")?;
    let third = append(&store, &key, Some(second), 3).await?;
    ensure_eq!(store.put(put).await?, second, "answer to a repeat when one more has come");
    ensure_head(&store, &key, Some(third), "a repeat").await?;
    ensure_eq!(history(&store, &key).await?.len(), 3, "checkpoints after repeats");
    Ok(())
}

/// Case 16.
pub(super) async fn race_of_tasks<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    race(fx, &[Arc::clone(&store)], 2).await?;
    race(fx, &[store], 16).await
}

/// Case 17.
pub(super) async fn race_of_handles<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let first = fx.open().await;
    let second = fx.reopen(&first).await?;
    let handles = [first, second];
    race(fx, &handles, 2).await?;
    race(fx, &handles, 16).await
}

async fn race<H: Harness>(fx: &Fixture<'_, H>, handles: &[Arc<H::Store>], tasks: usize) -> Checked {
    let key = key(&format!("race of {tasks}"));
    let mut parent = None;
    for round in 0..fx.rounds.of_thousand() {
        let (won, number) = round_of(handles, tasks, &key, parent).await?;
        ensure!(Some(won) > parent, "round {round}: {won} won behind {parent:?}");
        for store in handles {
            let found = head(store, &key).await?;
            ensure_eq!(found.sequence, won, "round {round}: head");
            ensure_eq!(found.parent, parent, "round {round}: parent of the head");
            let whole = found.state[..] == state(number, 256)[..];
            ensure!(whole, "round {round}: the head is not the winner's");
        }
        parent = Some(won);
    }
    let chain = history(&handles[0], &key).await?;
    let rounds = fx.rounds.of_thousand();
    let kept =
        handles[0].capabilities().kept.map_or(rounds, |kept| rounds.min(kept.get() as usize));
    ensure!(chain.len() >= kept, "{} of {kept} checkpoints are left", chain.len());
    ensure_linear(&chain)
}

/// Lets tasks put behind one parent and returns the winner's sequence and number.
async fn round_of<S: CheckpointStore>(
    handles: &[Arc<S>],
    tasks: usize,
    key: &CheckpointKey,
    parent: Option<u64>,
) -> Checked<(u64, u64)> {
    let mut racing = JoinSet::new();
    for (number, store) in (0..).zip(handles.iter().cycle().take(tasks)) {
        let put = Put::new(key.clone(), parent, state(number, 256));
        let store = Arc::clone(store);
        racing.spawn(async move { (number, store.put(put).await) });
    }
    let mut won = Vec::new();
    while let Some(done) = racing.join_next().await {
        let (number, answer) = done.map_err(|error| fail(format!("a put panicked: {error}")))?;
        match answer {
            Ok(sequence) => won.push((sequence, number)),
            Err(error) => ensure_lost(&error)?,
        }
    }
    match won[..] {
        [winner] => Ok(winner),
        _ => Err(fail(format!("{} of {tasks} puts behind {parent:?} won: {won:?}", won.len()))),
    }
}

fn ensure_lost(error: &StoreError) -> Checked {
    ensure!(error.is_conflict(), "who loses a race gets: {error}");
    Ok(())
}
