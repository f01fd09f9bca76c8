//! Cases 23 to 30: what tasks say before the step's checkpoint is there.

use std::sync::Arc;

use buttress::{
    CheckpointStore,
    checkpoint::{PutWrites, Query, WriteKind},
};
use tokio::task::JoinSet;

use super::{
    Harness,
    chain::{append, at, head, history, key, part, result, shown, write},
    check::{Checked, conflict, ensure, ensure_eq, fail, not_found},
    fixture::Fixture,
};

/// Case 23.
pub(super) async fn in_order<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let (own, child) = (key("writes"), part("writes", "child"));
    let sequence = append(&store, &own, None, 1).await?;
    let of_child = append(&store, &child, None, 1).await?;
    let mut writes = vec![result("b", 1, "4"), result("b", 0, "3"), result("a", 10, "2")];
    store.put_writes(PutWrites::new(own.clone(), sequence, writes.split_off(1))).await?;
    writes.push(result("a", 2, "1"));
    writes.push(result("A", 2, "0"));
    store.put_writes(PutWrites::new(own.clone(), sequence, writes)).await?;
    let other = vec![result("a", 2, "child")];
    store.put_writes(PutWrites::new(child.clone(), of_child, other)).await?;
    let expected =
        ["A result 2 0", "a result 2 1", "a result 10 2", "b result 0 3", "b result 1 4"];
    let found = at(&store, &own, sequence).await?;
    ensure_eq!(shown(&found.writes), expected, "writes by get");
    ensure_eq!(head(&store, &own).await?, found, "what latest finds");
    ensure_eq!(history(&store, &own).await?.first(), Some(&found), "what history finds");
    let listed = store.list(Query::first(1)).await?;
    ensure_eq!(listed.first(), Some(&found), "what list finds");
    let found = head(&store, &child).await?;
    ensure_eq!(shown(&found.writes), ["a result 2 child"], "writes of the other namespace");
    Ok(())
}

/// Case 24.
pub(super) async fn which_stands<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("stands");
    let sequence = append(&store, &key, None, 1).await?;
    let all = [
        WriteKind::Result,
        WriteKind::Error,
        WriteKind::Interrupt,
        WriteKind::Resume,
        WriteKind::Route,
    ];
    for value in ["first", "second"] {
        let writes = all.iter().map(|kind| write("task", *kind, 0, value)).collect();
        store.put_writes(PutWrites::new(key.clone(), sequence, writes)).await?;
    }
    let twice = vec![result("task", 1, "first"), result("task", 1, "second")];
    store.put_writes(PutWrites::new(key.clone(), sequence, twice)).await?;
    let expected = [
        "task result 0 first",
        "task result 1 first",
        "task error 0 second",
        "task interrupt 0 second",
        "task resume 0 second",
        "task route 0 second",
    ];
    ensure_eq!(shown(&head(&store, &key).await?.writes), expected, "writes");
    Ok(())
}

/// Case 25.
pub(super) async fn side_by_side<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("side");
    let mut parent = None;
    for round in 0..fx.rounds.of_thousand() {
        let sequence = append(&store, &key, parent, 1).await?;
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let writes = vec![result(&format!("task {task}"), 0, &round.to_string())];
            let writes = PutWrites::new(key.clone(), sequence, writes);
            let store = Arc::clone(&store);
            tasks.spawn(async move { store.put_writes(writes).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| fail(format!("writing panicked: {error}")))??;
        }
        let found = shown(&head(&store, &key).await?.writes);
        let expected: Vec<_> = (0..8).map(|task| format!("task {task} result 0 {round}")).collect();
        ensure_eq!(found, expected, "round {round}: writes of 8 tasks");
        parent = Some(sequence);
    }
    Ok(())
}

/// Case 26.
pub(super) async fn belong_to_their_checkpoint<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("belong");
    let first = append(&store, &key, None, 1).await?;
    let writes = || vec![result("task", 0, "of the first")];
    store.put_writes(PutWrites::new(key.clone(), first, writes())).await?;
    let second = append(&store, &key, Some(first), 2).await?;
    let found = head(&store, &key).await?;
    ensure!(found.writes.is_empty(), "writes show at the next checkpoint");
    let late = store.put_writes(PutWrites::new(key.clone(), first, writes())).await;
    conflict(late, Some(second), "writes to a checkpoint that is not the head")?;
    let found = at(&store, &key, first).await?;
    ensure_eq!(shown(&found.writes), ["task result 0 of the first"], "writes of the first");
    Ok(())
}

/// Case 27.
pub(super) async fn to_nothing<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("nothing");
    let writes = |sequence| PutWrites::new(key.clone(), sequence, vec![result("task", 0, "lost")]);
    not_found(store.put_writes(writes(1)).await, "writes to a chain that is not there")?;
    ensure!(store.list(Query::first(1)).await?.is_empty(), "writes alone made a chain");
    let sequence = append(&store, &key, None, 1).await?;
    let beside = store.put_writes(writes(sequence + 1)).await;
    not_found(beside, "writes to a checkpoint that is not there")?;
    let next = append(&store, &key, Some(sequence), 2).await?;
    let found = at(&store, &key, next).await?;
    ensure!(found.writes.is_empty(), "writes that were refused show at a later checkpoint");
    Ok(())
}

/// Case 28.
pub(super) async fn outlive_the_handle<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("outlive");
    let sequence = append(&store, &key, None, 1).await?;
    let writes = vec![result("done", 0, "yes")];
    store.put_writes(PutWrites::new(key.clone(), sequence, writes)).await?;
    let reopened = fx.reopen(&store).await?;
    drop(store);
    let found = head(&reopened, &key).await?;
    ensure_eq!(shown(&found.writes), ["done result 0 yes"], "writes after opening again");
    append(&reopened, &key, Some(sequence), 2).await?;
    Ok(())
}

/// Case 29.
pub(super) async fn failed_task<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("failed");
    let sequence = append(&store, &key, None, 1).await?;
    let done = vec![result("sibling", 0, "done")];
    store.put_writes(PutWrites::new(key.clone(), sequence, done)).await?;
    let failed = vec![write("failing", WriteKind::Error, 0, "attempt 1: no answer")];
    store.put_writes(PutWrites::new(key.clone(), sequence, failed)).await?;
    let found = head(&store, &key).await?;
    let expected = ["failing error 0 attempt 1: no answer", "sibling result 0 done"];
    ensure_eq!(shown(&found.writes), expected, "a failed task beside one that is done");
    Ok(())
}

/// Case 30.
pub(super) async fn route<H: Harness>(fx: &Fixture<'_, H>) -> Checked {
    let store = fx.open().await;
    let key = key("route");
    let sequence = append(&store, &key, None, 1).await?;
    let done = vec![result("node", 0, "state")];
    store.put_writes(PutWrites::new(key.clone(), sequence, done)).await?;
    let pending = shown(&head(&store, &key).await?.writes);
    ensure_eq!(pending, ["node result 0 state"], "done, and its route pending");
    let routed = vec![write("node", WriteKind::Route, 0, "next")];
    store.put_writes(PutWrites::new(key.clone(), sequence, routed)).await?;
    let routed = shown(&head(&store, &key).await?.writes);
    ensure_eq!(routed, ["node result 0 state", "node route 0 next"], "done and routed");
    Ok(())
}
