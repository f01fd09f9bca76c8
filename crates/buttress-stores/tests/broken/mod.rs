//! Stores that break one promise each.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use buttress::{
    Checkpoint, CheckpointKey, CheckpointStore, MemoryStore, StoreError, StoreErrorKind,
    WorkflowId,
    checkpoint::{Capabilities, Lease, Metadata, Page, Payload, Put, PutWrites, Query, WriteKind},
};
use buttress_stores::conformance::{Harness, Options};

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    MakesChainsByReading,
    CutsLargeStates,
    CutsTimestamps,
    OrdersByTimestamp,
    AnswersOneTooMuch,
    FindsTheHeadOnly,
    LatestIsOneBehind,
    FoldsCase,
    DeletesByPrefix,
    ForgetsNamespaces,
    RoundsFloats,
    TakesAnySize,
    SharesMutableState,
    IgnoresParent,
    UpsertsByWriteId,
    RefusesRepeats,
    ChecksThenActs,
    ForgetsTokensAtDelete,
    TakesAnyToken,
    TakesNoTokenAlways,
    FreesLeasesEarly,
    NeverFreesLeases,
    RenewsNothing,
    SortsWritesByValue,
    LastResultStands,
    FirstOfAllKindsStands,
    LosesEighthWrite,
    MovesWritesOn,
    TakesWritesToNothing,
    ForgetsKinds,
    PagesInclusively,
    ListsByAge,
    ListsWithoutMetadata,
    ListsWithoutWrites,
    DeletesRootOnly,
    StartsAnew,
    PrunesOneTooMany,
    PruneBreaksOthers,
    PruneTakesHead,
    KeepsAll,
    ReopensEmpty,
    ReopensReadOnly,
    StaysLockedWhenDropped,
    WritesHalfWhenDropped,
    OneAtATimeSlowly,
    BlocksItsThread,
    ReadersWaitForWriters,
    AnonymousErrors,
    SaysRetryAlways,
    ShowsStates,
    Panics,
}

pub(crate) struct Broken {
    fault: Fault,
    inner: Mutex<MemoryStore>,
    /// What it says of itself, whatever it keeps to.
    claims: Capabilities,
    busy: AtomicBool,
    calls: AtomicUsize,
    running: AtomicUsize,
    pruned: AtomicBool,
    lock: Arc<tokio::sync::Mutex<()>>,
    read_only: bool,
}

pub(crate) struct Breaking(pub(crate) Fault);

impl Harness for Breaking {
    type Store = Broken;

    async fn open(&self, options: &Options) -> Broken {
        let mut kept_to = options.clone();
        match self.0 {
            Fault::KeepsAll => kept_to.keep = None,
            Fault::TakesAnySize => kept_to.max_state = u64::MAX,
            _ => {}
        }
        let mut store = Broken::new(self.0, memory(&kept_to));
        store.claims = memory(options).capabilities();
        store
    }

    async fn reopen(&self, store: &Broken, options: &Options) -> Option<Broken> {
        let inner = match self.0 {
            Fault::ReopensEmpty => memory(options),
            _ => store.inner(),
        };
        let mut second = Broken::new(self.0, inner);
        second.read_only = self.0 == Fault::ReopensReadOnly;
        second.lock = Arc::clone(&store.lock);
        Some(second)
    }
}

fn memory(options: &Options) -> MemoryStore {
    let store = MemoryStore::new().clock(options.clock.clone()).max_state(options.max_state);
    options.keep.map_or(store.clone(), |keep| store.keep(keep.get()))
}

impl Broken {
    fn new(fault: Fault, inner: MemoryStore) -> Self {
        Self {
            fault,
            claims: inner.capabilities(),
            inner: Mutex::new(inner),
            busy: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            pruned: AtomicBool::new(false),
            lock: Arc::default(),
            read_only: false,
        }
    }

