//! What writes: each reads the state of the chain, asks the rules of [`ChainState`], and has a
//! script write unless the state has changed; then it reads anew.
//!
//! [`ChainState`]: buttress::checkpoint::ChainState

use std::num::NonZeroU32;

use buttress::checkpoint::{
    ChainState, CheckpointKey, Lease, Namespace, Put, PutWrites, StoreError, TaskWrite, WorkflowId,
    WriteId, WriteKind,
};

use super::{
    RedisStore,
    connection::Call,
    error::{Failure, unavailable},
    keys,
    keys::Keys,
    scripts::{CHANGED, DONE, USED},
    state::{self, Seen},
};
use crate::record::{Body, Entry, Record};

/// How often a writer reads anew while others write.
const ATTEMPTS: usize = 1000;

/// A write of a task: its name, whether the first one of that name stands, and its record.
pub(super) type Encoded = (Vec<u8>, bool, Vec<u8>);

/// Time in seconds and microseconds, and the states by namespace, one behind the other.
type States = (u64, u64, Vec<Vec<u8>>);

// ===== impl RedisStore =====

impl RedisStore {
    pub(super) async fn put_once(&self, put: &Put, body: &Body) -> Result<u64, Failure> {
        let keys = self.keys(&put.key);
        let write_id = put.write_id.to_string();
        for _ in 0..ATTEMPTS {
            let mut seen = self.see(&put.key, 0, &write_id).await?;
            let was_empty = seen.state.head.is_none();
            let mut admitted = seen.state.admit_put(put, seen.now);
            if admitted.as_ref().is_err_and(StoreError::is_conflict) {
                if let Some(sequence) = self.repeated(put, seen.written).await? {
                    return Ok(sequence);
                }
                self.forget_damaged_head(&put.key, &mut seen).await?;
                admitted = seen.state.admit_put(put, seen.now);
            }
            let sequence = admitted?;
            if was_empty {
                self.announce(&put.key).await?;
            }
            match self.write_put(put, body, &keys, &seen, sequence).await? {
                DONE => return Ok(sequence),
                USED => {
                    if let Some(sequence) = self.repeated(put, seen.written).await? {
                        return Ok(sequence);
                    }
                    return Err(StoreError::conflict(put.parent, seen.state.head).into());
                }
                _ => {}
            }
        }
        Err(unavailable("others write to the chain all the time"))
    }

    /// Returns the sequence of what the same put has stored before.
    async fn repeated(&self, put: &Put, written: Option<u64>) -> Result<Option<u64>, Failure> {
        let Some(written) = written else { return Ok(None) };
        match self.get_once(&put.key, written).await {
            Ok(stored) => Ok(stored.filter(|stored| put.is_repeat_of(stored)).map(|_| written)),
            Err(failure) if failure.error.is_unavailable() => Err(failure),
            // What cannot be read is not known to be the same.
            Err(_) => Ok(None),
        }
    }

    /// Takes the newest checkpoint that can be read for the head, as readers do: or nobody could
    /// ever write behind one that is damaged.
    async fn forget_damaged_head(
        &self,
        key: &CheckpointKey,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        if seen.state.head.is_none() {
            return Ok(());
        }
        match self.newest(key).await {
            Ok(newest) => {
                seen.state.head = newest.map(|newest| newest.sequence);
                Ok(())
            }
            Err(failure) if failure.error.is_unavailable() => Err(failure),
            Err(_) => Ok(()),
        }
    }

    /// Puts a chain into the index, before it has a checkpoint: a crash behind it loses none.
    async fn announce(&self, key: &CheckpointKey) -> Result<(), Failure> {
        let mut command = redis::cmd("ZADD");
        command.arg(keys::index(&self.0.prefix)).arg(0).arg(keys::listed(key));
        self.0.link.run::<redis::Value>(&command).await?;
        Ok(())
    }

    async fn write_put(
        &self,
        put: &Put,
        body: &Body,
        keys: &Keys,
        seen: &Seen,
        sequence: u64,
    ) -> Result<u8, Failure> {
        let mut next = seen.state.clone();
        (next.last, next.head) = (sequence, Some(sequence));
        let record = Record::of_put(put, sequence, ChainState::default()).encode(body).await?;
        let call = Call::new(&self.0.scripts.put, &[&keys.chains, &keys.index, &keys.data])
            .arg(put.key.namespace.as_str())
            .arg(&seen.text)
            .arg(state::write(&put.key, &next)?)
            .arg(keys::sequence(sequence))
            .arg(put.write_id.to_string())
            .arg(record)
            .arg(self.0.capabilities.kept.map_or(0, NonZeroU32::get));
        self.0.link.call(&call).await
    }

