//! Chains that cases write and look at.

use buttress::{
    Checkpoint, CheckpointKey, CheckpointStore, Namespace, WorkflowId,
    checkpoint::{Page, Put, TaskWrite, WriteKind},
};

use super::check::{Checked, ensure, ensure_eq, fail};

/// A name that the suite knows to be one.
pub(super) fn id(name: &str) -> WorkflowId {
    WorkflowId::new(name).expect("the suite's names are ids")
}

/// The chain of a workflow itself.
pub(super) fn key(name: &str) -> CheckpointKey {
    id(name).into()
}

/// The chain of a part of a workflow.
pub(super) fn part(name: &str, namespace: &str) -> CheckpointKey {
    let namespace = Namespace::new(namespace).expect("the suite's names are namespaces");
    key(name).in_namespace(namespace)
}

/// A state that tells which one it is and where it was cut or mixed.
pub(super) fn state(number: u64, size: usize) -> Vec<u8> {
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut state: Vec<u8> = seed.iter().copied().cycle().take(size).collect();
    for (at, byte) in state.iter_mut().enumerate().skip(8).step_by(61) {
        *byte ^= u8::try_from(at / 61 % 251).unwrap_or_default();
    }
    state
}

/// Appends a small state behind `parent`.
pub(super) async fn append(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    parent: Option<u64>,
    number: u64,
) -> Checked<u64> {
    let put = Put::new(key.clone(), parent, state(number, 64)).phase(format!("phase {number}"));
    Ok(store.put(put).await?)
}

/// Appends `count` checkpoints to a new chain and returns their sequences.
pub(super) async fn fill(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    count: u64,
) -> Checked<Vec<u64>> {
    let mut sequences = Vec::new();
    for number in 1..=count {
        sequences.push(append(store, key, sequences.last().copied(), number).await?);
    }
    Ok(sequences)
}

/// Returns the newest checkpoint, which must be there.
pub(super) async fn head(store: &impl CheckpointStore, key: &CheckpointKey) -> Checked<Checkpoint> {
    store.latest(key).await?.ok_or_else(|| fail(format!("{key}: latest finds no checkpoint")))
}

/// Returns one checkpoint, which must be there.
pub(super) async fn at(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    sequence: u64,
) -> Checked<Checkpoint> {
    let found = store.get(key, sequence).await?;
    found.ok_or_else(|| fail(format!("{key}: get finds no checkpoint {sequence}")))
}

/// Returns all checkpoints of a chain, newest first.
pub(super) async fn history(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
) -> Checked<Vec<Checkpoint>> {
    Ok(store.history(key, Page::newest(100_000)).await?)
}

/// Fails where a chain is not one: each checkpoint has to follow the one before.
pub(super) fn ensure_linear(newest_first: &[Checkpoint]) -> Checked {
    for pair in newest_first.windows(2) {
        let (newer, older) = (&pair[0], &pair[1]);
        ensure!(
            newer.sequence > older.sequence,
            "history is not newest first: {} stands before {}",
            newer.sequence,
            older.sequence
        );
        ensure_eq!(newer.parent, Some(older.sequence), "parent of {}", newer.sequence);
    }
    Ok(())
}

/// Fails where a head is not the one that is named.
pub(super) async fn ensure_head(
    store: &impl CheckpointStore,
    key: &CheckpointKey,
    sequence: Option<u64>,
    after: &str,
) -> Checked {
    let found = store.latest(key).await?.map(|head| head.sequence);
    ensure_eq!(found, sequence, "{key}: head after {after}");
    Ok(())
}

/// A result of a task.
pub(super) fn result(task: &str, index: u32, value: &str) -> TaskWrite {
    write(task, WriteKind::Result, index, value)
}

/// Something a task says.
pub(super) fn write(task: &str, kind: WriteKind, index: u32, value: &str) -> TaskWrite {
    TaskWrite::new(task, kind, index, value.as_bytes())
}

/// Shows writes as text, one each.
pub(super) fn shown(writes: &[TaskWrite]) -> Vec<String> {
    let show = |write: &TaskWrite| {
        let value = String::from_utf8_lossy(&write.value);
        format!("{} {} {} {value}", write.task, write.kind.as_str(), write.index)
    };
    writes.iter().map(show).collect()
}