    fn inner(&self) -> MemoryStore {
        self.inner.lock().expect("no test panics while it holds the lock").clone()
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn key(&self, key: &CheckpointKey) -> CheckpointKey {
        match self.fault {
            Fault::ForgetsNamespaces => key.workflow_id.clone().into(),
            Fault::FoldsCase => {
                let id = WorkflowId::new(key.workflow_id.as_str().to_lowercase())
                    .expect("lower case of a name is one");
                CheckpointKey::new(id).in_namespace(key.namespace.clone())
            }
            _ => key.clone(),
        }
    }

    fn error(&self, error: StoreError, state: &[u8]) -> StoreError {
        match self.fault {
            Fault::AnonymousErrors => StoreError::new(error.kind().clone()),
            Fault::SaysRetryAlways if !matches!(error.kind(), StoreErrorKind::Held { .. }) => {
                StoreError::unavailable("no")
            }
            Fault::ShowsStates => error.with_source(String::from_utf8_lossy(state).into_owned()),
            _ => error,
        }
    }

    fn found(&self, mut found: Checkpoint) -> Checkpoint {
        match self.fault {
            Fault::RoundsFloats => found.metadata = rounded(found.metadata),
            Fault::SortsWritesByValue => {
                found.writes.sort_by(|a, b| b.value.as_ref().cmp(a.value.as_ref()));
            }
            Fault::PruneBreaksOthers if self.pruned.load(Ordering::SeqCst) => {
                found.state = Payload::default();
            }
            Fault::SharesMutableState => found.phase.push_str(&self.dirt()),
            _ => {}
        }
        found
    }

    /// What earlier readers have done to what is stored.
    fn dirt(&self) -> String {
        "!".repeat(self.calls.fetch_add(1, Ordering::SeqCst).min(1))
    }

    async fn before_put(&self, put: &mut Put) -> Result<(), StoreError> {
        let large = put.state.len() > 100_000;
        match self.fault {
            Fault::CutsLargeStates if large => put.state = put.state[..100_000].into(),
            Fault::CutsTimestamps => {
                let since =
                    put.timestamp.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
                put.timestamp = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
            }
            Fault::IgnoresParent => {
                put.parent = self.inner().latest(&put.key).await?.map(|head| head.sequence);
            }
            Fault::ChecksThenActs => self.check_then_act(put).await?,
            Fault::TakesAnyToken => put.token = None,
            Fault::RefusesRepeats => {
                put.write_id = buttress::checkpoint::WriteId::random();
            }
            Fault::BlocksItsThread if large => block(),
            Fault::Panics => panic!("broken"),
            _ => {}
        }
        Ok(())
    }

    /// The check and the write are not one transaction.
    async fn check_then_act(&self, put: &mut Put) -> Result<(), StoreError> {
        let head = self.inner().latest(&put.key).await?.map(|head| head.sequence);
        if head == put.parent {
            tokio::time::sleep(Duration::from_millis(1)).await;
            put.parent = self.inner().latest(&put.key).await?.map(|head| head.sequence);
        }
        Ok(())
    }

    async fn upsert(&self, put: Put) -> Result<u64, StoreError> {
        let all = self.inner().history(&put.key, Page::newest(1000)).await?;
        let answer = self.inner().put(put.clone()).await;
        match answer {
            Err(error) if error.is_conflict() => {
                let same = all.iter().find(|one| one.parent == put.parent);
                same.map(|one| one.sequence).ok_or(error)
            }
            answer => answer,
        }
    }

    async fn half_then_whole(&self, put: Put) -> Result<u64, StoreError> {
        let mut half = put.clone();
        half.state = put.state[..put.state.len() / 2].into();
        half.write_id = buttress::checkpoint::WriteId::random();
        let sequence = self.inner().put(half).await?;
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut whole = put;
        whole.parent = Some(sequence);
        self.inner().put(whole).await
    }

    async fn slowly(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _one = self.lock.lock().await;
        let time = if running > 1 { 6 } else { 1 };
        tokio::time::sleep(Duration::from_millis(time)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[expect(clippy::disallowed_methods, reason = "the fault is that it blocks")]
fn block() {
    std::thread::sleep(Duration::from_millis(40));
}

/// Keeps numbers as a store with short floats does.
fn rounded(metadata: Metadata) -> Metadata {
    let round = |value: serde_json::Value| match value {
        serde_json::Value::Array(values) => values.len().into(),
        value => value.as_f64().map_or(value, |float| (float * 1000.0).round().into()),
    };
    metadata.into_iter().map(|(name, value)| (name, round(value))).collect()
}

impl CheckpointStore for Broken {
    async fn put(&self, mut put: Put) -> Result<u64, StoreError> {
        if self.read_only {
            return Err(StoreError::setup("read-only").in_chain(&put.key));
        }
        let state = put.state.to_vec();
        put.key = self.key(&put.key);
        self.before_put(&mut put).await?;
        match self.fault {
            Fault::UpsertsByWriteId => return self.upsert(put).await,
            Fault::WritesHalfWhenDropped if put.state.len() > 1000 => {
                return self.half_then_whole(put).await;
            }
            Fault::StaysLockedWhenDropped => {
                if self.busy.swap(true, Ordering::SeqCst) {
                    return Err(StoreError::unavailable("busy").in_chain(&put.key));
                }
                tokio::task::yield_now().await;
                let answer = self.inner().put(put).await;
                self.busy.store(false, Ordering::SeqCst);
                return answer;
            }
            Fault::OneAtATimeSlowly => self.slowly().await,
            Fault::ReadersWaitForWriters if put.state.len() > 100_000 => {
                let _writer = self.lock.lock().await;
                tokio::time::sleep(Duration::from_millis(900)).await;
                return self.inner().put(put).await;
            }
            _ => {}
        }
        let key = put.key.clone();
        let writes = match self.inner().latest(&key).await? {
            Some(head) if self.is(Fault::MovesWritesOn) => head.writes,
            _ => Vec::new(),
        };
        let token = put.token;
        let sequence = self.inner().put(put).await.map_err(|error| self.error(error, &state))?;
        let mut moved = PutWrites::new(key, sequence, writes);
        moved.token = token;
        self.inner().put_writes(moved).await?;
        Ok(sequence + u64::from(self.is(Fault::AnswersOneTooMuch)))
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        if self.is(Fault::ReadersWaitForWriters) {
            drop(self.lock.lock().await);
        }
        let key = self.key(key);
        let mut found = self.inner().latest(&key).await?;
        if self.is(Fault::MakesChainsByReading) && found.is_none() {
            self.inner().put(Put::new(key, None, Vec::new())).await?;
            return Ok(None);
        }
        if self.is(Fault::PruneTakesHead) && self.pruned.swap(false, Ordering::SeqCst) {
            return Ok(None);
        }
        if self.is(Fault::OrdersByTimestamp) {
            let all = self.inner().history(&key, Page::newest(1000)).await?;
            found = all.into_iter().max_by_key(|found| found.timestamp);
        }
        if let (Fault::LatestIsOneBehind, Some(parent)) =
            (self.fault, found.as_ref().and_then(|head| head.parent))
        {
            found = self.inner().get(&key, parent).await?;
        }
        Ok(found.map(|found| self.found(found)))
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        if self.is(Fault::FindsTheHeadOnly) {
            return self.latest(key).await;
        }
        let found = self.inner().get(&self.key(key), sequence).await?;
        Ok(found.map(|found| self.found(found)))
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        mut page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        if self.is(Fault::PagesInclusively) {
            page.before = page.before.map(|before| before + 1);
        }
        let found = self.inner().history(&self.key(key), page).await?;
        Ok(found.into_iter().map(|found| self.found(found)).collect())
    }

    async fn list(&self, mut query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        if self.is(Fault::ListsWithoutMetadata) {
            query.metadata = Metadata::new();
        }
        if self.is(Fault::ListsByAge) {
            let (after, limit) = (query.after.take(), query.limit);
            query.limit = usize::MAX;
            let mut all = self.inner().list(query).await?;
            all.sort_by_key(|head| head.timestamp);
            let from = after.and_then(|key| all.iter().position(|head| head.key == key));
            return Ok(all
                .split_off(from.map_or(0, |at| at + 1))
                .into_iter()
                .take(limit)
                .collect());
        }
        let mut found = self.inner().list(query).await?;
        if self.is(Fault::ListsWithoutWrites) {
            found.iter_mut().for_each(|head| head.writes.clear());
        }
        Ok(found)
    }

    async fn put_writes(&self, mut writes: PutWrites) -> Result<(), StoreError> {
        let value = writes.writes.first().map(|write| write.value.to_vec()).unwrap_or_default();
        writes.key = self.key(&writes.key);
        match self.fault {
            Fault::TakesAnyToken => writes.token = None,
            Fault::LosesEighthWrite if self.calls.fetch_add(1, Ordering::SeqCst) % 8 == 7 => {
                return Ok(());
            }
            Fault::ForgetsKinds => {
                writes.writes.iter_mut().for_each(|write| write.kind = WriteKind::Result);
            }
            Fault::FirstOfAllKindsStands | Fault::LastResultStands => {
                let Some(head) = self.inner().latest(&writes.key).await? else { return Ok(()) };
                let first = self.is(Fault::FirstOfAllKindsStands);
                let same = |a: &buttress::checkpoint::TaskWrite| {
                    let there = |b: &buttress::checkpoint::TaskWrite| {
                        (&a.task, a.kind, a.index) == (&b.task, b.kind, b.index)
                    };
                    head.writes.iter().any(there)
                };
                if first {
                    writes.writes.retain(|write| !same(write));
                } else if writes.writes.iter().any(same) {
                    return Err(StoreError::conflict(None, None).in_chain(&writes.key));
                }
            }
            _ => {}
        }
        let answer = self.inner().put_writes(writes).await;
        match answer {
            Err(error) if self.is(Fault::TakesWritesToNothing) && error.is_not_found() => Ok(()),
            answer => answer.map_err(|error| self.error(error, &value)),
        }
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let key = self.key(key);
        let time = match self.fault {
            Fault::NeverFreesLeases => Duration::from_secs(1_000_000),
            Fault::TakesNoTokenAlways => Duration::ZERO,
            _ => time,
        };
        let answer = self.inner().acquire(&key, owner, time).await;
        let early = self.is(Fault::FreesLeasesEarly)
            && answer.is_err()
            && self.calls.fetch_add(1, Ordering::SeqCst) % 2 == 1;
        match answer {
            Err(error) => match error.kind() {
                StoreErrorKind::Held { owner: holder, .. } if early => {
                    self.inner().acquire(&key, &holder.clone(), Duration::ZERO).await
                }
                _ => Err(self.error(error, b"")),
            },
            answer => answer,
        }
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        if self.is(Fault::RenewsNothing) {
            return Ok(lease.clone());
        }
        self.inner().renew(lease, time).await.map_err(|error| self.error(error, b""))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.inner().release(lease).await.map_err(|error| self.error(error, b""))
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let inner = self.inner();
        let all = inner.list(Query::first(1000)).await?;
        match self.fault {
            Fault::DeletesByPrefix => {
                for head in all {
                    if head.key.workflow_id.as_str().starts_with(id.as_str()) {
                        inner.delete(&head.key.workflow_id, lease).await?;
                    }
                }
            }
            Fault::DeletesRootOnly => {
                let child =
                    all.iter().any(|h| h.key.workflow_id == *id && !h.key.namespace.is_root());
                if child {
                    return Ok(());
                }
            }
            Fault::ForgetsTokensAtDelete | Fault::StartsAnew if !all.is_empty() => {
                inner.delete(id, lease).await?;
                *self.inner.lock().expect("no test panics while it holds the lock") =
                    MemoryStore::new();
                return Ok(());
            }
            _ => {}
        }
        inner.delete(id, lease).await.map_err(|error| self.error(error, b""))
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        self.pruned.store(true, Ordering::SeqCst);
        let keep = match (self.fault, NonZeroU32::new(keep.get() - 1)) {
            (Fault::PrunesOneTooMany, Some(fewer)) => fewer,
            _ => keep,
        };
        self.inner().prune(&self.key(key), keep).await
    }

    fn capabilities(&self) -> Capabilities {
        self.claims
    }
}