    pub(super) async fn put_writes_once(
        &self,
        writes: &PutWrites,
        encoded: &[Encoded],
    ) -> Result<(), Failure> {
        let keys = self.keys(&writes.key);
        for _ in 0..ATTEMPTS {
            let mut seen = self.see(&writes.key, writes.sequence, "").await?;
            let exists = seen.exists;
            if seen.state.head != Some(writes.sequence) {
                self.forget_damaged_head(&writes.key, &mut seen).await?;
            }
            seen.state.admit_writes(writes, || exists, seen.now)?;
            let mut call =
                Call::new(&self.0.scripts.put_writes, &[&keys.chains, &keys.index, &keys.data])
                    .arg(writes.key.namespace.as_str())
                    .arg(&seen.text)
                    .arg(keys::sequence(writes.sequence));
            for (name, first_stands, record) in encoded {
                call = call.arg(name).arg(u8::from(*first_stands)).arg(record);
            }
            if self.0.link.call::<u8>(&call).await? != CHANGED {
                return Ok(());
            }
        }
        Err(unavailable("others write to the chain all the time"))
    }

    /// Writes the lease that the rules give out, or that nobody holds it any more.
    pub(super) async fn lease_once(
        &self,
        key: &CheckpointKey,
        is_held: bool,
        rule: impl Fn(&Seen) -> Result<Lease, StoreError>,
    ) -> Result<Lease, Failure> {
        let chains = keys::chains(&self.0.prefix, &key.workflow_id);
        for _ in 0..ATTEMPTS {
            let seen = self.see(key, 0, "").await?;
            let lease = rule(&seen)?;
            let mut next = seen.state;
            next.token = lease.token;
            next.holder = is_held.then(|| (lease.owner.clone(), lease.until));
            let call = Call::new(&self.0.scripts.lease, &[&chains])
                .arg(key.namespace.as_str())
                .arg(&seen.text)
                .arg(state::write(key, &next)?);
            if self.0.link.call::<u8>(&call).await? != CHANGED {
                return Ok(lease);
            }
        }
        Err(unavailable("others write to the chain all the time"))
    }

    pub(super) async fn delete_once(
        &self,
        id: &WorkflowId,
        lease: Option<&Lease>,
    ) -> Result<(), Failure> {
        let chains = keys::chains(&self.0.prefix, id);
        for _ in 0..ATTEMPTS {
            let call = Call::new(&self.0.scripts.states, &[&chains]);
            let (seconds, micros, states): States = self.0.link.call(&call).await?;
            let now = self.now(seconds, micros);
            let mut keys = vec![chains.clone()];
            let mut changes = Vec::new();
            for pair in states.chunks_exact(2) {
                let key = self.chain_of(id, &pair[0], &chains)?;
                let mut state = state::read(&key, &pair[1], &chains)?;
                state.delete(&key, lease, now)?;
                (state.head, state.holder) = (None, None);
                changes.extend([pair[0].clone(), pair[1].clone(), state::write(&key, &state)?]);
                let own = self.keys(&key);
                keys.extend([own.index, own.data]);
            }
            if changes.is_empty() {
                return Ok(());
            }
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let call = Call::new(&self.0.scripts.delete, &keys).arg(changes);
            // A repeat could delete what somebody has written since.
            if self.0.link.call::<u8>(&call).await.map_err(Failure::at_last)? != CHANGED {
                return Ok(());
            }
        }
        Err(unavailable("others write to the workflow all the time"))
    }

    fn chain_of(
        &self,
        id: &WorkflowId,
        namespace: &[u8],
        place: &str,
    ) -> Result<CheckpointKey, StoreError> {
        let namespace = str::from_utf8(namespace).ok().and_then(|name| Namespace::new(name).ok());
        let namespace = namespace
            .ok_or_else(|| StoreError::corrupt("a namespace cannot be one", place.to_owned()))?;
        Ok(CheckpointKey::new(id.clone()).in_namespace(namespace))
    }

    pub(super) async fn prune_once(
        &self,
        key: &CheckpointKey,
        keep: NonZeroU32,
    ) -> Result<u64, Failure> {
        let keys = self.keys(key);
        let call = Call::new(&self.0.scripts.prune, &[&keys.index, &keys.data]).arg(keep.get());
        // A repeat would not count what went the first time.
        self.0.link.call(&call).await.map_err(Failure::at_last)
    }
}

/// Encodes writes of tasks, each as a record of its own.
pub(super) async fn encode(writes: &PutWrites) -> Result<Vec<Encoded>, StoreError> {
    let mut encoded = Vec::with_capacity(writes.writes.len());
    for write in &writes.writes {
        let one = vec![write.clone()];
        let body = Body::of_writes(&one).await?;
        let record = Record {
            key: writes.key.clone(),
            sequence: writes.sequence,
            id: WriteId::random(),
            chain: ChainState::default(),
            before: Vec::new(),
            floor: 0,
            entry: Entry::Writes(writes.sequence, one),
        };
        let first_stands = write.kind == WriteKind::Result;
        encoded.push((name(write), first_stands, record.encode(&body).await?));
    }
    Ok(encoded)
}

/// Returns what only one write of a checkpoint is called.
fn name(write: &TaskWrite) -> Vec<u8> {
    format!("{}/{}/{}", write.kind.as_str(), write.index, write.task).into_bytes()
}
