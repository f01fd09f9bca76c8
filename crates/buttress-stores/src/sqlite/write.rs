//! What is done in transactions, each by the rules of its chain.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointKey, Namespace, StoreError, WorkflowId,
    checkpoint::{ChainState, Lease, Put, PutWrites},
};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{error::Problem, row};

pub(super) fn put(
    tx: &Connection,
    put: Put,
    keep: Option<NonZeroU32>,
    now: SystemTime,
) -> Result<u64, Problem> {
    let mut state = row::chain(tx, &put.key)?.unwrap_or_default();
    let sequence = match state.admit_put(&put, now) {
        Ok(sequence) => sequence,
        Err(error) => return repeated(tx, &put, error),
    };
    let write_id = put.write_id;
    let checkpoint = put.into_checkpoint(sequence);
    row::save_record(tx, &checkpoint, write_id)?;
    state.last = sequence;
    state.head = Some(sequence);
    row::save_chain(tx, &checkpoint.key, &state)?;
    if let Some(keep) = keep {
        prune(tx, &checkpoint.key, keep)?;
    }
    Ok(sequence)
}

/// Answers a put that was refused: a repeat of one that is stored is as good as stored.
fn repeated(tx: &Connection, put: &Put, error: StoreError) -> Result<u64, Problem> {
    if !error.is_conflict() {
        return Err(error.into());
    }
    // The newest first, since a repeat comes soon.
    let sql = format!(
        "SELECT {} FROM records WHERE workflow = ?1 AND namespace = ?2 AND write_id = ?3
        ORDER BY sequence DESC",
        row::RECORD
    );
    let [workflow, namespace] = row::of(&put.key);
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![workflow, namespace, put.write_id.to_string()])?;
    while let Some(found) = rows.next()? {
        let stored = row::record(&put.key, found)?;
        if put.is_repeat_of(&stored) {
            return Ok(stored.sequence);
        }
    }
    Err(error.into())
}

pub(super) fn put_writes(
    tx: &Connection,
    writes: &PutWrites,
    now: SystemTime,
) -> Result<(), Problem> {
    let state = row::chain(tx, &writes.key)?.unwrap_or_default();
    let exists = exists(tx, &writes.key, writes.sequence)?;
    state.admit_writes(writes, || exists, now)?;
    for write in &writes.writes {
        row::save_write(tx, &writes.key, writes.sequence, write)?;
    }
    Ok(())
}

fn exists(tx: &Connection, key: &CheckpointKey, sequence: u64) -> Result<bool, Problem> {
    let Ok(sequence) = i64::try_from(sequence) else { return Ok(false) };
    let sql = "SELECT 1 FROM records WHERE workflow = ?1 AND namespace = ?2 AND sequence = ?3";
    let [workflow, namespace] = row::of(key);
    Ok(tx.prepare_cached(sql)?.exists(params![workflow, namespace, sequence])?)
}

pub(super) fn acquire(
    tx: &Connection,
    key: &CheckpointKey,
    owner: &str,
    time: Duration,
    now: SystemTime,
) -> Result<Lease, Problem> {
    let mut state = row::chain(tx, key)?.unwrap_or_default();
    let lease = state.acquire(key, owner, time, now)?;
    state.token = lease.token;
    hold(tx, state, lease)
}

pub(super) fn renew(
    tx: &Connection,
    lease: &Lease,
    time: Duration,
    now: SystemTime,
) -> Result<Lease, Problem> {
    let state = row::chain(tx, &lease.key)?.unwrap_or_default();
    let lease = state.renew(lease, time, now)?;
    hold(tx, state, lease)
}

fn hold(tx: &Connection, mut state: ChainState, lease: Lease) -> Result<Lease, Problem> {
    state.holder = Some((lease.owner.clone(), lease.until));
    row::save_chain(tx, &lease.key, &state)?;
    Ok(lease)
}

pub(super) fn release(tx: &Connection, lease: &Lease) -> Result<(), Problem> {
    let mut state = row::chain(tx, &lease.key)?.unwrap_or_default();
    state.release(lease)?;
    state.holder = None;
    row::save_chain(tx, &lease.key, &state)
}

pub(super) fn delete(
    tx: &Connection,
    id: &WorkflowId,
    lease: Option<&Lease>,
    now: SystemTime,
) -> Result<(), Problem> {
    for namespace in namespaces(tx, id)? {
        let namespace = Namespace::new(namespace)
            .map_err(|_| Problem::corrupt("the name of a chain is none"))?;
        let key = CheckpointKey::new(id.clone()).in_namespace(namespace);
        let mut state = row::chain(tx, &key)?.unwrap_or_default();
        state.delete(&key, lease, now)?;
        state.head = None;
        state.holder = None;
        row::save_chain(tx, &key, &state)?;
    }
    for sql in ["DELETE FROM records WHERE workflow = ?1", "DELETE FROM writes WHERE workflow = ?1"]
    {
        tx.prepare_cached(sql)?.execute([id.as_str()])?;
    }
    Ok(())
}

fn namespaces(tx: &Connection, id: &WorkflowId) -> Result<Vec<String>, Problem> {
    let mut statement = tx.prepare_cached("SELECT namespace FROM chains WHERE workflow = ?1")?;
    let names = statement.query_map([id.as_str()], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// Deletes all but the newest checkpoints of a chain, with their writes.
pub(super) fn prune(
    tx: &Connection,
    key: &CheckpointKey,
    keep: NonZeroU32,
) -> Result<u64, Problem> {
    let [workflow, namespace] = row::of(key);
    let sql = "SELECT sequence FROM records WHERE workflow = ?1 AND namespace = ?2
        ORDER BY sequence DESC LIMIT 1 OFFSET ?3";
    let mut statement = tx.prepare_cached(sql)?;
    let newest = statement.query_row(params![workflow, namespace, keep.get()], |row| row.get(0));
    let Some(newest) = newest.optional()? else { return Ok(0) };
    let mut pruned = 0;
    for sql in [
        "DELETE FROM writes WHERE workflow = ?1 AND namespace = ?2 AND sequence <= ?3",
        "DELETE FROM records WHERE workflow = ?1 AND namespace = ?2 AND sequence <= ?3",
    ] {
        let bound: i64 = newest;
        pruned = tx.prepare_cached(sql)?.execute(params![workflow, namespace, bound])?;
    }
    Ok(pruned as u64)
}
