use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Capabilities, ChainState, Checkpoint, CheckpointKey, CheckpointStore, Clock, Durable, Lease,
    Page, Place, Put, PutWrites, Query, StoreError, WorkflowId, WriteId,
};

/// Keeps checkpoints in memory: for tests, and for memos that need not outlive the process.
///
/// Clones share them.
///
/// # Defaults
///
/// - `keep`: all of a chain
/// - `max_state`: 64 MiB
/// - `clock`: the system's
#[derive(Clone)]
#[must_use]
pub struct MemoryStore {
    chains: Arc<Mutex<BTreeMap<CheckpointKey, Chain>>>,
    capabilities: Capabilities,
    clock: Clock,
}

#[derive(Default)]
struct Chain {
    state: ChainState,
    checkpoints: BTreeMap<u64, (WriteId, Checkpoint)>,
}

// ===== impl MemoryStore =====

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self {
            chains: Arc::default(),
            capabilities: Capabilities::new(Durable::No),
            clock: Clock::SYSTEM,
        }
    }

    /// Sets how many checkpoints of a chain stay.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn keep(mut self, checkpoints: u32) -> Self {
        let keep = NonZeroU32::new(checkpoints).expect("at least one checkpoint is kept");
        self.capabilities = self.capabilities.kept(Some(keep));
        self
    }

    /// Sets the largest state in bytes.
    pub const fn max_state(mut self, bytes: u64) -> Self {
        self.capabilities = self.capabilities.max_state(bytes);
        self
    }

    /// Sets the clock that leases are measured by.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// A panic while it is locked is one of the allocator's: what is stored is whole.
    fn chains(&self) -> MutexGuard<'_, BTreeMap<CheckpointKey, Chain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("chains", &self.chains().len())
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore for MemoryStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.capabilities.admit(&put.key, &put.state)?;
        let mut chains = self.chains();
        let chain = chains.entry(put.key.clone()).or_default();
        let sequence = match chain.state.admit_put(&put, self.clock.now()) {
            Ok(sequence) => sequence,
            Err(error) => return chain.repeated(&put, error),
        };
        chain.state.last = sequence;
        chain.state.head = Some(sequence);
        chain.checkpoints.insert(sequence, (put.write_id, put.into_checkpoint(sequence)));
        if let Some(keep) = self.capabilities.kept {
            chain.prune(keep);
        }
        Ok(sequence)
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.chains().get(key).and_then(Chain::head).cloned())
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let chains = self.chains();
        let stored = chains.get(key).and_then(|chain| chain.checkpoints.get(&sequence));
        Ok(stored.map(|(_, checkpoint)| checkpoint.clone()))
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let chains = self.chains();
        let Some(chain) = chains.get(key) else { return Ok(Vec::new()) };
        let newest_first = chain.checkpoints.range(..page.before.unwrap_or(u64::MAX)).rev();
        Ok(newest_first.take(page.limit).map(|(_, (_, found))| found.clone()).collect())
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        let chains = self.chains();
        let from = query.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let heads = chains.range((from, Bound::Unbounded)).filter_map(|(_, chain)| chain.head());
        Ok(heads.filter(|head| query.matches(head)).take(query.limit).cloned().collect())
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        for write in &writes.writes {
            self.capabilities.admit(&writes.key, &write.value)?;
        }
        let mut chains = self.chains();
        let Some(chain) = chains.get_mut(&writes.key) else {
            return Err(StoreError::not_found().in_chain(&writes.key).at_sequence(writes.sequence));
        };
        let exists = || chain.checkpoints.contains_key(&writes.sequence);
        chain.state.admit_writes(&writes, exists, self.clock.now())?;
        if let Some((_, checkpoint)) = chain.checkpoints.get_mut(&writes.sequence) {
            for write in writes.writes {
                write.add_to(&mut checkpoint.writes);
            }
        }
        Ok(())
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let mut chains = self.chains();
        let state = &mut chains.entry(key.clone()).or_default().state;
        let lease = state.acquire(key, owner, time, self.clock.now())?;
        state.token = lease.token;
        state.holder = Some((lease.owner.clone(), lease.until));
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        let mut chains = self.chains();
        let state = &mut chains.entry(lease.key.clone()).or_default().state;
        let lease = state.renew(lease, time, self.clock.now())?;
        state.holder = Some((lease.owner.clone(), lease.until));
        Ok(lease)
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut chains = self.chains();
        let state = &mut chains.entry(lease.key.clone()).or_default().state;
        state.release(lease)?;
        state.holder = None;
        Ok(())
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let mut chains = self.chains();
        let now = self.clock.now();
        let first = CheckpointKey::new(id.clone());
        let of_workflow = || Bound::Included(&first);
        let own = chains.range((of_workflow(), Bound::Unbounded));
        for (key, chain) in own.take_while(|(key, _)| key.workflow_id == *id) {
            chain.state.delete(key, lease, now)?;
        }
        let own = chains.range_mut((of_workflow(), Bound::Unbounded));
        for (_, chain) in own.take_while(|(key, _)| key.workflow_id == *id) {
            chain.checkpoints.clear();
            chain.state.head = None;
            chain.state.holder = None;
        }
        Ok(())
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        Ok(self.chains().get_mut(key).map_or(0, |chain| chain.prune(keep)))
    }

    fn place(&self, _: &CheckpointKey, _: u64) -> Place {
        Place::Memory(Arc::as_ptr(&self.chains).addr())
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

// ===== impl Chain =====

impl Chain {
    fn head(&self) -> Option<&Checkpoint> {
        let (_, head) = self.checkpoints.get(&self.state.head?)?;
        Some(head)
    }

    /// Answers a put that was refused: a repeat of one that is stored is as good as stored.
    fn repeated(&self, put: &Put, error: StoreError) -> Result<u64, StoreError> {
        let first = self.checkpoints.values().find(|(id, _)| *id == put.write_id);
        match first {
            Some((_, stored)) if error.is_conflict() && put.is_repeat_of(stored) => {
                Ok(stored.sequence)
            }
            _ => Err(error),
        }
    }

    fn prune(&mut self, keep: NonZeroU32) -> u64 {
        let mut pruned = 0;
        while self.checkpoints.len() > keep.get() as usize {
            self.checkpoints.pop_first();
            pruned += 1;
        }
        pruned
    }
}
