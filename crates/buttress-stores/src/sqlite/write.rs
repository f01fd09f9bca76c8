//! What is done in transactions, each by the rules of its chain.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointKey, Namespace, StoreError, WorkflowId,
    checkpoint::{Lease, Put, PutWrites},
};
use rusqlite::{Connection, params};

use super::{
    error::Problem,
    read,
    row::{self, Chain, Number},
};

pub(super) fn put(
    tx: &Connection,
    put: Put,
    keep: Option<NonZeroU32>,
    now: SystemTime,
) -> Result<u64, Problem> {
    let mut chain = chain(tx, &put.key)?;
    let mut admitted = chain.state.admit_put(&put, now);
    if admitted.as_ref().is_err_and(StoreError::is_conflict) {
        if let Some(sequence) = repeated(tx, &put)? {
            return Ok(sequence);
        }
        forget_damaged_head(tx, &put.key, &mut chain)?;
        admitted = chain.state.admit_put(&put, now);
    }
    let sequence = admitted?;
    let write_id = put.write_id;
    let checkpoint = put.into_checkpoint(sequence);
    row::save_record(tx, &checkpoint, write_id)?;
    chain.state.last = sequence;
    chain.state.head = Some(sequence);
    chain.first = chain.first.or(Some(sequence));
    if let Some(keep) = keep {
        cut(tx, &checkpoint.key, &mut chain, keep)?;
    }
    row::save_chain(tx, &checkpoint.key, &chain)?;
    Ok(sequence)
}

/// Reads what is known of a chain that is to be written.
fn chain(tx: &Connection, key: &CheckpointKey) -> Result<Chain, Problem> {
    match row::chain(tx, key)? {
        Some(chain) => Ok(chain),
        // Its tokens and its last sequence went with its row.
        None if has_records(tx, key)? => Err(Problem::corrupt("the row of the chain is missing")),
        None => Ok(Chain::default()),
    }
}

fn has_records(tx: &Connection, key: &CheckpointKey) -> Result<bool, Problem> {
    let sql = "SELECT 1 FROM records WHERE workflow = ?1 AND namespace = ?2 LIMIT 1";
    Ok(tx.prepare_cached(sql)?.exists(row::of(key))?)
}

/// Takes the newest checkpoint that can be read for the head, as readers do: or nobody could ever
/// write behind one that is damaged.
fn forget_damaged_head(
    tx: &Connection,
    key: &CheckpointKey,
    chain: &mut Chain,
) -> Result<(), Problem> {
    if chain.state.head.is_none() {
        return Ok(());
    }
    match read::newest_whole(tx, key) {
        Ok(newest) => chain.state.head = newest.map(|newest| newest.sequence),
        // None can be read: the head stays what it is.
        Err(problem) if problem.is_corrupt() => {}
        Err(problem) => return Err(problem),
    }
    Ok(())
}

/// Returns the sequence of what the same put has stored before.
fn repeated(tx: &Connection, put: &Put) -> Result<Option<u64>, Problem> {
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
        match row::record(&put.key, found) {
            Ok(stored) if put.is_repeat_of(&stored) => return Ok(Some(stored.sequence)),
            Ok(_) => {}
            // What cannot be read is not known to be the same.
            Err(problem) if problem.is_corrupt() => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(None)
}

pub(super) fn put_writes(
    tx: &Connection,
    writes: &PutWrites,
    now: SystemTime,
) -> Result<(), Problem> {
    let mut chain = chain(tx, &writes.key)?;
    let exists = exists(tx, &writes.key, writes.sequence)?;
    let mut admitted = chain.state.admit_writes(writes, || exists, now);
    if admitted.as_ref().is_err_and(StoreError::is_conflict) {
        forget_damaged_head(tx, &writes.key, &mut chain)?;
        admitted = chain.state.admit_writes(writes, || exists, now);
    }
    admitted?;
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
    let mut chain = chain(tx, key)?;
    let lease = chain.state.acquire(key, owner, time, now)?;
    chain.state.token = lease.token;
    hold(tx, chain, lease)
}

pub(super) fn renew(
    tx: &Connection,
    lease: &Lease,
    time: Duration,
    now: SystemTime,
) -> Result<Lease, Problem> {
    let chain = chain(tx, &lease.key)?;
    let lease = chain.state.renew(lease, time, now)?;
    hold(tx, chain, lease)
}

fn hold(tx: &Connection, mut chain: Chain, lease: Lease) -> Result<Lease, Problem> {
    chain.state.holder = Some((lease.owner.clone(), lease.until));
    row::save_chain(tx, &lease.key, &chain)?;
    Ok(lease)
}

pub(super) fn release(tx: &Connection, lease: &Lease) -> Result<(), Problem> {
    let mut chain = chain(tx, &lease.key)?;
    chain.state.release(lease)?;
    chain.state.holder = None;
    row::save_chain(tx, &lease.key, &chain)
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
        let mut chain = row::chain(tx, &key)?.unwrap_or_default();
        chain.state.delete(&key, lease, now)?;
        chain.state.head = None;
        chain.state.holder = None;
        chain.first = None;
        row::save_chain(tx, &key, &chain)?;
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

pub(super) fn prune(
    tx: &Connection,
    key: &CheckpointKey,
    keep: NonZeroU32,
) -> Result<u64, Problem> {
    let Some(mut chain) = row::chain(tx, key)? else { return Ok(0) };
    let pruned = cut(tx, key, &mut chain, keep)?;
    if pruned > 0 {
        row::save_chain(tx, key, &chain)?;
    }
    Ok(pruned)
}

/// Deletes all but the newest checkpoints of a chain, with their writes; its row is to be saved.
fn cut(
    tx: &Connection,
    key: &CheckpointKey,
    chain: &mut Chain,
    keep: NonZeroU32,
) -> Result<u64, Problem> {
    let (Some(first), Some(head)) = (chain.first, chain.state.head) else { return Ok(0) };
    // None is missing from the first to the head, so they need not be counted.
    let new_first = (head + 1).saturating_sub(keep.get().into());
    if new_first <= first {
        return Ok(0);
    }
    let [workflow, namespace] = row::of(key);
    for sql in [
        "DELETE FROM records WHERE workflow = ?1 AND namespace = ?2 AND sequence < ?3",
        "DELETE FROM writes WHERE workflow = ?1 AND namespace = ?2 AND sequence < ?3",
    ] {
        tx.prepare_cached(sql)?.execute(params![workflow, namespace, Number(new_first)])?;
    }
    chain.first = Some(new_first);
    Ok(new_first - first)
}
